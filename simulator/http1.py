"""HTTP/1.1 as far as an exchange and its clients use it. In: received bytes; out: Request, and bytes of a Response.
No I/O here.

Content-Length bodies and keep-alive only: no exchange client sends chunked requests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

MAX_HEAD = 65536
MAX_BODY = 16 * 1024 * 1024


class BadRequest(Exception):
    """The bytes are not an HTTP/1.1 request this server takes."""


@dataclass(slots=True)
class Request:
    """One request. `raw` is the head as received (a WebSocket handshake is handed on from it), header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    raw: bytes
    ip: str = ""
    path: str = ""
    query: str = ""

    def __post_init__(self) -> None:
        path, _, self.query = self.target.partition("?")
        self.path = unquote(path)

    @property
    def is_upgrade(self) -> bool:
        return "websocket" in self.headers.get("upgrade", "").lower()

    def params(self) -> dict[str, str]:
        """Query and form parameters; the query wins, the first of a repeated name too."""
        merged: dict[str, str] = {}
        form = self.body.decode("utf-8", "replace") if self.body[:1] not in (b"{", b"[") else ""
        for key, value in parse_qsl(self.query, keep_blank_values=True) + parse_qsl(form, keep_blank_values=True):
            merged.setdefault(key, value)
        return merged

    def json(self) -> dict[str, Any]:
        """The body as a JSON object ({} when empty). Raises BadRequest."""
        if not self.body:
            return {}
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise BadRequest(f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BadRequest("a JSON object is expected")
        return value


@dataclass(slots=True)
class Response:
    """One reply; `body` is sent as it is."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json;charset=UTF-8"

    def encode(self, keep_alive: bool = True) -> bytes:
        """The bytes of the whole reply."""
        head = [
            f"HTTP/1.1 {self.status} {_phrase(self.status)}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Connection: keep-alive" if keep_alive else "Connection: close",
        ]
        head.extend(f"{name}: {value}" for name, value in self.headers.items())
        return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + self.body


def reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON reply."""
    return Response(status, msgspec.json.encode(value), headers or {})


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def parse(buffer: bytearray) -> Request | None:
    """Take one complete request off the front of `buffer`, or None when more bytes are needed. Raises BadRequest."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD:
            raise BadRequest("head too long")
        return None
    raw = bytes(buffer[: end + 4])
    lines = raw[:-4].decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest("malformed request line")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, sep, value = line.partition(":")
        if not sep:
            raise BadRequest("malformed header")
        headers[name.strip().lower()] = value.strip()
    try:
        length = int(headers.get("content-length", "0"))
    except ValueError as error:
        raise BadRequest("malformed content-length") from error
    if "transfer-encoding" in headers or not 0 <= length <= MAX_BODY:
        raise BadRequest("only Content-Length bodies are taken")
    if len(buffer) < end + 4 + length:
        return None
    body = bytes(buffer[end + 4 : end + 4 + length])
    del buffer[: end + 4 + length]
    return Request(parts[0], parts[1], headers, body, raw)
