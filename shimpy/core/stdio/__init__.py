"""What a process reads and writes: FIFOs, files, devices and terminals."""

from shimpy.core.stdio.fifo import StdioHub
from shimpy.core.stdio.owner import Owner, owner_of
from shimpy.core.stdio.processio import ProcessIO, open_stdio
from shimpy.core.stdio.terminal import check_window

__all__ = ["Owner", "ProcessIO", "StdioHub", "check_window", "open_stdio", "owner_of"]
