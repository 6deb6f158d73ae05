"""What the OCI runtime-spec says of a container and its processes: reading it, checking it, adding to it."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shimpy.errors import InvalidArgumentError, NotFoundError, from_oserror

MAX_CONFIG = 4 * 1024 * 1024
"""Bytes of a config.json that is read: parsing it holds up the event loop."""

MAX_CGROUPS_PATH = 2048
"""Bytes of a bundle's linux.cgroupsPath; with the mount and our own cgroup before it, a path has 4,096."""

MAX_OOM_SCORE_ADJ = 1000
"""Of either sign (proc_pid_oom_score_adj(5))."""

MAX_ID = 1024
MAX_UID = 2**31 - 1
"""What runc takes as uid and gid."""

_ID = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")

# capabilities(7), without their prefix.
_CAPABILITIES = """
    AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE
    DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD
    NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN
    SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG WAKE_ALARM
"""

# setrlimit(2), likewise.
_RLIMITS = """
    AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK
"""


def _named(prefix: str, names: str) -> frozenset[str]:
    return frozenset(prefix + name for name in names.split())


_KNOWN_CAPABILITIES = _named("CAP_", _CAPABILITIES)
_KNOWN_RLIMITS = _named("RLIMIT_", _RLIMITS)


@dataclass(frozen=True, slots=True)
class User:
    """Whom a process runs as, by number; the names are the container's own affair."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rlimit:
    """A limit of setrlimit(2).

    Attributes:
        type: its name, such as RLIMIT_NOFILE.
        hard: the hard limit, in the limit's own unit.
        soft: the soft limit.
    """

    type: str
    hard: int
    soft: int


@dataclass(frozen=True, slots=True)
class ExecSpec:
    """A further process of a container. What is left unset comes from the container's own process.

    Attributes:
        args: the program, as it is found inside the container, and its arguments.
        env: the whole environment as `NAME=value`.
        cwd: an absolute path inside the container.
        user: whom it runs as.
        capabilities: the bounding, effective and permitted set; never inheritable or ambient, so
            that a program without file capabilities gives them up with its user.
        rlimits: its limits, in place of the container's.
        no_new_privileges: holds if it is asked for here or in the container's own process.
        apparmor_profile: the AppArmor profile it is confined by.
        selinux_label: the SELinux label it runs under.
        terminal: it gets a terminal of its own.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: User | None = None
    capabilities: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    selinux_label: str = ""
    terminal: bool = False


def check_id(container_id: str) -> None:
    """Accepts what runc accepts as a container's id.

    Raises:
        InvalidArgumentError: it is none; it could be read as an option or a path.
    """
    if len(container_id) > MAX_ID or container_id in (".", "..") or _ID.fullmatch(container_id) is None:
        raise InvalidArgumentError(
            f"id: {_quoted(container_id)} is not an id: 1 to {MAX_ID} letters, digits and _ + - . "
            "that do not begin with - and are not . or .."
        )


