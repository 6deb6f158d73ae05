"""Methods of `transport.methods`, served over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import betterproto
from grpclib.const import Cardinality, Handler

from shimpy.transport.grpc.handlers import wrap
from shimpy.transport.methods import Method


class MethodService:
    """A service as grpclib serves it.

    Args:
        name: its full name.
        methods: its methods by their names.
    """

    def __init__(self, name: str, methods: Mapping[str, Method]) -> None:
        self._name = name
        self._methods = methods

    def __mapping__(self) -> dict[str, Handler]:
        """Returns the handlers of the calls by their paths."""
        return wrap(
            {
                f"/{self._name}/{name}": Handler(
                    _unary(method), Cardinality.UNARY_UNARY, method.request, betterproto.Message
                )
                for name, method in self._methods.items()
            }
        )


def _unary(method: Method) -> Any:
    async def serve(stream: Any) -> None:
        await stream.send_message(await method.handler(await stream.recv_message()))

    return serve
