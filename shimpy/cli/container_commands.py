"""The commands for the container of a shim that have docker's names: stats, top, kill, stop, cp."""

from __future__ import annotations

import asyncio
import signal as signals
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shimpy.cli import output
from shimpy.cli.copy import copy
from shimpy.cli.options import DEFAULT_SOCKET, Json, Perform
from shimpy.cli.processes import describe
from shimpy.client.connect import connect
from shimpy.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shimpy.client.files.container_files import ContainerFiles
    from shimpy.client.model import Stats

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONTAINER]",
        help="Its name, as ps shows it; default: the socket's.",
        show_default=False,
    ),
]

Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        "-s",
        envvar="SHIMPY_SOCKET",
        help=f"The shim's socket; default: that of the name, else {DEFAULT_SOCKET}.",
        metavar="PATH",
    ),
]

# Seconds between two looks.
_INTERVAL = 1.0


def add_to(app: typer.Typer, perform: Perform) -> None:
    """Adds the commands."""
    _add_stats(app, perform)
    _add_top(app, perform)
    _add_signals(app, perform)
    _add_copy(app, perform)


def _add_stats(app: typer.Typer, perform: Perform) -> None:
    @app.command()
    def stats(
        name: Name = None,
        *,
        no_stream: Annotated[bool, typer.Option("--no-stream", help="Show it once.")] = False,
        socket: Socket = None,
        json: Json = False,
    ) -> int:
        """Show what the container uses, every second until Ctrl-C."""

        async def work() -> None:
            async with current(socket, name) as container:
                before, began = await container.stats(), time.monotonic()
                while True:
                    await asyncio.sleep(_INTERVAL)
                    now, ended = await container.stats(), time.monotonic()
                    _show(container.id, now, _share(before, now, ended - began), json=json)
                    if no_stream:
                        return
                    before, began = now, ended

        return perform(work())


def _add_top(app: typer.Typer, perform: Perform) -> None:
    @app.command()
    def top(name: Name = None, *, socket: Socket = None, json: Json = False) -> int:
        """List every process in the container, as the host numbers them."""

        async def work() -> None:
            async with current(socket, name) as container:
                found = [
                    described for pid in await container.pids() if (described := describe(pid)) is not None
                ]
            if json:
                for process in found:
                    output.as_json(process._asdict())
            else:
                output.table(("UID", "PID", "PPID", "STATE", "TIME", "CMD"), found)

        return perform(work())


def _add_signals(app: typer.Typer, perform: Perform) -> None:
    @app.command()
    def kill(
        name: Name = None,
        signal_name: Annotated[
            str | None, typer.Argument(metavar="[SIGNAL]", help="By name or number; default: KILL.")
        ] = None,
        *,
        signal: Annotated[
            str | None, typer.Option("--signal", metavar="SIGNAL", help="The same.", show_default=False)
        ] = None,
        all_processes: Annotated[bool, typer.Option("--all", "-a", help="To every process in it.")] = False,
        socket: Socket = None,
    ) -> int:
        """Send a signal to the container's init; delete removes what has ended."""
        if signal and signal_name:
            raise typer.BadParameter("give the signal once: after the container, or by --signal")
        if socket is not None and not socket.exists() and _signal(str(socket)):
            raise typer.BadParameter(f"-s is the socket; docker's -s is --signal here: --signal {socket}")
        number = read_signal(signal or signal_name or "KILL")

        async def work() -> None:
            async with current(socket, name) as container:
                await container.kill(number, everything=all_processes)

        return perform(work())

    @app.command()
    def stop(
        name: Name = None,
        *,
        timeout: Annotated[
            float, typer.Option("--timeout", "--time", "-t", metavar="SECONDS", help="Until it is killed.")
        ] = 10.0,
        socket: Socket = None,
    ) -> int:
        """End the container's init by SIGTERM, then by SIGKILL; delete removes it."""

        async def work() -> None:
            async with current(socket, name) as container:
                await container.stop(max(0.0, timeout))

        return perform(work())


def _add_copy(app: typer.Typer, perform: Perform) -> None:
    @app.command()
    def cp(
        source: Annotated[str, typer.Argument(help="CONTAINER:PATH, PATH, or - for a tar archive.")],
        target: Annotated[str, typer.Argument(help="The same.")],
        *,
        archive: Annotated[
            bool, typer.Option("--archive", "-a", help="Into the container: keep users and groups.")
        ] = False,
        socket: Socket = None,
    ) -> int:
        """Copy files and folders into the container or out of it."""

        async def work() -> None:
            await copy(source, target, lambda name: current(socket, name), archive=archive)

        return perform(work())


@asynccontextmanager
async def current(socket: Path | None, name: str | None) -> AsyncIterator[ContainerFiles]:
    """Gives the container that is meant.

    Args:
        socket: the shim's, if the user has given it.
        name: the container's, if the user has given it.

    Raises:
        NotFoundError: there is none of that name, or the shim has another.
        FailedPreconditionError: it does not run.
    """
    if socket is None and name:
        from shimpy.client.machine import find_container

        if (found := find_container(name)) is not None and not found.socket:
            from shimpy.client.direct_container import direct_container

            with direct_container(found.record) as container:
                yield container
            return
        if found is None and not DEFAULT_SOCKET.exists():
            raise NotFoundError(f"there is no container {name}; shimpy ps lists those that there are")
        socket = DEFAULT_SOCKET if found is None else Path(found.socket)
    async with connect(socket or DEFAULT_SOCKET) as client:
        theirs = await client.current()
        if name and name != theirs.id:
            raise NotFoundError(
                f"the shim at {socket} has container {theirs.id}, not {name}; --socket names another shim"
            )
        yield theirs


def read_signal(text: str) -> int:
    """Returns the number of a signal that was given as `TERM`, `SIGTERM` or `15`."""
    if not (number := _signal(text)):
        raise typer.BadParameter(f"--signal: there is no signal {text!r}")
    return number


def _signal(text: str) -> int:
    """Returns the same, 0 if there is no such signal."""
    name = text.upper()
    if name.isdecimal():
        return int(name) if int(name) < signals.NSIG else 0
    number = getattr(signals, name if name.startswith("SIG") else f"SIG{name}", None)
    return int(number) if isinstance(number, signals.Signals) else 0


def _share(before: Stats, now: Stats, seconds: float) -> float | None:
    """Returns the CPUs' worth of time that was used, in percent."""
    if before.cpu_time is None or now.cpu_time is None:
        return None
    return round(100 * (now.cpu_time - before.cpu_time) / seconds, 2)


def _show(container_id: str, stats: Stats, percent: float | None, *, json: bool) -> None:
    if json:
        from dataclasses import asdict

        output.as_json({"id": container_id, "cpu_percent": percent, **asdict(stats)})
        return
    limit = "unlimited" if stats.memory_limit is None else _bytes(stats.memory_limit)
    row = (
        container_id,
        "-" if percent is None else f"{percent:.2f}%",
        f"{_bytes(stats.memory)} / {limit}",
        f"{_bytes(stats.read)} / {_bytes(stats.written)}",
        "-" if stats.pids is None else stats.pids,
    )
    output.table(("CONTAINER", "CPU %", "MEM USAGE / LIMIT", "BLOCK I/O", "PIDS"), [row])


def _bytes(number: int | None) -> str:
    if number is None:
        return "-"
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g}{unit}"
        size /= 1024
    return f"{size:.4g}TiB"
