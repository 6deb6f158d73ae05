"""What the files of a container's cgroups say, by the names that `ctr tasks metrics` has for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.containers import cgroups

_NO_LIMIT = 2**64 - 1
_TICK = 10_000_000  # nanoseconds

# Version 1's own names of what its messages call otherwise.
_V1_MEMORY = {
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
    **{
        f"{total}{file}": f"{total}{field}"
        for total in ("", "total_")
        for file, field in (
            ("pgpgin", "pg_pg_in"), ("pgpgout", "pg_pg_out"),
            ("pgfault", "pg_fault"), ("pgmajfault", "pg_maj_fault"),
        )
    },
}  # fmt: skip
_V1_COUNTERS = {
    "usage": "memory", "swap": "memory.memsw", "kernel": "memory.kmem", "kernel_tcp": "memory.kmem.tcp",
}  # fmt: skip
_V1_COUNTER = {
    "limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt",
}  # fmt: skip
_V2_MEMORY = {
    "usage": "memory.current", "usage_limit": "memory.max", "max_usage": "memory.peak",
    "swap_usage": "memory.swap.current", "swap_limit": "memory.swap.max",
    "swap_max_usage": "memory.swap.peak",
}  # fmt: skip


def flat(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yields the numbers of a message in JSON, each with the names that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{name}.{number}")
    elif isinstance(value, int):
        yield name, value


def read(container: str) -> dict[str, int]:
    """Reads the files of a container's cgroups."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        (directory,) = map(Path, cgroups(container))
        return dict(_v2(directory))
    found = {}
    for path in map(Path, cgroups(container)):
        found.update(dict.fromkeys(path.parts[4].split(","), path))
    return dict(_v1(found))


def _v1(directories: dict[str, Path]) -> Iterator[tuple[str, int]]:
    pids, memory = directories["pids"], directories["memory"]
    yield "pids.current", _number(pids / "pids.current")
    if (pids / "pids.max").read_text() != "max\n":
        yield "pids.limit", _number(pids / "pids.max")
    cpuacct = directories["cpuacct"]
    yield "cpu.usage.total", _number(cpuacct / "cpuacct.usage")
    for number, used in enumerate((cpuacct / "cpuacct.usage_percpu").read_text().split()):
        yield f"cpu.usage.per_cpu.{number}", int(used)
    ticks = _pairs(cpuacct / "cpuacct.stat")
    yield "cpu.usage.user", ticks["user"] * _TICK
    yield "cpu.usage.kernel", ticks["system"] * _TICK
    throttling = _pairs(directories["cpu"] / "cpu.stat")
    yield "cpu.throttling.periods", throttling["nr_periods"]
    yield "cpu.throttling.throttled_periods", throttling["nr_throttled"]
    yield "cpu.throttling.throttled_time", throttling["throttled_time"]
    for name, value in _pairs(memory / "memory.stat").items():
        yield f"memory.{_V1_MEMORY.get(name, name)}", value
    for field, prefix in _V1_COUNTERS.items():
        for part, file in _V1_COUNTER.items():
            yield f"memory.{field}.{part}", _number(memory / f"{prefix}.{file}")
    for name, value in _pairs(memory / "memory.oom_control").items():
        yield f"memory_oom_control.{name}", value


def _v2(directory: Path) -> Iterator[tuple[str, int]]:
    yield "pids.current", _number(directory / "pids.current")
    yield "pids.limit", _number(directory / "pids.max")
    for name, value in _pairs(directory / "cpu.stat").items():
        yield f"cpu.{name}", value
    for name, value in _pairs(directory / "memory.stat").items():
        yield f"memory.{name}", value
    for field, file in _V2_MEMORY.items():
        if (directory / file).exists():
            yield f"memory.{field}", _number(directory / file)
    for name, value in _pairs(directory / "memory.events").items():
        yield f"memory_events.{name}", value


def _number(path: Path) -> int:
    text = path.read_text().strip()
    return _NO_LIMIT if text == "max" else int(text)


def _pairs(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
