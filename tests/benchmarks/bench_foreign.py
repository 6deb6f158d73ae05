"""The same lives as in `calls`, for Google's client: what the caller of another language waits."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import grpc

from shimpy.core.reaper.subreaper import Subreaper
from tests.benchmarks.bench import Bench
from tests.benchmarks.bench_calls import bare_life, record_lives
from tests.support.foreign import compile_client


async def measure(bench: Bench) -> None:
    directory = bench.directory / "foreign"
    directory.mkdir()
    messages, stubs = compile_client(directory)
    async with bench.served() as (server, _, _):
        with grpc.insecure_channel(f"unix:{server.socket}") as channel:
            await asyncio.to_thread(_lives, bench, messages, stubs.ShimStub(channel))


def _lives(bench: Bench, messages: Any, shim: Any) -> None:
    bundle = bench.bundle("true")
    times: dict[str, list[float]] = defaultdict(list)
    bare: dict[str, list[float]] = defaultdict(list)

    def call(name: str, method: Callable[[Any], Any], request: Any) -> Any:
        began = time.perf_counter()
        reply = method(request)
        times[name].append((time.perf_counter() - began) * 1000)
        return reply

    Subreaper.acquire()
    try:
        for _ in range(bench.rounds(30, 3)):
            bare_life(bench, bench.runtime, bundle, bare)
            create = messages.CreateRequest(id=bench.new_id(), bundle=bundle)
            pid = call("Create", shim.Create, create).pid
            call("Start", shim.Start, messages.StartRequest())
            while os.path.exists(f"/proc/{pid}"):
                time.sleep(0.001)  # between two looks: it is not our child
            call("Delete", shim.Delete, messages.DeleteRequest(pid=pid))
    finally:
        Subreaper.release()
    record_lives(bench, f"{bench.runtime}, by grpcio", times, bare)
