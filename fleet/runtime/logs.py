"""Logs: structured records in, JSON lines out. Used by every process, configured once at start.

One line per transition, none per message. A line is UTF-8 without escapes, so that `grep` finds the messages of
`fleet.core.names` word for word; its keys are `time` (ISO, UTC, ms), `level`, `program`, `event` and the caller's fields.
Callers only render and enqueue: one writer thread owns the file, and a full queue (the disk or a paused supervisord does
not take the lines) drops and counts instead of blocking a stream. Redaction here is the second line of defence: no secret
should reach a log call in the first place.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from fleet.core.errors import SettingsError
from fleet.runtime.settings import Settings

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
QUEUE_LINES = 10_000
FILE_BYTES = 64 * 1024 * 1024
KEPT_FILES = 3  # <program>.log.1 (newest) … .3
LIBRARY_TEXT = 300  # characters of a library's own message that are kept
QUIET_LIBRARIES = ("kafka", "urllib3", "websocket", "redis", "chdb", "clickhouse_connect")

# ── Redaction ────────────────────────────────────────────────────────────────────────────────────────────────────
SECRET_FIELDS = frozenset(
    ("secret", "secret_key", "api_secret", "api_key", "apikey", "listen_key", "listenkey", "signature", "passphrase")
    + ("password", "authorization", "x-mbx-apikey", "bot_token", "credentials", "signed_url")
)
SECRET_WORDS = r"listen_?key|signature|api_?key|api_?secret|secret|passphrase|password|authorization|x-mbx-apikey"
MASKS = (
    (re.compile(rf"(?i)\b({SECRET_WORDS})\b([\"']?\s*[=:]\s*[\"']?)[^&\s\"',}})]+"), r"\1\2…"),
    (re.compile(r"(://[^:/@\s]*):[^@/\s]+@"), r"\1:…@"),  # user:password@ of a DSN
    (re.compile(r"(?<!\d)\d{6,}:[A-Za-z0-9_-]{30,}"), "…"),  # a Telegram bot token, in a URL path or alone
    (re.compile(r"\b(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{60,}\b"), "…"),  # the shape of Binance keys, secrets, listen keys
)
QUERY = re.compile(r"\?[^\s'\"]+")


def redact(text: str) -> str:
    """`text` without what looks like a secret, a listen key, a password in a URL or a bot token."""
    for pattern, replacement in MASKS:
        text = pattern.sub(replacement, text)
    return text


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items() if str(k).lower() not in SECRET_FIELDS}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(v) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(str(value))


# ── Where lines go ───────────────────────────────────────────────────────────────────────────────────────────────
class LineFile:
    """The log file of one program, owned by the writer thread: rotates by size, follows an outside rename (logrotate)."""

    def __init__(self, path: Path, max_bytes: int = FILE_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._open()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        stat = os.fstat(self._file.fileno())
        self._inode, self._bytes = stat.st_ino, stat.st_size

    def write(self, data: bytes) -> None:
        """Append whole lines. Raises OSError."""
        if self._moved():
            self._file.close()
            self._open()
        if self._bytes and self._bytes + len(data) > self._max_bytes:
            self._file.close()
            for n in range(KEPT_FILES - 1, 0, -1):
                older = Path(f"{self._path}.{n}")
                if older.exists():
                    older.replace(f"{self._path}.{n + 1}")
            self._path.replace(f"{self._path}.1")
            self._open()
        self._file.write(data)
        self._bytes += len(data)

    def _moved(self) -> bool:
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def close(self) -> None:
        self._file.close()


class StreamOut:
    """Lines to an open text stream (standard error): the same surface as LineFile."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> None:
        self._stream.write(data.decode())
        self._stream.flush()

    def close(self) -> None:
        """The stream is not ours to close."""


class Writer:
    """A bounded queue and the one thread that writes it out. `put` never blocks; what does not fit is counted."""

    def __init__(self, out: LineFile | StreamOut, max_lines: int = QUEUE_LINES) -> None:
        self._out = out
        self._queue: queue.Queue[str | None] = queue.Queue(max_lines)
        self.dropped = 0  # written by any thread: a lost increment is acceptable, a lock here is not
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        reported = 0
        while True:
            lines = [self._queue.get()]
            while len(lines) < 1000 and not self._queue.empty():
                lines.append(self._queue.get_nowait())
            text = [line for line in lines if line is not None]
            dropped = self.dropped
            if dropped > reported:
                text.append(_render({"event": "log lines dropped", "level": "warning", "dropped": dropped - reported}))
            try:
                self._out.write("".join(line + "\n" for line in text).encode("utf-8", "backslashreplace"))
                reported = dropped
            except (OSError, ValueError):  # disk full, directory gone, stream closed: count, and report when it heals
                self.dropped += len(text)
            if None in lines:
                return

    def close(self, timeout_s: float) -> None:
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._out.close()


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
    return json.dumps(_clean(line), ensure_ascii=False, separators=(",", ":"))


def _process(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> str:
    return _render(fields)


class _Out:
    """What structlog calls with the rendered line, whatever the level."""

    def __getattr__(self, _level: str) -> Any:
        return _emit


class _Library(logging.Handler):
    """A library's own warning: its text without query strings and cut short; never its arguments or a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        text = QUERY.sub("?…", record.getMessage())[:LIBRARY_TEXT]
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
    _program, _writer = program, Writer(out)
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
