"""A containerd of the tests' own, with shimpy as one of its runtimes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from shimpy.daemon.containerd.delete import RUNTIME_ROOT
from shimpy.daemon.containerd.install import install
from tests.support import machine
from tests.support.containers import cgroups
from tests.support.forkservers import end_fork_servers
from tests.support.time_scale import scaled

RUNTIME = "io.containerd.shimpy.v2"
STOCK = "io.containerd.runc.v2"

# The directory of other binaries than the system's: containerd, ctr and containerd-shim-runc-v2.
BINARIES = os.environ.get("SHIMPY_CONTAINERD", "")

# Whether systemd makes the cgroups, which needs it as pid 1: `make vm`.
SYSTEMD = os.environ.get("SHIMPY_TEST_SYSTEMD_CGROUP") == "1"

# The options of shimpy as a runtime, in TOML, and the file that they are in for `ctr run`.
OPTIONS = f'BinaryName = "{machine.RUNTIME}"\nSystemdCgroup = {str(SYSTEMD).lower()}\n'
_OPTIONS_FILE = Path(f"/tmp/shimpy-test-{os.getpid()}.toml")

_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = {disabled}
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/c.sock.ttrpc"
[debug]
  level = "{level}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


class Told(Protocol):
    """Returns the events of a task, with their topics, once one of a topic is among them."""

    def __call__(self, *, until: str, of: str) -> list[tuple[str, dict[str, Any]]]: ...


class Containerd:
    """containerd with all that it keeps below one folder, but for the shims' sockets.

    Args:
        fork_server: whether the shims are forked by a server, of this containerd's own.
        cri: tables of config.toml for the CRI plugin, with `{folder}` for the folder; without any the plugin
            is not loaded.
        level: of its log, and of the shims'.

    Attributes:
        folder: the folder.
        fork_servers: the directory of its fork servers.
        namespace: in which the tests' containers are.
        shim: the command by which it finds shimpy.
    """

    def __init__(self, *, fork_server: bool = False, cri: str = "", level: str = "debug") -> None:
        # Not the test's own folder: the path of a socket in it may be too long.
        self.folder = Path(tempfile.mkdtemp(prefix="shimpy-test-containerd-", dir="/tmp"))
        self.namespace = f"shimpy-test-{os.getpid()}"
        (self.shim,) = install(str(self.folder))
        disabled = "[]" if cri else '["io.containerd.grpc.v1.cri"]'
        config = (_CONFIG + cri).format(folder=self.folder, disabled=disabled, level=level)
        (self.folder / "config.toml").write_text(config)
        _OPTIONS_FILE.write_text(OPTIONS)
        self.log = self.folder / "log"
        # Below the folder, so that this containerd has one to itself.
        self.fork_servers = self.folder / "fork"
        self._fork_server = str(self.fork_servers) if fork_server else "off"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        path = ":".join(filter(None, [f"{self.folder}/bin", BINARIES, os.environ["PATH"]]))
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [os.path.join(BINARIES, "containerd"), "--config", self.folder / "config.toml"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "PATH": path, "SHIMPY_FORK_SERVER": self._fork_server},
            )  # fmt: skip
        end = time.monotonic() + scaled(60)
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(self.folder / "c.sock")) == 0:
                    return process
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kills it and starts another, which finds what this one has left."""
        self.kill()
        self._process = self._start()

    def command(self, *arguments: str | Path) -> list[str]:
        """Returns a command line of ctr(8)."""
        address = str(self.folder / "c.sock")
        return [
            os.path.join(BINARIES, "ctr"),
            "--address",
            address,
            "--namespace",
            self.namespace,
            *map(str, arguments),
        ]

    def ctr(
        self, *arguments: str | Path, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Makes one call of ctr and waits for its end.

        Args:
            arguments: what stands behind the address and the namespace.
            stdin: what it reads.
            check: whether it has to succeed.
        """
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, check=False, timeout=scaled(60)
        )
        assert not check or done.returncode == 0, done.stderr.decode() + self.shim_log()
        return done

    def run(
        self, *options: str, rootfs: Path, name: str, command: Sequence[str], check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a container."""
        return self.ctr(*run_arguments(*options, rootfs=rootfs, name=name, command=command), check=check)

    def status(self, name: str) -> str:
        """Returns what a task is doing; empty if there is none."""
        for line in self.ctr("tasks", "ls").stdout.decode().splitlines():
            if line.split()[0] == name:
                return line.split()[2]
        return ""

    def tasks(self) -> list[str]:
        return self.ctr("tasks", "ls", "-q").stdout.decode().split()

    def shim_pid(self, name: str) -> int:
        """Returns the process that serves a container."""
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if self.shim in words and words[-2] in ("start", "upgrade") and name in words:
                return int(pid)
        raise AssertionError(f"there is no shim of {name}")

    def bundle(self, name: str) -> Path:
        """Returns where containerd has the bundle of a task."""
        return self.folder / "state" / "io.containerd.runtime.v2.task" / self.namespace / name

    @contextlib.contextmanager
    def events(self, file: Path) -> Iterator[Told]:
        """Has ctr(8) write down what happens; returns what reads it."""
        with file.open("wb") as output:
            listening = subprocess.Popen(self.command("events"), stdin=subprocess.DEVNULL, stdout=output)
        try:
            # It does not say from when on it listens: so something is made to happen until it is heard.
            for number in itertools.count():
                self.ctr("namespaces", "label", self.namespace, f"heard={number}")
                if file.stat().st_size:
                    break
            yield lambda *, until, of: self._told(file, until, of)
        finally:
            listening.kill()
            listening.wait()

    def _told(self, file: Path, until: str, of: str) -> list[tuple[str, dict[str, Any]]]:
        end = time.monotonic() + scaled(30)
        while True:
            found = []
            for line in file.read_text().splitlines(keepends=True):
                words = line.split(" ", 6)
                # Of the line that is being written there is only a part.
                if line.endswith("\n") and words[5].startswith("/tasks/"):
                    event = json.loads(words[6])
                    found += [(words[5], event)] if event["container_id"] == of else []
            if any(topic == until for topic, _ in found):
                return found
            assert time.monotonic() < end, f"{until} did not come: {found}"
            time.sleep(0.02)

    def shim_log(self) -> str:
        """Returns the end of its log, and so of the shims'."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def remove(self, name: str) -> None:
        """Removes a container with its task."""
        self.ctr("tasks", "delete", "--force", name, check=False)
        self.ctr("containers", "delete", name, check=False)

    def close(self) -> None:
        for name in self.ctr("containers", "ls", "-q", check=False).stdout.decode().split():
            self.remove(name)
        self._process.terminate()
        self._process.wait()
        end_fork_servers(self.fork_servers)
        # runc makes one for the namespace, above those of its containers, and leaves it.
        for cgroup in cgroups(self.namespace):
            os.rmdir(cgroup)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(os.path.join(RUNTIME_ROOT, self.namespace))
        shutil.rmtree(self.folder)
        _OPTIONS_FILE.unlink(missing_ok=True)


def run_arguments(
    *options: str, rootfs: Path, name: str, command: Sequence[str], runtime: str = RUNTIME
) -> list[str]:
    """Returns what makes `ctr run` run a container."""
    # Without an image nothing says where programs are.
    usual = ["--runtime", runtime, "--env", "PATH=/bin", "--rootfs", "--read-only"]
    return ["run", *usual, *_runtime_arguments(name, runtime), *options, str(rootfs), name, *command]


def _runtime_arguments(name: str, runtime: str) -> list[str]:
    """Returns what says which runtime makes a container, and who makes its cgroup."""
    if machine.RUNTIME == "runc" and not SYSTEMD:
        return []
    if runtime == STOCK:
        arguments = ["--runc-binary", machine.RUNTIME, *(["--runc-systemd-cgroup"] if SYSTEMD else [])]
    else:
        arguments = ["--runtime-config-path", str(_OPTIONS_FILE)]
    if SYSTEMD:
        # Slice, prefix and name: of a scope that is called as the container.
        prefix, _, rest = name.rpartition("-")
        arguments += ["--cgroup", f"system.slice:{prefix}:{rest}"]
    return arguments
