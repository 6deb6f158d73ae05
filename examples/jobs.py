"""Runs jobs in parallel, without a process for each shim: `python jobs.py ROOTFS`.

Prints:
    job 0: exit status 0
    job 1: exit status 1
    job 2: exit status 2
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile

import shimpy


async def job(number: int, rootfs: str) -> int:
    """Runs one job in a container of its own and returns its exit status."""
    with tempfile.TemporaryDirectory() as directory:
        bundle = await shimpy.write_bundle(directory, ["sh", "-c", f"exit {number}"], rootfs=rootfs)
        async with shimpy.in_process() as shim:
            result = await shim.run(f"job-{secrets.token_hex(4)}", bundle, timeout=60)
            return result.exit_status


async def main(rootfs: str) -> None:
    """Runs three jobs at once."""
    statuses = await asyncio.gather(*(job(number, rootfs) for number in range(3)))
    for number, status in enumerate(statuses):
        print(f"job {number}: exit status {status}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
