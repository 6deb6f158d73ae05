"""What precedes the create of a container: hooks are asked, and its init's stdio is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from shimpy.core.container.context import Context
from shimpy.core.container.create import Create, CreateOptions
from shimpy.core.container.process import Process
from shimpy.core.model import Policy, StdioPaths
from shimpy.core.runtime.changed_bundle import changed_bundle

if TYPE_CHECKING:
    from shimpy.core.hooks.container_hooks import Hooked

# `prepare_create` once all but the last argument is known.
Prepare = Callable[..., tuple[Create, Process]]
# Does it, with what `prepare_create` returned, and returns init.
RunCreate = Callable[[Create, Process], Awaitable[Process]]


def prepare_create(
    context: Context,
    stdio: StdioPaths,
    policy: Policy,
    options: CreateOptions,
    on_exit: Callable[[Process], None],
    on_death: Callable[[], None],
    hooked: Hooked | None = None,
) -> tuple[Create, Process]:
    """Takes a container's id, and opens what its init reads and writes.

    Args:
        context: the container's.
        stdio: what its client wants for init.
        policy: how init lives.
        options: how the runtime makes the container.
        on_exit: see `Process`.
        on_death: see `Process`.
        hooked: what hooks know of init.

    Raises:
        ShimError: the id is taken, or the stdio cannot be used.
    """
    command = options.command(context.runtime, context.bundle)
    create = Create(context.id, context.bundle, context.runtime, context.reaper, command, context.journal)
    try:
        spec = context.bundle.process
        return create, context.open_process(stdio, spec, policy, on_exit, on_death, hooked=hooked)
    except BaseException:
        create.release()
        raise


@asynccontextmanager
async def hooked_create(context: Context, held: ExitStack) -> AsyncIterator[Hooked | None]:
    """Asks the hooks, if there are some, and gives the context the bundle that they want.

    They are told if the block fails.

    Args:
        context: the container's.
        held: gets what to give back when the container is deleted.

    Yields:
        What the hooks know of init.

    Raises:
        ShimError: they refused, or there is no place for a changed configuration.
    """
    if (hooks := context.hooks) is None:
        yield None
        return
    spec, hooked = await hooks.create(context.bundle)
    with ExitStack() as undo:
        try:
            if spec != context.bundle.spec:
                context.bundle, remove = changed_bundle(context.bundle, spec)
                undo.callback(remove)
            yield hooked
        except BaseException as error:
            hooks.failed(hooked, error)
            raise
        held.callback(undo.pop_all().close)
