"""The socket: who can connect, what is replaced, and what is left behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimpy.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ShimError,
)
from shimpy.transport import unix
from tests.support.leaks import descriptors, opened_since
from tests.support.rounds import rounds


@pytest.fixture
def made() -> Iterator[list[unix.UnixSocket]]:
    """What is appended is removed."""
    places: list[unix.UnixSocket] = []
    yield places
    for place in places:
        place.remove()
        place.socket.close()


def answers(path: Path) -> bool:
    """Returns whether somebody listens there, however long the path is."""
    descriptor = os.open(path, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(f"/proc/self/fd/{descriptor}") == 0
    finally:
        os.close(descriptor)


def leave_dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o177])
def test_only_its_owner_may_connect_whatever_the_umask(
    tmp_path: Path, made: list[unix.UnixSocket], umask: int
) -> None:
    before = os.umask(umask)
    try:
        made.append(unix.listen(str(tmp_path / "s")))
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600


@pytest.mark.parametrize(
    "name",
    [
        "s" * 60,
        "s" * 95,
        "s" * 107,
        "s" * 255,
        "/".join(["directory" * 6] * 9) + "/s",
        "f" * 200 + "/" + "s" * 200,
    ],
    ids=len,
)
def test_any_path_that_a_file_may_have(tmp_path: Path, made: list[unix.UnixSocket], name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)

    made.append(unix.listen(str(path)))

    assert answers(path)
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made[0].remove()
    assert os.listdir(path.parent) == []


def test_a_relative_path_is_of_the_directory_in_which_it_was_named(
    tmp_path: Path, made: list[unix.UnixSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made.append(unix.listen("./s"))
    monkeypatch.chdir("/")

    assert made[0].path == str(tmp_path / "s")
    made[0].remove()
    assert os.listdir(tmp_path) == []


def test_tools_show_the_path(tmp_path: Path, made: list[unix.UnixSocket]) -> None:
    made.append(unix.listen(str(tmp_path / "s")))

    assert made[0].socket.getsockname() == str(tmp_path / "s")


def test_a_dead_server_s_socket_is_replaced(tmp_path: Path, made: list[unix.UnixSocket]) -> None:
    leave_dead_socket(tmp_path / "s")

    made.append(unix.listen(str(tmp_path / "s")))

    assert answers(tmp_path / "s")


@pytest.mark.parametrize("name", ["s", "s" * 200])
def test_a_living_server_s_socket_is_not(tmp_path: Path, made: list[unix.UnixSocket], name: str) -> None:
    made.append(unix.listen(str(tmp_path / name)))

    with pytest.raises(AlreadyExistsError, match="a server is listening there already"):
        unix.listen(str(tmp_path / name))

    assert answers(tmp_path / name)


def test_a_server_that_is_too_busy_to_accept_is_living(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        waiting.connect(str(tmp_path / "s"))

        with pytest.raises(AlreadyExistsError, match="listening"):
            unix.listen(str(tmp_path / "s"))


def test_a_socket_of_another_kind_is_living(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))

        with pytest.raises(AlreadyExistsError, match="listening"):
            unix.listen(str(tmp_path / "s"))


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("dear")

    with pytest.raises(
        AlreadyExistsError, match="exists and is not a socket; remove it or choose another path"
    ):
        unix.listen(str(tmp_path / "s"))

    assert (tmp_path / "s").read_text() == "dear"


@pytest.mark.parametrize("target", ["dead", "nowhere", "file"])
def test_a_symbolic_link_is_neither_followed_nor_replaced(tmp_path: Path, target: str) -> None:
    leave_dead_socket(tmp_path / "dead")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "s").symlink_to(target)

    with pytest.raises(AlreadyExistsError, match="exists and is a symbolic link"):
        unix.listen(str(tmp_path / "s"))

    assert os.readlink(tmp_path / "s") == target
    assert sorted(os.listdir(tmp_path)) == ["dead", "file", "s"]


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("", InvalidArgumentError, "not a path"),
        ("\0abstract", InvalidArgumentError, "abstract"),
        ("@abstract", InvalidArgumentError, "abstract"),
        ("/tmp/a\0b", InvalidArgumentError, "not a path"),
        ("/nowhere/at/all/s", NotFoundError, "/nowhere/at/all: no such directory"),
        ("/etc/passwd/s", NotFoundError, "/etc/passwd: not a directory"),
        ("/tmp/", InvalidArgumentError, "is a directory"),
        ("/sys/s", PermissionDeniedError, "/sys: the socket may not be made there"),
        ("/tmp/" + "s" * 256, InternalError, "File name too long"),
    ],
    ids=[
        "nothing",
        "abstract",
        "@",
        "NUL",
        "no directory",
        "a file as directory",
        "a directory",
        "forbidden",
        "too long",
    ],
)
def test_a_place_where_there_can_be_no_socket(path: str, error: type[ShimError], words: str) -> None:
    before = descriptors()

    with pytest.raises(error, match=words):
        unix.listen(path)

    assert opened_since(before) == []


def test_what_is_removed_is_its_own(tmp_path: Path, made: list[unix.UnixSocket]) -> None:
    made.append(unix.listen(str(tmp_path / "s")))
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("somebody else's")

    made[0].remove()

    assert (tmp_path / "s").read_text() == "somebody else's"


def test_removing_twice_is_harmless(tmp_path: Path, made: list[unix.UnixSocket]) -> None:
    made.append(unix.listen(str(tmp_path / "s")))
    made[0].remove()
    descriptor = os.open(os.devnull, os.O_RDONLY)  # may have got the number that was freed
    made[0].remove()

    os.fstat(descriptor)
    os.close(descriptor)


def test_a_directory_that_somebody_keeps_locked_is_no_hindrance(
    tmp_path: Path, made: list[unix.UnixSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "_LOCK_TIMEOUT", 0.01)
    with subprocess.Popen(
        ["flock", str(tmp_path), "sh", "-c", "echo locked; read forever"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        made.append(unix.listen(str(tmp_path / "s")))
        assert answers(tmp_path / "s")
        made[0].remove()
        assert os.listdir(tmp_path) == []

        holder.communicate(b"\n")


_CONTENDER = """
import os, sys
from shimpy.transport import unix
from shimpy.errors import AlreadyExistsError
print("ready", flush=True)
for line in sys.stdin:
    try:
        place = unix.listen(line.strip())
    except AlreadyExistsError:
        print("lost", flush=True)
    else:
        print("won", flush=True)
        sys.stdin.readline()
        place.remove()
        place.socket.close()
        print("left", flush=True)
