"""The commands that are about all of the machine: ps, prune."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from shimpy.cli import output
from shimpy.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimpy.cli.options import Perform
    from shimpy.client.machine import ListedContainer


def add_to(app: typer.Typer, perform: Perform) -> None:
    """Adds the commands."""

    @app.command()
    def ps(*, json: Json = False) -> int:
        """List the containers that run, and what is left of others."""
        from shimpy.client.machine import list_containers

        async def work() -> None:
            _show(list_containers(), json=json)

        return perform(work())

    @app.command()
    def prune(
        *,
        running: Annotated[
            bool, typer.Option("--running", help="Also containers that run and whose shim has died.")
        ] = False,
        json: Json = False,
    ) -> int:
        """Remove what programs and shims that are dead have left; nothing of one that is alive."""
        from shimpy.client.machine import prune

        async def work() -> int:
            found = await prune(running=running)
            _show(found, json=json)
            return 1 if any(one.state == "stale" for one in found) else 0

        return perform(work())


def _show(containers: Sequence[ListedContainer], *, json: bool) -> None:
    if json:
        output.as_json([asdict(container) for container in containers])
    else:
        rows = [(one.id, one.pid or "-", one.state, one.owner, one.bundle) for one in containers]
        output.table(("CONTAINER", "PID", "STATE", "OWNER", "BUNDLE"), rows)
