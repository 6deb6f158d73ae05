"""The code in the documentation: each block is run, or says why it is not.

A block that is not run has a comment before it, `<!-- not run: why -->`. Python of one page is run in one
program, in order, with `shimpy` imported and `await` at the top; what it prints is in comments
behind its print calls, or in those that stand for themselves.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from shimpy.core.hooks.load import HookConfig
from tests.support.examples import one_at_a_time
from tests.support.paths import ROOT

PAGES = ROOT / "docs" / "pages"
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?^```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)

# Languages that nobody runs; all others are run, or say why they are not.
_DATA = {"ini", "json", "text", "yaml"}

# /srv/rootfs, and an empty /run, in a mount namespace of its own.
_ELSEWHERE = """
set -e
mount -t tmpfs none /srv
mkdir /srv/rootfs
mount --bind "$0" /srv/rootfs
mount -t tmpfs none /run
exec "$@"
"""


class Block(NamedTuple):
    """A block of code."""

    page: Path
    kind: str
    text: str
    why_not: str


def _blocks(path: Path) -> list[Block]:
    return [Block(path, m["kind"], m["text"], m["why"] or "") for m in _BLOCK.finditer(path.read_text())]


BLOCKS = [block for path in sorted(PAGES.rglob("*.md")) for block in _blocks(path)]


def _to_run(kind: str) -> dict[str, list[str]]:
    """Returns the blocks of a language that are to be run, by their pages."""
    found: dict[str, list[str]] = {}
    for block in BLOCKS:
        if block.kind == kind and not block.why_not:
            found.setdefault(str(block.page.relative_to(PAGES)), []).append(block.text)
    return found


PYTHON, TOML = _to_run("python"), _to_run("toml")


def _expected(text: str) -> list[str]:
    """Returns the lines that a block says it prints."""
    lines = []
    for said in re.findall(r"^(?!\s*#)[^\n]*\)  # (.+)$|^# (.+)$", text, re.MULTILINE):
        lines += re.split(r", (?=b')", "".join(said))
    return lines


@pytest.mark.parametrize("page", PYTHON)
def test_python(page: str, rootfs: Path) -> None:
    blocks = PYTHON[page]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ELSEWHERE, str(rootfs)]
    with one_at_a_time():
        done = subprocess.run(
            [*command, sys.executable, "-m", "tests.support.docs_program"],
            input=json.dumps(blocks), capture_output=True, text=True, check=False, timeout=50, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(line for text in blocks for line in _expected(text))


@pytest.mark.parametrize("page", TOML)
def test_toml(page: str, tmp_path: Path) -> None:
    """It is TOML, and hooks that it names can be made as it says."""
    for text in TOML[page]:
        config = HookConfig.from_table(tomllib.loads(text.replace("/run/", f"{tmp_path}/")), page)
        if config is not None and "metrics" not in text:  # which would change this process's environment
            assert config.load()


def test_commands_say_why_they_are_not_run() -> None:
    """None of them is: they serve, want a terminal, or change the machine."""
    assert _to_run("sh") == {}


def test_every_block_is_of_a_language_that_is_run_or_is_data() -> None:
    assert {block.kind for block in BLOCKS} <= {"python", "sh", "toml", *_DATA}
