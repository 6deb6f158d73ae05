"""The root filesystem of a container: the mounts that make it, made and undone."""
