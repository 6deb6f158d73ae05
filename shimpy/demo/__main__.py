"""What `make run` shows: one container from Create to Delete, each call with its answer and its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from shimpy.api import (
    CreateRequest,
    DeleteRequest,
    Event,
    EventType,
    ExecRequest,
    PauseRequest,
    PtyRequest,
    ResumeRequest,
    ShimStub,
    StartRequest,
    State,
    StateRequest,
)
from shimpy.client.connect import short_socket_path
from shimpy.demo.parts import Events, FailedError, Pipes, Report, expect

_CLEANUP_SECONDS = 5

_INIT = """
echo "hello from $(hostname), I am pid $$ of user $(id -u)"
while read -r line; do echo "you said: $line"; done
exit 7
"""


def _make_bundle(directory: Path, busybox: str) -> Path:
    """Makes an OCI bundle: busybox, its applets, and the runtime's own config.json with our program in it."""
    bundle = directory / "bundle"
    for name in ("bin", "dev", "proc", "sys"):
        (bundle / "rootfs" / name).mkdir(parents=True)
    shutil.copy(busybox, bundle / "rootfs/bin/busybox")
    for applet in ("cat", "echo", "hostname", "id", "nproc", "sh", "stty", "uname"):
        (bundle / "rootfs/bin" / applet).symlink_to("busybox")
    subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"args": ["sh", "-c", _INIT], "terminal": False}
    config["hostname"] = "shimpy-demo"
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


