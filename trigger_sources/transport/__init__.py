"""The HTTP client of the dispatcher, and the policy for the addresses that it connects to."""
