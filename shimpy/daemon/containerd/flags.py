"""The command line, as containerd writes it: with Go's flags (https://pkg.go.dev/flag)."""

from __future__ import annotations

from shimpy.daemon.containerd.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_STRINGS = ("namespace", "id", "bundle", "address", "publish-binary", "socket", "debug-socket")
_SWITCHES = ("debug", "info", "v")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class Flags:
    """What the command line says.

    Attributes:
        namespace: containerd's, in which the container is.
        id: the container.
        bundle: its bundle; empty if that is the current directory.
        address: of containerd's gRPC socket.
        debug: whether to log much.
        info: asked to tell about the runtime.
        version: asked for the version.
        action: start, delete, or nothing.
        options: what stands before the action.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        """Reads the arguments.

        Args:
            arguments: what stands behind the program's name.

        Raises:
            UsageError: they are not understood.
        """
        told = dict.fromkeys(_STRINGS, "")
        switches = dict.fromkeys(_SWITCHES, False)
        left = list(arguments)
        # A dash alone is not a flag, two end them.
        while left and left[0].startswith("-") and left[0] != "-":
            argument = left.pop(0)
            if argument == "--":
                break
            name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
            if name in switches:
                if equals and value not in _TRUE + _FALSE:
                    raise UsageError(f"-{name}: {value!r} is neither true nor false")
                switches[name] = not equals or value in _TRUE
            elif name in told:
                if not equals:
                    if not left:
                        raise UsageError(f"-{name}: an argument is missing")
                    value = left.pop(0)
                told[name] = value
            else:
                raise UsageError(f"there is no flag {argument!r}")
        self.namespace = told["namespace"]
        self.id = told["id"]
        self.bundle = told["bundle"]
        self.address = told["address"]
        self.debug = switches["debug"]
        self.info = switches["info"]
        self.version = switches["v"]
        self.action = left[0] if left else ""
        self.options = list(arguments)[: len(arguments) - len(left)]

    def check_names(self) -> None:
        """Refuses a namespace or an id that is missing, or that would be a path.

        Raises:
            UsageError: it is.
        """
        for name, value in (("namespace", self.namespace), ("id", self.id)):
            if not value:
                raise UsageError(f"-{name} is missing")
            if "/" in value or value in (".", "..") or value.startswith("-") or not value.isprintable():
                raise UsageError(f"-{name}: {value!r} is not a name")
