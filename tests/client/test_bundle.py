"""Bundles that are written for you, from the runtime's own spec."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.client.bundle import derive_bundle

pytestmark = pytest.mark.anyio


def _config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_bundle_says_what_was_asked(runtime: str, tmp_path: Path, rootfs: Path) -> None:
    made = await shimpy.write_bundle(
        tmp_path / "new" / "bundle",
        ["echo", "hi"],
        rootfs=rootfs,
        env={"NAME": "value", "PATH": "/bin"},
        cwd="/tmp",
        terminal=True,
        runtime=runtime,
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
    await shimpy.write_bundle(tmp_path, writable=True)
    config = _config(tmp_path)
    assert config["root"] == {"path": "rootfs", "readonly": False}
    assert config["process"]["args"] == ["sh"]


async def test_bundle_runs(tmp_path: Path, rootfs: Path, new_id: Callable[[], str]) -> None:
    made = await shimpy.write_bundle(
        tmp_path / "bundle", ["sh", "-c", "echo $HELLO"], rootfs=rootfs, env={"HELLO": "x"}
    )
    async with shimpy.in_process() as client:
        assert await client.run(new_id(), made) == shimpy.Result(b"x\n", b"", 0)


async def test_bundle_that_is_there_is_kept(tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(shimpy.AlreadyExistsError, match=r"config\.json"):
        await shimpy.write_bundle(tmp_path, ["true"], rootfs=rootfs)
    assert (tmp_path / "config.json").read_text() == "mine"


async def test_what_is_missing_is_named(tmp_path: Path, rootfs: Path) -> None:
    with pytest.raises(shimpy.NotFoundError, match="rootfs"):
        await shimpy.write_bundle(tmp_path / "a", ["true"])
    with pytest.raises(shimpy.NotFoundError, match="no-such-runtime"):
        await shimpy.write_bundle(tmp_path / "b", ["true"], rootfs=rootfs, runtime="no-such-runtime")
    with pytest.raises(shimpy.InternalError, match="spec failed"):
        await shimpy.write_bundle(tmp_path / "c", ["true"], rootfs=rootfs, runtime="false")
    with pytest.raises(shimpy.InvalidArgumentError, match="args"):
        await shimpy.write_bundle(tmp_path / "d", [], rootfs=rootfs)
    assert list(tmp_path.glob("*/config.json")) == []


def test_derived_bundle_uses_the_files_of_the_other(tmp_path: Path, bundle: Callable[..., str]) -> None:
    mount = {"destination": "/x", "type": "bind", "source": "data", "options": ["rbind"]}
    origin = Path(bundle("true", change=lambda spec: spec["mounts"].append(mount)))
    root = _config(origin)["root"]["path"]
    derived = _config(derive_bundle(tmp_path, origin, ["false"], env={"A": "b"}, terminal=True))
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
