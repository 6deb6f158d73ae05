"""Who waits for which child process, and for what they leave behind."""

from .descent import children, command_line, process_name
from .reaper import LOST_STATUS, Child, Reaper

__all__ = ["LOST_STATUS", "Child", "Reaper", "children", "command_line", "process_name"]
