"""A program that runs a container in its own process, on each Python: its own children are its own affair."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import bundles, containers
from tests.support.embedding import ORPHANS
from tests.support.interpreters import environment, interpreters
from tests.support.rounds import rounds

EXECS = rounds(12, 1000)


_WAYS = {
    "": [],
    "in-a-thread": ["--thread"],
    # What Python 3.11 has beside its default; the later ones have no choice.
    "beside-pidfds": ["--watcher", "PidfdChildWatcher"],
    "beside-a-handler": ["--watcher", "SafeChildWatcher"],
}
_ALL = [
    pytest.param(version, way, id=f"{version}-{way}".rstrip("-"))
    for version in interpreters()
    for way in _WAYS
    if version == "3.11" or "beside" not in way
]


@pytest.fixture(scope="module")
def ran(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, Any]]:
    """What the program has told, which runs once for each Python and each way of waiting."""
    directory = tmp_path_factory.mktemp("embedding")
    bundle = bundles.make_bundle(directory, rootfs, ["sleep", "1000000"], own_pid_namespace=False)

    @functools.cache
    def run(version: str, way: str) -> dict[str, Any]:
        container_id = containers.new_id()
        done = subprocess.run(
            [
                *(interpreters()[version], "-W", "error", "-m", "tests.support.embedding"),
                *("--id", container_id, "--bundle", bundle, "--execs", str(EXECS), *_WAYS[way]),
            ],
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 0, done.stderr
        assert containers.left(container_id) == []
        told: dict[str, Any] = json.loads(done.stdout)
        return told | {"stderr": done.stderr}

    return run


def wrong(told: dict[str, Any], kind: str) -> list[str]:
    """Returns what was wrong with the children of one kind, of which there were some."""
    assert told["counts"][kind] > 0
    return [words for words in told["wrong"] if words.startswith(kind)]


@pytest.mark.parametrize(("version", "way"), _ALL)
def test_asyncios_children_of_the_program_keep_their_statuses(
    version: str, way: str, ran: Callable[[str, str], dict[str, Any]]
) -> None:
    assert wrong(ran(version, way), "asyncio") == []


@pytest.mark.parametrize(("version", "way"), _ALL)
def test_asyncio_has_nothing_to_warn_of(
    version: str, way: str, ran: Callable[[str, str], dict[str, Any]]
) -> None:
    """As it has when somebody else has waited for a child of its."""
    assert ran(version, way)["stderr"] == ""


@pytest.mark.parametrize(("version", "way"), _ALL)
def test_children_that_threads_of_the_program_wait_for_keep_their_statuses(
    version: str, way: str, ran: Callable[[str, str], dict[str, Any]]
) -> None:
    assert wrong(ran(version, way), "threads") == []


@pytest.mark.parametrize(("version", "way"), _ALL)
def test_orphans_of_the_program_are_left_to_it(
    version: str, way: str, ran: Callable[[str, str], dict[str, Any]]
) -> None:
    """They become its children because it is a subreaper meanwhile, and wait, dead, for its waitpid(2)."""
    told = ran(version, way)
    assert wrong(told, "orphans") == []
    assert told["counts"]["orphans"] == ORPHANS


@pytest.mark.parametrize(("version", "way"), _ALL)
def test_execs_have_their_statuses_beside_them(
    version: str, way: str, ran: Callable[[str, str], dict[str, Any]]
) -> None:
    told = ran(version, way)
    assert wrong(told, "execs") == []
    assert told["counts"]["execs"] == EXECS


@pytest.mark.parametrize(("version", "way"), _ALL)
def test_what_the_execs_left_behind_is_no_child_of_the_program_afterwards(
    version: str, way: str, ran: Callable[[str, str], dict[str, Any]]
) -> None:
    """The container shares the pids of the machine, so whom an exec leaves behind the program gets."""
    assert ran(version, way)["children"] == {}


@pytest.mark.parametrize(("version", "way"), _ALL)
def test_signals_and_the_subreaper_attribute_are_put_back(
    version: str, way: str, ran: Callable[[str, str], dict[str, Any]]
) -> None:
    told = ran(version, way)
    assert told["during"]["subreaper"] == "1"
    assert told["after"] == told["before"]
