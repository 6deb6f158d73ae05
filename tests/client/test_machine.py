"""What runs on the machine is listed; what the dead have left is removed, and nothing of the living."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shimpy.client.machine import ListedContainer, list_containers, prune
from shimpy.core import tempdirs
from shimpy.core.journal import JournalDirectory
from shimpy.core.journal.lines import encode
from shimpy.core.journal.state import boot_id
from shimpy.core.reaper.procfs import start_time
from tests.support import containers
from tests.support.leaks import alive, children, eventually
from tests.support.programs import Program

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of the test's own, so that no test removes what is another's."""
    directory = tmp_path / "registry"
    monkeypatch.setattr(tempdirs, "base", lambda: str(directory))
    return directory


@pytest.fixture
async def program(
    base: Path, rootfs: Path, bundle: Callable[..., str], new_id: Callable[[], str]
) -> AsyncIterator[Program]:
    """A program whose container runs."""
    program = Program("in_process", rootfs, bundle("sleep", "1000000"), new_id(), base=base)
    await eventually(lambda: is_at_rest(program))
    yield program
    if program.process.returncode is None:
        await end_with_guardian(program)
        await prune()


def is_at_rest(program: Program) -> bool:
    """Returns whether its container has started, and no command is under way that would outlive it.

    Between its fork and its exec such a command holds the lock on the program's directory.
    """
    inits = {each.pid for each in program.directory.containers()}
    if not inits or children(program.process.pid).keys() != inits:
        return False
    return all(b"runc" not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in inits)


def _guardian(program: Program) -> int:
    """Returns the pid of a program's guardian, 0 if there is none."""
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if program.directory.path.encode() in words:
            return int(entry)
    return 0


async def end_with_guardian(program: Program) -> None:
    """Kills a program and its guardian, so that what they have made is left."""
    guardian = _guardian(program)
    os.kill(guardian, signal.SIGKILL)
    program.end(signal.SIGKILL)
    # Whoever still has it open holds the lock on the program's directory.
    await eventually(lambda: not alive(guardian))


def only(listed: list[ListedContainer]) -> ListedContainer:
    (one,) = listed
    return one


async def test_container_of_a_program_that_lives_is_listed_and_stays(program: Program) -> None:
    one = only(list_containers())

    assert (one.id, one.state, one.owner) == (program.container_id, "running", str(program.process.pid))
    assert one.pid in program.pids()
    assert await prune(running=True) == []
    assert one.pid in program.pids()


async def test_container_is_no_ones_when_the_guardian_is_killed_too(program: Program) -> None:
    await end_with_guardian(program)

    assert only(list_containers()).state == "orphaned"
    assert only(await prune()).state == "removed"
    assert list_containers() == []
    assert program.left() == {}


async def test_root_that_a_container_may_write_to_is_attached_no_more(
    base: Path, closed_rootfs: Path, new_id: Callable[[], str]
) -> None:
    program = Program("writable", closed_rootfs, "", new_id(), base=base)
    await eventually(lambda: is_at_rest(program))
    assert program.left().keys() >= {"roots", "mounts"}

    await end_with_guardian(program)
    assert program.left().keys() >= {"roots", "mounts"}

    assert only(await prune()).state == "removed"
    assert program.left() == {}


@pytest.fixture
def journal(tmp_path: Path) -> Callable[..., JournalDirectory]:
    """Writes the journal of a shim that has died, with one container."""

    def write(container_id: str, pid: int, made: dict[str, Any], *, boot: str) -> JournalDirectory:
        socket = str(tmp_path / "shim.sock")
        directory = JournalDirectory.of_socket(socket)
        directory.make()
        header = {"journal": 1, "boot": boot, "uid": os.geteuid(), "socket": socket}
        process: dict[str, Any] = {}
        if pid:
            pidfd = os.pidfd_open(pid)
            process = {"start": start_time(pid), "inode": os.fstat(pidfd).st_ino}
            os.close(pidfd)
        created = {
            "event": 1,
            "kind": "create",
            "container": container_id,
            "exec": "",
            "pid": pid,
            "made": made,
            "process": process,
        }
        Path(directory.journal).write_bytes(encode(header) + encode(created))
        Path(directory.journal).chmod(0o600)
        return directory

    return write


async def test_shim_of_an_earlier_boot_has_left_its_journal_alone(
    journal: Callable[..., JournalDirectory], new_id: Callable[[], str]
) -> None:
    directory = journal(new_id(), 0, {"bundle": "/none"}, boot="another")

    assert only(list_containers()).state == "stale"
    assert only(await prune()).state == "removed"
    assert not os.path.exists(directory.path)


async def test_container_that_runs_without_its_shim_is_removed_if_asked(
    journal: Callable[..., JournalDirectory], bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    container_id, path = new_id(), bundle("sleep", "1000000")
    subprocess.run(
        ["runc", "create", "--bundle", path, "--pid-file", f"{path}/pid", container_id],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    made = {"bundle": path, "runtime": {"name": "runc", "root": None}}
    directory = journal(container_id, int(Path(f"{path}/pid").read_text()), made, boot=boot_id())

    assert only(list_containers()).state == "orphaned"
    assert only(await prune()).state == "orphaned"
    assert containers.left(container_id) == [container_id]
    assert only(await prune(running=True)).state == "removed"
    assert containers.left(container_id) == []
    assert not os.path.exists(directory.path)


async def test_journal_of_a_shim_that_lives_stays(
    journal: Callable[..., JournalDirectory], new_id: Callable[[], str]
) -> None:
    directory = journal(new_id(), 0, {"bundle": "/none"}, boot="another")
    directory.lock()

    assert await prune(running=True) == []
    assert os.path.exists(directory.journal)
    directory.unlock()
