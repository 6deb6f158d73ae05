"""The configuration that everything begins with: the OCI runtime-spec's config.json, written from nothing."""

from __future__ import annotations

from typing import Any, Final

from shimpy.client.sandbox.machine import is_unified

Spec = dict[str, Any]

_ENV: Final = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm")

# What runc's own spec gives.
_CAPABILITIES: Final = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")

QUIET: Final = ["nosuid", "noexec", "nodev"]

# Of /proc and /sys: what tells of the machine, or lets one act on it.
_MASKED: Final = """
    /proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats
    /proc/sched_debug /proc/scsi /sys/firmware
"""
_MASKED_IN_SANDBOX: Final = "/proc/interrupts /proc/kallsyms /sys/devices/virtual/powercap"
_READ_ONLY: Final = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"

# Of 1 no file comes, as of 0, nor is a program of the host's started that takes it (core(5) and
# umh_coredump_setup in the kernel's fs/coredump.c).
_NO_CORE: Final = {"type": "RLIMIT_CORE", "hard": 1, "soft": 1}


def new_spec(root: str, *, sandboxed: bool) -> Spec:
    """Returns the configuration of a container that runs a shell.

    Args:
        root: the path of its root filesystem, absolute or relative to the bundle.
        sandboxed: it is that of a sandbox, to which `apply` adds the rest; otherwise that of runc's own spec.
    """
    capabilities = [] if sandboxed else list(_CAPABILITIES)
    limits = [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    process: Spec = {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": list(_ENV),
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        "rlimits": [*limits, _NO_CORE] if sandboxed else limits,
        "noNewPrivileges": True,
    }
    if not sandboxed:
        process["capabilities"]["ambient"] = capabilities
    kinds = ["pid", "network", "ipc", "uts", "mount"]
    if sandboxed or is_unified():
        kinds.append("cgroup")
    masked = _MASKED.split() + (_MASKED_IN_SANDBOX.split() if sandboxed else [])
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": root, "readonly": True},
        "hostname": "runc",
        "mounts": _mounts(sandboxed=sandboxed),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": masked,
            "readonlyPaths": _READ_ONLY.split(),
        },
    }


def _mounts(*, sandboxed: bool) -> list[Spec]:
    # Only names and links are in /dev of a sandbox.
    size = "64k" if sandboxed else "65536k"
    return [
        mount_entry("/proc", "proc", QUIET if sandboxed else []),
        mount_entry("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", f"size={size}"]),
        mount_entry(
            "/dev/pts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount_entry("/dev/shm", "tmpfs", [*QUIET, "mode=1777", "size=65536k"]),  # noqa: S108 - the container's own
        mount_entry("/dev/mqueue", "mqueue", QUIET),
        mount_entry("/sys", "sysfs", [*QUIET, "ro"]),
        # Of a sandbox its own alone, by its namespace: Node and the JVM take the size of their heaps from it.
        mount_entry("/sys/fs/cgroup", "cgroup", [*QUIET, "relatime", "ro"]),
    ]


def mount_entry(target: str, kind: str, options: list[str]) -> Spec:
    """Returns a mount of a kind of filesystem (config.md, mounts)."""
    return {"destination": target, "type": kind, "source": kind, "options": options}
