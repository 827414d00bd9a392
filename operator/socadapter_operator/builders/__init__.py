"""Kubernetes manifests as plain dicts: pure functions of resources, with no client, no clock and no environment."""
