"""Bundles: a folder with the ``config.json`` that an OCI runtime makes a container from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimpy.client.call import settled
from shimpy.client.calls import environment
from shimpy.errors import AlreadyExistsError, InternalError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shimpy.client.model import StrPath

_UNKNOWN = 255
"""What asyncio gives for the exit status of a child that somebody else has waited for."""


async def write_bundle(
    path: StrPath,
    args: Sequence[str] | None = None,
    *,
    rootfs: StrPath | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    terminal: bool = False,
    writable: bool = False,
    runtime: str = "runc",
) -> Path:
    """Writes a bundle, starting from what the runtime's own ``spec`` command gives.

    Args:
        path: the bundle's folder; it is made if it is not there.
        args: what init runs; None: what the runtime's ``spec`` has, which is ``sh``.
        rootfs: the folder that becomes the container's ``/``; None: ``rootfs`` in the bundle.
        env: variables that are added to those of the spec, or replace them.
        cwd: the folder that init starts in, inside the container; None: ``/``.
        terminal: init gets a terminal.
        writable: the container may write to *rootfs*.
        runtime: the OCI runtime, a name on PATH or an absolute path.

    Returns:
        the bundle's folder.

    Raises:
        AlreadyExistsError: it has a ``config.json``.
        NotFoundError: the runtime or *rootfs* is not there.
        InternalError: the runtime would not write a spec.
    """
    folder = Path(os.path.abspath(path))
    root = "rootfs" if rootfs is None else os.path.abspath(rootfs)
    if not (folder / root).is_dir():
        raise NotFoundError(f"rootfs: there is no folder {folder / root}")
    config = folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    if config.exists():
        raise AlreadyExistsError(f"{config} is there already; remove it first")
    try:
        await _spec(runtime, folder)
        spec = read_config(folder)
        spec["root"] = {"path": root, "readonly": not writable}
        _change(spec, args, env, cwd, terminal=terminal)
        _write(config, spec)
    except BaseException:
        config.unlink(missing_ok=True)
        raise
    return folder


def derive_bundle(
    path: StrPath,
    origin: StrPath,
    args: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    terminal: bool,
) -> Path:
    """Writes a bundle that is like another but for what init runs; the other's files serve it.

    Args:
        path: the new bundle's folder, which is there.
        origin: the other bundle's.
        args: what init runs; None: what it runs there.
        env: variables that are added, or replace those that are there.
        cwd: the folder that init starts in; None: as there.
        terminal: init gets a terminal.
    """
    base = os.path.abspath(origin)
    spec = read_config(base)
    # What the runtime-spec takes relative to the bundle has to point to the old one.
    root = spec.setdefault("root", {})
    root["path"] = os.path.join(base, root.get("path", "rootfs"))
    for mount in spec.get("mounts", []):
        if "bind" in mount.get("options", []) or "rbind" in mount.get("options", []):
            mount["source"] = os.path.join(base, mount["source"])
    _change(spec, args, env, cwd, terminal=terminal)
    _write(Path(path) / "config.json", spec)
    return Path(path)


def read_config(bundle: StrPath) -> dict[str, Any]:
    """Returns a bundle's ``config.json``.

    Raises:
        NotFoundError: there is none.
        InvalidArgumentError: it cannot be understood.
    """
    path = Path(bundle) / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"bundle: there is no {path}") from error
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"bundle: {path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"bundle: {path} is not a JSON object")
    return config


def _change(
    spec: dict[str, Any],
    args: Sequence[str] | None,
    env: Mapping[str, str] | None,
    cwd: str | None,
    *,
    terminal: bool,
) -> None:
    process = spec.setdefault("process", {})
    process["terminal"] = terminal
    if args is not None:
        if not args or isinstance(args, str):
            raise InvalidArgumentError("args: the program and its arguments, each a string of its own")
        process["args"] = list(args)
    if cwd is not None:
        process["cwd"] = cwd
    if env:
        added = environment(env)
        kept = [entry for entry in process.get("env", []) if entry.partition("=")[0] not in env]
        process["env"] = kept + added


def _write(path: Path, spec: dict[str, Any]) -> None:
    path.write_text(json.dumps(spec, indent=2) + "\n")


async def _spec(runtime: str, folder: Path) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            runtime,
            "spec",
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise NotFoundError(f"runtime: there is no {runtime}; install it, or name another") from error
    try:
        _, said = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await settled(process.wait())
        raise
    # A status that the kernel has thrown away, as it does where SIGCHLD is ignored, is asyncio's 255 too.
    lost = process.returncode == _UNKNOWN and not said and (folder / "config.json").exists()
    if process.returncode != 0 and not lost:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise InternalError(f"{runtime} spec failed: {last[-500:] or f'exit status {process.returncode}'}")
