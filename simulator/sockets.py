"""The register of all sockets, open and closed. In: sockets as they open and close; out: `/connections`. Used in the
simulator process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from simulator.http1 import Request
from simulator.stream_socket import Dirty, StreamSocket

if TYPE_CHECKING:
    from simulator.venue import Venue

__all__ = ("Dirty", "Sockets", "StreamSocket")

CLOSED_KEPT = 20_000


class Sockets:
    """All sockets, open and closed (the last CLOSED_KEPT of them)."""

    def __init__(self) -> None:
        self.dirty = Dirty()
        self._open: dict[int, StreamSocket] = {}
        self._closed: deque[dict[str, Any]] = deque(maxlen=CLOSED_KEPT)
        self._next_id = 0

    def create(self, venue: Venue, role: str, request: Request, transport: asyncio.Transport) -> StreamSocket:
        """A socket that is about to answer its handshake; it counts from `opened`."""
        self._next_id += 1
        return StreamSocket(self._next_id, venue, role, request, transport, self.dirty)

    def opened(self, socket: StreamSocket) -> None:
        self._open[socket.id] = socket

    def closed(self, socket: StreamSocket) -> None:
        if self._open.pop(socket.id, None) is not None:
            entry = socket.as_json()
            self._closed.append(entry)

    def open(self) -> list[StreamSocket]:
        """Open sockets, oldest first."""
        return list(self._open.values())

    def as_json(self, *, only_open: bool = False) -> list[dict[str, Any]]:
        """`/connections`: closed ones first, each group in order of time."""
        return ([] if only_open else list(self._closed)) + [socket.as_json() for socket in self._open.values()]
