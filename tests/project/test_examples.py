"""The programs in examples/, run as their docstrings say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.paths import ROOT

EXAMPLES = sorted(ROOT.glob("examples/*.py"))

# "Prints:" or "Prints, in any order:", and what follows.
_PRINTS = re.compile(r"Prints(, in any order)?:\n(.*)", re.DOTALL)


def docstring(path: Path) -> str:
    """Returns what a program says of itself."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def lines(text: str, *, in_order: bool) -> list[str]:
    """Returns lines to compare."""
    return text.splitlines() if in_order else sorted(text.splitlines())


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if _PRINTS.search(docstring(path))], ids=lambda path: path.stem
)
def test_an_example_prints_what_it_says(path: Path, rootfs: Path) -> None:
    prints = _PRINTS.search(docstring(path))
    assert prints is not None

    done = subprocess.run(
        [sys.executable, path, rootfs], capture_output=True, text=True, check=False, timeout=50
    )

    # What the shim logs, such as a warning of an old runc, goes to stderr.
    assert done.returncode == 0, done.stderr
    in_order = prints[1] is None
    assert lines(done.stdout, in_order=in_order) == lines(textwrap.dedent(prints[2]), in_order=in_order)


def test_there_are_examples() -> None:
    known = {"sandbox", "http_sandbox", "jobs", "events", "ci", "web_terminal"}
    assert known <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 150
