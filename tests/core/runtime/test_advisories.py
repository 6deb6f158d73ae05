"""Which escapes a version of runc is told to be open to."""

from __future__ import annotations

import pytest

from shimpy.core.runtime.advisories import known_escapes

OLD = "CVE-2024-21626"
NEW = "CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.0.3", [OLD, NEW]),
        ("1.1.5+ds1", [OLD, NEW]),
        ("1.1.11", [OLD, NEW]),
        ("1.1.12", [NEW]),
        ("1.1.15", [NEW]),
        ("1.2.0-rc.1", [NEW]),
        ("1.2.7", [NEW]),
        ("1.2.8", []),
        ("1.2.9", []),
        ("1.3.0", [NEW]),
        ("1.3.2", [NEW]),
        ("1.3.3", []),
        ("1.4.0-rc.2", [NEW]),
        ("1.4.0-rc.3", []),
        ("1.4.0", []),
        ("1.5.0", []),
        ("2.0.0", []),
    ],
)
def test_a_runc_is_told_of_the_escapes_that_its_branch_has_no_fix_for(
    version: str, expected: list[str]
) -> None:
    assert known_escapes(f"runc version {version}\ncommit: x\nspec: 1.0.2-dev\n") == expected


@pytest.mark.parametrize("text", ["", "crun version 1.8.1", "runc version unknown", "\0"])
def test_nothing_is_said_of_what_is_not_a_version_of_runc(text: str) -> None:
    assert known_escapes(text) == []
