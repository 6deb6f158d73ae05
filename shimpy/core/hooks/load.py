"""Hooks by name: `module:name`, or a TOML file that says which and with what arguments."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shimpy.core.hooks.hook_set import check_hooks
from shimpy.core.hooks.interface import Hooks
from shimpy.core.hooks.loop_thread import LoopThread
from shimpy.core.runtime.options import read_table
from shimpy.errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError

# Seconds that modules may take to be imported, and their hooks to be made.
LOAD_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class HookConfig:
    """Which hooks there are to be.

    Attributes:
        uses: for each object `module:name` and the arguments that it is made with.
        python_path: directories in which modules are looked for beside those of this Python.
    """

    uses: tuple[tuple[str, Mapping[str, Any]], ...]
    python_path: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> HookConfig | None:
        """Returns what a TOML table says of hooks; None if it says nothing.

        Args:
            table: has an array of tables `hooks`, each with `use` and arguments, and perhaps `python_path`;
                other keys are ignored.
            where: it is from, for messages.

        Raises:
            InvalidArgumentError: it is not of that form.
        """
        if "hooks" not in table:
            return None
        hooks, path = table["hooks"], table.get("python_path", [])
        if not isinstance(path, list) or not all(isinstance(each, str) for each in path):
            raise InvalidArgumentError(f"{where}: python_path must be a list of directories")
        if not isinstance(hooks, list) or not all(isinstance(each, dict) for each in hooks):
            raise InvalidArgumentError(f"{where}: hooks must be an array of tables, each headed [[hooks]]")
        uses = []
        for each in hooks:
            arguments = dict(each)
            name = arguments.pop("use", None)
            if not isinstance(name, str):
                raise InvalidArgumentError(f'{where}: each of the hooks needs use = "module:name"')
            uses.append((name, arguments))
        return cls(tuple(uses), tuple(path))

    @classmethod
    def from_names(cls, names: Sequence[str]) -> HookConfig:
        """Returns what a command line says of hooks.

        Args:
            names: each `module:name`, or the path of a TOML file, whose name ends with .toml.

        Raises:
            InvalidArgumentError: a file is not as `from_table` wants it.
            NotFoundError: there is no such file.
        """
        uses: list[tuple[str, Mapping[str, Any]]] = []
        path: list[str] = []
        for name in names:
            if not name.endswith(".toml"):
                uses.append((name, {}))
            elif (found := cls.from_table(read_table(path=name, field="hooks"), name)) is not None:
                uses += found.uses
                path += found.python_path
            else:
                raise InvalidArgumentError(f"hooks: {name} names no hooks")
        return cls(tuple(uses), tuple(path))

    def load(self) -> tuple[Hooks, ...]:
        """Imports the modules, and makes the objects.

        Raises:
            FailedPreconditionError: one cannot be imported or made; the message says why.
        """
        sys.path += [directory for directory in self.python_path if directory not in sys.path]
        return tuple(_load(name, arguments) for name, arguments in self.uses)

    async def load_aside(self) -> tuple[Hooks, ...]:
        """Does what `load` does, in a thread of its own.

        Raises:
            DeadlineExceededError: it took more than `LOAD_TIMEOUT`.
            FailedPreconditionError: as for `load`.
        """
        thread = LoopThread("hooks are loaded")

        async def load() -> tuple[Hooks, ...]:
            return self.load()

        try:
            outcome = await thread.run(load, LOAD_TIMEOUT)
        except TimeoutError:
            raise DeadlineExceededError(
                f"hooks: {', '.join(name for name, _ in self.uses)}: not loaded after {LOAD_TIMEOUT:g} s"
            ) from None
        finally:
            thread.close()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value or ()


def _load(use: str, arguments: Mapping[str, Any]) -> Hooks:
    """Returns an object with hooks.

    Args:
        use: `module:name`, which is such an object, or what makes one when it is called: a class or a
            function.
        arguments: what it is called with.

    Raises:
        FailedPreconditionError: there is none.
    """
    module, colon, name = use.partition(":")
    if not module or not colon or not name:
        raise FailedPreconditionError(f"hooks: {use!r} is not module:name")
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        if not isinstance(value, Hooks):
            value = value(**arguments)
        elif arguments:
            raise TypeError(f"it is an object already and takes no {', '.join(arguments)}")  # noqa: TRY301 - told as all that a name may fail with
        (hooks,) = check_hooks([value])
    except (Exception, SystemExit) as error:
        raise FailedPreconditionError(f"hooks: {use}: {type(error).__name__}: {error}") from error
    return hooks
