"""Devices of the host's, as the OCI runtime-spec has them."""

from __future__ import annotations

import os
import stat
from typing import Any

from shimpy.errors import InvalidArgumentError, from_oserror


def device(path: str) -> dict[str, Any]:
    """Returns a device for a container that sees it by the same path (config-linux.md, devices).

    Args:
        path: of the device, absolute.

    Raises:
        InvalidArgumentError: it is not there, or not a device.
        ShimError: it cannot be looked at; the class says what kind of reason it was.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise InvalidArgumentError(f"devices: there is no {path}") from error
    except OSError as error:
        raise from_oserror(error, f"devices: {path}") from error
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        raise InvalidArgumentError(f"devices: {path} is not a device")
    return {
        "path": path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": 0,
        "gid": 0,
    }
