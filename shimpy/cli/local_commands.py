"""The commands that need no server: serve, run, bundle."""

# Annotations are evaluated here, for `takes_sandbox_options`.
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shimpy.cli import output
from shimpy.cli.attach import attach, attach_terminal, terminal_size, warn_without_terminal
from shimpy.cli.options import (
    TAKES_PROGRAM,
    Cwd,
    Env,
    Interactive,
    Json,
    Runtime,
    Terminal,
    Timeout,
    environment,
)
from shimpy.cli.sandbox_options import RootFiles, UserName, takes_sandbox_options
from shimpy.cli.users import find_user
from shimpy.daemon import import_stubs

if TYPE_CHECKING:
    from shimpy.cli.options import Perform
    from shimpy.client.sandbox.options import SandboxOptions


def add_to(app: typer.Typer, perform: "Perform") -> None:
    """Adds the commands."""

    @app.command(
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )
    def serve(context: typer.Context) -> int:
        """Serve one container on a socket; the options are those of python -m shimpy."""
        from shimpy.daemon.main import main

        return main(context.args)

    @app.command(context_settings=TAKES_PROGRAM)
    @takes_sandbox_options
    def run(
        root: Annotated[Path, typer.Argument(metavar="ROOT", help="A directory to be its /, or a bundle.")],
        args: Annotated[
            list[str] | None, typer.Argument(metavar="ARG", help="The program and its arguments.")
        ] = None,
        *,
        tty: Terminal = False,
        interactive: Interactive = False,
        env: Env = None,
        cwd: Cwd = None,
        user: UserName = None,
        options: "SandboxOptions",
        name: Annotated[str | None, typer.Option("--name", help="The container's id.")] = None,
        _rm: Annotated[bool, typer.Option("--rm", help="So it is always: nothing of it stays.")] = True,
        timeout: Timeout = None,
        runtime: Runtime = "runc",
        quiet: Annotated[
            bool,
            typer.Option(
                "--quiet",
                "-q",
                envvar="SHIMPY_QUIET",
                help="Do not warn of a runtime whose containers can be escaped from.",
            ),
        ] = False,
    ) -> int:
        """Run one command in a container of its own; its exit status is the command's."""
        if tty and interactive:
            warn_without_terminal()
        with import_stubs.imports():
            from shimpy.client.advice import asked
            from shimpy.client.one_shot import new_id, own_shim, temporary_bundle
            from shimpy.client.rpc import seconds

        async def work() -> int:
            seconds(timeout)  # before anything is made that would have to be undone
            variables = environment(env)
            if tty and "TERM" in os.environ:
                variables = {"TERM": os.environ["TERM"], **variables}
            container = name or new_id()
            if user is not None:
                options["user"] = await find_user(user, RootFiles(root))
            async with (
                temporary_bundle(
                    root,
                    args or None,
                    env=variables,
                    cwd=cwd,
                    terminal=tty,
                    **options,
                ) as bundle,
                nullcontext() if quiet else asked(runtime) as advice,
                own_shim(runtime) as client,
            ):

                async def warn() -> None:
                    if advice is not None and (said := await advice()):
                        output.complain(f"warning: {said}")

                if tty:
                    width, height = terminal_size()
                    async with client.pty(
                        container, bundle, width=width, height=height, timeout=timeout
                    ) as terminal:
                        await warn()
                        return await attach_terminal(terminal, interactive=interactive)
                async with client.stream(container, bundle, stdin=interactive, timeout=timeout) as command:
                    await warn()
                    return await attach(command, interactive=interactive)

        return perform(work(), attached=True)

    @app.command()
    @takes_sandbox_options
    def bundle(
        path: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make.")],
        args: Annotated[list[str] | None, typer.Argument(metavar="ARG", help="What init runs.")] = None,
        *,
        rootfs: Annotated[
            Path | None, typer.Option("--rootfs", help="The directory to be its /; default: DIR/rootfs.")
        ] = None,
        env: Env = None,
        cwd: Cwd = None,
        tty: Terminal = False,
        user: UserName = None,
        options: "SandboxOptions",
        json: Json = False,
    ) -> int:
        """Write a bundle: of a sandbox, unless the options say otherwise."""
        from shimpy.client.bundle import write_bundle

        async def work() -> None:
            if user is not None:
                options["user"] = await find_user(user, RootFiles(rootfs or path / "rootfs"))
            made = await write_bundle(
                path,
                args or None,
                rootfs=rootfs,
                env=environment(env),
                cwd=cwd,
                terminal=tty,
                **options,
            )
            if json:
                output.as_json({"bundle": str(made)})
            else:
                sys.stdout.write(f"{made}\n")

        return perform(work())
