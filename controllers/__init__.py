"""The control plane: the controllers of Functions and triggers on Kubernetes."""
