"""The house keeps its own rules."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = [path for path in ROOT.glob("shimpy/**/*.py") if "api" not in path.parts]


def make(*targets: str) -> str:
    """What `make` would do, without doing it."""
    return subprocess.run(
        ["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def test_the_readme_names_only_targets_that_there_are() -> None:
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    known = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {"run", "test"} <= targets
    assert targets <= known


def test_ci_calls_nothing_that_the_readme_does_not_say() -> None:
    readme = (ROOT / "README.md").read_text()
    called = re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)

    assert "test" in called
    assert [target for target in called if f"make {target}" not in readme] == []


def test_one_knob_makes_the_numbers_big() -> None:
    assert "SHIMPY_ROUNDS=full" in make("stress")
    assert "SHIMPY_ROUNDS" not in make("test")


def test_the_version_stands_in_the_changelog() -> None:
    assert f"## {PYPROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_it_is_a_typed_package() -> None:
    assert (ROOT / "shimpy" / "py.typed").is_file()
    assert "Typing :: Typed" in PYPROJECT["project"]["classifiers"]


CORE = {
    *(
        "container",
        "creation",
        "execution",
        "starting",
        "freezing",
        "process",
        "processes",
        "states",
        "operation",
        "spec",
    ),
    *("runtime", "reaper", "stdio", "cgroup", "events", "scratch", "linux"),
}
"""The rooms of shimpy that every front door is to share."""


def imports(path: Path) -> set[str]:
    """Returns the modules that a module imports, whenever it does, by their full names."""
    package = ["shimpy", *path.relative_to(ROOT / "shimpy").parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return found


@pytest.mark.parametrize("room", sorted(CORE))
def test_the_core_knows_no_front_door(room: str) -> None:
    paths = [
        path for path in MODULES if path.relative_to(ROOT / "shimpy").parts[0].removesuffix(".py") == room
    ]
    assert paths
    for path in paths:
        for name in imports(path):
            top, _, rest = name.partition(".")
            assert top not in {"grpclib", "betterproto", "h2"}, f"{path}: {name}"
            assert top != "shimpy" or rest.partition(".")[0] in {*CORE, "errors", ""}, f"{path}: {name}"


def test_no_package_or_module_imports_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for path in MODULES:
        room = path.relative_to(ROOT / "shimpy").parts[0].removesuffix(".py")
        # The public API names everything, and whoever imports a module of a package has named it too.
        if room != "__init__":
            rooms.setdefault(room, set()).update(
                name.split(".")[1] for name in imports(path) if name.startswith("shimpy.")
            )
    left = {room: (needs & rooms.keys()) - {room} for room, needs in rooms.items()}
    while ground := {room for room, needs in left.items() if not needs}:
        left = {room: needs - ground for room, needs in left.items() if room not in ground}
    assert left == {}
