"""Ranges of ids: one container's alone, for as long as its bundle is there."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shimpy.core import id_ranges as ids
from shimpy.errors import PermissionDeniedError, ResourceExhaustedError


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where who has which is written down, for two ranges."""
    directory = tmp_path / "var" / "ids"
    monkeypatch.setattr(ids, "_DIRECTORY", str(directory))
    monkeypatch.setattr(ids, "_FIRST", 0x78000000)
    monkeypatch.setattr(ids, "_END", 0x78020000)
    return directory


def test_no_two_have_one_range_until_all_are_taken() -> None:
    first, second = ids.claim("/none/a"), ids.claim("/none/b")
    assert {first.start, second.start} == {0x78000000, 0x78010000}
    with pytest.raises(ResourceExhaustedError, match="all 2 ranges of ids are in use"):
        ids.claim("/none/c")
    first.release()
    assert ids.claim("/none/c").start == first.start


def test_a_range_maps_the_ids_that_programs_expect() -> None:
    claimed = ids.claim("/none/a")
    assert claimed.mapping == [{"containerID": 0, "hostID": claimed.start, "size": 65536}]


def test_a_range_that_was_given_back_leaves_nothing(directory: Path) -> None:
    claimed = ids.claim("/none/a")
    assert len(list(directory.iterdir())) == 1
    claimed.release()
    claimed.release()
    assert list(directory.iterdir()) == []


def test_a_bundle_has_its_range_until_it_is_gone(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.touch()
    ids.claim("/none/a")
    kept = ids.claim(str(config))
    kept.keep()
    with pytest.raises(ResourceExhaustedError):
        ids.claim("/none/b")
    config.unlink()
    assert ids.claim("/none/b").start == kept.start


def test_what_a_killed_program_had_is_free_once_its_folder_is_gone(tmp_path: Path, directory: Path) -> None:
    """The kernel unlocks what was locked; the guardian removes the folder, after the container."""
    folder = tmp_path / "folder"
    folder.mkdir()
    killed = ids.claim(str(folder))
    os.close(killed._fd)
    ids.claim("/none/a")
    with pytest.raises(ResourceExhaustedError):
        ids.claim("/none/b")
    folder.rmdir()
    ids.remove_abandoned()
    assert len(list(directory.iterdir())) == 1
    assert ids.claim("/none/b").start == killed.start


def test_who_only_looks_at_a_range_does_not_keep_it(tmp_path: Path, directory: Path) -> None:
    """Two guardians that clean up at one time: each looks whether what the other has is abandoned."""
    killed = ids.claim(str(tmp_path / "gone" / "config.json"))
    os.close(killed._fd)
    looking = os.open(directory / f"{killed.start:08x}", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_EX)
    cleaning = threading.Thread(target=ids.remove_abandoned, args=(str(tmp_path / "gone"),))
    cleaning.start()
    while not any(line.split()[1] == "->" and f" {os.getpid()} " in line for line in _locks()):
        assert cleaning.is_alive()

    os.close(looking)
    cleaning.join()

    assert list(directory.iterdir()) == []


def _locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


def test_a_range_that_is_held_is_not_abandoned(directory: Path) -> None:
    held = ids.claim("/none/a")
    ids.remove_abandoned()
    assert [path.name for path in directory.iterdir()] == [f"{held.start:08x}"]


@pytest.mark.parametrize("allotted", ["x:2013265920:65536", "x:2013270016:10"])
def test_what_is_allotted_to_a_user_is_not_taken(
    allotted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "subuid").write_text(f"# a comment\n{allotted}\nbroken:line\n")
    allots = ids._allotted
    monkeypatch.setattr(ids, "_allotted", lambda _: allots(str(tmp_path / "subuid")))
    assert ids.claim("/none/a").start == 0x78010000
    with pytest.raises(ResourceExhaustedError):
        ids.claim("/none/b")


def test_claims_at_one_time_are_of_different_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_END", ids._FIRST + 64 * ids.SIZE)
    with ThreadPoolExecutor(16) as threads:
        claimed = list(threads.map(ids.claim, ["/none/a"] * 64))
    assert len({each.start for each in claimed}) == 64


def test_a_directory_that_others_may_write_to_is_not_trusted(directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(PermissionDeniedError, match="mode 0700"):
        ids.claim("/none/a")
