"""Removes a container of which nothing is known but what its maker has written down."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import Any

from shimpy.core.cgroup.paths import kill_cgroups, remove_cgroups
from shimpy.core.reaper import Reaper
from shimpy.core.registry import OwnedContainer
from shimpy.core.runtime import Runc
from shimpy.core.runtime.ids import ContainerId
from shimpy.core.runtime.state import may_have_state, remove_copies
from shimpy.errors import AlreadyExistsError, NotFoundError

_log = logging.getLogger(__name__)


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
