"""grpclib hardened against misbehaving clients: limits, deadlines, strict decoding, graceful shutdown.

All use of grpclib's and h2's private names is in this package.
"""

from shimpy.transport.grpc.handlers import guarded
from shimpy.transport.grpc.server import Server, Service

__all__ = ["Server", "Service", "guarded"]
