"""The pause and the resume of a container, each whole or not at all."""

from __future__ import annotations

import asyncio

from shimpy.core.cgroup import Cgroup
from shimpy.core.runtime import Runtime


class Pause:
    """Freezes and thaws all that runs in a container.

    Args:
        container_id: the container.
        cgroup: its cgroup, which tells what is so whatever the runtime says.
        runtime: whose commands do it.
    """

    def __init__(self, container_id: str, cgroup: Cgroup, runtime: Runtime) -> None:
        self._id = container_id
        self._cgroup = cgroup
        self._runtime = runtime

    @property
    def thawed(self) -> bool:
        """Whether it is certain that the container is not frozen."""
        try:
            return self._cgroup.killable and not self._cgroup.frozen()
        except OSError:
            return False

    async def pause(self) -> None:
        """Freezes every process; when this raises, none is frozen.

        Raises:
            ShimError: the runtime refused.
        """
        try:
            await self._runtime.pause(self._id)
        except BaseException:
            # A half frozen container would look RUNNING and answer nothing.
            self._cgroup.thaw()
            raise

    async def resume(self) -> None:
        """Thaws them; when this raises, `thawed` says whether it had an effect all the same.

        Called off too late, it completes.

        Raises:
            ShimError: the runtime refused.
        """
        try:
            await self._runtime.resume(self._id)
        except asyncio.CancelledError:
            if not self.thawed:
                raise
