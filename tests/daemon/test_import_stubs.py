"""What `python -m shimpy` leaves out of its start, and that nobody else is without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.servers import Server


def run(program: str) -> str:
    """Runs a program in a fresh interpreter and returns what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LEAN = """
import sys
from shimpy.daemon import import_stubs
with import_stubs.imports():
    from shimpy.services.shim_v1 import Shim
"""


@pytest.mark.unmeasured
def test_what_a_shim_never_uses_is_not_loaded() -> None:
    unused = {
        "betterproto.lib.std",
        "ssl",
        "_ssl",
        "dateutil",
        "hashlib",
        "importlib.metadata",
        "ipaddress",
        "pathlib",
        "platform",
        "typing_extensions",
        "google.protobuf",
        "shutil",
        "shimpy.core.cgroup.stats.v1",
        "shimpy.core.cgroup.stats.v2",
    }
    assert run(LEAN + f"print(sorted({unused} & sys.modules.keys()))") == "[]"


def test_the_plain_import_is_as_the_libraries_have_it() -> None:
    assert run("import sys; import shimpy.services.shim_v1; print('dateutil' in sys.modules)") == "True"


@pytest.mark.parametrize(
    "module", ["ssl", "dateutil.parser", "importlib.metadata", "pathlib", "platform", "typing_extensions"]
)
def test_what_was_left_out_can_be_imported_afterwards(module: str) -> None:
    assert run(f"{LEAN}import {module}; print(bool({module}.__file__))") == "True"


def test_what_is_loaded_already_stays_as_it_is() -> None:
    assert (
        run("import ssl\n" + LEAN + "assert sys.modules['ssl'] is ssl; print(ssl.OPENSSL_VERSION != '')")
        == "True"
    )


def test_what_only_typing_extensions_has_can_be_imported_meanwhile() -> None:
    program = """
from shimpy.daemon import import_stubs
with import_stubs.imports():
    import betterproto
    from typing_extensions import TypedDict
import typing_extensions
print(TypedDict is typing_extensions.TypedDict)
"""
    assert run(program) == "True"


def test_a_message_that_the_api_does_not_have_is_still_a_message() -> None:
    assert run(LEAN + "from betterproto import BoolValue; print(bytes(BoolValue()))") == "b''"


def test_classes_are_made_without_signatures_and_afterwards_with() -> None:
    later = "import dataclasses; print(dataclasses.make_dataclass('Later', ['field']).__doc__)"
    assert run(f"{LEAN}from shimpy.api import StateRequest; print(StateRequest.__doc__)") == "StateRequest"
    assert run(LEAN + later) == "Later(field: 'typing.Any')"


@pytest.mark.anyio
async def test_the_server_runs_lean(start_server: Callable[..., Server]) -> None:
    assert "libssl" not in Path(f"/proc/{start_server().pid}/maps").read_text()
