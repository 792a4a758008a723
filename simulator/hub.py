"""Who gets which market stream. In: subscriptions of sockets and published payloads; out: frames on sockets and
ledger rows.

A payload is encoded once per envelope in use and the same bytes go to every subscriber. Runs on the simulator's event
loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulator.frames import encode
from simulator.ledger import Row

if TYPE_CHECKING:
    from simulator.faults import Faults
    from simulator.ledger import Ledger
    from simulator.stream_socket import StreamSocket
    from simulator.venue import Venue

Wrap = Callable[[int, str, bytes], bytes]


class Channel:
    """One stream with subscribers. `ids` caches the sockets' ids for the ledger."""

    __slots__ = ("held", "ids", "name", "path", "sockets")

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.sockets: dict[StreamSocket, None] = {}
        self.ids: tuple[int, ...] = ()
        self.held: tuple[bytes, Row] | None = None  # a frame that the fault `reorder` keeps back


class Hub:
    """The channels of one venue. `wrap(form, name, payload)` makes the message for an envelope."""

    def __init__(self, venue: Venue, ledger: Ledger, faults: Faults, wrap: Wrap) -> None:
        self._venue = venue
        self._ledger = ledger
        self._faults = faults
        self._wrap = wrap
        self.channels: dict[str, Channel] = {}
        self.published = 0

    def subscribe(self, name: str, path: str, socket: StreamSocket) -> bool:
        """True when this is the channel's first subscriber."""
        channel = self.channels.get(name)
        fresh = channel is None
        if channel is None:
            channel = self.channels[name] = Channel(name, path)
        channel.sockets[socket] = None
        channel.ids = tuple(member.id for member in channel.sockets)
        return fresh

    def unsubscribe(self, name: str, socket: StreamSocket) -> bool:
        """True when the channel has no subscriber left and is gone."""
        channel = self.channels.get(name)
        if channel is None or channel.sockets.pop(socket, 0) == 0:
            return False
        channel.ids = tuple(member.id for member in channel.sockets)
        if channel.sockets:
            return False
        del self.channels[name]
        return True

    def publish(self, channel: Channel, payload: bytes, row: Row) -> None:
        """Send one message to everybody on the channel and record it."""
        if self._faults.on_events or channel.held is not None:
            self._publish_faulty(channel, payload, row)
        else:
            self._send(channel, payload, row)

    def _send(self, channel: Channel, payload: bytes, row: Row) -> None:
        frames: dict[int, bytes] = {}
        missed = None
        name = channel.name
        for socket in channel.sockets:
            form = socket.form
            frame = frames.get(form)
            if frame is None:
                frame = frames[form] = encode(self._wrap(form, name, payload))
            if not socket.send(frame, name):
                missed = {socket.id} if missed is None else missed | {socket.id}
        row.sockets = channel.ids if missed is None else tuple(i for i in channel.ids if i not in missed)
        self._ledger.add(row)
        self.published += 1

    def _publish_faulty(self, channel: Channel, payload: bytes, row: Row) -> None:
        action = self._faults.market_event(self._venue, channel.name, channel.path)
        if action == "drop_event":
            self._ledger.add(row)
            return
        if action == "reorder" and channel.held is None:
            channel.held = (payload, row)
            return
        self._send(channel, payload, row)
        if action == "duplicate_event":
            frame: dict[int, bytes] = {}
            for socket in channel.sockets:
                form = socket.form
                frame.setdefault(form, encode(self._wrap(form, channel.name, payload)))
                socket.send(frame[form], channel.name)
        if channel.held is not None:
            held, channel.held = channel.held, None
            self._send(channel, *held)
