"""The programs in examples/, run as their docstrings say."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.paths import ROOT

EXAMPLES = sorted(ROOT.glob("examples/*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(path: Path, rootfs: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    _, _, expected = docstring.partition("Prints:\n")

    done = subprocess.run(
        [sys.executable, path, rootfs], capture_output=True, text=True, check=False, timeout=50
    )

    # What the shim logs, such as a warning of an old runc, goes to stderr.
    assert done.returncode == 0, done.stderr
    assert done.stdout == textwrap.dedent(expected) + "\n"


def test_there_are_examples() -> None:
    assert {"sandbox", "jobs", "events"} <= {path.stem for path in EXAMPLES}
