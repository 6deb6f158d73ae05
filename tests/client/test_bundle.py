"""Bundles that are written for you, and those that are made of others."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.client.bundle import derive_bundle

pytestmark = pytest.mark.anyio


def _config(directory: Path) -> Any:
    return json.loads((directory / "config.json").read_text())


async def _write(directory: Path, root: Path, **said: Any) -> None:
    asked: dict[str, Any] = {"path": directory, "args": ["true"], "rootfs": root, **said}
    await shimpy.write_bundle(**asked)


def _told_by_who_ignores_sigchld(*lines: str) -> str:
    """Returns what the lines of a coroutine print, in a program that is started with SIGCHLD ignored."""
    body = "\n".join(f"    {line}" for line in lines)
    program = f"import asyncio, shimpy\nasync def main():\n{body}\nasyncio.run(main())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_bundle_says_what_was_asked(tmp_path: Path, rootfs: Path) -> None:
    made = await shimpy.write_bundle(
        tmp_path / "new" / "bundle",
        ["echo", "hi"],
        rootfs=rootfs,
        env={"NAME": "value", "PATH": "/bin"},
        cwd="/tmp",
        terminal=True,
        init=False,
    )
    config = _config(made)
    assert made == tmp_path / "new" / "bundle"
    assert config["root"] == {"path": str(rootfs), "readonly": True}
    assert config["process"]["args"] == ["echo", "hi"]
    assert config["process"]["cwd"] == "/tmp"
    assert config["process"]["terminal"] is True
    assert {"NAME=value", "PATH=/bin"} <= set(config["process"]["env"])
    assert sum(entry.startswith("PATH=") for entry in config["process"]["env"]) == 1


async def test_bundle_with_its_own_rootfs(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    await shimpy.write_bundle(tmp_path, read_only=False, sandbox=False)
    config = _config(tmp_path)
    assert config["root"] == {"path": "rootfs", "readonly": False}
    assert config["process"]["args"] == ["sh"]


async def test_bundle_runs(tmp_path: Path, rootfs: Path, new_id: Callable[[], str]) -> None:
    made = await shimpy.write_bundle(
        tmp_path / "bundle", ["sh", "-c", "echo $HELLO"], rootfs=rootfs, env={"HELLO": "x"}
    )
    async with shimpy.in_process() as client:
        assert await client.run(new_id(), made) == shimpy.Result(b"x\n", b"", 0)


def test_one_command_of_a_program_that_ignores_sigchld(rootfs: Path) -> None:
    told = _told_by_who_ignores_sigchld(f"print(await shimpy.run({str(rootfs)!r}, ['sh', '-c', 'exit 7']))")
    assert told == f"{shimpy.Result(b'', b'', 7)}\n"


async def test_bundle_that_is_there_is_kept(tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(shimpy.AlreadyExistsError, match=r"config\.json"):
        await shimpy.write_bundle(tmp_path, ["true"], rootfs=rootfs)
    assert (tmp_path / "config.json").read_text() == "mine"


async def test_what_is_missing_is_named(tmp_path: Path, rootfs: Path) -> None:
    with pytest.raises(shimpy.NotFoundError, match="rootfs"):
        await shimpy.write_bundle(tmp_path / "a", ["true"])
    with pytest.raises(shimpy.NotFoundError, match="no-such-program"):
        await shimpy.write_bundle(tmp_path / "b", ["no-such-program"], rootfs=rootfs)
    with pytest.raises(shimpy.InvalidArgumentError, match="args"):
        await shimpy.write_bundle(tmp_path / "d", [], rootfs=rootfs)
    assert list(tmp_path.glob("*/config.json")) == []


def test_derived_bundle_uses_the_files_of_the_other(tmp_path: Path, bundle: Callable[..., str]) -> None:
    mount = {"destination": "/x", "type": "bind", "source": "data", "options": ["rbind"]}
    origin = Path(bundle("true", change=lambda spec: spec["mounts"].append(mount)))
    root = _config(origin)["root"]["path"]
    derive_bundle(tmp_path, origin, ["false"], env={"A": "b"}, terminal=True)
    derived = _config(tmp_path)
    assert derived["root"]["path"] == str(origin / root)
    assert derived["mounts"][-1]["source"] == str(origin / "data")
    assert derived["process"]["args"] == ["false"]
    assert derived["process"]["terminal"] is True
    assert "A=b" in derived["process"]["env"]


def test_config_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(shimpy.NotFoundError, match=r"config\.json"):
        derive_bundle(tmp_path, tmp_path, terminal=False)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(shimpy.InvalidArgumentError, match="JSON object"):
        derive_bundle(tmp_path, tmp_path, terminal=False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(shimpy.InvalidArgumentError, match="cannot be read"):
        derive_bundle(tmp_path, tmp_path, terminal=False)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"args": ["echo", "a\0b"]}, "args"),
        ({"args": ["echo", "\udcff"]}, "args"),
        ({"args": [""]}, "args"),
        ({"env": {"A": "\udcff"}}, "env"),
        ({"env": {"A": "a\0b"}}, "env"),
        ({"env": {"A\0": "b"}}, "env"),
        ({"env": {"": "b"}}, "env"),
        ({"cwd": "tmp"}, "cwd"),
        ({"cwd": ""}, "cwd"),
        ({"cwd": "/\udcff"}, "cwd"),
        ({"cwd": "/a\0b"}, "cwd"),
        ({"rootfs": "/a\0b"}, "rootfs"),
        ({"rootfs": "/\udcff"}, "rootfs"),
        ({"path": "/tmp/a\0b"}, "path"),
    ],
)
async def test_what_no_bundle_can_say_is_refused_with_its_field(
    tmp_path: Path, rootfs: Path, said: dict[str, Any], field: str
) -> None:
    """JSON would escape half a character, and the runtime run something else."""
    with pytest.raises(shimpy.InvalidArgumentError, match=f"^{field}: "):
        await _write(tmp_path, rootfs, **said)
    assert list(tmp_path.iterdir()) == []


async def test_bundle_where_something_else_is(tmp_path: Path, rootfs: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(shimpy.AlreadyExistsError, match=f"path: {file} exists and is not a directory"):
        await shimpy.write_bundle(file, ["true"], rootfs=rootfs)
    with pytest.raises(shimpy.InvalidArgumentError, match=f"path: {file}/bundle .*Not a directory"):
        await shimpy.write_bundle(file / "bundle", ["true"], rootfs=rootfs)
    with pytest.raises(shimpy.InvalidArgumentError, match="name too long"):
        await shimpy.write_bundle(tmp_path / ("x" * 300), ["true"], rootfs=rootfs)


async def test_bundle_where_nothing_may_be_written(rootfs: Path) -> None:
    with pytest.raises(shimpy.PermissionDeniedError, match="path: /sys/bundle"):
        await shimpy.write_bundle("/sys/bundle", ["true"], rootfs=rootfs)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"root": None, "process": None, "mounts": None},
        {"root": {}, "process": {}, "mounts": [{}]},
        {"root": {"path": None}, "process": {"env": None}, "mounts": [{"options": None, "source": None}]},
    ],
)
def test_derived_bundle_of_one_that_says_little(tmp_path: Path, config: dict[str, Any]) -> None:
    """null is as good as nothing there, as it is for the runtime."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    derive_bundle(tmp_path, tmp_path, ["true"], env={"A": "b"}, terminal=False)
    derived = _config(tmp_path)
    assert derived["root"] == {"path": f"{tmp_path}/rootfs"}
    assert derived["process"] == {"args": ["true"], "env": ["A=b"], "terminal": False}
    assert derived.get("mounts") == config.get("mounts")


