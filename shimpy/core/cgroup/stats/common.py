"""What is counted alike in both versions of cgroups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shimpy.core.cgroup.stats.files import Files, number

_UNLIMITED: Final = 2**32 - 1  # the fields of these are of 32 bits


@dataclass(frozen=True, slots=True)
class RdmaEntry:
    """Handles and objects of one RDMA device."""

    device: str
    hca_handles: int
    hca_objects: int


@dataclass(frozen=True, slots=True)
class RdmaStat:
    """What is in use of each RDMA device, and how much may be."""

    current: tuple[RdmaEntry, ...]
    limit: tuple[RdmaEntry, ...]


def rdma(files: Files) -> RdmaStat | None:
    """Returns what the controller rdma counts, None if it counts nothing here."""
    current, limit = (_entries(files, name) for name in ("rdma.current", "rdma.max"))
    return RdmaStat(current, limit) if current or limit else None


def _entries(files: Files, name: str) -> tuple[RdmaEntry, ...]:
    return tuple(
        RdmaEntry(
            device,
            number(fields.get("hca_handle", ""), unlimited=_UNLIMITED),
            number(fields.get("hca_object", ""), unlimited=_UNLIMITED),
        )
        for device, fields in files.nested(name)
        if fields
    )
