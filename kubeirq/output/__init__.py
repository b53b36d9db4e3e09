"""How the command line writes what it found, for people and for programs."""
