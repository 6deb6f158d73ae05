"""A bundle: the directory that a container is made from, and its configuration, read once.

See the OCI runtime-spec, bundle.md and config.md.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from shimpy.core.runtime.spec import ExecSpec, quoted
from shimpy.errors import InvalidArgumentError, NotFoundError, from_oserror

# Bytes of a config.json that is read: parsing it holds up the event loop. containerd can have no larger one,
# because a container's specification comes to it in one gRPC message.
MAX_CONFIG = 16 * 1024 * 1024

# Bytes of a bundle's linux.cgroupsPath; with the mount and our own cgroup before it, a path has 4,096.
MAX_CGROUPS_PATH = 2048

# Of either sign (proc_pid_oom_score_adj(5)).
MAX_OOM_SCORE_ADJ = 1000


class Bundle(NamedTuple):
    """A bundle whose configuration has been read.

    Attributes:
        path: the absolute path of its directory, as its client named it.
        spec: the content of its config.json.
        changed_in: a directory with a config.json that is to be run instead; "" if there is none.
    """

    path: str
    spec: Mapping[str, Any]
    changed_in: str = ""

    @classmethod
    def read(cls, path: str) -> Self:
        """Reads the configuration of a bundle.

        Args:
            path: the absolute path of its directory.

        Raises:
            InvalidArgumentError: the path is not absolute, not a directory, or its config.json is not a
                configuration.
            NotFoundError: the directory or its config.json is not there.
            PermissionDeniedError: it may not be read.
            ResourceExhaustedError: no file descriptor is left to read it with.
        """
        return cls(path, _read_config(path))

    @property
    def directory(self) -> str:
        """The directory that the runtime is told."""
        return self.changed_in or self.path

    @property
    def process(self) -> Mapping[str, Any]:
        """The `process` object of the container's init."""
        process: Mapping[str, Any] = self.spec["process"]
        return process

    @property
    def shares_pids(self) -> bool:
        """Whether the container has no pid namespace of its own, nor another container's.

        Then nothing in it gets the orphans of its processes: they become those of the shim.
        """
        namespaces = (self.spec.get("linux") or {}).get("namespaces") or []
        return not any(namespace.get("type") == "pid" for namespace in namespaces)

    @property
    def sets_oom_score(self) -> bool:
        """Whether it says what oom_score_adj its processes have; else they have that of who starts them."""
        return isinstance(self.process.get("oomScoreAdj"), int)

    def check_terminal(self, *, terminal: bool) -> None:
        """Refuses a request whose idea of a terminal is not the bundle's; the runtime follows the bundle.

        Raises:
            InvalidArgumentError: they disagree.
        """
        wanted = bool(self.process.get("terminal", False))
        if wanted != terminal:
            raise InvalidArgumentError(
                f"terminal: {_json(terminal)} asked for, but the bundle's process.terminal is {_json(wanted)}"
            )

    def with_own_env(self, asked: ExecSpec) -> ExecSpec:
        """Returns an exec's request with the container's variables added, but for those that it sets itself.

        Args:
            asked: what was asked for.
        """
        names = {entry.partition("=")[0] for entry in asked.env}
        own = [entry for entry in self.process.get("env") or () if isinstance(entry, str)]
        kept = [entry for entry in own if "=" in entry and entry.partition("=")[0] not in names]
        return asked._replace(env=(*kept, *asked.env))

    def process_for(self, asked: ExecSpec) -> dict[str, Any]:
        """Returns the runtime-spec's `process` object of an exec.

        Args:
            asked: what was asked for.
        """
        process: dict[str, Any] = dict(self.process)
        process["args"] = list(asked.args)
        process["terminal"] = asked.terminal
        process.pop("consoleSize", None)
        process.pop("commandLine", None)
        if asked.env:
            process["env"] = list(asked.env)
        if asked.cwd:
            process["cwd"] = asked.cwd
        if asked.user is not None:
            # The umask belongs to the user object of the spec but does not identify the user.
            umask = {key: value for key, value in (process.get("user") or {}).items() if key == "umask"}
            process["user"] = {
                **umask,
                "uid": asked.user.uid,
                "gid": asked.user.gid,
                "additionalGids": list(asked.user.additional_gids),
            }
        if asked.capabilities:
            names = sorted(set(asked.capabilities))
            process["capabilities"] = {"bounding": names, "effective": names, "permitted": names}
        if asked.rlimits:
            process["rlimits"] = [
                {"type": limit.type, "hard": limit.hard, "soft": limit.soft} for limit in asked.rlimits
            ]
        if asked.no_new_privileges:
            process["noNewPrivileges"] = True
        if asked.apparmor_profile:
            process["apparmorProfile"] = asked.apparmor_profile
        if asked.selinux_label:
            process["selinuxLabel"] = asked.selinux_label
        return process


