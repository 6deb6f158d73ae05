"""The list of system calls: programs work under it, and what nobody needs is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.client.sandbox import seccomp
from shimpy.client.sandbox.seccomp import profile
from tests.support.usr_root import options, programs

pytestmark = pytest.mark.anyio

# Numbers of x86-64, and what is said of them; of those without a name here anything goes with EPERM.
_REFUSED = {
    "ptrace": 101, "syslog": 103, "modify_ldt": 154, "pivot_root": 155, "adjtimex": 159, "chroot": 161,
    "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175,
    "delete_module": 176, "quotactl": 179, "lookup_dcookie": 212, "clock_settime": 227, "vhangup": 153,
    "mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272, "move_pages": 279,
    "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304,
    "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442,
    "uselib": 134, "ustat": 136, "sysfs": 139, "nfsservctl": 180,
}  # fmt: skip

# Tries system calls with arguments that do nothing, and says what comes of each.
_TRY = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return errno.errorcode.get(ctypes.get_errno(), "")
found = {name: call(number, -1, -1, -1, -1) for name, number in json.loads(sys.argv[1]).items()}
found["clone3"] = call(435, 0, 0)
found["clone, new user namespace"] = call(56, 0x10000000, 0, 0, 0, 0)
for name, family, kind, protocol in (
    ("vsock", 40, 1, 0), ("packet", 17, 3, 0), ("alg", 38, 5, 0), ("netfilter", 16, 3, 12),
    ("audit", 16, 3, 9), ("raw", 2, 3, 1), ("tcp", 2, 1, 0), ("udp6", 10, 2, 0),
    ("unix", 1, 1, 0), ("route", 16, 3, 0),
    ("vsock in a register with more", 40 + (1 << 32), 1, 0),
):
    found[f"socket, {name}"] = call(41, family, kind, protocol)
found["personality, no random addresses"] = call(135, 0x40000)
found["personality, which"] = call(135, 0xFFFFFFFF)
print(json.dumps(found))
"""

# The same by int 0x80, the 32-bit ABI, in a process of its own: it dies where the kernel has none.
_TRY_32 = """
import ctypes, errno, json, mmap, os
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("5389f889f387d1cd805bc3"))
call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
found = {}
for name, number, *arguments in (
    ("getpid", 20), ("mount", 21), ("ptrace", 26, 99), ("socketcall", 102), ("unshare", 310, 0x10000000),
    ("keyctl", 288), ("socket, vsock", 359, 40, 1, 0), ("socket, unix", 359, 1, 1, 0),
):
    result = call(number, *arguments, *[0] * (3 - len(arguments)))
    found[name] = errno.errorcode[-result] if result < 0 else ""
print(json.dumps(found))
"""

x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
with_python = pytest.mark.skipif(not programs("python3"), reason="there is no /usr/bin/python3")


async def _tried(root: Path, *arguments: str, **more: Any) -> dict[str, str]:
    result = await shimpy.run(root, ["python3", "-c", *arguments], timeout=60, **options(**more))
    assert (result.exit_status, result.stderr) == (0, b"")
    found: dict[str, str] = json.loads(result.stdout)
    return found


@x86_64
@with_python
async def test_what_each_call_meets(machines_programs: Path) -> None:
    found = await _tried(machines_programs, _TRY, json.dumps(_REFUSED))
    assert found == {
        **dict.fromkeys(_REFUSED, "EPERM"),
        "clone3": "ENOSYS",
        "clone, new user namespace": "EPERM",
        **dict.fromkeys(
            [f"socket, {name}" for name in ("vsock", "packet", "alg", "netfilter", "audit", "raw")], "EPERM"
        ),
        **dict.fromkeys([f"socket, {name}" for name in ("tcp", "udp6", "unix", "route")], ""),
        "socket, vsock in a register with more": "EPERM",
        "personality, no random addresses": "EPERM",
        "personality, which": "",
    }


@x86_64
@with_python
async def test_the_32_bit_abi_is_no_way_around_it(machines_programs: Path) -> None:
    result = await shimpy.run(machines_programs, ["python3", "-c", _TRY_32], **options())
    if result.exit_status == 139:
        pytest.skip("this kernel has no 32-bit ABI")
    assert json.loads(result.stdout) == {
        "getpid": "",
        **dict.fromkeys(("mount", "ptrace", "socketcall", "unshare", "keyctl", "socket, vsock"), "EPERM"),
        "socket, unix": "",
    }


