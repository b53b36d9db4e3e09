"""Where the fabric keeps the events and states that no broker of a trigger keeps."""
