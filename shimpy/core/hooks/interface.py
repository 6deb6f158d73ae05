"""The interface of hooks: a subclass overrides what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shimpy.core.model import User
from shimpy.errors import ShimError


@dataclass(frozen=True, slots=True)
class HookContainer:
    """A container, as hooks see it.

    Attributes:
        id: the container's id.
        namespace: containerd's namespace; "" where there is none.
        bundle: the absolute path of its bundle, as its client named it.
        annotations: of its configuration. Under Kubernetes they name the pod, such as
            `io.kubernetes.cri.sandbox-namespace`.
    """

    id: str
    namespace: str
    bundle: str
    annotations: Mapping[str, str]


class HookCreate:
    """A container that is about to be created.

    Attributes:
        container: which.
        process_id: the id that hooks know its first process by; see `HookProcess`.
        spec: the content of its config.json (OCI runtime-spec, config.md), the hook's own to change. What it
            is when the hook returns is what is run. `process.terminal` cannot be changed: the client has
            prepared for it.
    """

    def __init__(self, container: HookContainer, process_id: str, spec: Mapping[str, object]) -> None:
        self.container = container
        self.process_id = process_id
        self.spec: dict[str, Any] = dict(spec)


@dataclass(slots=True)
class HookExec:
    """A process that is about to be started in a container.

    Args, env, cwd and user may be changed, and are run as they are when the hook returns. The rest is told.

    Attributes:
        container: in which container.
        process_id: the id that hooks know it by; see `HookProcess`.
        exec_id: its name in the container; "" where it is named after its pid, which it does not have yet.
        args: the program and its arguments.
        env: the whole environment as `NAME=value`.
        cwd: the directory that it starts in.
        user: whom it runs as, inside the container.
        terminal: whether it gets a terminal.
    """

    container: HookContainer
    process_id: str
    exec_id: str
    args: list[str]
    env: list[str]
    cwd: str
    user: User
    terminal: bool


@dataclass(frozen=True, slots=True)
class HookProcess:
    """A process of a container; times are in seconds since the epoch, and 0 while they have not come.

    Attributes:
        container: its container.
        id: names it among all processes of all shims, and is the same in every call about it.
        is_exec: False of a container's first process.
        exec_id: its name in the container; "" of the first process, and until an exec is named.
        args: the program and its arguments.
        env: the whole environment as `NAME=value`.
        cwd: the directory that it starts in.
        user: whom it runs as, inside the container.
        terminal: whether it has a terminal.
        size: of its terminal in columns and rows, (0, 0) if it is not known.
        pid: its process id in the shim's pid namespace; 0 until it has one.
        requested_at: when its client asked for its start, of a first process for its create.
        started_at: when it was started.
        exited_at: when its exit was noticed.
        exit_status: the exit code, or 128 + the number of the signal; None while it lives.
    """

    container: HookContainer
    id: str
    is_exec: bool
    exec_id: str
    args: tuple[str, ...]
    env: tuple[str, ...] = field(repr=False)
    cwd: str
    user: User
    terminal: bool
    size: tuple[int, int] = (0, 0)
    pid: int = 0
    requested_at: float = 0.0
    started_at: float = 0.0
    exited_at: float = 0.0
    exit_status: int | None = None


class Tee:
    """Is told what one process writes; see `Hooks.tee`. Each call has the time limit of its hooks.

    It hears of output up to half a second after the client. One that fails, or takes longer than its
    limit, is told no more; its process goes on.
    """

    async def output(self, stream: str, data: bytes, time: float) -> None:
        """The process has written.

        Args:
            stream: `stdout` or `stderr`; of a terminal, and where both are one file, always `stdout`.
            data: what.
            time: when, in seconds since the epoch.
        """

    async def resized(self, columns: int, rows: int, time: float) -> None:
        """The process's terminal has another size, or its first.

        Args:
            columns: its width.
            rows: its height.
            time: when, in seconds since the epoch.
        """

    async def ended(self) -> None:
        """Nothing follows: the last call, also of a tee that has failed."""


class Hooks:
    """What a shim asks and tells as its containers live: a subclass overrides what it needs.

    Every method is a coroutine and runs in a thread with an event loop of its own, which all methods of this
    object share. So a hook that blocks holds up only its own; after a second without progress
    the calls that wait behind it get another such thread. What belongs to another event loop must not be
    awaited here (`asyncio.run_coroutine_threadsafe` reaches it).

    A method that is not overridden is not called and costs nothing.

    Attributes:
        time_limit: seconds that each call may take.
        on_error: what it means when a method whose name begins with `before_`, or `tee`, fails, takes too
            long or returns nonsense: "refuse" has the create or exec fail, "log" has it go on as if the
            method were not there. What the others do wrong is logged.
    """

    time_limit: float = 5.0
    on_error: Literal["refuse", "log"] = "refuse"

    async def before_create(self, create: HookCreate) -> HookCreate | None:
        """A container is about to be created: sees it, may change its spec, or refuses it.

        Args:
            create: to change in place.

        Returns:
            None, or what to go on with instead of the argument.

        Raises:
            PermissionDeniedError: to refuse; its client gets the message as it is. Another ShimError
                refuses too, with its own status.
        """

    async def before_exec(self, call: HookExec) -> HookExec | None:
        """A process is about to be started in a container: sees it, may change it, or refuses it.

        Args:
            call: to change in place.

        Returns:
            None, or what to go on with instead of the argument.

        Raises:
            PermissionDeniedError: as for `before_create`.
        """

    async def tee(self, process: HookProcess) -> Tee | None:
        """What a process will write may be had; called before it is created.

        The output of a process with a tee goes through a pipe of the shim's on its way to where its client
        wants it, or, with a terminal, is copied where it passes anyway. A tee that is slow slows its
        process down once it is a mebibyte behind, for at most one time limit.

        Args:
            process: the process, without a pid yet.

        Returns:
            What is told of its output, or None.
        """

    async def started(self, process: HookProcess) -> None:
        """A process has been started.

        Args:
            process: an exec, or a container's first process.
        """

    async def failed(self, process: HookProcess, error: ShimError) -> None:
        """A create or exec was refused, by a hook for instance, or has failed: the process never ran.

        Args:
            process: what it would have been.
            error: what its client is told.
        """

    async def exited(self, process: HookProcess) -> None:
        """A process has exited.

        Args:
            process: with its exit status.
        """

    async def oom(self, container: HookContainer) -> None:
        """The kernel has killed a process of the container for lack of memory.

        Args:
            container: which.
        """

    async def paused(self, container: HookContainer) -> None:
        """The container is frozen.

        Args:
            container: which.
        """

    async def resumed(self, container: HookContainer) -> None:
        """The container is not frozen any more.

        Args:
            container: which.
        """

    async def deleted(self, container: HookContainer) -> None:
        """The container is gone: the last call about it.

        Args:
            container: which.
        """
