"""One command in a container of its own, from nothing to its result; and many containers in one process."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import shimpy
from shimpy.core.reaper.subreaper import Subreaper
from tests.benchmarks.bench import Bench, command, timed
from tests.benchmarks.figures import Target
from tests.support.leaks import memory

# Sandboxes in one process.
_MANY = 100


async def measure(bench: Bench) -> None:
    await _one_shot(bench)
    await _sandbox(bench)
    await _command_line(bench)
    await _many(bench)


async def _one_shot(bench: Bench) -> None:
    """Measures `shimpy.run` and what it stands on beside the three commands of a life, and `runc run`."""
    bundle = bench.bundle("true")
    bare, foreground, in_process, whole = [], [], [], []
    Subreaper.acquire()  # so that the bare container's init is ours to wait for
    try:
        for _ in range(bench.rounds(30, 3)):
            bare.append(_life(bench, bundle))
            foreground.append(command(bench.runtime, "run", "--bundle", bundle, bench.new_id()))
            async with shimpy.in_process(runtime=bench.runtime) as client:
                in_process.append((await timed(client.run(bench.new_id(), bundle)))[0])
            whole.append((await timed(shimpy.run(bundle, runtime=bench.runtime)))[0])
    finally:
        Subreaper.release()
    targets = [Target("ratio", 1.15)]
    bench.record("one-shot in process", in_process, "ms", bare=bare, targets=targets)
    bench.record("shimpy.run of a bundle", whole, "ms", bare=bare, targets=targets)
    bench.record("runtime's run", foreground, "ms", bare=bare)


async def _sandbox(bench: Bench) -> None:
    """Measures `shimpy.run` in the default sandbox, and the same bundle on the bare runtime."""
    rootfs = bench.directory / "rootfs"
    bare, whole = [], []
    Subreaper.acquire()
    try:
        async with shimpy.temporary_bundle(rootfs, ["true"]) as bundle:
            for _ in range(bench.rounds(30, 3)):
                bare.append(_life(bench, str(bundle)))
                whole.append((await timed(shimpy.run(rootfs, ["true"], runtime=bench.runtime)))[0])
    finally:
        Subreaper.release()
    bench.record("shimpy.run in the default sandbox", whole, "ms", bare=bare, targets=[Target("ratio", 1.3)])


def _life(bench: Bench, bundle: str) -> float:
    container, pid_file = bench.new_id(), bench.directory / "pid"
    spent = command(bench.runtime, "create", "--bundle", bundle, "--pid-file", str(pid_file), container)
    spent += command(bench.runtime, "start", container)
    os.waitpid(int(pid_file.read_text()), 0)
    return spent + command(bench.runtime, "delete", container)


async def _command_line(bench: Bench) -> None:
    """Measures `shimpy run` beside `podman run`, where there is one."""
    rootfs = str(bench.directory / "rootfs")
    ours, podmans = [], []
    podman = ["podman", "run", "--rm", "--network", "none", "--rootfs", rootfs, "true"]
    if shutil.which("podman") is None:
        bench.note("there is no podman to compare `shimpy run` with")
        podman = []
    elif subprocess.run(podman, check=False, capture_output=True).returncode != 0:
        bench.note("podman does not run here")
        podman = []
    shim = str(Path(sys.executable).with_name("shimpy"))
    for _ in range(bench.rounds(15, 3)):
        if podman:
            podmans.append(command(*podman))
        ours.append(command(shim, "run", "--runtime", bench.runtime, rootfs, "true"))
    bench.record("shimpy run, the command", ours, "ms", bare=podmans, targets=[Target("ratio", 1.0)])


async def _many(bench: Bench) -> None:
    """Measures how long it takes until many sandboxes run, eight at a time, and what each takes of memory."""
    rootfs = bench.directory / "rootfs"
    sleeps = ["sleep", "1000000"]
    turns = asyncio.Semaphore(8)

    async def alone(container: str, bundle: Path) -> None:
        async with turns:
            for arguments in (["create", "--bundle", bundle], ["start"]):
                process = await asyncio.create_subprocess_exec(
                    bench.runtime,
                    *arguments,
                    container,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                await process.wait()

    async def all_alone(ids: list[str], bundle: Path) -> None:
        await asyncio.gather(*(alone(container, bundle) for container in ids))

    async with shimpy.temporary_bundle(rootfs, sleeps) as bundle:
        ids = [bench.new_id() for _ in range(_MANY)]
        bare = (await timed(all_alone(ids, bundle)))[0]
        for container in ids:
            command(bench.runtime, "delete", "--force", container)

    up = asyncio.Semaphore(0)
    over = asyncio.Event()

    async def one() -> None:
        async with shimpy.in_process(runtime=bench.runtime) as client, AsyncExitStack() as held:
            async with turns:
                own = await held.enter_async_context(shimpy.temporary_bundle(rootfs, sleeps))
                await held.enter_async_context(client.container(bench.new_id(), own))
            up.release()
            await over.wait()

    before = memory()
    tasks = [asyncio.ensure_future(one()) for _ in range(_MANY)]

    async def all_up() -> None:
        for _ in range(_MANY):
            await up.acquire()

    spent = (await timed(all_up()))[0]
    each = (memory() - before) / _MANY / 1000
    over.set()
    await asyncio.gather(*tasks)
    bench.record(
        f"{_MANY} sandboxes in one process", [spent], "ms", bare=[bare], targets=[Target("ratio", 1.2)]
    )
    bench.record("memory of each of these", [each], "kB", targets=[Target("median", 150)])
