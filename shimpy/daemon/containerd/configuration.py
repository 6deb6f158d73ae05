"""What has to stand in other people's configuration for them to use this shim."""

from __future__ import annotations

from collections.abc import Sequence

# The table of containerd's CRI plugin, since its version 2 and before.
_CRI_2 = "io.containerd.cri.v1.runtime"
_CRI_1 = "io.containerd.grpc.v1.cri"

_CAP_SYS_RESOURCE = 24


def may_lower_oom_scores() -> bool:
    """Returns whether this process, and so probably containerd, has CAP_SYS_RESOURCE (capabilities(7))."""
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff")), 0)
    return bool(effective >> _CAP_SYS_RESOURCE & 1)


def containerd_config(names: Sequence[str], major: int | None, *, restrict_oom_score: bool) -> str:
    """Returns what to add to containerd's config.toml.

    Args:
        names: of the runtimes.
        major: containerd's version; None if it is not known.
        restrict_oom_score: have it ask for no OOM score that it may not give.
    """
    parts = []
    for table, version, what in ((_CRI_2, 2, "containerd 2"), (_CRI_1, 1, "containerd 1")):
        if major not in (None, version):
            continue
        lines = [f"# {what}"]
        if restrict_oom_score:
            lines += [
                f"[plugins.'{table}']",
                "  restrict_oom_score_adj = true  # CAP_SYS_RESOURCE is missing",
            ]
        for name in names:
            lines += [
                f"[plugins.'{table}'.containerd.runtimes.{name}]",
                f"  runtime_type = 'io.containerd.{name}.v2'",
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def runtime_class(name: str) -> str:
    """Returns the Kubernetes object by which pods choose the runtime, with `runtimeClassName`."""
    return (
        "apiVersion: node.k8s.io/v1\n"
        "kind: RuntimeClass\n"
        "metadata:\n"
        f"  name: {name}\n"
        f"handler: {name}\n"
    )  # fmt: skip
