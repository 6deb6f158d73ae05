"""Options, as they change a container's configuration (OCI runtime-spec, config.md and config-linux.md)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shimpy.client.bundle_config import object_in
from shimpy.client.limits import resources
from shimpy.client.sandbox import own_filter, seccomp
from shimpy.client.sandbox.base import QUIET, Spec, mount_entry
from shimpy.client.sandbox.devices import device
from shimpy.client.sandbox.init import PATH, find_init
from shimpy.client.sandbox.machine import has_swap_limits
from shimpy.core.id_ranges import SIZE
from shimpy.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimpy.client.model import StrPath
    from shimpy.client.sandbox.options import Sandbox
    from shimpy.core.id_ranges import IdRange


def apply(spec: Spec, sandbox: Sandbox, ids: IdRange | None) -> None:
    """Changes a configuration to what options say, and nothing else of it.

    Args:
        spec: the configuration; what it runs is in it already.
        sandbox: the options.
        ids: for its user namespace, if it is to get one.

    Raises:
        InvalidArgumentError: an option cannot be held here.
    """
    for name, function in _APPLY.items():
        if name in sandbox.named:
            function(spec, sandbox)
    if ids is not None:
        linux = object_in(spec, "linux")
        linux["uidMappings"] = linux["gidMappings"] = ids.mapping
    _check_user(spec)


def wants_ids(spec: Spec, sandbox: Sandbox) -> bool:
    """Returns whether a configuration, once options are applied, lacks ids for a user namespace."""
    linux = spec.get("linux") or {}
    return "userns" in sandbox.named and sandbox.userns and not linux.get("uidMappings")


def has_user_namespace(spec: Spec) -> bool:
    """Returns whether a container is in a user namespace that is not the host's."""
    return any(one.get("type") == "user" for one in (spec.get("linux") or {}).get("namespaces") or [])


def _limits(spec: Spec, sandbox: Sandbox) -> None:
    linux = object_in(spec, "linux")
    asked = {name: getattr(sandbox, name) for name in ("memory", "cpus", "pids") if name in sandbox.named}
    found = object_in(linux, "resources")
    for name, key in (("memory", "memory"), ("cpus", "cpu"), ("pids", "pids")):
        if name in asked:
            found.pop(key, None)
    given = {name: value for name, value in asked.items() if value is not None}
    if given:
        limits = resources(**given)
        if "memory" in limits and not has_swap_limits():
            del limits["memory"]["swap"]
        found.update(limits)


def _user(spec: Spec, sandbox: Sandbox) -> None:
    user = object_in(object_in(spec, "process"), "user")
    user |= {"uid": sandbox.user.uid, "gid": sandbox.user.gid}
    user["additionalGids"] = list(sandbox.user.additional_gids)


def _check_user(spec: Spec) -> None:
    linux = spec.get("linux") or {}
    if linux.get("uidMappings") and has_user_namespace(spec):
        user = object_in(object_in(spec, "process"), "user")
        for number in (user.get("uid", 0), user.get("gid", 0), *(user.get("additionalGids") or ())):
            if number >= max(one["containerID"] + one["size"] for one in linux["uidMappings"]):
                raise InvalidArgumentError(
                    f"user: {number} is not one of the {SIZE} ids of the container's user namespace; "
                    "take a lower one, or userns=False"
                )


def _userns(spec: Spec, sandbox: Sandbox) -> None:
    linux = object_in(spec, "linux")
    _set_namespace(linux, "user", {"type": "user"} if sandbox.userns else None)
    if not sandbox.userns:
        linux.pop("uidMappings", None)
        linux.pop("gidMappings", None)


def _network(spec: Spec, sandbox: Sandbox) -> None:
    linux = object_in(spec, "linux")
    if sandbox.network == "host":
        _set_namespace(linux, "network", None)
    elif sandbox.network == "none":
        _set_namespace(linux, "network", {"type": "network"})
    else:
        _set_namespace(linux, "network", {"type": "network", "path": sandbox.network})
    if sandbox.network != "none" and has_user_namespace(spec):
        # sysfs is mounted by who owns the network namespace (sysfs_init_fs_context in the kernel).
        for mount in spec.get("mounts") or ():
            if mount.get("type") == "sysfs":
                mount |= {"type": "bind", "source": "/sys", "options": ["rbind", *QUIET, "ro"]}


