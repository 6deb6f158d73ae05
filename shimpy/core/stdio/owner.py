"""Whom what a process reads and writes has to belong to, so that it may open it by its name."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeGuard

# The highest id; the one above stands for none (chown(2)).
_MAX_ID: Final = 2**32 - 2

_log = logging.getLogger(__name__)


class Owner(NamedTuple):
    """A user and a group, as the host numbers them."""

    uid: int
    gid: int


def owner_of(spec: Mapping[str, Any], process: Mapping[str, Any]) -> Owner | None:
    """Returns who a container's process is on the host, when a user namespace maps it to another user.

    In a user namespace root has no power over a file whose owner is not mapped (user_namespaces(7)),
    so that not even root there could open its own /dev/stdout, a FIFO of the host's root. Without one
    the runtime itself hands the three file descriptors to the process's user.

    Args:
        spec: the container's configuration (runtime-spec, config.md).
        process: the `process` object of init or of an exec.

    Returns:
        None without a user namespace, and where the bundle maps no such user or group: what is wrong
        with a mapping is the runtime's to say, and of a namespace that is joined by its path the
        mapping is not known.
    """
    linux = spec.get("linux") or {}
    if not any(namespace.get("type") == "user" for namespace in linux.get("namespaces") or []):
        return None
    user = process.get("user") or {}
    uid = _mapped(linux.get("uidMappings"), user.get("uid", 0))
    gid = _mapped(linux.get("gidMappings"), user.get("gid", 0))
    return None if uid is None or gid is None else Owner(uid, gid)


def give(fd: int, owner: Owner) -> None:
    """Makes a FIFO or pipe the owner's. Its mode stays as it is.

    A file system that has no owners, or is read-only, is tolerated: the process has the
    file descriptor all the same, it only cannot open it anew.

    Args:
        fd: a FIFO or pipe, not opened with O_PATH.
        owner: whose it is to be.
    """
    try:
        os.fchown(fd, owner.uid, owner.gid)
    except OSError as error:
        _log.info("cannot make a FIFO belong to uid %d, gid %d: %s", owner.uid, owner.gid, error)


def _mapped(mappings: object, inside: object) -> int | None:
    """Returns the host's number of an id inside the container, None if it has none."""
    if not isinstance(mappings, list) or not _is_id(inside):
        return None
    for mapping in mappings:
        if not isinstance(mapping, dict):
            continue
        first, host, size = (mapping.get(key, 0) for key in ("containerID", "hostID", "size"))
        if _is_id(first) and _is_id(host) and _is_id(size) and first <= inside < first + size:
            outside = host + inside - first
            return outside if outside <= _MAX_ID else None
    return None


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_ID
