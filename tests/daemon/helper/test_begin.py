"""A process that is begun as a helper, seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from shimpy.daemon.helper import begin, packets

# A module whose `main` a helper can run.
_MODULE = """\
import os, sys
from shimpy.daemon.helper import begin, log, loop, packets

def main(arguments):
    begin.set_name(arguments[0])
    control = packets.adopt(0)
    packet = packets.receive(control)
    begin.detach(log=packet.fds.pop(), keep=[0])
    log.write("info", "test", "it\\nworks")
    modules = ",".join(sorted(sys.modules))
    packets.send(control, "\\n".join([
        str(os.getsid(0) == os.getpid()), os.getcwd(), open("/proc/self/comm").read().strip(),
        " ".join(sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in range(5)
                        if os.path.lexists(f"/proc/self/fd/{fd}"))),
        modules, os.environ.get("PYTHONPATH", ""),
    ]).encode())
    return 7
"""


def run(tmp_path: Path) -> tuple[list[str], int, str]:
    """Begins that module; returns what it says of itself, its exit status and its log."""
    (tmp_path / "helped.py").write_text(_MODULE)
    control, theirs = packets.pair()
    arguments = begin.command("helped", "a-long-name-for-it")
    # What a user has in PYTHONPATH is no part of it: this is how the test's module is found.
    arguments[4] += f":{tmp_path}"
    with (tmp_path / "log").open("wb") as file:
        process = subprocess.Popen(
            arguments, stdin=theirs.fileno(), cwd=tmp_path, env={**os.environ, "PYTHONPATH": "/nowhere"}
        )
        packets.send(control, b"begin", [file.fileno()])
    theirs.close()
    said = packets.receive(control).data.decode().splitlines()
    control.close()
    return said, process.wait(), (tmp_path / "log").read_text()


def test_a_helper_stands_on_its_own_feet(tmp_path: Path) -> None:
    said, status, log = run(tmp_path)

    assert said[:4] == ["True", "/", "a-long-name-for", f"/dev/null {tmp_path}/log socket"]
    assert status == 7
    assert log.endswith(" info test: it\\x0aworks\n")


def test_a_helper_imports_next_to_nothing(tmp_path: Path) -> None:
    """Each of these costs it a tenth of the memory that it may have."""
    said, _, _ = run(tmp_path)

    loaded = set(said[4].split(","))
    assert loaded & {"asyncio", "dataclasses", "enum", "json", "logging", "re", "selectors", "signal", "site",
                     "socket", "subprocess", "threading", "typing"} == set()  # fmt: skip


def test_the_command_names_this_interpreter_and_what_it_can_import() -> None:
    command = begin.command("a.module", "argument")
    program = "import json,sys; import betterproto; print(json.dumps(sys.argv[1:]))"
    done = subprocess.run(
        [*command[:3], "-c", f"import sys; sys.path += {command[4].split(':')!r}; {program}", *command[5:]],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip

    assert os.path.isabs(command[0])
    assert json.loads(done.stdout) == ["a.module", "argument"]
