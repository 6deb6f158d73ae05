"""A keeper starts shims, and ends."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shimpy.daemon.helper import begin
from shimpy.daemon.keeper.restarts import MOST_FAILURES, Restarts
from tests.support.fake_shims import Kept
from tests.support.time_scale import scaled

Keep = Callable[..., Kept]

# Its shutdown and its pauses take no time.
QUICK = {
    "main._SHUTDOWN": 0.2,
    "restarts._FIRST_PAUSE": 0.01,
    "restarts.MOST_FAILURES": 3,
    "main.MOST_FAILURES": 3,
}


def test_a_shim_that_is_killed_is_followed_by_another(kept: Kept) -> None:
    first = kept.next()
    first.ready()
    first.kill()

    second = kept.next()

    assert second.pid != first.pid
    assert "the shim ended of signal 9; it is started again" in kept.log


def test_one_that_ends_by_itself_is_followed_too(kept: Kept) -> None:
    first = kept.next()
    first.ready()
    first.exit(0)

    kept.next()

    assert "the shim ended with exit status 0; it is started again" in kept.log


def test_the_first_that_cannot_start_ends_the_keeper_as_it_ended(kept: Kept) -> None:
    kept.next().exit(2)

    assert kept.wait() == 2
    assert kept.log == ""  # the shim has said why


def test_shims_that_fail_again_and_again_end_it_with_words(keep: Keep) -> None:
    kept = keep(QUICK)
    shim = kept.next()
    shim.ready()
    for _ in range(3):
        shim.kill()
        shim = kept.next()
    shim.exit(4)

    assert kept.wait() == 1
    assert "3 times in a row before it was ready, the last time with exit status 4; it is not" in kept.log


def test_one_that_is_ready_is_a_new_beginning(keep: Keep) -> None:
    kept = keep(QUICK)
    for _ in range(3):
        shim = kept.next()
        shim.kill()
        shim = kept.next()
        shim.ready()
        shim.kill()

    kept.next()
    assert kept.process.poll() is None


def test_the_pauses_grow_and_have_an_end() -> None:
    restarts = Restarts()

    pauses = [restarts.died(ready=False) for _ in range(MOST_FAILURES)]

    assert pauses == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, None]


def test_a_shim_that_dies_of_every_call_is_started_once_a_second() -> None:
    restarts = Restarts()

    pauses = [restarts.died(ready=True) for _ in range(32)]

    assert pauses == [0.0] * 30 + [1.0] * 2


def test_sigterm_ends_the_shim_and_the_keeper_with_its_status(kept: Kept) -> None:
    shim = kept.next()
    shim.do("heed('SIGTERM')")
    shim.ready()

    kept.send(signal.SIGTERM)
    while shim.do("said") != [signal.SIGTERM]:
        pass
    assert kept.process.poll() is None
    shim.exit(5)

    assert kept.wait() == 5
    assert not kept.directory.joinpath("notify").exists()


def test_a_shim_that_is_just_starting_ends_by_sigterm_too(kept: Kept) -> None:
    kept.next()
    kept.send(signal.SIGTERM)

    assert kept.wait() == 0


def test_sigterm_in_a_pause_ends_the_keeper(keep: Keep) -> None:
    kept = keep({"restarts._FIRST_PAUSE": 1000, "restarts._LONGEST_PAUSE": 1000})
    kept.next().kill()
    shim = kept.next()
    shim.kill()
    while "in 1000 s" not in kept.log:
        pass
    kept.send(signal.SIGTERM)

    assert kept.wait() == 0


def test_a_shim_that_does_not_end_is_killed(keep: Keep) -> None:
    kept = keep(QUICK)
    kept.next().do("heed('SIGTERM')")

    kept.send(signal.SIGTERM)

    assert kept.wait() == 0
    assert "did not end within 0.2 s; it is killed" in kept.log


def test_a_second_signal_goes_to_the_shim_as_well(kept: Kept) -> None:
    shim = kept.next()
    shim.do("heed('SIGTERM', 'SIGINT')")
    for number, heard in ((signal.SIGTERM, 1), (signal.SIGINT, 2)):
        kept.send(number)
        while len(shim.do("said")) < heard:
            pass

    assert shim.do("said") == [signal.SIGTERM, signal.SIGINT]


def test_sighup_starts_another_with_what_was_kept(kept: Kept) -> None:
    shim = kept.next()
    shim.do("heed('SIGHUP') or store('x', 0)")
    shim.ready()
    kept.send(signal.SIGHUP)
    while not shim.do("said"):
        pass
    assert shim.do("said") == [signal.SIGHUP]
    shim.exit(0)

    assert kept.next().do("listened")["names"] == "x"
    assert kept.log == ""  # it was asked for


def test_sighup_ends_a_pause(keep: Keep) -> None:
    kept = keep({"restarts._FIRST_PAUSE": 1000, "restarts._LONGEST_PAUSE": 1000})
    kept.next().kill()
    kept.next().kill()
    while "in 1000 s" not in kept.log:
        pass

    kept.send(signal.SIGHUP)

    kept.next()


def test_a_shim_that_does_not_give_way_is_killed(keep: Keep) -> None:
    kept = keep(QUICK)
    kept.next().do("heed('SIGHUP')")

    kept.send(signal.SIGHUP)
    kept.next()

    assert "did not end within 0.2 s; it is killed" in kept.log


def test_ctrl_c_is_for_the_keeper_alone(kept: Kept) -> None:
    """A terminal sends it to the whole process group."""
    shim = kept.next()

    assert shim.do("os.getpgid(0)") == shim.pid


def test_the_shim_has_no_signal_ignored_or_blocked(kept: Kept) -> None:
    status = Path(f"/proc/{kept.next().pid}/status").read_text().splitlines()
    masks = dict(line.split(":\t", 1) for line in status)

    # Python itself ignores SIGPIPE and SIGXFSZ.
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) == 1 << 12 | 1 << 24


def test_who_supervises_the_keeper_is_told(keep: Keep, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(scaled(10))
        manager.bind(str(tmp_path / "manager"))
        kept = keep(manager=str(tmp_path / "manager"))
        shim = kept.next()
        shim.ready()
        shim.kill()
        kept.next().ready()
        kept.send(signal.SIGTERM)
        kept.wait()

        told = [manager.recv(100), manager.recv(100)]
        manager.setblocking(False)

        assert told == [b"READY=1", b"STOPPING=1"]
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    command = begin.command("shimpy.daemon.keeper.main", str(tmp_path), str(lock), "text", "/not/there")
    done = subprocess.run(command, check=False, pass_fds=[lock], capture_output=True, text=True)
    os.close(lock)

    assert done.returncode == 127
    assert "/not/there cannot be run: No such file or directory" in done.stderr


def test_the_log_is_json_where_the_shims_is(keep: Keep) -> None:
    kept = keep(style="json")
    kept.next().ready()
    kept._shims[-1].kill()
    kept.next()

    [line] = kept.log.splitlines()
    assert json.loads(line)["message"] == "the shim ended of signal 9; it is started again"


def test_the_keeper_imports_next_to_nothing() -> None:
    program = "import shimpy.daemon.keeper.main, sys; print(*sys.modules)"
    command = begin.command("x")
    done = subprocess.run(
        [*command[:3], "-c", f"import sys; sys.path += {command[4].split(':')!r}; {program}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip

    assert {*done.stdout.split()} & {
        "asyncio", "collections", "ctypes", "enum", "json", "logging", "re", "selectors", "signal", "socket",
        "subprocess", "threading", "typing",
    } == set()  # fmt: skip


def test_a_directory_that_a_shim_has_removed_is_made_again(kept: Kept) -> None:
    """As one does that was ended by its own pid, and has left nothing."""
    shim = kept.next()
    shim.ready()
    shutil.rmtree(kept.directory)
    shim.kill()

    shim = kept.next()
    shim.do("store('x', 0) or barrier()")
    with (kept.directory / "keeper").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    shim.kill()

    assert kept.next().do("listened")["names"] == "x"
