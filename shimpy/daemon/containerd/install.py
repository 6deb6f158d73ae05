"""Puts the command where containerd finds it, and takes it away again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from shimpy.errors import AlreadyExistsError, InternalError, InvalidArgumentError, NotFoundError, from_oserror

DEFAULT_PREFIX = "/usr/local"
DEFAULT_NAME = "shimpy"

_MARK = "# Written by `shimpy containerd install`."
_MODE = 0o755

# Bytes of a script's first line that the kernel reads, since Linux 5.1 (execve(2)).
_LONGEST_FIRST_LINE = 255

# Isolated, so that what containerd's environment says of Python does not matter; and without `site`, which
# takes as long as all the rest of a `delete`. So the script says itself where shimpy is.
_SCRIPT = """\
#!{interpreter} -IS
{mark}
import sys
sys.path += {paths!r}
from shimpy.daemon.containerd.main import main
sys.exit(main())
"""

_CHECK = "import sys; sys.path += {paths!r}; from shimpy.daemon.containerd.daemon import load; load()"


def install(prefix: str = DEFAULT_PREFIX, names: Sequence[str] = (DEFAULT_NAME,)) -> list[str]:
    """Writes an executable for each name.

    Args:
        prefix: below whose `bin` they are to be.
        names: of the runtime: `shimpy` is io.containerd.shimpy.v2 for containerd, `runc` takes the place of
            containerd's own.

    Returns:
        Their paths.

    Raises:
        InvalidArgumentError: a name is not one.
        AlreadyExistsError: another program has that name.
        InternalError: the interpreter cannot run it.
        ShimError: the kernel refused.
    """
    paths = [_path(prefix, name) for name in names]
    script = _script()
    for path in paths:
        if os.path.lexists(path) and not _is_ours(path):
            raise AlreadyExistsError(
                f"{path} is another program; remove it, or choose another prefix or name"
            )
    for path in paths:
        temporary = f"{path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(temporary, "x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), _MODE)
                file.write(script)
            os.rename(temporary, path)
        except OSError as error:
            raise from_oserror(error, f"cannot write {path}") from error
    return paths


def uninstall(prefix: str = DEFAULT_PREFIX, names: Sequence[str] = ()) -> list[str]:
    """Removes what `install` has written.

    Args:
        prefix: below whose `bin` it is.
        names: of the runtimes; none for all that are there.

    Returns:
        The paths that were removed.

    Raises:
        InvalidArgumentError: a name is not one.
        NotFoundError: there is nothing to remove.
        ShimError: the kernel refused.
    """
    directory = os.path.join(prefix, "bin")
    if names:
        wanted = [_path(prefix, name) for name in names]
    else:
        there = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        wanted = [os.path.join(directory, name) for name in there if name.startswith("containerd-shim-")]
    removed = [path for path in wanted if _is_ours(path)]
    if not removed:
        raise NotFoundError(f"shimpy has installed nothing in {directory}")
    for path in removed:
        try:
            os.unlink(path)
        except OSError as error:
            raise from_oserror(error, f"cannot remove {path}") from error
    return removed


def _path(prefix: str, name: str) -> str:
    if not name.isidentifier() or not name.isascii():
        raise InvalidArgumentError(f"name: {name!r} is not one; letters, digits and _ make one")
    return os.path.join(os.path.abspath(prefix), "bin", f"containerd-shim-{name}-v2")


def _script() -> str:
    """Returns the script, of which it is known that this machine can run it."""
    import betterproto

    import shimpy

    packages = [module.__file__ for module in (shimpy, betterproto)]
    paths = list(dict.fromkeys(os.path.dirname(os.path.dirname(path)) for path in packages if path))
    interpreter = os.path.abspath(sys.executable)
    if " " in interpreter or len(os.fsencode(interpreter)) + len("#! -IS") > _LONGEST_FIRST_LINE:
        raise InternalError(
            f"the path of the interpreter, {interpreter}, cannot stand in a script's first line"
        )
    check = subprocess.run(
        [interpreter, "-I", "-S", "-c", _CHECK.format(paths=paths)],
        check=False, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    if check.returncode != 0:
        *_, last = check.stderr.strip().splitlines() or ["it said nothing"]
        raise InternalError(f"{interpreter} cannot run the shim: {last}")
    return _SCRIPT.format(interpreter=interpreter, mark=_MARK, paths=paths)


def _is_ours(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _MARK.encode() in file.read(1 << 12)
    except OSError:
        return False
