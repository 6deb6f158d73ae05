"""The messages of containerd's APIs: what they cost, and that Google's protobuf understands them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import betterproto
import grpc_tools
import pytest
from grpc_tools import protoc

from shimpy.api import bootstrap, task, types, well_known
from shimpy.transport.protobuf import decode
from tests.support.proto import API, MESSAGES


def run(program: str) -> str:
    """Runs a program in a fresh interpreter and returns what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", MESSAGES)
def test_messages_alone_load_no_grpc(module: str) -> None:
    program = (
        f"import sys, shimpy.api.{module}\nprint([name for name in ('grpclib', 'h2') if name in sys.modules])"
    )

    assert run(program) == "[]"


def test_grpc_is_there_when_it_is_asked_for() -> None:
    program = (
        "import shimpy.api.task\n"
        "from shimpy.api import ShimStub\n"
        "import betterproto\n"
        "from betterproto.grpc.grpclib_client import ServiceStub\n"
        "print(issubclass(ShimStub, ServiceStub), betterproto.ServiceStub is ServiceStub)"
    )

    assert run(program) == "True True"


def test_a_betterproto_that_is_loaded_already_stays_as_it_is() -> None:
    assert run("import betterproto, shimpy.api\nprint('ServiceStub' in vars(betterproto))") == "True"


@pytest.mark.parametrize("name", ["shimpy.api", "betterproto"])
def test_what_is_not_there(name: str) -> None:
    program = f"import shimpy.api, {name}\nprint(hasattr({name}, 'Nothing'), hasattr({name}, '__nothing__'))"

    assert run(program) == "False False"


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModuleType]:
    """What Google's own compiler makes of the protos, services and all, by their paths."""
    directory = tmp_path_factory.mktemp("google")
    paths = [path for several in MESSAGES.values() for path in several if path != "well_known.proto"]
    include = Path(grpc_tools.__file__).parent / "_proto"
    # It has a package `types` and an `io`, which Python's own would hide.
    out = directory / "compiled"
    out.mkdir()
    assert protoc.main(["protoc", f"-I{API}", f"-I{include}", f"--python_out={out}", *paths]) == 0
    sys.path.insert(0, str(out))
    try:
        return {path: _loaded(out / path.replace(".proto", "_pb2.py")) for path in paths}
    finally:
        sys.path.remove(str(out))


def _loaded(path: Path) -> ModuleType:
    name = "google_" + "_".join(path.parts[-4:]).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(message: Any, seed: int = 1) -> Any:
    """Returns a message of Google's with something in each field, in those of the messages in it too."""
    for number, field in enumerate(message.DESCRIPTOR.fields, seed):
        value: Any
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[f"key{number}"] = f"value{number}"
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            filled(inner.add() if field.is_repeated else inner, number)
        else:
            kinds = {"str": f"text{number}", "bytes": b"\xff\x00", "float": number / 8, "bool": True}
            value = kinds.get(type(field.default_value).__name__, number)
            if field.enum_type is not None:
                value = field.enum_type.values[-1].number
            if field.is_repeated:
                value = {field.TYPE_STRING: [f"a{number}", ""], field.TYPE_ENUM: [0]}.get(
                    field.type, [number, 0, 2**40]
                )
                getattr(message, field.name).extend(value)
            else:
                setattr(message, field.name, value)
    return message


def pairs() -> list[tuple[str, str, type[betterproto.Message]]]:
    """Returns every message: the proto that it is in, its name there, and its class here."""
    found = []
    for module, paths in MESSAGES.items():
        ours = {
            name.lower(): cls for name, cls in vars(importlib.import_module(f"shimpy.api.{module}")).items()
        }
        for path in paths:
            for line in (API / path).read_text().splitlines():
                if line.startswith("message ") and path != "well_known.proto":
                    name = line.split()[1]
                    found.append((path, name, ours[name.lower()]))
    return found


@pytest.mark.parametrize(
    ("path", "name", "cls"), pairs(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_google_writes_means_the_same(
    google: dict[str, ModuleType], path: str, name: str, cls: type[betterproto.Message]
) -> None:
    message = filled(getattr(google[path], name)())
    ours = cls().parse(message.SerializeToString())

    assert ours._unknown_fields == b""
    assert getattr(google[path], name).FromString(bytes(ours)) == message


@pytest.mark.parametrize(
    "cls",
    [
        value
        for value in vars(task).values()
        if isinstance(value, type) and value.__name__.endswith("Request")
    ],
)
def test_every_request_of_the_task_api_is_decoded_strictly(
    google: dict[str, ModuleType], cls: type[betterproto.Message]
) -> None:
    theirs = {name.lower(): made for name, made in vars(google["containerd/task/v2/task.proto"]).items()}
    data = filled(theirs[cls.__name__.lower()]()).SerializeToString()

    assert decode(cls, data) == cls().parse(data)


def test_what_a_shim_is_started_with_is_decoded_strictly(google: dict[str, ModuleType]) -> None:
    message = google["containerd/runtime/bootstrap/v1/bootstrap.proto"].BootstrapParams(
        instance_id="web",
        log_level=-4,
        socket_dir="/run/s",
        extensions=[{"value": {"type_url": "a", "value": b"b"}}],
    )

    assert decode(bootstrap.BootstrapParams, message.SerializeToString()) == bootstrap.BootstrapParams(
        instance_id="web",
        log_level=bootstrap.LogLevel(bootstrap.LogLevel.DEBUG),
        socket_dir="/run/s",
        extensions=[bootstrap.Extension(value=well_known.Any(type_url="a", value=b"b"))],
    )


def test_a_timestamp_holds_the_zero_time_of_go_and_nanoseconds() -> None:
    reply = task.WaitResponse(exited_at=well_known.Timestamp(seconds=-62135596800, nanos=999_999_999))

    assert decode(task.WaitResponse, bytes(reply)).exited_at == reply.exited_at


def test_states_have_the_numbers_of_containerd() -> None:
    assert {state.name: int(state) for state in types.Status} == {
        "UNKNOWN": 0,
        "CREATED": 1,
        "RUNNING": 2,
        "STOPPED": 3,
        "PAUSED": 4,
        "PAUSING": 5,
    }
