"""A root filesystem, looked at before a container is made of it: what is wrong with it, and what to do."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from shimpy.client.arguments import check_cwd
from shimpy.client.sandbox.base import Spec
from shimpy.client.sandbox.spec import has_user_namespace
from shimpy.core.rootfs.syscalls import open_in_root
from shimpy.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError

# Followed until then, as by the kernel (path_resolution(7)).
_MOST_LINKS: Final = 40


def check_root(root: str, spec: Spec, *, owned: bool) -> None:
    """Refuses a root filesystem that could not become a container's.

    Args:
        root: the absolute path of its directory.
        spec: the configuration of the container.
        owned: the container owns what is in it: root's rights are root's inside.

    Raises:
        InvalidArgumentError: what is in the way, and what to do about it.
        NotFoundError: the program is not there.
        PermissionDeniedError: the program may not be run.
    """
    if os.path.samefile(root, "/"):
        raise InvalidArgumentError(
            "rootfs: / is this machine's own, with all that is mounted in it; give a directory with a system "
            "of its own, as debootstrap or `podman export` make it"
        )
    with _opened(root) as fd:
        cwd = (spec.get("process") or {}).get("cwd") or "/"
        _check_cwd(fd, cwd)
        if has_user_namespace(spec) and not owned:
            _check_reach(root)
            _check_mount_points(root, fd, spec)
            if not _is_covered(cwd, spec) and not _is_there(fd, cwd):
                raise InvalidArgumentError(
                    f"cwd: there is no {cwd} in {root}; mkdir -p {root.rstrip('/')}{cwd}"
                )


def check_program(root: str, spec: Spec, *, owned: bool) -> None:
    """Refuses a program that is not there, where the error would otherwise be that of the container's init.

    What is mounted over the root is not looked into: a program that may be there is not refused.

    Args:
        root: the absolute path of the root filesystem.
        spec: the configuration, before an init is put before the program.
        owned: as for `check_root`.

    Raises:
        NotFoundError: there is no such program.
        PermissionDeniedError: the program, or a directory on the way to it, is not for everybody.
    """
    process: dict[str, Any] = spec["process"]
    name = process["args"][0]
    mapped = has_user_namespace(spec) and not owned
    if "/" in name:
        candidates = [os.path.join(process.get("cwd") or "/", name)]
    else:
        entries = [one.partition("=") for one in process.get("env") or ()]
        path = next((value for key, _, value in entries if key == "PATH"), "/bin:/usr/bin")
        candidates = [os.path.join("/", directory, name) for directory in path.split(":")]
    refused = None
    with _opened(root) as fd:
        for candidate in candidates:
            if _is_covered(candidate, spec):
                return
            try:
                found = open_in_root(fd, candidate, os.O_PATH)
            except OSError:
                continue
            try:
                mode = os.fstat(found).st_mode
            finally:
                os.close(found)
            if not stat.S_ISREG(mode) or not mode & (0o001 if mapped else 0o111):
                refused = refused or candidate
            elif mapped and (closed := _closed_on_the_way(fd, candidate)):
                refused = refused or closed
            else:
                return
    if refused is not None:
        remedy = f"; chmod o+rx {root.rstrip('/')}{refused}, or give userns=False" if mapped else ""
        raise PermissionDeniedError(f"args: {name}: permission denied: {refused} may not be run{remedy}")
    raise NotFoundError(f"args: there is no program {name} in {root}")


def _check_reach(root: str) -> None:
    """Refuses a root that the ids of a user namespace cannot reach, since they own none of it."""
    path, closed = os.path.realpath(root), []
    needed = stat.S_IROTH | stat.S_IXOTH  # the runtime opens the root itself; all above it is only passed
    while path != "/":
        if os.stat(path).st_mode & needed != needed:
            closed.append(path)
        path, needed = os.path.dirname(path), stat.S_IXOTH
    if closed:
        access = "rx" if closed[0] == os.path.realpath(root) else "x"
        raise InvalidArgumentError(
            f"rootfs: {root} cannot be reached by the ids of the container's user namespace; "
            f"chmod o+{access} {' '.join(reversed(closed))}, or move it, or give userns=False"
        )


def _closed_on_the_way(root: int, path: str) -> str | None:
    """Returns a directory above a path that is not for everybody."""
    directory = os.path.dirname(path)
    while directory != "/":
        found = open_in_root(root, directory, os.O_PATH)
        try:
            if not os.fstat(found).st_mode & stat.S_IXOTH:
                return directory
        finally:
            os.close(found)
        directory = os.path.dirname(directory)
    return None


def _check_mount_points(root: str, fd: int, spec: Spec) -> None:
    """Refuses a root without the directories that are mounted on: nobody there may make them."""
    missing: list[str] = []
    seen: list[str] = []
    for mount in spec.get("mounts") or ():
        target = mount["destination"]
        covered = any(target.startswith(f"{other}/") for other in seen)
        seen.append(target)
        if covered:
            continue
        if not _is_there(fd, target):
            missing.append(f"{root.rstrip('/')}{target}")
    if missing:
        raise InvalidArgumentError(
            f"rootfs: there is nothing to mount on at {', '.join(missing)}; mkdir -p {' '.join(missing)}"
        )


def _is_covered(path: str, spec: Spec) -> bool:
    """Returns whether something is mounted at a path, or above it."""
    targets = [mount.get("destination") or "/none" for mount in spec.get("mounts") or ()]
    return any(path == target or path.startswith(f"{target.rstrip('/')}/") for target in targets)


def _is_there(root: int, path: str) -> bool:
    try:
        os.close(open_in_root(root, path, os.O_PATH))
    except OSError:
        return False
    return True


def _check_cwd(root: int, cwd: str) -> None:
    """Refuses a directory below /proc, also by links that the root has."""
    check_cwd(cwd)
    path, left = "/", [part for part in cwd.split("/") if part not in ("", ".")]
    links = 0
    while left:
        part = left.pop(0)
        path = os.path.dirname(path) if part == ".." else os.path.join(path, part)
        check_cwd(path)
        try:
            target = os.readlink(path.lstrip("/"), dir_fd=root)
        except OSError:  # not a link, or not there
            continue
        links += 1
        if links > _MOST_LINKS:
            raise InvalidArgumentError(f"cwd: {cwd} leads in a circle")
        path = "/" if target.startswith("/") else os.path.dirname(path)
        left[:0] = [part for part in target.split("/") if part not in ("", ".")]


@contextmanager
def _opened(root: str) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
