"""What happens to containers, as containerd's topics and messages."""

from __future__ import annotations

from collections.abc import Callable

import betterproto

from shimpy.api import events, task
from shimpy.core.model import ContainerEvent, EventKind
from shimpy.services.task.encoding import timestamp

# Queues an event for containerd: its topic, such as /tasks/exit, and its message.
Forward = Callable[[str, betterproto.Message], None]


def translate(event: ContainerEvent, created: task.CreateTaskRequest) -> tuple[str, betterproto.Message]:
    """Returns the topic and the message of an event.

    Args:
        event: what happened.
        created: the request that its container was created by.
    """
    container, pid = event.container_id, event.pid
    at = timestamp(event.time)
    match event.kind:
        case EventKind.CREATE:
            io = events.TaskIo(created.stdin, created.stdout, created.stderr, created.terminal)
            return "/tasks/create", events.TaskCreate(
                container, created.bundle, list(created.rootfs), io, created.checkpoint, pid
            )
        case EventKind.START:
            return "/tasks/start", events.TaskStart(container, pid)
        case EventKind.EXEC_ADDED:
            return "/tasks/exec-added", events.TaskExecAdded(container, event.exec_id)
        case EventKind.EXEC_STARTED:
            return "/tasks/exec-started", events.TaskExecStarted(container, event.exec_id, pid)
        case EventKind.PAUSED:
            return "/tasks/paused", events.TaskPaused(container)
        case EventKind.RESUMED:
            return "/tasks/resumed", events.TaskResumed(container)
        case EventKind.OOM:
            return "/tasks/oom", events.TaskOom(container)
        case EventKind.EXIT:
            name = event.exec_id or container
            return "/tasks/exit", events.TaskExit(container, name, pid, event.exit_status, at)
        case EventKind.DELETE:
            return "/tasks/delete", events.TaskDelete(container, pid, event.exit_status, at)
