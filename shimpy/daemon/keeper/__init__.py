"""The keeper: a small process that starts a shim anew when it dies, and holds its file descriptors meanwhile.

It is what the user has started (`python -m shimpy --supervise`), the shim's parent and a child subreaper, so
that what the shim has started is its own when the shim dies. It speaks with the shim as a service manager
with a file descriptor store does (sd_notify(3)), and knows nothing of containers.
"""
