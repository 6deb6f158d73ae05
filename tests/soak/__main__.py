"""`python -m tests.soak`: random containers until the time is up; exit status 1 if anything differs."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

from tests.soak.soak import Soak


def main() -> int:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    minutes = float(os.environ.get("SHIMPY_SOAK_MINUTES", "60"))
    parser.add_argument("--minutes", type=float, default=minutes, help="how long (default: %(default)g)")
    parser.add_argument("--rounds", type=int, help="how many containers, in place of how long")
    parser.add_argument("--clients", type=int, default=4, help="how many at once (default: %(default)s)")
    parser.add_argument("--seed", help="of an earlier run, to make its choices again")
    parser.add_argument("--first", type=int, default=1, help="with which container to begin (default: 1)")
    arguments = parser.parse_args()
    seconds = float("inf") if arguments.rounds else arguments.minutes * 60
    soak = Soak(seed=arguments.seed, clients=arguments.clients)
    asyncio.run(_run(soak, seconds=seconds, rounds=arguments.rounds, first=arguments.first))
    return 1 if soak.differences else 0


async def _run(soak: Soak, *, seconds: float, rounds: int | None, first: int) -> None:
    """Runs it; the first Ctrl-C ends it in order, with its report, the second at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        soak.stop()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, stop)
    await soak.run(seconds=seconds, rounds=rounds, first=first)


if __name__ == "__main__":
    sys.exit(main())
