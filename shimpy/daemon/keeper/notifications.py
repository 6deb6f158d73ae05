"""The words of sd_notify(3): read from a shim, and said to who supervises the keeper."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket as _socket
else:
    import _socket

# Characters of the name of a file descriptor in a store, and what stands for a name that cannot be one
# (sd_notify(3), FDNAME=).
_LONGEST_NAME = 255
_NO_NAME = "stored"


def parse(data: bytes) -> dict[str, str]:
    """Returns the assignments of a message; of a line that is none, nothing.

    Args:
        data: lines, `NAME=value` each.
    """
    lines = (line.partition("=") for line in data.decode("utf-8", "replace").split("\n"))
    return {name: value for name, equals, value in lines if equals}


def fd_name(fields: dict[str, str]) -> str:
    """Returns the name that a message gives to its file descriptors, as systemd would have it."""
    name = fields.get("FDNAME", _NO_NAME)
    if not 0 < len(name) <= _LONGEST_NAME or any(not " " <= char <= "~" or char == ":" for char in name):
        return _NO_NAME
    return name


def tell(address: str, state: str) -> None:
    """Tells a service manager something, if there is one that listens.

    Args:
        address: its NOTIFY_SOCKET, "" for none.
        state: such as READY=1.
    """
    if not address.startswith(("/", "@")):
        return
    manager = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        manager.setblocking(False)
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        manager.send(state.encode())
    except OSError:
        pass  # the shim is kept even if nobody wants to know
    finally:
        manager.close()
