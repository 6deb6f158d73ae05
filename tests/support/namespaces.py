"""A mount namespace for one test, which goes with all that the test has mounted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

from shimpy.core.rootfs import syscalls
from shimpy.core.rootfs.apart import run_apart

P = ParamSpec("P")


def private_mounts(test: Callable[P, None]) -> Callable[P, None]:
    """Runs a test in a thread that has a mount namespace of its own; nobody else sees its mounts."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        def apart() -> None:
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            test(*args, **kwargs)

        run_apart(apart, syscalls.CLONE_NEWNS)

    return run
