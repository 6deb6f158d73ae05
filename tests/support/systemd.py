"""A real systemd of the test's own: a user instance with a private socket and one unit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.time_scale import scaled

_PROGRAM = "/lib/systemd/systemd"

# systemd serves users only where a directory is there that pid 1 makes: here, in a mount namespace alone.
_INSIDE = """
mount --make-rprivate /
[ -d /run/systemd/system ] || { mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system; }
echo $$ >"$1/cgroup.procs"
exec "$2" --user --unit=shimpy.service
"""

_CGROUPS = Path("/sys/fs/cgroup/systemd")


def lacking() -> str:
    """Returns what this machine lacks, in words; empty if nothing."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return "root and unshare"
    if not os.path.exists(_PROGRAM) or not os.path.isdir("/run/systemd"):
        return "systemd"
    return "" if _CGROUPS.is_dir() else "a hierarchy of cgroups that systemd may have (name=systemd)"


class UserSystemd:
    """It runs one unit, shimpy.service, from its start on.

    Args:
        unit: what the file of the unit holds.

    Attributes:
        runtime: its directory, as $XDG_RUNTIME_DIR.
    """

    def __init__(self, unit: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="shimpy-test-")
        self.runtime = Path(self._directory.name) / "run"
        units = Path(self._directory.name) / "config" / "systemd" / "user"
        units.mkdir(parents=True)
        self.runtime.mkdir(mode=0o700)
        (units / "shimpy.service").write_text(unit)
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
                ["unshare", "--mount", "sh", "-c", _INSIDE, "sh", self._cgroup, _PROGRAM],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        """What it and its unit have said."""
        return self._log.read_text(errors="replace")

    def main_pid(self) -> int:
        """Returns the main process of the unit, 0 if there is none."""
        return int(self.systemctl("show", "--property=MainPID", "--value", "shimpy.service") or 0)

    def next_main_pid(self, before: int) -> int:
        """Waits until the unit is active with another main process, and returns that."""
        end = time.monotonic() + scaled(20)
        while time.monotonic() < end:
            pid = self.main_pid()
            if pid not in (0, before) and self.systemctl("is-active", "shimpy.service") == "active":
                return pid
        raise AssertionError(self.log)

    def systemctl(self, *arguments: str) -> str:
        """Has it do something, and returns what that prints."""
        done = subprocess.run(
            ["systemctl", "--user", *arguments],
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def close(self) -> None:
        """Ends it and its unit."""
        self.systemctl("stop", "shimpy.service")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for child in sorted(self._cgroup.rglob("*"), reverse=True):
            if child.is_dir():
                child.rmdir()
        self._cgroup.rmdir()
        self._directory.cleanup()
