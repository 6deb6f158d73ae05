"""Removes what a program that has gone has left.

Its shims first, with the commands that are under way: nothing is made any more after that. Then its
containers, and its temporary directories. Nothing is asked of what runs in a container.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from contextlib import suppress
from typing import Any

from shimpy.core.journal import JournalDirectory
from shimpy.core.reaper import Reaper
from shimpy.core.registry import OwnedContainer, ProgramDirectory
from shimpy.core.rootfs.unmount import unmount_all
from shimpy.core.runtime import Runc
from shimpy.core.runtime.ids import ContainerId
from shimpy.core.runtime.state import may_have_state, remove_copies
from shimpy.daemon.guardian.cgroups import kill_cgroups, remove_cgroups
from shimpy.daemon.guardian.marked import kill_marked
from shimpy.errors import AlreadyExistsError, NotFoundError, ShimError

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


async def remove_container(container: OwnedContainer, reaper: Reaper) -> None:
    """Kills and removes a container, unless it is another's that has the id by now.

    Args:
        container: which; nobody looks after it any more.
        reaper: starts the runtime's commands.

    Raises:
        ShimError: the runtime refused.
    """
    try:
        runtime = Runc(container.runtime, container.root, reaper)
    except NotFoundError as error:
        _log.warning("container %s is removed without its runtime: %s", container.id, error)
        await _remove_cgroups(container)
        return
    try:
        taken = ContainerId(runtime, container.id)
    except AlreadyExistsError:
        return  # another process creates one of that id, so ours is gone
    try:
        try:
            state = await runtime.state(container.id)
        except NotFoundError:
            state = None
        if state is not None and not _is_ours(state, container):
            return
        await kill_cgroups(container.cgroups)  # nothing frozen is in the runtime's way then
        if may_have_state(runtime, container.id):
            with suppress(NotFoundError):
                await runtime.delete(container.id, force=True)
        remove_copies(runtime, container.id)
        await _remove_cgroups(container)
    finally:
        taken.release()


async def _remove_cgroups(container: OwnedContainer) -> None:
    await kill_cgroups(container.cgroups)
    await remove_cgroups(container.cgroups)
    for path in container.above:
        with suppress(OSError):  # others are in it
            os.rmdir(path)


def _is_ours(state: dict[str, Any], container: OwnedContainer) -> bool:
    """Returns whether a container that the runtime has is the one that is meant.

    Args:
        state: what the runtime says of it (runtime-spec, runtime.md).
        container: the one that is meant.
    """
    same_bundle = os.path.realpath(str(state.get("bundle", ""))) == os.path.realpath(container.bundle)
    # Of one whose init has ended a runtime says 0, or nothing.
    return same_bundle and (not container.pid or state.get("pid", 0) in (0, container.pid))


def _remove_directory(path: str) -> None:
    for name in os.listdir(path):
        JournalDirectory.of_socket(os.path.join(path, name, "shim.sock")).remove()
    unmount_all(path)
    shutil.rmtree(path)


def main(arguments: list[str]) -> int:
    """Does it, in a process of its own, and returns the exit status.

    Args:
        arguments: the directory of the program.
    """
    left = asyncio.run(clean_up(ProgramDirectory(os.path.basename(arguments[0]))))
    return 1 if left else 0
