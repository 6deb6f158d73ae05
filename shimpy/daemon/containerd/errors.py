"""What can go wrong with a command of containerd's; containerd shows the message to its client."""

from __future__ import annotations


class CommandError(Exception):
    """The command could not be carried out."""


class UsageError(CommandError):
    """The command line is not understood."""


class MalformedError(CommandError):
    """What was sent along is not understood."""
