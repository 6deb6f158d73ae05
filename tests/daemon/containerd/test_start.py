"""`start`, as containerd calls it, with real processes."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from functools import partial
from pathlib import Path

import pytest

from shimpy.api import bootstrap, runc_options, well_known
from shimpy.daemon.containerd import sockets
from tests.support import leaks
from tests.support.rounds import rounds
from tests.support.shimv2 import Shims, gone, in_threads

pytestmark = pytest.mark.anyio


async def test_the_answer_is_the_bare_address(shims: Shims) -> None:
    shims.bundle("web")
    done = shims.start("web")

    assert (done.returncode, done.stdout.decode()) == (0, f"unix://{shims.path('web')}")


async def test_the_shim_answers_there(shims: Shims) -> None:
    shims.bundle("web")
    shims.start("web")

    assert await shims.pid(shims.path("web")) > 0


async def test_the_usual_place_is_containerds_own() -> None:
    # sha256 of /run/containerd/containerd.sock/ns/web
    name = "75b5bb54e724e01cb4dfd6f7725a01f8e9efc70a69c0bda410e836140d73f374"

    assert sockets.path_of("/run/containerd/containerd.sock", "ns", "web") == f"/run/containerd/s/{name}"


@pytest.mark.parametrize(
    "address", ["/run//containerd/./containerd.sock", "//run/containerd/x/../containerd.sock"]
)
async def test_the_address_is_tidied_up_as_go_does(address: str) -> None:
    usual = sockets.path_of("/run/containerd/containerd.sock", "ns", "web")

    assert sockets.path_of(address, "ns", "web") == usual


async def test_the_socket_is_for_its_owner_alone(shims: Shims) -> None:
    shims.bundle("web")
    shims.start("web")

    assert stat.S_IMODE(os.stat(shims.path("web")).st_mode) == 0o600
    assert stat.S_IMODE(shims.sockets.stat().st_mode) == 0o700


async def test_the_address_is_kept_in_the_bundle(shims: Shims) -> None:
    bundle = shims.bundle("web")
    answer = shims.start("web").stdout

    assert (bundle / "address").read_bytes() == answer
    assert sorted(os.listdir(bundle)) == ["address", "config.json", "log"]


async def test_without_bootstrap_params_the_socket_is_in_the_usual_place(shims: Shims) -> None:
    shims.bundle("web")
    path = shims.note(shims.start("web", stdin=b"").stdout)

    assert path == sockets.path_of(shims.address, shims.namespace, "web")
    assert await shims.pid(path) > 0


async def test_it_holds_nothing_of_containerds(shims: Shims) -> None:
    bundle = shims.bundle("web")
    # containerd holds the FIFO open for reading and writing.
    log = os.open(bundle / "log", os.O_RDWR)
    try:
        shims.start("web")
        pid = await shims.pid(shims.path("web"))
        held = leaks.descriptors(pid)
    finally:
        os.close(log)

    assert (held[0], held[1], held[2]) == ("/dev/null", "/dev/null", str(bundle / "log"))
    assert [each for each in held.values() if each.startswith("pipe:")] == []
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


async def test_nobody_reads_the_log(shims: Shims) -> None:
    shims.bundle("web")
    shims.start("web")

    assert leaks.descriptors(await shims.pid(shims.path("web")))[2] == "/dev/null"


async def test_containerd_outlives_it_when_memory_runs_out(shims: Shims) -> None:
    shims.bundle("web")
    shims.start("web")
    pid = await shims.pid(shims.path("web"))
    ours = int(Path("/proc/self/oom_score_adj").read_text())

    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(ours + 1, 1000)


async def test_it_loads_no_grpc(shims: Shims) -> None:
    program = (
        "import sys; from shimpy.daemon.containerd.daemon import load; load()\n"
        "print([name for name in ('grpclib', 'h2', 'hpack', 'ssl', 'google') if name in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()

    assert printed == b"[]\n"


@pytest.mark.parametrize("annotation", ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"])
async def test_a_group_has_one_shim(shims: Shims, annotation: str) -> None:
    for name in ("pod", "web"):
        shims.bundle(name, {"annotations": {annotation: "pod"}})
    first, second = (shims.start(name).stdout for name in ("pod", "web"))

    assert first == second == f"unix://{shims.path('pod')}".encode()
    assert (shims.directory / "web" / "address").read_bytes() == first


async def test_its_own_annotation_goes_before_that_of_kubernetes(shims: Shims) -> None:
    annotations = {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "mine"}
    shims.bundle("web", {"annotations": annotations})

    assert shims.start("web").stdout.decode().endswith(shims.path("mine"))


async def test_starts_of_a_group_at_once_find_one_shim(shims: Shims) -> None:
    names = [f"web{number}" for number in range(4)]
    for name in names:
        shims.bundle(name, {"annotations": {"io.containerd.runc.v2.group": "pod"}})
    done = await in_threads(*(partial(shims.start, name) for name in names))

    assert {each.stdout for each in done} == {f"unix://{shims.path('pod')}".encode()}
    pid = await shims.pid(shims.path("pod"))
    # None of the four ends it while another is expected.
    for name in names[:-1]:
        await shims.shut_down(shims.path("pod"), name)
    assert await shims.pid(shims.path("pod")) == pid
    await shims.shut_down(shims.path("pod"), names[-1])
    await gone(pid)


def leave_dead(path: str) -> None:
    """Leaves a socket that nobody listens on."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)


