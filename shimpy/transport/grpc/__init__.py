"""grpclib made fit to serve people who did not mean well, or whose programs do not.

All use of grpclib's and h2's private names is in this package.
"""

from shimpy.transport.grpc.handlers import guarded
from shimpy.transport.grpc.server import Server, Service

__all__ = ["Server", "Service", "guarded"]
