"""An HTTP/2 client driven by hand, for requests that no gRPC library would make."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from grpclib.const import Status
from h2.settings import SettingCodes
from hyperframe.frame import Frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

SERVICE = "/containerd.shim.v1.Shim/"


def message(data: bytes = b"", *, flag: int = 0, length: int | None = None) -> bytes:
    """Returns a message as gRPC frames it, with a flag and a length that may be wrong."""
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


@dataclass
class Answer:
    """What has come back for one request."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> Status:
        """The gRPC status."""
        return Status(int((self.trailers or self.headers)["grpc-status"]))

    @property
    def message(self) -> str:
        """The gRPC message."""
        return unquote((self.trailers or self.headers).get("grpc-message", ""))


class RawClient:
    """One connection.

    Attributes:
        http: h2's half of it; what it has to send goes out with `flush`.
        answers: what has come back, by stream.
        goaway: the error code of the GOAWAY, if one has come.
        closed: whether the server has closed the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.http = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self.closed = False
        self.last_stream = -1
        self._finished = False

    def begin(self) -> None:
        """Sends the preface."""
        self.http.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Sends what h2 has to send."""
        data = self.http.data_to_send()
        if not self._finished:
            self.writer.write(data)

    def finish(self) -> None:
        """Ends this side of the connection."""
        if not (self._finished or self.closed):
            self._finished = True
            self.writer.write_eof()

    async def ignore_stream_limit(self) -> None:
        """Reads the server's settings and has h2 forget how many streams they allow."""
        await self.read()
        self.http.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        self.http.remote_settings.acknowledge()

    def headers(
        self,
        rpc: str = "State",
        changes: dict[str, str | None] | None = None,
        more: Iterable[tuple[str, str]] = (),
    ) -> list[tuple[str, str]]:
        """Returns the headers of a request, with changes to the usual ones; None leaves one out."""
        usual: dict[str, str | None] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": SERVICE + rpc,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            **(changes or {}),
        }
        return [*((name, value) for name, value in usual.items() if value is not None), *more]

    def start(self, headers: Sequence[tuple[str, str]] | None = None, *, end: bool = False) -> int:
        """Sends the headers of a request and returns its stream."""
        # h2 counts on for itself, which takes time when there are thousands.
        self.last_stream += 2
        self.http.send_headers(self.last_stream, headers or self.headers(), end_stream=end)
        self.answers[self.last_stream] = Answer()
        self.flush()
        return self.last_stream

    def send(self, stream: int, data: bytes, *, end: bool = True) -> None:
        """Sends data, as much as flow control allows."""
        self.http.send_data(stream, data, end_stream=end)
        self.flush()

    def request(self, rpc: str = "State", data: bytes | None = None, *, end: bool = True) -> int:
        """Makes a request and returns its stream."""
        stream = self.start(self.headers(rpc))
        self.send(stream, message() if data is None else data, end=end)
        return stream

    async def send_all(self, stream: int, data: bytes, *, end: bool = True) -> None:
        """Sends data of any length, waiting for the server to take it; stops when it refuses."""
        while data and not self.answers[stream].ended and not self.closed:
            size = min(
                self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size, len(data)
            )
            if size > 0:
                self.send(stream, data[:size], end=end and size == len(data))
                data = data[size:]
                await self.writer.drain()
            else:
                await self.read()

    async def read(self) -> None:
        """Takes in what the server has sent next."""
        try:
            data = await self.reader.read(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.http.receive_data(data):
            self._take(event)
        with contextlib.suppress(ConnectionError):
            self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.answers[event.stream_id].headers = dict(event.headers)  # type: ignore[arg-type]
            case h2.events.TrailersReceived():
                self.answers[event.stream_id].trailers = dict(event.headers)  # type: ignore[arg-type]
            case h2.events.DataReceived():
                self.answers[event.stream_id].data += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamReset():
                self.answers[event.stream_id].reset = int(event.error_code)
                self.answers[event.stream_id].ended = True
            case h2.events.StreamEnded():
                self.answers[event.stream_id].ended = True
            case h2.events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0)

    async def answer(self, stream: int) -> Answer:
        """Returns the whole answer to a request."""
        answer = self.answers[stream]
        while not (answer.ended or self.closed):
            await self.read()
        return answer

    async def until_closed(self) -> None:
        """Returns when the server has closed the connection."""
        while not self.closed:
            await self.read()


@contextlib.asynccontextmanager
async def connect(path: str | Path, *, begin: bool = True) -> AsyncIterator[RawClient]:
    """Yields a new connection to a server.

    Args:
        path: the server's socket.
        begin: send the preface.
    """
    reader, writer = await asyncio.open_unix_connection(str(path))
    client = RawClient(reader, writer)
    if begin:
        client.begin()
    try:
        yield client
    except BaseException:
        # What a server that no longer reads has not taken would be waited for below.
        writer.transport.abort()
        raise
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def flood(client: RawClient, data: bytes, times: int) -> None:
    """Sends the same bytes over and over, until the server closes."""
    reading = asyncio.create_task(client.until_closed())
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            if client.closed:
                break
            client.writer.write(data)
            await client.writer.drain()
            await asyncio.sleep(0)
    client.finish()
    await reading


def frame(kind: type[Frame], stream: int = 0, flags: tuple[str, ...] = (), **fields: object) -> bytes:
    """Returns a frame of HTTP/2, as right or wrong as its fields are."""
    made = kind(stream)
    for flag in flags:
        made.flags.add(flag)
    for name, value in fields.items():
        setattr(made, name, value)
    return made.serialize()
