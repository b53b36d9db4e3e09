"""The delivery core: lanes, attempts, retries, settling, and the flow that pulls from a source."""
