"""The figures of `make bench`: what is made of samples, and how two files are told apart."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.figures import Figure, Target, compare, p99


def test_a_figure_beside_what_it_is_compared_with() -> None:
    figure = Figure.of("Start", [5, 7, 6], "ms", [4, 3, 5], [Target("added", 2), Target("ratio", 1.2)])
    assert (figure.median, figure.bare_median, figure.added, figure.ratio) == (6, 4, 2, 1.5)
    assert [target["met"] for target in figure.targets] == [True, False]
    assert figure.row()[-1] == "added <= 2; ratio <= 1.2 MISSED"


def test_a_lower_bound() -> None:
    targets = [Target("median", 150, least=True)]
    assert [Figure.of("x", [rate], "MB/s", [], targets).targets[0]["met"] for rate in (149, 150)] == [
        False,
        True,
    ]


def test_p99_is_the_largest_of_a_few_and_leaves_out_one_of_a_hundred() -> None:
    assert p99([3, 1, 2]) == 3
    assert p99(range(200)) == 198


def test_two_files(tmp_path: Path) -> None:
    for name, values in (("old", [4.0]), ("new", [6.0])):
        figures = [
            asdict(Figure.of("Start", values, "ms", [2.0], [])),
            asdict(Figure.of(name, [1], "s", [], [])),
        ]
        (tmp_path / name).write_text(json.dumps({"figures": figures}))
    lines = compare(tmp_path / "old", tmp_path / "new").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells == [
        ["Start", "4 ms", "6 ms", "+50%", "2", "3"],
        ["old", "1 s", "s", "", "", ""],
        ["new", "s", "1 s", "", "", ""],
    ]
