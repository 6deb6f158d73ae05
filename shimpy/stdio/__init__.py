"""What a process reads and writes: FIFOs, files, devices and terminals."""

from .fifo import StdioHub
from .owner import Owner, owner_of
from .processio import ProcessIO, open_stdio
from .terminal import check_window

__all__ = ["Owner", "ProcessIO", "StdioHub", "check_window", "open_stdio", "owner_of"]
