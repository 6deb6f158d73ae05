"""Which cgroups are a container's own, read from /proc, and what is done to real containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimpy.core.cgroup import Cgroup, OomWatch, Tree, cgroup
from shimpy.core.cgroup.hierarchies import UNIFIED, Hierarchies
from shimpy.core.cgroup.oom import EventsWatch, OomControlWatch
from tests.support.bundles import make_bundle, make_rootfs
from tests.support.cgroups import Started, root, scratch
from tests.support.containers import cgroups, new_id, remove
from tests.support.leaks import alive, eventually
from tests.support.machine import lacking
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

IDLE = "print('ready', flush=True); time.sleep(1000)"

# What a program can do to be lost: its parent dies, and it leaves session and process group.
DAEMON = "setsid sh -c 'sleep 1000 & sleep 1000 &'; exec sleep 1000"


class Machine:
    """A machine of files: /proc and cgroup mounts in a directory of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.directory = directory
        self.births: dict[int, int] = defaultdict(int)  # in clock ticks since boot
        (self.proc / "self").mkdir(parents=True)
        self.mountinfo = self.proc / "self/mountinfo"
        self.mountinfo.write_text("22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw\n")
        self.place("self", "0::/shim\n")

    def mount(self, kind: str, name: str, options: str = "rw", shown: str = "/") -> Path:
        point = self.directory / name
        point.mkdir()
        escaped = str(point).replace(" ", "\\040")
        with self.mountinfo.open("a") as file:
            file.write(
                f"31 23 0:28 {shown} {escaped} rw,relatime shared:9 master:2 - {kind} cgroup {options}\n"
            )
        return point

    def place(self, pid: int | str, text: str) -> None:
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text(text)

    def cgroup(self, path: Path, *pids: int) -> Path:
        path.mkdir(parents=True)
        (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        return path

    def of(self, pid: int) -> Cgroup:
        return Cgroup.of(pid, proc=self.proc)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(cgroup, "start_time", machine.births.__getitem__)
    return machine


async def test_version_2_alone(machine: Machine) -> None:
    point = machine.mount("cgroup2", "unified", "rw,nsdelegate,memory_recursiveprot")
    own = machine.cgroup(point / "box", 77)
    (own / "memory.events").write_text("oom_kill 0\n")
    machine.place(77, "0::/box\n")
    cgroup = machine.of(77)
    assert cgroup.killable
    assert cgroup.pids() == [77]
    told: list[int] = []
    watch = cgroup.watch_oom(told.append)
    assert type(watch) is EventsWatch
    (own / "memory.events").write_text("oom_kill 1\n")
    watch.poll()
    assert told == [1]
    watch.close()


async def test_version_2_without_a_memory_controller(machine: Machine) -> None:
    machine.cgroup(machine.mount("cgroup2", "unified") / "box", 77)
    machine.place(77, "0::/box\n")
    cgroup = machine.of(77)
    assert cgroup.killable
    assert type(cgroup.watch_oom(print)) is OomWatch


def test_a_hybrid_uses_version_1(machine: Machine) -> None:
    machine.cgroup(machine.mount("cgroup2", "unified") / "box", 77)
    machine.cgroup(machine.mount("cgroup", "freezer", "rw,freezer") / "frozen", 77, 78)
    machine.place(77, "6:freezer:/frozen\n0::/box\n")
    assert machine.of(77).pids() == [77, 78]


def test_a_mount_that_shows_a_part(machine: Machine) -> None:
    """As in a container that has its own part of the host's hierarchy mounted."""
    point = machine.mount("cgroup", "with space", "rw,cpu,freezer", shown="/pod")
    machine.cgroup(point / "box", 77)
    machine.place(77, "3:cpu,freezer:/pod/box\n")
    assert machine.of(77).killable
    hierarchies = Hierarchies(machine.proc)
    assert hierarchies.directories("freezer", "/pod") == [str(point)]
    assert hierarchies.directories("freezer", "/podium/box") == []
    assert hierarchies.directories("freezer", "/") == []


def test_the_mount_that_shows_the_process_is_taken(machine: Machine) -> None:
    """The first is hidden by another, or belongs to another hierarchies."""
    machine.cgroup(machine.mount("cgroup", "hidden", "rw,freezer") / "box")
    machine.cgroup(machine.mount("cgroup", "seen", "rw,freezer") / "box", 77)
    machine.place(77, "3:freezer:/box\n")
    assert machine.of(77).pids() == [77]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("/shim", "/"),  # none of its own
        ("/shim", "/shim"),  # shared with us
        ("/pod/shim", "/pod"),  # above us
        ("/", "/"),
        ("/shim", "/../elsewhere"),  # outside our cgroup namespace
        ("/shim", "/box (deleted)"),
        ("/shim", "/elsewhere"),  # not where the process is listed
    ],
)
async def test_what_is_not_the_containers_own_is_left_alone(machine: Machine, ours: str, theirs: str) -> None:
    point = machine.mount("cgroup2", "unified")
    for path in ("/", "/shim", "/pod", "/box", "/pod/shim"):
        directory = point / path.lstrip("/")
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.procs").write_text("77\n" if path == theirs else "")
        (directory / "memory.events").write_text("oom_kill 0\n")
    machine.place("self", f"0::{ours}\n")
    machine.place(77, f"0::{theirs}\n")
    cgroup = machine.of(77)
    assert not cgroup.killable
    assert not cgroup.populated()
    assert cgroup.pids() == []
    assert cgroup.child("exec") is None
    assert type(cgroup.watch_oom(print)) is OomWatch
    await cgroup.kill()


