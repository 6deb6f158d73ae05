"""Shims forked from one warm process: each on its own, whatever happens to another."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

import shimpy
from tests.support import containers, leaks
from tests.support.rounds import rounds

pytestmark = pytest.mark.anyio


def _children(pid: int | None = None) -> set[int]:
    return set(leaks.children() if pid is None else leaks.children(pid))


def _fields(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Warm:
    """A launcher, its process, and the shims that it has forked."""

    def __init__(self) -> None:
        self.launcher = shimpy.WarmLauncher()
        self.pid = 0

    async def __aenter__(self) -> Self:
        before = _children()
        await self.launcher.__aenter__()
        (self.pid,) = _children() - before
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.launcher.__aexit__(None, None, None)

    def shims(self) -> set[int]:
        return _children(self.pid)


async def test_shim_answers_within_the_block_and_is_gone_after_it() -> None:
    children, descriptors = _children(), leaks.descriptors()
    async with Warm() as warm:
        async with warm.launcher.launch() as client:
            assert await client.state() == shimpy.ContainerState("", "", 0, ())
            assert len(warm.shims()) == 1
        await leaks.eventually(lambda: warm.shims() == set())
    assert _children() <= children
    assert leaks.opened_since(descriptors) == []


async def test_two_with_containers_and_one_is_killed(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    ids = (new_id(), new_id())
    async with Warm() as warm, warm.launcher.launch() as survivor:
        (surviving,) = warm.shims()
        with pytest.raises(shimpy.UnavailableError):  # noqa: PT012 - the end of the block raises it
            async with (
                warm.launcher.launch() as other,
                survivor.container(ids[0], bundle("sleep", "1000000")) as container,
                other.container(ids[1], bundle("sleep", "1000000")) as victim,
            ):
                assert (await victim.run(["echo", "there"])).stdout == b"there\n"
                (killed,) = warm.shims() - {surviving}
                os.kill(killed, signal.SIGKILL)
                await leaks.eventually(lambda: warm.shims() == {surviving})
                assert (await container.run(["echo", "still there"])).stdout == b"still there\n"
                await other.state()
        await survivor.state()
        async with warm.launcher.launch() as one_more:
            await one_more.state()
    assert [containers.left(one) for one in ids] == [[], []]


async def test_the_warm_process_is_killed_and_its_shims_go_on(
    bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    async with (
        Warm() as warm,
        warm.launcher.launch() as client,
        client.container(new_id(), bundle("sleep", "1000000")) as one,
    ):
        os.kill(warm.pid, signal.SIGKILL)
        assert (await one.run(["echo", "still there"])).stdout == b"still there\n"
        with pytest.raises(shimpy.UnavailableError, match="warm process"):
            async with warm.launcher.launch():
                pass


async def test_the_warm_process_dies_with_its_owner_and_the_shims_go_on(tmp_path: Path) -> None:
    program = f"""
import asyncio, shimpy
async def main():
    async with shimpy.WarmLauncher() as warm, warm.launch({str(tmp_path / "s")!r}):
        print(warm._process.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout as output:
        warm = int(await asyncio.to_thread(output.readline))
    (shim,) = _children(warm)
    owner.kill()
    owner.wait()
    try:
        await leaks.eventually(lambda: not leaks.alive(warm))
        async with shimpy.connect(tmp_path / "s") as client:
            await client.state()
    finally:
        os.kill(shim, signal.SIGTERM)
    await leaks.eventually(lambda: not leaks.alive(shim))


def test_many_of_a_program_that_ignores_sigchld() -> None:
    """The warm process inherits that, and waits for each of its shims all the same."""
    program = """
import asyncio, shimpy
async def main():
    async with shimpy.WarmLauncher() as warm:
        for _ in range(3):
            async with warm.launch() as client:
                print((await client.state()).pid)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN),
    )
    assert done.stdout == "0\n" * 3, done.stderr
    assert "Traceback" not in done.stderr


async def test_each_has_a_clean_slate_and_nothing_of_its_owner() -> None:
    with open(os.devnull, "rb") as ours:
        os.set_inheritable(ours.fileno(), True)
        async with Warm() as warm, warm.launcher.launch(), warm.launcher.launch():
            for pid in warm.shims():
                fields = _fields(pid)
                assert os.getsid(pid) == os.getpgid(pid) == pid
                assert fields["Threads"] == "1"
                assert int(fields["SigBlk"], 16) == 0
                opened = list(leaks.descriptors(pid).values())
                assert opened.count(os.devnull) == 2
                assert not any("pidfd" in name for name in opened)
            assert _fields(warm.pid)["Threads"] == "1"
            assert list(leaks.descriptors(warm.pid).values()).count(os.devnull) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"socket": "/no/such/directory/shim.sock"}, "/no/such/directory"),
        ({"runtime": "no-such-runtime"}, "no-such-runtime"),
        ({"log_level": "loud"}, "loud"),
    ],
)
async def test_shim_that_does_not_start_says_why(options: dict[str, str], said: str) -> None:
    async with Warm() as warm, warm.launcher.launch():
        shims, descriptors = warm.shims(), leaks.descriptors()
        with pytest.raises(shimpy.UnavailableError, match=said) as caught:
            async with warm.launcher.launch(**options):  # type: ignore[arg-type]
                pass
        assert "\n" not in str(caught.value)
        await leaks.eventually(lambda: warm.shims() == shims and not leaks.opened_since(descriptors))


async def test_shim_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unheard(_socket: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("shimpy.client.shim_process._wait_ready", unheard)
    async with Warm() as warm:
        with pytest.raises(shimpy.UnavailableError, match="0 seconds"):
            async with warm.launcher.launch(timeout=0):
                pass
        await leaks.eventually(lambda: warm.shims() == set())


async def test_launching_outside_of_the_block_is_refused() -> None:
    launcher = shimpy.WarmLauncher()
    with pytest.raises(shimpy.UnavailableError, match="not in use"):
        async with launcher.launch():
            pass


async def test_cancelled_at_random_moments_leaves_no_process() -> None:
    async def hold(launcher: shimpy.WarmLauncher) -> None:
        async with launcher.launch():
            await asyncio.Event().wait()

    async with Warm() as warm:
        async with warm.launcher.launch():
            pass
        await leaks.eventually(lambda: warm.shims() == set())
        before = leaks.descriptors()
        for number in range(rounds(5, 100)):
            holding = asyncio.ensure_future(hold(warm.launcher))
            await asyncio.sleep(0.004 * (number % 8))
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
        await leaks.eventually(lambda: warm.shims() == set())
        await leaks.eventually(lambda: not leaks.opened_since(before))


async def test_shim_whose_asker_has_gone_before_it_was_forked_is_killed(tmp_path: Path) -> None:
    async with Warm() as warm:
        control = warm.launcher._control
        assert control is not None
        request = json.dumps({"options": ["--socket", str(tmp_path / "s")], "notify": ""})
        answer, theirs = socket.socketpair()
        answer.close()
        with theirs, open(os.devnull, "w") as stderr:
            socket.send_fds(control, [request.encode()], [stderr.fileno(), theirs.fileno()])
        # The requests have their turns one after the other.
        async with warm.launcher.launch():
            await leaks.eventually(lambda: len(warm.shims()) == 1)


async def test_many_at_once() -> None:
    async with Warm() as warm:

        async def one() -> None:
            async with warm.launcher.launch() as client:
                await client.state()

        await asyncio.gather(*(one() for _ in range(rounds(8, 200))))
