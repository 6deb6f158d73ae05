"""ttrpc, containerd's own protocol for its shims: unary calls over a unix socket."""

from .client import Client, connect
from .frames import MAX_PAYLOAD
from .server import Server

__all__ = ["MAX_PAYLOAD", "Client", "Server", "connect"]
