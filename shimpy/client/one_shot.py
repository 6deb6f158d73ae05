"""One command in a container of its own, from nothing to its result."""

from __future__ import annotations

import os
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimpy.client.advice import advised
from shimpy.client.arguments import check_command, check_kinds, check_paths
from shimpy.client.bundle import compose_bundle, derive_bundle
from shimpy.client.bundle_config import wants_terminal
from shimpy.client.deadline import check_output_limit
from shimpy.client.embed import in_process
from shimpy.client.program import program
from shimpy.client.rpc import seconds
from shimpy.client.run import turn
from shimpy.core.rootfs.mapped_roots import detach
from shimpy.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from typing import Unpack

    import anyio

    from shimpy.client.client import ShimClient
    from shimpy.client.model import Result, StrPath
    from shimpy.client.sandbox.options import SandboxOptions
    from shimpy.core.hooks.interface import Hooks

# Bytes of each output that are kept by default.
OUTPUT_LIMIT: Final = 16 << 20


async def run(
    root: StrPath,
    args: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: StrPath | None = None,
    input: bytes | None = None,
    timeout: float | None = None,
    output_limit: int | None = OUTPUT_LIMIT,
    limiter: anyio.CapacityLimiter | None = None,
    runtime: str = "runc",
    hooks: Hooks | Iterable[Hooks] = (),
    **options: Unpack[SandboxOptions],
) -> Result:
    """Runs one command in a container that is made for it, and returns how it went.

    For example:

        result = await shimpy.run("/srv/rootfs", ["python3", "-c", code], timeout=5)

    The container of a directory is a sandbox for code that nobody trusts; a bundle runs as it is written.
    *options* change what they name, `sandbox=False` all of the former.

    Args:
        root: a directory to be the container's `/`, or a bundle.
        args: the program and its arguments; None: what the bundle says.
        env: variables that are added to those of the bundle.
        cwd: the directory to start in, inside the container; None: as the bundle says, else `/`.
        input: what the command reads; None: nothing.
        timeout: seconds, from the creation of the container on, until the command is killed with
            all that it started and what it has written is returned.
        output_limit: bytes that are kept of each output, 16 MiB by default; the rest is read and thrown
            away. None: all.
        limiter: how many may run at once, of all that share it.
        runtime: the OCI runtime, a name on PATH or an absolute path.
        hooks: as for `shimpy.in_process`, which this event loop must allow then.
        options: see `shimpy.SandboxOptions`.

    Raises:
        TypeError: there is no such option, or an argument is of the wrong type.
        ValueError: a limit is out of range.
        ShimError: the container could not be made; the class says what kind of reason it was.
    """
    check_kinds(str, runtime=runtime)
    seconds(timeout)
    check_output_limit(output_limit)
    async with (
        turn(limiter),
        temporary_bundle(root, args, env=env, cwd=cwd, **options) as bundle,
        advised(runtime),
        own_shim(runtime, hooks) as client,
    ):
        return await client.run(new_id(), bundle, input=input, timeout=timeout, output_limit=output_limit)


@asynccontextmanager
async def own_shim(runtime: str, hooks: Hooks | Iterable[Hooks] = ()) -> AsyncIterator[ShimClient]:
    """Gives a shim for the time of the block: in this process, or where that can have none in one of its own.

    Those of an event loop that is not asyncio's are forked from one process while there are several.

    Args:
        runtime: the OCI runtime, a name on PATH or an absolute path.
        hooks: the shim's; with any it is in this process.

    Raises:
        FailedPreconditionError: this process can have no shim, and there are hooks.
    """
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(in_process(runtime=runtime, hooks=hooks))
        except FailedPreconditionError:  # another event loop than asyncio's, or SIGCHLD is ignored
            if hooks != ():
                raise
            from shimpy.client.shared_launcher import shared_launcher

            launcher = await stack.enter_async_context(shared_launcher())
            client = await stack.enter_async_context(launcher.launch(runtime=runtime))
        yield client


def new_id() -> str:
    """Returns a name that no other container has."""
    return f"shimpy-{secrets.token_hex(8)}"


@asynccontextmanager
async def temporary_bundle(
    root: StrPath,
    args: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: StrPath | None = None,
    terminal: bool = False,
    **options: Unpack[SandboxOptions],
) -> AsyncIterator[Path]:
    """Gives a bundle for the time of the block: *root* itself, if it is one that says just this.

    For example:

        async with (
            shimpy.temporary_bundle("/srv/rootfs", ["sleep", "infinity"], memory=1 << 30) as bundle,
            shimpy.in_process() as shim,
            shim.container("job", bundle) as container,
        ):
            ...

    Args:
        root: a directory to be the container's `/`, or a bundle.
        args: what init runs; None: what the bundle says.
        env: variables that are added to those of the bundle.
        cwd: the directory that init starts in, inside the container; None: as the bundle says, else `/`.
        terminal: init gets a terminal.
        options: see `shimpy.SandboxOptions`.

    Raises:
        TypeError: there is no such option, or an argument is of the wrong type.
        ValueError: a limit is out of range.
        ShimError: as `shimpy.write_bundle` has it.
    """
    check_command(args, env, cwd)
    check_paths(root=root)
    check_kinds(bool, terminal=terminal)
    origin = Path(root)
    is_bundle = os.path.exists(origin / "config.json")
    changed = args is not None or env or cwd is not None or options
    if is_bundle and not changed and wants_terminal(origin) == terminal:
        yield origin
        return
    if not is_bundle and args is None:
        raise InvalidArgumentError(f"args: {os.fspath(root)} is not a bundle; give a command")
    with program.folder() as directory:
        if is_bundle:
            ids = derive_bundle(directory, origin, args, env=env, cwd=cwd, terminal=terminal, options=options)
        else:
            ids = compose_bundle(
                Path(directory),
                args,
                rootfs=origin,
                env=env,
                cwd=cwd,
                terminal=terminal,
                options=options,
                temporary=True,
            )
        try:
            yield Path(directory)
        finally:
            if ids is not None:
                if directory in program.kept:
                    ids.keep()
                else:
                    detach(directory)
                    ids.release()
