"""How fast output comes: through a FIFO, beside a bare FIFO; from a terminal, beside a loop in C.

The same program in the same kind of container writes in all four, since a container alone slows it down.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

from shimpy.api import CreateRequest, DeleteRequest, StartRequest
from tests.benchmarks.bench import Bench, cpu
from tests.benchmarks.figures import Target

_BLOCK = 1 << 20


async def measure(bench: Bench) -> None:
    await _fifo(bench, bench.rounds(2000, 100))
    await _terminal(bench, bench.rounds(300, 50))
    await _recorded(bench, bench.rounds(100, 20), bench.rounds(10, 2))


async def _recorded(bench: Bench, size: int, seconds: int) -> None:
    """Text on a terminal, a flood and a line every 20 ms, with `shimpy.hooks.recorder` and without."""
    casts = bench.directory / "casts"
    hooks = bench.directory / "hooks.toml"
    hooks.write_text(f'[[hooks]]\nuse = "shimpy.hooks.recorder:SessionRecorder"\ndirectory = "{casts}"\n')
    text = " ".join(f"{number:06}" for number in range(0, 1000000, 99999))
    flood = f"yes '{text}' | head -c {size}000000"
    session = f"for i in $(seq {50 * seconds}); do echo '{text}'; usleep 20000; done"
    for name, script, amount, unit in (
        ("recorded terminal", flood, size, "ms/MB"),
        ("recorded session", session, seconds, "ms/s"),
    ):
        costs: list[float] = []
        bare: list[float] = []
        for _ in range(5):
            for figures, options in ((bare, ()), (costs, (f"--hooks={hooks}",))):
                writer = ["sh", "-c", script]
                figures.append((await _through_a_shim(bench, amount, writer, *options, terminal=True))[1])
        for cast in casts.iterdir():
            cast.unlink()
        bench.record(f"CPU of the shim, {name}", costs, unit, bare=bare, targets=[Target("ratio", 1.3)])


async def _fifo(bench: Bench, size: int) -> None:
    rates, costs, bare = [], [], []
    for _ in range(3):
        bare.append(await asyncio.to_thread(_bare_fifo, bench.fifo(), _in_a_container(bench, size)))
        rate, cost = await _through_a_shim(bench, size, _writer(size), terminal=False)
        rates.append(rate)
        costs.append(cost)
    bench.record("output to a FIFO", rates, "MB/s", bare=bare, targets=[Target("ratio", 0.9, least=True)])
    bench.record("CPU of the shim, FIFO", costs, "ms/MB", targets=[Target("median", 0.01)])


async def _terminal(bench: Bench, size: int) -> None:
    compiler = shutil.which("cc")
    loop = bench.directory / "pty_loop"
    if compiler is None:
        bench.note("no C compiler: the terminal is measured without what a bare loop in C gives")
    else:
        subprocess.run([compiler, "-O2", "-o", loop, Path(__file__).with_name("pty_loop.c")], check=True)
    rates, costs, bare = [], [], []
    for _ in range(3):
        if compiler is not None:
            done = subprocess.run(
                [loop, *_in_a_container(bench, size)], stdout=subprocess.PIPE, text=True, check=True
            )
            bare.append(float(done.stdout))
        rate, cost = await _through_a_shim(bench, size, _writer(size), terminal=True)
        rates.append(rate)
        costs.append(cost)
    bench.record(
        "output of a terminal",
        rates,
        "MB/s",
        bare=bare,
        # Either will do; what a terminal can give depends on the machine.
        targets=[Target("ratio", 0.8, least=True) if bare else Target("median", 150, least=True)],
    )
    bench.record("CPU of the shim, terminal", costs, "ms/MB")


def _writer(size: int) -> list[str]:
    return ["dd", "if=/dev/zero", "bs=1M", f"count={size}"]


def _in_a_container(bench: Bench, size: int) -> list[str]:
    bundle = bench.bundle(*_writer(size))
    return [bench.runtime, "run", "--bundle", bundle, bench.new_id()]


def _bare_fifo(fifo: str, command: list[str]) -> float:
    nothing = subprocess.DEVNULL
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.set_blocking(reader, True)
        writer = os.open(fifo, os.O_WRONLY)
        try:
            process = subprocess.Popen(command, stdout=writer, stdin=nothing, stderr=nothing)
        finally:
            os.close(writer)
        with process:
            return _read(reader)
    finally:
        os.close(reader)


def _read(fd: int) -> float:
    """Reads to the end, and returns the MB/s from the first byte on."""
    buffer = bytearray(_BLOCK)
    total = os.readv(fd, [buffer])
    began = time.perf_counter()
    while got := os.readv(fd, [buffer]):
        total += got
    return total / (time.perf_counter() - began) / 1e6


async def _through_a_shim(
    bench: Bench, size: int, writer: list[str], *options: str, terminal: bool
) -> tuple[float, float]:
    bundle = bench.bundle(*writer, terminal=terminal)
    fifo = bench.fifo()

    def read() -> float:
        with open(fifo, "rb", 0) as file:
            return _read(file.fileno())

    async with bench.served("", *options) as (server, shim, _):
        pid = (
            await shim.create(CreateRequest(id=bench.new_id(), bundle=bundle, terminal=terminal, stdout=fifo))
        ).pid
        reading = asyncio.ensure_future(asyncio.to_thread(read))
        before = cpu(server.pid)
        await shim.start(StartRequest())
        if terminal:
            # The reader sees the end when the terminal is let go of, at the Delete.
            while os.path.exists(f"/proc/{pid}"):
                await asyncio.sleep(0.005)  # between two looks: it is not our child
            spent = cpu(server.pid) - before
            await shim.delete(DeleteRequest(pid=pid))
            return await reading, spent / size
        rate = await reading
        spent = cpu(server.pid) - before
        await shim.delete(DeleteRequest(pid=pid))
    return rate, spent / size
