"""The hooks of one container: asked before it is created and its processes are started, told afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shimpy.core.hooks.hook_set import HookRunner, HookSet
from shimpy.core.hooks.interface import HookContainer, HookCreate, HookExec, HookProcess, Tee
from shimpy.core.hooks.process_spec import changed_process, process_record
from shimpy.core.hooks.tap import TeeTap
from shimpy.core.model import ContainerEvent, EventKind
from shimpy.core.runtime.bundle import Bundle, check_spec
from shimpy.errors import CanceledError, InternalError, InvalidArgumentError, ShimError

# What a slow hook has not been told of one container; the worst burst is as for `events.BACKLOG`.
_MAX_UNTOLD = 4096

_CONTAINER_EVENTS = {
    EventKind.OOM: "oom",
    EventKind.PAUSED: "paused",
    EventKind.RESUMED: "resumed",
    EventKind.DELETE: "deleted",
}


_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Hooked:
    """What hooks know of a process.

    Attributes:
        process: it, as they were told last.
        tap: takes its output, if one of them wants it.
    """

    process: HookProcess
    tap: TeeTap | None = None


class ContainerHooks:
    """Asks and tells the hooks of one container.

    What they are told they hear in order, and nothing waits until they have.

    Args:
        hook_set: the hooks.
        container_id: the container.
        namespace: containerd's.
        bundle: what it is made from.
    """

    def __init__(self, hook_set: HookSet, container_id: str, namespace: str, bundle: Bundle) -> None:
        self._hook_set = hook_set
        annotations = bundle.spec.get("annotations")
        texts = annotations.items() if isinstance(annotations, dict) else ()
        self._container = HookContainer(
            container_id, namespace, bundle.path, {str(key): str(value) for key, value in texts}
        )
        self._lines = [(runner, _TellQueue(hook_set, runner)) for runner in hook_set.runners]

    async def create(self, bundle: Bundle) -> tuple[Mapping[str, Any], Hooked]:
        """Asks whether the container may be created, and as what.

        Args:
            bundle: as its client has it.

        Returns:
            The content of its config.json, and what hooks know of its first process.

        Raises:
            ShimError: it was refused.
        """
        asked = HookCreate(self._container, secrets.token_hex(8), bundle.spec)
        record = self._record(bundle.process, asked.process_id, "", is_exec=False)
        try:
            spec: Mapping[str, Any] = bundle.spec
            for runner in self._hook_set.runners:
                if runner.has("before_create"):
                    spec = await _ask_create(runner, self._container, asked.process_id, bundle, spec)
            record = self._record(spec["process"], asked.process_id, "", is_exec=False)
            return spec, Hooked(record, await self._tee(record))
        except (ShimError, asyncio.CancelledError) as error:
            self.failed(Hooked(record), error)
            raise

    async def exec(self, spec: Mapping[str, Any], exec_id: str) -> tuple[Mapping[str, Any], Hooked]:
        """Asks whether a process may be started, and as what.

        Args:
            spec: the `process` object of the OCI runtime-spec.
            exec_id: its name, if it has one already.

        Returns:
            What to start, and what hooks know of it.

        Raises:
            ShimError: it was refused.
        """
        process_id = secrets.token_hex(8)
        record = self._record(spec, process_id, exec_id, is_exec=True)
        try:
            for runner in self._hook_set.runners:
                if runner.has("before_exec"):
                    spec = await _ask_exec(runner, record, spec)
                    record = self._record(spec, process_id, exec_id, is_exec=True)
            return spec, Hooked(record, await self._tee(record))
        except (ShimError, asyncio.CancelledError) as error:
            self.failed(Hooked(record), error)
            raise

    def requested(self, hooked: Hooked) -> None:
        """Notes that an exec that was registered before is to be started."""
        hooked.process = dataclasses.replace(hooked.process, requested_at=time.time())

    def failed(self, hooked: Hooked, error: BaseException) -> None:
        """Tells that a process will never run.

        Args:
            hooked: what hooks know of it.
            error: why.
        """
        if hooked.tap is not None:
            hooked.tap.end()
        if not isinstance(error, ShimError):
            error = CanceledError("it was called off")
        self._tell("failed", hooked.process, error)

    def tell(self, event: ContainerEvent, hooked: Hooked | None) -> None:
        """Tells what has been published.

        Args:
            event: it.
            hooked: what hooks know of the process.
        """
        if (method := _CONTAINER_EVENTS.get(event.kind)) is not None:
            self._tell(method, self._container)
            return
        if hooked is None:
            return
        at = event.time / 1e9
        known = dataclasses.replace(hooked.process, pid=event.pid, exec_id=event.exec_id)
        match event.kind:
            case EventKind.START | EventKind.EXEC_STARTED:
                hooked.process = dataclasses.replace(known, started_at=at)
                self._tell("started", hooked.process)
            case EventKind.EXIT:
                hooked.process = dataclasses.replace(known, exited_at=at, exit_status=event.exit_status)
                self._tell("exited", hooked.process)

    def _tell(self, method: str, *arguments: object) -> None:
        for runner, line in self._lines:
            if runner.has(method):
                line.put(method, arguments)

    def _record(
        self, spec: Mapping[str, Any], process_id: str, exec_id: str, *, is_exec: bool
    ) -> HookProcess:
        record = process_record(spec, self._container, process_id, exec_id, is_exec=is_exec)
        return dataclasses.replace(record, requested_at=time.time())

    async def _tee(self, record: HookProcess) -> TeeTap | None:
        tees = []
        for runner in self._hook_set.runners:
            if runner.has("tee"):
                tee = await runner.ask("tee", record)
                if isinstance(tee, Tee):
                    tees.append((runner, tee))
                elif tee is not None:
                    _complain_of(runner, "tee", tee, "a Tee")
        return TeeTap(self._hook_set, tees, record.id) if tees else None


class _TellQueue:
    """What one object with hooks is told of one container, in order."""

    def __init__(self, hook_set: HookSet, runner: HookRunner) -> None:
        self._hook_set = hook_set
        self._runner = runner
        self._name = f"hooks of {type(runner.hooks).__name__}"
        self._calls: deque[tuple[str, tuple[object, ...]]] = deque()
        self._is_full = False
        self._telling: asyncio.Task[None] | None = None

    def put(self, method: str, arguments: tuple[object, ...]) -> None:
        if len(self._calls) >= _MAX_UNTOLD:
            if not self._is_full:
                _log.warning(
                    "%s have not been told %d things; what follows is dropped", self._name, _MAX_UNTOLD
                )
            self._is_full = True
            return
        self._is_full = False
        self._calls.append((method, arguments))
        if self._telling is None or self._telling.done():
            self._telling = self._hook_set.begin(self._tell_all())

    async def _tell_all(self) -> None:
        while self._calls:
            method, arguments = self._calls.popleft()
            await self._runner.tell(method, *arguments)


async def _ask_create(
    runner: HookRunner, container: HookContainer, process_id: str, bundle: Bundle, spec: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Returns what one hook makes of the content of a config.json."""
    # A copy of its own: what it does to it before it fails, or after it has returned, is not run.
    asked = HookCreate(container, process_id, json.loads(json.dumps(spec)))
    answer = await runner.ask("before_create", asked)
    changed = asked if answer is None else answer
    if not isinstance(changed, HookCreate):
        _complain_of(runner, "before_create", answer, "a HookCreate")
        return spec
    try:
        checked = check_spec(json.loads(json.dumps(changed.spec, allow_nan=False)), bundle.path)
        if bool(checked["process"].get("terminal")) != bool(spec["process"].get("terminal")):
            raise ValueError("process.terminal cannot be changed")  # noqa: TRY301 - like the others
    except (TypeError, ValueError, RecursionError, InvalidArgumentError) as error:
        runner.complain(
            InternalError(f"{runner.name('before_create')} left a spec that cannot be run: {error}")
        )
        return spec
    return checked


async def _ask_exec(runner: HookRunner, record: HookProcess, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what one hook makes of a process."""
    asked = HookExec(
        record.container,
        record.id,
        record.exec_id,
        list(record.args),
        list(record.env),
        record.cwd,
        record.user,
        record.terminal,
    )
    answer = await runner.ask("before_exec", asked)
    changed = asked if answer is None else answer
    if not isinstance(changed, HookExec):
        _complain_of(runner, "before_exec", answer, "a HookExec")
        return spec
    try:
        return changed_process(spec, record, changed)
    except (TypeError, InvalidArgumentError) as error:
        runner.complain(
            InternalError(f"{runner.name('before_exec')} left a process that cannot be run: {error}")
        )
        return spec


def _complain_of(runner: HookRunner, method: str, answer: object, wanted: str) -> None:
    runner.complain(
        InternalError(f"{runner.name(method)} returned {answer!r:.64}, which is neither {wanted} nor None")
    )
