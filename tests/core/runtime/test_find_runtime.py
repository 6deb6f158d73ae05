"""Which program a runtime's name stands for: it is never an option, nor what lies about in some directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shimpy.core.runtime import find_runtime
from shimpy.errors import InvalidArgumentError, NotFoundError


def program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with nothing on PATH but its `bin`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


# -- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["oci", "a b", "oci-1.2+x", "ö", "$(id)", "a=b", "..."])
def test_a_name_is_looked_for_on_PATH(here: Path, name: str) -> None:  # noqa: N802
    expected = program(here / "bin" / name)

    assert find_runtime(name) == expected


def test_the_first_on_PATH_that_can_be_run_is_taken(  # noqa: N802
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "1" / "oci").mkdir(parents=True)
    program(here / "2" / "oci", 0o644)
    (here / "3").mkdir()
    (here / "3" / "oci").symlink_to("missing")
    expected = program(here / "5" / "oci")
    program(here / "6" / "oci")
    monkeypatch.setenv("PATH", ":".join(str(here / str(number)) for number in range(1, 7)))

    assert find_runtime("oci") == expected


@pytest.mark.parametrize(
    ("path", "place"),
    [("", "."), (":/no/such/directory", "."), ("/no/such/directory:", "."), (".", "."), ("bin", "bin")],
)
def test_a_directory_on_PATH_that_is_relative_gives_an_absolute_path(  # noqa: N802
    here: Path, monkeypatch: pytest.MonkeyPatch, path: str, place: str
) -> None:
    """As the shell has it, an empty one is the current directory; which may be another by the next call."""
    program(here / place / "oci")
    monkeypatch.setenv("PATH", path)

    found = find_runtime("oci")

    assert os.path.isabs(found)
    assert os.path.samefile(found, here / place / "oci")


def test_without_a_PATH_it_is_looked_for_where_the_system_has_its_programs(  # noqa: N802
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PATH")

    assert find_runtime("sh") in ("/bin/sh", "/usr/bin/sh")


@pytest.mark.parametrize("name", ["oci", "a b\\'$(id)", "-oci"])
def test_an_absolute_path_is_taken_as_it_is(here: Path, name: str) -> None:
    path = program(here / "elsewhere" / name)

    assert find_runtime(path) == path


def test_a_link_is_taken_as_it_is(here: Path) -> None:
    """Its name says where the runtime keeps its state."""
    program(here / "elsewhere" / "oci")
    (here / "runc").symlink_to("elsewhere/oci")

    assert find_runtime(f"{here}/runc") == f"{here}/runc"


def test_a_current_directory_that_is_gone_is_not_needed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = program(here / "bin" / "oci")
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert find_runtime("oci") == expected
    assert find_runtime(expected) == expected


def test_what_is_above_a_link_is_where_the_kernel_says(here: Path) -> None:
    """Not what the path looks like; that is another program, or none."""
    expected = program(here / "elsewhere" / "oci")
    (here / "elsewhere" / "directory").mkdir()
    (here / "link").symlink_to("elsewhere/directory")

    assert os.path.samefile(find_runtime(f"{here}/link/../oci"), expected)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("", "-", "-oci", "--root", "./oci", "../oci", "bin/oci", "bin/", "oci/", "./", "../"),
        *("a\0", "\0", "oci\0x", "a\nb", "oci\n", "\n", "\t", "\x1b[2J", "\u202eoci", "\udcff"),
        *("/bin/sh\0", "/bin/sh\n", "/tmp/\x1b"),
        *(".", ".."),
    ],
)
def test_what_is_neither_a_name_nor_an_absolute_path_is_refused(here: Path, name: str) -> None:
    program(here / "oci")
    program(here / "bin" / "oci")

    with pytest.raises(InvalidArgumentError, match=r"^runtime: ") as raised:
        find_runtime(name)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "not executable"])
def test_what_is_there_and_cannot_be_run_is_refused(here: Path, kind: str) -> None:
    path = here / "oci"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path, 0o777)
        case "device":
            path = Path(os.devnull)
        case _:
            program(path, 0o644)

    with pytest.raises(InvalidArgumentError, match=f"^runtime: {path} is not an executable file"):
        find_runtime(str(path))


@pytest.mark.parametrize("name", ["missing", "dangling", "loop", "file/oci", "x" * 300])
def test_a_path_where_nothing_is_is_not_found(here: Path, name: str) -> None:
    (here / "dangling").symlink_to("missing")
    (here / "loop").symlink_to("loop")
    (here / "file").touch()

    with pytest.raises(NotFoundError, match=f"^runtime: there is no {here}/{name}; install it"):
        find_runtime(f"{here}/{name}")


def test_a_name_that_is_not_found_comes_with_the_remedy(here: Path) -> None:
    program(here / "oci")

    with pytest.raises(NotFoundError) as raised:
        find_runtime("oci")
    assert str(raised.value) == "runtime: there is no oci on PATH; install it, or choose another"


@pytest.mark.parametrize("path", ["", ".", "bin", "../bin"])
def test_nothing_is_found_relative_to_a_directory_that_is_gone(
    here: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    program(here / "bin" / "oci")
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("PATH", path)

    with pytest.raises(NotFoundError, match="there is no oci on PATH"):
        find_runtime("oci")
