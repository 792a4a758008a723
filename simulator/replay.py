"""Recorded traffic. In: a capture file (gzip, one frame a line; /work/shared/captures); out: its sockets' frames and
REST replies with their times.

A venue decides whether a capture is its own and which stream each frame belongs to. Pure apart from reading the file.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field
from pathlib import Path

_LINE = re.compile(
    rb"^(?:(?P<url>(?:wss?|https?)://\S+) (?P<mark><->|<-|->) )?(?P<time>\d+(?:\.\d+)?)(?:: (?P<body>.*))?$", re.DOTALL
)


class BadCapture(Exception):
    """The file is not a capture."""


@dataclass(frozen=True)
class Frame:
    """One received frame and when it came (UNIX seconds)."""

    time_s: float
    body: bytes


@dataclass
class Capture:
    """Everything of one recording: the sockets' URLs, the frames received, and the REST replies by URL (`.http.gz`
    beside `.ws.gz`).
    """

    name: str
    urls: list[str] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    replies: dict[str, Frame] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Capture:
        """Read `X.ws.gz` and, where it exists, `X.http.gz`. Raises BadCapture."""
        capture = cls(path.name)
        capture._read(path)
        sibling = path.with_name(path.name.replace(".ws", ".http"))
        if sibling != path and sibling.exists():
            capture._read(sibling)
        return capture

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            if path.suffix == ".gz":
                data = gzip.decompress(data)
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            raise BadCapture(f"{path}: {error}") from error
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line:
                continue
            match = _LINE.match(line)
            if match is None:
                raise BadCapture(f"{path}:{number}: not a line of a capture")
            url, mark, body = (match["url"] or b"").decode(), match["mark"], match["body"] or b""
            if mark == b"<->":
                self.urls.append(url)
            elif mark == b"->":
                self.replies[url] = Frame(float(match["time"]), body)
            elif mark is None:
                self.frames.append(Frame(float(match["time"]), body))
