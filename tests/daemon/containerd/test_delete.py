"""`delete`, as containerd calls it when a shim's connection has ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimpy.api import task
from shimpy.core.rootfs import unmount
from shimpy.core.rootfs.syscalls import MS_BIND, mount
from shimpy.core.runtime.options import RuntimeOptions
from shimpy.daemon.containerd.delete import RUNTIME_ROOT
from tests.support import leaks
from tests.support.shimv2 import COMMAND, Shims
from tests.support.time_scale import scaled

Make = Callable[..., str]


class Left:
    """Containers that a dead shim has left behind, as runc knows them."""

    def __init__(self, shims: Shims) -> None:
        self.shims = shims
        self.made: list[tuple[str, str]] = []

    def create(self, container_id: str, bundle: str, root: str = RUNTIME_ROOT) -> int:
        """Creates and starts a container; returns the pid of its init."""
        root = os.path.join(root, self.shims.namespace)
        self.made.append((root, container_id))
        pid_file = os.path.join(bundle, "init.pid")
        runc = ["runc", "--root", root]
        nothing = subprocess.DEVNULL
        subprocess.run(
            [*runc, "create", "--bundle", bundle, "--pid-file", pid_file, container_id],
            check=True, stdin=nothing, stdout=nothing, stderr=nothing,
        )  # fmt: skip
        subprocess.run([*runc, "start", container_id], check=True)
        return int(Path(pid_file).read_text())

    def run(self, container_id: str, *command: str) -> None:
        """Has runc do something to one of them."""
        root = next(root for root, name in self.made if name == container_id)
        subprocess.run(["runc", "--root", root, *command, container_id], check=True)

    def delete(
        self, container_id: str, bundle: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Calls `delete`."""
        return subprocess.run(
            self.shims.command(container_id, "-bundle", str(bundle), "delete"),
            cwd=bundle, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
            env={**os.environ, **environment},
        )  # fmt: skip

    def close(self) -> None:
        for root, container_id in self.made:
            if os.path.exists(os.path.join(root, container_id)):
                subprocess.run(["runc", "--root", root, "delete", "--force", container_id], check=False)
            with contextlib.suppress(OSError):
                os.rmdir(root)


@pytest.fixture
def left() -> Iterator[Left]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        left = Left(Shims(Path(directory)))
        yield left
        left.close()


def answer(done: subprocess.CompletedProcess[bytes]) -> task.DeleteResponse:
    """Returns what was printed, of a delete that has succeeded."""
    assert (done.returncode, done.stderr) == (0, b"")
    return task.DeleteResponse().parse(done.stdout)


def test_of_a_running_container_nothing_is_left(left: Left, bundle: Make, new_id: Make) -> None:
    name, path = new_id(), bundle("sleep", "1000")
    pid = left.create(name, path)
    before = time.time()
    response = answer(left.delete(name, path))

    assert (response.pid, response.exit_status) == (pid, 137)
    assert before - 1 <= response.exited_at.seconds <= time.time()
    assert not leaks.alive(pid)
    assert not os.path.exists(os.path.join(*left.made[0]))


def test_nor_of_a_paused_one(left: Left, bundle: Make, new_id: Make) -> None:
    name, path = new_id(), bundle("sleep", "1000")
    pid = left.create(name, path)
    left.run(name, "pause")
    answer(left.delete(name, path))

    assert not leaks.alive(pid)


def test_others_are_spared(left: Left, bundle: Make, new_id: Make) -> None:
    first, second = new_id(), new_id()
    paths = bundle("sleep", "1000"), bundle("sleep", "1000")
    pids = left.create(first, paths[0]), left.create(second, paths[1])
    answer(left.delete(first, paths[0]))

    assert [leaks.alive(pid) for pid in pids] == [False, True]


def test_the_options_of_the_create_hold(left: Left, bundle: Make, new_id: Make, tmp_path: Path) -> None:
    name, path = new_id(), bundle("sleep", "1000")
    RuntimeOptions(root=str(tmp_path / "runc")).save(path)
    pid = left.create(name, path, str(tmp_path / "runc"))
    answer(left.delete(name, path))

    assert not leaks.alive(pid)
    assert os.listdir(tmp_path / "runc" / left.shims.namespace) == []


def stand_in(directory: Path, script: str, name: str = "runc") -> str:
    """Writes a program and returns a PATH on which it is found first."""
    program = directory / "bin" / name
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def test_nothing_is_left_to_do(left: Left, tmp_path: Path) -> None:
    path = left.shims.bundle("web")
    RuntimeOptions().save(str(path))
    response = answer(left.delete("web", path, PATH=stand_in(tmp_path, f"echo ran >> {tmp_path}/ran")))

    assert (response.pid, response.exit_status) == (0, 137)
    assert not (tmp_path / "ran").exists()


