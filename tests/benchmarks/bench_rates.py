"""How many: State calls and events each second, and fifty execs at once."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time

from shimpy.api import CreateRequest, DeleteRequest, Event, ExecRequest, StartRequest, StateRequest
from shimpy.services.shim_v1 import Shim
from shimpy.transport import unix
from shimpy.transport.grpc import GrpcServer
from tests.benchmarks.bench import Bench
from tests.support.events import record
from tests.support.kinds import EXEC_ADDED, EXIT

_AT_ONCE = 50
_BATCH = 500


async def measure(bench: Bench) -> None:
    await _state(bench)
    for subscribers in (1, 100):
        await _events(bench, subscribers)
    await _execs(bench)


async def _state(bench: Bench) -> None:
    rates = []
    async with bench.served() as (_, shim, _):
        for _ in range(3):
            number = bench.rounds(1000, 100)
            began = time.perf_counter()
            for _ in range(number // 10):
                await asyncio.gather(*(shim.state(StateRequest()) for _ in range(10)))
            rates.append(number / (time.perf_counter() - began))
    bench.record("State, ten at a time", rates, "calls/s")


async def _events(bench: Bench, subscribers: int) -> None:
    """With service and subscribers in one process, so that nothing but publishing makes events."""
    from grpclib.client import Channel

    from shimpy.api import ShimStub

    rates = []
    path = str(bench.directory / f"events{subscribers}")
    async with Shim(runtime=bench.runtime) as shim, contextlib.AsyncExitStack() as stack:
        place = unix.listen(path)
        stack.callback(place.remove)
        server = GrpcServer([shim], admit=unix.admit)
        await server.start(place.socket)
        channel = await stack.enter_async_context(Channel(path=path))
        stub = ShimStub(channel)
        recorders = [await stack.enter_async_context(record(stub)) for _ in range(subscribers)]
        for _ in range(3):
            for recorder in recorders:
                recorder.seen.clear()
            number = _BATCH if subscribers == 1 else _BATCH // 10
            began = time.perf_counter()
            for pid in range(1, number + 1):
                shim._events.publish(Event(id="bench", type=EXIT, pid=pid))
            await asyncio.gather(*(recorder.wait_for(EXIT, number) for recorder in recorders))
            rates.append(number * subscribers / (time.perf_counter() - began))
        shim.close_events()
        for recorder in recorders:
            await recorder.ended()
        channel.close()
        await server.drain(1, end_streams=shim.close_events)
    bench.record(f"events to {subscribers} (client in the same process)", rates, "events/s")


async def _execs(bench: Bench) -> None:
    bundle = bench.bundle("sleep", "1000000")
    for runtime in bench.runtimes:
        spans, bare = [], []
        async with bench.served(runtime) as (_, shim, recorder):
            container = bench.new_id()
            init = (await shim.create(CreateRequest(id=container, bundle=bundle))).pid
            await shim.start(StartRequest())
            for _ in range(bench.rounds(2)):
                began = time.perf_counter()
                commands = [
                    subprocess.Popen(
                        [runtime, "exec", "--detach", container, "true"],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                    for _ in range(_AT_ONCE)
                ]
                for one in commands:
                    one.wait()
                bare.append((time.perf_counter() - began) * 1000)
                recorder.seen.clear()
                began = time.perf_counter()
                replies = await asyncio.gather(
                    *(shim.exec(ExecRequest(args=["true"])) for _ in range(_AT_ONCE))
                )
                spans.append((time.perf_counter() - began) * 1000)
                await recorder.wait_for(EXEC_ADDED, count=_AT_ONCE)
                for reply in replies:
                    await recorder.wait_for(EXIT, reply.pid)
                    await shim.delete(DeleteRequest(pid=reply.pid))
            await shim.delete(DeleteRequest(pid=init))
        bench.record(f"{_AT_ONCE} execs at once, to the last reply ({runtime})", spans, "ms", bare=bare)
