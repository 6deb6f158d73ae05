"""What an idle shim holds, what one more container adds, and what many execs leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys

import shimpy
from shimpy.api import CreateRequest, DeleteRequest, ExecRequest, ShimStub, StartRequest
from shimpy.services.shim_v1 import Shim
from tests.benchmarks.bench import Bench, memory, python, quiet
from tests.benchmarks.figures import Target
from tests.support.events import Recorder
from tests.support.kinds import EXIT
from tests.support.leaks import children

_AT_ONCE = 8


async def measure(bench: Bench) -> None:
    bundle = bench.bundle("sleep", "1000000")
    await _idle_and_busy(bench, bundle)
    await _warm(bench)
    await _further(bench, bundle)


async def _idle_and_busy(bench: Bench, bundle: str) -> None:
    async with bench.served() as (server, shim, recorder):
        bench.record("RSS at the start", [memory(server.pid)[0] / 1000], "MB")
        init = (await shim.create(CreateRequest(id=bench.new_id(), bundle=bundle))).pid
        await shim.start(StartRequest())
        await quiet()
        rss, pss = memory(server.pid)
        bench.record("RSS, idle with a container", [rss / 1000], "MB", targets=[Target("median", 20)])
        bench.record("PSS, idle with a container", [pss / 1000], "MB")
        # The first ones fill what is kept for the next: codecs, the tables of HTTP/2, free lists.
        await _execs(shim, recorder, 50)
        before = memory(server.pid)[1]
        number = bench.rounds(200, 50)
        await _execs(shim, recorder, number)
        await quiet()
        grown = memory(server.pid)[1] - before
        bench.record(f"growth over {number} execs", [grown / 1000], "MB", targets=[Target("median", 1)])
        await shim.delete(DeleteRequest(pid=init))


async def _execs(shim: ShimStub, recorder: Recorder, number: int) -> None:
    async def one() -> None:
        pid = (await shim.exec(ExecRequest(args=["true"]))).pid
        await recorder.wait_for(EXIT, pid)
        await shim.delete(DeleteRequest(pid=pid))

    for _ in range(number // _AT_ONCE + 1):
        await asyncio.gather(*(one() for _ in range(_AT_ONCE)))
        recorder.seen.clear()


async def _warm(bench: Bench) -> None:
    number = bench.rounds(10, 2)
    before = set(children())
    async with shimpy.WarmLauncher() as launcher, contextlib.AsyncExitStack() as shims:
        (warm,) = set(children()) - before
        for _ in range(number):
            await shims.enter_async_context(launcher.launch(runtime=bench.runtime, log_level="error"))
        each = [memory(pid)[1] / 1000 for pid in children(warm)]
    bench.record(f"PSS of each of {number} forked shims", each, "MB", targets=[Target("median", 14)])


async def _further(bench: Bench, bundle: str) -> None:
    number = bench.rounds(10, 5)
    done = subprocess.run(
        python("-m", __name__, bundle, bench.runtime, bench.new_id(), str(number)),
        capture_output=True,
        text=True,
        check=True,
    )
    bench.record(
        f"each of {number} further containers in one process",
        [float(done.stdout)],
        "kB",
        targets=[Target("median", 150)],
    )


async def _embedded(bundle: str, runtime: str, prefix: str, number: int) -> float:
    """Returns how many kB of PSS each container adds, in this process, to the first ones."""
    async with contextlib.AsyncExitStack() as shims:

        async def add(name: str) -> None:
            shim = await shims.enter_async_context(Shim(runtime=runtime))
            pid = (await shim.create(CreateRequest(id=f"{prefix}-{name}", bundle=bundle))).pid
            shims.push_async_callback(shim.delete, DeleteRequest(pid=pid))
            await shim.start(StartRequest())

        # What the first ones leave in free lists is not theirs alone.
        for first in range(3):
            await add(f"first-{first}")
        before = memory(os.getpid())[1]
        for one in range(number):
            await add(str(one))
        return (memory(os.getpid())[1] - before) / number


if __name__ == "__main__":
    _, bundle, runtime, prefix, number = sys.argv
    print(asyncio.run(_embedded(bundle, runtime, prefix, int(number))))
