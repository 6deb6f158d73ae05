"""Puts this terminal, or these pipes, at the other end of a process's."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import shimpy
from shimpy.cli import tty
from shimpy.cli.output import complain
from shimpy.errors import ShimError

if TYPE_CHECKING:
    from shimpy.client.command_stream import CommandStream
    from shimpy.client.terminal import Pty

_STDIN, _STDOUT, _STDERR = 0, 1, 2

# What timeout(1) exits with.
TIMED_OUT = 124


async def attach(command: CommandStream | Pty, *, interactive: bool) -> int:
    """Carries input and output until the process ends.

    Args:
        command: the process.
        interactive: it gets what is typed, or piped in, here.

    Returns:
        Its exit status.
    """
    outputs = {"stdout": tty.Output(_STDOUT), "stderr": tty.Output(_STDERR)}
    typing = asyncio.ensure_future(_type(command)) if interactive else None
    try:
        with suppress(BrokenPipeError):  # its output has no reader any more: it is ended, as by SIGPIPE
            async for name, data in command.chunks():
                await outputs[name].write(data)
            status = await command.wait()
            if command.timed_out:
                complain("its time was up, and it was killed")
                return TIMED_OUT
            return status
        await command.kill()
        return await command.wait()
    finally:
        if typing is not None:
            typing.cancel()
        for output in outputs.values():
            output.close()


async def attach_terminal(command: Pty, *, interactive: bool) -> int:
    """Does the same for a process with a terminal: this one becomes raw and lends it its size.

    The terminal is put back as it was whatever happens.
    """
    with ExitStack() as restored:
        if os.isatty(_STDOUT):
            restored.enter_context(tty.on_resize(_Resizer(command)))
        if interactive and os.isatty(_STDIN):
            restored.enter_context(tty.raw(_STDIN))
        return await attach(command, interactive=interactive)


def warn_without_terminal() -> None:
    """Says what becomes of a command's terminal when nothing is typed on one here."""
    if not os.isatty(_STDIN):
        complain("warning: stdin is not a terminal, so its end does not end what reads it; leave out --tty")


def terminal_size() -> tuple[int, int]:
    """Returns the columns and rows of this terminal."""
    return tty.size(_STDOUT)


class _Resizer:
    """Tells the process's terminal the size of this one; one call at a time, the last size wins."""

    def __init__(self, command: Pty) -> None:
        self._command = command
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def __call__(self) -> None:
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        while self._again:
            self._again = False
            with suppress(ShimError):  # it has ended, or the shim is gone: the attachment will tell
                await self._command.resize(*terminal_size())


async def _type(command: CommandStream | Pty) -> None:
    try:
        while data := await tty.read(_STDIN):
            await command.write(data)
    except BrokenPipeError:  # it reads no more
        pass
    except OSError as error:
        complain(f"stdin: {error.strerror}")
    if not isinstance(command, shimpy.Pty):  # its end would hang the terminal up
        await command.close_stdin()
