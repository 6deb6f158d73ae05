"""Imported by a shim, as hooks: takes the time that is spent within journal and store.

It is in the file that SHIMPY_BENCH_SPENT names, as seconds: a double.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from typing import Any

import shimpy
from shimpy.core.journal import Journal
from shimpy.daemon.notify import ManagerStore

_file = os.open(os.environ["SHIMPY_BENCH_SPENT"], os.O_RDWR)


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            took = time.perf_counter() - began
            (before,) = struct.unpack("d", os.pread(_file, 8, 0))
            os.pwrite(_file, struct.pack("d", before + took), 0)

    return call


class Spent(shimpy.Hooks):
    """Does nothing: the module is what counts."""


for cls, name in ((Journal, "write"), (ManagerStore, "put"), (ManagerStore, "remove")):
    setattr(cls, name, _timed(getattr(cls, name)))
