"""The OCI runtime: its commands, and all that goes wrong with them."""

from shimpy.core.runtime.runc import Runc, find_runtime
from shimpy.core.runtime.runtime import Runtime

__all__ = ["Runc", "Runtime", "find_runtime"]
