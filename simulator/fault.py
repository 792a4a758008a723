"""Faults on demand. In: `POST /faults` bodies; out: effects on sockets now, and answers to "what befalls this event,
call or handshake?".

Three families: at once (cut, close, garbage, expire_listen_key), attached to sockets (half_open, stall: those open at
that moment; fragment, slow: later ones too), and asked for at each occurrence (the rest). A fault ends when its
`count` is used up, its `seconds` have passed or it is deleted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from simulator.frames import BINARY, encode

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket
    from simulator.venue import Venue

KINDS = frozenset(
    (
        "cut", "half_open", "stall", "close", "refuse", "reject", "rest_error", "rest_lag", "drop_event",
        "duplicate_event", "reorder",
        "garbage", "fragment", "slow", "maintenance", "expire_listen_key", "clock_skew",
    )
)  # fmt: skip
SCOPE = frozenset(("kind", "exchange", "market", "api_key", "path", "stream", "count", "seconds"))
ATTACHED_NOW = frozenset(("half_open", "stall"))
ATTACHED_ALWAYS = frozenset(("fragment", "slow"))
EVENT_KINDS = frozenset(("drop_event", "duplicate_event", "reorder"))
GARBAGE = (b'{"e":"ORDER_TRADE_UPDATE","E":17', b"\x00\x01 not json at all", b"[]", b'{"e":null}', b"42")
GARBAGE_BYTES = {
    "json": encode(GARBAGE[0]),
    "text": encode(b"<html>502 Bad Gateway</html>"),
    "binary": encode(bytes(range(256)), BINARY),
    "utf8": encode(b'{"e":"\xff\xfe"}'),
    "opcode": encode(b"reserved", 0x3),
}
PROXY_PAGE = b"<html><head><title>%d</title></head><body>upstream says no</body></html>"
Action = Literal["", "drop_event", "duplicate_event", "reorder"]


@dataclass(slots=True, eq=False)
class Fault:
    """One fault in force. `left` None = not limited by count; `params` holds what its kind takes (code, status, ms, …)."""

    id: int
    kind: str
    exchange: str | None
    market: str | None
    api_key: str | None
    path: str | None
    stream: str | None
    left: int | None
    params: dict[str, Any]
    hits: int = 0
    active: bool = True
    timer: asyncio.TimerHandle | None = None
    sockets: list[StreamSocket] = field(default_factory=list)

    def at(self, venue: Venue) -> bool:
        """Does it concern this venue? `exchange` may be the contract's name or the folder's."""
        return (self.exchange is None or self.exchange in (venue.exchange, venue.name)) and self.market in (
            None,
            venue.market,
        )

    def names_path(self, path: str) -> bool:
        """Is `path` (no query) named? A plain value names everything it is a prefix of; `*` works as in file names."""
        if self.path is None:
            return True
        return fnmatchcase(path, self.path) if "*" in self.path else path.startswith(self.path)

    def names_stream(self, stream: str) -> bool:
        return self.stream is None or fnmatchcase(stream, self.stream)

    def names_key(self, api_keys: list[str]) -> bool:
        return self.api_key is None or self.api_key in api_keys

    def hits_socket(self, socket: StreamSocket) -> bool:
        """Is this socket in scope?"""
        if not (self.at(socket.venue) and self.names_path(socket.path) and self.names_key(socket.api_keys)):
            return False
        return self.stream is None or any(self.names_stream(name) for name in socket.subscriptions)

    def take(self) -> bool:
        """Use it once; False when the count is used up."""
        if not self.active or self.left == 0:
            return False
        self.hits += 1
        if self.left is not None:
            self.left -= 1
        return True
