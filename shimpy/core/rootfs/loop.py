"""Loop devices: a file that stands for a block device (loop(4))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from typing import Final

from shimpy.errors import InvalidArgumentError, ResourceExhaustedError

_CONTROL: Final = "/dev/loop-control"
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A  # Linux 5.8
_AUTOCLEAR: Final = 4
_DIRECT_IO: Final = 16
_ATTEMPTS: Final = 100

# struct loop_config, with struct loop_info64 in it (linux/loop.h): the file, a block size, then of the
# info the flags and the file's name, the rest zero.
_CONFIG: Final = struct.Struct("=II 40x 12x I 64s 112x 64x")
_NAME_SIZE: Final = 63


@contextlib.contextmanager
def loop_device(file: str, *, read_only: bool, direct_io: bool) -> Iterator[str]:
    """Puts a file behind a free loop device; gives the path of the device.

    The kernel frees the device when its last user is gone: at the end of the block, or when what was
    mounted from it in the block is unmounted.

    Args:
        file: a regular file or a block device.
        read_only: neither the device nor the file can be written to.
        direct_io: go past the page cache.

    Raises:
        InvalidArgumentError: the file is of another kind.
        ResourceExhaustedError: others took every device that was free.
        OSError: there is no file, or there are no loop devices.
    """
    access = os.O_RDONLY if read_only else os.O_RDWR
    backing = os.open(file, access | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(backing).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise InvalidArgumentError(f"mount source {file!r} is not a file that a loop device can show")
        # It is read-only because the file is open for reading only.
        flags = _AUTOCLEAR | (_DIRECT_IO if direct_io else 0)
        path, device = _configure(_CONFIG.pack(backing, 0, flags, os.fsencode(file)[:_NAME_SIZE]), access)
    finally:
        os.close(backing)
    try:
        yield path
    finally:
        os.close(device)


def _configure(config: bytes, access: int) -> tuple[str, int]:
    """Returns the path and a file descriptor of a device that shows what `config` says."""
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, access | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                # The kernel cannot give out a device and reserve it in one call: another process was
                # told of the same one.
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.001 * attempt)
            else:
                return path, device
    finally:
        os.close(control)
    raise ResourceExhaustedError(f"no loop device was free in {_ATTEMPTS} attempts")
