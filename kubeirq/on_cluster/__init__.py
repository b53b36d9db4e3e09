"""The command line's client of a cluster: it sends resources there, and reads their state, logs and dead letters."""
