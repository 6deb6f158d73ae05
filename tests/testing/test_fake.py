"""The fake runtime by itself: what it hands on, what it notes, and each fault that it can show."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from shimpy.testing import (
    COMMANDS,
    Call,
    Command,
    Console,
    Fails,
    FakeRuntime,
    Fault,
    Hang,
    PidFile,
    Prints,
    Signalled,
    error_line,
)
from tests.support.leaks import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Stands for the real runtime: prints its pid and arguments, and does as much of the work as the
# faults look at. It is a shell script that forks nothing, so that its pid is what was started.
STAND_IN = r"""#!/bin/sh
printf '%s\0' $$ "$@"
pid_file=
for word do
    case $word in --pid-file=*) printf %s 4711 >"${word#*=}" ;; esac
done
exit "${STAND_IN_STATUS:-0}"
"""

AWKWARD = [
    "",
    " ",
    "a b",
    "a\nb",
    "'",
    '"',
    "$(reboot)",
    "`reboot`",
    "\\n",
    "\\",
    "*",
    "~",
    "%s",
    "=",
    "é\u2028",
    os.fsdecode(b"\xff\xfe"),
]


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    path = tmp_path / "stand-in"
    path.write_text(STAND_IN)
    path.chmod(0o700)
    return str(path)


@pytest.fixture
def fake(tmp_path: Path, stand_in: str) -> Iterator[FakeRuntime]:
    with FakeRuntime(tmp_path, real=stand_in) as fake:
        yield fake


def run(fake: FakeRuntime, *argv: str) -> subprocess.CompletedProcess[bytes]:
    # In a directory that goes with it: some arguments are names of files, relative ones.
    directory = os.path.dirname(fake.path)
    return subprocess.run([fake.path, *argv], cwd=directory, capture_output=True, check=False, timeout=60)


def words(output: bytes) -> list[str]:
    """Returns the pid and the arguments that the stand-in printed."""
    return [os.fsdecode(word) for word in output.split(b"\0")[:-1]]


def worked(output: bytes) -> bool:
    return words(output)[1:] != []


def group_of(pid: int) -> list[int]:
    """Returns the live processes of a process group."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, _, group = file.read().rpartition(b")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == pid and state not in (b"Z", b"X"):
                found.append(int(entry))
    return found


def wait_until_called(fake: FakeRuntime, count: int) -> None:
    while len(fake.calls) < count:
        time.sleep(0.001)


class TestWithoutAFault:
    @pytest.mark.parametrize("word", AWKWARD)
    def test_hands_on_every_argument_as_it_is(self, fake: FakeRuntime, word: str) -> None:
        argv = ["--log", word, f"--root={word}", "create", "--bundle", word, f"-b={word}", word]

        result = run(fake, *argv)

        assert words(result.stdout)[1:] == argv
        assert fake.calls[0].argv == tuple(argv)

    def test_becomes_the_real_runtime(self, fake: FakeRuntime) -> None:
        with subprocess.Popen([fake.path, "start", "web"], stdout=subprocess.PIPE) as process:
            output, _ = process.communicate()

        assert words(output)[0] == str(process.pid)
        assert fake.calls == [Call("start", ("start", "web"), process.pid)]

    def test_hands_on_the_exit_status(self, fake: FakeRuntime) -> None:
        result = subprocess.run(
            [fake.path, "start", "web"],
            env={**os.environ, "STAND_IN_STATUS": "42"},
            capture_output=True,
            check=False,
        )

        assert result.returncode == 42

    def test_changes_nothing_of_what_a_process_inherits(self, tmp_path: Path) -> None:
        probe = (
            "import os, signal, sys\n"
            "status = open('/proc/self/status').read().splitlines()\n"
            # Not SigQ: that counts what is queued for all processes of the user.
            "kept = ('Umask', 'SigBlk', 'SigIgn', 'SigCgt')\n"
            "print([line for line in status if line.startswith(kept)])\n"
            "print(sorted(os.environb.items()), os.getcwd())\n"
            "print([os.readlink(f'/proc/self/fd/{fd}') for fd in range(3)])\n"
            "print(os.listdir('/proc/self/fd'), sys.stdin.read())\n"
        )
        names = ("command", "directory", "hold", "log", "real", "word", "ENV")
        results = []
        with (
            FakeRuntime(tmp_path, real=sys.executable) as fake,
            open(tmp_path / "out", "w+b") as output,
        ):
            for program in (sys.executable, fake.path):
                output.truncate(0)
                subprocess.run(
                    [program, "-ISc", probe],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # PWD is what a shell puts right.
                    env={**os.environ, **dict.fromkeys(names, "x y"), "PWD": str(tmp_path)},
                    cwd=tmp_path,
                    umask=0o027,
                    check=True,
                    restore_signals=False,
                )
                results.append((tmp_path / "out").read_bytes().strip(b"\0"))

        assert results[1] == results[0]

    def test_starts_quickly(self, fake: FakeRuntime) -> None:
        taken = []
        for _ in range(20):
            before = time.perf_counter()
            run(fake, "start", "web")
            taken.append(time.perf_counter() - before)

        assert min(taken) < 0.02

    def test_has_the_name_of_the_real_runtime(self, fake: FakeRuntime, stand_in: str) -> None:
        assert os.path.basename(fake.path) == os.path.basename(stand_in)

    def test_works_from_a_directory_with_any_name(self, tmp_path: Path, stand_in: str) -> None:
        for name in AWKWARD[1:]:
            directory = tmp_path / name / ("long" * 40)
            directory.mkdir(parents=True)
            real = directory / name
            real.write_text(STAND_IN)
            real.chmod(0o700)
            with FakeRuntime(directory, real=str(real)) as fake:
                assert words(run(fake, "start", "web").stdout)[1:] == ["start", "web"]
                fake.fault("start", Fails(status=9))
                assert run(fake, "start", "web").returncode == 9

    def test_with_nothing_behind_it_succeeds_and_does_nothing(self, tmp_path: Path) -> None:
        with FakeRuntime(tmp_path, real=None) as fake:
            result = run(fake, "start", "web")

        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")

    def test_a_real_runtime_that_is_not_there_is_said_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no-such-runtime"):
            FakeRuntime(tmp_path, real="no-such-runtime")

        assert list(tmp_path.iterdir()) == []


