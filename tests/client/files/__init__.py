"""Copies to and from containers."""
