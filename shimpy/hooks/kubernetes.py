"""Where in Kubernetes a container is, as CRI's annotations say."""

from __future__ import annotations

from typing import Final

from shimpy import HookContainer

_ANNOTATIONS: Final = {
    "namespace": "io.kubernetes.cri.sandbox-namespace",
    "pod": "io.kubernetes.cri.sandbox-name",
    "container": "io.kubernetes.cri.container-name",
}


def place(container: HookContainer) -> dict[str, str]:
    """Returns the Kubernetes namespace, pod and container that a container is, as far as they are known."""
    found = {name: container.annotations.get(annotation) for name, annotation in _ANNOTATIONS.items()}
    return {name: value for name, value in found.items() if value}
