"""From exec to the first reply: `python -m shimpy`, beside an interpreter that imports asyncio; and warm."""

from __future__ import annotations

import time

import shimpy
from shimpy.api import StateRequest
from tests.benchmarks.bench import Bench, command, cpu, python
from tests.benchmarks.figures import Target
from tests.support.servers import Server


async def measure(bench: Bench) -> None:
    walls, cpus, bare = [], [], []
    for _ in range(bench.rounds(15, 3)):
        bare.append(command(*python("-c", "import asyncio")))
        began = time.perf_counter()
        server = Server(["--runtime", bench.runtime, "--log-level", "error"])
        try:
            server.wait_until_it_listens()
            await server.stub().state(StateRequest())
            walls.append((time.perf_counter() - began) * 1000)
            cpus.append(cpu(server.pid))
        finally:
            server.close()
    bench.record("first reply", walls, "ms", bare=bare, targets=[Target("ratio", 1.5)])
    bench.record("CPU to the first reply", cpus, "ms")
    warm = []
    async with shimpy.WarmLauncher() as launcher:
        async with launcher.launch(runtime=bench.runtime):
            pass  # it has finished importing
        for _ in range(bench.rounds(30, 3)):
            began = time.perf_counter()
            async with launcher.launch(runtime=bench.runtime, log_level="error"):
                warm.append((time.perf_counter() - began) * 1000)
    bench.record("first reply, forked from a warm process", warm, "ms", targets=[Target("median", 20)])
