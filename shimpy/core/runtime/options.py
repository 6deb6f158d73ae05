"""What containerd's configuration says of a runtime, and how it stays known until the container is deleted.

The names are those of containerd.runc.v1.Options, of which this is the content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from dataclasses import dataclass
from typing import Any, Final, Self

from shimpy.errors import InternalError, InvalidArgumentError, from_oserror

# containerd's own shim has its options in a file of that name and form, so that either can delete what
# the other has created.
_FILE: Final = "options.json"
_FILE_MODE: Final = 0o600
_LONGEST: Final = 1 << 20  # bytes
_LARGEST: Final = {"task_api_version": 2**32 - 1, "io_uid": 2**32 - 1, "io_gid": 2**32 - 1}


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Options of a runtime.

    Attributes:
        binary_name: the runtime, a name on PATH or a path; empty for the default.
        root: the directory of its state; empty for the default.
        systemd_cgroup: have systemd make the cgroups.
        no_pivot_root: do not use pivot_root(2).
        no_new_keyring: do not make a session keyring.
        io_uid: the user to whom the pipes of a process's stdio belong.
        io_gid: the group.
        criu_path: the program CRIU; empty for the one on PATH.
        criu_image_path: the directory of a checkpoint.
        criu_work_path: the directory in which CRIU works.
        shim_cgroup: the cgroup that the shim itself is moved to.
        task_api_address: containerd's own, as the next is.
        task_api_version: of the Task API.
    """

    binary_name: str = ""
    root: str = ""
    systemd_cgroup: bool = False
    no_pivot_root: bool = False
    no_new_keyring: bool = False
    io_uid: int = 0
    io_gid: int = 0
    criu_path: str = ""
    criu_image_path: str = ""
    criu_work_path: str = ""
    shim_cgroup: str = ""
    task_api_address: str = ""
    task_api_version: int = 0

    @classmethod
    def from_toml(cls, body: bytes = b"", *, path: str = "") -> Self:
        """Returns what a runtime's `options` table in containerd's configuration says.

        Its keys are names such as BinaryName and SystemdCgroup, in any case; one that is not known is
        another runtime's.

        Args:
            body: the table, of runtimeoptions.v1.Options.config_body.
            path: of a file with such a table, which goes before the body: config_path.

        Raises:
            InvalidArgumentError: it is not TOML, or a value has the wrong type.
            NotFoundError: there is no such file.
        """
        table = read_table(body, path=path)
        where = path or "the runtime's options"
        try:
            return cls._from({key.lower(): value for key, value in table.items()}, _TOML_KEYS)
        except ValueError as error:
            raise InvalidArgumentError(f"options: {where}: {error}") from error

    def save(self, bundle: str) -> None:
        """Writes them into a bundle, in place of earlier ones or not at all.

        Raises:
            ShimError: the kernel refused.
        """
        told = {name: value for name, value in dataclasses.asdict(self).items() if value}
        path = os.path.join(bundle, _FILE)
        temporary = f"{path}.{os.urandom(8).hex()}"
        try:
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE
            )
            try:
                with open(fd, "wb") as file:
                    file.write(json.dumps(told).encode())
                os.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise from_oserror(error, f"cannot write {path}") from error

    @classmethod
    def load(cls, bundle: str) -> Self:
        """Reads them from a bundle; those of a bundle that has none are the default.

        Raises:
            InternalError: what is there was not written by `save`.
            ShimError: it cannot be read.
        """
        path = os.path.join(bundle, _FILE)
        try:
            told = json.loads(_read(path, os.O_NOFOLLOW | os.O_NONBLOCK))
            if not isinstance(told, dict):
                raise ValueError("it is not an object")  # noqa: TRY301, TRY004 - answered like bad JSON, below
            return cls._from(told, {name: name for name in _TYPES})
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise from_oserror(error, f"cannot read {path}") from error
        except (ValueError, RecursionError) as error:
            raise InternalError(f"{path} does not hold a runtime's options: {error}") from error

    @classmethod
    def _from(cls, told: dict[str, Any], keys: dict[str, str]) -> Self:
        """Returns options from a table.

        Args:
            told: the table.
            keys: the fields that its keys stand for; others are ignored.

        Raises:
            ValueError: a value does not fit its field.
        """
        values: dict[str, Any] = {}
        for key, value in told.items():
            name = keys.get(key)
            if name is None:
                continue
            if type(value) is not _TYPES[name]:
                raise ValueError(f"{name} must be a {_TYPES[name].__name__}, not {value!r:.64}")
            if isinstance(value, str) and "\0" in value:
                raise ValueError(f"{name} holds a NUL")
            values[name] = value
            if name in _LARGEST and not 0 <= values[name] <= _LARGEST[name]:
                raise ValueError(f"{name} must be between 0 and {_LARGEST[name]}, not {value}")
        return cls(**values)


_TYPES: Final[dict[str, type]] = {
    field.name: type(field.default) for field in dataclasses.fields(RuntimeOptions)
}
# `SystemdCgroup` and its like, in small letters.
_TOML_KEYS: Final = {name.replace("_", ""): name for name in _TYPES}


def read_table(body: bytes = b"", *, path: str = "", field: str = "options") -> dict[str, Any]:
    """Returns a table of TOML.

    Args:
        body: its text.
        path: of a file with the text, which goes before the body.
        field: what it is, for messages.

    Raises:
        InvalidArgumentError: it is not TOML.
        NotFoundError: there is no such file.
    """
    # One start in a hundred has such options.
    import tomllib

    try:
        if path:
            body = _read(path, os.O_NONBLOCK)
        return tomllib.loads(body.decode())
    except OSError as error:
        raise from_oserror(error, f"{field}: cannot read {path!r}") from error
    except ValueError as error:
        where = path or "the runtime's options"
        raise InvalidArgumentError(f"{field}: {where}: {error}") from error


def _read(path: str, flags: int) -> bytes:
    """Reads a regular file of a bounded size.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is of another kind, or longer.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(_LONGEST + 1)
    if len(content) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} bytes")
    return content
