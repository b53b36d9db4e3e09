"""The fabric on one machine: functions as processes, embedded brokers, and the client of a running fabric."""