class TestCalls:
    @pytest.mark.parametrize(
        ("argv", "command"),
        [
            (["start", "create"], "start"),
            (["--root", "create", "start", "web"], "start"),
            (["--root=create", "start", "web"], "start"),
            (["--root", "", "start", "web"], "start"),
            (["--log", "exec", "--log-format", "json", "start", "web"], "start"),
            (["--log=exec", "--log-format=json", "--debug", "start", "web"], "start"),
            (["--systemd-cgroup", "--rootless", "auto", "--criu", "kill", "start", "x"], "start"),
            (["--cgroup-manager", "delete", "start", "web"], "start"),
            (["-root", "create", "start", "web"], "start"),
            (["--", "start", "web"], "start"),
            (["kill", "--all", "web", "KILL"], "kill"),
            (["--version"], ""),
            ([], ""),
            (["state", "web"], "state"),
            (["../start"], "../start"),
        ],
    )
    def test_the_command_is_the_first_word_that_is_no_option_nor_its_value(
        self, fake: FakeRuntime, argv: list[str], command: str
    ) -> None:
        for each in COMMANDS:
            fake.fault(each, Fails(status=77))

        status = run(fake, *argv).returncode

        assert [(call.command, call.argv) for call in fake.calls] == [(command, tuple(argv))]
        assert status == (77 if command in COMMANDS else 0)

    def test_are_in_the_order_in_which_they_began(self, fake: FakeRuntime) -> None:
        for command in COMMANDS:
            run(fake, command, "web")

        assert [call.command for call in fake.calls] == list(COMMANDS)

    def test_that_run_side_by_side_are_all_noted_whole(self, fake: FakeRuntime) -> None:
        argvs = [("exec", str(number), "x" * 2000) for number in range(60)]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda argv: run(fake, *argv), argvs))

        assert sorted(call.argv for call in fake.calls) == sorted(argvs)


FAULTS: list[tuple[Fault, int, bool]] = [
    (Hang(seconds=0.01), 0, True),
    (Hang(seconds=0.01, after=True), 0, True),
    (Hang(seconds=0.01, ignore_sigterm=True), 0, True),
    (Signalled(signal.SIGKILL), -signal.SIGKILL, False),
    (Signalled(signal.SIGSEGV), -signal.SIGSEGV, False),
    (Signalled(signal.SIGTERM, after=True), -signal.SIGTERM, True),
    (Fails(), 1, False),
    (Fails(status=0), 0, False),
    (Fails(status=255, after=True), 255, True),
    (Prints(), 0, True),
]


