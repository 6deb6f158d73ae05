"""Calls that a client repeats, because it does not know what came of them: they take effect once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from betterproto.lib.google.protobuf import Empty
from grpclib.const import Handler

from shimpy import api
from shimpy.core.journal import Journal, call_token
from shimpy.transport.grpc import metadata

# What a call is answered with that took effect before, of what the journal remembers.
_REPLIES: Final[dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    "Create": lambda known: api.CreateResponse(pid=known["pid"]),
    "Exec": lambda known: api.ExecResponse(pid=known["pid"]),
    "Delete": lambda known: api.DeleteResponse(exit_status=known["status"]),
    "Start": lambda _: Empty(),
    "Pause": lambda _: Empty(),
    "Resume": lambda _: Empty(),
}

_STATE: Final = "/containerd.shim.v1.Shim/State"

_Serve = Callable[[Any], Awaitable[None]]


class RepeatedCalls:
    """Answers calls by their idempotency tokens.

    Attributes:
        journal: remembers what took effect, also before this shim was started; None: nothing is remembered.
    """

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self._under_way: dict[str, asyncio.Event] = {}

    def wrap(self, mapping: Mapping[str, Handler]) -> dict[str, Handler]:
        """Returns handlers that have a call with a token take effect once.

        Args:
            mapping: what the generated `__mapping__` returns.
        """
        wrapped = {
            path: handler._replace(func=self._once(handler.func, reply))
            if (reply := _REPLIES.get(path.rpartition("/")[2]))
            else handler
            for path, handler in mapping.items()
        }
        state = wrapped[_STATE]
        return {**wrapped, _STATE: state._replace(func=self._echo(state.func))}

    def _echo(self, serve: _Serve) -> _Serve:
        """Returns the handler of State, which tells a client that has a token that tokens are heeded."""

        async def serve_state(stream: Any) -> None:
            if self.journal is not None and (token := metadata.token()):
                await stream.send_initial_metadata(metadata={metadata.TOKEN: token})
            await serve(stream)

        return serve_state

    def _once(self, serve: _Serve, reply: Callable[[Mapping[str, Any]], Any]) -> _Serve:
        async def serve_once(stream: Any) -> None:
            token = metadata.token()
            if not token or self.journal is None:
                await serve(stream)
                return
            while (earlier := self._under_way.get(token)) is not None:
                await earlier.wait()
            if (known := self.journal.state.tokens.get(token)) is not None:
                await stream.recv_message()
                await stream.send_message(reply(known))
                return
            self._under_way[token] = asyncio.Event()
            reset = call_token.set(token)
            try:
                await serve(stream)
            finally:
                call_token.reset(reset)
                self._under_way.pop(token).set()

        return serve_once
