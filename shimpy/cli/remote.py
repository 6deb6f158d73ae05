"""The commands that talk to a shim on its socket, one for each call of the API."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shimpy.cli import output
from shimpy.cli.attach import attach, attach_terminal, terminal_size, warn_without_terminal
from shimpy.cli.options import (
    DEFAULT_SOCKET,
    TAKES_PROGRAM,
    Cwd,
    Env,
    Interactive,
    Json,
    Socket,
    Terminal,
    Timeout,
    environment,
    rlimit as read_rlimit,
)
from shimpy.cli.users import find_user
from shimpy.client.connect import connect
from shimpy.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from shimpy.cli.options import Perform
    from shimpy.client.client import ShimClient
    from shimpy.client.model import ExecOptions

Stdin = Annotated[Path | None, typer.Option("--stdin", help="A FIFO or file that it reads.")]
Stdout = Annotated[Path | None, typer.Option("--stdout", help="A FIFO or file that it writes.")]
Stderr = Annotated[Path | None, typer.Option("--stderr", help="The same for its errors.")]


def add_to(app: typer.Typer, perform: Perform) -> None:
    """Adds the commands."""
    _add_create(app, perform)
    _add_exec(app, perform)
    _add_observers(app, perform)
    _add_plain(app, perform)


def _add_create(app: typer.Typer, perform: Perform) -> None:
    @app.command()
    def create(
        id: Annotated[str, typer.Argument(help="The container's name.")],
        bundle: Annotated[Path, typer.Argument(help="The directory with its config.json.")],
        *,
        tty: Terminal = False,
        stdin: Stdin = None,
        stdout: Stdout = None,
        stderr: Stderr = None,
        runtime: Annotated[str, typer.Option("--runtime", help="The OCI runtime; default: the shim's.")] = "",
        no_pivot: Annotated[bool, typer.Option("--no-pivot", help="Do without pivot_root(2).")] = False,
        socket: Socket = DEFAULT_SOCKET,
        json: Json = False,
    ) -> int:
        """Create the container; prints the pid of its init, which waits for start."""

        async def work() -> None:
            async with connect(socket) as client:
                pid = await client.create(
                    id,
                    bundle,
                    runtime=runtime,
                    no_pivot=no_pivot,
                    terminal=tty,
                    stdin=_absolute(stdin),
                    stdout=_absolute(stdout),
                    stderr=_absolute(stderr),
                )
                _print_one("pid", pid, json=json)

        return perform(work())


def _add_exec(app: typer.Typer, perform: Perform) -> None:
    @app.command(name="exec", context_settings=TAKES_PROGRAM)
    def execute(
        args: Annotated[list[str], typer.Argument(metavar="ARG", help="The program and its arguments.")],
        *,
        tty: Terminal = False,
        interactive: Interactive = False,
        detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait; print its pid.")] = False,
        stdin: Stdin = None,
        stdout: Stdout = None,
        stderr: Stderr = None,
        env: Env = None,
        cwd: Cwd = None,
        user: Annotated[str | None, typer.Option("--user", "-u", metavar="USER[:GROUP[,GROUP...]]")] = None,
        timeout: Timeout = None,
        cap: Annotated[list[str] | None, typer.Option("--cap", metavar="CAP_...")] = None,
        rlimit: Annotated[list[str] | None, typer.Option("--rlimit", metavar="TYPE=SOFT[:HARD]")] = None,
        no_new_privileges: Annotated[bool, typer.Option("--no-new-privileges")] = False,
        apparmor: Annotated[str, typer.Option("--apparmor", metavar="PROFILE")] = "",
        selinux: Annotated[str, typer.Option("--selinux", metavar="LABEL")] = "",
        socket: Socket = DEFAULT_SOCKET,
        json: Json = False,
    ) -> int:
        """Run a further process in the container; unless detached, its exit status is the command's."""
        if detach and interactive:
            raise typer.BadParameter("--interactive does not go with --detach; --stdin names what it reads")
        if detach and timeout is not None:
            raise typer.BadParameter("--timeout does not go with --detach: nothing would be there to keep it")
        if tty and interactive:
            warn_without_terminal()
        if not detach:
            given = {"--stdin": stdin, "--stdout": stdout, "--stderr": stderr, "--json": json or None}
            for option, value in given.items():
                if value is not None:
                    raise typer.BadParameter(f"{option} needs --detach")
        options: ExecOptions = {
            "env": environment(env),
            "capabilities": cap or [],
            "rlimits": [read_rlimit(limit) for limit in rlimit or ()],
            "no_new_privileges": no_new_privileges,
            "apparmor_profile": apparmor,
            "selinux_label": selinux,
        }
        if cwd is not None:
            options["cwd"] = cwd

        async def detached() -> None:
            async with connect(socket) as client:
                if user is not None:
                    options["user"] = await find_user(user, await client.current())
                pid = await client.exec(
                    args,
                    terminal=tty,
                    stdin=_absolute(stdin),
                    stdout=_absolute(stdout),
                    stderr=_absolute(stderr),
                    **options,
                )
                _print_one("pid", pid, json=json)

        async def attached() -> int:
            async with connect(socket) as client:
                container = await client.current()
                if user is not None:
                    options["user"] = await find_user(user, container)
                with _no_name(args[0], container.id):
                    if tty:
                        width, height = terminal_size()
                        async with container.pty(
                            args, width=width, height=height, timeout=timeout, **options
                        ) as terminal:
                            return await attach_terminal(terminal, interactive=interactive)
                    async with container.stream(
                        args, stdin=interactive, timeout=timeout, **options
                    ) as command:
                        return await attach(command, interactive=interactive)

        return perform(detached()) if detach else perform(attached(), attached=True)


