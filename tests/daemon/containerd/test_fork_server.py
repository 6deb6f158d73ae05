"""`start` with a fork server: as without one, but quicker; and without it whenever it must not be used."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shimpy.api import task
from shimpy.daemon.containerd import fork_asker, fork_begin, fork_place, fork_server
from shimpy.daemon.containerd.fork_asker import Asker
from shimpy.daemon.containerd.install import install
from shimpy.daemon.containerd.loaded import LoadedFiles
from tests.support import leaks
from tests.support.forkservers import end_fork_servers, fork_servers
from tests.support.leaks import alive, eventually
from tests.support.shimv2 import Shims, gone

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root's starts use a fork server"),
]


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command as it is installed."""
    (path,) = install(str(tmp_path_factory.mktemp("prefix")))
    return path


@pytest.fixture(scope="module")
def command(impatient: str) -> str:
    """The same, but it gives a server on a busy machine all the time that it needs."""
    text = Path(impatient).read_text()
    patient = Path(f"{impatient}.patient")
    patient.write_text(text.replace(f"exec sleep {fork_place.BEGIN_TIMEOUT}\n", "exec sleep 600\n"))
    patient.chmod(0o755)
    assert patient.read_text() != text
    return str(patient)


@pytest.fixture
def directory(shims: Shims, command: str) -> Path:
    """The directory of the servers of starts by the command."""
    shims.program = (command,)
    shims.fork_server = str(shims.directory / "fork")
    return Path(shims.fork_server)


@pytest.fixture
async def server(shims: Shims, directory: Path) -> AsyncIterator[Path]:
    """The directory of a server that listens, begun by the start of a container `first`."""
    shims.bundle("first")
    assert shims.start("first").returncode == 0
    while not fork_servers(directory):
        await asyncio.sleep(0.005)
    yield directory
    end_fork_servers(directory)


async def parent(shims: Shims, name: str) -> int:
    """Returns the parent of the shim of a container."""
    return int(leaks._stat(str(await shims.pid(shims.path(name))))[1])


async def test_a_shim_of_its_is_upgraded_as_any_other(shims: Shims, server: Path) -> None:
    shims.bundle("web")
    assert shims.start("web").returncode == 0
    shim = await shims.pid(shims.path("web"))
    os.kill(shim, signal.SIGHUP)
    line = Path(f"/proc/{shim}/cmdline")
    await eventually(lambda: line.read_bytes().endswith(b"\0upgrade\0"), within=30)

    assert await shims.pid(shims.path("web")) == shim


async def test_the_first_start_begins_it_and_the_next_use_it(shims: Shims, server: Path) -> None:
    (pid,) = fork_servers(server).values()
    shims.bundle("web")
    done = shims.start("web")

    assert (done.returncode, done.stdout.decode()) == (0, f"unix://{shims.path('web')}")
    assert await parent(shims, "web") == pid
    assert await parent(shims, "first") != pid
    assert (shims.directory / "web" / "address").read_bytes() == done.stdout


async def test_a_forked_shim_is_a_process_of_its_own(shims: Shims, server: Path) -> None:
    bundle = shims.bundle("web")
    # containerd holds the FIFO open for reading and writing.
    log = os.open(bundle / "log", os.O_RDWR)
    try:
        shims.start("web", env={"FOR_THIS_ONE": "1"})
        pid = await shims.pid(shims.path("web"))
        held = leaks.descriptors(pid)
    finally:
        os.close(log)
    ours = int(Path("/proc/self/oom_score_adj").read_text())

    assert (held[0], held[1], held[2]) == ("/dev/null", "/dev/null", str(bundle / "log"))
    assert [each for each in held.values() if each.startswith("pipe:") or str(server) in each] == []
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(ours + 1, 1000)
    words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    assert words == shims.command("web", "start")
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()


async def test_limits_are_those_of_who_asks(shims: Shims, server: Path) -> None:
    shims.bundle("web")
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if soft else 4096, hard))
    try:
        shims.start("web")
        wanted = resource.getrlimit(resource.RLIMIT_CORE)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))

    assert resource.prlimit(await shims.pid(shims.path("web")), resource.RLIMIT_CORE) == wanted


async def test_a_start_that_fails_says_why_and_leaves_nothing(shims: Shims, server: Path) -> None:
    bundle = shims.bundle("web")
    (bundle / "config.json").unlink()
    done = shims.start("web")

    assert done.returncode == 1
    assert b"config.json" in done.stdout
    assert done.stdout.count(b"\n") == 1
    assert not (bundle / "address").exists()
    assert not Path(shims.path("web")).exists()


