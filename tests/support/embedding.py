"""A program that has children of its own and runs a container in its own process; for test_embedding.

It prints as JSON what each kind of child has ended with, and what was changed in the process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import shimpy
from tests.support.leaks import children, eventually

# A program of the same Python that leaves a dead process behind, and says which.
_ORPHAN = """
import os, sys
pid = os.fork()
if pid == 0:
    os._exit(int(sys.argv[1]))
print(pid)
"""

ORPHANS = 8


class Program:
    """Runs execs, with children of its own beside, until the execs are done.

    Args:
        container: where.
        execs: how many.
    """

    def __init__(self, container: shimpy.Container, execs: int) -> None:
        self._container = container
        self._numbers = iter(range(execs))
        self._busy = True
        self.wrong: list[str] = []
        self.counts = {"execs": 0, "asyncio": 0, "threads": 0, "orphans": 0}

    async def run(self) -> None:
        """Does it all."""
        orphans = [await self._orphan(number + 1) for number in range(ORPHANS)]
        beside = [asyncio.ensure_future(work()) for work in (self._asyncios, self._asyncios, self._threads)]
        await asyncio.gather(*(self._execs(self._numbers) for _ in range(4)))
        self._busy = False
        await asyncio.gather(*beside)
        # They have been dead from the beginning, for whoever would take them.
        for number, pid in enumerate(orphans):
            self._note("orphans", await asyncio.to_thread(_wait, pid), number + 1)

    async def _execs(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            # What it leaves behind becomes a child of this program: the container has no pids of its own.
            done = await self._container.run(["sh", "-c", f"(sleep 1000000 &) ; exit {number % 256}"])
            self._note("execs", done.exit_status, number % 256)

    async def _asyncios(self) -> None:
        number = 0
        while self._busy:
            number += 1
            child = await asyncio.create_subprocess_exec("sh", "-c", f"exit {number % 256}")
            self._note("asyncio", await child.wait(), number % 256)

    async def _threads(self) -> None:
        number = 0
        while self._busy:
            number += 1
            done = await asyncio.to_thread(subprocess.run, ["sh", "-c", f"exit {number % 256}"], check=False)
            self._note("threads", done.returncode, number % 256)

    async def _orphan(self, status: int) -> int:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-I", "-S", "-c", _ORPHAN, str(status)],
            check=True,
            capture_output=True,
        )
        return int(done.stdout)

    def _note(self, kind: str, status: int, expected: int) -> None:
        self.counts[kind] += 1
        if status != expected:
            self.wrong.append(f"{kind}: {status} instead of {expected}")


def _wait(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return -1


def _settings() -> dict[str, str]:
    """Returns what a subreaper may have changed in this process."""
    with open("/proc/self/status", encoding="ascii") as file:
        found = {
            name: text.strip()
            for name, _, text in (line.partition(":") for line in file)
            if name in ("SigBlk", "SigIgn", "SigCgt")
        }
    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0)
    return found | {"SIGCHLD": str(signal.getsignal(signal.SIGCHLD)), "subreaper": str(value.value)}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what it was like."""
    # What asyncio sets for children, and the C library for threads, is not to be put down to us.
    await (await asyncio.create_subprocess_exec("true")).wait()
    await asyncio.to_thread(int)
    before = _settings()
    async with shimpy.in_process() as client:
        async with client.container(arguments.id, arguments.bundle) as container:
            during = _settings()
            program = Program(container, arguments.execs)
            await program.run()
        # What has just been killed may need a moment to die.
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not children())
    return {
        "wrong": program.wrong,
        "counts": program.counts,
        "children": children(),
        "before": before,
        "during": during,
        "after": _settings(),
    }


def main() -> None:
    """Runs it as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--execs", type=int, required=True)
    parser.add_argument("--thread", action="store_true", help="in a loop outside of the main thread")
    parser.add_argument("--watcher", help="a child watcher of asyncio's, for Python 3.11")
    arguments = parser.parse_args()
    if arguments.watcher and sys.version_info < (3, 12):
        asyncio.get_event_loop_policy().set_child_watcher(getattr(asyncio, arguments.watcher)())
    # The program's own affair, and to stay so.
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    done: list[dict[str, Any]] = []

    def work() -> None:
        done.append(asyncio.run(run(arguments)))

    if arguments.thread:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    print(json.dumps(done[0]))


if __name__ == "__main__":
    main()
