"""Creating files as another user while keeping one's capabilities: setfsuid(2), capset(2)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# _LINUX_CAPABILITY_VERSION_3 (capget(2)).
_VERSION: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextmanager
def file_owner(uid: int, gid: int) -> Iterator[None]:
    """Makes what this thread creates belong to a user and a group, for the time of the block.

    A filesystem that was mounted in a user namespace takes no file of a user that is not mapped there, such
    as root outside (EOVERFLOW). The thread may do all that it could before.

    Args:
        uid: as this process numbers it.
        gid: likewise.
    """
    before = _capabilities()
    # In this order, and back in the other: with the user go the capabilities that concern files.
    group = _libc.setfsgid(gid)
    user = _libc.setfsuid(uid)
    try:
        _set_capabilities([(permitted, permitted, inheritable) for _, permitted, inheritable in before])
        yield
    finally:
        _libc.setfsuid(user)
        _libc.setfsgid(group)
        _set_capabilities(before)


def _capabilities() -> list[tuple[int, int, int]]:
    sets = (_Sets * 2)()
    _check(_libc.capget(ctypes.byref(_Header(_VERSION, 0)), sets), "capget")
    return [(one.effective, one.permitted, one.inheritable) for one in sets]


def _set_capabilities(values: list[tuple[int, int, int]]) -> None:
    sets = (_Sets * 2)(*(_Sets(*one) for one in values))
    _check(_libc.capset(ctypes.byref(_Header(_VERSION, 0)), sets), "capset")


def _check(result: int, call: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), call)
