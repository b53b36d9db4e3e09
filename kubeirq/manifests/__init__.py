"""Manifests: reads resources from YAML files and finds every problem, with its file, line and field."""
