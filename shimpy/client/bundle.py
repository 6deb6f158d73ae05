"""Bundles: a directory with the `config.json` that an OCI runtime makes a container from."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimpy.client.arguments import check_command, check_cwd, check_kinds, check_paths
from shimpy.client.bundle_config import list_in, object_in, read_config, string_in
from shimpy.client.requests import environment
from shimpy.client.sandbox.base import new_spec
from shimpy.client.sandbox.options import Sandbox, SandboxOptions
from shimpy.client.sandbox.root import check_program, check_root
from shimpy.client.sandbox.spec import apply, wants_ids
from shimpy.client.sandbox.writable import check_closed
from shimpy.client.sandbox.writable_mounts import attach_mounts
from shimpy.core.id_ranges import SIZE, claim
from shimpy.core.rootfs import mapped_roots
from shimpy.errors import (
    EXHAUSTED,
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Unpack

    from shimpy.client.model import StrPath
    from shimpy.core.id_ranges import IdRange


async def write_bundle(
    path: StrPath,
    args: Sequence[str] | None = None,
    *,
    rootfs: StrPath | None = None,
    env: Mapping[str, str] | None = None,
    cwd: StrPath | None = None,
    terminal: bool = False,
    **options: Unpack[SandboxOptions],
) -> Path:
    """Writes a bundle: of a sandbox, unless *options* say otherwise.

    With a user namespace the bundle has its range of ids until it is removed.

    Args:
        path: the bundle's directory; it is made if it is not there.
        args: what init runs; None: `sh`.
        rootfs: the directory that becomes the container's `/`; None: `rootfs` in the bundle.
        env: variables beside PATH and TERM, or in their place.
        cwd: the directory that init starts in, inside the container; None: `/`.
        terminal: init gets a terminal.
        options: see `shimpy.SandboxOptions`.

    Returns:
        The bundle's directory.

    Raises:
        TypeError: there is no such option, or an argument is of the wrong type.
        ValueError: a limit is out of range.
        AlreadyExistsError: it has a `config.json`, or is something else than a directory.
        NotFoundError: *rootfs*, or the program in it, is not there.
        InvalidArgumentError: what no bundle can say, or no runtime run; the message names it, and for a
            *rootfs* that the container could not use what to do about it.
        PermissionDeniedError: nothing may be written there, or the program may not be run.
        ResourceExhaustedError: there is no room, or no range of ids.
    """
    check_command(args, env, cwd)
    check_paths(path=path, rootfs=rootfs)
    check_kinds(bool, terminal=terminal)
    directory = Path(os.path.abspath(path))
    config = directory / "config.json"
    with _writing(directory):
        if config.exists():
            raise AlreadyExistsError(f"{config} is there already; remove it first")
    made = compose_bundle(
        directory, args, rootfs=rootfs, env=env, cwd=cwd, terminal=terminal, options=options, indent=2
    )
    if made is not None:
        made.keep()
    return directory


def compose_bundle(
    directory: Path,
    args: Sequence[str] | None,
    *,
    rootfs: StrPath | None,
    env: Mapping[str, str] | None,
    cwd: StrPath | None,
    terminal: bool,
    options: SandboxOptions,
    indent: int | None = None,
    temporary: bool = False,
) -> IdRange | None:
    """Does what `write_bundle` says, and returns the range of ids, if the bundle has one.

    With *indent* people can read it, but to write it takes a millisecond more. If it is *temporary*, that is
    one of the program's own folders, a root that it may write to is attached where `mapped_roots.path_for`
    says, and the caller detaches it.
    """
    sandbox = Sandbox.of_root(options)
    root = "rootfs" if rootfs is None else os.path.abspath(rootfs)
    _check_text("rootfs", root)
    whole = os.path.join(directory, root)
    if not os.path.isdir(whole):
        raise NotFoundError(f"rootfs: there is no directory {whole}")
    spec = new_spec(root, sandboxed=sandbox.sandboxed)
    _change(spec, args, env, cwd, terminal=terminal)
    program = dict(spec["process"])
    ids = None
    if wants_ids(spec, sandbox):
        ids = claim(str(directory / "config.json"))
    try:
        apply(spec, sandbox, ids)
        owner = ids if temporary and not spec["root"]["readonly"] else None
        check_root(whole, spec, owned=owner is not None)
        if spec["process"]["args"] != program["args"]:
            check_program(whole, {**spec, "process": program}, owned=owner is not None)
        if owner is not None:
            check_closed(whole)
            spec["root"]["path"] = mapped_roots.path_for(str(directory))
            mapped_roots.attach(spec["root"]["path"], whole, owner.start, SIZE)
        if ids is not None and temporary:
            attach_mounts(str(directory), spec, sandbox.mounts, ids)
        with _writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        _write(directory / "config.json", spec, indent)
    except BaseException:
        if ids is not None:
            mapped_roots.detach(str(directory))
            ids.release()
        raise
    return ids


def derive_bundle(
    path: StrPath,
    origin: StrPath,
    args: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: StrPath | None = None,
    terminal: bool,
    options: SandboxOptions | None = None,
) -> IdRange | None:
    """Writes a bundle that is like another but for what is said here; the other's files serve it.

    Args:
        path: the new bundle's directory, which is there.
        origin: the other bundle's.
        args: what init runs; None: what it runs there.
        env: variables that are added, or replace those that are there.
        cwd: the directory that init starts in; None: as there.
        terminal: init gets a terminal.
        options: see `shimpy.SandboxOptions`; what is not named is as there.

    Returns:
        The range of ids that it has got, if the other has none.

    Raises:
        TypeError: there is no such option, or one is of the wrong type.
        NotFoundError: the other has no `config.json`.
        InvalidArgumentError: that cannot be understood, or be as it is asked for here.
    """
    sandbox = Sandbox.of_bundle(options or {})
    base = os.path.abspath(origin)
    _check_text("bundle", base)
    spec = read_config(base)
    # What the runtime-spec takes relative to the bundle has to point to the old one.
    root = object_in(spec, "root")
    root["path"] = os.path.join(base, string_in(root, "path", "rootfs"))
    for mount in list_in(spec, "mounts", dict):
        if {"bind", "rbind"} & set(list_in(mount, "options", str)):
            mount["source"] = os.path.join(base, string_in(mount, "source", ""))
    _change(spec, args, env, cwd, terminal=terminal)
    config = os.path.join(path, "config.json")
    ids = claim(config) if wants_ids(spec, sandbox) else None
    try:
        apply(spec, sandbox, ids)
        if ids is not None:
            attach_mounts(str(path), spec, sandbox.mounts, ids)
        _write(Path(config), spec)
    except BaseException:
        if ids is not None:
            mapped_roots.detach(str(path))
            ids.release()
        raise
    return ids


def _change(
    spec: dict[str, Any],
    args: Sequence[str] | None,
    env: Mapping[str, str] | None,
    cwd: StrPath | None,
    *,
    terminal: bool,
) -> None:
    process = object_in(spec, "process")
    process["terminal"] = terminal
    if args is not None:
        if not args or not args[0]:
            raise InvalidArgumentError("args: the program and its arguments, each a string of its own")
        for argument in args:
            _check_text("args", argument)
        process["args"] = list(args)
    if cwd is not None:
        path = os.fspath(cwd)
        _check_text("cwd", path)
        if not path.startswith("/"):
            raise InvalidArgumentError(f"cwd: {path!r} is not an absolute path")
        check_cwd(path)
        process["cwd"] = path
    if env:
        for text in (*env.keys(), *env.values()):
            _check_text("env", text)
        added = environment(env)
        kept = [entry for entry in list_in(process, "env", str) if entry.partition("=")[0] not in env]
        process["env"] = kept + added


def _check_text(field: str, text: str) -> None:
    """Refuses what would come to the container as something else, or not at all."""
    if not isinstance(text, str):
        raise TypeError(f"{field}: {text!r} is not a string")
    if "\0" in text:
        raise InvalidArgumentError(f"{field}: {text!r} has a NUL byte, which no program can be given")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{field}: {text!r} is not valid Unicode, which is all that a config.json can say"
        ) from error


def _write(path: Path, spec: dict[str, Any], indent: int | None = None) -> None:
    with _writing(path):
        path.write_text(json.dumps(spec, indent=indent) + "\n")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises what the system has against a file or directory as an error of our own."""
    try:
        yield
    except FileExistsError as error:
        raise AlreadyExistsError(f"path: {path} exists and is not a directory") from error
    except ValueError as error:
        raise InvalidArgumentError(f"path: {str(path)!r} is not a path: {error}") from error
    except OSError as error:
        what = f"path: {path} cannot be written: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionDeniedError(what) from error
        if error.errno in EXHAUSTED:
            raise ResourceExhaustedError(what) from error
        raise InvalidArgumentError(what) from error
