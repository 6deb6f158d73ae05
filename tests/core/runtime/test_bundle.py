"""Reading a bundle: what is taken, what is refused with which words, and that nothing is waited for."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from shimpy.core.runtime.bundle import MAX_CGROUPS_PATH, MAX_CONFIG, Bundle
from shimpy.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
)
from tests.support.leaks import descriptors, no_descriptor_left, opened_since

# What is still a configuration, to us.
LEAST = '{"process": {}}'

NOBODY = 65534


def configure(bundle: Path, text: str | bytes) -> str:
    """Writes a config.json and returns the path of the bundle."""
    (bundle / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(bundle)


def refusal(error: type[ShimError], bundle: str) -> str:
    """Returns with what message a bundle is refused, which names the field and can be printed."""
    with pytest.raises(error) as raised:
        Bundle.read(bundle)
    message = str(raised.value)
    assert type(raised.value) is error
    assert message.startswith("bundle: ")
    assert message.isprintable()
    return message


# -- a bundle that is one ------------------------------------------------------------------------


def test_a_bundle_is_read_whole(tmp_path: Path) -> None:
    """What nobody here knows of is kept: it is handed to the runtime again with each exec."""
    spec = {"process": {"args": ["ä"], "x-new": {"a": [1.5, None]}}, "linux": {"y": 2**70}, "z": 1}

    assert Bundle.read(configure(tmp_path, json.dumps(spec))).spec == spec


def test_a_configuration_of_the_greatest_size_is_read(tmp_path: Path) -> None:
    assert Bundle.read(configure(tmp_path, LEAST.ljust(MAX_CONFIG))).spec == {"process": {}}


def test_a_bundle_may_be_reached_and_hold_its_configuration_by_links(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(LEAST)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "config.json").symlink_to("../real")
    (tmp_path / "link").symlink_to("bundle")

    assert Bundle.read(f"{tmp_path}/link").spec == {"process": {}}


def test_a_bundle_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    bundle = os.fsdecode(os.fsencode(tmp_path) + b"/\xff \n'$(x)")
    os.mkdir(bundle)

    assert Bundle.read(configure(Path(bundle), LEAST)).spec == {"process": {}}


@pytest.mark.parametrize(
    "spec",
    [
        {"process": {}, "linux": None},
        {"process": {"user": None}},
        {"process": {}, "linux": {"namespaces": None, "cgroupsPath": None}},
        {"process": {}, "linux": {"namespaces": [{}], "cgroupsPath": "x" * MAX_CGROUPS_PATH}},
    ],
    ids=str,
)
def test_what_is_null_or_at_the_limit_is_as_specified(tmp_path: Path, spec: dict[str, Any]) -> None:
    assert Bundle.read(configure(tmp_path, json.dumps(spec))).spec == spec


# -- a bundle that is none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", ".", "a", "./a", "../a", " /a", "~", "file:///a", "/a\0", "\0/a", "/\0"]
)
def test_a_path_that_is_not_absolute_or_no_path_is_refused(path: str) -> None:
    assert "absolute" in refusal(InvalidArgumentError, path)


@pytest.mark.parametrize("path", ["/" + "a" * 256, "/" + "a/" * 2100], ids=["name", "path"])
def test_a_path_that_is_too_long_for_the_kernel_is_refused_in_few_words(path: str) -> None:
    message = refusal(InvalidArgumentError, path)

    assert "too long" in message
    assert len(message) < 500


@pytest.mark.parametrize("name", ["missing", "missing/too", "dangling"])
def test_a_bundle_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling").symlink_to("missing")

    assert name in refusal(NotFoundError, f"{tmp_path}/{name}")


@pytest.mark.parametrize("kind", ["nothing", "dangling"])
def test_a_bundle_without_a_configuration_is_not_found(tmp_path: Path, kind: str) -> None:
    if kind == "dangling":
        (tmp_path / "config.json").symlink_to("missing")

    assert f"{tmp_path}/config.json" in refusal(NotFoundError, str(tmp_path))


@pytest.mark.parametrize("kind", ["file", "fifo", "device", "link to a file"])
def test_a_bundle_that_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bundle"
    match kind:
        case "file":
            path.touch()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = Path(os.devnull)
        case _:
            path.symlink_to("/etc/passwd")

    assert "is not a directory" in refusal(InvalidArgumentError, str(path))


def test_links_that_go_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to("back")
    (tmp_path / "back").symlink_to("there")
    (tmp_path / "config.json").symlink_to("config.json")

    for bundle in (tmp_path, tmp_path / "there"):
        assert os.strerror(errno.ELOOP) in refusal(InvalidArgumentError, str(bundle))


@pytest.mark.parametrize("kind", ["fifo", "fifo with a writer", "directory", "device", "terminal"])
def test_a_configuration_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    config = tmp_path / "config.json"
    with contextlib.ExitStack() as stack:
        match kind:
            case "directory":
                config.mkdir()
            case "device":
                config.symlink_to("/dev/zero")
            case "terminal":
                master, slave = os.openpty()
                stack.callback(os.close, master)
                stack.callback(os.close, slave)
                config.symlink_to(os.ttyname(slave))
            case _:
                os.mkfifo(config)
                if "writer" in kind:
                    stack.callback(os.close, os.open(config, os.O_RDWR))
        message = refusal(InvalidArgumentError, str(tmp_path))

    assert "is not a regular file" in message


_OPENS_A_TERMINAL = """
import os, sys
from shimpy.core.runtime.bundle import Bundle
try:
    Bundle.read(sys.argv[1])
except Exception as error:
    print(error)
try:
    os.open("/dev/tty", os.O_RDWR)
except OSError as error:
    print(error.errno)
