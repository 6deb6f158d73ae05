"""Figures: what was measured, of how many, beside what, and what it should be."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """What a figure should be at most, or with `least` at least.

    Attributes:
        of: the field of the Figure that is meant: median, p99, added, added_p99 or ratio.
        bound: in the figure's own unit.
        least: whether it is a lower bound.
    """

    of: str
    bound: float
    least: bool = False


@dataclass
class Figure:
    """One line of the table; see Bench.record."""

    name: str
    unit: str
    count: int
    median: float
    p99: float
    bare_median: float | None = None
    bare_p99: float | None = None
    added: float | None = None
    added_p99: float | None = None
    ratio: float | None = None
    targets: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls, name: str, values: Sequence[float], unit: str, bare: Sequence[float], targets: Sequence[Target]
    ) -> Figure:
        """Makes a figure of samples, and of those of what it is compared with, if there are any."""
        figure = cls(name, unit, len(values), statistics.median(values), p99(values))
        if bare:
            figure.bare_median = statistics.median(bare)
            figure.bare_p99 = p99(bare)
            figure.added = figure.median - figure.bare_median
            figure.added_p99 = figure.p99 - figure.bare_p99
            figure.ratio = figure.median / figure.bare_median
        for target in targets:
            value = getattr(figure, target.of)
            met = value is not None and (value >= target.bound if target.least else value <= target.bound)
            figure.targets.append({**asdict(target), "met": met})
        return figure

    def row(self) -> list[str]:
        """Returns its cells of the table."""
        return [
            self.name,
            f"{_short(self.median)} {self.unit}",
            _short(self.p99),
            _short(self.bare_median),
            _short(self.bare_p99),
            _short(self.added),
            _short(self.ratio),
            "; ".join(map(_judged, self.targets)),
        ]


HEADINGS = ["what", "median", "p99", "bare", "bare p99", "added", "ratio", "target"]


def p99(values: Sequence[float]) -> float:
    """Returns the 99th percentile; of less than a hundred samples, the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def table(rows: Sequence[Sequence[str]], headings: Sequence[str] = HEADINGS) -> str:
    """Returns a table as Markdown has it."""
    lines = [list(headings), ["-" * len(heading) for heading in headings], *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for column, width in enumerate(widths):
        lines[1][column] = "-" * width
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def compare(before: Path, after: Path) -> str:
    """Returns what two JSON files differ in: medians, and the ratios to what was measured beside them."""
    old, new = (
        {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
        for path in (before, after)
    )
    rows = []
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name, {}), new.get(name, {})
        change = f"{b['median'] / a['median'] - 1:+.0%}" if a.get("median") and b.get("median") else ""
        unit = (a or b)["unit"]
        rows.append(
            [
                name,
                f"{_short(a.get('median'))} {unit}",
                f"{_short(b.get('median'))} {unit}",
                change,
                _short(a.get("ratio")),
                _short(b.get("ratio")),
            ]
        )
    return table(rows, ["what", str(before), str(after), "change", "ratio before", "after"])


def _judged(target: dict[str, Any]) -> str:
    sign = ">=" if target["least"] else "<="
    return f"{target['of']} {sign} {_short(target['bound'])}{'' if target['met'] else ' MISSED'}"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
