"""Runs snippets of shell, as a service that executes untrusted code would: `python sandbox.py ROOTFS`.

Prints:
    exit status 0: 42
    exit status 3: no output
    killed at the timeout: started
"""

from __future__ import annotations

import asyncio
import sys

import shimpy

SNIPPETS = ("echo $((6 * 7))", "exit 3", "echo started; sleep 60 & sleep 60")


async def main(rootfs: str) -> None:
    """Runs each snippet in a container of its own."""
    for snippet in SNIPPETS:
        result = await shimpy.run(rootfs, ["sh", "-c", snippet], timeout=10, output_limit=1 << 16)
        how = "killed at the timeout" if result.timed_out else f"exit status {result.exit_status}"
        print(f"{how}:", result.stdout.decode().strip() or "no output")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
