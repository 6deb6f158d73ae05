"""The arguments and options that several commands have, and what is read out of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from shimpy.core.model import Rlimit

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

# Whatever stands after the program's name is the program's, even if it looks like an option.
TAKES_PROGRAM = {"allow_interspersed_args": False}

Socket = Annotated[
    Path, typer.Option("--socket", "-s", envvar="SHIMPY_SOCKET", help="The shim's socket.", metavar="PATH")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Terminal = Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")]
Interactive = Annotated[bool, typer.Option("--interactive", "-i", help="Let it read what is typed here.")]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        "-e",
        metavar="NAME[=VALUE]",
        help="A variable; without a value it has the one from here. May be repeated.",
    ),
]
Cwd = Annotated[str | None, typer.Option("--cwd", "-w", metavar="DIR", help="Where it starts, inside.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", help="Kill it then, with all it started; exit with 124."),
]
Runtime = Annotated[
    str, typer.Option("--runtime", metavar="NAME", help="The OCI runtime: a name on PATH, or a path.")
]

DEFAULT_SOCKET = Path("shim.sock")


class Perform(Protocol):
    """Runs a command's work and returns the exit status, as `shimpy.cli.app.perform` does."""

    def __call__(self, work: Coroutine[Any, Any, int | None], *, attached: bool = False) -> int: ...


def environment(entries: Iterable[str] | None) -> dict[str, str]:
    """Returns what was given as `NAME=VALUE`, or as `NAME`, which is left out if there is none here."""
    env = {}
    for entry in entries or ():
        name, equals, value = entry.partition("=")
        if not name:
            raise typer.BadParameter(f"--env: {entry!r} is not NAME=VALUE")
        if equals:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env


def rlimit(text: str, option: str = "--rlimit") -> Rlimit:
    """Returns what was given as `TYPE=SOFT[:HARD]`.

    Args:
        text: what was given.
        option: for which; the types of `--ulimit` are as docker has them, such as `nofile`.
    """
    kind, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        return Rlimit(
            f"RLIMIT_{kind.upper()}" if option == "--ulimit" else kind, int(soft), int(hard or soft)
        )
    except ValueError:
        raise typer.BadParameter(f"{option}: {text!r} is not TYPE=SOFT[:HARD]") from None
