"""What a start is asked for, by containerd's version."""

from __future__ import annotations

from pathlib import Path

import pytest

from shimpy.api import bootstrap, linux_options, runc_options, runtime_options, well_known
from shimpy.daemon.containerd.bootstrap import Bootstrap
from shimpy.daemon.containerd.errors import MalformedError
from shimpy.daemon.containerd.flags import Flags

FLAGS = Flags(["-namespace", "ns", "-id", "web", "-address", "/flag/containerd.sock", "start"])
OPTIONS = well_known.Any("containerd.runc.v1.Options", bytes(runc_options.Options(shim_cgroup="/shims")))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTRPC_ADDRESS", "/environment.ttrpc")


def test_without_stdin_flags_and_environment_say_it() -> None:
    asked = Bootstrap(FLAGS, b"")

    assert (asked.address, asked.ttrpc_address, asked.socket_directory) == (
        "/flag/containerd.sock", "/environment.ttrpc", "",
    )  # fmt: skip
    assert asked.shim_cgroup == ""
    assert not asked.debug


def test_until_2_2_stdin_holds_the_options() -> None:
    asked = Bootstrap(FLAGS, bytes(OPTIONS))

    assert asked.shim_cgroup == "/shims"
    assert asked.ttrpc_address == "/environment.ttrpc"


def test_the_options_that_containerd_1_sends_to_other_names() -> None:
    options = linux_options.CreateOptions(shim_cgroup="/shims")
    asked = Bootstrap(FLAGS, bytes(well_known.Any("containerd.linux.runc.CreateOptions", bytes(options))))

    assert asked.shim_cgroup == "/shims"


@pytest.mark.parametrize("host", ["", "types.googleapis.com/", "/"])
def test_a_type_may_come_with_a_host(host: str) -> None:
    options = well_known.Any(host + OPTIONS.type_url, OPTIONS.value)

    assert Bootstrap(FLAGS, bytes(options)).shim_cgroup == "/shims"


def test_since_2_3_stdin_says_it_all() -> None:
    params = bootstrap.BootstrapParams(
        instance_id="web", namespace="ns", log_level=bootstrap.LogLevel.try_value(-4),
        containerd_ttrpc_address="/stdin.ttrpc", containerd_grpc_address="/stdin.sock", socket_dir="/sockets",
        extensions=[bootstrap.Extension(each) for each in (well_known.Any("another.Type", b"\xff"), OPTIONS)],
    )  # fmt: skip
    asked = Bootstrap(FLAGS, bytes(params))

    assert (asked.address, asked.ttrpc_address, asked.socket_directory) == (
        "/stdin.sock", "/stdin.ttrpc", "/sockets",
    )  # fmt: skip
    assert asked.shim_cgroup == "/shims"
    assert asked.debug


@pytest.mark.parametrize(
    ("level", "debug"), [("TRACE", True), ("DEBUG", True), ("INFO", False), ("WARN", False), ("PANIC", False)]
)
def test_how_much_is_logged(level: str, debug: bool) -> None:
    params = bootstrap.BootstrapParams(instance_id="web", log_level=bootstrap.LogLevel.from_string(level))

    assert Bootstrap(FLAGS, bytes(params)).debug is debug


def test_the_options_of_a_runtime_that_containerd_does_not_know() -> None:
    table = runtime_options.Options(config_body=b'ShimCgroup = "/shims"\nBinaryName = "crun"\n')
    options = well_known.Any("runtimeoptions.v1.Options", bytes(table))

    assert Bootstrap(FLAGS, bytes(options)).shim_cgroup == "/shims"


def test_the_same_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text('ShimCgroup = "/shims"\n')
    table = runtime_options.Options(config_path=str(tmp_path / "options.toml"))
    options = well_known.Any("runtimeoptions.v1.Options", bytes(table))

    assert Bootstrap(FLAGS, bytes(options)).shim_cgroup == "/shims"


def test_options_of_another_kind_say_nothing_of_the_shim() -> None:
    assert Bootstrap(FLAGS, bytes(well_known.Any("another.Type", b"\xff"))).shim_cgroup == ""


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(MalformedError):
        Bootstrap(FLAGS, b"\xff\xff")
