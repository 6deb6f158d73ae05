"""`python -m shimpy` from outside: its arguments, its socket, its signals and its end."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy import api
from shimpy.transport import unix
from tests.support import containers, leaks
from tests.support.events import Recorder
from tests.support.paths import ROOT
from tests.support.rawhttp2 import connect
from tests.support.rounds import rounds
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

Start = Callable[..., Server]

# What a call comes to that is made on a connection which is just being closed, or when nobody listens.
CLOSED = ("StreamTerminatedError", "FileNotFoundError", "ConnectionRefusedError", "ConnectionResetError")


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m shimpy` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "shimpy", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        **options,
    )


def as_user(uid: int, imports: str, *lines: str) -> subprocess.CompletedProcess[str]:
    """Runs a program as another user, who may not even read the interpreter: it is loaded before."""
    program = "\n".join([imports, f"import os; os.setgroups([]); os.setgid({uid}); os.setuid({uid})", *lines])
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )


def masks(pid: int) -> dict[str, int]:
    """Returns the signals that a process blocks and ignores (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name], 16) for name in ("SigBlk", "SigIgn")} | {
        "Umask": int(fields["Umask"], 8),
        "Threads": int(fields["Threads"]),
    }


class HeldCreate:
    """A server whose Create has done its work, by the real runtime, and is kept from being answered.

    Attributes:
        server: the server.
    """

    def __init__(self, start: Start, directory: Path, request: api.CreateRequest) -> None:
        self._request = request
        self._done = directory / "done"
        self._go = directory / "go"
        os.mkfifo(self._go)
        runtime = directory / "runtime"
        runtime.write_text(
            "#!/bin/sh\n"
            'case "$*" in *" create "*) ;; *) exec runc "$@" ;; esac\n'
            'runc "$@" || exit\n'
            f": >{self._done}\n"
            f"exec cat {self._go}\n"
        )
        runtime.chmod(0o755)
        self.server = start("--runtime", str(runtime))

    @contextlib.asynccontextmanager
    async def under_way(self) -> AsyncIterator[asyncio.Task[api.CreateResponse]]:
        """Makes the call; what becomes of the container is the caller's business."""
        creating = asyncio.ensure_future(self.server.stub().create(self._request))
        try:
            await leaks.eventually(self._done.exists)
            yield creating
        finally:
            containers.remove(self._request.id)

    def let_go(self) -> None:
        """Has the runtime's command end."""
        self._go.write_bytes(b"")


