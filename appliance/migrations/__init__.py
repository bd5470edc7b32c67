"""Steps of `parts.db` from version to version, forward and back; run by store.py at start."""
