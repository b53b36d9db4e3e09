"""The front door for people: the command line, and the fabric on one machine."""
