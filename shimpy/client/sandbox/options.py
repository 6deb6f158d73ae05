"""The options of a sandbox, checked before anything is made for it, and what they are by default."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self, TypedDict

from shimpy.client.arguments import check_kinds, check_rlimits, check_strings, check_user
from shimpy.client.limits import resources
from shimpy.client.model import StrPath
from shimpy.client.sandbox.devices import device
from shimpy.client.sandbox.machine import is_network_namespace
from shimpy.client.sandbox.own_filter import check_filter
from shimpy.core.model import Rlimit, User
from shimpy.core.runtime.spec import ExecSpec, check_exec
from shimpy.errors import InvalidArgumentError

_MEBIBYTE: Final = 1 << 20

# Bytes; what runc's own init takes is over 2 MiB, and it is in the container's cgroup already.
_LEAST_MEMORY: Final = 4 * _MEBIBYTE

# sethostname(2).
_LONGEST_HOSTNAME: Final = 64


@dataclass(frozen=True, slots=True)
class BindMount:
    """A file or directory of the host's that a container sees.

    Attributes:
        source: its path outside.
        target: its path inside, absolute.
        read_only: the container cannot write to it. False, with a user namespace: it must be below a
            directory that only root may pass, and belongs to the container then, or be open to all users.
            In a bundle that is to stay, from `write_bundle`, nothing is mapped.
    """

    source: StrPath
    target: str
    read_only: bool = True


class SandboxOptions(TypedDict, total=False):
    """What may be said of a container beside what it runs.

    What is left out is, for a root filesystem that is a directory, what is safe for code that nobody trusts;
    for a bundle it is as the bundle says.

    Attributes:
        sandbox: False: no safe defaults but those of the runtime's own spec: root of the host's, with three
            capabilities and without limits. What else is given holds.
        memory: bytes that it may use, without swap, 4 MiB at least; None: any number. 512 MiB by default.
        cpus: how many processors' time it may use, such as 1.5; None, the default: any number.
        pids: processes and threads that it may have; None: any number. 512 by default.
        user: who the program runs as; root of the container by default.
        userns: it has a user namespace, with 65,536 ids that no other has; True by default. False: its ids
            are the host's.
        mounts: what it sees of the host's files beside its root; nothing by default.
        tmpfs: directories in memory, by their paths, with the bytes that each may hold; what is in them
            counts as memory. `{"/tmp": 64 MiB}` by default.
        network: `none`, the default; `host`, the host's own; or the path of a network namespace.
        seccomp: True, the default: shimpy's list of system calls; False: any system call; or a filter as the
            OCI runtime-spec has it (config-linux.md, seccomp), or docker, whose `includes` and `excludes`
            are settled by the container's capabilities, the machine and its kernel.
        capabilities: what its processes may have, such as `CAP_CHOWN`; none by default.
        rlimits: limits of each process, beside the defaults: 1,024 open files, and no core dumps.
        devices: devices of the host that it may use, such as `/dev/kvm`.
        read_only: it cannot write to its root filesystem; True by default. False, with a user namespace: the
            directory must be below one that only root may pass, and is the container's for as long as
            its temporary bundle lasts; what it writes stays.
        hostname: the name that it has for itself.
        init: True: a small init that reaps, tini-static, starts the program and passes signals on; False: the
            program is process 1 itself; or the path of another such init, which runs what `--`
            stands before. True by default, where tini-static is installed.
    """

    sandbox: bool
    memory: int | None
    cpus: float | None
    pids: int | None
    user: User
    userns: bool
    mounts: Sequence[BindMount]
    tmpfs: Mapping[str, int]
    network: str
    seccomp: bool | Mapping[str, object]
    capabilities: Sequence[str]
    rlimits: Sequence[Rlimit]
    devices: Sequence[StrPath]
    read_only: bool
    hostname: str
    init: bool | StrPath


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Options that have been checked; see `SandboxOptions` for each.

    Attributes:
        named: the options that are to change a configuration. Of the others it is left as it is.
        sandboxed: whether the configuration is that of a sandbox before.
    """

    memory: int | None = 512 * _MEBIBYTE
    cpus: float | None = None
    pids: int | None = 512
    user: User = field(default_factory=User)
    userns: bool = True
    mounts: tuple[BindMount, ...] = ()
    tmpfs: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({"/tmp": 64 * _MEBIBYTE}))  # noqa: S108 - inside
    network: str = "none"
    seccomp: bool | Mapping[str, object] = True
    capabilities: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    devices: tuple[StrPath, ...] = ()
    read_only: bool = True
    hostname: str = "sandbox"
    init: bool | StrPath | None = None
    named: frozenset[str] = frozenset()
    sandboxed: bool = False

    @classmethod
    def of_root(cls, options: SandboxOptions) -> Self:
        """Returns what is asked for of a container whose root is a directory.

        Raises:
            TypeError: there is no such option, or one is of the wrong type.
            ValueError: a limit is out of range.
            InvalidArgumentError: an option says what cannot be.
        """
        values = _checked(options)
        sandboxed = values.pop("sandbox", True)
        every = frozenset(SandboxOptions.__optional_keys__ - {"sandbox"})
        return cls(**values, named=every if sandboxed else frozenset(values), sandboxed=sandboxed)

    @classmethod
    def of_bundle(cls, options: SandboxOptions) -> Self:
        """Returns what is asked for of a container that has a bundle; raises what `of_root` does."""
        values = _checked(options)
        if values.pop("sandbox", False):
            raise InvalidArgumentError("sandbox: a bundle runs as it is written; name what is to change")
        return cls(**values, named=frozenset(values))


