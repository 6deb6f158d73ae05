"""Loop devices of the machine, and images for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def make_image(path: Path) -> str:
    """Makes an image of an empty ext4 filesystem; skips the test where that or loop devices lack."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("this machine has no loop devices")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("this machine has no mkfs.ext4")
    with path.open("wb") as file:
        file.truncate(1 << 23)
    subprocess.run(["mkfs.ext4", "-q", path], check=True, stderr=subprocess.DEVNULL)
    return str(path)


def backing(image: str) -> list[str]:
    """Returns the names of the loop devices that show an image."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = path.read_text().strip()
        except OSError:
            continue  # freed meanwhile
        if file.removesuffix(" (deleted)") == image:
            found.append(path.parts[3])
    return found
