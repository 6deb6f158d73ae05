"""What version 1 counts of block devices (blkio-controller in the kernel's docs)."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Final

from shimpy.core.cgroup.stats.files import Files, device_number, number


@dataclass(frozen=True, slots=True)
class BlkioEntry:
    """One counter of a device; `op` is empty where the kernel counts all operations together."""

    op: str
    device: str
    major: int
    minor: int
    value: int


@dataclass(frozen=True, slots=True)
class BlkioStat:
    """What blkio counts of a cgroup and those below it."""

    io_service_bytes_recursive: tuple[BlkioEntry, ...] = ()
    io_serviced_recursive: tuple[BlkioEntry, ...] = ()
    io_queued_recursive: tuple[BlkioEntry, ...] = ()
    io_service_time_recursive: tuple[BlkioEntry, ...] = ()
    io_wait_time_recursive: tuple[BlkioEntry, ...] = ()
    io_merged_recursive: tuple[BlkioEntry, ...] = ()
    io_time_recursive: tuple[BlkioEntry, ...] = ()
    sectors_recursive: tuple[BlkioEntry, ...] = ()


# The counters of the CFQ scheduler (until Linux 5.0).
_CFQ: Final = {
    "io_serviced_recursive": "blkio.io_serviced_recursive",
    "io_service_bytes_recursive": "blkio.io_service_bytes_recursive",
    "io_queued_recursive": "blkio.io_queued_recursive",
    "io_service_time_recursive": "blkio.io_service_time_recursive",
    "io_wait_time_recursive": "blkio.io_wait_time_recursive",
    "io_merged_recursive": "blkio.io_merged_recursive",
    "io_time_recursive": "blkio.time_recursive",
    "sectors_recursive": "blkio.sectors_recursive",
}
# The others, which every kernel has; those of a cgroup by itself where there is none of all below it.
_THROTTLE: Final = {
    "io_serviced_recursive": "blkio.throttle.io_serviced",
    "io_service_bytes_recursive": "blkio.throttle.io_service_bytes",
}


def blkio(files: Files) -> BlkioStat:
    """Returns what the controller blkio counts: of CFQ if that schedules anything, else of the throttle."""
    if files.text("blkio.io_serviced_recursive"):
        entries = {field: _entries(files.text(name) or "") for field, name in _CFQ.items()}
        if any(entries.values()):
            return BlkioStat(**entries)
    return BlkioStat(
        **{
            field: _entries(files.text(f"{name}_recursive") or files.text(name) or "")
            for field, name in _THROTTLE.items()
        }
    )


def _entries(text: str) -> tuple[BlkioEntry, ...]:
    """Returns what is counted in lines such as `8:0 Read 4096`; the last, `Total 4096`, names no device."""
    entries = []
    for line in text.splitlines():
        first, *op, value = line.split() if line.count(" ") in (1, 2) else ("", "")
        device = device_number(first)
        if device is not None:
            entries.append(BlkioEntry("".join(op), _device(*device), *device, number(value)))
    return tuple(entries)


@functools.lru_cache(maxsize=256)
def _device(major: int, minor: int) -> str:
    """Returns the path that a block device has as a rule, empty if there is none."""
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    except OSError:
        return ""
    return "/dev/" + name.replace("!", "/")
