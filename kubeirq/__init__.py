"""The command line, and the fabric on one machine."""
