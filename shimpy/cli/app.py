"""The command line itself: its commands, how one is carried out, how it ends."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from shimpy import errors
from shimpy.cli.output import complain, discard
from shimpy.daemon.version import version

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

# The command line's own errors have no public name in typer; this is what they have in common.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

# What a command exits with; 1 for anything else.
_EXIT_STATUSES = {
    errors.InvalidArgumentError: 2,
    errors.NotFoundError: 3,
    errors.AlreadyExistsError: 4,
    errors.FailedPreconditionError: 5,
    errors.PermissionDeniedError: 6,
    errors.ResourceExhaustedError: 7,
    errors.UnimplementedError: 8,
    errors.UnavailableError: 9,
    errors.DeadlineExceededError: 10,
    errors.CanceledError: 11,
}

# The modules that have the commands, in the order in which --help lists them.
_ALL = ("local_commands", "remote", "container_commands", "machine_commands", "containerd_commands")

# Where a command is, if that spares the imports of others.
_MODULES = {
    "--version": "machine_commands",
    "serve": "local_commands",
    "run": "local_commands",
    "bundle": "local_commands",
    "ps": "machine_commands",
    "prune": "machine_commands",
    "containerd": "containerd_commands",
}

# The same where an exit status is the process's own, as shells and docker have it; else 125.
_ATTACHED_STATUSES = {errors.PermissionDeniedError: 126, errors.NotFoundError: 127}


def run(args: Sequence[str]) -> int:
    """Carries out a command line.

    Args:
        args: what stands after the program's name.

    Returns:
        Its exit status.
    """
    try:
        status = _carry_out(args)
        sys.stdout.flush()  # here, where it may still fail
    except BrokenPipeError:  # no reader any more: die by SIGPIPE, as other programs do
        status = 128 + signal.SIGPIPE
    except OSError as error:
        complain(_reason(error))
        status = 1
    else:
        return status
    discard(sys.stdout)
    return status


def _carry_out(args: Sequence[str]) -> int:
    try:
        return make_app(args[0] if args else None)(args, prog_name="shimpy", standalone_mode=False) or 0
    except _UsageError as error:
        # Without arguments the "error" is the help itself, which is not one line.
        if not args:
            sys.stderr.write(error.format_message() + "\n")
        else:
            complain(f"{error.format_message()} (--help lists what there is)")
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except SystemExit as error:  # how typer and rich take a closed pipe, with status 1
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise


def _reason(error: OSError) -> str:
    """Returns what an error says without its number."""
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"


def perform(work: Coroutine[Any, Any, int | None], *, attached: bool = False) -> int:
    """Runs a command's work and returns the exit status.

    SIGINT, SIGTERM and SIGHUP cancel it, so that it can put things right first; one that is ignored, as
    by nohup(1), stays so.

    Args:
        work: returns the exit status, None for 0.
        attached: the exit status is a process's own, so errors take those that shells use.
    """
    caught: list[int] = []

    async def main() -> int | None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is run by asyncio.run

        def stop(number: int) -> None:
            caught.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(main()) or 0
    except asyncio.CancelledError:
        return 128 + caught[0]
    except errors.ShimError as error:
        complain(str(error))
        if attached:
            return _ATTACHED_STATUSES.get(type(error), 125)
        return _EXIT_STATUSES.get(type(error), 1)
    except ValueError as error:  # a number that is out of range
        complain(str(error))
        return 125 if attached else 2
    except OSError as error:
        if not attached or isinstance(error, BrokenPipeError):
            raise  # to where the command line ends
        complain(_reason(error))
        return 125


def make_app(command: str | None = None) -> typer.Typer:
    """Returns the command line.

    Args:
        command: a command that is all that it need have, so that nothing is imported for the others; None, or
            what is none: all.
    """
    app = typer.Typer(
        help="A container runtime shim: containers from the shell, without a daemon.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # Without it, the only command of an app is the app itself.
    app.callback()(_common)
    module = _MODULES.get(command or "")
    for name in _ALL if module is None else (module,):
        importlib.import_module(f"shimpy.cli.{name}").add_to(app, perform)
    return app


def _say_version(asked: bool) -> None:
    if asked:
        print(f"shimpy {version() or '(not installed)'}")
        raise typer.Exit


def _common(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_say_version),
    ] = False,
) -> None:
    pass
