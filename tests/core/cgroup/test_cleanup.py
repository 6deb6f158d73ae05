"""A runtime killed in the middle of `create` leaves no cgroups, and others lose none."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shimpy.core.cgroup import Leftovers, leftover_paths
from shimpy.core.cgroup.hierarchies import memberships
from tests.support.bundles import make_bundle, make_rootfs
from tests.support.cgroups import Started, clear
from tests.support.containers import cgroups, new_id, remove
from tests.support.leaks import children, descriptors
from tests.support.machine import lacking
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio

IDLE = "print('ready', flush=True); time.sleep(1000)"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A hybrid machine of files: two controllers of version 1, and version 2."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    lines = []
    for name, kind, options in (
        ("memory", "cgroup", "rw,memory"),
        ("cpu", "cgroup", "rw,cpu,cpuacct"),
        ("unified", "cgroup2", "rw"),
    ):
        (tmp_path / name).mkdir()
        lines.append(f"31 23 0:28 / {tmp_path / name} rw - {kind} cgroup {options}\n")
    (proc / "self/mountinfo").write_text("".join(lines))
    (proc / "self/cgroup").write_text("3:memory:/user/me\n2:cpu,cpuacct:/\n0::/user/me\n")
    return proc


BY_ID = "memory/box memory/user/me/box cpu/box unified/box unified/user/me/box unified/user/box"


@pytest.mark.parametrize(
    ("linux", "expected"),
    [
        (None, BY_ID),
        ({}, BY_ID),
        ({"cgroupsPath": ""}, BY_ID),
        ({"cgroupsPath": "../box"}, BY_ID),
        ({"cgroupsPath": "/pod/x"}, "memory/pod/x cpu/pod/x unified/pod/x"),
        ({"cgroupsPath": "/../../pod//x/"}, "memory/pod/x cpu/pod/x unified/pod/x"),
    ],
)
def test_where_a_runtime_may_put_a_container(
    proc: Path, tmp_path: Path, linux: dict[str, Any] | None, expected: str
) -> None:
    spec = {"ociVersion": "1.0.2"} | ({} if linux is None else {"linux": linux})
    paths = leftover_paths(spec, "box", proc=proc)
    assert expected.split() == [os.path.relpath(path, tmp_path) for path in paths]


async def test_only_what_was_not_there_is_removed(proc: Path, tmp_path: Path) -> None:
    (tmp_path / "memory/pod/x").mkdir(parents=True)
    (tmp_path / "cpu/pod").mkdir()
    leftovers = Leftovers.before({"linux": {"cgroupsPath": "/pod/x"}}, "box", proc=proc)
    for made in ("memory/pod/x/inner", "cpu/pod/x/inner", "unified/pod/x"):
        (tmp_path / made).mkdir(parents=True)
    assert await leftovers.remove() == []
    assert (tmp_path / "memory/pod/x/inner").exists()
    assert list((tmp_path / "cpu/pod").iterdir()) == []
    assert not (tmp_path / "unified/pod").exists()


async def test_what_another_has_put_beside_stays(proc: Path, tmp_path: Path) -> None:
    leftovers = Leftovers.before({"linux": {"cgroupsPath": "/pod/x"}}, "box", proc=proc)
    (tmp_path / "cpu/pod/x").mkdir(parents=True)
    (tmp_path / "cpu/pod/y").mkdir()
    assert await leftovers.remove() == []
    assert [tmp_path / "cpu/pod/y"] == list((tmp_path / "cpu/pod").iterdir())


async def test_what_was_made_above_goes_with_the_container(proc: Path, tmp_path: Path) -> None:
    """Not what was there before, nor what another has put beside."""
    (tmp_path / "cpu/pod").mkdir()
    leftovers = Leftovers.before({"linux": {"cgroupsPath": "/pod/deep/x"}}, "box", proc=proc)
    for made in ("memory/pod/deep", "cpu/pod/deep", "unified/pod/deep", "unified/pod/other"):
        (tmp_path / made).mkdir(parents=True)
    leftovers.remove_above()
    assert not (tmp_path / "memory/pod").exists()
    assert list((tmp_path / "cpu/pod").iterdir()) == []
    assert [tmp_path / "unified/pod/other"] == list((tmp_path / "unified/pod").iterdir())


async def test_what_is_above_several_containers_goes_with_the_last(proc: Path, tmp_path: Path) -> None:
    """In whatever order they come and go: what the first has made is not one that was there before."""
    pod = tmp_path / "memory/pod"
    spec = {"linux": {"cgroupsPath": "/pod/x"}}
    first = Leftovers.before(spec, "box", proc=proc)
    pod.mkdir()
    second = Leftovers.before({"linux": {"cgroupsPath": "/pod/y"}}, "box", proc=proc)
    first.remove_above()  # the second may be between making the one above and its own
    first.remove_above()
    assert pod.exists()
    second.remove_above()
    assert not pod.exists()
    pod.mkdir()
    Leftovers.before(spec, "box", proc=proc).remove_above()
    assert pod.exists()


async def test_only_what_the_container_is_in_is_pruned_with_it(proc: Path, tmp_path: Path) -> None:
    """Of the places where a runtime may have put it, others may have taken one meanwhile."""
    leftovers = Leftovers.before({}, "box", proc=proc)
    (proc / "77").mkdir()
    (proc / "77/cgroup").write_text("3:memory:/user/me/box\n2:cpu,cpuacct:/\n0::/user/me\n")
    for made in ("memory/user/me/box/inner", "memory/box/theirs"):
        (tmp_path / made).mkdir(parents=True)
    leftovers.keep(memberships(77, proc))
    await leftovers.prune()
    assert not (tmp_path / "memory/user/me/box/inner").exists()
    assert (tmp_path / "memory/box/theirs").exists()


@pytest.fixture
def container_id() -> Iterator[str]:
    if lacks := lacking():
        pytest.skip(f"this machine lacks {lacks}")
    container_id = new_id()
    yield container_id
    for path in cgroups(container_id):
        clear(Path(path))


async def test_what_still_runs_there_is_killed_if_it_is_ours(container_id: str) -> None:
    leftovers = Leftovers.before({}, container_id)
    places = leftover_paths({}, container_id)
    for place in places:
        os.mkdir(place)
    with Started(IDLE, *places[:2]) as started:
        assert await leftovers.remove() == []
        assert started.process.wait() == -9
    assert cgroups(container_id) == []


async def test_what_runs_there_and_is_not_ours_stays(
    container_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another shim may make a container of the same name at the same time."""
    leftovers = Leftovers.before({}, container_id)
    place = leftover_paths({}, container_id)[0]
    os.mkdir(place)
    before = descriptors()
    with Started(IDLE, place) as started:
        (tmp_path / str(started.pid)).mkdir()
        (tmp_path / str(started.pid) / "status").write_text("Name:\tpython3\nPPid:\t1\n")
        monkeypatch.setattr(leftovers, "_proc", tmp_path)
        assert await leftovers.remove() == [place]
        assert started.process.poll() is None
    assert descriptors().items() <= before.items()


