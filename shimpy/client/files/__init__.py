"""Files and folders into a container and out of it, as tar streams.

Nothing is run in the container, and none of its paths is ever resolved as one of the host's: each is opened
below the root directory of its init, which a link cannot lead out of (openat2(2), RESOLVE_IN_ROOT). What a
path names is opened without effect first (O_PATH), so that no device and no FIFO of the container's is.
"""
