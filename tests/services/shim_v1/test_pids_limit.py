"""A full container: an exec says so, whatever the runtime says; and an init that does not let it fill up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status

from shimpy.testing import Fails, FakeRuntime, error_line
from tests.support.leaks import eventually
from tests.support.lives import Life, refused

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

LIMIT = 64

# What runc 1.1 says when the kernel lets it start no thread in there; by chance it gets on without.
BROKEN = Fails(log=error_line("read init-p: connection reset by peer"))


def limit(spec: dict[str, Any]) -> None:
    spec["linux"].setdefault("resources", {})["pids"] = {"limit": LIMIT}


def pids(life: Life) -> int:
    """Returns how many processes and threads the kernel counts."""
    lines = Path(f"/proc/{life.pid}/cgroup").read_text().splitlines()
    paths = [line.split(":", 2)[2] for line in lines if "pids" in line.split(":")[1].split(",")]
    directory = f"/sys/fs/cgroup/pids{paths[0]}" if paths else f"/sys/fs/cgroup{lines[-1].split(':', 2)[2]}"
    return int(Path(directory, "pids.current").read_text())


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    with FakeRuntime() as fake:
        yield fake


async def leave_orphans(life: Life, count: int) -> None:
    """Runs a program that leaves processes behind, which end soon as children of init."""
    await life.run("sh", "-c", f"i=0; while [ $i -lt {count} ]; do (sleep 0.1 &); i=$((i + 1)); done")


async def test_an_exec_that_fails_in_a_full_container_says_what_is_full(
    fake: FakeRuntime, live: Callable[..., Life]
) -> None:
    life = live("sleep", "1000", change=limit)
    await life.create(runtime=fake.path)
    await life.start()
    await leave_orphans(life, LIMIT - 10)
    await eventually(lambda: pids(life) == LIMIT - 9)
    fake.fault("exec", BROKEN)

    await refused(
        life.exec("true"),
        Status.RESOURCE_EXHAUSTED,
        f"has {LIMIT - 9} of the {LIMIT}",
        "pids.limit",
        f"{LIMIT - 10} are zombies that its init does not reap",
        "connection reset by peer",
    )


async def test_an_exec_that_fails_in_one_that_is_not_full_says_what_the_runtime_says(
    fake: FakeRuntime, live: Callable[..., Life]
) -> None:
    life = live("sleep", "1000", change=limit)
    await life.create(runtime=fake.path)
    await life.start()
    fake.fault("exec", BROKEN)

    message = await refused(life.exec("true"), Status.INTERNAL, "connection reset by peer")
    assert "pids.limit" not in message


async def test_the_init_of_the_readme_reaps_what_others_leave(live: Callable[..., Life]) -> None:
    init = "sleep 1000000 & wait"
    assert init in Path("README.md").read_text()
    life = live("sh", "-c", init, change=limit)
    await life.create()
    await life.start()

    await leave_orphans(life, LIMIT // 2)

    await eventually(lambda: pids(life) == 2)
