"""One container: its states, its processes and the order of its events."""
