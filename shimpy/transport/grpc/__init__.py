"""grpclib hardened against misbehaving clients: limits, deadlines, strict decoding, graceful shutdown.

All use of grpclib's and h2's private names is in this package.
"""

from shimpy.transport.grpc.handlers import wrap
from shimpy.transport.grpc.server import GrpcServer, Service

__all__ = ["GrpcServer", "Service", "wrap"]
