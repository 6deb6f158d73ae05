"""Reaps children: those tracked by pid, and orphans."""

from shimpy.core.reaper.child import LOST_STATUS, Child
from shimpy.core.reaper.procfs import children, is_dead, is_dying
from shimpy.core.reaper.reaper import Reaper

__all__ = ["LOST_STATUS", "Child", "Reaper", "children", "is_dead", "is_dying"]
