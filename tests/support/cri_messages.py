"""Messages of the Container Runtime Interface, `runtime.v1`: the fields that the tests use.

The numbers are those of Kubernetes' `api.proto`; a field that is not here is skipped when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import betterproto

# NamespaceMode.NODE: the namespace of the machine.
NODE = 2


@dataclass(eq=False, repr=False)
class PodSandboxMetadata(betterproto.Message):
    name: str = betterproto.string_field(1)
    uid: str = betterproto.string_field(2)
    namespace: str = betterproto.string_field(3)
    attempt: int = betterproto.uint32_field(4)


@dataclass(eq=False, repr=False)
class NamespaceOption(betterproto.Message):
    network: int = betterproto.int32_field(1)
    pid: int = betterproto.int32_field(2)
    ipc: int = betterproto.int32_field(3)


@dataclass(eq=False, repr=False)
class LinuxSandboxSecurityContext(betterproto.Message):
    namespace_options: NamespaceOption = betterproto.message_field(1)


@dataclass(eq=False, repr=False)
class LinuxPodSandboxConfig(betterproto.Message):
    cgroup_parent: str = betterproto.string_field(1)
    security_context: LinuxSandboxSecurityContext = betterproto.message_field(2)


@dataclass(eq=False, repr=False)
class PodSandboxConfig(betterproto.Message):
    metadata: PodSandboxMetadata = betterproto.message_field(1)
    log_directory: str = betterproto.string_field(3)
    linux: LinuxPodSandboxConfig = betterproto.message_field(8)


@dataclass(eq=False, repr=False)
class RunPodSandboxRequest(betterproto.Message):
    config: PodSandboxConfig = betterproto.message_field(1)
    runtime_handler: str = betterproto.string_field(2)


@dataclass(eq=False, repr=False)
class PodSandboxId(betterproto.Message):
    """RunPodSandboxResponse, StopPodSandboxRequest and RemovePodSandboxRequest."""

    pod_sandbox_id: str = betterproto.string_field(1)


@dataclass(eq=False, repr=False)
class ContainerMetadata(betterproto.Message):
    name: str = betterproto.string_field(1)
    attempt: int = betterproto.uint32_field(2)


@dataclass(eq=False, repr=False)
class ImageSpec(betterproto.Message):
    image: str = betterproto.string_field(1)


@dataclass(eq=False, repr=False)
class LinuxContainerResources(betterproto.Message):
    memory_limit_in_bytes: int = betterproto.int64_field(4)


@dataclass(eq=False, repr=False)
class LinuxContainerSecurityContext(betterproto.Message):
    namespace_options: NamespaceOption = betterproto.message_field(3)


@dataclass(eq=False, repr=False)
class LinuxContainerConfig(betterproto.Message):
    resources: LinuxContainerResources = betterproto.message_field(1)
    security_context: LinuxContainerSecurityContext = betterproto.message_field(2)


@dataclass(eq=False, repr=False)
class ContainerConfig(betterproto.Message):
    metadata: ContainerMetadata = betterproto.message_field(1)
    image: ImageSpec = betterproto.message_field(2)
    command: list[str] = betterproto.string_field(3)
    log_path: str = betterproto.string_field(11)
    linux: LinuxContainerConfig = betterproto.message_field(15)


@dataclass(eq=False, repr=False)
class CreateContainerRequest(betterproto.Message):
    pod_sandbox_id: str = betterproto.string_field(1)
    config: ContainerConfig = betterproto.message_field(2)
    sandbox_config: PodSandboxConfig = betterproto.message_field(3)


@dataclass(eq=False, repr=False)
class ContainerId(betterproto.Message):
    """CreateContainerResponse, and the requests that name a container and nothing else."""

    container_id: str = betterproto.string_field(1)


@dataclass(eq=False, repr=False)
class StopContainerRequest(betterproto.Message):
    container_id: str = betterproto.string_field(1)
    timeout: int = betterproto.int64_field(2)


@dataclass(eq=False, repr=False)
class ContainerStatus(betterproto.Message):
    id: str = betterproto.string_field(1)
    state: int = betterproto.int32_field(3)
    """0 created, 1 running, 2 exited."""

    exit_code: int = betterproto.int32_field(7)
    reason: str = betterproto.string_field(10)


@dataclass(eq=False, repr=False)
class ContainerStatusResponse(betterproto.Message):
    status: ContainerStatus = betterproto.message_field(1)


@dataclass(eq=False, repr=False)
class ExecSyncRequest(betterproto.Message):
    container_id: str = betterproto.string_field(1)
    cmd: list[str] = betterproto.string_field(2)
    timeout: int = betterproto.int64_field(3)
    """In seconds; 0 is none."""


@dataclass(eq=False, repr=False)
class ExecSyncResponse(betterproto.Message):
    stdout: bytes = betterproto.bytes_field(1)
    stderr: bytes = betterproto.bytes_field(2)
    exit_code: int = betterproto.int32_field(3)


@dataclass(eq=False, repr=False)
class ExecRequest(betterproto.Message):
    container_id: str = betterproto.string_field(1)
    cmd: list[str] = betterproto.string_field(2)
    tty: bool = betterproto.bool_field(3)
    stdin: bool = betterproto.bool_field(4)
    stdout: bool = betterproto.bool_field(5)
    stderr: bool = betterproto.bool_field(6)


@dataclass(eq=False, repr=False)
class ExecResponse(betterproto.Message):
    url: str = betterproto.string_field(1)


@dataclass(eq=False, repr=False)
class UInt64Value(betterproto.Message):
    value: int = betterproto.uint64_field(1)


@dataclass(eq=False, repr=False)
class CpuUsage(betterproto.Message):
    timestamp: int = betterproto.int64_field(1)
    usage_core_nano_seconds: UInt64Value = betterproto.message_field(2)


@dataclass(eq=False, repr=False)
class MemoryUsage(betterproto.Message):
    timestamp: int = betterproto.int64_field(1)
    working_set_bytes: UInt64Value = betterproto.message_field(2)
    usage_bytes: UInt64Value = betterproto.message_field(4)


@dataclass(eq=False, repr=False)
class ContainerStats(betterproto.Message):
    cpu: CpuUsage = betterproto.message_field(2)
    memory: MemoryUsage = betterproto.message_field(3)


@dataclass(eq=False, repr=False)
class ContainerStatsResponse(betterproto.Message):
    stats: ContainerStats = betterproto.message_field(1)


@dataclass(eq=False, repr=False)
class ImageStatusRequest(betterproto.Message):
    image: ImageSpec = betterproto.message_field(1)


@dataclass(eq=False, repr=False)
class Image(betterproto.Message):
    id: str = betterproto.string_field(1)


@dataclass(eq=False, repr=False)
class ImageStatusResponse(betterproto.Message):
    image: Image = betterproto.message_field(1)


@dataclass(eq=False, repr=False)
class Nothing(betterproto.Message):
    """The responses of Start, Stop and Remove."""