async def test_a_create_that_was_killed_leaves_no_cgroups(tmp_path: Path) -> None:
    """At a random moment, before, while and after runc makes them."""
    if lacks := lacking():
        pytest.skip(f"this machine lacks {lacks}")
    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: its children become ours
    dice = random.Random(4)
    rootfs = make_rootfs(tmp_path / "rootfs")
    try:
        for _ in range(rounds(20, 500)):
            container_id = new_id()
            directory = make_bundle(
                tmp_path / container_id,
                rootfs,
                ["true"],
                change=lambda spec, path=f"/{container_id}/inner": spec["linux"].update(cgroupsPath=path),  # type: ignore[misc]
            )
            leftovers = Leftovers.before({"linux": {"cgroupsPath": f"/{container_id}/inner"}}, container_id)
            runc = subprocess.Popen(
                ["runc", "create", "--bundle", directory, container_id],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
            time.sleep(dice.uniform(0, 0.04))
            os.killpg(runc.pid, 9)
            runc.wait()
            remove(container_id)
            assert await leftovers.remove() == []
            assert cgroups(container_id) == []
    finally:
        libc.prctl(36, 0, 0, 0, 0)
        reap()


def reap() -> None:
    """Waits for the orphans that came to us."""
    while children():
        os.waitpid(-1, 0)
