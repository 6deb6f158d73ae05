"""Trees of processes that are killed through their cgroup, on version 1 and 2."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimpy.core.cgroup import Tree, hierarchies, unified
from shimpy.core.cgroup.freezer import FreezerTree
from shimpy.core.cgroup.hierarchies import UNIFIED, Hierarchies
from shimpy.core.cgroup.unified import UnifiedTree
from shimpy.core.cgroup.walk import walk
from shimpy.errors import InternalError
from tests.support.cgroups import Started, root, scratch
from tests.support.leaks import children, descriptors, eventually, opened_since
from tests.support.rounds import rounds
from tests.support.time_scale import scaled

pytestmark = pytest.mark.anyio

IDLE = "print('ready', flush=True); time.sleep(1000)"

DAEMONS = """
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(1)
            time.sleep(1000)
        os._exit(0)
print('ready', flush=True)
"""

# Twenty processes that are other processes a moment later. The one that has started them has the kernel reap
# them, for as long as it lives: their zombies would fill the pids.limit of a machine whose process 1 is slow.
RESTLESS = """
import ctypes
ctypes.CDLL(None).prctl(36, ctypes.c_ulong(1), 0, 0, 0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(20):
    if os.fork() == 0:
        os.close(1)
        while True:
            if os.fork():
                os._exit(0)
print('ready', flush=True)
time.sleep(1000)
"""

GROWING = """
print('ready', flush=True)
os.close(1)
for _ in range({doublings}):
    os.fork()
time.sleep(1000)
"""


@pytest.fixture(params=["version 1", "version 2", "before Linux 5.14", "threaded"])
def tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    kind: type[Tree] = FreezerTree if request.param == "version 1" else UnifiedTree
    controller = "freezer" if kind is FreezerTree else UNIFIED

    def write(file: str, text: str, *, dir_fd: int | None = None) -> bool:
        if os.path.basename(file) != "cgroup.kill":
            return hierarchies.write(file, text, dir_fd=dir_fd)
        if request.param == "threaded":
            raise OSError(errno.EOPNOTSUPP, "a threaded cgroup")
        return False  # there was no such file before Linux 5.14

    if request.param in ("before Linux 5.14", "threaded"):
        monkeypatch.setattr(unified, "write", write)
    with scratch(controller) as directory:
        yield kind(directory, escape_cgroup=root(controller))


@pytest.fixture
def below(tree: Tree) -> Tree:
    child = tree.child("exec")
    assert child is not None
    return child


async def test_daemons_are_killed(tree: Tree) -> None:
    """Neither a double fork nor a session of their own saves processes whose parent has gone."""
    with Started(DAEMONS, tree.path) as parent:
        parent.process.wait()
        await eventually(lambda: len(tree.pids()) == 5)
        await tree.kill()
    assert tree.pids() == []
    assert not tree.populated()
    assert tree.remove()


async def test_nothing_that_forks_outruns_the_kill(tree: Tree) -> None:
    for _ in range(rounds(3, 50)):
        with Started(RESTLESS, tree.path):
            await tree.kill()
        assert tree.pids() == []


async def test_a_fork_bomb_is_killed_while_it_grows(tree: Tree) -> None:
    with Started(GROWING.format(doublings=rounds(7, 11)), tree.path):
        await eventually(lambda: len(tree.pids()) > 10)
        await tree.kill()
    assert tree.pids() == []


async def test_nobody_runs_while_version_1_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no fork bomb outruns the signals, whatever the number of sweeps."""
    with scratch("freezer") as directory:
        states = []

        def send(pidfd: int, number: int) -> None:
            states.append(Path(directory, "freezer.self_freezing").read_text().strip())
            honest(pidfd, number)

        honest = signal.pidfd_send_signal
        with Started(IDLE, directory):
            monkeypatch.setattr(signal, "pidfd_send_signal", send)
            await FreezerTree(directory).kill()
        assert set(states) == {"1"}  # on a busy machine it is signalled again before it is dead
        assert Path(directory, "freezer.self_freezing").read_text().strip() == "0"


async def test_what_froze_itself_below_is_killed() -> None:
    """Version 1 keeps it from dying, whatever the cgroups above it do."""
    with scratch("freezer") as directory:
        below = Path(directory, "a/b")
        below.mkdir(parents=True)
        with Started(IDLE, below) as started:
            for frozen in (below, below.parent):
                Path(frozen, "freezer.state").write_text("FROZEN")
            await FreezerTree(directory).kill()
            assert started.process.wait() == -9


def test_a_thaw_that_the_kernel_refuses_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("freezer.state", "cgroup.freeze"):
        Path(tmp_path, name).mkdir()  # EISDIR
    for tree in (FreezerTree(tmp_path), UnifiedTree(tmp_path)):
        caplog.clear()
        assert not tree.thaw()
        assert f"cannot thaw {tmp_path}" in caplog.text


async def test_only_the_child_is_killed(tree: Tree, below: Tree) -> None:
    """What runs in a cgroup above, the rest of the container, is not touched."""
    with Started(IDLE, tree.path) as init, Started(IDLE, below.path) as other:
        await below.kill()
        assert other.process.wait() == -9
        assert init.process.poll() is None
        assert [init.pid] == tree.pids()


async def test_what_is_below_is_killed_too(tree: Tree, below: Tree) -> None:
    with Started(IDLE, tree.path) as init, Started(IDLE, below.path) as other:
        await tree.kill()
        assert (init.process.wait(), other.process.wait()) == (-9, -9)


async def test_a_frozen_tree_is_killed_and_thawed(tree: Tree, below: Tree) -> None:
    with Started(IDLE, tree.path), Started(IDLE, below.path):
        tree._freeze()
        below._freeze()
        await tree.kill()
        assert tree.pids() == []


async def test_the_rest_of_a_paused_container_stays_paused(tree: Tree, below: Tree) -> None:
    with Started(IDLE, tree.path) as init, Started(DAEMONS, below.path) as exec_:
        exec_.process.wait()
        tree._freeze()
        await below.kill()
        assert below.pids() == []
        assert tree.frozen()
        assert [init.pid] == tree.pids()
        assert init.process.poll() is None
        tree.thaw()


async def test_a_pause_while_it_is_killed_does_not_hold_it_up(tree: Tree, below: Tree) -> None:
    """The pause may come between the signal and the death, when version 1 keeps it from dying."""
    for turn in range(rounds(10, 200)):
        with Started(RESTLESS, below.path):
            task = asyncio.create_task(below.kill())
            for _ in range(turn % 10):
                await asyncio.sleep(0)
            tree._freeze()
            await task
            assert below.pids() == []
            tree.thaw()


async def test_an_empty_tree_and_one_that_is_gone_are_killed_at_once(tree: Tree) -> None:
    await tree.kill()
    assert tree.remove()
    await tree.kill()
    assert not tree.populated()
    assert tree.remove()


async def test_a_tree_that_holds_shimpy_is_refused(tree: Tree) -> None:
    home = Hierarchies().own_directory("freezer" if isinstance(tree, FreezerTree) else UNIFIED)
    assert home is not None
    with Started(IDLE, tree.path) as bystander:
        Path(tree.path, "cgroup.procs").write_text(str(os.getpid()))
        try:
            with pytest.raises(InternalError, match=r"refusing to kill in .*shimpy itself"):
                await tree.kill()
        finally:
            Path(home, "cgroup.procs").write_text(str(os.getpid()))
        assert bystander.process.poll() is None
        assert not tree.frozen()


async def test_a_pid_that_is_someone_elses_by_now_is_not_hit(tree: Tree) -> None:
    """The list that names the victims may be older than the pids' owners."""
    with Started(IDLE, tree.path) as member, Started(IDLE) as stranger:
        dying: list[int] = []
        for cgroup in walk(tree.path):
            tree._signal([member.pid, stranger.pid], cgroup, dying)
        for pidfd in dying:
            os.close(pidfd)
        assert member.process.wait() == -9
        assert stranger.process.poll() is None


async def test_waiting_for_what_cannot_die_costs_nothing_and_can_be_given_up() -> None:
    """Here a process that a freezer above holds, with nowhere to move it; like a disk that hangs."""
    with scratch("freezer") as directory:
        tree = FreezerTree(directory)
        below = tree.child("exec")
        assert below is not None
        with Started(IDLE, below.path):
            tree._freeze()
            await eventually(lambda: "FROZEN" in Path(directory, "freezer.state").read_text())
            before = descriptors()
            cpu = time.process_time()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await below.kill()
            assert time.process_time() - cpu < 0.5
            assert opened_since(before) == []
            assert Path(below.path, "freezer.self_freezing").read_text().strip() == "0"
            tree.thaw()
            await below.kill()


async def test_a_kill_leaves_no_descriptors(tree: Tree) -> None:
    with Started(IDLE, tree.path):
        pass
    before, others = descriptors(), set(children())
    for _ in range(rounds(5, 50)):
        with Started(DAEMONS, tree.path):
            await tree.kill()
    assert opened_since(before) == []
    assert set(children()) <= others


async def test_the_loop_goes_on_while_many_are_killed(tree: Tree) -> None:
    """No step of it takes the CPU for long, though the machine may be busy with the dying.

    A thousand in `make stress`: where process 1 is slow to reap, so many zombies fill its pids.limit.
    """
    doublings = rounds(8, 10)
    with Started(f"[os.fork() for _ in range({doublings})]; os.close(1); time.sleep(1000)", tree.path):
        await eventually(lambda: len(tree.pids()) == 2**doublings, within=50)
        threads = set(threading.enumerate())
        steps = []

        async def measure() -> None:
            while True:
                start = time.thread_time()
                await asyncio.sleep(0)
                steps.append(time.thread_time() - start)

        measuring = asyncio.create_task(measure())
        await tree.kill()
        measuring.cancel()
        assert set(threading.enumerate()) <= threads
    assert max(steps, default=0) < scaled(0.5)


async def test_what_is_below_is_removed_if_it_is_not_in_use(tree: Tree, below: Tree) -> None:
    for name in ("used/here", "unused/deeper"):
        Path(below.path, name).mkdir(parents=True)
    with Started(IDLE, os.path.join(below.path, "used/here")):
        await tree.prune()
        assert os.listdir(below.path + "/used/here") != []
        assert not os.path.exists(below.path + "/unused")
        assert not tree.remove()
    await tree.prune()
    assert tree.remove()
    assert not os.path.exists(tree.path)


def test_a_child_takes_the_place_of_one_that_a_dead_shim_left(tree: Tree, below: Tree) -> None:
    again = tree.child("exec")
    assert again is not None
    assert below.path == again.path


def test_no_child_where_one_cannot_be_made(tree: Tree, below: Tree) -> None:
    with Started(IDLE, below.path):
        assert tree.child("exec") is None  # in use
    assert below.remove()
    assert tree.remove()
    assert tree.child("exec") is None  # gone


def test_no_child_that_could_not_hold_a_process() -> None:
    """Below a threaded cgroup there is no room for whole processes (version 2)."""
    with scratch(UNIFIED) as directory:
        tree = UnifiedTree(directory)
        below = tree.child("threads")
        assert below is not None
        Path(below.path, "cgroup.type").write_text("threaded")
        assert below.child("exec") is None
        assert not Path(below.path, "exec").exists()


def test_no_child_where_the_hierarchy_cannot_freeze() -> None:
    with scratch("memory") as directory:
        assert Tree(directory).child("exec") is None


async def test_a_hierarchy_that_cannot_freeze_can_be_killed() -> None:
    with scratch("memory") as directory, Started(DAEMONS, directory) as parent:
        parent.process.wait()
        tree = Tree(directory)
        await tree.kill()
        assert tree.pids() == []


@pytest.mark.parametrize(("kind", "argument"), [(FreezerTree, "freezer:exec"), (UnifiedTree, "exec")])
def test_what_the_runtime_is_told(kind: type[Tree], argument: str) -> None:
    with scratch("freezer" if kind is FreezerTree else UNIFIED) as directory:
        child = kind(directory).child("exec")
        assert child is not None
        assert ["--cgroup", argument] == child.runtime_args
        assert kind(directory).runtime_args == []


def test_a_dead_process_is_not_listed(tree: Tree) -> None:
    """A zombie does not count: whoever has to reap it may be waiting for us."""
    with Started("print('ready')", tree.path) as started:
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert tree.pids() == []
        assert not tree.populated()
