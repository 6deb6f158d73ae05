"""The transport alone, before a service that does as it is told."""
