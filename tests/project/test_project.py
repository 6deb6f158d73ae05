"""The house keeps its own rules."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import shimpy
from tests.support.paths import ROOT

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


def test_the_version_stands_in_one_place() -> None:
    """And, with what it brings, in the changelog."""
    version = re.escape(PYPROJECT["project"]["version"])
    said = [path for path in ROOT.glob("shimpy/**/*.py") if re.search(rf"\b{version}\b", path.read_text())]

    assert said == []


def test_the_version_stands_in_the_changelog() -> None:
    assert f"## {PYPROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_module_says_what_it_is_for() -> None:
    assert [path for path in MODULES if not ast.get_docstring(parsed(path))] == []


def test_it_is_a_typed_package() -> None:
    assert (ROOT / "shimpy" / "py.typed").is_file()
    assert "Typing :: Typed" in PYPROJECT["project"]["classifiers"]


# What a room may import of shimpy beside itself; the other rooms stand above these and may use them all.
ALLOWED = {
    "core": {"errors", "linux"},
    "transport": {"errors", "linux"},
    "services": {"core", "transport", "api", "errors", "linux"},
    "api": set(),
    "errors": set(),
    "linux": set(),
}

# What is built on shimpy as anyone can: this room has the public names, and nothing else.
PUBLIC_ONLY = "hooks"

# The rooms that people and programs enter by.
ABOVE = {"client", "cli", "daemon", "demo", "testing", "__init__", "__main__"}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """Returns the modules that a module imports, whenever it does, by their full names."""
    package = ["shimpy", *path.relative_to(ROOT / "shimpy").parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return found


def room(path: Path) -> str:
    """Returns the directory, or the module at the root, that a file of shimpy belongs to."""
    return path.relative_to(ROOT / "shimpy").parts[0].removesuffix(".py")


def test_every_room_is_known() -> None:
    rooms = {room(path) for path in ROOT.glob("shimpy/**/*.py")}

    assert rooms == {*ALLOWED, *ABOVE, PUBLIC_ONLY}
    assert len(rooms) <= 15


def test_at_most_four_modules_lie_at_the_root() -> None:
    assert len(list(ROOT.glob("shimpy/*.py"))) <= 4


def test_no_import_runs_up() -> None:
    wrong = []
    for path in MODULES:
        if (allowed := ALLOWED.get(room(path))) is not None:
            for name in imports(path):
                top, _, rest = name.partition(".")
                if top == "shimpy" and rest.partition(".")[0] not in {room(path), *allowed, ""}:
                    wrong.append((path, name))
    assert wrong == []


def test_the_hooks_that_come_along_use_public_names_alone() -> None:
    own = {
        name
        for path in MODULES
        if room(path) == PUBLIC_ONLY
        for name in imports(path)
        if name.partition(".")[0] == "shimpy" and not name.startswith("shimpy.hooks")
    }

    assert "shimpy.Hooks" in own
    assert own <= {"shimpy", *(f"shimpy.{name}" for name in shimpy.__all__)}


def test_no_room_imports_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for path in MODULES:
        # The public API names everything, and whoever imports a module of a package has named it too.
        if room(path) != "__init__":
            rooms.setdefault(room(path), set()).update(
                name.split(".")[1] for name in imports(path) if name.startswith("shimpy.")
            )
    left = {name: (needs & rooms.keys()) - {name} for name, needs in rooms.items()}
    while ground := {name for name, needs in left.items() if not needs}:
        left = {name: needs - ground for name, needs in left.items() if name not in ground}
    assert left == {}


def test_the_core_loads_no_protocol() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if room(path) == "core"
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print([name for name in ('grpclib', 'h2', 'betterproto') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout

    assert printed.strip() == "[]"


def test_a_long_module_says_why() -> None:
    long = [path for path in MODULES if path.read_text().count("\n") > 300]

    assert [path for path in long if "One file because" not in (ast.get_docstring(parsed(path)) or "")] == []


def test_no_two_classes_have_one_name() -> None:
    """In a traceback they could not be distinguished."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        # Metrics and their parts have containerd's names, one set for each version of cgroups.
        if path.parent.name != "stats":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")

    assert {name: where for name, where in places.items() if len(where) > 1} == {}
