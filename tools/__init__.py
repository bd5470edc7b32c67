"""The desk: demo, bench, PLC simulator, chaos. May import every other room."""

import appliance as appliance  # before any runtime: it keeps them from reporting their use
