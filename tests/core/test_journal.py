"""The journal: what is written is what is read, whatever of it is cut or damaged."""

from __future__ import annotations

import errno
import os
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shimpy.core import tempdirs
from shimpy.core.journal import (
    FORMAT,
    Journal,
    JournalDirectory,
    JournalState,
    NewerJournalError,
    call_token,
    read_records,
    replay,
)
from shimpy.core.journal.history import EventHistory
from shimpy.core.journal.lines import encode
from shimpy.core.journal.snapshot import snapshot
from shimpy.core.model import ContainerEvent, EventKind
from tests.support.rounds import rounds

SEQUENCED = {EventKind.CREATE, EventKind.START, EventKind.EXEC_STARTED, EventKind.EXIT, EventKind.OOM}
PROCESS = {"start": 7, "inode": 8, "stdio": {}, "terminal": False}
RUNTIME = {"name": "/bin/runc", "root": None}
MADE: dict[str, Any] = {"bundle": "/b", "spec": {}, "runtime": RUNTIME, "cgroup": {}}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JournalDirectory:
    base = tmp_path / "base"
    monkeypatch.setattr(tempdirs, "base", lambda: str(base))
    directory = JournalDirectory.of_socket(str(tmp_path / "shim.sock"))
    directory.make()
    directory.lock()
    return directory


@pytest.fixture
def journal(directory: JournalDirectory) -> Iterator[Journal]:
    journal = Journal(directory, "/shim.sock", sequenced=SEQUENCED)
    journal.begin()
    yield journal
    journal.close(remove=False)


def event(kind: EventKind, pid: int = 100, exec_id: str = "", status: int = 0) -> ContainerEvent:
    return ContainerEvent("web", kind, 12345, pid, exec_id, status)


def read(directory: JournalDirectory) -> JournalState:
    state = replay(read_records(directory.read(), "journal"))
    assert state is not None
    return state


def write_a_life(journal: Journal) -> None:
    """Writes all kinds of lines."""
    create = journal.intent("create", "web", made={})
    journal.event(event(EventKind.CREATE), made=MADE, process=PROCESS, closes=create)
    start = journal.intent("start", "web")
    journal.event(event(EventKind.START), closes=start)
    for pid in range(101, 105):
        reset = call_token.set(f"token-{pid}")
        exec_ = journal.intent("exec", "web", cgroup=None)
        number = journal.event(
            event(EventKind.EXEC_STARTED, pid, str(pid)), process={**PROCESS, "start": pid}, closes=exec_
        )
        call_token.reset(reset)
        journal.write({"size": number, "columns": 80, "rows": pid})
    journal.write({"exit": 3, "status": 7, "time": 9})
    journal.event(event(EventKind.EXIT, 101, "101", 7))
    journal.event(event(EventKind.OOM), oom={"seen": {"0": 1}, "left": 0})
    journal.event(event(EventKind.PAUSED))
    journal.told(3)
    journal.forgot(4, 0, by_call=False)
    journal.intent("exec", "web", cgroup=["/c", 5])


def test_what_is_written_is_what_is_read(journal: Journal, directory: JournalDirectory) -> None:
    write_a_life(journal)

    state = read(directory)

    assert state == journal.state
    web = state.containers["web"]
    assert (web.started, web.paused, web.oom) == (True, True, {"seen": {"0": 1}, "left": 0})
    assert [(each.pid, each.exit_status, each.size) for each in web.execs.values()] == [
        (101, 7, (80, 101)),
        (103, None, (80, 103)),
        (104, None, (80, 104)),
    ]
    assert [each["op"] for each in state.intents.values()] == ["exec"]
    assert state.tokens["token-102"] == {"pid": 102, "status": 0}
    assert (state.told, state.last_sequence) == (3, 8)


def test_journal_that_is_written_anew_comes_to_the_same(journal: Journal) -> None:
    write_a_life(journal)

    lines = b"".join(map(encode, snapshot(journal.state)))

    assert replay(read_records(lines, "journal")) == journal.state


def test_file_stays_small(journal: Journal, directory: JournalDirectory) -> None:
    write_a_life(journal)
    for _ in range(15_000):
        journal.write({"size": 3, "columns": 80, "rows": 25})

    assert os.stat(directory.journal).st_size < 1 << 20
    assert read(directory) == journal.state


