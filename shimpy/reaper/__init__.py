"""Who waits for which child process, and for what they leave behind."""

from .descent import children, is_dead, is_dying
from .reaper import Reaper
from .tracking import LOST_STATUS, Child

__all__ = ["LOST_STATUS", "Child", "Reaper", "children", "is_dead", "is_dying"]
