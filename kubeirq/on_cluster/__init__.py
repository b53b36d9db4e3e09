"""The command line's side of a cluster: what is sent there, and what is asked there."""
