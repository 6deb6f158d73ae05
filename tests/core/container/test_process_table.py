"""The order in which the events of a container's processes are published, however early they died."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shimpy.core.cgroup import Cgroup, OomWatch
from shimpy.core.container.process import Process
from shimpy.core.container.process_table import ProcessTable
from shimpy.core.model import ContainerEvent, EventKind, Policy, StdioPaths
from shimpy.core.stdio import ProcessIO
from tests.support.lives import KILLED


class Killer(OomWatch):
    """Has killed once, and says so only when it is asked."""

    def __init__(self, callback: Callable[[int], None], _seen: object = None) -> None:
        super().__init__(callback)
        self._unread = 1

    def _new(self) -> int:
        new, self._unread = self._unread, 0
        return new


class Told:
    """ProcessTable that publish to a list, with an init that asks for its EXIT as soon as it may be told."""

    def __init__(self) -> None:
        self.events: list[ContainerEvent] = []
        self.processes = ProcessTable("web", self.events.append, self._nothing)
        self.init = self.dead(10, lambda _init: self.processes.finish())

    def _nothing(self) -> None:
        pass

    @staticmethod
    def dead(pid: int, on_exit: Callable[[Process], None]) -> Process:
        process = Process(
            StdioPaths(), cast("ProcessIO", None), Policy(), on_exit, exec_id="" if pid == 10 else str(pid)
        )
        process.child = cast("Any", SimpleNamespace(pid=pid, exit_status=KILLED))
        return process

    @property
    def kinds(self) -> list[tuple[EventKind, int]]:
        return [(event.kind, event.pid) for event in self.events]


@pytest.fixture
def told() -> Told:
    return Told()


def test_create_comes_before_the_exit_of_an_init_that_is_dead_by_then(told: Told) -> None:
    told.processes.created(told.init, Cgroup())
    assert told.kinds == [(EventKind.CREATE, 10), (EventKind.EXIT, 10)]


def test_exec_started_comes_before_the_exit_of_an_exec_that_is_dead_by_then(told: Told) -> None:
    process = told.dead(11, told.processes.exec_exited)
    told.processes.exec_started(process)
    assert told.kinds == [(EventKind.EXEC_STARTED, 11), (EventKind.EXIT, 11)]


def test_an_oom_that_nobody_has_told_of_yet_comes_before_the_exit(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = Cgroup()
    monkeypatch.setattr(cgroup, "watch_oom", Killer)
    told.processes.created(told.init, cgroup)
    assert told.kinds == [(EventKind.CREATE, 10), (EventKind.OOM, 10), (EventKind.EXIT, 10)]


def test_an_oom_comes_before_the_exit_of_an_exec(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = Cgroup()
    monkeypatch.setattr(cgroup, "watch_oom", Killer)
    cast("Any", told.init.child).exit_status = None
    told.processes.created(told.init, cgroup)
    told.processes.exec_started(told.dead(11, told.processes.exec_exited))
    assert told.kinds[1:] == [(EventKind.EXEC_STARTED, 11), (EventKind.OOM, 10), (EventKind.EXIT, 11)]


def test_the_exit_of_init_waits_for_those_of_the_execs(told: Told) -> None:
    process = told.dead(11, told.processes.exec_exited)
    cast("Any", process.child).exit_status = None
    cast("Any", told.init.child).exit_status = None
    told.processes.created(told.init, Cgroup())
    told.processes.exec_started(process)
    cast("Any", told.init.child).exit_status = KILLED
    told.processes.finish()
    assert told.kinds[-1] == (EventKind.EXEC_STARTED, 11)
    cast("Any", process.child).exit_status = KILLED
    told.processes.exec_exited(process)
    told.processes.finish()
    assert told.kinds[-2:] == [(EventKind.EXIT, 11), (EventKind.EXIT, 10)]
