"""One command in a container of its own, from nothing to its result."""

from __future__ import annotations

import os
import secrets
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from shimpy.client.bundle import derive_bundle, wants_terminal, write_bundle
from shimpy.client.embed import in_process
from shimpy.client.program import program
from shimpy.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import anyio

    from shimpy.client.client import ShimClient
    from shimpy.client.model import Result, StrPath


async def run(
    root: StrPath,
    args: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    input: bytes | None = None,
    timeout: float | None = None,
    output_limit: int | None = None,
    limiter: anyio.CapacityLimiter | None = None,
    runtime: str = "runc",
) -> Result:
    """Runs one command in a container that is made for it, and returns how it went.

    Example:
        result = await shimpy.run("/srv/rootfs", ["python3", "-c", code], timeout=5)

    Args:
        root: a directory to be the container's `/`, or a bundle.
        args: the program and its arguments; None: what the bundle says.
        env: variables that are added to those of the bundle.
        cwd: the directory to start in, inside the container; None: as the bundle says, else `/`.
        input: what the command reads; None: nothing.
        timeout: seconds, from the creation of the container on, until the command is killed with
            all that it started and what it has written is returned.
        output_limit: bytes that are kept of each output; the rest is read and thrown away.
        limiter: how many may run at once, of all that share it.
        runtime: the OCI runtime, a name on PATH or an absolute path.

    Raises:
        ShimError: the container could not be made; the class says what kind of reason it was.
    """
    async with (
        limiter or nullcontext(),
        prepared(root, args, env=env, cwd=cwd, runtime=runtime) as bundle,
        own_shim(runtime) as client,
    ):
        return await client.run(new_id(), bundle, input=input, timeout=timeout, output_limit=output_limit)


@asynccontextmanager
async def own_shim(runtime: str) -> AsyncIterator[ShimClient]:
    """Gives a shim for the time of the block: in this process, or where that can have none in one of its own.

    Those of an event loop that is not asyncio's are forked from one process while there are several.

    Args:
        runtime: the OCI runtime, a name on PATH or an absolute path.
    """
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(in_process(runtime=runtime))
        except FailedPreconditionError:  # another event loop than asyncio's, or SIGCHLD is ignored
            from shimpy.client.shared_launcher import shared_launcher

            launcher = await stack.enter_async_context(shared_launcher())
            client = await stack.enter_async_context(launcher.launch(runtime=runtime))
        yield client


def new_id() -> str:
    """Returns a name that no other container has."""
    return f"shimpy-{secrets.token_hex(8)}"


@asynccontextmanager
async def prepared(
    root: StrPath,
    args: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    terminal: bool = False,
    writable: bool = False,
    runtime: str = "runc",
) -> AsyncIterator[Path]:
    """Gives a bundle for the time of the block: *root* itself if it is one that says just this.

    The arguments are those of `run`; *terminal* gives the command one, *writable* lets it
    write to a *root* that is not a bundle.
    """
    origin = Path(root)
    is_bundle = os.path.exists(origin / "config.json")
    if is_bundle and args is None and not env and cwd is None and wants_terminal(origin) == terminal:
        yield origin
        return
    if not is_bundle and args is None:
        raise InvalidArgumentError(f"args: {os.fspath(root)} is not a bundle; give a command")
    with program.folder() as directory:
        if is_bundle:
            yield derive_bundle(directory, origin, args, env=env, cwd=cwd, terminal=terminal)
        else:
            yield await write_bundle(
                directory,
                args,
                rootfs=origin,
                env=env,
                cwd=cwd,
                terminal=terminal,
                writable=writable,
                runtime=runtime,
            )