def test_a_bundle_that_is_gone(left: Left, tmp_path: Path) -> None:
    done = subprocess.run(
        left.shims.command("web", "-bundle", "/no/such/bundle", "delete"),
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip

    assert answer(done).exit_status == 137


@pytest.mark.parametrize("text", ["", "x", "-1"])
def test_a_pid_that_is_none(left: Left, text: str) -> None:
    path = left.shims.bundle("web")
    (path / "init.pid").write_text(text)

    assert answer(left.delete("web", path)).pid == 0


def test_it_imports_next_to_nothing(left: Left) -> None:
    path = left.shims.bundle("web")
    RuntimeOptions().save(str(path))
    program = (
        "import sys; before = set(sys.modules)\n"
        "from shimpy.daemon.containerd.main import main\n"
        "status = main()\n"
        "sys.stderr.write(' '.join(sorted(set(sys.modules) - before)))\n"
        "sys.exit(status)"
    )
    paths = [str(Path(__file__).parents[3])]
    done = subprocess.run(
        [
            sys.executable, "-I", "-S", "-c", f"import sys; sys.path += {paths!r}\n{program}",
            *left.shims.command("web", "-bundle", str(path), "delete")[4:],
        ],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    loaded = done.stderr.decode().split()

    assert [name for name in loaded if name.startswith("shimpy.core")] == []
    assert {"asyncio", "betterproto", "enum", "json", "re", "socket", "subprocess", "typing"} & {
        *loaded
    } == set()


@pytest.mark.parametrize("name", ["rootfs", "root fs"])
def test_the_root_filesystem_is_unmounted(left: Left, name: str) -> None:
    directory = left.shims.directory / name
    directory.mkdir()
    left.shims.directory = directory
    path = left.shims.bundle("web")
    rootfs = path / "rootfs"
    (rootfs / "inner").mkdir(parents=True)
    (path / "source").mkdir()
    mount(str(path), str(rootfs), "", MS_BIND)
    mount("/proc", str(rootfs / "source"), "", MS_BIND)
    try:
        answer(left.delete("web", path))
        assert unmount.mounted_at(str(rootfs)) == []
    finally:
        unmount.unmount_all(str(rootfs))


def test_a_container_that_stays_is_told_of(left: Left, tmp_path: Path) -> None:
    path = left.shims.bundle("web")
    RuntimeOptions(root=str(tmp_path / "state")).save(str(path))
    (tmp_path / "state" / left.shims.namespace / "web").mkdir(parents=True)
    search = stand_in(tmp_path, "echo 'container is stuck' >&2; exit 1")
    done = left.delete("web", path, PATH=search)

    assert (done.returncode, done.stdout) == (1, b"")
    assert b"container is stuck" in done.stderr


def test_a_runtime_that_knows_nothing_of_it_any_more(left: Left, tmp_path: Path) -> None:
    path = left.shims.bundle("web")
    search = stand_in(tmp_path, "echo 'container \"web\" does not exist' >&2; exit 1", "another")
    RuntimeOptions(binary_name="another").save(str(path))

    assert answer(left.delete("web", path, PATH=search)).exit_status == 137


def test_a_runtime_that_hangs_is_killed_before_containerd_would_kill_us(left: Left, tmp_path: Path) -> None:
    path = left.shims.bundle("web")
    search = stand_in(tmp_path, "sleep 1000 & echo $! > pid; wait", "another")
    RuntimeOptions(binary_name="another").save(str(path))
    # As if it had taken that long to get to its first instruction, on a machine with much else to do.
    left.shims.program = ("/bin/sh", "-c", 'sleep 2; exec "$@"', "sh", *COMMAND)
    begun = time.monotonic()
    done = left.delete("web", path, PATH=search)

    assert done.returncode == 1
    assert time.monotonic() - begun < scaled(5)
    assert not leaks.alive(int((path / "pid").read_text()))


def test_the_runtime_gets_the_options(left: Left, tmp_path: Path) -> None:
    path = left.shims.bundle("web")
    search = stand_in(tmp_path, f'echo "$@" > {tmp_path}/arguments; env > {tmp_path}/environment', "another")
    RuntimeOptions(binary_name="another", root="/r", systemd_cgroup=True).save(str(path))
    answer(left.delete("web", path, PATH=search, NOTIFY_SOCKET="/run/notify"))

    told = (tmp_path / "arguments").read_text().split()
    assert told == ["--root", f"/r/{left.shims.namespace}", "--systemd-cgroup", "delete", "--force", "web"]
    assert "NOTIFY_SOCKET" not in (tmp_path / "environment").read_text()


def test_options_that_are_broken_are_told_of(left: Left) -> None:
    path = left.shims.bundle("web")
    (path / "options.json").write_text(json.dumps({"root": 7}))
    done = left.delete("web", path)

    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"options.json" in done.stderr


@pytest.mark.parametrize("lives", [True, False])
def test_the_socket_of_a_dead_shim_is_removed(left: Left, lives: bool) -> None:
    path = left.shims.bundle("web")
    place = left.shims.directory / "socket"
    (path / "address").write_text(f"unix://{place}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        if lives:
            listener.listen()
        answer(left.delete("web", path))

        assert place.exists() == lives