@contextlib.asynccontextmanager
async def _shim_process(socket: Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs `python -m shimpy`, in a process group of its own: Ctrl-C is for us, who then end it in order."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shimpy", "--socket", socket,
            stdin=subprocess.DEVNULL, stderr=stderr, process_group=0,
            # The files of a shim that was killed go with the directory.
            env={**os.environ, "TMPDIR": str(socket.parent)},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_CLEANUP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _first_reply(shim: ShimStub, process: asyncio.subprocess.Process, log: Path) -> None:
    """Asks for the State, which answers before Create too, until the shim is there."""
    while True:
        try:
            await shim.state(StateRequest())
        except OSError:
            if process.returncode is not None:
                raise FailedError(f"the shim ended: {log.read_text(errors='replace').strip()}") from None
            await asyncio.sleep(0.002)
        else:
            return


async def _show_state(report: Report, shim: ShimStub, wanted: int) -> None:
    async with report.step("State") as back:
        processes = (await shim.state(StateRequest())).processes
        back(", ".join(f"{process.pid} is {process.state.name}" for process in processes))
    expect("State", [process.state for process in processes], [wanted])


async def _show(report: Report, shim: ShimStub, directory: Path, bundle: Path, container_id: str) -> None:
    """Goes through all that the API has."""
    events = Events(shim)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(events.close)
        report.title("A container, with its stdin and stdout in FIFOs of ours")
        init = await stack.enter_async_context(Pipes(directory, "init"))
        async with report.step("Create") as back:
            request = CreateRequest(id=container_id, bundle=str(bundle), stdin=init.stdin, stdout=init.stdout)
            pid = (await shim.create(request)).pid
            back(f"pid {pid}")
        await _show_state(report, shim, State.CREATED)
        async with report.step("Start") as back:
            await shim.start(StartRequest())
            back("ok")
        async with report.step("its output") as back:
            back(await init.line())
        async with report.step("its input") as back:
            init.write("how do you do\n")
            back(line := await init.line())
        expect("its output", line, "you said: how do you do")

        report.title("Freeze it, thaw it")
        async with report.step("Pause") as back:
            await shim.pause(PauseRequest())
            back("ok")
        await _show_state(report, shim, State.PAUSED)
        async with report.step("Resume") as back:
            await shim.resume(ResumeRequest())
            back("ok")
        await _show_state(report, shim, State.RUNNING)

        await _show_exec(report, shim, directory, events)
        await _show_terminal(report, shim, directory, events)

        report.title("The end")
        async with report.step("close its stdin") as back:
            init.close_input()
            event = await events.exit_of(pid)
            back(f"EXIT, status {event.exit_status}")
        async with report.step("Delete") as back:
            status = (await shim.delete(DeleteRequest(pid=pid))).exit_status
            back(f"exit status {status}")
        expect("exit status", status, 7)
        report.line("Events", "  ".join(_described(event) for event in events.seen))


def _described(event: Event) -> str:
    return f"EXIT({event.exit_status})" if event.type == EventType.EXIT else str(event.type.name)


async def _show_exec(report: Report, shim: ShimStub, directory: Path, events: Events) -> None:
    report.title("One more process in it")
    async with Pipes(directory, "exec") as pipes:
        async with report.step("Exec") as back:
            script = 'echo "$GREETING from $(uname -m)"; exit 3'
            request = ExecRequest(
                args=["sh", "-c", script], env=["GREETING=hi", "PATH=/bin"], stdout=pipes.stdout
            )
            pid = (await shim.exec(request)).pid
            back(f"pid {pid}")
        async with report.step("its end") as back:
            back(f"EXIT, status {(await events.exit_of(pid)).exit_status}")
        async with report.step("Delete") as back:
            status = (await shim.delete(DeleteRequest(pid=pid))).exit_status
            back(f"exit status {status}")
        async with report.step("its output") as back:
            back(await pipes.rest())
        expect("exit status", status, 3)


async def _show_terminal(report: Report, shim: ShimStub, directory: Path, events: Events) -> None:
    report.title("And one with a terminal")
    async with Pipes(directory, "terminal") as pipes:
        async with report.step("Exec") as back:
            script = 'read -r name; echo "dear $name, this terminal is $(stty size)"'
            request = ExecRequest(
                args=["sh", "-c", script], terminal=True, stdin=pipes.stdin, stdout=pipes.stdout
            )
            pid = (await shim.exec(request)).pid
            back(f"pid {pid}")
        async with report.step("Pty") as back:
            await shim.pty(PtyRequest(pid=pid, width=132, height=43))
            back("ok: 132 columns, 43 rows")
        async with report.step("type a line") as back:
            pipes.write("reader\n")
            back(f"echoed: {await pipes.line()}")
        async with report.step("its output") as back:
            back(line := await pipes.line())
        expect("the terminal", line, "dear reader, this terminal is 43 132")
        async with report.step("its end") as back:
            back(f"EXIT, status {(await events.exit_of(pid)).exit_status}")
        async with report.step("Delete") as back:
            back(f"exit status {(await shim.delete(DeleteRequest(pid=pid))).exit_status}")


@contextlib.asynccontextmanager
async def _no_container_left(shim: ShimStub, container_id: str) -> AsyncIterator[None]:
    """Removes the container on the way out: through the shim, or without it if it does not answer."""
    try:
        yield
    finally:
        with contextlib.suppress(GRPCError, StreamTerminatedError, AttributeError, OSError, TimeoutError):
            async with asyncio.timeout(_CLEANUP_SECONDS):
                if pid := (await shim.state(StateRequest())).init_pid:
                    await shim.delete(DeleteRequest(pid=pid))
        # With --force this succeeds, too, when there is nothing left to remove.
        process = await asyncio.create_subprocess_exec("runc", "delete", "--force", container_id)
        await process.wait()


async def _run(directory: Path) -> None:
    report = Report()
    container_id = f"shimpy-demo-{os.getpid()}"
    busybox = shutil.which("busybox")
    if os.geteuid() != 0 or busybox is None or shutil.which("runc") is None:
        raise FailedError("needs root, runc and busybox-static (apt-get install runc busybox-static)")

    report.title("A shim of its own")
    async with report.step("an OCI bundle") as back:
        bundle = _make_bundle(directory, busybox)
        back(str(bundle))
    log = directory / "stderr"
    socket = directory / "shim.sock"
    async with contextlib.AsyncExitStack() as stack:
        process = await stack.enter_async_context(_shim_process(socket, log))
        channel = await stack.enter_async_context(
            Channel(path=stack.enter_context(short_socket_path(socket)))
        )
        shim = ShimStub(channel)
        async with report.step("python -m shimpy") as back:
            await _first_reply(shim, process, log)
            back(f"pid {process.pid} answers on {socket}")
        async with _no_container_left(shim, container_id):
            await _show(report, shim, directory, bundle, container_id)
        async with report.step("SIGTERM") as back:
            process.terminate()
            back(f"the shim's exit status is {await process.wait()}, and nothing is left")
        expect("the shim's exit status", process.returncode, 0)
    print()


async def _main() -> int:
    received: list[int] = []
    with tempfile.TemporaryDirectory(prefix="shimpy-demo-") as name:
        task = asyncio.create_task(_run(Path(name)))

        def interrupt(signum: int) -> None:
            # Once: a second Ctrl-C would cut the cleaning up short.
            if not received:
                received.append(signum)
                task.cancel()

        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, interrupt, signum)
        try:
            await task
        except asyncio.CancelledError:
            print("\ninterrupted; everything has been removed", file=sys.stderr)
            return 128 + received[0]
        except FailedError as error:
            print(f"\nshimpy.demo: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
