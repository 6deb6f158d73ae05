"""Beside containerd's own shim, under the same containerd, alternately: run, exec, memory, rate, output."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import Bench, cpu, memory
from tests.benchmarks.figures import Target
from tests.support.containerd import RUNTIME, Containerd
from tests.support.forkservers import fork_servers

_STOCK = "io.containerd.runc.v2"
_STOCK_PROGRAM = "containerd-shim-runc-v2"
_BOTH = (RUNTIME, _STOCK)
_PODS = (8, 50)
_AT_ONCE = 4
_MEGABYTES = 256


async def measure(bench: Bench) -> None:
    """Measures, if there is a containerd; the first on PATH is taken."""
    if missing := [each for each in ("containerd", "ctr", _STOCK_PROGRAM) if shutil.which(each) is None]:
        bench.note(f"containerd: {missing[0]} is not installed, not measured")
        return
    for fork_server in (True, False):
        containerd = Containerd(fork_server=fork_server, level="info")
        try:
            runs = _Runs(bench, containerd)
            await asyncio.to_thread(runs.warm_up)
            if fork_server:
                await asyncio.to_thread(runs.all)
            else:
                await asyncio.to_thread(runs.run, " without the fork server", Target("ratio", 2))
        finally:
            containerd.close()


class _Runs:
    """What is measured under one containerd."""

    def __init__(self, bench: Bench, containerd: Containerd) -> None:
        self._bench = bench
        self._containerd = containerd
        self._rootfs = Path(bench.bundle("true")).parent / "rootfs"

    def warm_up(self) -> None:
        """Runs one of each, and waits for the fork server that the first begins."""
        for runtime in _BOTH:
            self._lifecycle(runtime)
        if self._containerd.fork_servers.exists():
            while not fork_servers(self._containerd.fork_servers):
                time.sleep(0.05)  # between two looks at its directory

    def all(self) -> None:
        """Measures everything."""
        self.run("", Target("ratio", 1.1))
        self._exec()
        self._rate()
        self._output()
        self._growth_over_containers()
        self._growth_over_execs()
        for number in _PODS:
            self._memory(number)

    def run(self, suffix: str, target: Target) -> None:
        """Measures `ctr run --rm true`."""
        ours: list[float] = []
        stock: list[float] = []
        for _ in range(self._bench.rounds(20, 3)):
            ours.append(_timed(lambda: self._lifecycle(RUNTIME)))
            stock.append(_timed(lambda: self._lifecycle(_STOCK)))
        self._bench.record(f"ctr run --rm true{suffix}", ours, "ms", bare=stock, targets=[target])

    def _exec(self) -> None:
        names = {runtime: self._detached(runtime, "sleep", "1000000") for runtime in _BOTH}
        samples: dict[str, list[float]] = {runtime: [] for runtime in _BOTH}
        for number in range(self._bench.rounds(20, 3)):
            for runtime, name in names.items():
                command = ("tasks", "exec", "--exec-id", f"e{number}", name, "true")
                samples[runtime].append(_timed(partial(self._containerd.ctr, *command)))
        self._bench.record(
            "ctr task exec true", samples[RUNTIME], "ms", bare=samples[_STOCK], targets=[Target("ratio", 1.1)]
        )
        for name in names.values():
            self._containerd.remove(name)

    def _rate(self) -> None:
        number = self._bench.rounds(24, 8)
        rates: dict[str, list[float]] = {runtime: [] for runtime in _BOTH}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in range(3):
                for runtime in _BOTH:
                    spent = _timed(partial(self._all, pool, [runtime] * number))
                    rates[runtime].append(number / spent * 1000)
        self._bench.record(
            f"lifecycles, {_AT_ONCE} at a time", rates[RUNTIME], "/s", bare=rates[_STOCK],
            targets=[Target("ratio", 0.9, least=True)],
        )  # fmt: skip

    def _output(self) -> None:
        speeds: dict[str, list[float]] = {runtime: [] for runtime in _BOTH}
        spent: dict[str, list[float]] = {runtime: [] for runtime in _BOTH}
        names = {runtime: self._detached(runtime, "sleep", "1000000") for runtime in _BOTH}
        for number in range(3):
            for runtime, name in names.items():
                (pid,) = self._shims(runtime)
                before = cpu(pid)
                script = f"head -c {_MEGABYTES}m /dev/zero"
                command = ("tasks", "exec", "--exec-id", f"o{number}", name, "sh", "-c", script)
                time_spent = _timed(partial(self._discard, *command))
                speeds[runtime].append(_MEGABYTES / time_spent * 1000)
                spent[runtime].append(cpu(pid) - before)
        self._bench.record(
            "exec output", speeds[RUNTIME], "MB/s", bare=speeds[_STOCK],
            targets=[Target("ratio", 0.9, least=True)],
        )  # fmt: skip
        self._bench.record(
            f"CPU of the shim for {_MEGABYTES} MB of exec output", spent[RUNTIME], "ms", bare=spent[_STOCK],
            targets=[Target("ratio", 1)],
        )  # fmt: skip
        for name in names.values():
            self._containerd.remove(name)

    def _growth_over_containers(self) -> None:
        """Measures the fork server, which each container's shim is forked from."""
        number = self._bench.rounds(100, 20)
        (pid,) = fork_servers(self._containerd.fork_servers).values()
        before = memory(pid)[0]
        for _ in range(number):
            self._lifecycle(RUNTIME)
        self._bench.record(
            f"growth of the fork server over {number} containers", [(memory(pid)[0] - before) / 1000], "MB",
            targets=[Target("median", 1)],
        )  # fmt: skip

    def _growth_over_execs(self) -> None:
        number = self._bench.rounds(200, 20)
        for runtime, whose in ((RUNTIME, "the shim"), (_STOCK, "containerd's own shim")):
            name = self._detached(runtime, "sleep", "1000000")
            (pid,) = self._shims(runtime)
            # The first ones fill what is kept for the next.
            self._execs(name, 20, "first")
            before = memory(pid)[0]
            self._execs(name, number, "e")
            self._bench.record(
                f"growth of {whose} over {number} execs", [(memory(pid)[0] - before) / 1000], "MB",
                targets=[Target("median", 1)] if runtime == RUNTIME else [],
            )  # fmt: skip
            self._containerd.remove(name)

    def _execs(self, name: str, number: int, prefix: str) -> None:
        for each in range(number):
            self._containerd.ctr("tasks", "exec", "--exec-id", f"{prefix}{each}", name, "true")

    def _memory(self, number: int) -> None:
        each: dict[str, float] = {}
        for runtime in _BOTH:
            names = [self._detached(runtime, "sleep", "1000000") for _ in range(number)]
            pids = self._shims(runtime)
            if len(pids) != number:
                raise AssertionError(f"{number} containers have {len(pids)} shims")
            if runtime == RUNTIME:
                pids = [*pids, *fork_servers(self._containerd.fork_servers).values()]
            each[runtime] = sum(memory(pid)[1] for pid in pids) / 1000 / number
            for name in names:
                self._containerd.remove(name)
        self._bench.record(
            f"PSS a shim, {number} of them, with the fork server's share", [each[RUNTIME]], "MB",
            bare=[each[_STOCK]], targets=[Target("ratio", 1.6 if number < 50 else 1.2)],
        )  # fmt: skip

    def _lifecycle(self, runtime: str) -> None:
        self._containerd.ctr(*self._run(runtime, self._bench.new_id(), "true", options=("--rm",)))

    def _all(self, pool: ThreadPoolExecutor, runtimes: list[str]) -> None:
        list(pool.map(self._lifecycle, runtimes))  # and so raises what one of them raises

    def _detached(self, runtime: str, *command: str) -> str:
        name = self._bench.new_id()
        self._containerd.ctr(*self._run(runtime, name, *command, options=("-d",)))
        return name

    def _run(self, runtime: str, name: str, *command: str, options: tuple[str, ...]) -> list[str]:
        usual = ["--runtime", runtime, "--env", "PATH=/bin", "--rootfs", "--read-only"]
        return ["run", *options, *usual, str(self._rootfs), name, *command]

    def _discard(self, *arguments: str) -> None:
        subprocess.run(
            self._containerd.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            check=True,
        )  # fmt: skip

    def _shims(self, runtime: str) -> list[int]:
        """Returns the processes of this containerd's shims of one kind."""
        program = _STOCK_PROGRAM if runtime == _STOCK else self._containerd.shim
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if self._containerd.namespace in words and any(word.endswith(program) for word in words[:3]):
                found.append(int(pid))
        return found


def _timed(call: Callable[[], object]) -> float:
    """Returns how many milliseconds a call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000
