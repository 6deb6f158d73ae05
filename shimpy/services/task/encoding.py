"""Between the messages of the Task API and the core's records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import betterproto

from shimpy.api import well_known
from shimpy.core.runtime.options import RuntimeOptions, read_table
from shimpy.errors import InvalidArgumentError
from shimpy.transport.protobuf import decode

if TYPE_CHECKING:
    from shimpy.core.cgroup.stats import v1, v2

_Message = TypeVar("_Message", bound=betterproto.Message)

# What Go's zero time is as a timestamp; unset would be read as 1970.
ZERO_TIME: Final = well_known.Timestamp(seconds=-62_135_596_800)

_NANOSECONDS: Final = 1_000_000_000
_PREFIX: Final = "types.containerd.io/"
_RUNC_OPTIONS: Final = "containerd.runc.v1.Options"
_LINUX_OPTIONS: Final = "containerd.linux.runc.CreateOptions"
_RUNTIME_OPTIONS: Final = "runtimeoptions.v1.Options"


def timestamp(nanoseconds: int) -> well_known.Timestamp:
    """Returns a time as a message.

    Args:
        nanoseconds: since the epoch; 0 for a time that has not come.
    """
    if not nanoseconds:
        return ZERO_TIME
    seconds, nanos = divmod(nanoseconds, _NANOSECONDS)
    return well_known.Timestamp(seconds=seconds, nanos=nanos)


def type_name(message: well_known.Any) -> str:
    """Returns the name of the type that an Any holds, without the prefix of its URL."""
    return message.type_url.rpartition("/")[2]


def read_options(message: well_known.Any) -> RuntimeOptions:
    """Returns the options of a runtime.

    Args:
        message: runc's own, the older ones that clients send to a runtime they do not know, or the table of
            options in containerd's configuration.

    Raises:
        InvalidArgumentError: they are of another type, or malformed.
    """
    name = type_name(message)
    if not name:
        return RuntimeOptions()
    if name == _RUNC_OPTIONS:
        from shimpy.api import runc_options

        options = decode(runc_options.Options, message.value)
        fields = dataclasses.fields(RuntimeOptions)
        return RuntimeOptions(**{field.name: getattr(options, field.name) for field in fields})
    if name == _LINUX_OPTIONS:
        from shimpy.api import linux_options

        older = decode(linux_options.CreateOptions, message.value)
        return RuntimeOptions(
            no_pivot_root=older.no_pivot_root,
            no_new_keyring=older.no_new_keyring,
            shim_cgroup=older.shim_cgroup,
            io_uid=older.io_uid,
            io_gid=older.io_gid,
            criu_work_path=older.criu_work_path,
            criu_image_path=older.criu_image_path,
        )
    if name == _RUNTIME_OPTIONS:
        from shimpy.api import runtime_options

        table = decode(runtime_options.Options, message.value)
        return RuntimeOptions.from_toml(table.config_body, path=table.config_path)
    raise InvalidArgumentError(f"options: {message.type_url!r} is not a type of options for this runtime")


def read_option_table(message: well_known.Any) -> dict[str, Any] | None:
    """Returns the table of options in containerd's configuration, None for options of another form.

    Args:
        message: see `read_options`.

    Raises:
        InvalidArgumentError: it is not TOML.
        NotFoundError: the file that it names is not there.
    """
    if type_name(message) != _RUNTIME_OPTIONS:
        return None
    from shimpy.api import runtime_options

    options = decode(runtime_options.Options, message.value)
    return read_table(options.config_body, path=options.config_path)


def read_json(field: str, message: well_known.Any) -> Mapping[str, Any]:
    """Returns an object of the OCI runtime-spec, which containerd sends as JSON.

    Args:
        field: where it stands, for the message of an error.
        message: what holds it.

    Raises:
        InvalidArgumentError: it is not a JSON object.
    """
    try:
        value = json.loads(message.value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{field}: {message.type_url} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{field}: {message.type_url} is not a JSON object")
    return value


def to_message(record: Any, message_type: type[_Message]) -> _Message:
    """Returns a record as the message whose fields have the same names.

    Args:
        record: a dataclass; a field that is None is left out.
        message_type: a class that betterproto has generated.
    """
    message = message_type()
    generated: Any = message
    classes: dict[str, Any] = generated._betterproto.cls_by_field
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is None:
            continue
        inner: Any = classes.get(field.name)
        if dataclasses.is_dataclass(value):
            value = to_message(value, inner)
        elif isinstance(value, (list, tuple)):
            value = [to_message(item, inner) if dataclasses.is_dataclass(item) else item for item in value]
        setattr(message, field.name, value)
    return message


def encode_metrics(metrics: v1.Metrics | v2.Metrics) -> well_known.Any:
    """Returns what was read of cgroups as the message of their version."""
    from shimpy.core.cgroup.stats import v1

    message: betterproto.Message
    if isinstance(metrics, v1.Metrics):
        from shimpy.api import metrics_v1

        name, message = "v1", to_message(metrics, metrics_v1.Metrics)
    else:
        from shimpy.api import metrics_v2

        name, message = "v2", to_message(metrics, metrics_v2.Metrics)
    return well_known.Any(f"io.containerd.cgroups.{name}.Metrics", bytes(message))
