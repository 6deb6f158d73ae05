"""Hooks that come along: an audit log, a recorder of terminals, a policy, and metrics.

They use what `shimpy` offers to everyone, and nothing else.
"""
