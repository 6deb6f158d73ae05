"""Overlays with many layers, or with layers whose owners are mapped (overlayfs in the kernel's docs)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from shimpy.core.rootfs import syscalls
from shimpy.core.rootfs.apart import run_apart
from shimpy.errors import InvalidArgumentError

_LOWER: Final = "lowerdir="
# What mount(2) takes: more than a page it cuts off without a word, and the last byte is its own.
LONGEST_DATA: Final = os.sysconf("SC_PAGE_SIZE") - 1


def mount_overlay(source: str, target: str, flags: int, options: Sequence[str]) -> None:
    """Mounts an overlay, whose layers may be named relative to what they have in common.

    The paths of a hundred layers do not fit the page that mount(2) takes.

    Args:
        source: as mount(2) takes it.
        target: where it is to be seen.
        flags: MS_ flags.
        options: of the overlay.

    Raises:
        InvalidArgumentError: they do not fit in that way either.
        OSError: as mount(2) has it.
    """
    data = ",".join(options)
    if len(os.fsencode(data)) <= LONGEST_DATA:
        syscalls.mount(source, target, "overlay", flags, data)
        return
    directory, relative = shorten(options)
    data = joined(relative)

    def mount() -> None:
        os.chdir(directory)
        syscalls.mount(source, target, "overlay", flags, data)

    # The kernel looks relative layers up in the current directory, which every thread has in common
    # that does not ask for one of its own.
    run_apart(mount, syscalls.CLONE_FS)


def mapped_overlay(source: str, target: str, flags: int, options: Sequence[str], user_namespace: int) -> int:
    """Returns an overlay that is attached nowhere and whose lower layers have mapped owners.

    The overlay itself cannot be mapped, so its lower layers are: each is covered by a mapped mount of
    itself, which the overlay then finds under the layer's own path. That happens in a mount namespace
    that ends when it is done, so these mounts are invisible to others and need no cleaning up.

    Args:
        source: as mount(2) takes it.
        target: the path of a directory, on which it is mounted for a moment, in that private namespace.
        flags: MS_ flags.
        options: of the overlay.
        user_namespace: a file descriptor of the one that maps.

    Raises:
        InvalidArgumentError: there are no lower layers, or the options are too long.
        OSError: as the kernel has it; EINVAL before Linux 5.19, or of a filesystem that cannot be mapped.
    """
    lower = _lower(options)
    if not lower:
        raise InvalidArgumentError("mount options: an overlay without lowerdir= has nothing to map")

    def make() -> int:
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        for layer in map(_unescape, lower):
            fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                mapped = syscalls.clone_mount(fd)
                try:
                    syscalls.map_ids(mapped, user_namespace)
                    syscalls.attach_mount(mapped, fd)
                finally:
                    os.close(mapped)
            finally:
                os.close(fd)
        mount_overlay(source, target, flags, options)
        fd = os.open(target, os.O_PATH | os.O_CLOEXEC)
        try:
            return syscalls.clone_mount(fd)
        finally:
            os.close(fd)

    return run_apart(make, syscalls.CLONE_NEWNS)


def shorten(options: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the directory that all lower layers are in, and the options with their paths relative to it.

    Where they have none in common but the root, it is the root.
    """
    lower = _lower(options)
    # What is not in its plainest form may lead through links, and cannot be cut at a slash.
    if not lower or any(path != os.path.normpath(path) or not path.startswith("/") for path in lower):
        return "/", list(options)
    # Of the directories that the layers are in: a layer itself would have no name there.
    directory = os.path.commonpath([os.path.dirname(path) for path in lower])
    names = [path[len(directory) :].lstrip("/") for path in lower]
    value = _LOWER + ":".join(names)
    return _unescape(directory), [value if option.startswith(_LOWER) else option for option in options]


def joined(options: Sequence[str]) -> str:
    """Returns a filesystem's options as mount(2) takes them.

    Raises:
        InvalidArgumentError: they are longer than that.
    """
    data = ",".join(options)
    if len(os.fsencode(data)) > LONGEST_DATA:
        raise InvalidArgumentError(
            f"mount options: the {len(os.fsencode(data))} bytes of the filesystem's own options are more "
            f"than the {LONGEST_DATA} that the kernel takes"
        )
    return data


def _lower(options: Sequence[str]) -> list[str]:
    r"""Returns the lower layers as they stand there, with `:` and `\` in their paths escaped."""
    values = [option.removeprefix(_LOWER) for option in options if option.startswith(_LOWER)]
    if not values:
        return []
    layers = [""]
    escaped = False
    for character in values[-1]:
        if character == ":" and not escaped:
            layers.append("")
            continue
        layers[-1] += character
        escaped = character == "\\" and not escaped
    return [layer for layer in layers if layer]


def _unescape(path: str) -> str:
    parts = path.split("\\\\")
    return "\\".join(part.replace("\\", "") for part in parts)
