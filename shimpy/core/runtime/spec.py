"""What a request may say of a container's id and of a further process; see the OCI runtime-spec."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shimpy.core.model import Rlimit, User
from shimpy.errors import InvalidArgumentError

MAX_ID = 1024

# What runc takes as uid and gid.
MAX_UID = 2**31 - 1

_ID = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*")

# capabilities(7), without their prefix.
_CAPABILITIES = """
    AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE
    DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD
    NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN
    SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG WAKE_ALARM
"""

# setrlimit(2).
_RLIMITS = """
    AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK
"""


def _named(prefix: str, names: str) -> frozenset[str]:
    return frozenset(prefix + name for name in names.split())


_KNOWN_CAPABILITIES = _named("CAP_", _CAPABILITIES)
_KNOWN_RLIMITS = _named("RLIMIT_", _RLIMITS)


class ExecSpec(NamedTuple):
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
            f"id: {quoted(container_id)} is not an id: 1 to {MAX_ID} letters, digits and _ + - . "
            "that do not begin with - and are not . or .."
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
            raise InvalidArgumentError(f"env: {quoted(entry)} is not NAME=value")
    _no_nul("cwd", (asked.cwd,))
    if asked.cwd and not asked.cwd.startswith("/"):
        raise InvalidArgumentError(f"cwd: {quoted(asked.cwd)} is not an absolute path")
    for name in asked.capabilities:
        if name not in _KNOWN_CAPABILITIES:
            raise InvalidArgumentError(f"capabilities: {quoted(name)} is not a capability such as CAP_KILL")
    if asked.user is not None:
        for number in (asked.user.uid, asked.user.gid, *asked.user.additional_gids):
            if number > MAX_UID:
                raise InvalidArgumentError(f"user: {number} is over {MAX_UID}, the highest uid and gid")
    _check_rlimits(asked.rlimits)
    _no_nul("apparmor_profile", (asked.apparmor_profile,))
    _no_nul("selinux_label", (asked.selinux_label,))


def _check_rlimits(limits: Sequence[Rlimit]) -> None:
    seen: set[str] = set()
    for limit in limits:
        if limit.type not in _KNOWN_RLIMITS:
            raise InvalidArgumentError(f"rlimits: {quoted(limit.type)} is not a limit such as RLIMIT_NOFILE")
        if limit.type in seen:
            raise InvalidArgumentError(f"rlimits: {limit.type} is given twice")
        if limit.soft > limit.hard:
            raise InvalidArgumentError(
                f"rlimits: {limit.type} has a soft limit of {limit.soft} over its hard limit of {limit.hard}"
            )
        seen.add(limit.type)


def _no_nul(field: str, values: Iterable[str]) -> None:
    if any("\0" in value for value in values):
        raise InvalidArgumentError(f"{field}: has a NUL byte, which no program can be given")


def quoted(text: str) -> str:
    """Returns a text of a request as a message shows it: at most 200 characters of it."""
    return repr(text if len(text) <= 200 else text[:200] + "…")
