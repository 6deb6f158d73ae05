"""A terminal in a browser, each in a container of its own: `python web_terminal.py ROOTFS`.

It prints the address to open, with a secret in it: who knows that has a shell. It needs the library
`websockets`, and for the browser xterm.js, which it serves from where npm has put it:

    pip install websockets
    npm install @xterm/xterm @xterm/addon-fit
    python web_terminal.py ROOTFS --modules node_modules
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import anyio
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

import shimpy

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Terminal</title>
<link rel="stylesheet" href="/xterm.css">
<style>body { margin: 0; background: #000 } #terminal { height: 100vh }</style>
<div id="terminal"></div>
<script src="/xterm.js"></script><script src="/addon-fit.js"></script>
<script>
const terminal = new Terminal(), fit = new FitAddon.FitAddon();
terminal.loadAddon(fit);
terminal.open(document.getElementById("terminal"));
fit.fit();
const socket = new WebSocket(`ws://${location.host}/socket${location.search}`);
socket.binaryType = "arraybuffer";
const size = () => socket.send(JSON.stringify([terminal.cols, terminal.rows]));
socket.onopen = () => { size(); terminal.onResize(size); terminal.focus(); };
socket.onmessage = event => terminal.write(new Uint8Array(event.data));
socket.onclose = event => terminal.write(`\\r\\n[${event.reason || "connection lost"}]`);
terminal.onData(keys => socket.send(new TextEncoder().encode(keys)));
onresize = () => fit.fit();
</script>
"""

FILES = {
    "/xterm.js": ("@xterm/xterm/lib/xterm.js", "text/javascript"),
    "/xterm.css": ("@xterm/xterm/css/xterm.css", "text/css"),
    "/addon-fit.js": ("@xterm/addon-fit/lib/addon-fit.js", "text/javascript"),
}


class Terminals:
    """Gives each connection a shell.

    Args:
        rootfs: the root filesystem of the containers.
        modules: where npm has put xterm.js.
        at_once: how many there may be.
    """

    def __init__(self, rootfs: Path, modules: Path, at_once: int = 10) -> None:
        self.secret = secrets.token_urlsafe(16)
        self._rootfs = rootfs
        self._modules = modules
        self._limiter = anyio.CapacityLimiter(at_once)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers a request for a page; None lets the browser have its socket."""
        path, _, query = request.path.partition("?")
        if path in FILES:
            name, kind = FILES[path]
            return _response(kind, (self._modules / name).read_bytes())
        if not secrets.compare_digest(query.encode(), f"secret={self.secret}".encode()):
            return connection.respond(HTTPStatus.FORBIDDEN, "The secret is missing in the address.\n")
        return None if path == "/socket" else _response("text/html", PAGE.encode())

    async def serve(self, connection: ServerConnection) -> None:
        """Runs a shell for as long as the browser is there."""
        try:
            self._limiter.acquire_nowait()
        except anyio.WouldBlock:
            await connection.close(1013, "too many terminals; try again later")
            return
        try:
            status = await self._run(connection)
        except ConnectionClosed:
            return
        finally:
            self._limiter.release()
        await connection.close(1000, f"exit status {status}")

    async def _run(self, connection: ServerConnection) -> int:
        width, height = json.loads(await connection.recv())
        with tempfile.TemporaryDirectory() as directory:
            init = ["sh", "-c", "sleep 1000000 & wait"]
            bundle = await shimpy.write_bundle(f"{directory}/bundle", init, rootfs=self._rootfs)
            async with (
                shimpy.in_process() as shim,
                shim.container(f"web-terminal-{secrets.token_hex(4)}", bundle) as container,
            ):
                await container.update(memory=256 << 20, pids=200)
                shell = container.pty(["sh"], width=width, height=height, env={"TERM": "xterm-256color"})
                async with shell as terminal, anyio.create_task_group() as group:
                    group.start_soon(self._type, connection, terminal)
                    async for data in terminal:
                        await connection.send(data)
                    group.cancel_scope.cancel()
                return await terminal.wait()

    async def _type(self, connection: ServerConnection, terminal: shimpy.Pty) -> None:
        """Passes on keys, which come as bytes, and sizes, which come as text."""
        async for message in connection:
            if isinstance(message, bytes):
                await terminal.send(message)
            else:
                await terminal.resize(*json.loads(message))
        await terminal.kill()  # the window was closed


def _response(kind: str, body: bytes) -> Response:
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body))})
    return Response(HTTPStatus.OK, "OK", headers, body)


async def main(rootfs: Path, modules: Path, port: int) -> None:
    """Serves on this machine alone, until Ctrl-C."""
    terminals = Terminals(rootfs, modules)
    async with serve(
        terminals.serve, "127.0.0.1", port, process_request=terminals.answer, max_size=1 << 16
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"http://127.0.0.1:{port}/?secret={terminals.secret}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rootfs", type=Path)
    parser.add_argument("--modules", type=Path, default=Path("node_modules"))
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        anyio.run(main, given.rootfs, given.modules, given.port)
