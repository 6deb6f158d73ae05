"""Control groups, version 1 and 2 behind one interface: kill a whole tree, hear of the OOM killer."""

from shimpy.core.cgroup.cgroup import Cgroup, inode
from shimpy.core.cgroup.cleanup import Leftovers, leftover_paths
from shimpy.core.cgroup.oom import OomWatch
from shimpy.core.cgroup.pids import PidsUsage, pids_usage
from shimpy.core.cgroup.tree import Tree

__all__ = ["Cgroup", "Leftovers", "OomWatch", "PidsUsage", "Tree", "inode", "leftover_paths", "pids_usage"]
