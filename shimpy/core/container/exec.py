"""The start of one more process in a container, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shimpy.core.cgroup import Cgroup, pids_usage
from shimpy.core.container.operation import undo
from shimpy.core.container.process import Process
from shimpy.core.reaper import Reaper, children, is_dead, is_dying
from shimpy.core.runtime import Runtime
from shimpy.core.runtime.bundle import Bundle
from shimpy.errors import FailedPreconditionError, InternalError, ResourceExhaustedError

# Processes and threads that a runtime has in the container while it starts a process there, at most.
RUNTIME_TASKS = 16


class Exec:
    """One try to start a process in a container.

    Args:
        container_id: the container.
        bundle: what it is made from.
        init_pid: its init.
        cgroup: its cgroup.
        runtime: whose command starts the process.
        reaper: who waits for it.
    """

    def __init__(
        self,
        container_id: str,
        bundle: Bundle,
        init_pid: int,
        cgroup: Cgroup,
        runtime: Runtime,
        reaper: Reaper,
    ) -> None:
        self._id = container_id
        self._bundle = bundle
        self._init_pid = init_pid
        self._cgroup = cgroup
        self._runtime = runtime
        self._reaper = reaper

    async def run(self, process: Process, spec: Mapping[str, Any]) -> None:
        """Starts it.

        Args:
            process: what it is to be.
            spec: the `process` object of the OCI runtime-spec.

        Raises:
            ShimError: the runtime refused, or did not do what it said.
        """
        cgroup = process.cgroup
        await process.io.prepare()
        try:
            with self._reaper.spawning():
                pid = await self._runtime.exec(
                    self._id,
                    spec,
                    process.io.fds,
                    console_socket=process.io.console_socket,
                    extra=() if cgroup is None else cgroup.runtime_args,
                    sets_oom_score=self._bundle.sets_oom_score,
                )
                process.track(self._reaper, pid)
            await process.io.attach()
        except BaseException as error:
            await undo(self._undo(process))
            # The runtime, killed in there with everything else, only knows that it has failed. The
            # kernel takes init's memory before it kills the rest, and tells us of its death last.
            if isinstance(error, InternalError) and is_dying(self._init_pid):
                raise FailedPreconditionError(f"exec: container {self._id} has stopped: {error}") from error
            if isinstance(error, (InternalError, ResourceExhaustedError)) and (full := self._full()):
                raise ResourceExhaustedError(f"{full}: {error}") from error
            raise

    async def _undo(self, process: Process) -> None:
        try:
            await process.kill()
            await process.io.finish()
        finally:
            process.release()
        # What it was about to tell us of is a zombie of ours now.
        self._reaper.claim(self._cgroup.had, watch=False)()

    def _full(self) -> str:
        """Says that the container may have no more processes, if so.

        That is how the runtime fails of it in there, at random and with words of something else.
        """
        usage = pids_usage(self._init_pid)
        if usage is None or usage.current + RUNTIME_TASKS <= usage.limit:
            return ""
        zombies = sum(map(is_dead, children(self._init_pid)))
        return (
            f"exec: container {self._id} has {usage.current} of the {usage.limit} processes and threads "
            "of its pids.limit, and the runtime needs some to start another"
            + (f"; {zombies} are zombies that its init does not reap" if zombies else "")
        )