async def test_a_further_container_of_a_group_joins(shims: Shims, server: Path) -> None:
    for name in ("pod", "web"):
        shims.bundle(name, {"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}})
    first, second = (shims.start(name).stdout for name in ("pod", "web"))

    assert first == second == f"unix://{shims.path('pod')}".encode()


async def test_when_it_dies_its_shims_go_on_and_the_next_start_begins_another(
    shims: Shims, server: Path
) -> None:
    (pid,) = fork_servers(server).values()
    shims.bundle("web")
    shims.start("web")
    shim = await shims.pid(shims.path("web"))
    os.kill(pid, signal.SIGKILL)
    await gone(pid)

    assert await shims.pid(shims.path("web")) == shim
    shims.bundle("next")
    assert shims.start("next").returncode == 0
    await eventually(lambda: list(fork_servers(server).values()) not in ([], [pid]))


async def test_one_that_is_stuck_is_done_without(shims: Shims, server: Path, impatient: str) -> None:
    (pid,) = fork_servers(server).values()
    patient, shims.program = shims.program, (impatient,)
    os.kill(pid, signal.SIGSTOP)
    try:
        shims.bundle("web")
        assert shims.start("web").returncode == 0
        assert await parent(shims, "web") != pid
    finally:
        os.kill(pid, signal.SIGCONT)
    # What it finds now is a request that nobody waits for: no second shim comes of it.
    shims.program = patient
    shims.bundle("next")
    shims.start("next")
    assert await parent(shims, "next") == pid
    assert [child for child in leaks.children(pid) if alive(child)] == [await shims.pid(shims.path("next"))]


async def test_a_shim_that_ends_is_reaped(shims: Shims, server: Path) -> None:
    shims.bundle("web")
    shims.start("web")
    pid = await shims.pid(shims.path("web"))
    await shims.shut_down(shims.path("web"), "web")

    await eventually(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("option", ["--ipc", "--net", "--uts", "--cgroup"])
async def test_in_other_namespaces_it_is_another_server(shims: Shims, server: Path, option: str) -> None:
    (pid,) = fork_servers(server).values()
    shims.bundle("web")
    command = ["unshare", option, *shims.command("web", "start")]
    done = subprocess.run(
        command, cwd=shims.directory / "web", input=shims.params("web"), capture_output=True, check=True,
        env={**os.environ, "SHIMPY_FORK_SERVER": shims.fork_server},
    )  # fmt: skip
    shims.note(done.stdout)

    assert await parent(shims, "web") != pid


async def test_who_may_do_less_gets_no_more_by_it(shims: Shims, server: Path) -> None:
    (pid,) = fork_servers(server).values()
    shims.bundle("web")
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_boot", "--inh-caps", "-sys_boot", *shims.command("web", "start")],
        cwd=shims.directory / "web", input=shims.params("web"), capture_output=True, check=True,
        env={**os.environ, "SHIMPY_FORK_SERVER": shims.fork_server},
    )  # fmt: skip
    shims.note(done.stdout)

    assert await parent(shims, "web") != pid


async def test_the_directory_and_the_fifo_are_roots_alone(server: Path) -> None:
    (name,) = fork_servers(server)

    assert server.stat().st_mode & 0o777 == 0o700
    assert (server / name).stat().st_mode & 0o777 == 0o600


async def test_a_directory_that_others_can_write_to_is_not_used(shims: Shims, directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    shims.bundle("web")

    assert shims.start("web").returncode == 0
    assert os.listdir(directory) == []


async def test_systemd_passes_the_fifo(shims: Shims, directory: Path) -> None:
    directory.mkdir(mode=0o700)
    fifo = directory / fork_place.ACTIVATED
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDWR)
    # As systemd does it: the process's own number is in its environment.
    as_systemd = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null'
    process = subprocess.Popen(["sh", "-c", as_systemd, "sh", *shims.program, "fork-server"], stdin=fd)
    try:
        await eventually(lambda: _watches(process.pid, fifo))
        shims.bundle("web")
        assert shims.start("web").returncode == 0
        assert await parent(shims, "web") == process.pid
    finally:
        process.terminate()
        process.wait()
        os.close(fd)
    assert fifo.exists()


def test_a_server_for_systemd_needs_systemd(command: str) -> None:
    done = subprocess.run([command, "fork-server"], check=False, capture_output=True)

    assert done.returncode == 2
    assert b"ListenFIFO" in done.stderr


def _watches(pid: int, fifo: Path) -> bool:
    """Returns whether a process has come so far that it waits for a FIFO."""
    held = leaks.descriptors(pid)
    return held.get(3) == str(fifo) and "anon_inode:[eventpoll]" in held.values()


async def test_a_delete_is_done_by_it_too(shims: Shims, server: Path, tmp_path: Path) -> None:
    # A command that can do nothing itself.
    command = tmp_path / "containerd-shim-test-v2"
    command.write_text(Path(shims.program[0]).read_text().replace(f"exec {sys.executable}", "exec false"))
    command.chmod(0o755)
    shims.program = (str(command),)
    bundle = shims.bundle("web")
    (bundle / "init.pid").write_text("4711")
    done = subprocess.run(
        shims.command("web", "-bundle", str(bundle), "delete"), cwd="/", capture_output=True, check=True,
        env={**os.environ, "SHIMPY_FORK_SERVER": str(server)},
    )  # fmt: skip

    told = task.DeleteResponse().parse(done.stdout)
    assert (told.pid, told.exit_status) == (4711, 137)
    assert done.stderr == b""


async def test_one_that_cannot_be_loaded_is_not_begun_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(fork_begin, "_spawn", lambda command, *_: begun.append(command))
    monkeypatch.setenv(fork_place.VARIABLE, str(tmp_path / "fork"))
    fork_begin.begin_server()
    fork_begin.begin_server()
    assert len(begun) == 1

    (lock,) = (tmp_path / "fork").glob("*.lock")
    os.utime(lock, (0, time.time() - 61))
    fork_begin.begin_server()
    assert len(begun) == 2


def test_files_that_have_changed_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "a_module_of_mine.py"
    module.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    __import__(module.stem)
    files = LoadedFiles()
    assert not files.changed()

    # As an installer replaces a package.
    (tmp_path / "new").write_text("pass")
    (tmp_path / "new").rename(module)

    assert files.changed()


async def test_one_that_is_out_of_date_ends_and_is_replaced(
    shims: Shims, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(mode=0o700)
    prefix = directory / fork_place.name()
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(LoadedFiles, "changed", lambda _: True)
        fork_server.ForkServer(str(prefix)).run()
        os._exit(7)
    await eventually(Path(f"{prefix}.{pid}").exists)
    shims.bundle("web")

    assert shims.start("web").returncode == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    await eventually(lambda: bool(fork_servers(directory)))
    assert pid not in fork_servers(directory).values()
    end_fork_servers(directory)


async def test_one_whose_name_is_gone_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_CHECK_INTERVAL", 0.01)
    pid = os.fork()
    if pid == 0:
        fork_server.ForkServer(str(tmp_path / "server")).run()
        os._exit(7)
    path = tmp_path / f"server.{pid}"
    await eventually(path.exists)
    path.unlink()

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


async def test_what_dead_ones_have_left_is_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "server.1234567")
    (tmp_path / "server.lock").touch()
    server = fork_server.ForkServer(str(tmp_path / "server"))

    assert sorted(os.listdir(tmp_path)) == sorted(["server.lock", f"server.{os.getpid()}"])
    server._loop.call_later(0, server._end)
    server.run()
    assert os.listdir(tmp_path) == ["server.lock"]


@pytest.mark.parametrize("data", [b"", b"key 1", b"key 1 2 3", b"key one 2", b"key -1 2", b"key 0 0"])
def test_what_is_not_a_request_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        Asker(data, (0, 0))


def test_of_an_environment_only_what_differs_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAME", "OTHER", "GONE"):
        monkeypatch.setenv(name, "1")
    theirs = {**os.environb, b"OTHER": b"2", b"NEW": b"a=b"}
    del theirs[b"GONE"]
    entries = [b"%s=%s" % pair for pair in theirs.items()]

    assert fork_asker._differences(entries) == [(b"GONE", None), (b"OTHER", b"2"), (b"NEW", b"a=b")]


@pytest.mark.parametrize("shown", [True, False])
def test_a_request_in_the_name_of_another_process_is_refused(tmp_path: Path, shown: bool) -> None:
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo" if shown else os.devnull, os.O_RDWR)
    status = os.stat(tmp_path / "fifo")
    script = f"exec {fork_place.SHOWN}<&0; exec sleep 1000000"
    with subprocess.Popen(["sh", "-c", script], stdin=fd) as waiting:
        try:
            # The parent of who waits is this process: another one is named, or the FIFO is not shown.
            pid = 1 if shown else os.getpid()
            with pytest.raises((ValueError, OSError)):
                Asker(b"key %d %d" % (pid, waiting.pid), (status.st_dev, status.st_ino))
            assert waiting.poll() is None
        finally:
            waiting.kill()
    os.close(fd)