@pytest.mark.parametrize("source", [{}, {"source": None}, {"source": ""}])
def test_derived_bundle_of_one_with_a_mount_of_no_source(tmp_path: Path, source: dict[str, Any]) -> None:
    """The runtime takes that for the bundle itself."""
    (tmp_path / "config.json").write_text(json.dumps({"mounts": [{"options": ["bind"], **source}]}))
    derive_bundle(tmp_path, tmp_path, ["true"], terminal=False)
    derived = _config(tmp_path)
    assert derived["mounts"] == [{"options": ["bind"], "source": f"{tmp_path}/"}]


@pytest.mark.parametrize(
    "config",
    [
        {"root": 5},
        {"root": {"path": 5}},
        {"process": []},
        {"process": {"env": "A=b"}},
        {"process": {"env": [5]}},
        {"mounts": {}},
        {"mounts": [None]},
        {"mounts": [{"options": "bind"}]},
        {"mounts": [{"options": [[]]}]},
        {"mounts": [{"options": ["bind"], "source": 5}]},
    ],
)
async def test_one_command_in_a_bundle_that_is_not_as_specified(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(shimpy.InvalidArgumentError, match=r"^bundle: .* config\.json "):
        await shimpy.run(tmp_path, ["true"], env={"A": "b"})


async def test_one_command_of_a_bundle_that_has_none(tmp_path: Path) -> None:
    for process in (None, 5):
        (tmp_path / "config.json").write_text(json.dumps({"process": process}))
        with pytest.raises(shimpy.InvalidArgumentError, match=r"^bundle: .*process"):
            await shimpy.run(tmp_path)