def test_a_container_below_our_own_cgroup_is_its_own(machine: Machine) -> None:
    """Where runc puts it, on version 1, unless it is told otherwise."""
    machine.cgroup(machine.mount("cgroup", "freezer", "rw,freezer") / "shim/box", 77)
    machine.place("self", "6:freezer:/shim\n")
    machine.place(77, "6:freezer:/shim/box\n")
    assert machine.of(77).killable


@pytest.mark.parametrize(("tick", "killable"), [(99, False), (100, True), (101, True)])
def test_a_cgroup_with_older_processes_is_someone_elses(machine: Machine, tick: int, killable: bool) -> None:
    """Younger ones may be what a hook has started; a container has no older ones than init."""
    point = machine.mount("cgroup", "freezer", "rw,freezer")
    machine.cgroup(point / "box", 77)
    machine.cgroup(point / "box/below", 78)
    machine.place(77, "6:freezer:/box\n")
    machine.births.update({77: 100, 78: tick})
    assert killable is machine.of(77).killable


def test_a_process_that_is_gone_has_no_cgroups() -> None:
    with Started("print('bye')") as started:
        started.process.wait()
        assert not Cgroup.of(started.pid).killable


def test_a_zombie_has_no_cgroups_to_act_on() -> None:
    """On version 1 the kernel shows a zombie in the root."""
    with scratch("freezer") as directory, Started("print('bye')", directory) as started:
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert not Cgroup.of(started.pid).killable


def test_a_zombie_that_died_deeper_than_the_kernel_tells_is_a_containers() -> None:
    """Its path is longer than /proc/PID/cgroup can say; only a container nests so deep."""
    with scratch(UNIFIED) as directory:
        here = os.open(directory, os.O_RDONLY)
        for _ in range(22):
            os.mkdir("x" * 239, dir_fd=here)
            below = os.open("x" * 239, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        with Started("print('bye')", f"/proc/{os.getpid()}/fd/{here}") as started:
            os.close(here)
            os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
            assert Cgroup(home=f"/{directory.name}").had(started.pid)
            assert not Cgroup().had(started.pid)


@pytest.mark.parametrize("controller", ["freezer", UNIFIED])
def test_this_machines_own_mounts_are_found(controller: str) -> None:
    point = root(controller)
    directory = Hierarchies().own_directory(controller)
    assert directory is not None
    assert str(os.getpid()) in Path(directory, "cgroup.procs").read_text().split()
    assert str(point) in [mount.point for mount in Hierarchies().mounts if controller in mount.controllers]


# -- real containers

Run = Callable[..., tuple[str, int]]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("rootfs") / "rootfs")


@pytest.fixture
def container(rootfs: Path, tmp_path: Path) -> Iterator[Run]:
    """Makes containers of runc's, and says their id and init's pid."""
    if lacks := lacking():
        pytest.skip(f"this machine lacks {lacks}")
    ids = []

    def make(**bundle: object) -> tuple[str, int]:
        ids.append(new_id())
        directory = make_bundle(tmp_path / ids[-1], rootfs, ["sleep", "1000"], **bundle)  # type: ignore[arg-type]
        pid_file = tmp_path / f"{ids[-1]}.pid"
        runc("create", "--bundle", directory, "--pid-file", str(pid_file), ids[-1])
        return ids[-1], int(pid_file.read_text())

    yield make
    for container_id in ids:
        remove(container_id)
        assert cgroups(container_id) == []


