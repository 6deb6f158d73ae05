"""The command line, as Go reads it."""

from __future__ import annotations

import pytest

from shimpy.daemon.containerd.errors import UsageError
from shimpy.daemon.containerd.flags import Flags

STARTED = ["-namespace", "ns", "-address", "/a", "-publish-binary", "/c", "-id", "web", "-debug", "start"]


def test_what_containerd_calls_start_with() -> None:
    flags = Flags(STARTED)

    assert (flags.namespace, flags.address, flags.id, flags.debug, flags.action) == (
        "ns", "/a", "web", True, "start",
    )  # fmt: skip


def test_what_containerd_calls_delete_with() -> None:
    flags = Flags(["-namespace", "ns", "-id", "web", "-bundle", "/b", "delete"])

    assert (flags.bundle, flags.action, flags.debug) == ("/b", "delete", False)


@pytest.mark.parametrize("written", [["--id", "web"], ["-id=web"], ["--id=web"]])
def test_every_way_to_write_a_flag(written: list[str]) -> None:
    assert Flags([*written, "start"]).id == "web"


@pytest.mark.parametrize(
    ("written", "debug"), [("-debug", True), ("-debug=true", True), ("-debug=0", False), ("--debug=F", False)]
)
def test_a_switch_may_have_a_value(written: str, debug: bool) -> None:
    assert Flags([written]).debug is debug


@pytest.mark.parametrize("end", [["start", "-debug"], ["--", "start"], ["start"]])
def test_flags_end_at_the_action(end: list[str]) -> None:
    flags = Flags(["-id", "web", *end])

    assert (flags.action, flags.debug) == ("start", False)


@pytest.mark.parametrize("flag", ["info", "v"])
def test_flags_that_are_alone(flag: str) -> None:
    flags = Flags([f"-{flag}"])

    assert (flags.info, flags.version) == (flag == "info", flag == "v")


@pytest.mark.parametrize("arguments", [["-nonsense"], ["-id"], ["-debug=perhaps"]])
def test_what_is_not_understood_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=arguments[0].partition("=")[0]):
        Flags(arguments)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "-x", "a\nb"])
@pytest.mark.parametrize("flag", ["namespace", "id"])
def test_a_name_that_would_be_a_path_is_refused(flag: str, name: str) -> None:
    told = {"namespace": "ns", "id": "web", flag: name}

    with pytest.raises(UsageError, match=f"-{flag}"):
        Flags([f"-namespace={told['namespace']}", f"-id={told['id']}"]).check_names()
