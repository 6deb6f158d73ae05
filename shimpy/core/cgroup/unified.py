"""A cgroup of version 2, as one thing that can be killed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from shimpy.core.cgroup.hierarchies import read, write
from shimpy.core.cgroup.kernfs import FileWatch, flat
from shimpy.core.cgroup.tree import Tree


class UnifiedTree(Tree):
    """A tree of version 2's hierarchy: Documentation/admin-guide/cgroup-v2.rst of the kernel."""

    _prefix = ""

    def populated(self) -> bool:
        """Returns whether there is any process in the tree that is not a zombie."""
        return flat(read(self._file("cgroup.events"))).get("populated", 0) == 1

    def frozen(self) -> bool:
        """Returns whether the tree is frozen, or about to be."""
        return read(self._file("cgroup.freeze")).strip() == "1"

    def _usable(self) -> bool:
        return read(self._file("cgroup.type")).strip() == "domain"

    def _freeze(self) -> None:
        write(self._file("cgroup.freeze"), "1")

    def _thaw(self) -> None:
        write(self._file("cgroup.freeze"), "0")

    async def _signal_all(self, dying: list[int]) -> bool:
        if not self.populated():
            return False
        # Reaches what is frozen, and what is being forked. Linux 5.14; a threaded cgroup refuses.
        with suppress(OSError):
            if write(self._file("cgroup.kill"), "1"):
                return True
        await super()._signal_all(dying)
        return True

    async def _wait_empty(self, dying: list[int], seconds: float) -> None:
        empty = asyncio.Event()

        def changed() -> None:
            if not flat(watch.read()).get("populated"):
                empty.set()

        try:
            watch = FileWatch(self._file("cgroup.events"), changed)
        except FileNotFoundError:
            return
        try:
            changed()
            async with asyncio.timeout(seconds):
                await empty.wait()
        except TimeoutError:
            pass
        finally:
            watch.close()
