"""shimpy/api is what shim.proto gives, and what the seed's clients expect."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

from tests.support import proto


def test_the_committed_api_is_what_the_proto_gives(tmp_path: Path) -> None:
    proto.generate(tmp_path)
    for name in proto.GENERATED:
        assert (tmp_path / name).read_bytes() == (proto.API / name).read_bytes(), f"{name}: run `make proto`"


@pytest.fixture(scope="module")
def descriptors() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    found = descriptor_pb2.FileDescriptorSet.FromString((proto.API / "shim.binpb").read_bytes())
    return {file.name: file for file in found.file}


def test_the_descriptors_hold_all_that_the_proto_imports(
    descriptors: dict[str, descriptor_pb2.FileDescriptorProto],
) -> None:
    assert {imported for file in descriptors.values() for imported in file.dependency} < {*descriptors}


def test_the_names_and_numbers_on_the_wire(
    descriptors: dict[str, descriptor_pb2.FileDescriptorProto],
) -> None:
    shim = descriptors["shim.proto"]
    fields = {
        message.name: [(field.name, field.number) for field in message.field] for message in shim.message_type
    }
    values = {enum.name: [(value.name, value.number) for value in enum.value] for enum in shim.enum_type}

    assert shim.package == "containerd.shim.v1"
    assert [method.name for method in shim.service[0].method] == [
        "Create", "Start", "Delete", "Exec", "Pty", "Events", "State", "Pause", "Resume",
    ]  # fmt: skip
    assert fields == {
        "CreateRequest": numbered("id bundle runtime no_pivot terminal stdin stdout stderr"),
        "CreateResponse": numbered("pid"),
        "StartRequest": [],
        "DeleteRequest": numbered("pid"),
        "DeleteResponse": numbered("exit_status"),
        "ExecRequest": numbered(
            "terminal stdin stdout stderr selinux_label user args env cwd capabilities rlimits"
            " no_new_privileges apparmor_profile"
        ),
        "User": numbered("uid gid additional_gids"),
        "Rlimit": numbered("type hard soft"),
        "ExecResponse": numbered("pid"),
        "PtyRequest": numbered("pid width height"),
        "EventsRequest": [],
        "Event": numbered("id type pid exit_status"),
        "StateRequest": [],
        "StateResponse": numbered("id bundle initPid processes"),
        "Process": numbered("pid state"),
        "PauseRequest": [],
        "ResumeRequest": [],
    }
    assert values == {
        "EventType": [("EXIT", 0), ("OOM", 1), ("CREATE", 2), ("START", 3), ("EXEC_ADDED", 4)],
        "State": [("STOPPED", 0), ("RUNNING", 1), ("PAUSED", 2), ("CREATED", 3)],
    }


def numbered(names: str) -> list[tuple[str, int]]:
    return [(name, number) for number, name in enumerate(names.split(), 1)]


def test_a_foreign_compiler_takes_the_proto(foreign: tuple[ModuleType, ModuleType]) -> None:
    messages, stubs = foreign

    assert messages.CreateRequest(id="web").SerializeToString() == b"\n\x03web"
    assert hasattr(stubs, "ShimStub")
