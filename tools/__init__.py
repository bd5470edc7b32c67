"""The desk: demo, bench, PLC simulator, chaos. May import every other room."""