@contextmanager
def _no_name(program: str, container_id: str) -> Iterator[None]:
    """Says of a program that is not there that it is the container's name, as docker's exec takes it."""
    try:
        yield
    except NotFoundError as error:
        if program != container_id:
            raise
        said = f"{error} (exec takes no container's name: a socket has one container)"
        raise NotFoundError(said) from error


def _add_observers(app: typer.Typer, perform: Perform) -> None:
    @app.command()
    def state(*, socket: Socket = DEFAULT_SOCKET, json: Json = False) -> int:
        """Show the container and its processes."""

        async def work() -> None:
            async with connect(socket) as client:
                state = await client.state()
            if json:
                output.as_json(asdict(state))
            else:
                rows = [
                    (process.pid, process.state, "init" if process.pid == state.pid else "exec", state.id)
                    for process in state.processes
                ]
                output.table(("PID", "STATE", "KIND", "CONTAINER"), rows)

        return perform(work())

    @app.command()
    def events(*, socket: Socket = DEFAULT_SOCKET, json: Json = False) -> int:
        """Follow what happens, until the shim ends or Ctrl-C."""

        async def work() -> None:
            async with connect(socket) as client, client.events() as events:
                async for event in events:
                    if json:
                        output.as_json(asdict(event))
                    else:
                        status = () if event.exit_status is None else (event.exit_status,)
                        output.line(event.type, event.pid, event.id, *status)

        return perform(work())


def _add_plain(app: typer.Typer, perform: Perform) -> None:
    @app.command()
    def start(*, socket: Socket = DEFAULT_SOCKET) -> int:
        """Start init of the container that was created."""

        async def work() -> None:
            async with connect(socket) as client:
                await client.start()

        return perform(work())

    @app.command()
    def pause(*, socket: Socket = DEFAULT_SOCKET) -> int:
        """Freeze every process of the container."""

        async def work() -> None:
            async with connect(socket) as client:
                await client.pause()

        return perform(work())

    @app.command()
    def resume(*, socket: Socket = DEFAULT_SOCKET) -> int:
        """Let a paused container go on."""

        async def work() -> None:
            async with connect(socket) as client:
                await client.resume()

        return perform(work())

    @app.command()
    def resize(pid: int, width: int, height: int, *, socket: Socket = DEFAULT_SOCKET) -> int:
        """Set the size of a process's terminal."""

        async def work() -> None:
            async with connect(socket) as client:
                await client.resize(pid, width, height)

        return perform(work())

    @app.command()
    def delete(
        pid: Annotated[int | None, typer.Argument(help="Default: init, and with it the container.")] = None,
        *,
        socket: Socket = DEFAULT_SOCKET,
        json: Json = False,
    ) -> int:
        """Delete a process, killing it if it runs; prints its exit status."""

        async def work() -> None:
            async with _client_and_pid(socket, pid) as (client, chosen):
                _print_one("exit_status", await client.delete(chosen), json=json)

        return perform(work())


@asynccontextmanager
async def _client_and_pid(socket: Path, pid: int | None) -> AsyncIterator[tuple[ShimClient, int]]:
    async with connect(socket) as client:
        yield client, (await client.current()).pid if pid is None else pid


def _print_one(name: str, value: int, *, json: bool) -> None:
    if json:
        output.as_json({name: value})
    else:
        output.line(value)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
