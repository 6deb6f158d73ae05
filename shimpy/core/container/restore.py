"""The restore of a container from a checkpoint, in place of its start."""

from __future__ import annotations

from collections.abc import Callable

from shimpy.core.cgroup import Cgroup
from shimpy.core.container.create import Create
from shimpy.core.container.process import Process


class Restore:
    """Brings the processes of a checkpoint back, whole or not at all; it can be tried once.

    Until then the container has no process and nothing of the runtime's, as with containerd's own shim. One
    that cannot be restored is stopped, with an exit status of 255: there is nothing else to be done with it
    but to delete it.

    Args:
        create: makes the container by the runtime's command for that.
        init: its first process.
        restored: called with the container's cgroup once it is there.

    Attributes:
        begun: whether its processes run, or have run.
    """

    def __init__(self, create: Create, init: Process, restored: Callable[[Cgroup], None]) -> None:
        self.begun = False
        self._create = create
        self._init = init
        self._restored = restored

    async def run(self) -> None:
        """Restores it.

        Raises:
            ShimError: the runtime refused.
        """
        try:
            cgroup = await self._create.run(self._init)
        except BaseException:
            self._init.mark_start_failed()
            raise
        self.begun = True
        self._restored(cgroup)
