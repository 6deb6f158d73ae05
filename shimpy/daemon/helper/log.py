"""A helper's log: lines like those of the shim's own (`shimpy.daemon.logs`), to stderr, never in the way."""

from __future__ import annotations

import os
import select
import time

_STDERR = 2

# What a pipe that poll(2) calls writable takes without blocking (PIPE_BUF, pipe(7)).
_LONGEST_LINE = 4096

# A name from elsewhere may hold line breaks or what a terminal would act on.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))}


def write(level: str, name: str, message: str, *, json: bool = False) -> None:
    """Writes a line to stderr; one that stderr does not take at once is dropped.

    Args:
        level: debug, info, warning or error.
        name: of the helper.
        message: what there is to say; control characters are escaped.
        json: write an object with time, level, logger and message.
    """
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now) if json else time.localtime(now))
    stamp = f"{stamp}.{int(now % 1 * 1000):03d}"
    message = message.translate(_ESCAPES)
    if json:
        # By hand: the module for it is half as large as a helper.
        quoted = message.replace("\\", "\\\\").replace('"', '\\"')
        text = f'{{"time": "{stamp}Z", "level": "{level}", "logger": "{name}", "message": "{quoted}"}}'
    else:
        text = f"{stamp} {level} {name}: {message}"
    line = text.encode("utf-8", "backslashreplace")[: _LONGEST_LINE - 1] + b"\n"
    # It is not made non-blocking: it may be shared with the process that began this one.
    poll = select.poll()
    poll.register(_STDERR, select.POLLOUT)
    try:
        if any(event & select.POLLOUT for _, event in poll.poll(0)):
            os.write(_STDERR, line)
    except OSError:
        pass  # a log that cannot be written has nowhere to say so
