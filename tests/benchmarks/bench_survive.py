"""What it costs that a shim may be killed: in each Exec, in memory, and until it answers again."""

from __future__ import annotations

import os
import signal
import struct
import time
from pathlib import Path

from shimpy.api import CreateRequest, DeleteRequest, ExecRequest, ShimStub, StartRequest, StateRequest
from tests.benchmarks.bench import Bench, memory, quiet
from tests.benchmarks.figures import Target
from tests.support import leaks
from tests.support.events import record
from tests.support.kinds import EXIT
from tests.support.servers import Server

# Loaded into the shim, where it takes the time.
_TIMED = "tests.benchmarks.spent:Spent"


async def measure(bench: Bench) -> None:
    bundle = bench.bundle("sleep", "1000000")
    cold = await _cold(bench)
    spent = bench.directory / "spent"
    spent.write_bytes(bytes(8))
    server = Server(
        ["--runtime", bench.runtime, "--log-level", "error", "--supervise", f"--hooks={_TIMED}"],
        environment={"SHIMPY_BENCH_SPENT": str(spent)},
    )
    try:
        server.wait_until_it_listens()
        shim = server.stub()
        init = (await shim.create(CreateRequest(id=bench.new_id(), bundle=bundle))).pid
        await shim.start(StartRequest())
        await _execs(bench, shim, spent)
        await quiet()
        bench.record("PSS of a keeper", [memory(server.pid)[1] / 1000], "MB", targets=[Target("median", 5)])
        again = [await _killed(server) for _ in range(bench.rounds(15, 3))]
        bench.record("first reply after a kill", again, "ms", bare=cold, targets=[Target("ratio", 2)])
        await server.stub().delete(DeleteRequest(pid=init))
    finally:
        server.close()


async def _execs(bench: Bench, shim: ShimStub, spent: Path) -> None:
    """Records the time within journal and store of an Exec, and of all its life to its Delete."""
    calls, lives = [], []
    async with record(shim) as recorder:
        for _ in range(bench.rounds(100, 10)):
            before = _seconds(spent)
            pid = (await shim.exec(ExecRequest(args=["true"]))).pid
            calls.append((_seconds(spent) - before) * 1000)
            await recorder.wait_for(EXIT, pid)
            await shim.delete(DeleteRequest(pid=pid))
            lives.append((_seconds(spent) - before) * 1000)
    bench.record("journal and store of an Exec", calls, "ms", targets=[Target("median", 0.5)])
    bench.record("journal and store, Exec to Delete", lives, "ms")


def _seconds(spent: Path) -> float:
    return float(struct.unpack("d", spent.read_bytes())[0])


async def _cold(bench: Bench) -> list[float]:
    """Returns the milliseconds from exec to the first reply of a shim that takes nothing up."""
    walls = []
    for _ in range(bench.rounds(15, 3)):
        began = time.perf_counter()
        server = Server(["--runtime", bench.runtime, "--log-level", "error"])
        try:
            server.wait_until_it_listens()
            await server.stub().state(StateRequest())
            walls.append((time.perf_counter() - began) * 1000)
        finally:
            server.close()
    return walls


async def _killed(server: Server) -> float:
    """Returns the milliseconds from the death of a shim to the first reply of the next one."""
    # The container's processes are the keeper's children, too, once a shim has died.
    [pid] = [pid for pid in leaks.children(server.pid) if b"\0shimpy\0" in _command_line(pid)]
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    await server.stub().state(StateRequest())
    return (time.perf_counter() - began) * 1000


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
