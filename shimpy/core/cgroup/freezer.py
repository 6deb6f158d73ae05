"""A cgroup of version 1's freezer hierarchy, as one thing that can be killed."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from shimpy.core.cgroup.hierarchies import listed, read, write
from shimpy.core.cgroup.tree import Tree
from shimpy.core.cgroup.walk import walk


class FreezerTree(Tree):
    """A tree of version 1's freezer hierarchy.

    See Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst of the kernel.
    """

    _prefix = "freezer:"  # in the other hierarchies the exec stays where the container is

    def frozen(self) -> bool:
        """Returns whether the tree is frozen, or about to be."""
        return read(self._file("freezer.state"), at_once=True).strip() in ("FREEZING", "FROZEN")

    def _freeze(self) -> None:
        write(self._file("freezer.state"), "FROZEN")

    def _stopped(self) -> bool:
        return read(self._file("freezer.state"), at_once=True).strip() != "FREEZING"

    def _thaw(self) -> None:
        write(self._file("freezer.state"), "THAWED")

    def _thaw_below(self, cgroup: int) -> None:
        write("freezer.state", "THAWED", dir_fd=cgroup)

    async def _release(self, struck: set[int]) -> None:
        # A frozen task of version 1 does not see SIGKILL. It cannot be thawed alone while a cgroup
        # above is frozen, but moving it out thaws it: it dies of the signal that waits for it
        # before it gets back to its own code. Frozen, it cannot exit and leave its pid to another.
        if not self._escape_cgroup or not self._frozen_from_above():
            return
        for cgroup in walk(self.path):
            await asyncio.sleep(0)
            for pid in struck.intersection(listed(cgroup)):
                if self._frozen_from_above() and pid in listed(cgroup):
                    with suppress(ProcessLookupError):
                        write(os.path.join(self._escape_cgroup, "cgroup.procs"), str(pid))
                await asyncio.sleep(0)

    def _frozen_from_above(self) -> bool:
        return read(self._file("freezer.parent_freezing"), at_once=True).strip() == "1"
