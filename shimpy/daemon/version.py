"""Which version this is, as the package that is installed has it."""

from __future__ import annotations


def version() -> str:
    """Returns the version of shimpy, empty if it is not installed but run from its sources."""
    # Finding it out takes a tenth of a start, so only who asks pays for it.
    from importlib import metadata

    try:
        return metadata.version("shimpy")
    except metadata.PackageNotFoundError:
        return ""
