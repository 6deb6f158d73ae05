"""What the runtime itself keeps of a container, and how that goes."""

from __future__ import annotations

import contextlib
import os

from shimpy import linux
from shimpy.core.runtime.runc import STATE_ROOTS
from shimpy.core.runtime.runtime import Runtime
from shimpy.errors import InternalError, NotFoundError


def has_state(runtime: Runtime, container_id: str) -> bool:
    """Returns whether the runtime is known to hold something of a container."""
    directory = runtime.state_directory(container_id)
    return directory is not None and os.path.lexists(directory)


def may_have_state(runtime: Runtime, container_id: str) -> bool:
    """Returns whether the runtime may hold something of a container; only it knows where it would be."""
    return runtime.state_directory(container_id) is None or has_state(runtime, container_id)


async def delete_state(runtime: Runtime, container_id: str) -> None:
    """Removes what the runtime keeps of a container whose processes are dead.

    Raises:
        ShimError: the runtime refused, and has it still; never NOT_FOUND, which says that it is deleted.
    """
    try:
        await runtime.delete(container_id)
    except NotFoundError as error:
        # It was deleted with the runtime's own command, or the one before this failed after
        # its work; then there is nothing to do.
        if not await _is_removed(runtime, container_id):
            raise InternalError(str(error)) from error
    remove_copies(runtime, container_id)


def remove_copies(runtime: Runtime, container_id: str) -> None:
    """Removes a copy of the runtime's program that is left where a container's state was.

    A runc that is killed while it mounts its own program over a file there, read-only so that no
    container can overwrite it (CVE-2019-5736), leaves the mount, and its delete then leaves the
    directory, without a word. To be called when no command of the container is under way any more.
    """
    directory = runtime.state_directory(container_id)
    if directory is not None:
        _remove_copies(directory)
        return
    # A runtime of another name is most likely a wrapper of one of these.
    for root in STATE_ROOTS.values():
        _remove_copies(os.path.join(root, container_id))


def _remove_copies(directory: str) -> None:
    if not os.path.isdir(directory):
        return
    with contextlib.suppress(OSError):
        names = os.listdir(directory)
        # Anything else there is not ours to remove: it is the state of another container.
        if all(name.startswith("runc.") for name in names):
            for name in names:
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):  # mostly, nothing is mounted there
                    linux.detach(path)
                os.unlink(path)
            os.rmdir(directory)


async def _is_removed(runtime: Runtime, container_id: str) -> bool:
    if runtime.state_directory(container_id) is not None:
        return not has_state(runtime, container_id)
    try:
        await runtime.state(container_id)
    except NotFoundError:
        return True
    return False
