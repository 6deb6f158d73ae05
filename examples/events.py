"""Prints what happens to a container: `python events.py ROOTFS`.

Prints:
    CREATE
    START
    EXEC_ADDED
    EXIT with status 7
    EXIT with status 137
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile

import shimpy


async def watch(events: shimpy.EventStream) -> None:
    """Prints each event of the container, up to the exit of its init, which is the last."""
    init = None
    async for event in events:
        ended = event.type is shimpy.EventType.EXIT
        print(f"{event.type} with status {event.exit_status}" if ended else event.type)
        if event.type is shimpy.EventType.CREATE:
            init = event.pid
        if ended and event.pid == init:
            return


async def main(rootfs: str) -> None:
    """Runs one command in a container, and ends it."""
    init = ["sh", "-c", "sleep 1000000 & wait"]
    with tempfile.TemporaryDirectory() as directory:
        bundle = await shimpy.write_bundle(directory, init, rootfs=rootfs)
        async with shimpy.launch() as shim, shim.events() as events:
            watching = asyncio.create_task(watch(events))
            async with shim.container(f"watched-{secrets.token_hex(4)}", bundle) as container:
                await container.run(["sh", "-c", "exit 7"])
            await watching


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