@x86_64
@with_python
async def test_what_a_capability_is_for_is_allowed_with_it(machines_programs: Path) -> None:
    some = {name: _REFUSED[name] for name in ("chroot", "keyctl", "unshare")}
    found = await _tried(machines_programs, _TRY, json.dumps(some), capabilities=["CAP_SYS_CHROOT"])
    assert (found["chroot"], found["keyctl"], found["unshare"]) == ("EFAULT", "EPERM", "EPERM")


@pytest.mark.parametrize(
    ("program", "command", "expected"),
    [
        ("python3", ["python3", "-c", """
import asyncio, concurrent.futures, multiprocessing, socket, sqlite3, subprocess, tempfile, threading
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
asyncio.run(main())
with concurrent.futures.ThreadPoolExecutor(8) as pool: assert sum(pool.map(int, "12345678")) == 36
with multiprocessing.get_context("spawn").Pool(2) as pool: assert pool.map(abs, [-1]) == [1]
assert subprocess.run(["echo", "x"], capture_output=True).stdout == b"x\\n"
assert sqlite3.connect("/tmp/db").execute("select 6 * 7").fetchone() == (42,)
socket.getaddrinfo("127.0.0.1", 80)
print("fine")
"""], "fine\n"),
        ("node", ["node", "-e", """
const { Worker } = require('worker_threads'), { execSync } = require('child_process');
require('fs').writeFileSync('/tmp/file', 'x');
require('http').createServer((q, s) => s.end('fine')).listen(0, function () {
  fetch(`http://127.0.0.1:${this.address().port}`).then(r => r.text()).then(text => {
    new Worker('require("worker_threads").parentPort.postMessage(6 * 7)', { eval: true })
      .on('message', n => { console.log(text, n, execSync('echo x').toString().trim()); process.exit(); });
  });
});
"""], "fine 42 x\n"),
        ("gcc", ["sh", "-c", """
cd /tmp && printf '#include <stdio.h>\\nint main(void) { puts("fine"); }\\n' >a.c && gcc -O2 -o a a.c && ./a
"""], "fine\n"),
        ("git", ["sh", "-c", """
cd /tmp && git init -q a && cd a && echo x >file && git add file &&
git -c user.name=a -c user.email=a@b commit -qm fine && git clone -q . ../b && git -C ../b log --format=%s
"""], "fine\n"),
    ],
    ids=["python3", "node", "gcc", "git"],
)  # fmt: skip
async def test_real_programs_work(
    machines_programs: Path, program: str, command: list[str], expected: str
) -> None:
    if not programs(program):
        pytest.skip(f"there is no /usr/bin/{program}")
    result = await shimpy.run(machines_programs, command, timeout=60, **options(memory=2 << 30))
    assert (result.exit_status, result.stderr, result.stdout.decode()) == (0, b"", expected)


@pytest.mark.parametrize(
    ("machine", "architectures"),
    [
        ("x86_64", ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        ("aarch64", ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
    ],
)
def test_architectures(machine: str, architectures: list[str]) -> None:
    made = profile(machine=machine)
    assert made["architectures"] == architectures
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)


def test_another_machine_has_no_list() -> None:
    with pytest.raises(shimpy.InvalidArgumentError, match="seccomp: there is no filter for riscv64"):
        profile(machine="riscv64")


def test_nothing_is_both_allowed_and_of_a_capability() -> None:
    of_capabilities = {name for names in seccomp._OF_CAPABILITIES.values() for name in names.split()}
    assert of_capabilities & set(seccomp._ALLOWED) == set()
    assert not {"socketcall", "clone3", "ptrace", "keyctl", "io_uring_setup"} & set(seccomp._ALLOWED)


@pytest.mark.parametrize(
    ("capability", "names"), [("CAP_SYS_ADMIN", {"clone", "mount"}), ("CAP_NET_RAW", {"socket"})]
)
def test_a_capability_lifts_what_it_is_for(capability: str, names: set[str]) -> None:
    def free(given: list[str]) -> set[str]:
        rules = profile(given, "x86_64")["syscalls"]
        allowed = [rule for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule]
        return {name for rule in allowed for name in rule["names"]}

    assert names & free([]) == set()
    assert names <= free([capability])
