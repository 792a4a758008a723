"""Where log lines go: rendered lines in, a file or a stream out, through a bounded queue. Used by `fleet.runtime.logs`.

Callers never wait. One thread owns the output; what it cannot take in time is dropped and counted, and the count is
reported in a line of its own as soon as lines can be written again.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

QUEUE_LINES = 10_000
FILE_BYTES = 64 * 1024 * 1024
KEPT_FILES = 3  # <program>.log.1 (newest) … .3


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

    def __init__(self, out: LineFile | StreamOut, report: Callable[[int], str], max_lines: int = QUEUE_LINES) -> None:
        """`report` makes the line that says how many lines were dropped."""
        self._out, self._report = out, report
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
                text.append(self._report(dropped - reported))
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
