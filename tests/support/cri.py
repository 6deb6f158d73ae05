"""A containerd with its CRI plugin, and what the kubelet asks of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import betterproto
import grpc
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support import cri_messages as messages
from tests.support.containerd import OPTIONS, RUNTIME, SYSTEMD, Containerd
from tests.support.containers import cgroups
from tests.support.images import write_image
from tests.support.time_scale import scaled

IMAGE = "shimpy.test/busybox:1"

# Where CRI has its containers.
NAMESPACE = "k8s.io"

# Channels of Kubernetes' protocol for a stream, which are the first byte of each message.
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
_PROTOCOL = Subprotocol("v4.channel.k8s.io")

# How the kubelet names the cgroups of pods.
_SLICE = ".slice" if SYSTEMD else ""

_CONFIG = """\
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "shimpy.test/busybox:1"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{{folder}}/cni"
  conf_dir = "{{folder}}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "shimpy"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.shimpy]
  runtime_type = "{runtime}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.shimpy.options]
  ConfigPath = "{{folder}}/runtime.toml"
"""

_Response = TypeVar("_Response", bound=betterproto.Message)


class Cri:
    """Pods of one containerd of its own, on the network of the machine.

    Args:
        rootfs: the root filesystem of the one image that there is.
        options: the runtime's, a table of TOML.

    Attributes:
        containerd: the containerd.
        log: each container's, where containerd writes its output.
    """

    def __init__(self, rootfs: Path, options: str) -> None:
        self.containerd = Containerd(cri=_CONFIG.format(runtime=RUNTIME))
        self._usual, self.containerd.namespace = self.containerd.namespace, NAMESPACE
        # Read when the first sandbox is made.
        # The namespace is the same of all such containerds, so each has its containers elsewhere.
        folder = self.containerd.folder
        table = f'{OPTIONS}Root = "{folder}/runc"\n{options.format(folder=folder)}'
        (self.containerd.folder / "runtime.toml").write_text(table)
        self._logs = self.containerd.folder / "logs"
        self._channel = grpc.insecure_channel(f"unix:{self.containerd.folder}/c.sock")
        self._numbers = itertools.count(1)
        self._pods: dict[str, messages.PodSandboxConfig] = {}
        self.log: dict[str, Path] = {}
        archive = self.containerd.folder / "image.tar"
        write_image(archive, rootfs, name=IMAGE, command=["sleep", "1000000"])
        self.containerd.ctr("images", "import", archive)
        self._wait()

    def _wait(self) -> None:
        """Waits until the plugin has come up, and has heard of the image, by an event."""
        end = time.monotonic() + scaled(30)
        request = messages.ImageStatusRequest(messages.ImageSpec(IMAGE))
        while True:
            with contextlib.suppress(grpc.RpcError):
                if self.call("ImageStatus", request, messages.ImageStatusResponse, "ImageService").image.id:
                    return
            assert time.monotonic() < end, self.containerd.shim_log()
            time.sleep(0.01)

    def restart(self) -> None:
        """Kills containerd and starts another."""
        self.containerd.restart()
        self._wait()

    def call(
        self,
        method: str,
        request: betterproto.Message,
        response: type[_Response],
        service: str = "RuntimeService",
    ) -> _Response:
        """Makes one call.

        Raises:
            grpc.RpcError: as containerd answers.
        """
        call = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=bytes,
            response_deserializer=response.FromString,
        )
        answer: _Response = call(request, timeout=scaled(60), wait_for_ready=True)
        return answer

    def run_pod(self, name: str) -> str:
        """Runs a sandbox; returns its id.

        Args:
            name: of the pod, and of the cgroup that its containers are in.
        """
        host = messages.NamespaceOption(network=messages.NODE)
        context = messages.LinuxSandboxSecurityContext(host)
        config = messages.PodSandboxConfig(
            metadata=messages.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
            log_directory=str(self._logs),
            linux=messages.LinuxPodSandboxConfig(f"/{name}{_SLICE}", context),
        )
        request = messages.RunPodSandboxRequest(config)
        pod = self.call("RunPodSandbox", request, messages.PodSandboxId).pod_sandbox_id
        self._pods[pod] = config
        return pod

    def name(self, pod: str) -> str:
        """Returns a pod's name."""
        return self._pods[pod].metadata.name

    def create(self, pod: str, *command: str, memory: int = 0) -> str:
        """Creates a container of a pod; returns its id.

        Args:
            pod: the sandbox's id.
            command: what it runs.
            memory: its limit in bytes; 0 is none.
        """
        number = next(self._numbers)
        host = messages.NamespaceOption(network=messages.NODE)
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(str(number)),
            image=messages.ImageSpec(IMAGE),
            command=list(command),
            log_path=f"{number}.log",
            linux=messages.LinuxContainerConfig(
                messages.LinuxContainerResources(memory), messages.LinuxContainerSecurityContext(host)
            ),
        )
        request = messages.CreateContainerRequest(pod, config, self._pods[pod])
        container = self.call("CreateContainer", request, messages.ContainerId).container_id
        self.log[container] = self._logs / f"{number}.log"
        return container

    def start(self, container: str) -> None:
        """Starts a container."""
        self.call("StartContainer", messages.ContainerId(container), messages.Nothing)

    def status(self, container: str) -> messages.ContainerStatus:
        """Returns how a container is."""
        request = messages.ContainerId(container)
        return self.call("ContainerStatus", request, messages.ContainerStatusResponse).status

    def stop(self, container: str, *, grace: int = 0) -> None:
        """Stops a container; after *grace* seconds by SIGKILL."""
        self.call("StopContainer", messages.StopContainerRequest(container, grace), messages.Nothing)

    def exec_sync(self, container: str, *command: str, timeout: int = 0) -> messages.ExecSyncResponse:
        """Runs a command in a container, and returns what it wrote."""
        request = messages.ExecSyncRequest(container, list(command), timeout)
        return self.call("ExecSync", request, messages.ExecSyncResponse)

    @contextlib.contextmanager
    def terminal(self, container: str, *command: str) -> Iterator[ClientConnection]:
        """Runs a command in a container with a terminal, as `kubectl exec -it` does."""
        request = messages.ExecRequest(container, list(command), tty=True, stdin=True, stdout=True)
        url = self.call("Exec", request, messages.ExecResponse).url.replace("http:", "ws:", 1)
        at = urlsplit(url)
        # A socket of our own, because a proxy may be configured.
        plain = socket.create_connection((at.hostname, at.port), timeout=scaled(30))
        with connect(url, sock=plain, subprotocols=[_PROTOCOL], open_timeout=scaled(30)) as stream:
            yield stream

    def stats(self, container: str) -> messages.ContainerStats:
        """Returns what a container uses."""
        request = messages.ContainerId(container)
        return self.call("ContainerStats", request, messages.ContainerStatsResponse).stats

    def remove(self, container: str) -> None:
        """Removes a container that has stopped."""
        self.call("RemoveContainer", messages.ContainerId(container), messages.Nothing)

    def remove_pod(self, pod: str) -> None:
        """Stops a pod and removes it with its containers."""
        self.call("StopPodSandbox", messages.PodSandboxId(pod), messages.Nothing)
        self.call("RemovePodSandbox", messages.PodSandboxId(pod), messages.Nothing)
        # The kubelet makes the cgroup of a pod, and removes it.
        for cgroup in cgroups(self.name(pod)):
            os.rmdir(cgroup)
        del self._pods[pod]

    def remove_pods(self) -> None:
        """Removes all pods."""
        for pod in list(self._pods):
            self.remove_pod(pod)

    def close(self) -> None:
        self.remove_pods()
        self._channel.close()
        self.containerd.ctr("images", "rm", "--sync", IMAGE)
        self.containerd.namespace = self._usual
        self.containerd.close()
