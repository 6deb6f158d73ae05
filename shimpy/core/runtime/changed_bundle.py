"""A bundle whose configuration was changed before it is run, without a touch of the client's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from shimpy.core import tempdirs
from shimpy.core.runtime.bundle import Bundle
from shimpy.errors import from_oserror


def changed_bundle(bundle: Bundle, spec: Mapping[str, Any]) -> tuple[Bundle, Callable[[], None]]:
    """Writes a configuration to a private directory, which the runtime takes for the bundle.

    The runtime reads config.json in the directory that it is told, and no other file; what that file names
    relative to its bundle (runtime-spec, config.md: root.path and the sources of bind mounts) is
    made absolute.

    Args:
        bundle: as its client has it.
        spec: what is to be run instead of its config.json.

    Returns:
        The bundle to go on with, and what removes the directory: once the container is deleted, because
        the runtime tells it to OCI hooks.

    Raises:
        ShimError: there is no room, or no place that is ours alone.
    """
    # Where the runtime would be in; a `..` is taken off by the text, as it does.
    spec = _absolute(spec, os.path.realpath(bundle.path))
    try:
        directory = tempdirs.PrivateDirectory(named=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open("config.json", flags, 0o600, dir_fd=directory.fd), "wb") as file:
                file.write(json.dumps(spec).encode())
        except BaseException:
            directory.close()
            raise
    except OSError as error:
        raise from_oserror(error, "bundle: cannot write the configuration that hooks have changed") from error
    return Bundle(bundle.path, spec, directory.path), directory.close


def _absolute(spec: Mapping[str, Any], directory: str) -> dict[str, Any]:
    changed = dict(spec)
    root, mounts = spec.get("root"), spec.get("mounts")
    if isinstance(root, dict) and isinstance(root.get("path"), str):
        changed["root"] = {**root, "path": os.path.normpath(os.path.join(directory, root["path"]))}
    if isinstance(mounts, list):
        changed["mounts"] = [_absolute_mount(mount, directory) for mount in mounts]
    return changed


def _absolute_mount(mount: object, directory: str) -> object:
    if not isinstance(mount, dict) or not isinstance(mount.get("source"), str):
        return mount
    options = mount.get("options")
    binds = isinstance(options, list) and ("bind" in options or "rbind" in options)
    if not binds and mount.get("type") != "bind":
        return mount
    return {**mount, "source": os.path.normpath(os.path.join(directory, mount["source"]))}
