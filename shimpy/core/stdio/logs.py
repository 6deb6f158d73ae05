"""Outputs that are named by a URI: what is opened, or run, in their place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from shimpy.core.model import StdioPaths
from shimpy.core.reaper import Reaper
from shimpy.core.stdio.log_program import Logger
from shimpy.core.stdio.owner import Owner
from shimpy.core.stdio.uri import LogFile, OutputPath, parse_output
from shimpy.errors import InvalidArgumentError

# Starts a log program, and returns once that is ready.
StartLogger = Callable[[], Awaitable[Logger]]


@dataclass(frozen=True, slots=True)
class LogPrograms:
    """What the log program of one process is run with.

    Attributes:
        reaper: waits for its end.
        name: the container's id, or of an exec its exec id.
        namespace: containerd's.
    """

    reaper: Reaper
    name: str
    namespace: str

    def resolve(self, stdio: StdioPaths, owner: Owner | None) -> tuple[StdioPaths, StartLogger | None]:
        """Returns the paths to open in place of a URI, and how to start the program that it names.

        What a URI names takes both outputs, and `stdio.stderr` is not looked at; `fifo:` is a path.

        Args:
            stdio: what the process reads and writes, as its client named it.
            owner: whom the program's pipes are to belong to.

        Raises:
            InvalidArgumentError: it is not such a URI, or a log file for a terminal, of which containerd's
                own shim knows nothing either.
            ShimError: the log file could not be made.
        """
        output = parse_output(stdio.stdout)
        if isinstance(output, OutputPath):
            return stdio._replace(stdout=output.path, stderr=_without_scheme(stdio.stderr)), None
        if isinstance(output, LogFile):
            if stdio.terminal:
                raise InvalidArgumentError(
                    f"stdout: {stdio.stdout!r} is a log file, which a terminal cannot have; name a FIFO"
                )
            output.create()
            return stdio._replace(stdout=output.path, stderr=output.path), None
        start = partial(
            Logger.start,
            output,
            self.reaper,
            container_id=self.name,
            namespace=self.namespace,
            owner=owner,
        )
        return stdio._replace(stdout="", stderr=""), start


def _without_scheme(stderr: str) -> str:
    if stderr.startswith("fifo:") and isinstance(output := parse_output(stderr), OutputPath):
        return output.path
    return stderr
