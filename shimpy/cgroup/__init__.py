"""Control groups, version 1 and 2 behind one interface: kill a whole tree, hear of the OOM killer."""

from shimpy.cgroup.handle import Cgroup
from shimpy.cgroup.leftovers import Leftovers, leftover_paths
from shimpy.cgroup.oom import OomWatch
from shimpy.cgroup.pids import PidsUsage, pids_usage
from shimpy.cgroup.tree import Tree

__all__ = ["Cgroup", "Leftovers", "OomWatch", "PidsUsage", "Tree", "leftover_paths", "pids_usage"]
