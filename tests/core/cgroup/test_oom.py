"""The watch over the OOM killer: each kill once, and before anyone is told of the death."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimpy.core.cgroup import OomWatch, oom
from shimpy.core.cgroup.hierarchies import UNIFIED
from shimpy.core.cgroup.kernfs import FileWatch, flat
from shimpy.core.cgroup.oom import EventsWatch, OomControlWatch
from tests.support.cgroups import Started, scratch
from tests.support.leaks import descriptors, eventually
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

LIMIT = 16 << 20

EVENTS = """\
low 0
high 0
max {max}
oom {oom}
oom_kill {oom_kill}
oom_group_kill {oom_group_kill}
sock_throttled 0
"""


def events(**counts: int) -> str:
    """Returns memory.events as the kernel's cgroup-v2.rst has it."""
    return EVENTS.format_map({"max": 0, "oom": 0, "oom_kill": 0, "oom_group_kill": 0} | counts)


def limit(directory: Path, size: int = LIMIT) -> None:
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        if (directory / name).exists():  # without swap accounting there is no memsw
            (directory / name).write_text(str(size))


def kernel_count(directory: Path) -> int:
    return flat((directory / "memory.oom_control").read_text())["oom_kill"]


@pytest.fixture
def limited() -> Iterator[Path]:
    """A version 1 cgroup in which 16 MiB is too much."""
    with scratch("memory") as directory:
        limit(directory)
        yield directory


async def hog(directory: Path) -> int:
    """Runs a process that wants more than it may have, and returns how it ended."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"echo 0 >{directory}/cgroup.procs; exec tail /dev/zero"
    )
    return await process.wait()


async def test_a_hundred_hogs_are_counted_once_each(limited: Path) -> None:
    """Several at a time, each reported by when its death is known."""
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    places = asyncio.Semaphore(4)
    deaths = 0

    async def one() -> None:
        nonlocal deaths
        async with places:
            status = await hog(limited)
        assert status == -9
        deaths += 1
        watch.poll()
        assert sum(told) >= deaths

    count = rounds(10, 100)
    await asyncio.gather(*(one() for _ in range(count)))
    assert sum(told) == count == kernel_count(limited)
    watch.close()


async def test_a_kill_that_nobody_waits_for_is_reported(limited: Path) -> None:
    """The event comes before the count, and no process that is known exits."""
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    for turn in range(1, rounds(5, 50) + 1):
        with Started(
            "if os.fork():\n print('ready', flush=True)\n os._exit(0)\nos.close(1)\nbytearray(1 << 28)",
            limited,
        ):
            await eventually(lambda turn=turn: sum(told) == turn)  # type: ignore[misc]
    assert sum(told) == kernel_count(limited)
    watch.close()


async def test_a_kill_while_the_loop_is_held_is_reported(limited: Path) -> None:
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    subprocess.run(["sh", "-c", f"echo 0 >{limited}/cgroup.procs; exec tail /dev/zero"], check=False)
    watch.poll()
    assert told == [1]
    await asyncio.sleep(0)
    watch.poll()
    assert told == [1]
    watch.close()


async def test_kills_before_the_watch_are_not_told(limited: Path) -> None:
    assert await hog(limited) == -9
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    watch.poll()
    assert told == []
    watch.close()


async def test_kills_below_count_too(limited: Path) -> None:
    """Version 1 counts in the victim's own cgroup alone; a container may have made some."""
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    for _ in range(2):  # a new one under the same name begins at 0
        below = limited / "below"
        below.mkdir()
        assert await hog(below) == -9
        watch.poll()
        below.rmdir()
        watch.poll()
    assert told == [1, 1]
    watch.close()


async def test_a_cgroup_that_is_made_anew_between_two_looks_counts_from_0(limited: Path) -> None:
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    below = limited / "below"
    for kills in (2, 1):  # the loop is held, so no other look at it comes between
        below.mkdir()
        for _ in range(kills):
            subprocess.run(["sh", "-c", f"echo 0 >{below}/cgroup.procs; exec tail /dev/zero"], check=False)
        watch.poll()
        below.rmdir()
    assert told == [2, 1]
    watch.close()


