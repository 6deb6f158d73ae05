"""`python -m shimpy`: serves one container on a socket."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from shimpy.daemon import import_stubs
from shimpy.daemon.logs import FORMATS, LEVELS
from shimpy.daemon.process_state import clean_slate, open_standard_fds
from shimpy.daemon.version import version

if TYPE_CHECKING:
    from shimpy.core.hooks.interface import Hooks


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Says what is wrong in one line; argparse would write the usage before it."""
        self.exit(2, f"shimpy: {message}; --help lists what there is\n")


class _Help(argparse.HelpFormatter):
    """Knows how wide the terminal is; argparse would import half of the archive formats to find out."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    try:
        return max(40, os.get_terminal_size().columns)
    except (OSError, ValueError, AttributeError):
        return 100


class _Version(argparse.Action):
    """Prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"shimpy {version() or '(not installed)'}")  # noqa: T201 - it was asked for
        parser.exit()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m shimpy",
        description="Serve containerd.shim.v1.Shim on a Unix socket.",
        formatter_class=_Help,
    )
    parser.add_argument("--socket", metavar="PATH", default="./shim.sock", help="default: %(default)s")
    parser.add_argument(
        "--runtime",
        metavar="NAME",
        default="runc",
        help="the OCI runtime for requests that name none: a name on PATH, or a path (default: %(default)s)",
    )
    parser.add_argument("--root", metavar="DIR", help="where the runtime keeps its state (default: its own)")
    parser.add_argument(
        "--hooks",
        metavar="MODULE:NAME",
        action="append",
        default=[],
        help="an object or class with hooks (shimpy.Hooks), or a TOML file that names some; may be repeated",
    )
    parser.add_argument(
        "--supervise",
        action="store_true",
        help="keep the shim: one that dies is started again and loses nothing; SIGHUP starts it anew",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: %(default)s")
    parser.add_argument("--log-format", choices=FORMATS, default="text", help="default: %(default)s")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the server and returns its exit status: 0, 1 for what it was asked and cannot do, 2 for bad usage.

    Args:
        argv: the arguments; None for those of the process.
    """
    open_standard_fds()
    arguments = _arguments(argv)
    clean_slate()
    if arguments.supervise:
        return _keep(arguments)

    # All that takes time to import comes after the arguments are known to be good.
    with import_stubs.imports():
        import asyncio

        from shimpy.core.runtime import find_runtime
        from shimpy.daemon import logs, notify
        from shimpy.daemon.serve import serve
        from shimpy.errors import ShimError
        from shimpy.services.shim_v1 import Shim

    logs.set_up(arguments.log_level, arguments.log_format)
    sys.excepthook = logs.report_crash

    # Before anything is started that could get them.
    fds = notify.take_fds()

    async def run() -> None:
        hooks = _load_hooks(arguments.hooks)
        shim = Shim(runtime=arguments.runtime, root=arguments.root, sweep_orphans=True, hooks=hooks)
        await serve(shim, arguments.socket, fds)

    try:
        find_runtime(arguments.runtime)
        asyncio.run(run())
    except ShimError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename or arguments.socket}: {error.strerror}")
    if arguments.hooks:
        _leave()
    return 0


def _keep(arguments: argparse.Namespace) -> int:
    """Becomes a keeper; returns only if that fails."""
    from shimpy.daemon.keeper.start import become_keeper
    from shimpy.errors import ShimError

    plain = ("socket", "runtime", "root", "log_level", "log_format")
    given = {name: getattr(arguments, name) for name in plain}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
    options += [f"--hooks={name}" for name in arguments.hooks]
    try:
        become_keeper(arguments.socket, arguments.log_format, options)
    except ShimError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename or arguments.socket}: {error.strerror}")


def _leave() -> NoReturn:
    """Ends the process. Python would wait for threads that hooks have started, and that may hang."""
    import logging

    logging.shutdown()
    with contextlib.suppress(OSError, AttributeError):  # there may be no stderr
        sys.stderr.flush()
    os._exit(0)


def _load_hooks(names: list[str]) -> tuple[Hooks, ...]:
    if not names:
        return ()
    from shimpy.core.hooks.load import HookConfig

    return HookConfig.from_names(names).load()


def _complain(message: str) -> int:
    with contextlib.suppress(OSError, AttributeError):  # there may be no stderr
        line = message.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
        sys.stderr.write(f"shimpy: {line}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
