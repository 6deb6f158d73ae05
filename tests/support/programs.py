"""A program that makes containers in one way or another, to be killed in the middle of it.

`python -m tests.support.programs WAY ROOTFS BUNDLE ID` prints the name of its directory in the registry, and
then runs a container until it is killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import shimpy
from shimpy.core import tempdirs
from shimpy.core.registry import ProgramDirectory, programs
from shimpy.core.runtime.environment import PROGRAM
from tests.support import containers, residue
from tests.support.leaks import children, eventually

# The ways to a container that goes with its program.
WAYS = ("run", "cli", "writable", "in_process", "exec", "launch", "warm")

# The variable that has a base for the program's directory.
_BASE = "SHIMPY_TEST_BASE"

# Who has which range of user ids.
_RANGES = Path("/var/lib/shimpy/ids")

# Where the roots are attached that a container may write to.
_ROOTS = Path("/run/shimpy-roots")

# In the bundle of a program whose command has a timeout, once it runs.
_RUNS = "runs"

_SLEEP = ["sh", "-c", "sleep 1000000 & sleep 1000000"]


async def _use(way: str, rootfs: str, bundle: str, container_id: str) -> None:
    if way == "run":
        await shimpy.run(rootfs, _SLEEP)
    elif way == "writable":
        mounts = [shimpy.BindMount(f"{rootfs}/etc", "/tmp/etc", read_only=False)]
        await shimpy.run(rootfs, _SLEEP, read_only=False, mounts=mounts)
    elif way == "timeout-run":
        async with (
            shimpy.in_process() as client,
            client.stream(container_id, bundle, timeout=1) as command,
        ):
            await _wait(command, bundle)
    elif way in ("in_process", "launch", "warm"):
        async with _shim(way) as client:
            await client.run(container_id, bundle)
    else:
        async with _shim(way) as client, client.container(container_id, bundle) as container:
            if way == "fork" and os.fork() == 0:
                signal.pause()
            if way == "fork-ends" and (child := os.fork()) == 0:
                os._exit(0)
            elif way == "fork-ends":
                os.waitpid(child, 0)
            if way == "pause":
                await client.pause()
                await asyncio.sleep(1000)
            if way == "timeout-exec":
                async with container.stream(_SLEEP, timeout=1) as command:
                    await _wait(command, bundle)
            else:
                await container.run(_SLEEP)


async def _wait(command: shimpy.CommandStream, bundle: str) -> None:
    """Leaves a sign that the command runs, and waits for its end."""
    (Path(bundle) / _RUNS).touch()
    await command.wait()


@asynccontextmanager
async def _shim(way: str) -> AsyncIterator[shimpy.ShimClient]:
    if way in ("launch", "leave-launched"):
        async with shimpy.launch(leave_running=way != "launch") as client:
            yield client
    elif way == "warm":
        async with shimpy.WarmLauncher() as launcher, launcher.launch() as client:
            yield client
    else:
        async with shimpy.in_process(leave_running=way == "leave") as client:
            yield client


class Program:
    """The program, running.

    Args:
        way: one of WAYS.
        rootfs: a root filesystem with a shell.
        bundle: what its container is made from, unless it makes its own.
        container_id: the container's id, unless it chooses one.
        base: where its directory is made; None: where that of all programs are.
    """

    def __init__(
        self, way: str, rootfs: Path, bundle: str, container_id: str, *, base: Path | None = None
    ) -> None:
        self.container_id = container_id
        self._bundle = Path(bundle)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.programs", way, rootfs, bundle, container_id],
            stdout=subprocess.PIPE,
            env=os.environ if base is None else {**os.environ, _BASE: str(base)},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        with self.process.stdout as said:
            self.directory = ProgramDirectory(said.readline().decode().strip())

    def end(self, number: signal.Signals) -> None:
        """Sends it a signal that ends it, and waits for that."""
        self.process.send_signal(number)
        self.process.wait()

    async def gone(self, *, within: float = 5) -> None:
        """Waits until nothing is left of it; fails with what is, and with what removes it.

        Args:
            within: seconds, on a common machine.
        """
        try:
            await eventually(lambda: self.left() == {}, within=within)
        except AssertionError as error:
            guardians = _with(self.directory.name, "cmdline")
            message = f"{self.left()}, guardians {guardians}, load {os.getloadavg()[0]}: {error}"
            raise AssertionError(message) from error

    def pids(self) -> list[int]:
        """Returns what runs in its container, if that has the id."""
        return residue.processes(self.container_id)

    def commands(self) -> list[int]:
        """Returns the commands of the runtime that it has under way."""
        return [pid for pid in children(self.process.pid) if pid not in self.pids()]

    def runs(self) -> bool:
        """Returns whether it knows that its command, which has a timeout, runs."""
        return (self._bundle / _RUNS).exists()

    def left(self) -> dict[str, list[str]]:
        """Returns what there is on the machine of all that it has made, by kinds."""
        name = self.directory.name
        found = {
            "directory": [one.name for one in programs() if one.name == name],
            "containers": containers.left(self.container_id),
            "processes": [str(pid) for pid in _with(f"{PROGRAM}={name}", "environ")],
            "ids": [path.name for path in _RANGES.glob("*") if name in _read(path)],
            "roots": [path.name for path in _ROOTS.glob(f"{name}.*")],
            "cgroups": residue.cgroups(self.container_id),
            "mounts": [
                line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line
            ],
        }
        for state in Path("/run/runc").glob("*/state.json"):
            if name in _read(state):
                found["containers"].append(state.parent.name)
        return {kind: left for kind, left in found.items() if left}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # another test's
        return ""


def _with(text: str, file: str) -> list[int]:
    """Returns the processes that have a text in a file of /proc."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if text.encode() in Path(f"/proc/{entry}/{file}").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return found


def main() -> None:
    """Is the program."""
    from shimpy.client.program import program

    if base := os.environ.get(_BASE):
        tempdirs.base = lambda: base
    print(program.open().name, flush=True)
    way, rootfs, _, container_id = sys.argv[1:]
    if way == "cli":
        from shimpy import cli

        sys.argv = ["shimpy", "run", "--quiet", "--name", container_id, rootfs, *_SLEEP]
        sys.exit(cli.main())
    asyncio.run(_use(*sys.argv[1:]))


if __name__ == "__main__":
    main()
