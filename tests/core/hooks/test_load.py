"""Hooks by name, from a command line or a TOML file."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shimpy
from shimpy.api import well_known
from shimpy.api.runtime_options import Options
from shimpy.core.hooks import load
from shimpy.core.hooks.load import HookConfig
from shimpy.services.task.hooks import TaskHooks
from shimpy.transport.protobuf import encode
from tests.support.machine import lacking

pytestmark = pytest.mark.anyio

_MODULE = """
import shimpy, time

class Named(shimpy.Hooks):
    def __init__(self, word="default"):
        self.word = word

made = Named("made before")

def make():
    return Named("made by a function")

def slow():
    time.sleep(2)
    return made

nothing = 42
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the name `my_hooks`; returns its directory."""
    (tmp_path / "my_hooks.py").write_text(_MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "my_hooks", raising=False)
    return tmp_path


def words(hooks: tuple[Any, ...]) -> list[str]:
    return [each.word for each in hooks]


def test_by_name() -> None:
    names = ["my_hooks:Named", "my_hooks:made", "my_hooks:make"]

    assert words(HookConfig.from_names(names).load()) == ["default", "made before", "made by a function"]


def test_by_a_file_with_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may say where its modules are."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])
    file = tmp_path / "hooks.toml"
    file.write_text(
        f'python_path = ["{tmp_path}"]\n'
        '[[hooks]]\nuse = "my_hooks:Named"\nword = "one"\n[[hooks]]\nuse = "my_hooks:Named"\nword = "two"\n'
    )

    assert words(HookConfig.from_names([str(file)]).load()) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my_hooks", "'my_hooks' is not module:name"),
        ("no_such_module:x", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("my_hooks:missing", "AttributeError: .*missing"),
        ("my_hooks:nothing", "TypeError: 'int' object is not callable"),
        ("builtins:dict", "TypeError: hooks: dict is not an object of a subclass of shimpy.Hooks"),
    ],
)
def test_what_is_not_there(name: str, why: str) -> None:
    with pytest.raises(shimpy.FailedPreconditionError, match=why):
        HookConfig.from_names([name]).load()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hooks = 3", r"hooks must be an array of tables, each headed \[\[hooks\]\]"),
        ("[[hooks]]\npath = '/x'", 'needs use = "module:name"'),
        ("[[hooks]]\nuse = 'a:b'\n[more]\npython_path = 1\n", None),
        ("python_path = '/x'\n[[hooks]]\nuse = 'a:b'", "python_path must be a list of directories"),
        ("", "names no hooks"),
        ("[[hooks", "hooks: .*hooks.toml: "),
    ],
)
def test_files(tmp_path: Path, text: str, why: str | None) -> None:
    file = tmp_path / "hooks.toml"
    file.write_text(text)
    if why is None:
        HookConfig.from_names([str(file)])
        return
    with pytest.raises(shimpy.InvalidArgumentError, match=why):
        HookConfig.from_names([str(file)])


async def test_a_module_that_takes_its_time_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LOAD_TIMEOUT", 0.5)
    loading = asyncio.ensure_future(HookConfig.from_names(["my_hooks:slow"]).load_aside())
    turns = 0
    while not loading.done():
        turns += 1
        await asyncio.sleep(0.01)

    with pytest.raises(shimpy.DeadlineExceededError, match=r"my_hooks:slow: not loaded after 0\.5 s"):
        await loading
    assert turns > 5


def options(**fields: Any) -> well_known.Any:
    return well_known.Any("runtimeoptions.v1.Options", encode(Options(**fields)))


async def test_a_runtimes_options_go_before_the_configuration(tmp_path: Path) -> None:
    """As CRI sends them: the text itself, or the path of a file."""
    config, own = tmp_path / "config.toml", tmp_path / "own.toml"
    config.write_text('[[hooks]]\nuse = "my_hooks:made"\n')
    text = b'BinaryName = "runc"\n[[hooks]]\nuse = "my_hooks:Named"\nword = "own"\n'
    own.write_bytes(text)
    hooks = TaskHooks(str(config))

    async def found(message: well_known.Any) -> list[str]:
        hook_set = await hooks.find(message)
        return [] if hook_set is None else words(tuple(runner.hooks for runner in hook_set.runners))

    assert await found(well_known.Any()) == ["made before"]
    assert await found(options(config_body=b'BinaryName = "runc"')) == ["made before"]
    assert await found(options(config_body=text)) == ["own"]
    assert await found(options(config_path=str(own))) == ["own"]
    assert await found(options(config_body=b"hooks = []")) == []


async def test_without_a_configuration_there_are_none(tmp_path: Path) -> None:
    assert await TaskHooks(str(tmp_path / "config.toml")).find(well_known.Any()) is None


_IN_ETC = """
import asyncio
from shimpy.api import well_known
from shimpy.services.task.hooks import TaskHooks
found = asyncio.run(TaskHooks().find(well_known.Any()))
print(*[runner.hooks.word for runner in found.runners])
"""


def test_the_configuration_is_in_etc(module: Path, tmp_path: Path) -> None:
    """On an /etc that only this program sees."""
    if lacks := lacking():
        pytest.skip(f"a mount needs {lacks}")
    config = tmp_path / "config.toml"
    config.write_text(f'python_path = ["{module}"]\n[[hooks]]\nuse = "my_hooks:made"\n')
    place = f"mount -t tmpfs none /etc && mkdir /etc/shimpy && cp {config} /etc/shimpy/"
    run = ["unshare", "--mount", "sh", "-ec", f'{place}; exec "$@"', "sh", sys.executable, "-c", _IN_ETC]

    assert subprocess.check_output(run, text=True) == "made before\n"


async def test_a_configuration_that_is_wrong_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[[hooks")
    with pytest.raises(shimpy.FailedPreconditionError, match=r"config\.toml"):
        await TaskHooks(str(tmp_path / "config.toml")).find(well_known.Any())


def test_a_shim_that_cannot_load_its_hooks_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shimpy", "--socket", tmp_path / "s", "--hooks", "no_such_module:x"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == (
        "shimpy: hooks: no_such_module:x: ModuleNotFoundError: No module named 'no_such_module'\n"
    )


async def test_a_shim_of_its_own_takes_names_alone() -> None:
    hooks: Any = shimpy.Hooks()
    for wrong in (hooks, [hooks]):
        with pytest.raises(TypeError, match="is not a string; another process needs module:name"):
            async with shimpy.launch(hooks=wrong):
                pass


async def test_a_shim_ends_whatever_threads_its_hooks_have(module: Path, tmp_path: Path) -> None:
    (module / "hanging.py").write_text(
        "import shimpy, threading\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "hooks = shimpy.Hooks()\n"
    )
    (tmp_path / "hooks.toml").write_text(f'python_path = ["{module}"]\n[[hooks]]\nuse = "hanging:hooks"\n')
    async with asyncio.timeout(50):
        async with shimpy.launch(hooks=str(tmp_path / "hooks.toml"), timeout=30):
            began = asyncio.get_running_loop().time()
        # SIGKILL would come after five.
        assert asyncio.get_running_loop().time() - began < 4.5
