"""Private directories that calls use one after the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shimpy.core.runtime.files import CommandFiles
from shimpy.core.tempdirs import DirectoryPool
from shimpy.errors import InternalError
from tests.support.leaks import descriptors, opened_since


def run(pool: DirectoryPool, text: str | None) -> str:
    """Has a command write its pid file, and returns where that was."""
    with CommandFiles(pool) as files:
        path = files.make_pid()
        assert os.listdir(os.path.dirname(path)) == []
        if text is not None:
            Path(path).write_text(text)
        files.read_pid("oci")
    return os.path.dirname(path)


def test_a_command_gets_the_directory_of_one_that_has_ended_and_nothing_of_its_files() -> None:
    pool = DirectoryPool()
    first = run(pool, "17")
    assert run(pool, "18") == first
    pool.close()


def test_commands_at_the_same_time_have_one_each_and_one_is_kept() -> None:
    before = descriptors()
    pool = DirectoryPool()
    with CommandFiles(pool) as first, CommandFiles(pool) as second:
        one, other = first.make_pid(), second.make_pid()
        assert os.stat(os.path.dirname(one)).st_dev != os.stat(os.path.dirname(other)).st_dev
        for files, path in ((first, one), (second, other)):
            Path(path).write_text("17")
            files.read_pid("oci")
    assert len(opened_since(before)) == 1
    pool.close()
    assert opened_since(before) == []


def test_the_directory_of_a_command_that_wrote_no_pid_is_not_used_again() -> None:
    """It may have been killed, and a process of it may write there still."""
    before = descriptors()
    pool = DirectoryPool()
    for text in (None, "none"):
        with pytest.raises(InternalError):
            run(pool, text)
        assert opened_since(before) == []
    pool.close()


def test_a_closed_pool_gives_directories_and_keeps_none() -> None:
    before = descriptors()
    pool = DirectoryPool()
    pool.close()
    run(pool, "17")
    assert opened_since(before) == []
