"""The HTTP client of the dispatcher, and the addresses that it may connect to."""
