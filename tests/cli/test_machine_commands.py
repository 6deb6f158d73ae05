"""`shimpy ps` and `shimpy prune`: what they print, and what they exit with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shimpy.cli.app import run
from shimpy.core import tempdirs
from shimpy.core.registry import OwnedContainer, ProgramDirectory


@pytest.fixture(autouse=True)
def dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProgramDirectory:
    """The directory of a program that has died while it was creating a container, the only one there is."""
    monkeypatch.setattr(tempdirs, "base", lambda: str(tmp_path / "registry"))
    directory = ProgramDirectory(ProgramDirectory.new_name())
    lock = directory.make()
    directory.container().write(OwnedContainer("web", "/none", "/none/runc", None, (), ()))
    os.close(lock)
    return directory


def test_ps_prints_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ps"]) == 0
    assert capsys.readouterr().out == f"web\t-\tstale\t{os.getpid()}\t/none\n"


def test_ps_prints_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"id": "web", "pid": 0, "state": "stale", "owner": str(os.getpid()), "bundle": "/none"}
    ]


def test_prune_prints_what_it_has_removed(dead: ProgramDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prune"]) == 0
    assert capsys.readouterr().out.split("\t")[:3] == ["web", "-", "removed"]
    assert not os.path.exists(dead.path)


def test_prune_that_leaves_something_stale_fails(
    monkeypatch: pytest.MonkeyPatch, dead: ProgramDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    from shimpy.daemon.guardian import cleanup

    async def refuse(container: OwnedContainer, _reaper: object) -> None:
        raise OSError("the runtime refuses")

    monkeypatch.setattr(cleanup, "remove_container", refuse)

    assert run(["prune"]) == 1
    assert "stale" in capsys.readouterr().out
    assert os.path.exists(dead.path)