"""


def test_a_terminal_by_its_name_does_not_become_the_one_that_can_hang_up_on_us(tmp_path: Path) -> None:
    """As any does that the first process of a session opens (setsid(2))."""
    master, slave = os.openpty()
    (tmp_path / "config.json").symlink_to(os.ttyname(slave))

    told = subprocess.run(
        [sys.executable, "-c", _OPENS_A_TERMINAL, str(tmp_path)],
        start_new_session=True,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    os.close(master)
    os.close(slave)

    assert "is not a regular file" in told[0]
    assert told[1:] == [str(errno.ENXIO)]


@pytest.mark.parametrize("kind", ["file", "directory", "too large", "not JSON"])
def test_a_configuration_is_closed_whether_it_is_taken_or_refused(tmp_path: Path, kind: str) -> None:
    config = tmp_path / "config.json"
    if kind == "directory":
        config.mkdir()
    else:
        config.write_text(LEAST.ljust(MAX_CONFIG + 1) if kind == "too large" else kind)
    if kind == "file":
        config.write_text(LEAST)
    before = descriptors()

    with contextlib.suppress(InvalidArgumentError):
        Bundle.read(str(tmp_path))

    assert opened_since(before) == []


def test_a_configuration_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    assert "larger" in refusal(InvalidArgumentError, configure(tmp_path, LEAST.ljust(MAX_CONFIG + 1)))


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b" ", b"\n", b"{", b'{"process": {}', b'{"process": {}} x', b"{'process': {}}"),
        *(b'{"process": "\xff"}', b"\xff\xfe", b"\x80", b'{"process": {}}\0', b"\0" * 100),
        *(b'\xef\xbb\xbf{"process": {}}', '{"process": {}}'.encode("utf-16"), b'{"process": {}, "x": NaN}'),
        *(b'{"process": {"x": -Infinity}}', b'{"process": {"x": 1e999}}'),
        *(b"[" * 100_000, b'{"process":' * 100_000, b"9" * 5_000, b'"' + b"\\u" * 1000),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_what_is_not_JSON_is_refused(tmp_path: Path, text: bytes) -> None:  # noqa: N802
    assert "is not JSON" in refusal(InvalidArgumentError, configure(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        *("null", "true", "1", '""', '"process"', "[]", '["process"]', "{}", '{"Process": {}}'),
        *('{"process": null}', '{"process": 1}', '{"process": "sh"}', '{"process": []}'),
    ],
)
def test_without_a_process_it_is_refused(tmp_path: Path, text: str) -> None:
    assert "`process`" in refusal(InvalidArgumentError, configure(tmp_path, text))


@pytest.mark.parametrize(
    "fields",
    [
        '"process": {"user": "root"}',
        '"process": {"user": [0, 0]}',
        '"process": {"user": 1000}',
        *('"process": {}, "linux": [{}]', '"process": {}, "linux": "x"', '"process": {}, "linux": true'),
        '"process": {}, "linux": {"namespaces": 7}',
        *('"process": {}, "linux": {"namespaces": ["pid"]}', '"process": {}, "linux": {"namespaces": "pid"}'),
        *('"process": {}, "linux": {"namespaces": {"type": "pid"}}',),
        *('"process": {}, "linux": {"namespaces": [{"type": "pid"}, null]}',),
        *('"process": {}, "linux": {"cgroupsPath": 7}', '"process": {}, "linux": {"cgroupsPath": ["/a"]}'),
        *('"process": {}, "linux": {"cgroupsPath": "/a\\u0000b"}',),
        *('"process": {}, "linux": {"cgroupsPath": "\\ud800"}',),
        '"process": {}, "linux": {"cgroupsPath": "' + "x" * (MAX_CGROUPS_PATH + 1) + '"}',
    ],
    ids=lambda fields: fields[:70],
)
def test_what_has_another_type_than_the_specification_says_is_refused(tmp_path: Path, fields: str) -> None:
    assert "runtime-spec" in refusal(InvalidArgumentError, configure(tmp_path, "{" + fields + "}"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("closed", ["config.json", "."])
def test_what_may_not_be_read_is_said_to_be_so(closed: str) -> None:
    # Not in the test's own directory, whose parents are closed to others already.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        bundle = configure(Path(directory), LEAST)
        os.chmod(os.path.join(directory, closed), 0o600)
        os.seteuid(NOBODY)
        try:
            message = refusal(PermissionDeniedError, bundle)
        finally:
            os.seteuid(0)

    assert f"{bundle}/config.json" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("args", ["sh", "a\0b"]), ("env", ["A=1", "B=\0"]), ("cwd", "/\0")),
        *(("oomScoreAdj", 5000), ("oomScoreAdj", 1001), ("oomScoreAdj", -1001)),
    ],
)
def test_a_process_that_no_kernel_takes_is_refused_by_the_name_of_its_field(
    tmp_path: Path, field: str, value: object
) -> None:
    bundle = configure(tmp_path, json.dumps({"process": {field: value}}))

    assert f"process.{field} " in refusal(InvalidArgumentError, bundle)


@pytest.mark.parametrize("score", [-1000, 0, 1000, None])
def test_every_oom_score_that_there_is_is_taken(tmp_path: Path, score: int | None) -> None:
    spec = {"process": {"oomScoreAdj": score}}

    assert Bundle.read(configure(tmp_path, json.dumps(spec))).spec == spec


def test_without_a_descriptor_to_read_it_with_the_bundle_is_not_to_blame(tmp_path: Path) -> None:
    bundle = configure(tmp_path, LEAST)
    with no_descriptor_left():
        message = refusal(ResourceExhaustedError, bundle)

    assert os.strerror(errno.EMFILE) in message
