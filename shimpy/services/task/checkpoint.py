"""The options of a checkpoint and of a restore, as arguments of the runtime's commands."""

from __future__ import annotations

from shimpy.api import linux_options, runc_options, task
from shimpy.core.runtime.options import RuntimeOptions
from shimpy.errors import InvalidArgumentError
from shimpy.services.task.encoding import type_name
from shimpy.transport.protobuf import decode


def checkpoint_options(request: task.CheckpointTaskRequest) -> list[str]:
    """Returns the arguments of `runc checkpoint` that a request asks for.

    Args:
        request: its options are runc's, of either age, or none.

    Raises:
        InvalidArgumentError: they are of another type, or no directory is named.
    """
    options: runc_options.CheckpointOptions | linux_options.CheckpointOptions
    match type_name(request.options):
        case "" | "containerd.runc.v1.CheckpointOptions":
            options = decode(runc_options.CheckpointOptions, request.options.value)
        case "containerd.linux.runc.CheckpointOptions":
            options = decode(linux_options.CheckpointOptions, request.options.value)
        case _:
            raise InvalidArgumentError(f"options: {request.options.type_url!r} does not fit a checkpoint")
    path = options.image_path or request.path
    if not path.startswith("/"):
        raise InvalidArgumentError(f"path: {path!r} is not an absolute path")
    found = [f"--image-path={path}"]
    flags = {
        "--tcp-established": options.open_tcp,
        "--ext-unix-sk": options.external_unix_sockets,
        "--shell-job": options.terminal,
        "--file-locks": options.file_locks,
        "--leave-running": not options.exit,
    }
    found += [flag for flag, wanted in flags.items() if wanted]
    found += [f"--empty-ns={namespace}" for namespace in options.empty_namespaces]
    values = {
        "--manage-cgroups-mode": options.cgroups_mode,
        "--work-path": options.work_path,
        "--parent-path": getattr(options, "parent_path", ""),
    }
    return found + [f"{flag}={value}" for flag, value in values.items() if value]


def restore_options(request: task.CreateTaskRequest, options: RuntimeOptions) -> list[str]:
    """Returns the arguments of `runc restore` that a request asks for.

    The parent of a checkpoint that the request may name is not among them: CRIU finds it by a link that is
    in the checkpoint.

    Args:
        request: names the directory of the checkpoint.
        options: the runtime's.

    Raises:
        InvalidArgumentError: the checkpoint is not an absolute path.
    """
    if not request.checkpoint.startswith("/"):
        raise InvalidArgumentError(f"checkpoint: {request.checkpoint!r} is not an absolute path")
    values = {
        "--image-path": request.checkpoint,
        "--work-path": options.criu_work_path,
    }
    found = [f"{flag}={value}" for flag, value in values.items() if value]
    return [*found, "--no-pivot"] if options.no_pivot_root else found