def runc(*args: str) -> None:
    subprocess.run(
        ["runc", *args],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def execute(container_id: str, pid_file: Path, program: str, *options: str) -> int:
    runc("exec", "--detach", "--pid-file", str(pid_file), *options, container_id, "sh", "-c", program)
    return int(pid_file.read_text())


def programs(tree: Tree) -> list[bytes]:
    found = []
    for pid in tree.pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


@pytest.mark.parametrize("own_pid_namespace", [True, False])
@pytest.mark.parametrize("paused", [False, True])
async def test_all_that_an_exec_started_is_killed(
    container: Run, tmp_path: Path, own_pid_namespace: bool, paused: bool
) -> None:
    """And nothing else: neither init, nor another exec with the same kind of children."""
    container_id, init = container(own_pid_namespace=own_pid_namespace)
    cgroup = Cgroup.of(init)
    runc("start", container_id)
    for turn in range(rounds(2, 30)):
        first, second = cgroup.child(f"exec-{turn}-1"), cgroup.child(f"exec-{turn}-2")
        assert first is not None
        assert second is not None
        for tree in (first, second):
            execute(container_id, tmp_path / "pid", DAEMON, *tree.runtime_args)
            await eventually(lambda tree=tree: programs(tree) == [b"sleep\x001000\x00"] * 3)  # type: ignore[misc]
        others = set(cgroup.pids()) - set(first.pids())
        if paused:
            runc("pause", container_id)
        victims = first.pids()
        await first.kill()
        await eventually(lambda victims=victims: not any(map(alive, victims)))  # type: ignore[misc]
        assert first.remove()
        assert paused is cgroup.frozen()
        assert others == set(cgroup.pids())
        if paused:
            runc("resume", container_id)
        await second.kill()
        assert second.remove()
    assert [init] == cgroup.pids()


@pytest.mark.parametrize("own_pid_namespace", [True, False])
@pytest.mark.parametrize("paused", [False, True])
async def test_a_whole_container_is_killed(
    container: Run, tmp_path: Path, own_pid_namespace: bool, paused: bool
) -> None:
    """With what outlived init, where there is no pid namespace to end with it."""
    container_id, init = container(own_pid_namespace=own_pid_namespace)
    cgroup = Cgroup.of(init)
    runc("start", container_id)
    tree = cgroup.child("exec")
    assert tree is not None
    execute(container_id, tmp_path / "pid", DAEMON, *tree.runtime_args)
    if paused:
        runc("pause", container_id)
    elif not own_pid_namespace:
        os.kill(init, signal.SIGKILL)
        await eventually(lambda: not alive(init))
    assert cgroup.populated()
    await cgroup.kill()
    assert not cgroup.populated()
    await eventually(lambda: not alive(init))


async def test_a_container_that_was_never_started_is_killed(container: Run) -> None:
    _, init = container()
    await Cgroup.of(init).kill()
    await eventually(lambda: not alive(init))


async def test_cgroups_of_execs_do_not_stop_the_runtime_from_cleaning_up(container: Run) -> None:
    container_id, init = container()
    assert Cgroup.of(init).child("exec") is not None
    os.kill(init, signal.SIGKILL)
    await eventually(lambda: not alive(init))
    runc("delete", container_id)
    assert cgroups(container_id) == []


async def test_the_oom_killer_in_a_container_is_heard(container: Run, tmp_path: Path) -> None:
    """A grandchild is its victim, whose death nobody outside is told of."""
    container_id, init = container(memory=16 << 20)
    told: list[int] = []
    watch = Cgroup.of(init).watch_oom(told.append)
    assert isinstance(watch, OomControlWatch | EventsWatch)
    runc("start", container_id)
    for turn in range(1, rounds(3, 100) + 1):
        execute(container_id, tmp_path / "pid", "tail /dev/zero; exit 0")
        await eventually(lambda turn=turn: sum(told) == turn)  # type: ignore[misc]
    watch.close()
    await asyncio.sleep(0)
    assert alive(init)
