"""What a shim leaves behind is its keeper's: who is reaped, and when."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from shimpy.daemon.keeper.children import remembers_exits
from tests.support import leaks
from tests.support.fake_shims import Kept
from tests.support.time_scale import scaled

Keep = Callable[..., Kept]

# As before Linux 6.15.
OLD = {"main.remembers_exits": False}


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + scaled(10)
    while not condition():
        assert time.monotonic() < end


def state(kept: Kept, pid: int) -> str | None:
    """Returns the state letter of a child of the keeper."""
    return leaks.children(kept.process.pid).get(pid)


def orphan(kept: Kept) -> int:
    """Has a shim start a process, store its pidfd and be killed; returns the process."""
    shim = kept.next()
    pid: int = shim.do("fork()")
    shim.do(f"store('p', os.pidfd_open({pid})) or barrier()")
    shim.kill()
    return pid


def test_what_a_shim_leaves_behind_is_the_keepers(kept: Kept) -> None:
    pid = orphan(kept)
    kept.next()

    assert state(kept, pid) is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("altered", [{}, OLD])
def test_nobody_is_reaped_while_no_shim_is_ready(keep: Keep, altered: dict[str, object]) -> None:
    kept = keep(altered)
    shim = kept.next()
    pid = shim.do("fork()")
    shim.kill()
    shim = kept.next()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: state(kept, pid) == "Z")
    shim.do("barrier()")
    assert state(kept, pid) == "Z"

    shim.ready()

    assert state(kept, pid) is None


def test_who_ends_later_is_reaped_at_once(kept: Kept) -> None:
    shim = kept.next()
    pid = shim.do("fork()")
    shim.kill()
    kept.next().ready()

    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: state(kept, pid) is None)


@pytest.mark.skipif(not remembers_exits(), reason="needs Linux 6.15")
def test_a_pidfd_that_is_kept_is_no_reason_to_wait(kept: Kept) -> None:
    """It tells the exit status afterwards as well."""
    pid = orphan(kept)
    os.kill(pid, signal.SIGKILL)

    kept.next().ready()

    assert state(kept, pid) is None


def test_before_that_a_process_is_reaped_when_its_pidfd_is_let_go(keep: Keep) -> None:
    kept = keep(OLD)
    pid = orphan(kept)
    os.kill(pid, signal.SIGKILL)
    shim = kept.next()
    shim.ready()
    assert state(kept, pid) == "Z"

    shim.do("tell('FDSTOREREMOVE=1\\nFDNAME=p') or barrier()")

    assert state(kept, pid) is None


def test_the_shim_is_not_reaped_before_what_it_said_is_heard(kept: Kept) -> None:
    shim = kept.next()
    shim.ready()
    os.kill(kept.process.pid, signal.SIGSTOP)
    shim.do("[store(str(n), 0) for n in range(5)] and None")
    shim.kill()
    os.kill(kept.process.pid, signal.SIGCONT)

    assert kept.next().do("listened")["names"] == "0:1:2:3:4"


@pytest.mark.parametrize(
    ("release", "does"),
    [
        ("6.15.0", True),
        ("6.18.44-cloud", True),
        ("7.0-rc1", True),
        ("6.14.9-1-amd64", False),
        ("5.10.0", False),
        ("strange", False),
    ],
)
def test_the_kernel_is_known_by_its_release(release: str, does: bool) -> None:
    assert remembers_exits(release) is does
