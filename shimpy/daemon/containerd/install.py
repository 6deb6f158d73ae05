"""Puts the command where containerd finds it, and takes it away again."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from shimpy.daemon.containerd import fork_place
from shimpy.errors import AlreadyExistsError, InternalError, InvalidArgumentError, NotFoundError, from_oserror

DEFAULT_PREFIX = "/usr/local"
DEFAULT_NAME = "shimpy"

_MARK = "# Written by `shimpy containerd install`."
_MODE = 0o755

# A shell starts in a tenth of the time that an interpreter takes. So it asks a fork server first, if one
# lives (a zombie has no mount namespace) and is of the same place: that takes the shell's file descriptors,
# writes the answer where `sleep` would write, and ends it. An interpreter is isolated, so that what
# containerd's environment says of Python does not matter, and without `site`; so the script, which is
# Python's too, says where shimpy is.
_SCRIPT = """\
#!/bin/sh
{mark}
''':'
directory=${{{variable}:-{directory}}}
case $* in
*start | *delete)
    for ask in "$directory"/{key}.*.[0-9]* "$directory/{activated}"; do
        [ -p "$ask" ] && [ -O "$directory" ] || continue
        server=/proc/${{ask##*.}}/ns/mnt
        [ /proc/self/ns/mnt -ef "$server" ] || [ "$ask" = "$directory/{activated}" ] || continue
        status=$(
            exec 2>/dev/null {shown}<>"$ask" {answer}>&1
            read -r waiting _ </proc/self/stat
            echo {key} $$ "$waiting" >&{shown}
            exec sleep {timeout}
        )
        case $status in
        {begun}0) exit 0 ;;
        {begun}?*) exit 1 ;;
        {begun}) echo "${{0##*/}}: the shim ended before it was ready" >&2 && exit 1 ;;
        esac
    done
    ;;
esac
exec {interpreter} -IS "$0" "$@"
'''
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
    check = subprocess.run(
        [interpreter, "-I", "-S", "-c", _CHECK.format(paths=paths)],
        check=False, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    if check.returncode != 0:
        *_, last = check.stderr.strip().splitlines() or ["it said nothing"]
        raise InternalError(f"{interpreter} cannot run the shim: {last}")
    return _SCRIPT.format(
        interpreter=shlex.quote(interpreter), mark=_MARK, paths=paths, key=fork_place.key(),
        variable=fork_place.VARIABLE, directory=fork_place.DIRECTORY, activated=fork_place.ACTIVATED,
        shown=fork_place.SHOWN, answer=fork_place.ANSWER, timeout=fork_place.BEGIN_TIMEOUT,
        begun=fork_place.BEGUN.decode(),
    )  # fmt: skip


def _is_ours(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _MARK.encode() in file.read(1 << 12)
    except OSError:
        return False
