"""`shimpy containerd …`: being a shim of containerd's."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shimpy.cli import output
from shimpy.cli.options import Json, Perform
from shimpy.daemon.containerd import configuration, doctor
from shimpy.daemon.containerd.install import DEFAULT_NAME, DEFAULT_PREFIX, install, uninstall

Prefix = Annotated[str, typer.Option("--prefix", metavar="DIR", help="The command goes to DIR/bin.")]


def add_to(app: typer.Typer, perform: Perform) -> None:
    """Adds the commands."""
    commands = typer.Typer(help="Run containerd's containers.", no_args_is_help=True)
    app.add_typer(commands, name="containerd")
    _add_install(commands, perform)
    _add_uninstall(commands, perform)
    _add_doctor(commands)


def _add_install(app: typer.Typer, perform: Perform) -> None:
    @app.command("install")
    def _install(
        *,
        prefix: Prefix = DEFAULT_PREFIX,
        names: Annotated[
            list[str] | None,
            typer.Option("--name", metavar="NAME", help="shimpy, or runc, which replaces containerd's own."),
        ] = None,
    ) -> int:
        """Put the shim where containerd finds it, and print what to configure."""
        chosen = names or [DEFAULT_NAME]

        async def work() -> None:
            for path in install(prefix, chosen):
                sys.stdout.write(f"{path}\n")
            sys.stdout.write(_advice(chosen))

        return perform(work())


def _add_uninstall(app: typer.Typer, perform: Perform) -> None:
    @app.command("uninstall")
    def _uninstall(
        *,
        prefix: Prefix = DEFAULT_PREFIX,
        names: Annotated[
            list[str] | None, typer.Option("--name", metavar="NAME", help="Only this one; may be repeated.")
        ] = None,
    ) -> int:
        """Remove what install has written; containers that run go on."""

        async def work() -> None:
            for path in uninstall(prefix, names or ()):
                sys.stdout.write(f"{path}\n")

        return perform(work())


def _add_doctor(app: typer.Typer) -> None:
    @app.command("doctor")
    def _doctor(
        *,
        runtime: Annotated[str, typer.Option("--runtime", metavar="NAME", help="The OCI runtime.")] = "runc",
        shim: Annotated[
            str, typer.Option("--shim", metavar="NAME", help="The command that containerd looks for.")
        ] = "containerd-shim-shimpy-v2",
        json: Json = False,
    ) -> int:
        """Say what this machine has and lacks; exit with 1 if containers cannot run."""
        found = doctor.examine(runtime, shim)
        if json:
            output.as_json([finding._asdict() for finding in found])
        else:
            output.table(("", "WHAT", "FOUND"), found)
        return int(any(finding.verdict == "missing" for finding in found))


def _advice(names: list[str]) -> str:
    version = doctor.containerd_version()
    config = configuration.containerd_config(
        names,
        None if version is None else version[0],
        restrict_oom_score=not configuration.may_lower_oom_scores(),
    )
    classes = "---\n".join(configuration.runtime_class(name) for name in names)
    return (
        f"\nNow `ctr run --runtime io.containerd.{names[0]}.v2 ...` uses it; so does Kubernetes with this\n"
        f"in /etc/containerd/config.toml, after `systemctl restart containerd`:\n\n{config}\n"
        f"and this in the cluster, for pods with `runtimeClassName: {names[0]}`:\n\n{classes}"
    )