def test_only_its_owner_may_read_it(journal: Journal, directory: JournalDirectory) -> None:
    assert os.stat(directory.journal).st_mode & 0o777 == 0o600
    assert os.stat(directory.path).st_mode & 0o777 == 0o700


def test_journal_that_was_cut_anywhere_says_what_was_whole(
    journal: Journal, directory: JournalDirectory
) -> None:
    write_a_life(journal)
    data = directory.read()

    for length in range(0, len(data) + 1, rounds(13, 1)):
        records = read_records(data[:length], "journal")
        assert len(records) == data[:length].count(b"\n")
        replay(records)


def test_damaged_lines_are_left_out(journal: Journal, directory: JournalDirectory) -> None:
    write_a_life(journal)
    data = bytearray(directory.read())
    whole = read_records(bytes(data), "journal")
    rng = random.Random(1)

    for _ in range(rounds(100, 50_000)):
        at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[at] ^= bit
        records = read_records(bytes(data), "journal")
        data[at] ^= bit
        assert all(record in whole for record in records)
        assert len(records) in (0, len(whole) - 1, len(whole) - 2)
        replay(records)


def test_journal_of_a_newer_shim_is_refused_in_words() -> None:
    with pytest.raises(NewerJournalError, match=f"newer shimpy .*{FORMAT + 1}.*start that one"):
        read_records(encode({"journal": FORMAT + 1}), "journal")


def test_journal_of_an_earlier_shim_comes_to_what_it_said() -> None:
    """One that 0.1.0 has written; what only a later one would know of is left out."""
    written = Path(__file__).with_name("journal-0.1.0.jsonl").read_bytes()
    later = encode({"later": 1}) + encode({"closed": 99, "later": 1})

    state = replay(read_records(written + later, "journal"))

    assert state is not None
    web = state.containers["web"]
    assert (web.started, web.paused, web.init.pid, web.init.process["start"]) == (True, True, 4291, 1001022)
    assert [(each.pid, each.exit_status) for each in web.execs.values()] == [(4311, None)]
    assert [(each.pid, each.exit_status) for each in state.tombstones] == [(4326, 0)]
    assert [each.kind for _, each in state.events] == [
        EventKind.CREATE,
        EventKind.START,
        EventKind.EXEC_STARTED,
        EventKind.EXEC_STARTED,
        EventKind.EXIT,
    ]
    assert (state.socket, state.intents) == ("/run/web/shim.sock", {})


def test_what_a_full_file_system_did_not_take_is_written_later(
    journal: Journal,
    directory: JournalDirectory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        write_a_life(journal)
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 60)
    journal.told(4)

    assert [each.levelname for each in caplog.records if each.levelname == "WARNING"] == ["WARNING"]
    assert read(directory) == journal.state


def test_of_a_repeated_call_only_its_own_commit_has_the_token(journal: Journal) -> None:
    reset = call_token.set("token")
    journal.event(event(EventKind.CREATE), made=MADE, process=PROCESS)
    journal.event(event(EventKind.EXIT, status=3))
    journal.forgot(99, 5, by_call=False)
    call_token.reset(reset)

    assert journal.state.tokens == {"token": {"pid": 100, "status": 0}}


def test_events_have_their_own_numbers(journal: Journal) -> None:
    write_a_life(journal)

    assert [(number, each.kind.value) for number, each in journal.state.events] == [
        (1, "create"),
        (2, "start"),
        *((number, "exec-started") for number in range(3, 7)),
        (7, "exit"),
        (8, "oom"),
    ]


def test_the_last_events_are_kept_in_half_a_megabyte() -> None:
    """As objects they would take three times as much, and each shim has them after two thousand execs."""
    told = [
        ContainerEvent("web", EventKind.EXIT, 1 << 60, 30_000 + n, str(30_000 + n), 137) for n in range(5000)
    ]
    tracemalloc.start()
    try:
        history = EventHistory()
        for number, event in enumerate(told):
            history.append(number, event)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert list(history) == list(enumerate(told))[-4096:]
    assert taken < 1 << 19
