"""The unit of the documentation under a real systemd, whose file descriptor store is the keeper."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

import shimpy
from shimpy.core.journal import JournalDirectory
from shimpy.daemon.keeper.children import remembers_exits
from tests.support import systemd
from tests.support.paths import ROOT
from tests.support.systemd import UserSystemd

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(systemd.lacking()), reason=f"needs {systemd.lacking()}"),
    pytest.mark.skipif(not remembers_exits(), reason="needs Linux 6.15"),
]

_PAGE = ROOT / "docs" / "pages" / "guides" / "supervised.md"


def unit() -> str:
    """Returns the unit of the documentation, for this interpreter and a user's own directory."""
    [text] = re.findall(r"```ini\n(# /etc/systemd/system/.*?)```", _PAGE.read_text(), re.DOTALL)
    text = text.replace("/opt/shimpy/bin/python", f"{sys.executable} -P").replace(
        "/run/shimpy-%i", "%t/shimpy-%i"
    )
    text = text.replace("%i", "test").replace("OOMScoreAdjust=-500\n", "")
    # It is not installed everywhere where the tests run.
    return re.sub(r"\[Service\]\n", f"[Service]\nEnvironment=PYTHONPATH={ROOT}\n", text)


@pytest.fixture
def manager(new_id: Callable[[], str]) -> Iterator[UserSystemd]:
    manager = UserSystemd(unit())
    yield manager
    manager.close()


async def test_a_shim_under_systemd_is_killed_and_restarted_and_loses_nothing(
    manager: UserSystemd, bundle: Callable[..., str], new_id: Callable[[], str]
) -> None:
    first = manager.next_main_pid(0)
    socket = manager.runtime / "shimpy-test" / "shim.sock"
    async with (
        shimpy.connect(socket) as client,
        client.container(new_id(), bundle("sleep", "1000000")) as container,
        container.pty(["sh", "-c", "read word; echo got $word; exit 7"]) as terminal,
    ):
        ends = await container.spawn(["sh", "-c", "sleep 0.1; exit 5"])
        os.kill(first, signal.SIGKILL)
        assert await ends.wait() == 5
        second = manager.next_main_pid(first)
        manager.systemctl("restart", "shimpy.service")
        manager.next_main_pid(second)
        await terminal.send(b"it\n")
        assert b"got it" in b"".join([data async for data in terminal])
        assert await terminal.wait() == 7
    manager.systemctl("stop", "shimpy.service")
    assert not socket.exists()
    assert not os.path.exists(JournalDirectory.of_socket(str(socket)).path)
