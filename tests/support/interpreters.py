"""The Pythons of this machine that shimpy supports, for what depends on how one waits for children."""

from __future__ import annotations

import functools
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

_NAMES = [f"python3.{minor}" for minor in range(11, 20)]
_PYENV = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")


@functools.cache
def interpreters() -> dict[str, str]:
    """Returns one interpreter of each version, the one that runs the tests among them."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for name in _NAMES:
        version = name.removeprefix("python")
        known = shutil.which(name)
        for path in [*([known] if known else []), *glob.glob(f"{_PYENV}/versions/{version}.*/bin/{name}")]:
            # A pyenv shim is a script: it runs another file, or, of a version that is not chosen, nothing.
            asked = [path, "-c", "import sys; print(sys.executable)"]
            said = subprocess.run(asked, check=False, capture_output=True, text=True)
            if said.returncode == 0 and version not in found:
                found[version] = said.stdout.strip()
    return found


def environment() -> dict[str, str]:
    """Returns an environment in which each finds shimpy, its tests, and what shimpy depends on.

    That was installed for the Python of this run; of the one part that is compiled there is a version
    in pure Python.
    """
    grpclib = importlib.util.find_spec("grpclib")
    assert grpclib is not None
    assert grpclib.origin is not None
    places = [Path(__file__).parents[2], Path(grpclib.origin).parents[1]]
    path = os.pathsep.join(map(str, places))
    return {**os.environ, "PYTHONPATH": path, "MULTIDICT_NO_EXTENSIONS": "1"}
