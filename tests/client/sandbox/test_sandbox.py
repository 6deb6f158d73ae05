"""The default sandbox, as what runs in it sees it, and each option."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.client.one_shot import OUTPUT_LIMIT
from shimpy.client.sandbox import init
from tests.support import containers

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]


async def said(rootfs: Path, script: str, **options: Any) -> list[str]:
    """Returns the lines that a shell script prints in a sandbox."""
    result = await shimpy.run(rootfs, ["sh", "-c", f"exec 2>&1; {script}"], **options)
    return result.stdout.decode().splitlines()


async def test_what_it_may_do_by_default(rootfs: Path) -> None:
    lines = await said(
        rootfs,
        "id -u; grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status; cat /proc/1/comm;"
        "touch /x; ls /sys/class/net; cat /proc/self/cgroup | cut -d: -f3 | sort -u; hostname;"
        "ulimit -c; pwd",
    )
    assert lines == [
        "0",
        *(f"Cap{kind}:\t0000000000000000" for kind in ("Prm", "Eff", "Bnd", "Amb")),
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "init",
        "touch: /x: Read-only file system",
        "lo",
        "/",
        "sandbox",
        "0",
        "/",
    ]


async def test_root_inside_is_an_id_that_nobody_else_has(rootfs: Path) -> None:
    found = set()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(3):
            bundle = await stack.enter_async_context(shimpy.temporary_bundle(rootfs, ["sleep", "1000"]))
            client = await stack.enter_async_context(shimpy.in_process())
            name = f"{containers.new_id()}-{number}"
            container = await stack.enter_async_context(client.container(name, bundle))
            inside, outside, size = Path(f"/proc/{container.pid}/uid_map").read_text().split()
            assert (inside, size) == ("0", "65536")
            assert os.stat(f"/proc/{container.pid}").st_uid == int(outside)
            found.add(int(outside))
    assert len(found) == 3
    assert all(0x78000000 <= each < 0x7FFE0000 for each in found)


async def test_its_range_is_given_back(rootfs: Path) -> None:
    (line,) = await said(rootfs, "cat /proc/self/uid_map")
    assert f"{int(line.split()[1]):08x}" not in os.listdir("/var/lib/shimpy/ids")


async def test_programs_find_how_much_memory_they_have(rootfs: Path) -> None:
    """Where Node and the JVM look for it, to take the size of their heaps from."""
    script = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes"
    assert await said(rootfs, script, memory=64 << 20) == [str(64 << 20)]


async def test_its_limits(rootfs: Path, new_id: Callable[[], str]) -> None:
    async with (
        shimpy.temporary_bundle(rootfs, ["sleep", "1000"]) as bundle,
        shimpy.in_process() as client,
        client.container(new_id(), bundle) as container,
    ):
        stats = await container.stats()
        assert (stats.memory_limit, stats.pids_limit) == (512 << 20, 512)
        shown = await container.run(["df", "-k", "/tmp"])
        assert shown.stdout.split()[8] == b"65536"


async def test_a_fork_bomb_meets_the_limit(rootfs: Path) -> None:
    result = await shimpy.run(rootfs, ["sh", "-c", "f() { f | f & wait; }; f"], timeout=1, pids=32)
    assert result.exit_status == 137 or b"can't fork" in result.stderr


async def test_memory_that_a_child_takes_is_limited(rootfs: Path) -> None:
    script = "sh -c 'x=$(head -c 100000000 /dev/zero | tr \"\\0\" x)'; echo $?"
    result = await shimpy.run(rootfs, ["sh", "-c", script], memory=32 << 20)
    assert (result.stdout, result.oom) == (b"137\n", True)


async def test_output_is_limited(rootfs: Path) -> None:
    result = await shimpy.run(rootfs, ["head", "-c", str(OUTPUT_LIMIT + 1), "/dev/zero"])
    assert (len(result.stdout), result.truncated, result.exit_status) == (OUTPUT_LIMIT, True, 0)


async def test_what_is_left_behind_is_reaped(rootfs: Path) -> None:
    script = "(sleep 0.01 &); until ! pgrep sleep; do :; done; ps | grep -c '[Z]ombie'"
    assert (await said(rootfs, script))[-1] == "0"


async def test_a_signal_that_ends_the_program_is_its_exit_status(rootfs: Path) -> None:
    assert (await shimpy.run(rootfs, ["sh", "-c", "kill -TERM $$"])).exit_status == 143


@pytest.mark.parametrize(
    ("options", "script", "expected"),
    [
        ({"user": shimpy.User(5, 6, (7,))}, "id -u; id -G", ["5", "6 7"]),
        ({"userns": False}, "cat /proc/self/uid_map | tr -s ' '", [" 0 0 4294967295"]),
        ({"tmpfs": {"/root": 4096 * 3}},
         "cd /root; head -c 20000 /dev/zero 2>/dev/null >x || echo full; stat -c %s x; touch /tmp/x",
         ["full", "12288", "touch: /tmp/x: Read-only file system"]),
        ({"network": "host"}, "ls /sys/class/net | grep -c .", [str(len(os.listdir("/sys/class/net")))]),
        ({"network": "host", "userns": False}, "ls /sys/class/net | grep -c .",
         [str(len(os.listdir("/sys/class/net")))]),
        ({"seccomp": False}, "grep Seccomp: /proc/self/status", ["Seccomp:\t0"]),
        ({"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]}},
         "hostname x", ["hostname: sethostname: Cannot assign requested address"]),
        ({"capabilities": ["CAP_CHOWN"]}, "grep CapEff /proc/self/status", ["CapEff:\t0000000000000001"]),
        ({"rlimits": [shimpy.Rlimit("RLIMIT_NOFILE", 97, 98)]},
         "ulimit -n; ulimit -Hn; ulimit -c", ["97", "98", "0"]),
        ({"devices": ["/dev/kmsg"]}, "ls /dev/kmsg", ["/dev/kmsg"]),
        ({"hostname": "x.y"}, "hostname", ["x.y"]),
        ({"init": False}, "cat /proc/1/comm", ["cat"]),
        ({"cwd": "/tmp"}, "pwd", ["/tmp"]),
        ({"env": {"A": "b", "PATH": "/bin"}}, "echo $A $PATH", ["b /bin"]),
        ({"sandbox": False},
         "cat /proc/self/uid_map | tr -s ' '; cat /proc/1/comm; :", [" 0 0 4294967295", "sh"]),
        ({"sandbox": False, "hostname": "x"}, "hostname; id -u", ["x", "0"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
async def test_option(rootfs: Path, options: dict[str, Any], script: str, expected: list[str]) -> None:
    assert await said(rootfs, script, **options) == expected


@pytest.mark.parametrize("userns", [True, False])
async def test_mounts(rootfs: Path, tmp_path: Path, userns: bool) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/tmp") and directory.is_relative_to("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o001)
    (tmp_path / "dir").mkdir(mode=0o777)
    (tmp_path / "dir").chmod(0o777)
    (tmp_path / "file").write_text("file\n")
    mounts = [
        shimpy.BindMount(tmp_path / "dir", "/tmp/dir", read_only=False),
        shimpy.BindMount(tmp_path / "file", "/tmp/file"),
    ]
    script = "echo new >/tmp/dir/new; cat /tmp/file; echo x >/tmp/file"
    lines = await said(rootfs, script, mounts=mounts, userns=userns)
    assert lines == ["file", "sh: can't create /tmp/file: Read-only file system"]
    assert (tmp_path / "dir" / "new").read_text() == "new\n"


async def test_network_of_another(rootfs: Path) -> None:
    other = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"],
                             stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert other.stdout is not None
        other.stdout.readline()
        path = f"/proc/{other.pid}/ns/net"
        assert await said(rootfs, "readlink /proc/self/ns/net", network=path) == [os.readlink(path)]
    finally:
        other.kill()
        other.communicate()


@pytest.fixture
def no_tini(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without tini."""
    monkeypatch.setattr(init, "_PROGRAM", "no-such-tini")
    init._warn.cache_clear()
    yield
    init._warn.cache_clear()


@pytest.mark.usefixtures("no_tini")
async def test_without_tini_there_is_a_warning_and_no_init(
    rootfs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await said(rootfs, "cat /proc/1/comm; :") == ["sh"]
    assert "install" in caplog.text or "Debian: tini" in caplog.text
    with pytest.raises(shimpy.NotFoundError, match="init: there is no no-such-tini; install it"):
        await shimpy.run(rootfs, ["true"], init=True)


async def test_files_of_a_container_belong_to_it(rootfs: Path, new_id: Callable[[], str]) -> None:
    async with (
        shimpy.temporary_bundle(rootfs, ["sleep", "1000"]) as bundle,
        shimpy.in_process() as client,
        client.container(new_id(), bundle) as container,
    ):
        await container.write_file("/tmp/file", b"data")
        result = await container.run(["stat", "-c", "%u %g", "/tmp/file"])
        assert result.stdout == b"0 0\n"