def _checked(options: SandboxOptions) -> dict[str, Any]:
    unknown = options.keys() - SandboxOptions.__optional_keys__
    if unknown:
        known = ", ".join(sorted(SandboxOptions.__optional_keys__))
        raise TypeError(f"there is no option {min(unknown)!r}; there are {known}")
    values: dict[str, Any] = dict(options)
    for name in ("sandbox", "userns", "read_only"):
        if name in values:
            check_kinds(bool, **{name: values[name]})
            if values[name] is None:
                raise TypeError(f"{name} must be True or False, not None")
    limits = {name: values[name] for name in ("memory", "cpus", "pids") if values.get(name) is not None}
    if limits:
        resources(**limits)
    if limits.get("memory", _LEAST_MEMORY) < _LEAST_MEMORY:
        raise ValueError(
            f"memory must be >= {_LEAST_MEMORY}, which the runtime itself takes, not {limits['memory']}"
        )
    for name in ("mounts", "capabilities", "rlimits", "devices"):
        if name in values:
            values[name] = _CHECKS[name](values[name])
    for name in ("user", "tmpfs", "network", "seccomp", "hostname", "init"):
        if name in values:
            _CHECKS[name](values[name])
    return values


def _mounts(mounts: object) -> tuple[BindMount, ...]:
    found = _sequence("mounts", mounts)
    for mount in found:
        if not isinstance(mount, BindMount):
            raise TypeError(f"mounts: {mount!r} is not a shimpy.BindMount")
        _path("mounts", mount.source)
        _target("mounts", mount.target)
        check_kinds(bool, read_only=mount.read_only)
        if not os.path.exists(mount.source):
            raise InvalidArgumentError(f"mounts: there is no {os.fspath(mount.source)}")
    return tuple(BindMount(os.path.abspath(one.source), one.target, one.read_only) for one in found)


def _tmpfs(tmpfs: object) -> None:
    if not isinstance(tmpfs, Mapping):
        raise TypeError(f"tmpfs must be a mapping of paths to bytes, not {tmpfs!r}")
    for target, size in tmpfs.items():
        _target("tmpfs", target)
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"tmpfs: the size of {target} must be an int, not {size!r}")
        if size <= 0:
            raise InvalidArgumentError(f"tmpfs: the size of {target} must be > 0, not {size}")


def _capabilities(capabilities: object) -> tuple[str, ...]:
    check_strings("capabilities", capabilities)
    found = _sequence("capabilities", capabilities)
    check_exec(ExecSpec(("true",), capabilities=found))
    return found


def _rlimits(rlimits: object) -> tuple[Rlimit, ...]:
    check_rlimits(rlimits)
    found = _sequence("rlimits", rlimits)
    check_exec(ExecSpec(("true",), rlimits=found))
    return found


def _devices(devices: object) -> tuple[str, ...]:
    found = tuple(os.path.abspath(_path("devices", path)) for path in _sequence("devices", devices))
    for path in found:
        device(path)
    return found


def _user(user: object) -> None:
    if user is None:
        raise TypeError("user must be a shimpy.User, not None")
    check_user(user)


def _network(network: object) -> None:
    check_strings("network", [network])
    if network not in ("none", "host") and not str(network).startswith("/"):
        raise InvalidArgumentError(
            f"network: {network!r} is neither none, nor host, nor the absolute path of a namespace"
        )
    if str(network).startswith("/") and not os.path.exists(str(network)):
        raise InvalidArgumentError(f"network: there is no {network}")
    if str(network).startswith("/") and not is_network_namespace(str(network)):
        raise InvalidArgumentError(f"network: {network} is not a network namespace")


def _seccomp(seccomp: object) -> None:
    if not isinstance(seccomp, bool | Mapping):
        raise TypeError(f"seccomp must be True, False or a mapping, not {seccomp!r}")
    if isinstance(seccomp, Mapping):
        check_filter(seccomp)


def _hostname(hostname: object) -> None:
    check_strings("hostname", [hostname])
    if not 0 < len(str(hostname).encode(errors="surrogateescape")) <= _LONGEST_HOSTNAME or "\0" in str(
        hostname
    ):
        raise InvalidArgumentError(f"hostname: {hostname!r} is not a name of 1 to {_LONGEST_HOSTNAME} bytes")


def _init(init: object) -> None:
    if not isinstance(init, bool):
        path = _path("init", init)
        if not os.path.isabs(path) or not os.path.isfile(path):
            raise InvalidArgumentError(f"init: {path} is not the absolute path of a program")


_CHECKS: Final[Mapping[str, Any]] = {
    "mounts": _mounts,
    "tmpfs": _tmpfs,
    "capabilities": _capabilities,
    "rlimits": _rlimits,
    "devices": _devices,
    "user": _user,
    "network": _network,
    "seccomp": _seccomp,
    "hostname": _hostname,
    "init": _init,
}


def _sequence(name: str, values: object) -> tuple[Any, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence, not {values!r}")
    return tuple(values)


def _path(name: str, path: object) -> str:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name}: {path!r} is not a path")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"{name}: {path!r} is not a path of text")
    if not text or "\0" in text:
        raise InvalidArgumentError(f"{name}: {text!r} is not a path")
    return text


def _target(name: str, target: object) -> None:
    path = _path(name, target)
    if not path.startswith("/") or os.path.normpath(path) != path or path in ("/", "//"):
        raise InvalidArgumentError(
            f"{name}: {path!r} is not an absolute path inside, without `.`, `..` and a second `/` in a row"
        )
    if path == "/proc" or path.startswith("/proc/"):
        raise InvalidArgumentError(f"{name}: {path} is below /proc, where nothing may be mounted")
