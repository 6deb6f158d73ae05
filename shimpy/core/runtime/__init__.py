"""The OCI runtime: its commands, and all that goes wrong with them."""

from shimpy.core.runtime.runc import Runc, Runtime, find_runtime

__all__ = ["Runc", "Runtime", "find_runtime"]
