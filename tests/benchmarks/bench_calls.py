"""What each call adds to the runtime's own command, and a whole life to the three commands of one."""

from __future__ import annotations

import os
from collections import defaultdict

from shimpy.api import CreateRequest, DeleteRequest, ExecRequest, ShimStub, StartRequest
from shimpy.core.reaper.subreaper import Subreaper
from tests.benchmarks.bench import Bench, command, timed
from tests.benchmarks.figures import Target
from tests.support.events import Recorder
from tests.support.kinds import EXIT

_ADDED = (Target("added", 3), Target("added_p99", 10))


async def measure(bench: Bench) -> None:
    for runtime in bench.runtimes:
        await _lives(bench, runtime)
        await _execs(bench, runtime)


async def _lives(bench: Bench, runtime: str) -> None:
    bundle = bench.bundle("true")
    times: dict[str, list[float]] = defaultdict(list)
    bare: dict[str, list[float]] = defaultdict(list)

    # So that the bare container's init is ours to wait for.
    Subreaper.acquire()
    try:
        async with bench.served(runtime) as (_, shim, recorder):
            for _ in range(bench.rounds(30, 3)):
                bare_life(bench, runtime, bundle, bare)
                request = CreateRequest(id=bench.new_id(), bundle=bundle)
                spent, created = await timed(shim.create(request))
                times["Create"].append(spent)
                times["Start"].append((await timed(shim.start(StartRequest())))[0])
                await recorder.wait_for(EXIT, created.pid)
                times["Delete"].append((await timed(shim.delete(DeleteRequest(pid=created.pid))))[0])
    finally:
        Subreaper.release()
    record_lives(bench, runtime, times, bare)


def bare_life(bench: Bench, runtime: str, bundle: str, times: dict[str, list[float]]) -> None:
    """Creates, starts and deletes a container with the runtime's own commands.

    Args:
        bench: the run; this process has to be a child subreaper.
        runtime: whose commands.
        bundle: of a program that ends.
        times: gets the milliseconds of each, as Create, Start and Delete.
    """
    container, pid_file = bench.new_id(), bench.directory / "pid"
    create = [runtime, "create", "--bundle", bundle, "--pid-file", str(pid_file), container]
    times["Create"].append(command(*create))
    times["Start"].append(command(runtime, "start", container))
    os.waitpid(int(pid_file.read_text()), 0)
    times["Delete"].append(command(runtime, "delete", container))


def record_lives(bench: Bench, by: str, times: dict[str, list[float]], bare: dict[str, list[float]]) -> None:
    """Notes what each call of a life adds to the runtime's own command, and a whole life.

    Args:
        bench: the run.
        by: which lives.
        times: the milliseconds of Create, Start and Delete.
        bare: those of the runtime's commands.
    """
    for call in ("Create", "Start", "Delete"):
        bench.record(f"{call} ({by})", times[call], "ms", bare=bare[call], targets=_ADDED)
    whole, of_bare = ([sum(life) for life in zip(*kind.values(), strict=True)] for kind in (times, bare))
    bench.record(f"Create, Start, Delete ({by})", whole, "ms", bare=of_bare, targets=[Target("ratio", 1.15)])


async def _execs(bench: Bench, runtime: str) -> None:
    bundle = bench.bundle("sleep", "1000000")
    replies, exits, bare_replies, bare_exits = [], [], [], []
    async with bench.served(runtime) as (_, shim, recorder):
        container = bench.new_id()
        init = (await shim.create(CreateRequest(id=container, bundle=bundle))).pid
        await shim.start(StartRequest())
        for _ in range(bench.rounds(30, 3)):
            bare_replies.append(command(runtime, "exec", "--detach", container, "true"))
            bare_exits.append(command(runtime, "exec", container, "true"))
            spent, reply = await timed(shim.exec(ExecRequest(args=["true"])))
            replies.append(spent)
            await recorder.wait_for(EXIT, reply.pid)
            await shim.delete(DeleteRequest(pid=reply.pid))
            spent, pid = await timed(_run(shim, recorder))
            exits.append(spent)
            await shim.delete(DeleteRequest(pid=pid))
        await shim.delete(DeleteRequest(pid=init))
    bench.record(f"Exec to the reply ({runtime})", replies, "ms", bare=bare_replies, targets=_ADDED)
    bench.record(f"Exec to the EXIT ({runtime})", exits, "ms", bare=bare_exits, targets=_ADDED)


async def _run(shim: ShimStub, recorder: Recorder) -> int:
    """Runs an exec until its exit has been told, and returns its pid."""
    reply = await shim.exec(ExecRequest(args=["true"]))
    await recorder.wait_for(EXIT, reply.pid)
    return reply.pid
