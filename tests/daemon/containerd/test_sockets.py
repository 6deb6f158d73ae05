"""Who has a socket: one that lives, one that is ending, one that is dead, another program."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimpy.daemon.containerd import sockets
from shimpy.transport.ttrpc.codes import number_of
from shimpy.transport.ttrpc.envelope import Response, decode_request, encode_response
from tests.support.rawttrpc import HEADER, RESPONSE, frame


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield f"{directory}/s/name"


class Neighbour:
    """Somebody who listens on the socket and answers a start in a way of its own."""

    def __init__(self, path: str, answer: bytes | None) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.asked: list[tuple[str, str]] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            with client:
                header = client.recv(HEADER.size, socket.MSG_WAITALL)
                if not header:
                    return  # it only wanted to know whether anybody lives here
                length = HEADER.unpack(header)[0]
                request = decode_request(client.recv(length, socket.MSG_WAITALL))
                self.asked.append((request.service, request.method))
                if self._answer is not None:
                    client.sendall(self._answer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextlib.contextmanager
def neighbour(path: str, answer: bytes | None) -> Iterator[Neighbour]:
    made = Neighbour(path, answer)
    try:
        yield made
    finally:
        made.close()


def status(name: str) -> bytes:
    """Returns a frame with the answer that a call ended so."""
    return frame(1, RESPONSE, encode_response(Response(b"", number_of(name), "")))


def taken(path: str) -> bool:
    """Whether the socket could be had; it is let go of again."""
    place = sockets.take(path, "web")
    if place is None:
        return False
    place.remove()
    place.listener.close()
    return True


@pytest.mark.parametrize("answer", ["OK", "UNIMPLEMENTED", "INTERNAL"])
def test_whoever_answers_lives(path: str, answer: str) -> None:
    with neighbour(path, status(answer)) as there:
        assert not taken(path)

    assert there.asked == [(sockets.JOIN_SERVICE, sockets.JOIN_METHOD)]
    assert os.path.exists(path)


def test_an_answer_that_is_not_understood_comes_from_the_living(path: str) -> None:
    with neighbour(path, frame(1, RESPONSE, b"\xff")):
        assert not taken(path)


def test_a_shim_that_is_ending_is_replaced(path: str) -> None:
    with neighbour(path, status("UNAVAILABLE")):
        assert taken(path)


def test_a_shim_that_hangs_up_is_replaced(path: str) -> None:
    with neighbour(path, None):
        assert taken(path)


def test_a_shim_without_room_for_connections_lives(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(path)

        assert not taken(path)


def test_a_shim_that_does_not_answer_in_time_lives(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_ANSWER_TIMEOUT", 0.05)
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        assert not taken(path)


def test_the_name_is_removed_by_whom_it_belongs_to(path: str) -> None:
    first = sockets.take(path, "web")
    assert first is not None
    os.unlink(path)
    second = sockets.take(path, "web")
    assert second is not None
    with first.listener, second.listener:
        assert first.remove()
        assert os.path.exists(path)
        assert second.remove()
        assert second.remove()
        assert not os.path.exists(path)


def test_a_directory_that_stays_locked_keeps_the_name(path: str) -> None:
    place = sockets.take(path, "web")
    assert place is not None
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with place.listener:
            assert not place.remove(timeout=0)
    finally:
        os.close(directory)

    assert os.path.exists(path)


def test_a_directory_that_stays_locked_hinders_no_start(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_LOCK_TIMEOUT", 0.01)
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        place = sockets.take(path, "web")
    finally:
        os.close(directory)
    assert place is not None

    place.listener.close()


def test_no_descriptor_is_left_open(path: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    assert taken(path)
    sockets.remove_dead(path)

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_dead_socket_is_removed(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    sockets.remove_dead(path)

    assert not os.path.exists(path)


def test_a_living_one_is_not(path: str) -> None:
    with neighbour(path, None):
        sockets.remove_dead(path)

        assert os.path.exists(path)


def test_the_longest_path_is_what_containerd_allows() -> None:
    directory = "/" + "f" * (sockets.LONGEST_PATH - 1 - 1 - 64)
    assert len(sockets.path_of("/a", "ns", "web", directory)) == sockets.LONGEST_PATH

    with pytest.raises(OSError, match="106 bytes") as caught:
        sockets.path_of("/a", "ns", "web", directory + "f")
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("address", ["", "/a"])
def test_the_directory_does_not_change_the_name(address: str) -> None:
    usual = Path(sockets.path_of(address, "ns", "web"))

    assert Path(sockets.path_of(address, "ns", "web", "/f")).name == usual.name
