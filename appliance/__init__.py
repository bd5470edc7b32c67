"""What runs on the line. Never imports torch, models/ or calibration/."""
