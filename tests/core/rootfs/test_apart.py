"""Threads that do one thing: what they share with the rest, and what becomes of their outcome."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from shimpy.core.rootfs import idmap, syscalls
from shimpy.core.rootfs.apart import run_apart, run_blocking
from shimpy.errors import InvalidArgumentError


def test_a_thread_apart_has_a_current_directory_of_its_own(tmp_path: Path) -> None:
    before = os.getcwd()

    def move() -> str:
        os.chdir(tmp_path)
        return os.getcwd()

    assert run_apart(move, syscalls.CLONE_FS) == str(tmp_path)
    assert os.getcwd() == before


def test_no_signal_is_handled_in_a_thread_apart() -> None:
    blocked = run_apart(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()), syscalls.CLONE_FS)

    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD} <= blocked


def test_its_error_is_raised() -> None:
    def fail() -> None:
        raise KeyError("it")

    with pytest.raises(KeyError, match="it"):
        run_apart(fail, syscalls.CLONE_FS)


def test_a_refusal_of_the_kernel_is_raised() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        run_apart(lambda: None, 0x1)


@pytest.mark.anyio
async def test_a_blocking_call_has_a_thread_and_an_outcome() -> None:
    main = threading.current_thread()

    assert await run_blocking(threading.current_thread) is not main
    with pytest.raises(ZeroDivisionError):
        await run_blocking(lambda: 1 / 0)


def test_nobody_else_can_wait_for_what_makes_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reaper waits for any child, and so may the program that we live in."""
    found: list[object] = []
    real = os.kill

    def kill(pid: int, number: int) -> None:
        real(pid, number)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            pass
        try:
            found.append(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
        except ChildProcessError:
            found.append(None)

    monkeypatch.setattr(os, "kill", kill)
    os.close(idmap.user_namespace("0:1:1", "0:1:1"))

    assert found == [None]


def test_a_user_namespace_maps_what_it_is_told() -> None:
    fd = idmap.user_namespace("0:1000:5,5:7000:1", "0:2000:5")
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") != os.readlink("/proc/self/ns/user")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "mapping", ["", "0", "0:1", "0:1:2:3", "0:1:x", "-1:0:1", "0:4294967296:1", "0:0:1,"]
)
def test_what_is_not_a_mapping_is_refused(mapping: str) -> None:
    with pytest.raises(InvalidArgumentError, match="container:host:size"):
        idmap.user_namespace("0:0:1", mapping)
