"""What a loop tells of, and when it no longer does."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator

import pytest

from shimpy.daemon.helper.loop import WRITE, HelperLoop


@pytest.fixture
def loop() -> Iterator[HelperLoop]:
    loop = HelperLoop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_a_file_descriptor_is_told_of_while_it_is_watched(loop: HelperLoop, pipe: tuple[int, int]) -> None:
    read: list[bytes] = []

    def readable() -> None:
        read.append(os.read(pipe[0], 1))
        if len(read) == 2:
            loop.unwatch(pipe[0])
            loop.unwatch(pipe[0])
            loop.call_later(0, loop.stop)

    loop.watch(pipe[0], readable)
    os.write(pipe[1], b"abc")
    loop.run()

    assert read == [b"a", b"b"]


def test_room_to_write_is_told_of(loop: HelperLoop, pipe: tuple[int, int]) -> None:
    loop.watch(pipe[1], loop.stop, events=WRITE)

    loop.run()


def test_what_an_earlier_callback_unwatches_is_not_told_of(loop: HelperLoop) -> None:
    told: list[int] = []
    pipes = [os.pipe() for _ in range(2)]

    def readable(number: int) -> None:
        told.append(number)
        for reading, _ in pipes:
            loop.unwatch(reading)
        loop.call_later(0, loop.stop)

    for number, (reading, writing) in enumerate(pipes):
        os.write(writing, b"x")
        loop.watch(reading, functools.partial(readable, number))
    loop.run()

    assert len(told) == 1
    for reading, writing in pipes:
        os.close(reading)
        os.close(writing)


def test_the_end_of_a_process_is_told_of_once_and_left_to_be_reaped(loop: HelperLoop) -> None:
    told: list[str] = []
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    pidfd = os.pidfd_open(pid)

    def ended() -> None:
        told.append("ended")
        loop.call_later(0.02, loop.stop)  # unreaped, it is readable all that time

    loop.watch_exit(pidfd, ended)
    loop.run()
    os.close(pidfd)

    assert told == ["ended"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_timers_run_in_the_order_of_their_times_unless_cancelled(loop: HelperLoop) -> None:
    told: list[str] = []
    loop.call_later(0.02, loop.stop)
    loop.call_later(0.01, lambda: told.append("second"))
    loop.call_later(0.005, lambda: told.append("cancelled")).cancel()
    loop.call_later(0, lambda: told.append("first"))

    loop.run()

    assert told == ["first", "second"]


def test_a_signal_is_told_of_by_the_loop(loop: HelperLoop) -> None:
    told: list[int] = []

    def handle() -> None:
        told.append(signal.SIGUSR1)
        loop.stop()

    loop.handle_signal(signal.SIGUSR1, handle)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert told == []
    loop.run()

    assert told == [signal.SIGUSR1]


def test_what_a_callback_raises_ends_the_run(loop: HelperLoop) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    loop.call_later(0, fail)

    with pytest.raises(ZeroDivisionError):
        loop.run()


def test_a_signal_to_a_forked_child_is_the_childs_alone(loop: HelperLoop) -> None:
    told: list[str] = []
    loop.handle_signal(signal.SIGUSR1, lambda: told.append("the parent was told"))
    pid = loop.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGUSR1)  # by its default it ends the child
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    loop.call_later(0.01, loop.stop)
    loop.run()

    assert status == -signal.SIGUSR1
    assert told == []


def test_a_forked_child_does_not_take_what_its_parent_watches(
    loop: HelperLoop, pipe: tuple[int, int]
) -> None:
    loop.watch(pipe[0], loop.stop)
    pid = loop.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.write(pipe[1], b"x")

    loop.run()


def test_closing_gives_signals_their_default_again(loop: HelperLoop) -> None:
    loop.handle_signal(signal.SIGUSR2, loop.stop)

    loop.close()
    loop.close()

    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