async def test_a_dead_socket_is_replaced(shims: Shims) -> None:
    shims.bundle("web")
    leave_dead(shims.path("web"))

    assert shims.start("web").returncode == 0
    assert await shims.pid(shims.path("web")) > 0


async def test_starts_at_once_replace_a_dead_socket_once(shims: Shims) -> None:
    names = [f"web{number}" for number in range(4)]
    for name in names:
        shims.bundle(name, {"annotations": {"io.containerd.runc.v2.group": "pod"}})
    leave_dead(shims.path("pod"))
    await in_threads(*(partial(shims.start, name) for name in names))
    pid = await shims.pid(shims.path("pod"))
    for name in names:
        await shims.shut_down(shims.path("pod"), name)

    # Had one removed another's socket, that one's shim would not have been shut down.
    await gone(pid)
    assert leaks_of(shims) == []


def leaks_of(shims: Shims) -> list[str]:
    """Returns the processes that were started for containers of these shims."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/cmdline").read_text()
        except OSError:
            continue
        if shims.address in command and leaks.alive(int(name)):
            found.append(command.replace("\0", " "))
    return found


async def test_the_shims_cgroup(shims: Shims) -> None:
    shims.bundle("web")
    place = next(path for path in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if path.is_dir())
    # Not the namespace's own name: the cgroups of its containers are below that.
    name = f"{shims.namespace}-shim"
    cgroup = place / name
    cgroup.mkdir()
    try:
        options = runc_options.Options(shim_cgroup=f"/{name}")
        extension = bootstrap.Extension(well_known.Any("containerd.runc.v1.Options", bytes(options)))
        done = shims.start("web", stdin=shims.params("web", extensions=[extension]))
        assert done.returncode == 0, done.stdout
        pid = await shims.pid(shims.path("web"))
        members = (cgroup / "cgroup.procs").read_text().split()
        await shims.shut_down(shims.path("web"), "web")
        await gone(pid)
    finally:
        cgroup.rmdir()

    assert members == [str(pid)]


async def failed(shims: Shims, name: str, stdin: bytes | None = None) -> str:
    """Runs a start that has to fail and to leave nothing; returns what it says."""
    done = shims.start(name, stdin=stdin)

    assert done.returncode != 0
    assert not shims.sockets.exists() or os.listdir(shims.sockets) == []
    assert not (shims.directory / name / "address").exists()
    assert leaks_of(shims) == []
    text = done.stdout.decode()
    assert text.count("\n") == 1
    return text


async def test_a_cgroup_that_is_not_there_undoes_the_start(shims: Shims) -> None:
    shims.bundle("web")
    options = runc_options.Options(shim_cgroup="/no/such/cgroup")
    extension = bootstrap.Extension(well_known.Any("containerd.runc.v1.Options", bytes(options)))

    assert "/no/such/cgroup" in await failed(shims, "web", shims.params("web", extensions=[extension]))


async def test_without_a_bundle_there_is_no_shim(shims: Shims) -> None:
    bundle = shims.bundle("web")
    (bundle / "config.json").unlink()

    assert "config.json" in await failed(shims, "web")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"annotations": [1]}', '{"annotations": {"io.containerd.runc.v2.group": 1}}']
)
async def test_a_bundle_that_is_none(shims: Shims, text: str) -> None:
    bundle = shims.bundle("web")
    (bundle / "config.json").write_text(text)

    assert "config.json" in await failed(shims, "web")


async def test_a_directory_whose_path_is_too_long(shims: Shims) -> None:
    shims.bundle("web")
    directory = f"{shims.sockets}/{'x' * 43}"

    assert "106 bytes" in await failed(shims, "web", shims.params("web", socket_dir=directory))


async def test_what_is_not_a_message(shims: Shims) -> None:
    shims.bundle("web")

    assert await failed(shims, "web", b"\xff\xff")


async def test_an_address_file_that_cannot_be_written_undoes_the_start(shims: Shims) -> None:
    bundle = shims.bundle("web")
    (bundle / "address").mkdir()
    done = shims.start("web")

    assert (done.returncode, b"address" in done.stdout) == (1, True)
    assert os.listdir(shims.sockets) == []
    assert leaks_of(shims) == []
    assert sorted(os.listdir(bundle)) == ["address", "config.json", "log"]


async def test_a_further_container_is_served_whoever_goes_meanwhile(shims: Shims) -> None:
    """Its start and the last one's Shutdown come at once: it finds the old shim, or gets a new one."""
    path = shims.path("pod")
    group = {"annotations": {"io.containerd.runc.v2.group": "pod"}}
    served = set()
    last = "web"
    shims.bundle(last, group)
    shims.start(last)
    for number in range(rounds(2, 200)):
        further = f"web{number}"
        shims.bundle(further, group)
        # A spread over the time that a start takes, and not an order.
        starting = asyncio.create_task(asyncio.to_thread(shims.start, further))
        await asyncio.sleep(number * 7 % 30 * 0.01)
        await shims.shut_down(path, last)
        done = await starting

        assert (done.returncode, done.stdout.decode()) == (0, f"unix://{path}")
        served.add(await shims.pid(path))
        last = further
    await shims.shut_down(path, last)
    for pid in served:
        await gone(pid)
    assert (leaks_of(shims), os.listdir(shims.sockets)) == ([], [])
