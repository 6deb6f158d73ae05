"""An OCI runtime that can be made to go wrong, for tests of shimpy and of what embeds it.

A `FakeRuntime` is an executable on disk that stands in front of a real runtime. It is
what `CreateRequest.runtime` names, it notes each command that it is given, and it hands the
command on unchanged unless a fault has been set for it:

    with FakeRuntime() as fake:
        await shim.create(CreateRequest(id="web", bundle=bundle, runtime=fake.path))
        fake.fault("exec", Fails(log=error_line("no space left on device")))
        ...
        assert [call.command for call in fake.calls] == ["create", "exec"]

It is a POSIX shell script that runs nothing but builtins and then becomes the real runtime by
exec, so it costs about a millisecond.
"""

from shimpy.testing.fake import Call, FakeRuntime
from shimpy.testing.faults import Console, Fails, Fault, Hang, PidFile, Prints, Signalled, error_line
from shimpy.testing.shell import COMMANDS, Command

__all__ = [
    "COMMANDS",
    "Call",
    "Command",
    "Console",
    "Fails",
    "FakeRuntime",
    "Fault",
    "Hang",
    "PidFile",
    "Prints",
    "Signalled",
    "error_line",
]
