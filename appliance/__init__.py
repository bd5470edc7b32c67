"""What runs on the line. Never imports torch, models/ or calibration/.

Importing it keeps the libraries from reporting their use: a line box reports nothing to anybody.
"""

import os

# ONNX Runtime from 1.31 on keeps a device id and a database of events below the user's cache
# directory and sends them to its maker, from the moment of its import. Its own function for
# switching that off comes too late: both files are there by then.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
