"""Tests on what most users have: Debian 12's own kernel, systemd as pid 1, and version 2 of cgroups alone.

`make vm` makes the disk of such a machine from Debian's packages (two minutes, once; it is kept in `.vm`
until what it was made from changes), boots it in QEMU with no network, and runs in it the tests for which the
kernel and its cgroups matter: first on runc, then on crun. What they print appears here as it comes, and the
exit status is theirs.

* `make vm ARGS="-k oom -x"`: ARGS is pytest's, as with `make test`.
* `make vm ARGS=tests/services/shim_v1/test_faults.py`: other tests than the usual ones.
* `make vm ARGS="--runtime crun"`: one runtime only.

The processor is emulated: the machine needs no /dev/kvm, and is some ten times slower than the one it runs
on. The tests wait as much longer (`SHIMPY_TIME_SCALE`). It is made anew for each run and reads a copy of
this directory, so nothing that the tests do reaches this one.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence

from tests.vm import machine

# What runs if ARGS names no file.
SELECTION = (
    "tests/core/cgroup",
    "tests/daemon/keeper",
    "tests/services/shim_v1/test_oom.py",
    "tests/services/shim_v1/test_lifecycle.py",
    "tests/services/shim_v1/test_exec.py",
    "tests/services/shim_v1/test_exec_delete.py",
    # With systemd's cgroups.
    *(
        f"tests/daemon/containerd/test_{name}.py"
        for name in ("cri", "ctr_metrics", "ctr_run", "ctr_shim", "ctr_stock", "ctr_task", "hooks")
    ),
)

# How many times, for what the tests wait for.
SLOWER = 10


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--runtime", choices=("runc", "crun"), action="append", help="run the tests on this one only"
    )
    arguments, pytest_arguments = parser.parse_known_args()
    if platform.machine() != "x86_64":
        sys.exit(f"make vm needs an x86-64 machine, and this is {platform.machine()}")
    if os.geteuid() != 0:
        sys.exit("make vm needs root, to make the machine's disk")
    if lacking := [name for name in ("qemu-system-x86_64", "mmdebstrap", "mke2fs") if not shutil.which(name)]:
        sys.exit(f"make vm needs {', '.join(lacking)}")
    return machine.run(script(arguments.runtime or ["runc", "crun"], pytest_arguments))


def script(runtimes: Sequence[str], pytest_arguments: Sequence[str]) -> str:
    """Returns what the machine runs; its exit status is that of the tests."""
    pytest = shlex.join(
        [
            *("/opt/venv/bin/python", "-m", "pytest", "--numprocesses=2", "--dist=worksteal"),
            *("-o", f"testpaths={' '.join(SELECTION)}", *pytest_arguments),
        ]
    )
    return f"""\
export COLUMNS=100 PY_COLORS={int(sys.stdout.isatty())} SHIMPY_TIME_SCALE={SLOWER}
export SHIMPY_TEST_SYSTEMD_CGROUP=1
status=0
for SHIMPY_TEST_RUNTIME in {" ".join(runtimes)}; do
    export SHIMPY_TEST_RUNTIME
    $SHIMPY_TEST_RUNTIME --version
    {pytest} || status=$?
done
exit $status
"""


if __name__ == "__main__":
    sys.exit(main())
