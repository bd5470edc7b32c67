"""Networks, training, export and evaluation: the only rooms with torch.

May import `appliance`; `appliance` never imports this package.
"""

import appliance as appliance  # before any runtime: it keeps them from reporting their use
