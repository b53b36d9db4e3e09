"""The fabric's own stores, for the events and states that no broker of a trigger keeps."""
