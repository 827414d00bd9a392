"""The contract of SocAdapter: every type that crosses a process, a file or the Kubernetes API.

Pure models and functions: no input or output, no clock, no torch, ray or Kubernetes client. The other
packages import from the modules here; nothing here imports from them.
"""

API_GROUP = "socadapter.io"
API_VERSION = "socadapter.io/v1alpha1"
