"""Messages with file descriptors over Unix sockets, and who has sent them (unix(7)).

Of the kinds of socket, SOCK_SEQPACKET keeps the messages apart and tells of the other end's end; SOCK_DGRAM
is what sd_notify(3) speaks.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
    from collections.abc import Sequence
else:
    import _socket

# Bytes of a message, unless more are asked for; and the file descriptors that the kernel takes with one
# (SCM_MAX_FD).
_LONGEST = 1 << 16
_MOST_FDS = 253

_INT = 4
_CREDENTIALS = 3 * _INT  # struct ucred

# Connections that may wait to be accepted.
_BACKLOG = 128


class Sender:
    """A process that has sent something, or is at the other end, as the kernel knows it.

    Attributes:
        pid: its process id; 0 if it is in a pid namespace that this process does not see.
        uid: its user id.
        gid: its group id.
    """

    __slots__ = ("gid", "pid", "uid")

    def __init__(self, data: bytes) -> None:
        """Reads a struct ucred."""
        numbers = (data[at : at + _INT] for at in range(0, _CREDENTIALS, _INT))
        self.pid, self.uid, self.gid = (int.from_bytes(number, sys.byteorder) for number in numbers)


class Packet:
    """A message.

    Attributes:
        data: its bytes; none, if it comes from a connection: that has ended.
        fds: the file descriptors that came with it. They are the receiver's, closed on exec.
        sender: who has sent it; None unless it was asked for (`ask_for_senders`).
    """

    __slots__ = ("data", "fds", "sender")

    def __init__(self, data: bytes, fds: list[int], sender: Sender | None) -> None:
        self.data = data
        self.fds = fds
        self.sender = sender

    def close(self) -> None:
        """Closes the file descriptors that are still in `fds`. Idempotent."""
        while self.fds:
            os.close(self.fds.pop())


class CutPacketError(Exception):
    """A message or what came with it found no room: here, or in this process's table of file descriptors."""


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Returns two sockets that are connected to each other, for a helper and who begins it."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def adopt(fd: int) -> _socket.socket:
    """Returns the socket that a file descriptor is, which will not be inherited."""
    os.set_inheritable(fd, False)
    return _socket.socket(fileno=fd)


def listen(path: str) -> _socket.socket:
    """Returns a socket that connections can be accepted from, with mode 0600 from its first instant.

    Args:
        path: where; at most 107 bytes.

    Raises:
        OSError: something is there already (EADDRINUSE), or the kernel refused.
    """
    listener = _bound(path, _socket.SOCK_SEQPACKET)
    listener.listen(_BACKLOG)
    return listener


def datagrams(path: str) -> _socket.socket:
    """Returns a socket that takes datagrams with their senders, as sd_notify(3) needs; otherwise as `listen`.

    Raises:
        OSError: something is there already (EADDRINUSE), or the kernel refused.
    """
    receiver = _bound(path, _socket.SOCK_DGRAM)
    ask_for_senders(receiver)
    return receiver


def _bound(path: str, kind: int) -> _socket.socket:
    bound = _socket.socket(_socket.AF_UNIX, kind)
    try:
        # The file gets the mode that the socket has, less the umask.
        os.fchmod(bound.fileno(), 0o600)
        bound.bind(path)
    except BaseException:
        bound.close()
        raise
    return bound


def connect(path: str) -> _socket.socket:
    """Returns a connection to a socket that `listen` made.

    Raises:
        OSError: nobody listens there, or the kernel refused.
    """
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        client.connect(path)
    except BaseException:
        client.close()
        raise
    return client


def accept(listener: _socket.socket) -> tuple[_socket.socket, Sender]:
    """Accepts a connection; returns it, and who has connected.

    Raises:
        BlockingIOError: there is none, and the listener does not block.
        OSError: the kernel refused.
    """
    fd, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.socket.accept calls
    connection = _socket.socket(fileno=fd)
    return connection, peer(connection)


def peer(connection: _socket.socket) -> Sender:
    """Returns who is at the other end (SO_PEERCRED): who called connect(2), listen(2) or socketpair(2)."""
    return Sender(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS))


def ask_for_senders(receiver: _socket.socket) -> None:
    """Has the kernel say, from now on, who has sent each message (SO_PASSCRED)."""
    receiver.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)


def send(connection: _socket.socket, data: bytes, fds: Sequence[int] = (), *, wait: bool = True) -> None:
    """Sends a message: all of it, or nothing.

    Args:
        connection: of which kind the above are.
        data: what to send; not empty, which would read as the connection's end.
        fds: file descriptors to send copies of.
        wait: whether to wait for room, if the connection itself would.

    Raises:
        BlockingIOError: there is no room for it now.
        OSError: the other end has gone, or the kernel refused.
    """
    if not data:
        raise ValueError("an empty message reads as the end of the connection")
    numbers = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in fds)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)] if fds else []
    # A receiver that has gone is an error here, not a signal.
    flags = _socket.MSG_NOSIGNAL | (0 if wait else _socket.MSG_DONTWAIT)
    connection.sendmsg([data], ancillary, flags)


def receive(connection: _socket.socket, *, longest: int = _LONGEST, fds: int = _MOST_FDS) -> Packet:
    """Receives a message.

    Args:
        connection: where from.
        longest: bytes that a message may have.
        fds: file descriptors that may come with it.

    Raises:
        BlockingIOError: there is none, and the connection does not block.
        CutPacketError: the message was longer, or brought more; it is lost, its file descriptors are closed.
        OSError: the kernel refused.
    """
    # Room for as many numbers as may come, whether or not the kernel adds the sender.
    room = _socket.CMSG_SPACE(_CREDENTIALS) + _socket.CMSG_SPACE(_INT * fds)
    try:
        data, ancillary, flags, _ = connection.recvmsg(longest, room, _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return Packet(b"", [], None)
    packet = Packet(data, [], None)
    for level, kind, content in ancillary:
        if level != _socket.SOL_SOCKET:
            continue
        if kind == _socket.SCM_RIGHTS:
            whole = range(0, len(content) - len(content) % _INT, _INT)
            packet.fds += [int.from_bytes(content[at : at + _INT], sys.byteorder) for at in whole]
        elif kind == _socket.SCM_CREDENTIALS:
            packet.sender = Sender(content)
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC) or len(packet.fds) > fds:
        packet.close()
        raise CutPacketError(
            f"a message is longer than {longest} bytes, or {fds} file descriptors are too few"
        )
    return packet
