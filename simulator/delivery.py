"""User events on their way to the sockets of one venue. In: an event, the sockets that should get it, its ledger
rows; out: frames and rows.

The faults drop_event, duplicate_event and reorder act here; a row tells the sockets the event was really written to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from simulator.ledger import Row

if TYPE_CHECKING:
    from simulator.faults import Faults
    from simulator.ledger import Ledger
    from simulator.stream_socket import StreamSocket
    from simulator.venue import Venue

HOLD_S = 1.0  # a reordered event waits this long for a successor
Targets = Callable[[], Sequence[tuple["StreamSocket", bytes]]]  # sockets and the encoded frame of each


class Delivery:
    """Sends the user events of one venue."""

    def __init__(self, venue: Venue, ledger: Ledger, faults: Faults) -> None:
        self._venue = venue
        self._ledger = ledger
        self._faults = faults
        self._held: dict[str, tuple[Targets, list[Row]]] = {}
        self.sent = 0

    def send(self, api_key: str, event: str, targets: Targets, rows: list[Row]) -> None:
        """Deliver one event of one account now, unless a fault says otherwise."""
        self.sent += 1
        action = self._faults.user_event(self._venue, api_key, event) if self._faults.on_events else ""
        if action == "drop_event":
            self._record(rows, ())
            return
        if action == "reorder" and api_key not in self._held:
            self._held[api_key] = (targets, rows)
            asyncio.get_running_loop().call_later(HOLD_S, self._release, api_key)
            return
        self._write(targets, rows)
        if action == "duplicate_event":
            for socket, frame in targets():
                socket.send(frame)
        if self._held:
            self._release(api_key)

    def _release(self, api_key: str) -> None:
        held = self._held.pop(api_key, None)
        if held is not None:
            self._write(*held)

    def _write(self, targets: Targets, rows: list[Row]) -> None:
        self._record(rows, tuple(socket.id for socket, frame in targets() if socket.send(frame)))

    def _record(self, rows: list[Row], sockets: tuple[int, ...]) -> None:
        for row in rows:
            row.sockets = sockets
            self._ledger.add(row)