def _read_config(bundle: str) -> dict[str, Any]:
    if not bundle.startswith("/") or "\0" in bundle:
        raise InvalidArgumentError(f"bundle: {quoted(bundle)} is not an absolute path")
    path = os.path.join(bundle, "config.json")
    try:
        # As runtimes have it: Python alone takes UTF-16, a byte order mark, NaN and Infinity.
        text = _read_regular(path).decode("utf-8", "surrogatepass")
        spec = json.loads(text, parse_constant=_not_a_number, parse_float=_finite)
    except FileNotFoundError:
        raise NotFoundError(f"bundle: there is no {quoted(path)}") from None
    except OSError as error:
        if os.path.exists(bundle) and not os.path.isdir(bundle):
            raise InvalidArgumentError(f"bundle: {quoted(bundle)} is not a directory") from None
        message = f"bundle: {quoted(path)} cannot be read"
        raise from_oserror(error, message, default=InvalidArgumentError) from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"bundle: {quoted(path)} is not JSON: {error}") from None
    return check_spec(spec, path)


def check_spec(spec: object, path: str) -> dict[str, Any]:
    """Returns the content of a config.json, if it can be run.

    Args:
        spec: the content.
        path: of the file, for messages.

    Raises:
        InvalidArgumentError: it is not a configuration.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("process"), dict):
        raise InvalidArgumentError(
            f"bundle: {quoted(path)} has no object `process`, so there is nothing to run"
        )
    if not _is_as_specified(spec):
        raise InvalidArgumentError(
            f"bundle: {quoted(path)} is not as the runtime-spec has it: "
            "`process.user` and `linux` are objects, `linux.namespaces` is a list of objects and "
            "`linux.cgroupsPath` a path"
        )
    _check_process(spec["process"], path)
    return spec


def _check_process(process: Mapping[str, Any], path: str) -> None:
    """Refuses what runtimes find too late for an error that names the field."""
    for field in ("args", "env", "cwd"):
        values = process.get(field)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and "\0" in value:
                raise InvalidArgumentError(
                    f"bundle: {quoted(path)}: process.{field} has a NUL byte, which no program can be given"
                )
    score = process.get("oomScoreAdj")
    if isinstance(score, int) and not -MAX_OOM_SCORE_ADJ <= score <= MAX_OOM_SCORE_ADJ:
        raise InvalidArgumentError(
            f"bundle: {quoted(path)}: process.oomScoreAdj is {score}, "
            f"not within -{MAX_OOM_SCORE_ADJ} to {MAX_OOM_SCORE_ADJ}"
        )


def _not_a_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _is_as_specified(spec: Mapping[str, Any]) -> bool:
    """Whether what is read of it here is of the right types; the rest is the runtime's to judge."""
    user, linux = spec["process"].get("user") or {}, spec.get("linux") or {}
    if not isinstance(user, dict) or not isinstance(linux, dict):
        return False
    namespaces, path = linux.get("namespaces") or [], linux.get("cgroupsPath") or ""
    return (
        isinstance(path, str)
        and _can_be_path(path)
        and isinstance(namespaces, list)
        and all(isinstance(namespace, dict) for namespace in namespaces)
    )


def _can_be_path(text: str) -> bool:
    """Whether the kernel takes it as a path at all, below one that is long itself (path_resolution(7))."""
    try:
        path = os.fsencode(text)
    except UnicodeEncodeError:
        return False  # half of a surrogate pair, which JSON can say
    return b"\0" not in path and len(path) <= MAX_CGROUPS_PATH


def _read_regular(path: str) -> bytes:
    # A FIFO of that name must not block the shim, nor a terminal become its controlling one.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > MAX_CONFIG:
            raise ValueError(f"it is larger than {MAX_CONFIG} bytes")
        text = b""
        while part := os.read(fd, min(status.st_size, MAX_CONFIG) + 1):
            text += part
            if len(text) == status.st_size:
                break
            if len(text) > MAX_CONFIG:
                raise ValueError(f"it is larger than {MAX_CONFIG} bytes")
        return text
    finally:
        os.close(fd)


def _json(value: bool) -> str:
    return "true" if value else "false"
