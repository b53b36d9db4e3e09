"""Access to the API server: client, watches, informer cache, work queue, owned objects, Leases, Events."""
