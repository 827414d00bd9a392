"""The rim to the Kubernetes API: a client, the Lease by which one operator leads, and the recorder of events."""
