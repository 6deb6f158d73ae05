"""Who waits for which child process, and for what they leave behind."""

from .descent import command_line, process_name
from .reaper import LOST_STATUS, Child, Reaper

__all__ = ["LOST_STATUS", "Child", "Reaper", "command_line", "process_name"]
