"""System calls that the standard library does not offer."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shimpy import linux


def test_the_peer_is_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert linux.peer(ours) == (os.getpid(), os.geteuid())


def test_a_socket_that_is_not_connected_has_no_peer_to_trust() -> None:
    with socket.socket(socket.AF_UNIX) as alone:
        assert not linux.peer(alone).is_root_or_this_user


@pytest.mark.parametrize(("uid", "trusted"), [(0, True), (1000, True), (1001, False), (2**32 - 1, False)])
def test_root_and_the_same_user_are_trusted(monkeypatch: pytest.MonkeyPatch, uid: int, trusted: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert linux.Peer(1, uid).is_root_or_this_user is trusted


def test_a_path_of_the_longest_address_can_be_bound_and_a_longer_one_cannot(tmp_path: Path) -> None:
    directory = f"{tmp_path}/"
    room = linux.LONGEST_SOCKET_ADDRESS - len(directory)
    with socket.socket(socket.AF_UNIX) as fits, socket.socket(socket.AF_UNIX) as too_long:
        fits.bind(directory + "s" * room)
        with pytest.raises(OSError, match="too long"):
            too_long.bind(directory + "s" * (room + 1))


def test_the_subreaper_attribute_is_what_it_was_set_to() -> None:
    program = """
from shimpy import linux
for value in (True, False):
    linux.set_child_subreaper(value)
    print(linux.is_child_subreaper())
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert done.stdout == "True\nFalse\n"


@pytest.mark.parametrize("sizes", [[0], [10], [4092, 0], [4092, 10], [4092, 2200, 2047], [2048, 0]])
def test_a_list_of_numbers_is_read_to_its_end_and_no_further(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    """The kernel gives as many lines as a page has room for."""
    parts = [b"1" * size for size in sizes]
    given = iter(parts)
    monkeypatch.setattr(os, "read", lambda _fd, _size: next(given))

    assert linux.read_file(os.devnull, short_lines=True) == b"".join(parts)
    assert list(given) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [("/proc/version", "procfs"), ("/sys/kernel", "sysfs"), ("/dev/shm", None), ("/", None)],
)
def test_a_filesystem_of_the_kernel_is_known(path: str, name: str | None) -> None:
    fd = os.open(path, os.O_PATH)
    try:
        assert linux.kernel_filesystem(fd) == name
    finally:
        os.close(fd)


def test_inotify_tells_what_is_watched_for(tmp_path: Path) -> None:
    fd = linux.inotify_init(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        watch = linux.inotify_add_watch(fd, str(tmp_path), 0x100)  # IN_CREATE
        (tmp_path / "new").touch()
        assert os.read(fd, 4096)[:4] == watch.to_bytes(4, sys.byteorder)
        linux.inotify_rm_watch(fd, watch)
        os.read(fd, 4096)  # that the watch has ended
        (tmp_path / "newer").touch()
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
    finally:
        os.close(fd)


def test_what_the_kernel_refuses_is_an_error_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="umount2") as refused:
        linux.detach(str(tmp_path))

    assert refused.value.errno in {errno.EINVAL, errno.EPERM}
    with pytest.raises(OSError, match="inotify_add_watch"):
        linux.inotify_add_watch(-1, str(tmp_path), 1)


@pytest.mark.parametrize("number", [signal.SIGUSR1, *sorted(linux.SIGNALS_OF_THE_C_LIBRARY)])
def test_a_signal_that_was_ignored_is_at_its_default_again(number: int) -> None:
    program = f"""
import ctypes
from shimpy import linux
def ignored():
    line = next(line for line in open("/proc/thread-self/status") if line.startswith("SigIgn"))
    return int(line.split()[1], 16) >> {number} - 1 & 1
ignore = ctypes.create_string_buffer((1).to_bytes(8, "little"), 32)
number = linux._RT_SIGACTION[linux.os.uname().machine]
ctypes.CDLL(None).syscall(number, {number}, ignore, None, ctypes.c_size_t(8))
print(ignored())
linux.reset_signal({number})
print(ignored())
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert done.stdout == "1\n0\n"
