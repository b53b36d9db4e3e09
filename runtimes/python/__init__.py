"""The Python runtime. `server.py` starts it from this folder or from a copy of it."""
