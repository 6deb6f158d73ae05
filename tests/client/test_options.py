"""What may be said of a command beyond its arguments, and what is refused before anything runs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import shimpy
from tests.support.sandboxes import sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def container(bundle: Callable[..., str], new_id: Callable[[], str]) -> AsyncIterator[shimpy.Container]:
    """A container that stays."""
    async with sandbox(bundle, new_id()) as container:
        yield container


@pytest.fixture
async def untouched(container: shimpy.Container) -> AsyncIterator[Any]:
    """A container, of no type; a test in which anything is started there fails."""
    async with container._client.events() as events:
        yield container
        # The first event that there is shall be of what is started here.
        pid = await container._client.exec(["true"])
        assert (await anext(events)).pid == pid


async def test_option_that_there_is_not_is_named(untouched: Any) -> None:
    for method in (untouched.run, untouched._client.exec):
        with pytest.raises(TypeError, match=r"no option 'capabilites'.*capabilities"):
            await method(["true"], capabilites=[])
    for method in (untouched.stream, untouched.pty):
        with pytest.raises(TypeError, match="no option 'capabilites'"):
            method(["true"], capabilites=[])


async def test_argument_that_is_not_a_string_is_named(untouched: Any) -> None:
    for method in (untouched.run, untouched._client.exec):
        with pytest.raises(TypeError, match=r"b'-l' is not a string"):
            await method(["ls", b"-l"])
    for method in (untouched.stream, untouched.pty):
        with pytest.raises(TypeError, match="7 is not a string"):
            method(["echo", 7])
        with pytest.raises(TypeError, match="args"):
            method("ls")


@pytest.mark.parametrize(
    "options",
    [
        {"user": "nobody"},
        {"user": 1000},
        {"user": shimpy.User(uid="1000")},  # type: ignore[arg-type]  # the mistake that is tested
        {"user": shimpy.User(additional_gids="12")},  # type: ignore[arg-type]  # likewise
        {"rlimits": [("RLIMIT_NOFILE", 10, 10)]},
        {"rlimits": shimpy.Rlimit("RLIMIT_NOFILE", 10, 10)},
        {"rlimits": [shimpy.Rlimit(7, 10, 10)]},  # type: ignore[arg-type]  # likewise
        {"rlimits": [shimpy.Rlimit("RLIMIT_NOFILE", 1.5, 10)]},  # type: ignore[arg-type]  # likewise
        {"capabilities": "CAP_KILL"},
        {"capabilities": 7},
        {"capabilities": [7]},
        {"env": ["NAME=value"]},
        {"cwd": 7},
        {"no_new_privileges": "yes"},
        {"apparmor_profile": b"profile"},
        {"selinux_label": 7},
        {"user": shimpy.User(uid=True)},
        {"env": {"NAME": 7}},
        {"env": {7: "value"}},
    ],
    ids=str,
)
async def test_option_of_the_wrong_type_is_named(untouched: Any, options: dict[str, Any]) -> None:
    (name,) = options
    for method in (untouched.run, untouched._client.exec):
        with pytest.raises(TypeError, match=name):
            await method(["true"], **options)
    for method in (untouched.stream, untouched.pty):
        with pytest.raises(TypeError, match=name):
            method(["true"], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"user": shimpy.User(uid=-1)},
        {"user": shimpy.User(gid=2**40)},
        {"user": shimpy.User(additional_gids=[2**32])},
        {"rlimits": [shimpy.Rlimit("RLIMIT_NOFILE", -1, 10)]},
        {"rlimits": [shimpy.Rlimit("RLIMIT_NOFILE", 10, 2**64)]},
    ],
    ids=str,
)
async def test_number_that_the_request_has_no_room_for_is_named(
    untouched: Any, options: dict[str, Any]
) -> None:
    (name,) = options
    for method in (untouched.run, untouched._client.exec):
        with pytest.raises(shimpy.InvalidArgumentError, match=name):
            await method(["true"], **options)


async def test_option_that_is_none_is_as_the_container_has_it(container: shimpy.Container) -> None:
    nothing: shimpy.ExecOptions = {
        "env": None,
        "cwd": None,
        "user": None,
        "capabilities": None,
        "rlimits": None,
        "no_new_privileges": None,
        "apparmor_profile": None,
        "selinux_label": None,
    }
    assert nothing.keys() == shimpy.ExecOptions.__optional_keys__
    script = ["sh", "-c", "pwd; id; env | sort; ulimit -a; grep -e Cap -e NoNew /proc/self/status"]
    assert await container.run(script, **nothing) == await container.run(script)


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": -0.001}, ValueError),
        ({"timeout": -math.inf}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"limiter": 5}, TypeError),
        ({"output_limit": -1}, ValueError),
        ({"output_limit": 1.5}, TypeError),
        ({"output_limit": "5"}, TypeError),
    ],
    ids=str,
)
async def test_limit_that_cannot_be_meant_is_refused(
    untouched: Any, limit: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=next(iter(limit))):
        await untouched.run(["true"], **limit)


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**8, 99_999_999])
async def test_time_without_end_can_be_given(container: shimpy.Container, timeout: float) -> None:
    assert (await container.run(["true"], timeout=timeout)).exit_status == 0
    pid = await container._client.exec(["true"], timeout=timeout)
    await container._client.delete(pid, timeout=timeout)


async def test_no_output_can_be_asked_for(container: shimpy.Container) -> None:
    result = await container.run(["echo", "out"], output_limit=0)
    assert result == shimpy.Result(b"", b"", 0, truncated=True)


@pytest.mark.parametrize("way", ["run", "pty", "exec"])
async def test_variables_are_added_to_the_container_s(
    bundle: Callable[..., str], new_id: Callable[[], str], way: str, tmp_path: Path
) -> None:
    script = ["sh", "-c", "echo $PATH $KEPT $CHANGED $NEW"]
    added = {"CHANGED": "now", "NEW": "n=w"}
    async with sandbox(bundle, new_id(), env={"KEPT": "kept", "CHANGED": "before"}) as container:
        if way == "run":
            shown = (await container.run(script, env=added)).stdout
        elif way == "pty":
            async with container.pty(script, env=added) as terminal:
                shown = b"".join([data async for data in terminal])
        else:
            log = tmp_path / "log"
            log.touch()
            await (await container.spawn(script, env=added, stdout=log)).wait()
            shown = log.read_bytes()
    path, *rest = shown.split()
    assert b"/bin" in path
    assert rest == [b"kept", b"now", b"n=w"]


async def test_wrong_limits_of_a_stream_are_refused(untouched: Any) -> None:
    wrong: list[dict[str, Any]] = [{"timeout": "1"}, {"output_limit": 1.5}, {"output_limit": True}]
    for options in wrong:
        with pytest.raises(TypeError):
            untouched.stream(["true"], **options)
    wrong = [{"timeout": -1}, {"output_limit": -1}, {"timeout": math.nan}]
    for options in wrong:
        with pytest.raises(ValueError, match=">= 0"):
            untouched.stream(["true"], **options)
    with pytest.raises(TypeError, match="width"):
        untouched.pty(["true"], width="80")
    with pytest.raises(shimpy.InvalidArgumentError, match="height"):
        untouched.pty(["true"], height=65_536)


async def test_wrong_types_of_calls_are_named() -> None:
    async with shimpy.in_process() as typed:
        client: Any = typed
        for field, wrong in (
            ("id", client.create(5, "/")),
            ("runtime", client.create("a", "/", runtime=5)),
            ("terminal", client.create("a", "/", terminal="yes")),
            ("no_pivot", client.create("a", "/", no_pivot=1)),
            ("pid", client.delete("5")),
            ("width", client.resize(5, "80", 24)),
            ("pid", client.resize(True, 80, 24)),
            ("id", client.run(5, "/")),
        ):
            with pytest.raises(TypeError, match=field):
                await wrong
        for method in (client.stream, client.pty):
            with pytest.raises(TypeError, match="id"):
                method(5, "/")
        with pytest.raises(TypeError, match="stdin"):
            client.stream("a", "/", stdin="text")
    for options in ({"runtime": 5}, {"root": b"/"}, {"leave_running": "no"}, {"hooks": 5}):
        (name,) = options
        way: Any = shimpy.in_process
        with pytest.raises(TypeError, match=name):
            async with way(**options):
                pass


# For all that make a bundle.
_WRONG_COMMANDS: list[dict[str, Any]] = [
    {"args": "echo hi"},
    {"args": [5]},
    {"env": ["A=1"]},
    {"env": "A=1"},
    {"env": []},
    {"env": {"A": 1}},
    {"cwd": 5},
    {"cwd": b"/tmp"},
]


@pytest.mark.parametrize(
    "options",
    [*_WRONG_COMMANDS, {"root": 5}, {"runtime": 5}, {"timeout": True}, {"timeout": "5"},
     {"output_limit": "5"}, {"limiter": 5}, {"hooks": 5}],
    ids=str,
)  # fmt: skip
async def test_wrong_types_of_run_are_named(rootfs: Path, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"^{name}"):
        await shimpy.run(**{"root": rootfs, "args": ["true"], **options})


@pytest.mark.parametrize(
    "options", [*_WRONG_COMMANDS, {"terminal": "x"}, {"rootfs": 5}, {"path": 5}], ids=str
)
async def test_wrong_types_of_a_bundle_are_named(
    rootfs: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"^{name}"):
        await shimpy.write_bundle(**{"path": tmp_path / "bundle", "rootfs": rootfs, **options})
    assert not (tmp_path / "bundle").exists()
    for root in (rootfs, await shimpy.write_bundle(tmp_path / "other", rootfs=rootfs)):
        if name not in ("rootfs", "path"):
            with pytest.raises(TypeError, match=f"^{name}"):
                async with shimpy.temporary_bundle(**{"root": root, "args": ["true"], **options}):
                    pass


@pytest.mark.parametrize(
    "options",
    [
        {"socket": 5},
        {"root": 5},
        {"runtime": 5},
        {"log_level": 5},
        {"leave_running": "x"},
        {"supervise": 1},
        {"timeout": "x"},
        {"timeout": True},
        {"hooks": 5},
    ],
    ids=str,
)
async def test_wrong_types_of_launch_are_named(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"^{name}"):
        async with shimpy.launch(**options):
            pass


async def test_the_directory_to_start_in_may_be_a_path(rootfs: Path) -> None:
    result = await shimpy.run(rootfs, ["pwd"], cwd=Path("/tmp"))
    assert result.stdout == b"/tmp\n"
