"""The log of `python -m shimpy`: to stderr, as text or JSON, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import time
import traceback
from types import TracebackType

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

# What a pipe that poll(2) calls writable takes without blocking (PIPE_BUF, pipe(7)).
_PIECE = 4096

_STDERR = 2

# What every record has; the rest are the fields that were given with it.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# A name that came over the wire may hold line breaks or what a terminal would act on.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}


def set_up(level: str, style: str) -> None:
    """Sends the log to stderr.

    Args:
        level: one of LEVELS, of shimpy's own lines; what libraries say is logged from warnings on.
        style: one of FORMATS.
    """
    root = logging.getLogger()
    handler = next((each for each in root.handlers if isinstance(each, _Stderr)), None)
    if handler is None:
        handler = _Stderr()
        root.addHandler(handler)
        root.setLevel(logging.WARNING)
    kind = _JSON if style == "json" else _Text
    if not isinstance(handler.formatter, kind):
        handler.setFormatter(kind())
    logger = logging.getLogger("shimpy")
    # To set a level is to visit all loggers, in memory that a forked shim shares.
    if logging.getLevelName(logger.level) != level.upper():
        logger.setLevel(level.upper())
    # A logger that cannot write has nowhere to report it.
    logging.raiseExceptions = False


class _Stderr(logging.Handler):
    """Writes to file descriptor 2 and drops what it does not take: a full pipe must not stop the event loop.

    It is not made non-blocking: it is shared with the process that started this one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()
        self._poll.register(_STDERR, select.POLLOUT)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, or counts it as dropped."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a line that cannot be formatted must not fail its caller
            return
        if self._dropped and self._write(self.format(self._loss())):
            self._dropped = 0
        if not self._write(line):
            self._dropped += 1

    def _loss(self) -> logging.LogRecord:
        return logging.makeLogRecord({
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": f"{self._dropped} lines were dropped: stderr was full",
        })  # fmt: skip

    def _write(self, line: str) -> bool:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            while data:
                if not any(event & select.POLLOUT for _, event in self._poll.poll(0)):
                    return False
                data = data[os.write(_STDERR, data[:_PIECE]) :]
        except OSError:
            return False
        return True


class _Text(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        message = record.getMessage().translate(_ESCAPES)
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname.lower()} {record.name}: {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JSON(logging.Formatter):
    """One object a line for machines: time (RFC 3339, UTC), level, logger, message and what came with it."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update((name, value) for name, value in vars(record).items() if name not in _USUAL)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Logs an uncaught exception in the format of the log; for sys.excepthook."""
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(130)
    logging.getLogger("shimpy").critical(
        "shimpy ends: %s", "".join(traceback.format_exception_only(kind, error)).strip(),
        exc_info=(kind, error, trace),
    )  # fmt: skip
