"""The API server as the controllers use it: client, watches, work queue, owned objects, Leases, Events."""
