"""What several tests of mounts stand on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimpy.core.rootfs.mounts import Mount
from tests.support.loops import backing, make_image


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    """A directory to mount on."""
    path = tmp_path / "rootfs"
    path.mkdir()
    return str(path)


@pytest.fixture
def bind(tmp_path: Path) -> Callable[..., Mount]:
    """Makes bind mounts of a directory `source`, in which there are a file and a directory."""
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "file").write_text("content")

    def make(*options: str, target: str = "") -> Mount:
        return Mount("bind", str(source), target, ("bind", *options))

    return make


@pytest.fixture
def overlay(tmp_path: Path) -> Callable[..., Mount]:
    """Makes overlays of some lower layers, in each of which there is a file of its number."""
    numbers = iter(range(1_000_000))

    def make(*options: str, layers: int = 2, name: str = "layer", target: str = "") -> Mount:
        top = tmp_path / f"overlay{next(numbers)}"
        lower = [top / f"{name}{number}" / "fs" for number in range(layers)]
        for number, layer in enumerate(lower):
            layer.mkdir(parents=True)
            (layer / str(number)).write_text(str(number))
        for directory in ("upper", "work"):
            (top / directory).mkdir()
        paths = ":".join(map(str, lower))
        own = (f"lowerdir={paths}", f"upperdir={top}/upper", f"workdir={top}/work")
        return Mount("overlay", "overlay", target, (*own, *options))

    return make


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """An image of a filesystem; a test after which a loop device shows it for longer than a moment fails."""
    path = make_image(tmp_path / "image")
    yield path
    end = time.monotonic() + 10
    while backing(path):  # the kernel frees a device shortly after its last user has gone
        assert time.monotonic() < end, "a loop device is left"
        time.sleep(0.01)
