"""What a runtime can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Runtime(Protocol):
    """What a container needs of an OCI runtime; every call is one command of it.

    Each raises ShimError when the runtime refuses, with the runtime's own last error message, and
    kills the command with its whole process group when it is cancelled.
    """

    name: str

    async def create(
        self,
        container_id: str,
        bundle: str,
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        sets_oom_score: bool = False,
    ) -> int:
        """Creates a container and returns the pid of its init process.

        Args:
            container_id: the container's id.
            bundle: the bundle's directory.
            stdio: the file descriptors that become 0, 1 and 2 of the container's process.
            console_socket: where to send the terminal's master to.
            no_pivot: do not use pivot_root(2).
            no_new_keyring: do not make a session keyring (session-keyring(7)).
            sets_oom_score: the bundle says what the process's oom_score_adj is; else it is 0.
        """

    async def start(self, container_id: str) -> None:
        """Lets a created container's process run."""

    async def exec(
        self,
        container_id: str,
        process: Mapping[str, Any],
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        extra: Sequence[str] = (),
        sets_oom_score: bool = False,
    ) -> int:
        """Starts one more process and returns its pid.

        Args:
            container_id: the container's id.
            process: the `process` object of the OCI runtime-spec.
            stdio: the file descriptors that become 0, 1 and 2 of the process.
            console_socket: where to send the terminal's master to.
            extra: further arguments, such as the cgroup to start it in.
            sets_oom_score: the container's bundle says what its oom_score_adj is; else it is 0.
        """

    async def pause(self, container_id: str) -> None:
        """Freezes every process of a container."""

    async def resume(self, container_id: str) -> None:
        """Thaws every process of a container."""

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """Removes what the runtime holds of a container; `force` kills it first."""

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Changes the limits of a container.

        Args:
            container_id: the container's id.
            resources: the `linux.resources` object of the OCI runtime-spec; what it does not name stays.
        """

    async def checkpoint(self, container_id: str, options: Sequence[str]) -> None:
        """Writes the state of a container's processes to files, by CRIU.

        Args:
            container_id: the container's id.
            options: of the runtime's `checkpoint`, such as --image-path=DIR.
        """

    async def restore(
        self,
        container_id: str,
        bundle: str,
        stdio: tuple[int, int, int],
        *,
        console_socket: str | None = None,
        options: Sequence[str] = (),
    ) -> int:
        """Brings a container back that was checkpointed, running, and returns the pid of its init process.

        Args:
            container_id: the container's id.
            bundle: the bundle's directory.
            stdio: the file descriptors in place of those that were 0, 1 and 2 of the container's process.
            console_socket: where to send the terminal's master to.
            options: of the runtime's `restore`, such as --image-path=DIR.
        """

    async def version(self) -> str:
        """Returns what the runtime prints of its version."""

    async def state(self, container_id: str) -> dict[str, Any]:
        """Returns what the runtime says of a container: the runtime-spec's `state` object."""

    def recorded(self) -> Mapping[str, Any]:
        """Returns what has to be known to have the same one again: `name`, `root`, `systemd_cgroup`."""

    def state_directory(self, container_id: str) -> str | None:
        """Returns the directory in which the runtime keeps what it knows of a container, if that is known."""
