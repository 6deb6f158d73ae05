"""Messages, what comes with them, and whom they are from."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimpy.daemon.helper import packets


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected."""
    a, b = packets.pair()
    yield a, b
    a.close()
    b.close()


def test_a_message_comes_whole_and_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    packets.send(ends[0], b"one")
    packets.send(ends[0], b"two")

    assert [packets.receive(ends[1]).data, packets.receive(ends[1]).data] == [b"one", b"two"]


def test_file_descriptors_come_in_order_and_are_not_inherited(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    files = [(tmp_path / name).open("wb") for name in "abc"]
    packets.send(ends[0], b"x", [file.fileno() for file in files])
    for file in files:
        file.close()

    packet = packets.receive(ends[1])

    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in packet.fds] == [str(tmp_path / n) for n in "abc"]
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in packet.fds)
    packet.close()
    packet.close()
    assert packet.fds == []


@pytest.mark.parametrize("room", [{"longest": 2}, {"fds": 1}])
def test_what_does_not_fit_is_refused_with_all_that_came(
    ends: tuple[socket.socket, socket.socket], room: dict[str, int]
) -> None:
    reading, writing = os.pipe()
    packets.send(ends[0], b"long", [writing, writing, writing])
    os.close(writing)

    with pytest.raises(packets.CutPacketError):
        packets.receive(ends[1], **room)
    assert os.read(reading, 1) == b""  # nobody has the other end any more
    os.close(reading)


def test_the_end_of_a_connection_is_a_message_without_data(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].close()

    assert packets.receive(ends[1]).data == b""


def test_a_connection_that_is_reset_has_ended_too(ends: tuple[socket.socket, socket.socket]) -> None:
    packets.send(ends[1], b"never read")
    ends[0].close()

    assert packets.receive(ends[1]).data == b""


def test_nothing_is_sent_that_would_read_as_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ValueError, match="empty"):
        packets.send(ends[0], b"")


def test_who_does_not_want_to_wait_is_told_that_there_is_no_room(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    def fill() -> None:
        while True:
            packets.send(ends[0], b"x" * 4096, wait=False)

    with pytest.raises(BlockingIOError):
        fill()


def test_each_message_can_say_who_sent_it(ends: tuple[socket.socket, socket.socket]) -> None:
    packets.ask_for_senders(ends[1])
    pid = os.fork()
    if pid == 0:
        packets.send(ends[0], b"x", [0])
        os._exit(0)
    os.waitpid(pid, 0)

    packet = packets.receive(ends[1])
    packet.close()

    assert packet.sender is not None
    assert (packet.sender.pid, packet.sender.uid, packet.sender.gid) == (pid, os.getuid(), os.getgid())


def test_a_listener_is_its_owners_alone_and_knows_who_connects(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listener = packets.listen(path)
    client = packets.connect(path)

    connection, sender = packets.accept(listener)
    packets.send(client, b"hello")

    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert (sender.pid, sender.uid) == (os.getpid(), os.getuid())
    assert packets.peer(client).pid == os.getpid()
    assert packets.receive(connection).data == b"hello"
    for each in (listener, client, connection):
        each.close()


def test_a_path_that_is_taken_stays_what_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listener = packets.listen(path)

    with pytest.raises(OSError, match="in use"):
        packets.datagrams(path)
    listener.close()


def test_datagrams_are_what_sd_notify_sends(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    receiver = packets.datagrams(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(path)
        socket.send_fds(client, [b"FDSTORE=1\nFDNAME=a"], [0])

    packet = packets.receive(receiver)
    receiver.close()

    assert packet.data == b"FDSTORE=1\nFDNAME=a"
    assert len(packet.fds) == 1
    assert packet.sender is not None
    assert packet.sender.pid == os.getpid()
    packet.close()
