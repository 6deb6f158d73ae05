"""The options of a sandbox by docker's names, and what is read out of them."""

# Annotations are evaluated here: `takes_sandbox_options` hands them on to functions of other modules.
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from shimpy.cli import option_values
from shimpy.cli.options import rlimit

if TYPE_CHECKING:
    from shimpy.client.sandbox.options import SandboxOptions

Sandboxed = Annotated[
    bool | None,
    typer.Option(
        "--sandbox/--no-sandbox",
        help="Safe for code that nobody trusts, as a directory is by default; or as runc's own spec has it.",
        show_default=False,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", "-m", metavar="BYTES", help="What it may use, such as 512m; 0: any number."),
]
Cpus = Annotated[float | None, typer.Option("--cpus", metavar="NUMBER", help="How many it may use.")]
Pids = Annotated[
    int | None, typer.Option("--pids-limit", metavar="NUMBER", help="Processes and threads; -1: any number.")
]
UserName = Annotated[
    str | None,
    typer.Option("--user", "-u", metavar="USER[:GROUP]", help="By names of its /etc/passwd, or numbers."),
]
UserNamespace = Annotated[
    str | None,
    typer.Option("--userns", metavar="private|host", help="host: its ids are those of this machine."),
]
Volumes = Annotated[
    list[str] | None,
    typer.Option("--volume", "-v", metavar="SOURCE:TARGET[:ro]", help="A file or directory from here."),
]
Mounts = Annotated[
    list[str] | None,
    typer.Option("--mount", metavar="type=bind|tmpfs,source=,target=,readonly", help="The same, or a tmpfs."),
]
Tmpfs = Annotated[
    list[str] | None,
    typer.Option("--tmpfs", metavar="PATH[:size=BYTES]", help="A directory in memory, in place of /tmp."),
]
Network = Annotated[
    str | None,
    typer.Option("--network", metavar="none|host|PATH", help="None, this machine's, or a network namespace."),
]
ReadOnly = Annotated[
    bool | None,
    typer.Option("--read-only/--writable", help="Whether it may write to its root.", show_default=False),
]
Capabilities = Annotated[
    list[str] | None, typer.Option("--cap-add", metavar="NAME", help="A capability, such as NET_RAW.")
]
DroppedCapabilities = Annotated[
    list[str] | None,
    typer.Option("--cap-drop", metavar="ALL|NAME", help="A sandbox has none but those of --cap-add."),
]
SecurityOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--security-opt",
        metavar="seccomp=unconfined|FILE",
        help="Any system call, or a filter as docker or the runtime-spec has it.",
    ),
]
Ulimits = Annotated[
    list[str] | None, typer.Option("--ulimit", metavar="NAME=SOFT[:HARD]", help="A limit of each process.")
]
Devices = Annotated[
    list[str] | None, typer.Option("--device", metavar="PATH", help="A device of this machine's.")
]
Hostname = Annotated[str | None, typer.Option("--hostname", metavar="NAME", help="Its own name for itself.")]
Init = Annotated[
    bool | None,
    typer.Option("--init/--no-init", help="Whether tini starts its program.", show_default=False),
]


def sandbox_options(
    *,
    memory: Memory = None,
    cpus: Cpus = None,
    pids_limit: Pids = None,
    userns: UserNamespace = None,
    volume: Volumes = None,
    mount: Mounts = None,
    tmpfs: Tmpfs = None,
    network: Network = None,
    read_only: ReadOnly = None,
    cap_add: Capabilities = None,
    cap_drop: DroppedCapabilities = None,
    security_opt: SecurityOptions = None,
    ulimit: Ulimits = None,
    device: Devices = None,
    hostname: Hostname = None,
    init: Init = None,
    sandbox: Sandboxed = None,
) -> "SandboxOptions":
    """Returns the options that were given; those that were not are left out."""
    binds = [option_values.volume(text) for text in volume or ()]
    places = dict(option_values.tmpfs(text) for text in tmpfs or ())
    for text in mount or ():
        found = option_values.mount(text)
        if isinstance(found, tuple):
            places |= [found]
        else:
            binds.append(found)
    options: dict[str, Any] = {
        "sandbox": sandbox,
        "cpus": cpus,
        "mounts": binds or None,
        "tmpfs": places or None,
        "network": network,
        "read_only": read_only,
        "capabilities": option_values.capabilities(cap_add or (), cap_drop or (), sandbox=sandbox),
        "rlimits": [rlimit(text, "--ulimit") for text in ulimit or ()] or None,
        "devices": [option_values.device(text) for text in device or ()] or None,
        "hostname": hostname,
        "init": init,
        **option_values.security(security_opt or ()),
    }
    options = {name: value for name, value in options.items() if value is not None}
    if memory is not None:
        options["memory"] = option_values.size("--memory", memory) or None
    if pids_limit is not None:
        options["pids"] = pids_limit if pids_limit > 0 else None
    if userns is not None:
        if userns not in ("private", "host"):
            raise typer.BadParameter(f"--userns: {userns!r} is neither private nor host")
        options["userns"] = userns == "private"
    # Its fields are checked where they are used.
    return cast("SandboxOptions", options)


def takes_sandbox_options(command: Callable[..., int]) -> Callable[..., int]:
    """Gives a command the options of `sandbox_options`, in place of its argument `options`."""
    shared = inspect.signature(sandbox_options).parameters
    own = inspect.signature(command)

    @functools.wraps(command)
    def with_options(**given: Any) -> int:
        options = sandbox_options(**{name: given.pop(name) for name in shared})
        return command(**given, options=options)

    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += shared.values() if parameter.name == "options" else [parameter]
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    with_options.__annotations__ = {**annotations, "return": own.return_annotation}
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # what typer reads
    return with_options


class RootFiles:
    """The files of a root filesystem that no container runs from yet.

    Args:
        root: its directory, or a bundle.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def read_file(self, path: str, *, limit: int) -> bytes:
        """Returns what a file of it holds.

        Args:
            path: of the file, inside; links lead to no other place than inside.
            limit: bytes at most.

        Raises:
            NotFoundError: it is not there.
        """
        from shimpy.client.bundle_config import read_config
        from shimpy.core.rootfs.syscalls import open_in_root
        from shimpy.errors import from_oserror

        root = self._root
        if (root / "config.json").exists():
            root /= str((read_config(root).get("root") or {}).get("path", "rootfs"))
        try:
            directory = os.open(root, os.O_PATH | os.O_DIRECTORY)
            try:
                fd = open_in_root(directory, path, os.O_RDONLY | os.O_NONBLOCK)
            finally:
                os.close(directory)
        except OSError as error:
            raise from_oserror(error, f"{root}{path}") from error
        try:
            return os.read(fd, limit)
        finally:
            os.close(fd)
