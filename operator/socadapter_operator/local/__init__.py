"""The planner driven on one machine, with files in place of a Kubernetes API."""
