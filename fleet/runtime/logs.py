"""Logs: structured records in, JSON lines out. Used by every process, configured once at start.

One line per transition, none per message. A line is UTF-8 without escapes, so that `grep` finds the messages of
`fleet.core.names` word for word; its keys are `time` (ISO, UTC, ms), `level`, `program`, `event` and the caller's fields.
Callers only render and enqueue: one writer thread owns the file, and a full queue (the disk or a paused supervisord does
not take the lines) drops and counts instead of blocking a stream (`log_writer`). `redact` masks what looks like a secret.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from fleet.core.errors import SettingsError
from fleet.runtime.log_writer import LineFile, StreamOut, Writer
from fleet.runtime.redact import QUERY, clean
from fleet.runtime.settings import Settings

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LIBRARY_TEXT = 300  # characters of a library's own message that are kept
QUIET_LIBRARIES = ("kafka", "urllib3", "websocket", "redis", "chdb", "clickhouse_connect")

# ── structlog and the standard library's logging, both into `_emit` ──────────────────────────────────────────────
_program = ""
_writer: Writer | None = None


def _emit(line: str) -> None:
    writer = _writer
    if writer is None:
        sys.stderr.write(line + "\n")
    else:
        writer.put(line)


def _render(fields: MutableMapping[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": now, "level": fields.pop("level", "info"), "program": _program, "event": fields.pop("event", "")}
    line.update(fields)
    return json.dumps(clean(line), ensure_ascii=False, separators=(",", ":"))


def _dropped(count: int) -> str:
    return _render({"event": "log lines dropped", "level": "warning", "dropped": count})


def _process(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> str:
    return _render(fields)


class _Out:
    """What structlog calls with the rendered line, whatever the level."""

    def __getattr__(self, _level: str) -> Any:
        return _emit


class _Library(logging.Handler):
    """A library's own warning: its text without query strings and cut short; never its arguments or a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the format must not break the library's thread
            text = str(record.msg)
        text = QUERY.sub("?…", text)[:LIBRARY_TEXT]
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        fields: dict[str, Any] = {"level": record.levelname.lower(), "event": text, "module": record.name}
        _emit(_render(fields | ({"error": error} if error else {})))


def _set_up(level: int) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _process,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Out(),
        cache_logger_on_first_use=False,
    )


_set_up(logging.INFO)


def get(name: str) -> FilteringBoundLogger:
    """A logger for one module: `log.info("message", action=…, stream=…, shard=…, attempt=…)`. Any time, any thread."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def configure(settings: Settings, program: str) -> None:
    """Send all logs of this process to FLEET_LOG_DIR/<program>.log (standard error without one). Call once, in main.

    Raises SettingsError if the level is unknown or the file cannot be opened.
    """
    global _program, _writer
    level = LEVELS.get(settings.log_level.lower())
    if level is None:
        raise SettingsError(f"FLEET_LOG_LEVEL={settings.log_level!r}: one of {', '.join(LEVELS)} is expected")
    out: LineFile | StreamOut = StreamOut(sys.stderr)
    if settings.log_dir:
        path = Path(settings.log_dir) / (re.sub(r"[^A-Za-z0-9_.-]", "_", program) + ".log")
        try:
            out = LineFile(path)
        except OSError as error:
            raise SettingsError(f"FLEET_LOG_DIR={settings.log_dir}: {path.name}: {error.strerror}") from error
    close()
    _program, _writer = program, Writer(out, _dropped)
    _set_up(level)
    root = logging.getLogger()
    root.handlers[:] = [_Library()]
    root.setLevel(logging.WARNING)
    for library in QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(
        args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback, args.thread
    )


def _uncaught(
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    thread: threading.Thread | None = None,
) -> None:
    if issubclass(kind, (KeyboardInterrupt, SystemExit)):
        return
    name = thread.name if thread else "main"
    get("uncaught").critical("uncaught exception", thread=name, error=kind.__name__, exc_info=(kind, error, trace))
    if thread is None:
        close()


def close(timeout_s: float = 1.0) -> None:
    """Write out what is queued, within `timeout_s`; later lines go to standard error."""
    global _writer
    writer, _writer = _writer, None
    if writer is not None:
        writer.close(timeout_s)