def read_bundle(bundle: str) -> dict[str, Any]:
    """Returns the configuration of a bundle (runtime-spec, bundle.md).

    Args:
        bundle: the absolute path of its folder.

    Raises:
        InvalidArgumentError: the path is not absolute, not a folder, or its config.json is not a
            configuration.
        NotFoundError: the folder or its config.json is not there.
        PermissionDeniedError: it may not be read.
        ResourceExhaustedError: no descriptor is left to read it with.
    """
    if not bundle.startswith("/") or "\0" in bundle:
        raise InvalidArgumentError(f"bundle: {_quoted(bundle)} is not an absolute path")
    if os.path.exists(bundle) and not os.path.isdir(bundle):
        raise InvalidArgumentError(f"bundle: {_quoted(bundle)} is not a directory")
    path = os.path.join(bundle, "config.json")
    try:
        # As runtimes have it: Python alone takes UTF-16, a byte order mark, NaN and Infinity.
        text = _read_regular(path).decode("utf-8", "surrogatepass")
        spec = json.loads(text, parse_constant=_not_a_number, parse_float=_finite)
    except FileNotFoundError:
        raise NotFoundError(f"bundle: there is no {_quoted(path)}") from None
    except OSError as error:
        message = f"bundle: {_quoted(path)} cannot be read"
        raise from_oserror(error, message, default=InvalidArgumentError) from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"bundle: {_quoted(path)} is not JSON: {error}") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("process"), dict):
        raise InvalidArgumentError(
            f"bundle: {_quoted(path)} has no object `process`, so nothing could be run"
        )
    if not _is_as_specified(spec):
        raise InvalidArgumentError(
            f"bundle: {_quoted(path)} is not as the runtime-spec has it: "
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
                    f"bundle: {_quoted(path)}: process.{field} has a NUL byte, which no program can be given"
                )
    score = process.get("oomScoreAdj")
    if isinstance(score, int) and not -MAX_OOM_SCORE_ADJ <= score <= MAX_OOM_SCORE_ADJ:
        raise InvalidArgumentError(
            f"bundle: {_quoted(path)}: process.oomScoreAdj is {score}, "
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


def shares_pids(spec: Mapping[str, Any]) -> bool:
    """Returns whether the container has no pid namespace of its own, nor another container's.

    Then nothing in it gets the orphans of its processes: they become those of the shim.
    """
    namespaces = (spec.get("linux") or {}).get("namespaces") or []
    return not any(namespace.get("type") == "pid" for namespace in namespaces)


def check_terminal(spec: Mapping[str, Any], *, terminal: bool) -> None:
    """Refuses a request whose idea of a terminal is not the bundle's; the runtime follows the bundle.

    Raises:
        InvalidArgumentError: they disagree.
    """
    wanted = bool(spec["process"].get("terminal", False))
    if wanted != terminal:
        raise InvalidArgumentError(
            f"terminal: {_json(terminal)} asked for, but the bundle's process.terminal is {_json(wanted)}"
        )


def check_exec(asked: ExecSpec) -> None:
    """Refuses what could not be run in any container.

    Raises:
        InvalidArgumentError: naming the field.
    """
    if not asked.args or not asked.args[0]:
        raise InvalidArgumentError("args: is empty; the first is the program to run")
    _no_nul("args", asked.args)
    _no_nul("env", asked.env)
    for entry in asked.env:
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            raise InvalidArgumentError(f"env: {_quoted(entry)} is not NAME=value")
    _no_nul("cwd", (asked.cwd,))
    if asked.cwd and not asked.cwd.startswith("/"):
        raise InvalidArgumentError(f"cwd: {_quoted(asked.cwd)} is not an absolute path")
    for name in asked.capabilities:
        if name not in _KNOWN_CAPABILITIES:
            raise InvalidArgumentError(f"capabilities: {_quoted(name)} is not a capability such as CAP_KILL")
    if asked.user is not None:
        for number in (asked.user.uid, asked.user.gid, *asked.user.additional_gids):
            if number > MAX_UID:
                raise InvalidArgumentError(f"user: {number} is over {MAX_UID}, the highest uid and gid")
    _check_rlimits(asked.rlimits)
    _no_nul("apparmor_profile", (asked.apparmor_profile,))
    _no_nul("selinux_label", (asked.selinux_label,))


def process_of(spec: Mapping[str, Any], asked: ExecSpec) -> dict[str, Any]:
    """Returns the runtime-spec's `process` object of an exec.

    Args:
        spec: the container's configuration, for what was left unset.
        asked: what was asked for.
    """
    process: dict[str, Any] = dict(spec["process"])
    process["args"] = list(asked.args)
    process["terminal"] = asked.terminal
    process.pop("consoleSize", None)
    process.pop("commandLine", None)
    if asked.env:
        process["env"] = list(asked.env)
    if asked.cwd:
        process["cwd"] = asked.cwd
    if asked.user is not None:
        # The umask belongs to the user object of the spec but is no part of who one is.
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


def _check_rlimits(limits: Sequence[Rlimit]) -> None:
    seen: set[str] = set()
    for limit in limits:
        if limit.type not in _KNOWN_RLIMITS:
            raise InvalidArgumentError(f"rlimits: {_quoted(limit.type)} is not a limit such as RLIMIT_NOFILE")
        if limit.type in seen:
            raise InvalidArgumentError(f"rlimits: {limit.type} is given twice")
        if limit.soft > limit.hard:
            raise InvalidArgumentError(
                f"rlimits: {limit.type} has a soft limit of {limit.soft} over its hard limit of {limit.hard}"
            )
        seen.add(limit.type)


def _read_regular(path: str) -> bytes:
    # Somebody's FIFO by that name must not hold up the shim, nor somebody's terminal become its own.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > MAX_CONFIG:
            raise ValueError(f"it is larger than {MAX_CONFIG} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_CONFIG + 1)
    finally:
        # Not left to the file object: there is none of a directory, and its descriptor would stay open.
        os.close(descriptor)


def _no_nul(field: str, values: Iterable[str]) -> None:
    if any("\0" in value for value in values):
        raise InvalidArgumentError(f"{field}: has a NUL byte, which no program can be given")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")


def _json(value: bool) -> str:
    return "true" if value else "false"
