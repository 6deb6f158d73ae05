"""Runs strangers' shell scripts over HTTP, each in a sandbox of its own.

An ASGI application for any server: `ROOTFS=/srv/rootfs uvicorn http_sandbox:app`. Then

    curl --data 'echo hello; exit 3' http://127.0.0.1:8000/

answers what it wrote and how it ended, as JSON. A client that leaves takes its script with it. Eight run at a
time; the others wait.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

import shimpy

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Bytes of a script, and of each of its outputs.
MAX_SCRIPT = 64 << 10
MAX_OUTPUT = 256 << 10

# Seconds that a script has.
TIME = 5.0

AT_ONCE = 8


class Sandboxes:
    """The application.

    Args:
        rootfs: the root filesystem of all sandboxes.
    """

    def __init__(self, rootfs: str) -> None:
        self._rootfs = rootfs
        self._limiter: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            script = await _body(receive)
            if script is None:
                return  # nobody waits for an answer
            if len(script) > MAX_SCRIPT:
                await _answer(send, 413, {"error": f"a script has at most {MAX_SCRIPT} bytes"})
            else:
                await self._run(script, receive, send)
        elif scope["type"] == "http":
            await _answer(send, 405, {"error": "POST a script"})

    async def _run(self, script: bytes, receive: Receive, send: Send) -> None:
        if self._limiter is None:  # made here, in the event loop of the server
            self._limiter = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as group:

            async def leave() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()  # kills the script, with all that it has started

            group.start_soon(leave)
            try:
                result = await shimpy.run(
                    self._rootfs,
                    ["sh"],
                    input=script,
                    timeout=TIME,
                    output_limit=MAX_OUTPUT,
                    limiter=self._limiter,
                    memory=128 << 20,
                    pids=64,
                    cpus=1,
                )
            except shimpy.ShimError as error:
                await _answer(send, 503, {"error": str(error)})
            else:
                await _answer(send, 200, _described(result))
            group.cancel_scope.cancel()


def _described(result: shimpy.Result) -> dict[str, object]:
    return {
        "stdout": result.stdout.decode(errors="replace"),
        "stderr": result.stderr.decode(errors="replace"),
        "exit_status": result.exit_status,
        "timed_out": result.timed_out,
        "truncated": result.truncated,
        "oom": result.oom,
    }


async def _body(receive: Receive) -> bytes | None:
    """Returns what a client sends, of too much the beginning; None if it has left."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_SCRIPT:
            break
        more = message.get("more_body", False)
    return body


async def _answer(send: Send, status: int, value: dict[str, object]) -> None:
    body = json.dumps(value).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


app = Sandboxes(os.environ.get("ROOTFS", "/srv/rootfs"))
