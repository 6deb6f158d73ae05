"""A program whose children are of every kind at the same time; run by tests/core/reaper on each Python.

It prints what was wrong as JSON: nothing, when the reaper keeps its word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time

from shimpy.core.reaper import Reaper
from tests.support.leaks import children

# Not a shell: these wait for children behind one's back.
_RUNTIME = """
import os, sys
pid = os.fork()
if pid == 0:
    os._exit(int(sys.argv[1]))
with open(sys.argv[2], "w") as file:
    file.write(str(pid))
os._exit(0)
"""
_LITTER = """
import os
for _ in range(50):
    if os.fork() == 0:
        os._exit(9)
os._exit(0)
"""
_PYTHON = (sys.executable, "-I", "-S", "-c")


class Program:
    """Starts children and notes which of them ended otherwise than they should."""

    def __init__(self, reaper: Reaper, directory: str, *, own: bool) -> None:
        self.wrong: list[str] = []
        self._reaper = reaper
        self._directory = directory
        self._own = own
        self._turns = asyncio.Semaphore(16)

    async def _run(self, *argv: str) -> int:
        process = self._reaper.spawn(*argv)
        return await self._reaper.wait(process)

    async def asyncios(self, number: int) -> None:
        """A child of asyncio's: of the reaper's making, or of a program's that knows of no reaper."""
        async with self._turns:
            argv = ("sh", "-c", f"exit {number % 256}")
            if self._own:
                code = await (await asyncio.create_subprocess_exec(*argv)).wait()
            else:
                code = await self._run(*argv)
            self._expect("asyncio's child", code, number % 256)

    async def tracked(self, number: int) -> None:
        """A child that a runtime started and told the pid of, most often dead by then."""
        async with self._turns:
            file = os.path.join(self._directory, str(number))
            over = asyncio.get_running_loop().create_future()
            with self._reaper.spawning():
                await self._run(*_PYTHON, _RUNTIME, str(number % 256), file)
                with open(file, encoding="ascii") as told:
                    pid = int(told.read())
                child = self._reaper.track(pid, over.set_result)
            self._expect("a tracked child", await over, number % 256)
            self._expect("its pid", child.pid, pid)

    async def orphans(self, _number: int) -> None:
        """Fifty that nobody tells of."""
        async with self._turns:
            await self._run(*_PYTHON, _LITTER)

    def _expect(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            self.wrong.append(f"{what}: {found} instead of {expected}")


async def run(arguments: argparse.Namespace) -> list[str]:
    """Does it all at once and returns what was wrong."""
    reaper = Reaper(sweep_orphans=not arguments.embedded)
    reaper.open()
    with tempfile.TemporaryDirectory() as directory:
        program = Program(reaper, directory, own=arguments.embedded)
        await asyncio.gather(
            *(program.asyncios(number) for number in range(arguments.asyncio)),
            *(program.tracked(number) for number in range(arguments.tracked)),
            *(program.orphans(number) for number in range(arguments.orphans // 50)),
        )
    end = time.monotonic() + 10
    # An orphan that still lives is waited for too: it may not have come as far as to its end yet.
    while children() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    left = children()
    reaper.close()
    return program.wrong + [f"{state} {pid}" for pid, state in left.items()]


def main() -> None:
    """Runs it as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--embedded", action="store_true", help="do not sweep; asyncio's are the program's own"
    )
    parser.add_argument("--thread", action="store_true", help="in a loop outside of the main thread")
    parser.add_argument("--watcher", help="a child watcher of asyncio's, for Python 3.11")
    for kind in ("asyncio", "tracked", "orphans"):
        parser.add_argument(f"--{kind}", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.watcher and sys.version_info < (3, 12):
        asyncio.get_event_loop_policy().set_child_watcher(getattr(asyncio, arguments.watcher)())
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(asyncio.run(run(arguments)))

    if arguments.thread:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