"""


def contender() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CONTENDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def tell(process: subprocess.Popen[str], line: object) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_servers_started_at_once_exactly_one_gets_a_dead_one_s_place(tmp_path: Path) -> None:
    contenders = [contender() for _ in range(4)]
    try:
        assert [told(each) for each in contenders] == ["ready"] * 4
        for n in range(rounds(100, 5_000)):
            path = tmp_path / f"{n}"
            leave_dead_socket(path)
            for each in contenders:
                tell(each, path)
            results = [told(each) for each in contenders]
            assert sorted(results) == ["lost", "lost", "lost", "won"]
            assert answers(path)
            winner = contenders[results.index("won")]
            tell(winner, "")
            assert told(winner) == "left"
            assert not path.exists()
    finally:
        for each in contenders:
            each.kill()
            each.communicate()


def test_one_that_was_killed_blocks_nobody(tmp_path: Path, made: list[unix.UnixSocket]) -> None:
    victim = contender()
    assert told(victim) == "ready"
    tell(victim, tmp_path / "s")
    assert told(victim) == "won"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()

    made.append(unix.listen(str(tmp_path / "s")))

    assert os.listdir(tmp_path) == ["s"]


def test_what_a_killed_one_left_half_made_is_replaced(tmp_path: Path, made: list[unix.UnixSocket]) -> None:
    leave_dead_socket(tmp_path / ".shimpy.new")

    made.append(unix.listen(str(tmp_path / ("s" * 200))))

    assert os.listdir(tmp_path) == ["s" * 200]
