"""What a command that was killed has left: a helper that still lives, and what that starts afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

import pytest

from shimpy.core.reaper import Reaper, orphans, procfs
from shimpy.core.reaper.command import Command
from tests.support.leaks import children, eventually
from tests.support.machine import lacking

pytestmark = pytest.mark.anyio

# On a line of input, the helper starts a process, and ends; on the next one that process ends.
_HELPED = """
import ctypes, os, signal, sys
def helper():
    print(os.getpid(), flush=True)
    os.read(0, 1)
    {before}
    if os.fork() == 0:
        {within}
        print(os.getpid(), flush=True)
        os.read(0, 1)
        os._exit(0)
    os._exit(0)
if os.fork() == 0:
    helper()
signal.pause()
"""

# The process is in a pid namespace of its own, and has left the group: so is what becomes a container's.
_BELOW = {"before": "ctypes.CDLL(None).unshare(0x20000000)", "within": "os.setsid()"}


class Killed:
    """A command that is dead, and whose helper waits.

    Args:
        reaper: what has started it.
        before: code of the helper, before it starts a process.
        within: code of that process.
    """

    def __init__(self, reaper: Reaper, *, before: str = "pass", within: str = "pass") -> None:
        self._reaper = reaper
        read, self._input = os.pipe()
        output, write = os.pipe()
        self._output = os.fdopen(output)
        program = _HELPED.format(before=before, within=within)
        self.command: Command = reaper.spawn(
            *(sys.executable, "-I", "-S", "-c", program), stdin=read, stdout=write, process_group=0
        )
        os.close(read)
        os.close(write)

    async def kill(self) -> int:
        """Kills the command alone and returns the pid of its helper."""
        helper = self.line()
        os.kill(self.command.pid, 9)
        assert await self._reaper.wait(self.command) == -9
        return helper

    def go_on(self) -> None:
        """Has the one who waits go on."""
        os.write(self._input, b"\n")

    def line(self) -> int:
        """Returns the pid that is printed next."""
        return int(self._output.readline())

    def close(self) -> None:
        os.close(self._input)
        self._output.close()


@pytest.fixture
async def plain(embedded: Reaper) -> AsyncIterator[Killed]:
    killed = Killed(embedded)
    yield killed
    killed.close()


@pytest.fixture
async def below(embedded: Reaper) -> AsyncIterator[Killed]:
    if lacks := lacking():
        pytest.skip(f"a pid namespace needs {lacks}")
    killed = Killed(embedded, **_BELOW)
    yield killed
    killed.close()


async def _later() -> None:
    """Waits until what is started is younger than all that is there."""
    now = procfs.now()
    await eventually(lambda: procfs.now() > now + 1)


async def test_what_a_helper_starts_after_the_commands_end_is_reaped(plain: Killed) -> None:
    helper = await plain.kill()
    await _later()
    plain.go_on()
    started = plain.line()
    await eventually(lambda: children().get(helper) == "Z" or helper not in children())
    plain.go_on()
    await eventually(lambda: not {helper, started} & set(children()))


async def test_what_has_left_the_group_for_a_pid_namespace_is_reaped_however_late(
    below: Killed, embedded: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep a container's init from its end. Nobody hears of its own: it is looked for."""
    monkeypatch.setattr(orphans, "PERIOD", 0.01)
    helper = await below.kill()
    await _later()
    below.go_on()
    below.line()
    await eventually(lambda: helper not in children())
    for _ in range(4):
        await _later()
    below.go_on()
    await eventually(lambda: not children())
    await eventually(lambda: not embedded._orphans._claims)


async def test_a_process_of_ours_in_another_group_is_left_alone(plain: Killed) -> None:
    """Its exit status is ours to read, whenever it was started."""
    await plain.kill()
    own = os.posix_spawn("/bin/true", ["true"], {})
    plain.go_on()
    plain.line()
    plain.go_on()
    await eventually(lambda: list(children()) == [own])
    assert os.waitpid(own, 0)[1] == 0
