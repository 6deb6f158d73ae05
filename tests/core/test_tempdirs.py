"""Temporary directories: private, whatever of the machine is shared, and none is left of who was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimpy.core import tempdirs
from shimpy.services.shim_v1 import Shim
from tests.support.forks import fork
from tests.support.leaks import descriptors, opened_since
from tests.support.machine import lacking

NOBODY = 65534

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the directories are, on a machine on which they cannot be mounts of their own."""
    base = tmp_path / "base"

    def refuse() -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(tempdirs, "_detached_tmpfs", refuse)
    monkeypatch.setattr(tempdirs, "base", lambda: str(base))
    return base


@pytest.fixture(params=["mount", "base"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """Directories of either kind, of which no file descriptor may be left."""
    if request.param == "base":
        request.getfixturevalue("base")
    elif lacking():
        pytest.skip(f"needs {lacking()}")
    before = descriptors()
    yield
    assert opened_since(before) == []


# -- a directory ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("anywhere")
def test_a_directory_is_for_us_alone_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        with tempdirs.PrivateDirectory() as one, tempdirs.PrivateDirectory() as other:
            assert [os.stat(directory.path).st_mode & 0o7777 for directory in (one, other)] == [0o700] * 2
            assert not os.path.samefile(one.path, other.path)
    finally:
        os.umask(before)


@pytest.mark.usefixtures("anywhere")
def test_a_child_that_inherits_nothing_reaches_it_by_its_path() -> None:
    with tempdirs.PrivateDirectory() as directory:
        subprocess.run(
            ["sh", "-c", 'echo 1 >"$0/.new" && mv "$0/.new" "$0/file"', directory.path], check=True
        )
        assert directory.read("file", 100) == b"1\n"


@pytest.mark.usefixtures("anywhere")
def test_a_socket_can_be_in_it() -> None:
    with tempdirs.PrivateDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory.path}/socket")
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{directory.path}/socket")


@pytest.mark.usefixtures("anywhere")
def test_it_goes_with_all_that_is_in_it() -> None:
    directory = tempdirs.PrivateDirectory()
    Path(directory.path, "file").touch()
    Path(directory.path, "link").symlink_to("/")

    directory.close()
    directory.close()

    assert not os.path.exists(directory.path)


@pytest.mark.usefixtures("anywhere")
def test_no_more_of_a_file_is_read_than_was_asked_for() -> None:
    with tempdirs.PrivateDirectory() as directory:
        Path(directory.path, "file").write_bytes(b"12345")
        assert directory.read("file", 3) == b"123"


@root
def test_as_root_it_is_mounted_nowhere_and_in_no_directory() -> None:
    mounts = Path("/proc/self/mountinfo").read_bytes()
    before = os.path.exists(tempdirs.base())
    with tempdirs.PrivateDirectory():
        assert Path("/proc/self/mountinfo").read_bytes() == mounts
        assert os.path.exists(tempdirs.base()) == before


# -- where it cannot be a mount of its own -------------------------------------------------------


def test_then_it_is_in_a_directory_of_ours_and_removed_there(base: Path) -> None:
    with tempdirs.PrivateDirectory() as directory:
        (name,) = os.listdir(base)
        assert os.path.samefile(directory.path, base / name)
        assert base.stat().st_mode & 0o7777 == 0o700
    assert os.listdir(base) == []


@pytest.mark.parametrize("kind", ["link", "file", "open to others", pytest.param("another's", marks=root)])
def test_a_base_that_is_not_ours_alone_is_not_used(base: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    match kind:
        case "link":
            target.mkdir(mode=0o700)
            base.symlink_to(target)
        case "file":
            base.touch()
        case "open to others":
            base.mkdir()
            base.chmod(0o770)
        case _:
            base.mkdir(mode=0o700)
            os.chown(base, NOBODY, NOBODY)
    before = descriptors()

    with pytest.raises(OSError):
        tempdirs.PrivateDirectory()
    tempdirs.remove_abandoned()

    assert opened_since(before) == []
    assert not target.exists() or os.listdir(target) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000", "TMPDIR": "/var/tmp"}, "/run/user/1000/shimpy"),
        ({"XDG_RUNTIME_DIR": "", "TMPDIR": "/var/tmp"}, "/var/tmp/shimpy-1000"),
        ({"XDG_RUNTIME_DIR": "", "TMPDIR": ""}, "/tmp/shimpy-1000"),
    ],
)
def test_where_the_base_of_an_ordinary_user_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert tempdirs.base() == expected


def test_the_base_of_root_is_where_no_user_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert tempdirs.base() == "/run/shimpy"


@root
def test_an_ordinary_user_has_directories_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: without the right to mount."""
    parent = tmp_path / "run"
    parent.mkdir()
    os.chown(parent, NOBODY, NOBODY)
    monkeypatch.chdir(parent)  # of the way there no user need know
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")

    def user() -> None:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with tempdirs.PrivateDirectory():
            os._exit(len(os.listdir("shimpy")))

    pid = fork(user)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


# -- who was killed ------------------------------------------------------------------------------

HOLDER = """
import errno, os, sys
from shimpy.core import tempdirs
def refuse(): raise PermissionError(errno.EPERM, "")
tempdirs._detached_tmpfs, tempdirs.base = refuse, lambda: sys.argv[1]
directory = tempdirs.PrivateDirectory()
open(f"{directory.path}/file", "w").close()
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another(base: Path) -> Iterator[Callable[[], None]]:
    """Another process that has a directory; yields what kills it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\n"

        def kill() -> None:
            process.send_signal(signal.SIGKILL)
            process.wait()

        try:
            yield kill
        finally:
            process.kill()


@pytest.mark.anyio
async def test_the_next_shim_removes_the_directories_of_those_that_were_killed_alone(base: Path) -> None:
    with another(base) as kill, another(base):
        assert len(os.listdir(base)) == 2
        kill()
        with tempdirs.PrivateDirectory() as ours:
            async with Shim():
                left = os.listdir(base)
            assert len(left) == 2
            (other,) = (name for name in left if not os.path.samefile(ours.path, base / name))
            assert os.listdir(base / other) == ["file"]


def test_a_directory_is_safe_from_the_removal_from_its_first_moment(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is removed before it is locked is made again; afterwards it is locked."""
    lock = tempdirs._lock
    raced: list[bool] = []

    def remove_first(fd: int) -> bool:
        if not raced:
            raced.append(True)
            with monkeypatch.context() as patch:
                patch.setattr(tempdirs, "_lock", lock)
                tempdirs.remove_abandoned()
        return lock(fd)

    monkeypatch.setattr(tempdirs, "_lock", remove_first)
    with tempdirs.PrivateDirectory() as directory:
        tempdirs.remove_abandoned()
        (name,) = os.listdir(base)
        assert os.path.samefile(directory.path, base / name)


def test_what_is_abandoned_is_not_followed_out_of_the_base(base: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    base.mkdir(mode=0o700)
    (base / "link").symlink_to(elsewhere)

    tempdirs.remove_abandoned()

    assert os.listdir(elsewhere) == ["file"]
