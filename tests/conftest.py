"""Fixtures that every test file may ask for; the work is done in tests/support."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from shimpy.daemon import process_state
from tests.support import bundles, containers, events, leaks, machine, residue
from tests.support.fifos import Fifo
from tests.support.lives import Life, lives
from tests.support.rounds import rounds
from tests.support.time_scale import scaled

if TYPE_CHECKING:
    from shimpy.api import ShimStub
    from tests.support.servers import Server

hypothesis.settings.register_profile(
    "shimpy",
    max_examples=rounds(100, 50_000),
    deadline=None,
    derandomize=rounds(1, 0) == 1,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("shimpy")

# A run in the background, under nohup(1) or under make(1) would hand these on, ignored, to every process of a
# test.
process_state._reset_signals_of_the_c_library()
# gRPC's handlers around fork(2) can abort the child, which then never becomes the program that it was to be.
# gRPC reads this when it is imported first.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

_failed = pytest.StashKey[bool]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives a slow machine more time for each test."""
    usual = config.getoption("timeout")
    if usual is None:
        usual = config.getini("timeout")
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = scaled(float(marker.args[0] if marker else usual))
        item.add_marker(pytest.mark.timeout(seconds), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Notes which tests failed, for fixtures that then have nothing to add."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """asyncio only: the reaper stands on the child watching of its event loop."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each worker has a directory for temporary files, and sees none of another's or another program's."""
    tmp_path_factory.getbasetemp()  # pytest's own stay where they are
    with (
        tempfile.TemporaryDirectory(prefix="shimpy-tests-", ignore_cleanup_errors=True) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", directory)
        patch.setattr(tempfile, "tempdir", None)  # it was looked up before and kept
        yield


@pytest.fixture(scope="session", autouse=True)
def _guardian() -> None:
    """What is there for as long as the program is, is there before what tests compare."""
    from shimpy.client.program import program

    program.open()


@pytest.fixture(scope="session", autouse=True)
def _no_container_outlives_the_run() -> Iterator[None]:
    yield
    for container_id in containers.left():
        containers.remove(container_id)


@pytest.fixture
def new_id(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Gives container ids that nobody else has; a test that leaves one of these containers behind fails."""
    made: list[str] = []

    def new() -> str:
        made.append(containers.new_id())
        return made[-1]

    yield new
    left = sorted({*made} & {*containers.left()})
    for container_id in left:
        containers.remove(container_id)
    if not request.node.stash.get(_failed, False):
        assert left == [], "containers that the test left behind"


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    """A root filesystem of busybox, shared by the bundles of the run, that every user may reach."""
    if lacking := machine.lacking():
        pytest.skip(f"containers need {lacking}")
    with tempfile.TemporaryDirectory(prefix="shimpy-tests-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        yield bundles.make_rootfs(Path(directory, "rootfs"))


@pytest.fixture
def bundle(rootfs: Path, tmp_path: Path) -> Callable[..., str]:
    """Makes bundles: `bundle("sh", "-c", "exit 7", memory=1 << 25)`; see support.bundles.make_bundle."""
    numbers = itertools.count(1)

    def make(*args: str, **options: Any) -> str:
        return bundles.make_bundle(tmp_path / f"bundle{next(numbers)}", rootfs, args, **options)

    return make


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Callable[[str], Fifo]]:
    """Makes FIFOs by name, and lets go at the end who still waits in one."""
    made: list[Fifo] = []

    def make(name: str) -> Fifo:
        made.append(Fifo(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.release()


@pytest.fixture
async def shim(new_id: Callable[[], str]) -> AsyncIterator[ShimStub]:
    """A client of a Shim in this process, with no socket between the two."""
    from tests.support.inprocess import serve

    async with serve() as stub:
        yield stub


@pytest.fixture
async def recorder(shim: ShimStub) -> AsyncIterator[events.Recorder]:
    """What *shim* publishes."""
    async with events.record(shim) as recorder:
        yield recorder


@pytest.fixture
async def live(
    shim: ShimStub,
    recorder: events.Recorder,
    bundle: Callable[..., str],
    new_id: Callable[[], str],
    tmp_path: Path,
) -> AsyncIterator[Callable[..., Life]]:
    """Prepares containers of *shim*: `live("sh", "-c", "exit 7")` is one that `create` then creates.

    The arguments are those of *bundle*. One that is still there at the end is deleted.
    """
    async with lives(shim, recorder, bundle, new_id, tmp_path) as prepare:
        yield prepare


@pytest.fixture
async def live_served(
    server: Server, bundle: Callable[..., str], new_id: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Callable[..., Life]]:
    """Does what *live* does with a `python -m shimpy`, which has to be without children at the end."""
    stub = server.stub()
    async with events.record(stub) as recorder:
        async with lives(stub, recorder, bundle, new_id, tmp_path) as prepare:
            yield prepare
        await leaks.eventually(lambda: leaks.children(server.pid) == {})


@pytest.fixture
def nothing_left(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fails a test that leaves processes, file descriptors, threads, temporary files or cgroups behind."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with residue.nothing_left(judged=lambda: not request.node.stash.get(_failed, False)):
        yield


@pytest.fixture
async def start_server(new_id: Callable[[], str]) -> AsyncIterator[Callable[..., Server]]:
    """Starts `python -m shimpy` processes: `start_server("--log-format", "json", before=["nice"])`."""
    from tests.support.servers import Server

    started: list[Server] = []

    def start(*arguments: str, **options: Any) -> Server:
        started.append(Server(arguments, **options))
        started[-1].wait_until_it_listens()
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
async def server(start_server: Callable[..., Server]) -> Server:
    """One `python -m shimpy` process."""
    return start_server()


@pytest.fixture
def blocking_server(new_id: Callable[[], str]) -> Iterator[Server]:
    """The same for tests with no event loop of their own, such as those with Google's client."""
    from tests.support.servers import Server

    with contextlib.closing(Server()) as server:
        server.wait_until_it_listens()
        yield server


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ModuleType]:
    """The messages and the stubs that Google's own compiler makes of shim.proto."""
    from tests.support.foreign import compile_client

    return compile_client(tmp_path_factory.mktemp("foreign"))
