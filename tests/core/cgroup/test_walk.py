"""A tree of cgroups, gone through however deep it is and whatever happens to it meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimpy.core.cgroup.walk import remove_below, walk
from tests.support.cgroups import scratch

DEPTH = 300  # 15 times the longest path that the kernel takes
NAME = "x" * 200


def nest(directory: Path, depth: int) -> None:
    here = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(NAME, dir_fd=here)
        below = os.open(NAME, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def held() -> int:
    """Returns how many file descriptors are open; what each is, the kernel does not tell at every depth."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=["cgroup", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A real cgroup, and a directory of any other file system."""
    if request.param == "directory":
        return tmp_path
    return Path(request.getfixturevalue("cgroup"))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with scratch("freezer") as directory:
        yield directory


def names(directory: Path) -> list[str]:
    """Returns the paths of what is visited, in order, below the directory."""
    return [os.readlink(f"/proc/self/fd/{each}").removeprefix(str(directory)) for each in walk(directory)]


def test_a_parent_comes_before_its_children(place: Path) -> None:
    for name in ("a/b", "a/c", "d"):
        (place / name).mkdir(parents=True)
    visited = names(place)
    assert sorted(visited) == ["", "/a", "/a/b", "/a/c", "/d"]
    assert visited[0] == ""
    assert visited.index("/a") < min(visited.index("/a/b"), visited.index("/a/c"))


def test_no_depth_takes_more_than_a_descriptor(place: Path) -> None:
    nest(place, DEPTH)
    before = held()
    assert max(held() for _ in walk(place)) == before + 1
    assert held() == before
    assert sum(1 for _ in walk(place)) == 1 + DEPTH
    assert sum(1 for _ in remove_below(place)) == 1 + DEPTH
    assert sum(1 for _ in walk(place)) == 1


def test_a_walk_that_is_left_closes_what_it_has_open(place: Path) -> None:
    nest(place, 3)
    before = held()
    for _ in walk(place):
        break
    assert held() == before


def test_what_is_removed_meanwhile_does_not_end_the_walk(place: Path) -> None:
    """Here each time the one that is visited, with the one above it."""
    for name in ("a/b/c", "d/e/f", "g/h/i"):
        (place / name).mkdir(parents=True)
    deepest = []
    for each in walk(place):
        path = Path(os.readlink(f"/proc/self/fd/{each}"))
        if path.parent.parent.parent == place:
            deepest.append(path.name)
            path.rmdir()
            path.parent.rmdir()
    assert sorted(deepest) == ["c", "f", "i"]


def test_what_is_made_of_another_kind_meanwhile_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    visited = []
    for each in walk(tmp_path):
        visited.append(os.readlink(f"/proc/self/fd/{each}"))
        if len(visited) == 2:  # both are listed by now, and the other one is still to come
            other = tmp_path / ("a" if visited[1].endswith("b") else "b")
            other.rmdir()
            other.symlink_to("/")
    assert len(visited) == 2


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert list(walk(tmp_path / "gone")) == []
    assert list(remove_below(tmp_path / "gone")) == []
