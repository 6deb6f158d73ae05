"""What the shim passes on of a process without a terminal, whether it has started that or an earlier shim."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from shimpy.core.fd_store import FdStore
from shimpy.core.stdio.output_pipe import OutputPipe
from shimpy.core.stdio.stdin_pump import StdinPump
from shimpy.errors import FailedPreconditionError

if TYPE_CHECKING:
    from shimpy.core.stdio.log_program import Logger


class Flows:
    """What `PlainIO` and `RestoredIO` have in common; see `ProcessIO`.

    Args:
        kept: ends what is kept of its stdio.
    """

    console_socket: str | None = None

    def __init__(self, kept: ExitStack) -> None:
        self._kept = kept
        self._pump: StdinPump | None = None
        self._relays: list[OutputPipe] = []
        self._logger: Logger | None = None

    def resize(self, width: int, height: int) -> None:
        """See `ProcessIO.resize`."""
        raise FailedPreconditionError("the process has no terminal")

    def close_stdin(self) -> None:
        """See `ProcessIO.close_stdin`."""
        if self._pump is not None:
            self._pump.release_hold()

    def store(self, store: FdStore, key: str) -> None:
        """See `ProcessIO.store`."""
        if self._pump is not None:
            self._pump.store(store, key)

    def hand_over(self, store: FdStore, key: str) -> dict[str, Any]:
        """See `ProcessIO.hand_over`; of one that is not started nothing is needed but its FIFOs."""
        if self._pump is not None:
            self._pump.hand_over(store, key)
        relays = [relay.hand_over(store, f"{key}-{number}") for number, relay in enumerate(self._relays)]
        logger = None if self._logger is None else self._logger.hand_over(store, key)
        return {"relays": relays, "logger": logger}

    def process_exited(self) -> None:
        """See `ProcessIO.process_exited`."""
        if self._pump is not None:
            self._pump.stop()
        for relay in self._relays:
            relay.process_exited()

    async def drain(self, timeout: float) -> None:
        """See `ProcessIO.drain`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for relay in self._relays:
                    await relay.drained.wait()

    async def finish(self) -> None:
        """See `ProcessIO.finish`."""
        if self._logger is not None:
            await self._logger.aclose()

    def close(self) -> None:
        """See `ProcessIO.close`."""
        self._kept.close()
        if self._logger is not None:
            self._logger.close_outputs()
