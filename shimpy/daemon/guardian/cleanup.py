"""Removes what a program that has gone has left.

Its shims first, with the commands that are under way: nothing is made any more after that. Then its
containers, and its temporary directories. Nothing is asked of what runs in a container.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil

from shimpy.core.id_ranges import remove_abandoned
from shimpy.core.journal import JournalDirectory
from shimpy.core.reaper import Reaper
from shimpy.core.registry import OwnedContainer, ProgramDirectory
from shimpy.core.removal import remove_container
from shimpy.core.rootfs.mapped_roots import detach_all
from shimpy.core.rootfs.unmount import unmount_all
from shimpy.daemon.guardian.marked import kill_marked
from shimpy.errors import ShimError

_log = logging.getLogger(__name__)

# Containers that are removed at a time.
_AT_ONCE = 8


async def clean_up(directory: ProgramDirectory) -> list[OwnedContainer]:
    """Removes all that a dead program has left, and at last its directory.

    Args:
        directory: the program's, which this process has locked.

    Returns:
        The containers that could not be removed; the directory stays with them.
    """
    if not kill_marked(directory.name, directory.shims()):
        _log.warning("a shim of %s does not die; what it has stays", directory.name)
        return directory.containers()
    reaper = Reaper()
    reaper.open()
    turns = asyncio.Semaphore(_AT_ONCE)

    async def remove(container: OwnedContainer) -> bool:
        async with turns:
            try:
                await remove_container(container, reaper)
            except (ShimError, OSError) as error:
                _log.warning("container %s cannot be removed: %s", container.id, error)
                return False
            return True

    try:
        containers = directory.containers()
        removed = await asyncio.gather(*map(remove, containers))
    finally:
        reaper.close()
    left = [container for container, is_removed in zip(containers, removed, strict=True) if not is_removed]
    if not left:
        _remove_directory(directory.path)
    return left


def _remove_directory(path: str) -> None:
    for name in os.listdir(path):
        JournalDirectory.of_socket(os.path.join(path, name, "shim.sock")).remove()
    detach_all(os.path.basename(path))
    unmount_all(path)
    shutil.rmtree(path)
    remove_abandoned(gone=path)


def main(arguments: list[str]) -> int:
    """Does it, in a process of its own, and returns the exit status.

    Args:
        arguments: the directory of the program.
    """
    left = asyncio.run(clean_up(ProgramDirectory(os.path.basename(arguments[0]))))
    return 1 if left else 0
