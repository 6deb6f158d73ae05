"""A real systemd that runs one unit of the test's own: a user instance with a private socket, or pid 1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from tests.support.time_scale import scaled

_PROGRAM = "/lib/systemd/systemd"

# systemd serves users only where a directory is there that pid 1 makes: here, in a mount namespace alone.
_INSIDE = """
mount --make-rprivate /
[ -d /run/systemd/system ] || { mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system; }
echo $$ >"$1/cgroup.procs"
exec "$2" --user --unit="$3"
"""

_CGROUPS = Path("/sys/fs/cgroup/systemd")

# Where pid 1 finds units that go with a reboot (systemd.unit(5)).
_RUNTIME_UNITS = Path("/run/systemd/system")


class Systemd(ABC):
    """It runs one unit, from its start on.

    Attributes:
        runtime: where RuntimeDirectory= is made.
        unit: the name of the unit.
    """

    runtime: Path
    unit = "shimpy.service"

    @staticmethod
    @abstractmethod
    def lacking() -> str:
        """Returns what this machine lacks for it, in words; empty if nothing."""

    @property
    @abstractmethod
    def log(self) -> str:
        """What the unit has said."""

    @abstractmethod
    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs systemctl, whatever comes of it."""

    @abstractmethod
    def close(self) -> None:
        """Ends the unit, and what was started for it."""

    def do(self, verb: str) -> None:
        """Has it do something with the unit, such as `restart`."""
        done = self.ask(verb, self.unit)
        assert done.returncode == 0, f"{done.stderr}{self.log}"

    def main_pid(self) -> int:
        """Returns the main process of the unit, 0 if that is not active."""
        said = self.ask("show", "--property=MainPID,ActiveState", self.unit).stdout.split()
        properties = dict(line.split("=", 1) for line in said)
        return int(properties["MainPID"]) if properties.get("ActiveState") == "active" else 0

    def next_main_pid(self, before: int) -> int:
        """Waits until the unit is active with another main process, and returns that."""
        end = time.monotonic() + scaled(20)
        while time.monotonic() < end:
            if (pid := self.main_pid()) not in (0, before):
                return pid
        raise AssertionError(self.log)


class UserSystemd(Systemd):
    """A user instance.

    Args:
        files: what the unit's file holds, and those of its drop-ins, by their names.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="shimpy-test-")
        self.runtime = Path(self._directory.name) / "run"
        units = Path(self._directory.name) / "config" / "systemd" / "user"
        self.runtime.mkdir(mode=0o700)
        _write(units, self.unit, files)
        self._cgroup = _CGROUPS / f"shimpy-test-{os.getpid()}-{self.runtime.parent.name}"
        self._cgroup.mkdir()
        self._log = Path(self._directory.name) / "log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/root",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(units.parent.parent),
            "SYSTEMD_LOG_TARGET": "console",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _INSIDE, "sh", self._cgroup, _PROGRAM, self.unit],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @staticmethod
    def lacking() -> str:
        if os.geteuid() != 0 or not shutil.which("unshare"):
            return "root and unshare"
        if not os.path.exists(_PROGRAM) or not os.path.isdir("/run/systemd"):
            return "systemd"
        return "" if _CGROUPS.is_dir() else "a hierarchy of cgroups that systemd may have (name=systemd)"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _systemctl("--user", *arguments, environment=self._environment)

    def close(self) -> None:
        self.ask("stop", self.unit)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for child in sorted(self._cgroup.rglob("*"), reverse=True):
            if child.is_dir():
                child.rmdir()
        self._cgroup.rmdir()
        self._directory.cleanup()


class FirstProcess(Systemd):
    """The machine's own, where that is its first process.

    Args:
        files: as for UserSystemd.
    """

    runtime = Path("/run")

    def __init__(self, files: Mapping[str, str]) -> None:
        self.unit = f"shimpy-test-{os.getpid()}.service"
        _write(_RUNTIME_UNITS, self.unit, files)
        self.ask("daemon-reload")
        self.ask("start", self.unit)

    @staticmethod
    def lacking() -> str:
        is_first = Path("/proc/1/comm").read_text().strip() == "systemd"
        return "" if is_first and os.geteuid() == 0 else "root, and systemd as pid 1"

    @property
    def log(self) -> str:
        return self.ask("status", "--lines=100", "--full", self.unit).stdout

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _systemctl(*arguments)

    def close(self) -> None:
        self.ask("stop", self.unit)
        (_RUNTIME_UNITS / self.unit).unlink()
        shutil.rmtree(_RUNTIME_UNITS / f"{self.unit}.d", ignore_errors=True)
        self.ask("daemon-reload")


def _write(directory: Path, unit: str, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = directory / (unit if name.endswith(".service") else f"{unit}.d/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def _systemctl(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemctl", *arguments], env=environment, check=False, capture_output=True, text=True
    )
