"""Mounting and unmounting a root filesystem beside a running event loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from functools import partial
from typing import Final

from shimpy.core.reaper import Reaper
from shimpy.core.rootfs.apart import run_blocking
from shimpy.core.rootfs.mounts import Mount, Rootfs
from shimpy.core.rootfs.unmount import mounted_at, unmount_all
from shimpy.core.runtime.environment import environment
from shimpy.errors import InternalError, from_oserror

_LONGEST_MESSAGE: Final = 4096
_UMASK: Final = 0o022


async def mount_rootfs(path: str, mounts: Sequence[Mount], reaper: Reaper) -> None:
    """Makes mounts at and below a directory in order: all of them, or none.

    A mount may block for minutes, on a file server or on a device that has to be checked, so each has a
    thread for as long as it lasts. That costs less than half a millisecond, and a root filesystem is one
    mount as a rule. A call that is cancelled ends when the kernel is done; everything is undone then.

    Args:
        path: the directory, which is there.
        mounts: in the order in which they are made.
        reaper: starts the programs that mount FUSE filesystems, and waits for them.

    Raises:
        ShimError: as for `Rootfs.mount`; a program failed.
    """
    rootfs = Rootfs(path)
    try:
        for mount in mounts:
            command = rootfs.helper(mount)
            if command is None:
                await run_blocking(partial(rootfs.mount, mount))
            else:
                before = len(mounted_at(path))
                try:
                    await _run(command, reaper)
                finally:
                    # It is killed when the call is cancelled, and may be done by then.
                    if len(mounted_at(path)) > before:
                        rootfs.helped(mount)
    except BaseException:
        await run_blocking(rootfs.undo)
        raise
    rootfs.keep()


async def unmount_rootfs(path: str) -> None:
    """Unmounts what is at and below a directory; see `unmount_all`. Quick if there is nothing.

    Raises:
        ShimError: as for `unmount_all`.
    """
    if mounted_at(path):
        await run_blocking(partial(unmount_all, path))


async def _run(command: Sequence[str], reaper: Reaper) -> None:
    """Runs a program that mounts, and may go on in the background to serve what it has mounted."""
    # What goes on would keep a pipe open for good.
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        code = await _complete(command, output, reaper)
        if code != 0:
            said = os.pread(output, _LONGEST_MESSAGE, 0).decode(errors="replace").strip()
            raise InternalError(f"{command[0]} failed with status {code}: {said}")
    finally:
        os.close(output)


async def _complete(command: Sequence[str], output: int, reaper: Reaper) -> int:
    try:
        running = reaper.spawn(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            umask=_UMASK,
            process_group=0,
        )
    except OSError as error:
        raise from_oserror(error, f"cannot run {command[0]}") from error
    try:
        return await reaper.wait(running)
    except asyncio.CancelledError:
        await reaper.kill(running)
        raise
