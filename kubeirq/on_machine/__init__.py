"""The fabric on one machine: functions run as processes, with embedded brokers. Also the client of such a fabric."""