async def test_below_more_cgroups_than_are_looked_at_nothing_is_counted(
    limited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor twice, when there are fewer again; what dies in the container's own always counts."""
    monkeypatch.setattr(oom, "_MOST", 2)
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    below = [limited / f"below{number}" for number in range(3)]
    for directory in below[:2]:
        directory.mkdir()
    assert await hog(below[0]) == -9
    watch.poll()
    assert told == [1]
    below[2].mkdir()
    assert await hog(below[1]) == -9
    watch.poll()
    assert told == [1]
    assert await hog(limited) == -9
    watch.poll()
    assert told == [1, 1]
    below[2].rmdir()
    watch.poll()
    assert told == [1, 1, 1]
    watch.close()


class Noting(OomControlWatch):
    """Notes that it has read the counter because of an event."""

    def __init__(self, directory: Path, callback: Callable[[int], None]) -> None:
        super().__init__(directory, callback)
        self.woken = asyncio.Event()

    def _read_again(self, step: int) -> None:
        super()._read_again(step)
        self.woken.set()


async def test_a_count_that_comes_after_the_event_is_told(tmp_path: Path) -> None:
    """And nobody exits; the kernel wakes the watch before it has chosen whom to kill."""
    (tmp_path / "cgroup.event_control").touch()
    control = tmp_path / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    told: list[int] = []
    watch = Noting(tmp_path, told.append)
    os.eventfd_write(watch._eventfd, 1)
    await watch.woken.wait()
    assert told == []
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    await eventually(lambda: told == [1])
    watch.close()


async def test_the_removal_of_the_cgroup_is_no_kill() -> None:
    told: list[int] = []
    with scratch("memory") as directory:
        watch = Noting(directory, told.append)
        limit(directory)
        assert await hog(directory) == -9
        watch.poll()
        await watch.woken.wait()
        watch.woken.clear()
        directory.rmdir()
        await watch.woken.wait()
    watch.poll()
    assert told == [1]
    watch.close()


async def test_nothing_is_told_after_close(limited: Path) -> None:
    told: list[int] = []
    before = descriptors()
    watch = OomControlWatch(limited, told.append)
    watch.close()
    watch.close()
    assert await hog(limited) == -9
    watch.poll()
    assert told == []
    assert descriptors().items() <= before.items()


async def test_a_container_at_its_limit_costs_the_watch_little(limited: Path) -> None:
    """Its killer is off, so each page that it wants is an event for as long as it runs."""
    told: list[int] = []
    watch = OomControlWatch(limited, told.append)
    cpu = time.process_time()
    for _ in range(1000):
        os.eventfd_write(watch._eventfd, 1)
        await asyncio.sleep(0)
    fired = time.process_time() - cpu
    watch.close()
    assert fired < 0.5
    assert told == []


async def test_what_cannot_be_watched_says_so() -> None:
    with scratch("freezer") as directory, pytest.raises(FileNotFoundError):
        OomControlWatch(directory, print)


def test_a_watch_of_nothing_tells_nothing() -> None:
    watch = OomWatch(lambda count: pytest.fail(f"told of {count}"))
    watch.poll()
    watch.close()


async def test_version_2_counts_the_killed_and_nothing_else(tmp_path: Path) -> None:
    """Neither a limit that was reached, nor one more for a group of which each was counted."""
    file = tmp_path / "memory.events"
    file.write_text(events(oom_kill=7))
    told: list[int] = []
    watch = EventsWatch(tmp_path, told.append)
    watch.poll()
    for counts in (
        {"oom_kill": 7, "max": 3, "oom": 2},
        {"oom_kill": 8, "max": 9, "oom": 3},
        {"oom_kill": 8, "max": 10, "oom": 4},
        {"oom_kill": 12, "max": 10, "oom": 4, "oom_group_kill": 1},
    ):
        file.write_text(events(**counts))
        watch.poll()
        watch.poll()
    assert told == [1, 4]
    watch.close()
    file.write_text(events(oom_kill=13))
    watch.poll()
    assert told == [1, 4]


async def test_version_2_of_the_kernel() -> None:
    with scratch(UNIFIED) as directory:
        if not (directory / "memory.max").exists():
            pytest.skip("this machine has the memory controller on version 1, or not at all")
        (directory / "memory.max").write_text(str(LIMIT))
        told: list[int] = []
        watch = EventsWatch(directory, told.append)
        for turn in range(1, rounds(5, 50) + 1):
            assert await hog(directory) == -9
            if turn % 2:
                watch.poll()
                assert sum(told) == turn
            else:
                await eventually(lambda turn=turn: sum(told) == turn)  # type: ignore[misc]
        assert sum(told) == flat((directory / "memory.events").read_text())["oom_kill"]
        watch.close()


async def test_version_2_before_kernels_that_count_groups(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")
    told: list[int] = []
    watch = EventsWatch(tmp_path, told.append)
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\n")
    watch.poll()
    assert told == [1]
    watch.close()


async def test_version_2_does_not_count_backwards(tmp_path: Path) -> None:
    """A file that cannot be read for once, or has been removed, is no reason to begin anew."""
    file = tmp_path / "memory.events"
    file.write_text(events(oom_kill=5))
    told: list[int] = []
    watch = EventsWatch(tmp_path, told.append)
    for text in ("", events(oom_kill=5), "oom_kill many\n", events(oom_kill=6)):
        file.write_text(text)
        watch.poll()
    assert told == [1]
    watch.close()


async def test_version_2_wakes_the_watch() -> None:
    """On a mounted cgroup2: memory.events reports as cgroup.events does, which every machine has."""
    with scratch(UNIFIED) as directory:
        heard = 0

        def changed() -> None:
            nonlocal heard
            heard += 1
            states.append(flat(watch.read())["populated"])

        states: list[int] = []
        before = descriptors()
        watch = FileWatch(directory / "cgroup.events", changed)
        with Started("print('ready', flush=True); time.sleep(1000)", directory):
            await eventually(lambda: 1 in states)
        await eventually(lambda: states[-1] == 0)
        calm = heard
        cpu = time.process_time()
        await asyncio.sleep(0.5)
        assert calm == heard
        assert time.process_time() - cpu < 0.1
        directory.rmdir()
        await asyncio.sleep(0.1)  # if it is told of the removal, then not for ever
        assert watch.read() == ""
        assert heard <= calm + 1
        watch.close()
        watch.close()
        assert watch.read() == ""
        assert descriptors().items() <= before.items()


async def test_a_file_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        EventsWatch(tmp_path, print)
    assert descriptors().items() <= before.items()
