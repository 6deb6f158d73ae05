"""The command line, in a real pseudo-terminal and in pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pexpect
import pytest

from shimpy.core.registry import programs
from tests.support import bundles, containers, leaks, residue
from tests.support.commandline import command_line, without_advice
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

_SHIMPY = str(Path(sys.executable).with_name("shimpy"))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a command line to its end: `run("state", "-s", path, env=...)`; see support.commandline."""
    with command_line() as line:
        yield line.run


def _spawn(*args: str | Path, **options: str) -> pexpect.spawn[str]:
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    return pexpect.spawn(
        _SHIMPY,
        [str(arg) for arg in args],
        encoding="utf-8",
        timeout=20,
        env={**environment, **options},
        dimensions=(24, 80),
    )


def _settings(terminal: pexpect.spawn[str]) -> list[object]:
    return termios.tcgetattr(terminal.child_fd)


def _ended(terminal: pexpect.spawn[str]) -> int | None:
    terminal.expect(pexpect.EOF)
    terminal.wait()
    return terminal.exitstatus


@pytest.fixture
def shell(rootfs: Path) -> Iterator[pexpect.spawn[str]]:
    """`shimpy run -it` of a shell, at its prompt."""
    terminal = _spawn("run", "-it", "--env", "PS1=>>", rootfs, "sh")
    # A terminal answers where its cursor is; busybox's line editor asks.
    terminal.expect(">>")
    yield terminal
    terminal.close(force=True)


@pytest.fixture
def outer() -> Iterator[pexpect.spawn[str]]:
    """A shell in a terminal, as a user has it: it keeps the terminal when shimpy ends."""
    environment = {**os.environ, "PS1": "outer>"}
    terminal = pexpect.spawn("/bin/sh", ["-i"], encoding="utf-8", timeout=20, env=environment)
    terminal.expect("outer>")
    yield terminal
    terminal.close(force=True)


def test_shell_in_a_terminal(outer: pexpect.spawn[str], rootfs: Path) -> None:
    before = _settings(outer)
    outer.sendline(f"{_SHIMPY} run -it --env PS1=inn''er: {rootfs} sh")
    outer.expect("inner:")
    assert _settings(outer) != before
    outer.sendline("echo $((40 + 2)) $TERM")
    outer.expect("42 ")
    outer.sendline("exit 9")
    outer.expect("outer>")
    assert _settings(outer) == before
    outer.sendline("echo status=$?")
    outer.expect("status=9")


def test_terminal_has_this_ones_size_and_follows_it(shell: pexpect.spawn[str]) -> None:
    shell.sendline("stty size")
    shell.expect("24 80")
    shell.setwinsize(50, 132)
    shell.sendline("until stty size | grep '50 132'; do sleep 0.05; done")
    shell.expect("50 132\r")
    shell.sendline("exit 0")
    assert _ended(shell) == 0


def test_control_c_goes_to_the_process(shell: pexpect.spawn[str]) -> None:
    shell.sendline("sh -c 'echo ready; exec sleep 1000'")
    shell.expect("ready\r")
    shell.sendcontrol("c")
    shell.expect(">>")
    shell.sendline("exit 9")
    assert _ended(shell) == 9