@pytest.fixture
def held(
    start_server: Start, tmp_path: Path, new_id: Callable[[], str], bundle: Callable[..., str]
) -> HeldCreate:
    return HeldCreate(start_server, tmp_path, api.CreateRequest(id=new_id(), bundle=bundle("sleep", "600")))


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "status", "words"),
        [
            (["--bogus"], 2, "unrecognized arguments: --bogus"),
            (["--log-level", "loud"], 2, "--log-level"),
            (["--socket"], 2, "--socket"),
            (["--runtime", "no-such-runtime"], 1, "no-such-runtime"),
            (["--runtime", "/etc/passwd"], 1, "/etc/passwd"),
            (["--socket", "/nowhere/s"], 1, "/nowhere: no such directory"),
            (["--socket", "/sys/s"], 1, "/sys: the socket may not be made there"),
            (["--socket", "/etc/passwd"], 1, "/etc/passwd exists and is not a socket"),
            (["--socket", ""], 1, "not a path"),
            (["--socket", "@shim"], 1, "abstract"),
            (["--socket", "/nowhere\n/s"], 1, "no such directory"),
        ],
    )
    def test_an_error_of_use_is_one_line(self, arguments: list[str], status: int, words: str) -> None:
        result = run(*arguments)

        assert (result.returncode, result.stdout) == (status, "")
        assert re.fullmatch(r"shimpy: .*\n", result.stderr), result.stderr
        assert words in result.stderr

    async def test_a_socket_that_is_in_use(self, server: Server) -> None:
        result = run("--socket", str(server.socket))

        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == f"shimpy: {server.socket}: a server is listening there already\n"

    @pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
    def test_what_is_asked_for_goes_to_stdout(self, arguments: list[str]) -> None:
        result = run(*arguments)

        assert (result.returncode, result.stderr) == (0, "")
        assert "shimpy" in result.stdout

    def test_without_a_path_the_socket_is_where_containerd_looked_for_it(self, tmp_path: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "shimpy"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert f"serving on {tmp_path}/shim.sock\n" in process.stderr.readline()
            assert os.listdir(tmp_path) == ["shim.sock"]
            process.terminate()
        assert process.returncode == 0
        assert os.listdir(tmp_path) == []

    @pytest.mark.unmeasured
    def test_an_unprivileged_user_gets_one_line(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        result = as_user(
            65534,
            "import sys, shimpy.daemon.main, shimpy.daemon.serve, shimpy.services.shim_v1",
            f"from shimpy.__main__ import main; sys.exit(main(['--socket', '{tmp_path}/s']))",
        )

        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(r"shimpy: .*may not be made there.*\n", result.stderr)


class TestWhoMayConnect:
    async def test_the_socket_is_its_owner_s(self, server: Server) -> None:
        assert server.socket.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("uid", [65534, 1000])
    async def test_another_user_is_refused_even_if_the_mode_lets_him_in(
        self, server: Server, uid: int
    ) -> None:
        server.directory.chmod(0o755)
        server.socket.chmod(0o666)
        attempt = as_user(
            uid,
            "import socket",
            "client = socket.socket(socket.AF_UNIX)",
            f"client.connect('{server.socket}')",
            "try: print(client.recv(1))",
            "except ConnectionError: print(b'')",
        )

        assert attempt.stdout == "b''\n", attempt.stderr
        assert await server.stub().state(api.StateRequest()) == api.StateResponse()
        assert f"belongs to user {uid}" in server.stderr

    async def test_there_is_no_abstract_socket(self, server: Server) -> None:
        inodes = {
            link.partition("[")[2][:-1]
            for link in leaks.descriptors(server.pid).values()
            if link.startswith("socket:")
        }
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        names = {line[7] for line in lines if len(line) > 7 and line[6] in inodes}

        assert names == {str(server.socket)}


class TestInheritance:
    @pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
    async def test_signals_that_were_ignored_or_blocked(self, start_server: Start, number: int) -> None:
        def hostile() -> None:
            signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {number, signal.SIGUSR1, signal.SIGTERM})

        server = start_server(preexec_fn=hostile)
        await server.stub().state(api.StateRequest())
        found = masks(server.pid)

        assert found["SigBlk"] == 0
        # What Python itself ignores, and gives back to its children: SIGPIPE, SIGXFSZ.
        assert found["SigIgn"] == 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
        assert await server.terminated() == 0

    async def test_nohup_keeps_its_meaning(self, start_server: Start) -> None:
        server = start_server(before=["nohup"])
        server.process.send_signal(signal.SIGHUP)

        assert await server.stub().state(api.StateRequest()) == api.StateResponse()

    async def test_the_umask_and_the_limit_of_files(self, start_server: Start) -> None:
        def hostile() -> None:
            os.umask(0o177)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))

        server = start_server(preexec_fn=hostile)

        assert masks(server.pid)["Umask"] == 0o022
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (4096, 4096)
        assert server.socket.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("missing", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
    async def test_without_standard_descriptors(self, start_server: Start, missing: str) -> None:
        server = start_server(before=["sh", "-c", f'exec "$@" {missing}', "sh"])

        assert await server.stub().state(api.StateRequest()) == api.StateResponse()
        links = leaks.descriptors(server.pid)
        assert all(links[number] == "/dev/null" for number in range(3) if f"{number}>&-" in missing)
        assert await server.terminated() == 0

    async def test_it_has_one_thread(self, server: Server) -> None:
        await server.stub().state(api.StateRequest())

        assert masks(server.pid)["Threads"] == 1


class TestTheEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_ends_it(self, server: Server, number: int) -> None:
        await server.stub().state(api.StateRequest())
        server.process.send_signal(number)

        assert await asyncio.to_thread(server.process.wait, 10) == 0
        assert not server.socket.exists()
        assert "ended" in server.stderr

    async def test_streams_end_with_OK_within_3_s(  # noqa: N802
        self, server: Server, foreign: tuple[ModuleType, ModuleType]
    ) -> None:
        messages, stubs = foreign
        async with grpc.aio.insecure_channel(f"unix:{server.socket}") as channel:
            client = stubs.ShimStub(channel)
            streams = [client.Events(messages.EventsRequest()) for _ in range(rounds(100, 1_000))]
            for stream in streams:
                await stream.initial_metadata()
            start = time.monotonic()
            assert await server.terminated() == 0
            assert time.monotonic() - start < 3

            for stream in streams:
                assert [event async for event in stream] == []
                assert await stream.code() is grpc.StatusCode.OK

    async def test_peers_that_do_nothing_hold_up_nothing(self, server: Server) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                await stack.enter_async_context(connect(server.socket, begin=False))
                (await stack.enter_async_context(connect(server.socket))).request("Events")
            await server.stub().state(api.StateRequest())
            start = time.monotonic()
            assert await server.terminated() == 0
            assert time.monotonic() - start < 3

    @pytest.mark.parametrize("turn", range(rounds(2, 30)))
    async def test_in_the_middle_of_a_storm_every_call_gets_a_status(self, server: Server, turn: int) -> None:
        stubs = [server.stub() for _ in range(8)]

        async def calls(stub: api.ShimStub) -> None:
            await stub.state(api.StateRequest(), timeout=5)
            await stub.create(api.CreateRequest(id="x", bundle="/nowhere"), timeout=5)

        outcomes, seen = await self.ended_in_a_storm(server, stubs, calls, streams=4, until="NOT_FOUND")

        assert {*outcomes} <= {"NOT_FOUND", "UNAVAILABLE", *CLOSED}, outcomes
        assert seen == [[]] * 8

    async def test_in_the_middle_of_real_work(
        self, server: Server, new_id: Callable[[], str], bundle: Callable[..., str]
    ) -> None:
        stubs = [server.stub() for _ in range(6)]
        container = new_id()
        await stubs[0].create(api.CreateRequest(id=container, bundle=bundle("sleep", "600")))
        await stubs[0].start(api.StartRequest())

        async def calls(stub: api.ShimStub) -> None:
            executed = await stub.exec(api.ExecRequest(args=["/bin/true"]))
            await stub.delete(api.DeleteRequest(pid=executed.pid))

        try:
            outcomes, seen = await self.ended_in_a_storm(server, stubs, calls, streams=2, until="OK")
        finally:
            containers.remove(container)

        assert {*outcomes} <= {"OK", "UNAVAILABLE", *CLOSED}, outcomes
        # All have seen the same, to the end, after what the first was told of what it had missed.
        first, *others = sorted(seen, key=len, reverse=True)
        assert [event.type for event in first[:2]] == [api.EventType.CREATE, api.EventType.START]
        assert others == [first[2:]] * 5

    async def ended_in_a_storm(
        self,
        server: Server,
        stubs: list[api.ShimStub],
        calls: Callable[[api.ShimStub], Awaitable[None]],
        *,
        streams: int,
        until: str,
    ) -> tuple[collections.Counter[str], list[list[api.Event]]]:
        """Ends a server by SIGTERM while it is called, and fails unless it does so in time, streams and all.

        Args:
            server: the server.
            stubs: clients, each of which also follows the events.
            calls: what each of them does over and over.
            streams: how often each does it at a time.
            until: an outcome; when there have been 20 of it the signal is sent.

        Returns:
            How often there was which outcome, and the events that each client has seen.
        """
        outcomes: collections.Counter[str] = collections.Counter()

        async def storm(stub: api.ShimStub) -> None:
            while "UNAVAILABLE" not in outcomes:
                try:
                    await calls(stub)
                    outcomes["OK"] += 1
                except GRPCError as error:
                    outcomes[error.status.name] += 1
                except (OSError, StreamTerminatedError) as error:
                    # A call that was made when the connection had just been closed.
                    outcomes[type(error).__name__] += 1
                    return

        recorders = [Recorder(stub) for stub in stubs]
        for each in recorders:
            await each.subscribed()
        storming = [asyncio.create_task(storm(stub)) for stub in stubs * streams]
        while outcomes[until] < 20:
            await asyncio.sleep(0.01)
        start = time.monotonic()
        assert await server.terminated() == 0
        assert time.monotonic() - start < 3
        # grpclib forgets the end of a stream that it reads in one go with the GOAWAY after it.
        ends = [await each.ended() for each in recorders]
        assert [
            end for end in ends if end and "GOAWAY frame, closing connection; error_code: 0" not in str(end)
        ] == []
        await asyncio.gather(*storming)
        return outcomes, [each.seen for each in recorders]

    async def test_a_call_under_way_is_answered(self, held: HeldCreate) -> None:
        async with held.under_way() as creating:
            held.server.process.send_signal(signal.SIGTERM)
            await leaks.eventually(lambda: "shutting down" in held.server.stderr)
            assert not creating.done()
            held.let_go()

            assert (await creating).pid
        assert await asyncio.to_thread(held.server.process.wait, 10) == 0

    async def test_another_server_can_take_the_place_while_a_call_is_under_way(
        self, held: HeldCreate
    ) -> None:
        async with held.under_way() as creating:
            held.server.process.send_signal(signal.SIGTERM)
            await leaks.eventually(lambda: not held.server.socket.exists())
            place = unix.listen(str(held.server.socket))

            assert not creating.done()
            held.let_go()
            await creating
        assert await asyncio.to_thread(held.server.process.wait, 10) == 0
        # The first one did not take the second one's socket with it.
        assert held.server.socket.exists()
        place.remove()
        place.socket.close()

    def test_an_end_that_hangs_is_cut_short_within_3_s(self, tmp_path: Path) -> None:
        program = """
import asyncio, os, signal, sys
from shimpy.daemon.serve import serve
from shimpy.services.shim_v1 import Shim
from tests.support.clock import leap

class Stuck(Shim):
    def open(self):
        super().open()
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)

    async def aclose(self):
        leap(3)
        await asyncio.Event().wait()

asyncio.run(serve(Stuck(), sys.argv[1]))
"""
        ended = subprocess.run(
            [sys.executable, "-c", program, tmp_path / "s"],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )

        assert ended.returncode == 0
        assert "what is left is abandoned" in ended.stderr

    async def test_the_second_signal_ends_it_at_once(self, start_server: Start, tmp_path: Path) -> None:
        # A runtime that hangs keeps the first from ending before the second comes.
        runtime = tmp_path / "runtime"
        runtime.write_text('#!/bin/sh\ncase "$*" in *version*) exit;; esac\n: >"$0.hangs"; exec sleep 60\n')
        runtime.chmod(0o755)
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        (bundle / "config.json").write_text('{"ociVersion": "1.0.2", "process": {"args": ["x"], "cwd": "/"}}')
        server = start_server("--runtime", str(runtime))
        stub = server.stub()
        request = api.CreateRequest(id=f"shimpy-test-{os.getpid()}", bundle=str(bundle))
        creating = asyncio.create_task(stub.create(request))
        await leaks.eventually((tmp_path / "runtime.hangs").exists)
        children = list(leaks.children(server.pid))

        server.process.send_signal(signal.SIGTERM)
        while "shutting down" not in server.stderr:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)

        assert await asyncio.to_thread(server.process.wait, 10) == 128 + signal.SIGTERM
        assert not server.socket.exists()
        with pytest.raises(StreamTerminatedError):
            await creating
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    async def test_one_that_was_killed_is_replaced(self, start_server: Start) -> None:
        server = start_server()
        server.process.kill()
        server.process.wait()
        assert server.socket.exists()
        with subprocess.Popen(
            [sys.executable, "-m", "shimpy", "--socket", str(server.socket)],
            stderr=subprocess.PIPE,
            text=True,
        ) as successor:
            assert successor.stderr is not None
            assert "serving on" in successor.stderr.readline()
            successor.terminate()
        assert successor.returncode == 0