class TestEachFault:
    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize(("fault", "status", "works"), FAULTS, ids=str)
    def test_for_each_command(
        self, fake: FakeRuntime, command: Command, fault: Fault, status: int, works: bool
    ) -> None:
        fake.fault(command, fault)

        result = run(fake, command, "web")

        assert result.returncode == status
        assert worked(result.stdout) == works

    def test_none_touches_another_command(self, fake: FakeRuntime) -> None:
        fake.fault("exec", Fails())

        assert [run(fake, command, "web").returncode for command in COMMANDS] == [
            1 if command == "exec" else 0 for command in COMMANDS
        ]

    def test_a_new_one_takes_the_place_of_the_old(self, fake: FakeRuntime) -> None:
        fake.fault("exec", Fails(status=3))
        first = run(fake, "exec", "web")
        fake.fault("exec", Fails(status=4))
        second = run(fake, "exec", "web")

        assert (first.returncode, second.returncode) == (3, 4)

    def test_can_be_cleared_one_by_one_and_all_together(self, fake: FakeRuntime) -> None:
        for command in COMMANDS:
            fake.fault(command, Fails())

        fake.clear("exec")
        after_one = [run(fake, command, "web").returncode for command in COMMANDS]
        fake.clear()
        after_all = [run(fake, command, "web").returncode for command in COMMANDS]

        assert after_one == [0 if command == "exec" else 1 for command in COMMANDS]
        assert after_all == [0] * len(COMMANDS)

    def test_a_change_while_commands_run_is_seen_whole_or_not_at_all(self, fake: FakeRuntime) -> None:
        huge = Fails(log=b"x" * 100_000, status=3)

        with ThreadPoolExecutor(4) as pool:
            results = [pool.submit(run, fake, "exec", "web") for _ in range(100)]
            while not all(result.done() for result in results):
                fake.fault("exec", huge)
                fake.clear("exec")

        assert {(r.result().returncode, r.result().stderr) for r in results} <= {(0, b""), (3, b"")}

    def test_holds_so_many_times_and_then_works(self, fake: FakeRuntime) -> None:
        for command in COMMANDS:
            fake.fault(command, Fails(), times=2)

        statuses = [[run(fake, c, "web").returncode for c in COMMANDS] for _ in range(3)]

        assert statuses == [[1] * len(COMMANDS)] * 2 + [[0] * len(COMMANDS)]

    def test_so_many_times_counts_commands_that_run_side_by_side(self, fake: FakeRuntime) -> None:
        fake.fault("exec", Fails(), times=7)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: run(fake, "exec", "web"), range(40)))

        assert sum(result.returncode for result in results) == 7
        assert {result.stderr for result in results} == {b""}

    def test_so_many_times_counts_anew_when_set_again(self, fake: FakeRuntime) -> None:
        statuses = []
        for _ in range(2):
            fake.fault("exec", Fails(), times=1)
            statuses += [run(fake, "exec", "web").returncode for _ in range(2)]

        assert statuses == [1, 0, 1, 0]

    def test_a_call_that_is_killed_as_soon_as_it_is_seen_has_had_its_turn(self, fake: FakeRuntime) -> None:
        for turn in range(20):
            fake.fault("exec", Hang(), times=1)
            killed = subprocess.Popen([fake.path, "exec", "web"])
            while len(fake.calls) < 2 * turn + 1:
                pass  # wait_until_called would give it time
            killed.kill()
            killed.wait()

            assert run(fake, "exec", "web").returncode == 0

    def test_a_command_that_no_fault_can_be_set_for_is_refused(self, fake: FakeRuntime) -> None:
        with pytest.raises(ValueError, match="features"):
            fake.fault("features", Fails())  # type: ignore[arg-type]


