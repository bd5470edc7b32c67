"""What holds for every test: an example that takes long on a loaded machine is no failure."""

from hypothesis import settings

# Hypothesis fails an example after 200 ms of wall time otherwise.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
