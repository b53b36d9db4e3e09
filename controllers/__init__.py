"""The control plane. Everything that knows Kubernetes' client and kopf lives here, and nothing else does."""
