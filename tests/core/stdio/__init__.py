"""The file descriptors and the terminals of processes, without a runtime."""