class TestServiceManager:
    @pytest.mark.parametrize("abstract", [False, True])
    async def test_it_is_told(self, start_server: Start, tmp_path: Path, abstract: bool) -> None:
        name = f"shimpy-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(20)
            manager.bind(f"\0{name}" if abstract else str(tmp_path / "notify"))
            address = f"@{name}" if abstract else str(tmp_path / "notify")
            server = start_server(environment={"NOTIFY_SOCKET": address})

            assert manager.recv(100) == b"READY=1"
            await server.terminated()
            assert manager.recv(100) == b"STOPPING=1"

    @pytest.mark.parametrize("address", ["/nowhere", "nonsense", "@nobody", "", "/" + "x" * 200])
    async def test_one_that_does_not_listen_is_no_hindrance(self, start_server: Start, address: str) -> None:
        server = start_server(environment={"NOTIFY_SOCKET": address})

        assert await server.stub().state(api.StateRequest()) == api.StateResponse()


class TestLog:
    async def test_each_call_is_a_line_of_JSON(self, start_server: Start) -> None:  # noqa: N802
        server = start_server("--log-format", "json", "--log-level", "debug")
        stub = server.stub()
        await stub.state(api.StateRequest())
        with pytest.raises(GRPCError):
            await stub.create(api.CreateRequest(id="a\nb"))
        await server.terminated()

        lines = [json.loads(line) for line in server.stderr.splitlines()]
        calls = [line for line in lines if line["logger"] == "shimpy.rpc"]
        assert [(line["method"].rpartition("/")[2], line["status"], line["peer"]) for line in calls] == [
            ("State", "OK", os.getpid()),
            ("Create", Status.INVALID_ARGUMENT.name, os.getpid()),
        ]
        assert all(0 <= line["ms"] < 10_000 for line in calls)
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)

    async def test_at_info_calls_are_not_logged(self, server: Server) -> None:
        await server.stub().state(api.StateRequest())

        assert "shimpy.rpc" not in server.stderr
        assert f"info shimpy.daemon.serve: serving on {server.socket}\n" in server.stderr

    async def test_a_stderr_that_nobody_reads_holds_up_nothing(self, start_server: Start) -> None:
        reader, writer = os.pipe()
        # The smallest pipe there is; then it is full.
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        server = start_server(
            "--log-level", "debug", before=["bash", "-c", f'exec "$@" 2>&{writer}', "bash"], pass_fds=[writer]
        )
        os.close(writer)
        stub = server.stub()
        for _ in range(200):
            await stub.state(api.StateRequest(), timeout=10)
        first = os.read(reader, 65_536)
        await stub.state(api.StateRequest(), timeout=10)
        second = os.read(reader, 65_536)
        os.close(reader)
        await stub.state(api.StateRequest(), timeout=10)

        assert b"serving on" in first
        assert re.search(rb"warning shimpy.daemon.logs: \d+ lines were dropped", second)
        assert await server.terminated() == 0


async def test_a_real_process_is_what_it_was_after_a_flood(server: Server) -> None:
    def memory() -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())[1])  # type: ignore[index]

    async def resets(number: int) -> None:
        async with connect(server.socket) as client:
            for n in range(number):
                client.http.reset_stream(client.start())
                if n % 100 == 0:
                    client.flush()
                    await client.writer.drain()
            client.flush()
            assert await client.answer(client.request()) is not None

    def sockets() -> int:
        return sum(link.startswith("socket:") for link in leaks.descriptors(server.pid).values())

    await resets(500)
    before = memory(), sockets()
    stubs = [server.stub() for _ in range(rounds(2, 20))]
    for stub in stubs:
        await resets(4_500)
        with contextlib.suppress(GRPCError):
            await stub.create(api.CreateRequest(id="x" * 10_000_000))
    await stubs[0].state(api.StateRequest())

    assert memory() - before[0] < 4_000  # kB; grpclib alone keeps 38 MB of 5,000 resets
    await leaks.eventually(lambda: sockets() <= before[1] + len(stubs))
