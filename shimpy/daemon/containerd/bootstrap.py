"""What containerd asks of a start: on stdin, on the command line and in the environment, by its version."""

from __future__ import annotations

import os

from shimpy.daemon.containerd import wire
from shimpy.daemon.containerd.errors import MalformedError
from shimpy.daemon.containerd.flags import Flags

# Bytes of stdin, as containerd's own shim has it.
MAX_INPUT = 10 << 20

RUNC_OPTIONS = "containerd.runc.v1.Options"
# What clients send to a runtime that they do not know by name.
LINUX_OPTIONS = "containerd.linux.runc.CreateOptions"
TOML_OPTIONS = "runtimeoptions.v1.Options"

# A level of containerd's LogLevel, and all below it.
_DEBUG = -4


class Bootstrap:
    """What a start is asked for.

    Attributes:
        address: of containerd's gRPC socket; a part of what the shim's own socket is named by.
        ttrpc_address: where containerd takes events.
        socket_directory: where the shim's socket is to be; empty for the usual place.
        debug: whether to log much.
        options: the type and the bytes of the runtime's options; empty if there are none.
    """

    def __init__(self, flags: Flags, stdin: bytes) -> None:
        """Reads what containerd sends.

        Until 2.2 stdin holds the runtime's options in an Any, or nothing. Since 2.3 it holds BootstrapParams,
        as which an Any can be read too: of that the first field is a type, never the container's id.

        Args:
            flags: of the command line.
            stdin: all of it.

        Raises:
            MalformedError: it is neither.
        """
        self.address = flags.address
        self.ttrpc_address = os.environ.get("TTRPC_ADDRESS", "")
        self.socket_directory = ""
        self.debug = flags.debug
        self.options = ("", b"")
        fields = wire.read(stdin)
        if wire.text(fields, 1) != flags.id:
            self.options = read_any(fields)
            return
        self.address = wire.text(fields, 6) or self.address
        self.ttrpc_address = wire.text(fields, 5) or self.ttrpc_address
        self.socket_directory = wire.text(fields, 9)
        self.debug = self.debug or wire.int32(fields, 3) <= _DEBUG
        for extension in fields.get(8, ()):
            if isinstance(extension, int):
                raise MalformedError("an extension is a number")
            found = read_any(wire.read(wire.blob(wire.read(extension), 1)))
            if found[0] in (RUNC_OPTIONS, LINUX_OPTIONS, TOML_OPTIONS):
                self.options = found

    @property
    def shim_cgroup(self) -> str:
        """The cgroup that the shim is to be in; empty if it is to stay where it is.

        Raises:
            MalformedError: the options are not understood.
        """
        kind, value = self.options
        if kind == RUNC_OPTIONS:
            return wire.text(wire.read(value), 3)
        if kind == LINUX_OPTIONS:
            return wire.text(wire.read(value), 9)
        if kind != TOML_OPTIONS:
            return ""
        # Of a configuration under a name that containerd does not know; it takes more to read.
        from shimpy.core.runtime.options import RuntimeOptions

        table = wire.read(value)
        return RuntimeOptions.from_toml(wire.blob(table, 3), path=wire.text(table, 2)).shim_cgroup


def read_any(fields: dict[int, list[wire.Value]]) -> tuple[str, bytes]:
    """Returns the type in a google.protobuf.Any, without its host, and the bytes."""
    return wire.text(fields, 1).rpartition("/")[2], wire.blob(fields, 2)


def read_stdin() -> bytes:
    """Reads file descriptor 0 to its end.

    Raises:
        MalformedError: it is longer than 10 MiB.
    """
    data = b""
    while piece := os.read(0, 1 << 16):
        data += piece
        if len(data) > MAX_INPUT:
            raise MalformedError(f"more than {MAX_INPUT} bytes on stdin")
    return data
