"""Requests that mean harm, as a service that runs strangers' code gets them, and how each is to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import shimpy


class Hostile(NamedTuple):
    """One kind of request.

    Attributes:
        script: for a shell.
        ends: whether a result is as it is documented.
        options: of its sandbox.
        time: seconds that it has; those that end by themselves have more than they need.
        disconnects: the client leaves in the middle of it.
        needs: a program of this machine, in whose /usr it runs; busybox alone where it is empty.
    """

    script: str
    ends: Callable[[shimpy.Result], bool]
    options: Mapping[str, Any] = MappingProxyType({})
    time: float = 60
    disconnects: bool = False
    needs: str = ""


def _timed_out(result: shimpy.Result) -> bool:
    return result.timed_out and result.exit_status == 137


def _refused(*words: bytes) -> Callable[[shimpy.Result], bool]:
    """Returns whether each attempt met one of these words, and none went well, which is said by `OPEN`."""

    def ends(result: shimpy.Result) -> bool:
        return b"OPEN" not in result.stdout and any(word in result.stderr for word in words)

    return ends


_NOT_PERMITTED = _refused(b"Operation not permitted", b"Permission denied")


def _calls(*attempts: str) -> str:
    """Returns a script that makes calls of the C library, each of which says how it went."""
    program = [
        "import ctypes, os, sys",
        "c = ctypes.CDLL(None, use_errno=True)",
        "x86 = os.uname().machine == 'x86_64'",
        "def said(result):",
        "    print('OPEN') if result != -1 else print(os.strerror(ctypes.get_errno()), file=sys.stderr)",
        *(f"said(c.{attempt})" for attempt in attempts),
    ]
    return 'python3 -c "' + "\n".join(program) + '"'


KINDS: dict[str, Hostile] = {
    "fork bomb": Hostile(
        "f() { f | f & wait; }; f", lambda r: r.timed_out or b"can't fork" in r.stderr, {"pids": 64}, time=3
    ),
    "memory hog in a child": Hostile(
        "sh -c 'x=$(head -c 200000000 /dev/zero | tr \"\\0\" x)'; echo $?",
        lambda r: r.oom and r.stdout == b"137\n",
        {"memory": 32 << 20},
    ),
    "endless output": Hostile("yes", lambda r: r.truncated and r.timed_out, time=1),
    "tmpfs fill": Hostile(
        "dd if=/dev/zero of=/tmp/x bs=64k count=100 || echo full",
        lambda r: r.stdout == b"full\n", {"tmpfs": {"/tmp": 1 << 20}},
    ),
    "tmpfs of files": Hostile(
        "n=0; while : >/tmp/$n; do n=$((n + 1)); done", lambda r: r.timed_out or r.exit_status != 0,
        {"memory": 32 << 20}, time=1,
    ),
    "daemons": Hostile(
        "for n in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & done; sleep 0.05; exit 3",
        lambda r: r.exit_status == 3,
    ),
    "stdout by its name": Hostile(
        "echo x >/dev/stdout; echo y >/proc/self/fd/1; exec 3<>/dev/stdout; echo z >&3",
        lambda r: r.exit_status == 0 and r.stdout == b"x\ny\nz\n",
    ),
    "mount": Hostile("mount -t tmpfs x /tmp && echo OPEN; umount /proc && echo OPEN", _NOT_PERMITTED),
    "ptrace": Hostile(
        # PTRACE_TRACEME, and PTRACE_ATTACH to its init and to its parent
        _calls("ptrace(0, 0, 0, 0)", "ptrace(16, 1, 0, 0)", "ptrace(16, os.getppid(), 0, 0)"),
        lambda r: r.stdout == b"" and r.stderr.count(b"Operation not permitted") == 3, needs="python3",
    ),
    "keyctl": Hostile(
        # add_key to the user's keyring; keyctl: the id of the session's keyring, a new one
        _calls("syscall(248 if x86 else 217, b'user', b'evil', b'x', 1, -4)",
               "syscall(250 if x86 else 219, 0, -3, 0)", "syscall(250 if x86 else 219, 1, 0)"),
        lambda r: r.stdout == b"" and r.stderr.count(b"Operation not permitted") == 3, needs="python3",
    ),
    "namespaces": Hostile(
        "unshare -Urm true && echo OPEN; nsenter -t 1 -m true && echo OPEN", _NOT_PERMITTED
    ),
    "host name": Hostile("hostname evil && echo OPEN", _NOT_PERMITTED),
    "raw sockets": Hostile("ping -c 1 127.0.0.1 >&2 && echo OPEN; arping -c 1 1.1.1.1 && echo OPEN",
                           _refused(b"not permitted", b"ermission denied", b"nknown")),
    "network": Hostile(
        "nc -w 1 1.1.1.1 80 </dev/null && echo OPEN", _refused(b"unreachable", b"can't connect")
    ),
    "device nodes": Hostile(
        "mknod /tmp/m c 1 1 && echo OPEN; mknod /tmp/d b 254 0 && echo OPEN", _NOT_PERMITTED
    ),
    "links": Hostile(
        "cd /tmp; for n in $(seq 100); do ln -s /proc/self/root l$n; mkdir d$n; ln -s .. d$n/up; done;"
        "cat /tmp/l1/tmp/l2/../../../../etc/shadow && echo OPEN; cat d1/up/d2/up/l3/etc/nothing",
        _refused(b"No such file"),
    ),
    "signals to others": Hostile(
        "kill -9 -1; kill -9 1; for p in $(seq 2 5000); do kill -9 $p; done 2>/dev/null",
        lambda r: r.exit_status in (0, 1, 137),
    ),
    "clock": Hostile("date -s 2000-01-01; hwclock -w && echo OPEN", _NOT_PERMITTED),
    "kernel log": Hostile("dmesg && echo OPEN; cat /dev/kmsg && echo OPEN", _NOT_PERMITTED),
    "kernel's files": Hostile(
        "for f in sys/kernel/core_pattern sysrq-trigger sys/vm/drop_caches 1/oom_score_adj_; do"
        " echo 1 >/proc/$f && echo OPEN; done; echo 1 >/sys/kernel/mm/ksm/run && echo OPEN",
        _refused(b"Read-only file system", b"ermission denied"),
    ),
    "time": Hostile("while :; do :; done", _timed_out, time=1),
    "disconnect": Hostile("sleep 1000 & sleep 1000", lambda _: True, disconnects=True),
}  # fmt: skip