def test_terminal_is_restored_when_the_shim_is_killed(
    outer: pexpect.spawn[str],
    blocking_server: Server,
    run: Run,
    bundle: Callable[..., str],
    new_id: Callable[[], str],
) -> None:
    container_id = new_id()
    run("create", "-s", blocking_server.socket, container_id, bundle("sleep", "1000000"))
    run("start", "-s", blocking_server.socket)
    before = _settings(outer)
    outer.sendline(f"{_SHIMPY} exec -s {blocking_server.socket} -it --env PS1=inn''er: sh")
    outer.expect("inner:")
    os.kill(blocking_server.pid, signal.SIGKILL)
    outer.expect("the shim cannot be reached")
    outer.expect("outer>")
    assert _settings(outer) == before
    outer.sendline("echo status=$?")
    outer.expect("status=125")
    containers.remove(container_id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_container_goes_with_the_command_line(
    number: signal.Signals, rootfs: Path, new_id: Callable[[], str]
) -> None:
    container_id = new_id()
    line = subprocess.Popen([_SHIMPY, "run", "--name", container_id, rootfs, "sleep", "1000000"])
    await leaks.eventually(lambda: residue.processes(container_id))
    line.send_signal(number)
    line.wait()

    def left() -> list[object]:
        owned = [one for one in programs() if (owner := one.owner()) and owner.pid == line.pid]
        return [*owned, *containers.left(container_id), *residue.cgroups(container_id)]

    await leaks.eventually(lambda: left() == [], within=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_terminal_is_restored_when_the_command_line_is_ended(
    number: signal.Signals, outer: pexpect.spawn[str], rootfs: Path
) -> None:
    before = _settings(outer)
    outer.sendline(f"{_SHIMPY} run -it --env PS1=inn''er: {rootfs} sh")
    outer.expect("inner:")
    (shimpy,) = leaks.children(outer.pid)
    os.kill(shimpy, number)
    outer.expect("outer>")
    assert _settings(outer) == before
    outer.sendline("echo status=$?")
    outer.expect(f"status={128 + number}")


def test_run_in_a_pipe(run: Run, rootfs: Path) -> None:
    done = run("run", "-i", rootfs, "sh", "-c", "cat; echo err >&2; exit 7", input="in\n")
    assert (done.stdout, done.stderr, done.returncode) == ("in\n", "err\n", 7)


def test_run_reads_a_file(run: Run, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(bytes(1_000_000))
    with (tmp_path / "input").open() as file:
        done = run("run", "-i", rootfs, "wc", "-c", stdin=file)
    assert (done.stdout, done.returncode) == ("1000000\n", 0)


def test_run_of_much_output(run: Run, rootfs: Path) -> None:
    done = run("run", rootfs, "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x")
    assert (len(done.stdout), done.returncode) == (3_000_000, 0)


def test_run_whose_reader_leaves(rootfs: Path) -> None:
    script = f"{_SHIMPY} run {rootfs} yes | head -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=50)
    assert (done.stdout, without_advice(done.stderr), done.returncode) == ("y\n", "", 0)


def test_run_of_a_bundle(run: Run, bundle: Callable[..., str]) -> None:
    assert run("run", bundle("sh", "-c", "exit 3")).returncode == 3


def test_run_passes_on_what_looks_like_an_option(run: Run, rootfs: Path) -> None:
    assert run("run", rootfs, "echo", "--help", "-t").stdout == "--help -t\n"


def test_run_is_interrupted(rootfs: Path) -> None:
    terminal = _spawn("run", rootfs, "sh", "-c", "echo ready; sleep 1000")
    terminal.expect("ready")
    terminal.sendcontrol("c")
    assert _ended(terminal) == 130


def test_a_second_signal_does_not_cut_the_end_short(rootfs: Path, new_id: Callable[[], str]) -> None:
    container_id = new_id()
    args = ["run", "--name", container_id, str(rootfs), "sh", "-c", "echo ready; sleep 1000"]
    with subprocess.Popen([_SHIMPY, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=50)
        assert (stdout, without_advice(stderr.decode())) == (b"", "")
    # The kernel may deliver the second on top of the first.
    assert process.returncode in {128 + signal.SIGINT, 128 + signal.SIGTERM}
    assert containers.left(container_id) == []


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [("no-such-program", 127, "no-such-program"), ("/bin/not-executable", 126, "permission denied")],
)
def test_run_of_what_cannot_berun(run: Run, program: str, status: int, said: str, rootfs: Path) -> None:
    done = run("run", rootfs, program)
    assert (done.stdout, done.returncode) == ("", status)
    assert re.fullmatch(rf"shimpy: .*{said}.*\n", done.stderr)


def test_errors_of_use_are_one_line(run: Run, rootfs: Path, tmp_path: Path) -> None:
    for args, status, said in [
        (("run",), 2, "root"),
        (("run", rootfs), 125, "args"),
        (("run", "--no-such", rootfs), 2, "--no-such"),
        (("run", "--env", "=value", rootfs, "true"), 2, "NAME=VALUE"),
        (("state", "--socket", tmp_path / "none.sock"), 9, "none.sock"),
        (("bundle", tmp_path / "b", "true"), 3, "rootfs"),
        (("no-such-command",), 2, "no-such-command"),
        (("exec", "--stdin", "in", "true"), 2, "--stdin needs --detach"),
        (("exec", "--stdout", "out", "true"), 2, "--stdout needs --detach"),
        (("exec", "--stderr", "err", "true"), 2, "--stderr needs --detach"),
        (("exec", "--json", "true"), 2, "--json needs --detach"),
        (("exec", "-di", "true"), 2, "--interactive does not go with --detach"),
        (("serve", "--no-such"), 2, "--no-such"),
    ]:
        done = run(*args)
        assert done.returncode == status, args
        assert done.stderr.count("\n") == 1, done.stderr
        assert said.lower() in done.stderr.lower()


async def test_life_of_a_container_over_a_socket(
    run: Run, server: Server, bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> None:
    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return run(*args, env={**os.environ, "SHIMPY_SOCKET": str(server.socket)})

    container_id = new_id()
    (tmp_path / "out").touch()
    created = call("create", container_id, bundle("sleep", "1000000"), "--json")
    pid = json.loads(created.stdout)["pid"]
    assert call("start").returncode == 0
    assert call("start").returncode == 5
    state = json.loads(call("state", "--json").stdout)
    assert (state["id"], state["pid"]) == (container_id, pid)
    assert state["processes"] == [{"pid": pid, "state": "RUNNING"}]
    assert call("state").stdout == f"{pid}\tRUNNING\tinit\t{container_id}\n"

    done = call("exec", "-u", "1000:1001,7", "-w", "/tmp", "sh", "-c", "pwd; id -u; id -G; exit 4")
    assert (done.stdout, done.stderr, done.returncode) == ("/tmp\n1000\n1001 7\n", "", 4)
    detached = call("exec", "-d", "--stdout", str(tmp_path / "out"), "sh", "-c", "echo to a file; sleep 1000")
    await leaks.eventually((tmp_path / "out").read_text)
    assert call("delete", detached.stdout.strip()).stdout == "137\n"
    assert (tmp_path / "out").read_text() == "to a file\n"
    assert call("exec", "no-such-program").returncode == 127

    assert call("pause").returncode == 0
    assert "PAUSED" in call("state").stdout
    assert call("resume").returncode == 0
    assert call("resize", str(pid), "80", "24").returncode == 5
    assert json.loads(call("delete", "--json").stdout) == {"exit_status": 137}
    assert call("delete").returncode == 3
    assert call("state").stdout == ""


async def test_exec_in_a_terminal(
    run: Run, server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    socket = str(server.socket)
    run("create", "-s", socket, new_id(), bundle("sleep", "1000000"))
    run("start", "-s", socket)
    terminal = _spawn("exec", "-s", socket, "-it", "sh", "-c", "read x; stty size; exit $x")
    terminal.sendline("6")
    terminal.expect("24 80")
    assert _ended(terminal) == 6
    state = _spawn("state", "-s", socket)
    state.expect(re.escape("\x1b[32mRUNNING"))
    plain = _spawn("state", "-s", socket, NO_COLOR="1")
    plain.expect("RUNNING")
    assert "\x1b[32m" not in (plain.before or "")
    run("delete", "-s", socket)


@pytest.mark.parametrize("detached", [False, True])
async def test_exec_adds_variables_to_those_of_the_container(
    run: Run,
    detached: bool,
    server: Server,
    bundle: Callable[..., str],
    new_id: Callable[[], str],
    tmp_path: Path,
) -> None:
    socket, out = str(server.socket), tmp_path / "out"
    out.touch()
    own = bundle("sleep", "1000000", env={"KEPT": "1", "CHANGED": "1"})
    run("create", "-s", socket, new_id(), own)
    run("start", "-s", socket)
    to: list[str | Path] = ["-d", "--stdout", out] if detached else []
    done = run("exec", "-s", socket, *to, "-e", "A=b", "-e", "CHANGED=2", "env")
    assert (done.stderr, done.returncode) == ("", 0)
    if detached:
        await leaks.eventually(lambda: "STOPPED" in run("state", "-s", socket).stdout)
    variables = (out.read_text() if detached else done.stdout).splitlines()
    assert {"A=b", "CHANGED=2", "KEPT=1", bundles.PATH} <= {*variables}
    assert "CHANGED=1" not in variables
    run("delete", "-s", socket)


async def test_events(
    run: Run, server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    socket, container_id = str(server.socket), new_id()
    pid = run("create", "-s", socket, container_id, bundle("sleep", "1000000")).stdout.strip()
    with subprocess.Popen(
        [_SHIMPY, "events", "-s", socket, "--json"], stdout=subprocess.PIPE, text=True
    ) as events:
        assert events.stdout is not None
        told = json.loads(events.stdout.readline())
        assert told == {"id": container_id, "type": "CREATE", "pid": int(pid), "exit_status": None}
        run("delete", "-s", socket)
        assert json.loads(events.stdout.readline())["exit_status"] == 137
        events.send_signal(signal.SIGINT)
        assert events.wait(20) == 130


async def test_events_whose_reader_leaves(
    run: Run, server: Server, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    socket = str(server.socket)
    with subprocess.Popen(
        [_SHIMPY, "events", "-s", socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as events:
        assert events.stdout is not None
        assert events.stderr is not None
        run("create", "-s", socket, new_id(), bundle("sleep", "1000000"))
        assert b"CREATE" in events.stdout.readline()
        events.stdout.close()
        run("delete", "-s", socket)
        assert (events.stderr.read(), events.wait(20)) == (b"", 128 + signal.SIGPIPE)


def test_output_that_nobody_reads(rootfs: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for args in [("--help",), ("bundle", str(tmp_path / "b"), "--rootfs", str(rootfs))]:
        done = subprocess.run(
            [_SHIMPY, *args], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=50
        )
        assert (done.stderr, done.returncode) == (b"", 128 + signal.SIGPIPE), args
    os.close(writer)


def test_output_that_cannot_be_written_is_one_line(rootfs: Path, tmp_path: Path) -> None:
    for args, status in [
        (("--help",), 1),
        (("bundle", str(tmp_path / "b1"), "--rootfs", str(rootfs)), 1),
        (("bundle", str(tmp_path / "b2"), "--rootfs", str(rootfs), "--json"), 1),
        (("run", str(rootfs), "echo"), 125),
    ]:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [_SHIMPY, *args], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=50
            )
        said = without_advice(done.stderr)
        assert (said, done.returncode) == ("shimpy: No space left on device\n", status), args


def test_serve_takes_what_the_module_takes(run: Run, tmp_path: Path) -> None:
    with subprocess.Popen([_SHIMPY, "serve", "--socket", tmp_path / "s", "--log-level", "error"]) as server:
        while not (tmp_path / "s").exists():
            assert server.poll() is None
        assert run("state", "-s", tmp_path / "s").returncode == 0
        server.terminate()
        assert server.wait(20) == 0


def test_bundle(run: Run, tmp_path: Path, rootfs: Path) -> None:
    done = run("bundle", tmp_path / "b", "--rootfs", rootfs, "--env", "A=b", "--", "echo", "-n", "hi")
    assert (done.stdout, done.returncode) == (f"{tmp_path / 'b'}\n", 0)
    process = json.loads((tmp_path / "b" / "config.json").read_text())["process"]
    assert (process["args"], process["terminal"]) == (["/dev/init", "--", "echo", "-n", "hi"], False)
    assert run("run", tmp_path / "b").stdout == "hi"
    assert run("bundle", tmp_path / "b", "--rootfs", rootfs).returncode == 4


def test_bundle_where_a_file_is(run: Run, tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "file").touch()
    done = run("bundle", tmp_path / "file", "--rootfs", rootfs)
    assert done.returncode != 0
    assert re.fullmatch(rf"shimpy: (?!.*Errno).*{tmp_path}/file.*\n", done.stderr)


def test_completion(run: Run) -> None:
    environment = {
        **os.environ,
        "_SHIMPY_COMPLETE": "complete_bash",
        "COMP_WORDS": "shimpy re",
        "COMP_CWORD": "1",
    }
    assert run(env=environment).stdout.split() == ["resume", "resize"]


def test_without_arguments_it_helps(run: Run) -> None:
    done = run()
    assert done.returncode == 2
    assert "run" in done.stdout + done.stderr


def test_interrupted_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    program = "import sys\nfrom shimpy.cli import main\nsys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", -signal.SIGINT)


def test_version() -> None:
    done = subprocess.run([_SHIMPY, "--version"], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"shimpy {metadata.version('shimpy')}\n", "")


@pytest.mark.unmeasured
@pytest.mark.parametrize("command", ["--version", "ps"])
def test_a_command_imports_only_what_it_needs(command: str) -> None:
    """Each costs every command a tenth of a second or so; pydantic is what newer versions of typer bring."""
    program = (
        f"import sys; sys.argv[1:] = [{command!r}]\nfrom shimpy.cli import main\nmain()\n"
        "print({'pydantic', 'grpclib', 'betterproto', 'ssl'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr == "set()\n"


def test_without_its_libraries_it_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['typer'] = None\nfrom shimpy.cli import main\nsys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "shimpy[cli]" in done.stderr
