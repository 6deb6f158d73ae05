"""The small init that a sandbox has: where it is, outside and inside."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from typing import Final

from shimpy.errors import NotFoundError

_log = logging.getLogger("shimpy.shim")

# Inside: on the tmpfs at /dev, so that a root filesystem that is not ours needs no file to mount it on.
PATH: Final = "/dev/init"

_PROGRAM: Final = "tini-static"


def find_init(init: bool | str | os.PathLike[str] | None) -> str | None:
    """Returns the path of the init to use, None for none.

    Args:
        init: as `SandboxOptions` has it; None: if there is one.

    Raises:
        NotFoundError: it is asked for, and not there.
    """
    if init is False:
        return None
    if init is not None and init is not True:
        return os.fspath(init)
    found = shutil.which(_PROGRAM)
    if found is None and init:
        raise NotFoundError(f"init: there is no {_PROGRAM}; install it (Debian: tini), or give init=False")
    if found is None:
        _warn()
    return found


@functools.cache
def _warn() -> None:
    """Warns, once."""
    _log.warning(
        "there is no %s (Debian: tini): what a command leaves behind is reaped only with its container",
        _PROGRAM,
    )
