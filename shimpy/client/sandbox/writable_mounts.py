"""Mounts that a sandbox may write to: the ids of its user namespace own none of what is there.

What nobody but root can get to is mapped, as a root filesystem is. Anything else stays as it is, and the
container may write to it where everybody may: what it leaves there belongs to its own ids.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Final

from shimpy.client.sandbox.writable import check_closed
from shimpy.core.id_ranges import SIZE
from shimpy.core.rootfs import mapped_roots
from shimpy.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shimpy.client.sandbox.options import BindMount
    from shimpy.core.id_ranges import IdRange

_OTHERWISE: Final = "chmod o+w it, mount it read-only, or give userns=False"


def attach_mounts(folder: str, spec: dict[str, Any], mounts: Iterable[BindMount], ids: IdRange) -> None:
    """Attaches what a container is to write to where it owns it, and has its configuration say so.

    Args:
        folder: the bundle's directory, as for `mapped_roots.path_for`. `mapped_roots.detach` undoes it.
        spec: the configuration, which has the mounts.
        mounts: all of them.
        ids: the container's.

    Raises:
        InvalidArgumentError: it could not write to one, and others than root can get to that.
        FailedPreconditionError: the kernel, or the filesystem, cannot map ids.
        ShimError: a mount could not be made.
    """
    writable = {(os.fspath(mount.source), mount.target) for mount in mounts if not mount.read_only}
    for number, entry in enumerate(spec.get("mounts") or ()):
        source = entry.get("source")
        if (source, entry.get("destination")) in writable:
            path = mapped_roots.path_for(folder, str(number))
            try:
                _check(source)
                mapped_roots.attach(path, os.path.realpath(source), ids.start, SIZE, option="mounts")
            except (InvalidArgumentError, FailedPreconditionError):
                if not os.stat(source).st_mode & stat.S_IWOTH:
                    raise
            else:
                entry["source"] = path


def _check(source: str) -> None:
    status = os.stat(source)
    # By a second name others might get to it; in a directory each file would have to be looked at.
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        raise InvalidArgumentError(
            f"mounts: {source} has more names than this, by which others than root may reach it; {_OTHERWISE}"
        )
    check_closed(source, option="mounts", otherwise=_OTHERWISE)
