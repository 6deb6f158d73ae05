"""ttrpc, containerd's own protocol for its shims: unary calls over a unix socket."""

from shimpy.transport.ttrpc.client import Client, connect
from shimpy.transport.ttrpc.frames import MAX_PAYLOAD
from shimpy.transport.ttrpc.server import TtrpcServer

__all__ = ["MAX_PAYLOAD", "Client", "TtrpcServer", "connect"]
