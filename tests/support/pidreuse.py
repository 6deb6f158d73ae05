"""What becomes of a shim when the pids of its processes are given out again; for test_pid_reuse.

A program for a pid namespace of its own; it prints what it has found as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import shimpy
from tests.support.pids import Stranger, next_pid, take, untouched


class World:
    """A running container and what is published of it.

    Args:
        client: of the shim in this process.
        pid: init.
        strangers: who takes pids.

    Attributes:
        client: as above.
        pid: as above.
        strangers: as above.
        seen: each event's type, pid and status.
    """

    def __init__(self, client: shimpy.ShimClient, pid: int, strangers: Stranger) -> None:
        self.client = client
        self.pid = pid
        self.strangers = strangers
        self.seen: list[tuple[str, int, int | None]] = []
        self._made = Counter({pid: 1})
        self._news = asyncio.Condition()

    async def listen(self, events: shimpy.EventStream) -> None:
        """Collects events, until it is cancelled."""
        async for event in events:
            async with self._news:
                self.seen.append((str(event.type), event.pid, event.exit_status))
                self._news.notify_all()

    async def exec(self, *args: str, terminal: bool = False) -> int:
        """Starts a process in the container and returns its pid."""
        pid = await self.client.exec(args, terminal=terminal)
        self._made[pid] += 1
        return pid

    async def exit(self, pid: int) -> int | None:
        """Waits for the EXIT of who had a pid last, and returns its status; by then the pid is free."""

        def statuses() -> list[int | None]:
            return [status for kind, of, status in self.seen if (kind, of) == ("EXIT", pid)]

        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: len(statuses()) == self._made[pid])
        return statuses()[-1]

    async def exited(self, status: int) -> int:
        """Runs a process in the container to its end, and returns its pid, which is free."""
        pid = await self.exec("sh", "-c", f"exit {status}")
        assert await self.exit(pid) == status
        return pid

    async def states(self) -> dict[int, str]:
        """Returns what State says, pid by pid."""
        processes = (await self.client.state()).processes
        assert len({one.pid for one in processes}) == len(processes)
        return {one.pid: str(one.state) for one in processes}


# What is done, and what is found.


async def delete_exec(world: World) -> dict[str, Any]:
    """The pid of an exec is a stranger's."""
    pid = await world.exited(7)
    world.strangers.take(pid)
    state = (await world.states())[pid]
    status = await world.client.delete(pid)
    return {
        "state": state,
        "status": status,
        "untouched": untouched(pid),
        "listed": pid in await world.states(),
    }


async def delete_exec_beside_a_child(world: World) -> dict[str, Any]:
    """It is that of a child of this program, which waits for it."""
    pid = await world.exited(7)
    take(pid, status=9)
    status = await world.client.delete(pid)
    # When another is reaped is when others are looked at.
    await world.exited(3)
    return {"status": status, "waited": waited_for(pid)}


async def delete_init(world: World) -> dict[str, Any]:
    """The pids of init and of an exec are strangers', and then init is deleted."""
    pids = [await world.exited(7), world.pid]
    os.kill(world.pid, signal.SIGKILL)
    await world.exit(world.pid)
    for pid in pids:
        world.strangers.take(pid)
    states = await world.states()
    status = await world.client.delete(world.pid)
    return {
        "states": [states[pid] for pid in pids],
        "status": status,
        "untouched": [untouched(pid) for pid in pids],
        "listed": [*await world.states()],
    }


async def resize(world: World) -> dict[str, Any]:
    """The pid of an exec that had a terminal is a stranger's."""
    pid = await world.exec("true", terminal=True)
    await world.exit(pid)
    world.strangers.take(pid)
    try:
        await world.client.resize(pid, 100, 50)
    except shimpy.FailedPreconditionError as error:
        return {"refused": str(error).endswith(f"process {pid} is stopped"), "untouched": untouched(pid)}
    return {"refused": False, "untouched": untouched(pid)}


async def close(world: World) -> dict[str, Any]:
    """The pid of an exec is a stranger's when the program gives up its shim."""
    pid = await world.exited(7)
    world.strangers.take(pid)
    return {"pid": pid}


async def exec_again(world: World) -> dict[str, Any]:
    """Execs are made among the pids of others that are dead and not deleted, until one has one of these."""
    dead: dict[int, int] = {}
    for status in range(1, 100):
        # The last one is always elsewhere: who has the pid of an earlier one is to be listed after it.
        for place in (2000, 3000 + 100 * status):
            next_pid(place)
            pid = await world.exited(status)
            dead.pop(pid, None)
            dead[pid] = status
        next_pid(2000)
        # It has a terminal, which none of the dead has had.
        pid = await world.exec("cat", terminal=True)
        if pid in dead:
            break
        await world.client.delete(pid)
        await world.exit(pid)
    else:
        return {"again": False}
    del dead[pid]
    states = await world.states()
    await world.client.resize(pid, 100, 50)
    found = {
        "again": True,
        "states": [state for other, state in states.items() if other in dead],
        "statuses": {other: await world.client.delete(other) for other in dead} == dead,
        "state": states[pid],
        "last": [*states][-1] == pid,
        "status": await world.client.delete(pid),
        "listed": pid in await world.states(),
    }
    await world.exit(pid)
    return found | {"told": [kind for kind, of, _ in world.seen if of == pid]}


def waited_for(pid: int) -> int | None:
    """Waits for a child that has died, and returns its status; None if somebody else has."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


async def in_a_container(
    scenario: Callable[[World], Awaitable[dict[str, Any]]], container_id: str, bundle: str
) -> dict[str, Any]:
    """Runs a scenario in a container that runs, of a shim in this process."""
    strangers = Stranger()
    async with shimpy.in_process(leave_running=scenario is close) as client, client.events() as events:
        world = World(client, await client.create(container_id, bundle), strangers)
        await client.start()
        listening = asyncio.ensure_future(world.listen(events))
        try:
            found = await scenario(world)
        finally:
            listening.cancel()
            await asyncio.wait([listening])
    if scenario is close:
        found["untouched"] = untouched(found["pid"])
        subprocess.run(["runc", "delete", "--force", container_id], check=True)
    return found


def main() -> None:
    """Runs it as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario")
    parser.add_argument("--id", required=True)
    parser.add_argument("--bundle", required=True)
    arguments = parser.parse_args()
    scenario = globals()[arguments.scenario]
    print(json.dumps(asyncio.run(in_a_container(scenario, arguments.id, arguments.bundle))))


if __name__ == "__main__":
    main()
