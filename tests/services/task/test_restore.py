"""The Task API: containers that are created from a checkpoint."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shimpy.api import runc_options, task, types, well_known
from shimpy.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ShimError
from tests.services.task.conftest import Task
from tests.support.containers import cgroups
from tests.support.fifos import Fifo
from tests.support.leaks import alive
from tests.support.lives import KILLED

pytestmark = pytest.mark.anyio

Tasks = Callable[[str], Task]
MakeBundle = Callable[..., str]
Make = Callable[..., tuple[Task, well_known.Any]]

# CRIU needs more of a kernel than the rest of the tests. What it is to runc's caller is this: one command
# after which the container runs.
_RUNTIME = """\
#!/bin/sh -e
for word; do
    id=$word
    case $word in
    restore) restores=1; made="$made create" ;;
    --detach | --no-subreaper | --image-path=* | --work-path=*) ;;
    *) made="$made $word"; [ "$restores" ] || common="$common $word" ;;
    esac
done
[ "$restores" ] || exec runc "$@"
echo "$*" >"{seen}"
{first}
runc $made
exec runc $common start "$id"
"""


@pytest.fixture
def restorable(tasks: Tasks, bundle: MakeBundle, tmp_path: Path) -> Make:
    """Makes clients of a container that runs a command when it is restored."""

    def make(*command: str, first: str = "") -> tuple[Task, well_known.Any]:
        program = tmp_path / "runtime"
        program.write_text(_RUNTIME.format(seen=tmp_path / "seen", first=first))
        program.chmod(0o755)
        options = runc_options.Options(binary_name=str(program), criu_work_path="/work")
        return tasks(bundle(*command)), well_known.Any("containerd.runc.v1.Options", bytes(options))

    return make


async def test_it_is_restored_at_its_start(
    restorable: Make, fifo: Callable[[str], Fifo], tmp_path: Path
) -> None:
    one, options = restorable("sh", "-c", "echo back; exit 7")
    out = fifo("out")
    reader = out.read()
    assert await one.create(checkpoint="/image", options=options, stdout=str(out)) == 0
    created = await one.state()
    assert (created.status, created.pid) == (types.Status.CREATED, 0)
    assert not (tmp_path / "seen").exists()
    waiting = asyncio.create_task(one.wait())

    pid = await one.start()

    assert pid > 0
    assert await waiting == 7
    assert await reader == b"back\n"
    words = (tmp_path / "seen").read_text().split()
    assert {"--detach", "--no-subreaper", "--image-path=/image", "--work-path=/work"} <= set(words)
    deleted = await one.delete()
    assert (deleted.pid, deleted.exit_status) == (pid, 7)
    assert one.topics == ["create", "start", "exit", "delete"]
    assert [message.pid for _, message in one.forwarded] == [0, pid, pid, pid]
    assert one.forwarded[0][1].checkpoint == "/image"


async def test_what_is_restored_is_as_any_other(restorable: Make) -> None:
    one, options = restorable("sleep", "1000")
    await one.create(checkpoint="/image", options=options)
    pid = await one.start()

    listed = await pids(one)
    stats = await one.call("Stats", task.StatsRequest(one.id), task.StatsResponse)
    await one.call("Pause", task.PauseRequest(one.id), well_known.Empty)
    await one.call("Resume", task.ResumeRequest(one.id), well_known.Empty)
    await one.exec("e", "true")
    await one.start("e")

    assert (await one.wait("e"), listed) == (0, [pid])
    assert stats.stats.value
    assert Path(one.bundle, "init.pid").read_text() == str(pid)
    await one.kill(signal.SIGKILL)
    assert await one.wait() == KILLED
    await one.delete()
    assert cgroups(one.id) == []


async def pids(one: Task) -> list[int]:
    found = await one.call("Pids", task.PidsRequest(one.id), task.PidsResponse)
    return [process.pid for process in found.processes]


@pytest.mark.parametrize("call", ["Pause", "Exec", "Update", "Stats", "Kill"])
async def test_before_its_start_there_is_nothing_to_do_it_to(restorable: Make, call: str) -> None:
    one, options = restorable("true")
    await one.create(checkpoint="/image", options=options)

    resources = well_known.Any("types.containerd.io/x/LinuxResources", b"{}")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "Pause": lambda: one.call("Pause", task.PauseRequest(one.id), well_known.Empty),
        "Exec": lambda: one.exec("e", "true"),
        "Update": lambda: one.call("Update", task.UpdateTaskRequest(one.id, resources), well_known.Empty),
        "Stats": lambda: one.call("Stats", task.StatsRequest(one.id), task.StatsResponse),
        "Kill": lambda: one.kill(signal.SIGKILL),
    }
    with pytest.raises(NotFoundError if call == "Stats" else FailedPreconditionError):
        await calls[call]()
    assert await pids(one) == []
    assert (await one.state()).status == types.Status.CREATED


async def test_one_that_is_never_started_is_deleted(restorable: Make, tmp_path: Path) -> None:
    one, options = restorable("true")
    await one.create(checkpoint="/image", options=options)
    waiting = asyncio.create_task(one.wait())
    await one.state()

    assert (await one.delete()).pid == 0

    await waiting
    assert not (tmp_path / "seen").exists()
    with pytest.raises(NotFoundError):
        await one.state()


async def test_one_that_cannot_be_restored_is_stopped(restorable: Make) -> None:
    words = '{"level":"error","msg":"criu failed: no such image"}'
    one, options = restorable(
        "true", first=f"while [ $1 != --log ]; do shift; done; echo '{words}' >$2; exit 1"
    )
    await one.create(checkpoint="/image", options=options)
    waiting = asyncio.create_task(one.wait())

    with pytest.raises(ShimError, match=r"restore failed .*criu failed: no such image"):
        await one.start()

    assert await waiting == 255
    assert (await one.state()).status == types.Status.STOPPED
    with pytest.raises(FailedPreconditionError):
        await one.start()
    await one.delete()
    assert one.topics == ["create", "delete"]


async def test_a_delete_ends_a_restore(restorable: Make, tmp_path: Path) -> None:
    one, options = restorable("sleep", "1000", first=f'echo $$ >"{tmp_path}/pid"; exec sleep 1000000')
    await one.create(checkpoint="/image", options=options)
    starting = asyncio.create_task(one.start())
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)
    await one.delete()

    with pytest.raises(FailedPreconditionError):
        await starting
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_the_options_may_name_the_checkpoint(restorable: Make, tmp_path: Path) -> None:
    one, options = restorable("true")
    options.value += bytes(runc_options.Options(criu_image_path="/of-the-options"))
    await one.create(options=options)
    await one.start()

    assert "--image-path=/of-the-options" in (tmp_path / "seen").read_text()


async def test_a_checkpoint_that_ends_the_container_succeeds(restorable: Make, tmp_path: Path) -> None:
    # The command outlives what it ends.
    one, options = restorable("sleep", "1000")
    program = tmp_path / "runtime"
    program.write_text(
        '#!/bin/sh\ncase " $* " in *" checkpoint "*) ;; *) exec runc "$@" ;; esac\n'
        f"kill -9 $(cat {one.bundle}/init.pid); sleep 0.2; touch {tmp_path}/written\n"
    )
    await one.create(options=options)
    await one.start()

    wanted = runc_options.CheckpointOptions(exit=True)
    await one.call(
        "Checkpoint",
        task.CheckpointTaskRequest(
            one.id, "/image", well_known.Any("containerd.runc.v1.CheckpointOptions", bytes(wanted))
        ),
        well_known.Empty,
    )

    assert (tmp_path / "written").exists()
    assert await one.wait() == KILLED


async def test_a_checkpoint_has_an_absolute_path(restorable: Make) -> None:
    one, options = restorable("true")
    with pytest.raises(InvalidArgumentError, match="checkpoint"):
        await one.create(checkpoint="image", options=options)
    with pytest.raises(NotFoundError):
        await one.state()