class TestHang:
    def start(self, fake: FakeRuntime) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([fake.path, "exec", "web"], stdout=subprocess.PIPE, process_group=0)
        wait_until_called(fake, 1)
        return process

    def test_goes_on_once_it_is_released(self, fake: FakeRuntime) -> None:
        fake.fault("exec", Hang())
        with self.start(fake) as process:
            assert process.poll() is None
            fake.release()
            output, _ = process.communicate(timeout=10)

        assert words(output) == [str(process.pid), "exec", "web"]

    def test_after_the_work_tells_its_result_once_it_is_released(
        self, tmp_path: Path, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STAND_IN_STATUS", "5")
        fake.fault("exec", Hang(after=True))
        with self.start(fake) as process:
            assert process.stdout is not None
            output = b""
            while output.count(b"\0") < 3:
                output += os.read(process.stdout.fileno(), 4096)
            assert words(output)[1:] == ["exec", "web"]
            assert process.poll() is None
            fake.release()

            assert process.wait(timeout=10) == 5

    def test_holds_its_children_and_its_output_until_the_group_is_killed(self, fake: FakeRuntime) -> None:
        fake.fault("exec", Hang(ignore_sigterm=True, children=2))
        with self.start(fake) as process:
            while len(group_of(process.pid)) < 3:
                time.sleep(0.001)
            os.killpg(process.pid, signal.SIGTERM)
            process.kill()
            process.wait(timeout=10)

            assert len(group_of(process.pid)) == 2
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 0) == ([], [], [])
            os.killpg(process.pid, signal.SIGKILL)
            assert process.stdout.read() == b""

    def test_does_not_make_the_real_runtime_ignore_signals(self, tmp_path: Path) -> None:
        with FakeRuntime(tmp_path, real="/bin/sh") as fake:
            link = tmp_path / "exec"
            link.write_text("grep SigIgn /proc/self/status")
            fake.fault("exec", Hang(seconds=0, ignore_sigterm=True))
            result = subprocess.run([fake.path, "exec"], cwd=tmp_path, capture_output=True, check=True)

        assert int(result.stdout.split()[1], 16) & (1 << (signal.SIGTERM - 1)) == 0

    def test_outlives_neither_the_fake_runtime_nor_its_maker(self, tmp_path: Path) -> None:
        maker = (
            "import subprocess, sys\n"
            "from shimpy.testing import FakeRuntime, Hang\n"
            "fake = FakeRuntime(sys.argv[1], real=None)\n"
            "fake.fault('exec', Hang(children=1))\n"
            "subprocess.Popen([fake.path, 'exec'], process_group=0)\n"
            "while not fake.calls: pass\n"
            "print(fake.calls[0].pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", maker, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            hung = int(process.stdout.readline())
            assert hung in group_of(hung)
            process.kill()
            # The rest of what hangs holds the output: EOF says that all of it has ended.
            assert process.stdout.read() == b""

    def test_hangs_no_more_once_its_maker_has_died(self, tmp_path: Path) -> None:
        maker = (
            "import os, signal, sys\n"
            "from shimpy.testing import FakeRuntime, Hang\n"
            "fake = FakeRuntime(sys.argv[1], real=None)\n"
            "fake.fault('exec', Hang(children=1))\n"
            "print(fake.path, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        died = subprocess.run(
            [sys.executable, "-c", maker, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False
        )

        # The child that hangs with it would hold the output.
        result = subprocess.run([died.stdout.strip(), "exec"], capture_output=True, timeout=10, check=False)
        assert (result.returncode, result.stderr) == (0, b"")

    def test_closing_lets_go_and_removes_everything(self, tmp_path: Path, stand_in: str) -> None:
        fake = FakeRuntime(tmp_path, real=stand_in)
        fake.fault("exec", Hang(children=1))
        with self.start(fake) as process:
            fake.close()
            fake.close()
            process.communicate(timeout=10)

        assert [path.name for path in tmp_path.iterdir()] == ["stand-in"]
        assert [path for path in descriptors().values() if path.startswith(str(tmp_path))] == []


class TestWhatItWrites:
    @pytest.mark.parametrize(
        "log",
        [
            b"",
            b"\n",
            error_line("no such file"),
            error_line("no such file")[:-9],
            error_line("huge " + "x" * 1_000_000),
            b"\xff\xfe\x00garbage '\"$(reboot)%s\\n",
            bytes(range(256)),
        ],
        ids=["nothing", "newline", "error", "cut off", "huge", "garbage", "every byte"],
    )
    def test_the_log_holds_exactly_what_was_asked_for(
        self, tmp_path: Path, fake: FakeRuntime, log: bytes
    ) -> None:
        path = tmp_path / "the log"
        path.write_bytes(b"before\n")
        fake.fault("create", Fails(log=log, stderr=log))

        result = run(fake, "--log", str(path), "--log-format", "json", "create", "web")

        assert path.read_bytes() == b"before\n" + log
        assert result.stderr == log

    def test_no_log_is_no_problem(self, fake: FakeRuntime) -> None:
        fake.fault("create", Fails(log=b"x", status=3))

        assert run(fake, "create", "web").stderr == b""

    def test_an_error_line_is_what_runc_writes(self) -> None:
        line = error_line('a "quoted"\nmessage')

        assert line.endswith(b"}\n")
        assert json.loads(line)["level"] == "error"
        assert json.loads(line)["msg"] == 'a "quoted"\nmessage'

    def test_prints_as_much_as_it_is_told_to(self, fake: FakeRuntime) -> None:
        fake.fault("create", Prints(stdout=5_000_000, stderr=3_000_001))

        result = run(fake, "create", "web")

        printed = result.stdout[:5_000_000]
        assert printed.count(b"x" * 63 + b"\n") == 5_000_000 // 64
        assert words(result.stdout[5_000_000:])[1:] == ["create", "web"]
        assert len(result.stderr) == 3_000_001

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("", ""),
            ("0", "0"),
            ("-1", "-1"),
            ("99999999999999999999", "99999999999999999999"),
            ("{pid}\n", "4711\n"),
            (" {pid} {pid}x'\"\\é", " 4711 4711x'\"\\é"),
        ],
    )
    def test_the_pid_file_holds_what_was_asked_for(
        self, tmp_path: Path, fake: FakeRuntime, content: str, expected: str
    ) -> None:
        path = tmp_path / "the pid-file"
        fake.fault("create", PidFile(content))

        result = run(fake, "create", f"--pid-file={path}", "web")

        assert (result.returncode, worked(result.stdout)) == (0, True)
        assert path.read_text() == expected

    def test_there_is_no_pid_file(self, tmp_path: Path, fake: FakeRuntime) -> None:
        fake.fault("create", PidFile(None))

        result = run(fake, "create", f"--pid-file={tmp_path}/pid", "web")

        assert (result.returncode, worked(result.stdout)) == (0, True)
        assert not (tmp_path / "pid").exists()

    def test_a_pid_file_is_left_alone_when_the_work_fails(
        self, tmp_path: Path, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STAND_IN_STATUS", "6")
        fake.fault("create", PidFile("1"))

        result = run(fake, "create", f"--pid-file={tmp_path}/pid", "web")

        assert result.returncode == 6
        assert (tmp_path / "pid").read_text() == "4711"


# Stands for a real runtime that hands over its console, which for this purpose is /dev/zero.
CONSOLE_STAND_IN = """\
import os, socket, sys
path = sys.argv[sys.argv.index("--console-socket") + 1]
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    socket.send_fds(connection, [b"/dev/zero"], [os.open("/dev/zero", os.O_RDWR)])
"""


class TestConsole:
    @pytest.fixture
    def console_fake(self, tmp_path: Path) -> Iterator[FakeRuntime]:
        real = tmp_path / "real"
        real.write_text(f"#!{sys.executable} -IS\n{CONSOLE_STAND_IN}")
        real.chmod(0o700)
        with FakeRuntime(tmp_path, real=str(real)) as fake:
            yield fake

    def received(self, fake: FakeRuntime, path: Path) -> tuple[int, list[tuple[bytes, list[int]]]]:
        """Runs create with a console socket; returns its status and what each connection sent."""
        messages: list[tuple[bytes, list[int]]] = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            result = run(fake, "create", "--console-socket", str(path), "web")
            listener.setblocking(False)
            while True:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    return result.returncode, messages
                with connection:
                    connection.setblocking(True)
                    data, descriptors, _, _ = socket.recv_fds(connection, 100, 4)
                    devices = []
                    for descriptor in descriptors:
                        devices.append(os.fstat(descriptor).st_rdev)
                        os.close(descriptor)
                    messages.append((data, devices))

    def test_reaches_its_socket_without_a_fault(self, console_fake: FakeRuntime, tmp_path: Path) -> None:
        zero = os.stat("/dev/zero").st_rdev

        assert self.received(console_fake, tmp_path / "s") == (0, [(b"/dev/zero", [zero])])

    def test_faults(self, console_fake: FakeRuntime, tmp_path: Path) -> None:
        null = os.stat("/dev/null").st_rdev
        results = {}
        for fault in (
            Console("no connection"),
            Console("nothing"),
            Console("text"),
            Console("a file"),
        ):
            console_fake.fault("create", fault)
            results[fault.sends] = self.received(console_fake, tmp_path / fault.sends)

        assert results == {
            "no connection": (0, []),
            "nothing": (0, [(b"", [])]),
            "text": (0, [(b"/dev/ptmx", [])]),
            "a file": (0, [(b"/dev/ptmx", [null])]),
        }

    def test_without_a_console_socket_nothing_is_different(self, fake: FakeRuntime) -> None:
        fake.fault("create", Console("nothing"))

        assert words(run(fake, "create", "web").stdout)[1:] == ["create", "web"]


def test_nobody_else_can_use_or_read_it(fake: FakeRuntime) -> None:
    mode = os.stat(fake.path).st_mode

    assert stat.S_IMODE(mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.dirname(os.path.dirname(fake.path))).st_mode) == 0o700
