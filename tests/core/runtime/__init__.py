"""The runtime and its commands, without a service."""
