"""A container runtime shim: containerd's first shim API, served over a runc-compatible runtime."""
