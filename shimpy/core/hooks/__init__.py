"""What people program a shim with: called before, after and while things happen to its containers."""