def _set_namespace(linux: Spec, kind: str, namespace: Spec | None) -> None:
    others = [one for one in linux.get("namespaces") or [] if one.get("type") != kind]
    linux["namespaces"] = others if namespace is None else [*others, namespace]


def _tmpfs(spec: Spec, sandbox: Sandbox) -> None:
    for target, size in sandbox.tmpfs.items():
        options = ["nosuid", "nodev", "mode=1777", f"size={size}"]
        spec.setdefault("mounts", []).append(mount_entry(target, "tmpfs", options))


def _binds(spec: Spec, sandbox: Sandbox) -> None:
    for mount in sandbox.mounts:
        access = "ro" if mount.read_only else "rw"
        spec.setdefault("mounts", []).append(_bind(mount.source, mount.target, "rbind", access))


# What a user namespace may not take off a mount that it has from outside (mount_namespaces(7)).
_LOCKED: Final = (
    (os.ST_NOEXEC, "noexec"),
    (os.ST_NOATIME, "noatime"),
    (os.ST_NODIRATIME, "nodiratime"),
    (os.ST_RDONLY, "ro"),
)


def _bind(source: StrPath, target: str, *options: str) -> Spec:
    flags = os.statvfs(source).f_flag
    kept = [name for flag, name in _LOCKED if flags & flag]
    every = [*dict.fromkeys([*options, "nosuid", "nodev", *kept])]
    return {"destination": target, "type": "bind", "source": os.fspath(source), "options": every}


def _seccomp(spec: Spec, sandbox: Sandbox) -> None:
    linux = object_in(spec, "linux")
    bounding = ((spec.get("process") or {}).get("capabilities") or {}).get("bounding") or ()
    if sandbox.seccomp is True:
        linux["seccomp"] = seccomp.profile(bounding)
    elif sandbox.seccomp is False:
        linux.pop("seccomp", None)
    else:
        linux["seccomp"] = own_filter.settled(sandbox.seccomp, bounding)


def _capabilities(spec: Spec, sandbox: Sandbox) -> None:
    names = sorted(set(sandbox.capabilities))
    object_in(spec, "process")["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)


def _rlimits(spec: Spec, sandbox: Sandbox) -> None:
    process = object_in(spec, "process")
    named = {limit.type for limit in sandbox.rlimits}
    kept = [one for one in process.get("rlimits") or [] if one.get("type") not in named]
    process["rlimits"] = kept + [
        {"type": limit.type, "hard": limit.hard, "soft": limit.soft} for limit in sandbox.rlimits
    ]


def _devices(spec: Spec, sandbox: Sandbox) -> None:
    linux = object_in(spec, "linux")
    rules = object_in(linux, "resources").setdefault("devices", [])
    for path in sandbox.devices:
        entry = device(os.fspath(path))
        linux.setdefault("devices", []).append(entry)
        rules.append(
            {
                "allow": True,
                "type": entry["type"],
                "major": entry["major"],
                "minor": entry["minor"],
                "access": "rw",
            }
        )


def _root(spec: Spec, sandbox: Sandbox) -> None:
    object_in(spec, "root")["readonly"] = sandbox.read_only


def _hostname(spec: Spec, sandbox: Sandbox) -> None:
    spec["hostname"] = sandbox.hostname


def _init(spec: Spec, sandbox: Sandbox) -> None:
    program = find_init(sandbox.init)
    if program is None:
        return
    if not any(mount.get("destination") == "/dev" for mount in spec.get("mounts") or ()):
        raise InvalidArgumentError("init: the bundle mounts nothing at /dev, where its place would be")
    process = object_in(spec, "process")
    process["args"] = [PATH, "--", *(process.get("args") or ())]
    spec["mounts"].append(_bind(program, PATH, "bind", "ro"))


# In an order in which each finds what it needs of the others.
_APPLY: Final[dict[str, Callable[[Spec, Sandbox], None]]] = {
    "user": _user,
    "userns": _userns,
    "memory": _limits,
    "cpus": _limits,
    "pids": _limits,
    "capabilities": _capabilities,
    "seccomp": _seccomp,
    "network": _network,
    "tmpfs": _tmpfs,
    "mounts": _binds,
    "rlimits": _rlimits,
    "devices": _devices,
    "read_only": _root,
    "hostname": _hostname,
    "init": _init,
}
