"""Carries tar streams between threads, which wait for disks, and the event loop, which does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable
from contextlib import asynccontextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.abc import ByteReceiveStream

from shimpy.client.rpc import settled
from shimpy.client.streams import check_max_bytes
from shimpy.errors import InvalidArgumentError, from_oserror

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")

_PIECE = 1 << 16
_BYTES = bytes, bytearray, memoryview


async def in_thread(work: Callable[[Event], T], what: str) -> T:
    """Runs what waits for disks in a thread, to its end.

    Args:
        work: is given what is set when it is to end early, because this is cancelled.
        what: names it in the error.

    Raises:
        ShimError: what an OSError that it raised stands for.
    """
    stop = Event()

    def explained() -> T:
        try:
            return work(stop)
        except OSError as error:
            name = f"{what}: {os.fsdecode(error.filename)}" if error.filename else what
            raise from_oserror(error, name, default=InvalidArgumentError) from error

    # A limiter of its own: two threads that wait for one another must not wait for a third party's.
    thread = asyncio.ensure_future(anyio.to_thread.run_sync(explained, limiter=anyio.CapacityLimiter(1)))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stop.set()
        await settled(_ended(thread))
        raise


async def copy(
    pack: Callable[[BinaryIO, Event], None], unpack: Callable[[BinaryIO, Event], None], what: str
) -> None:
    """Lets one thread write an archive and another read it.

    Args:
        pack: writes it.
        unpack: reads it.
        what: names the copy in an error.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    packing = asyncio.ensure_future(in_thread(_with_file(pack, writing, "wb"), what))
    unpacking = asyncio.ensure_future(in_thread(_with_file(unpack, reading, "rb"), what))
    both = {packing, unpacking}
    try:
        await asyncio.wait(both)
    except asyncio.CancelledError:
        for task in both:
            task.cancel()
        await settled(_ended(*both))
        raise
    # An end that came too early has its reason at the other end, unless that was only told of it.
    failures = [task.exception() for task in (packing, unpacking)]
    reasons = [error for error in failures if error is not None]
    if reasons:
        raise next(
            (error for error in reasons if not isinstance(error.__cause__, BrokenPipeError)), reasons[0]
        )


@asynccontextmanager
async def archive_of(pack: Callable[[BinaryIO, Event], None], what: str) -> AsyncIterator[ByteReceiveStream]:
    """Gives what a thread packs as a stream, for the time of the block.

    Args:
        pack: writes the archive.
        what: names it in an error.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    packing = asyncio.ensure_future(in_thread(_with_file(pack, writing, "wb"), what))
    stream = _PipeStream(reading, packing)
    try:
        await asyncio.sleep(0)  # a task that is cancelled before it begins does not close the pipe
        yield stream
    finally:
        await stream.aclose()
        packing.cancel()
        await settled(_ended(packing))


async def unpack_from(
    archive: bytes | AsyncIterable[bytes], unpack: Callable[[BinaryIO, Event], None], what: str
) -> None:
    """Lets a thread unpack what comes.

    Args:
        archive: all of it, or its pieces.
        unpack: reads it.
        what: names it in an error.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    unpacking = asyncio.ensure_future(in_thread(_with_file(unpack, reading, "rb"), what))
    try:
        try:
            await asyncio.sleep(0)  # a task that is cancelled before it begins does not close the pipe
            async for piece in _pieces(archive):
                await _write(writing, piece)
        except BrokenPipeError:  # it has failed, or has seen the archive's end
            pass
        finally:
            os.close(writing)
        await asyncio.shield(unpacking)
    except BaseException:
        unpacking.cancel()
        await settled(_ended(unpacking))
        raise


class _PipeStream(ByteReceiveStream):
    """The reading end of a pipe.

    Args:
        fd: does not block.
        writer: what writes to the other end.
    """

    def __init__(self, fd: int, writer: asyncio.Future[None]) -> None:
        self._fd: int | None = fd
        self._writer = writer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Returns what comes next.

        Raises:
            anyio.EndOfStream: that was all.
            anyio.ClosedResourceError: its block has ended.
            ShimError: what is packed cannot be read.
        """
        check_max_bytes(max_bytes)
        while True:
            if self._fd is None:
                raise anyio.ClosedResourceError
            try:
                data = os.read(self._fd, max_bytes)
            except BlockingIOError:
                await _ready(
                    self._fd, asyncio.get_running_loop().add_reader, asyncio.get_running_loop().remove_reader
                )
                continue
            if data:
                return data
            await asyncio.shield(self._writer)
            raise anyio.EndOfStream

    async def aclose(self) -> None:
        """Reads no more."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def check_archive(archive: object) -> None:
    """Refuses what is neither bytes nor a stream.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(archive, (*_BYTES, AsyncIterable)):
        raise TypeError(f"archive must be bytes or an async iterable of bytes, not {type(archive).__name__}")


async def _pieces(archive: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(archive, _BYTES):
        yield archive
        return
    async for piece in archive:
        if not isinstance(piece, _BYTES):
            raise TypeError(f"archive: a piece must be bytes, not {type(piece).__name__}")
        yield piece


async def _write(fd: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    left = memoryview(data).cast("B")
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            await _ready(fd, loop.add_writer, loop.remove_writer)


async def _ready(
    fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], object]
) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(fd)


def _with_file(work: Callable[[BinaryIO, Event], None], fd: int, mode: str) -> Callable[[Event], None]:
    """Returns work that closes its end of a pipe when it is done, which the other end may wait for."""

    def run(stop: Event) -> None:
        with open(fd, mode) as opened:
            file = cast("BinaryIO", opened)
            work(file, stop)
            while mode == "rb" and file.read(_PIECE):
                pass  # what fills an archive up: its writer is not to find the pipe closed

    return run


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Waits for the end of what was given up; how it ended is of no interest."""
    await asyncio.gather(*tasks, return_exceptions=True)
