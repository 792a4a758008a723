"""Replay of a recorded OKX capture. In: a Capture; out: its frames on the sockets that subscribed, re-timed.

Starts when every recorded channel has a subscriber, or START_AFTER_MS after the first one has (channels nobody wants are
skipped). Frames go out as they were recorded, at their recorded distances; their times are moved by whole minutes to now, unless
the recording's times are kept. The book of /market/books is the recorded one, brought up to date with what was sent.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from simulator.candles import MINUTE
from simulator.ledger import Row
from simulator.replay import Capture
from simulator.venues.okx.feed import KINDS

if TYPE_CHECKING:
    from simulator.venues.okx.twin import Okx

START_AFTER_MS = 10_000
Side = dict[str, list[str]]


class Recorded:
    """The replay of one capture."""

    def __init__(self, venue: Okx, capture: Capture) -> None:
        self._venue = venue
        self._capture = capture
        self._loop = venue.world.options.replay_loop
        self._keep_times = venue.world.options.replay_keeps_times
        frames = [(frame.time_s, json.loads(frame.body)) for frame in capture.frames if frame.body.startswith(b"{")]
        self._frames = [(time_s, frame) for time_s, frame in frames if "data" in frame]
        self._names = {_name(frame) for _, frame in self._frames}
        self._base_s = self._frames[0][0] if self._frames else 0.0
        self._books: dict[str, tuple[Side, Side]] = {}
        self._trades: dict[str, list[dict[str, Any]]] = {}  # symbol -> what was sent
        self._next = 0
        self._begun_ms: int | None = None
        self._first_seen_ms: int | None = None
        self._shift_ms = 0
        self.sent = self.skipped = self.loops = 0

    @staticmethod
    def is_ours(capture: Capture) -> bool:
        return any((urlsplit(url).hostname or "").endswith("okx.com") for url in capture.urls)

    def takes(self, name: str) -> bool:
        """Does the recording feed this channel?"""
        return name in self._names

    @property
    def done(self) -> bool:
        return self._next >= len(self._frames)

    def restart(self, *, loop: bool | None = None) -> None:
        """Play again from the start, once subscribed."""
        self._next, self._begun_ms, self._first_seen_ms, self.sent, self.skipped = 0, None, None, 0, 0
        self._books.clear()
        self._trades.clear()
        if loop is not None:
            self._loop = loop

    def tick(self, now_ms: int) -> None:
        """Send what is due."""
        if self.done:
            if not self._loop or not self._frames:
                return
            self.loops += 1
            self.restart()
        if self._begun_ms is None and not self._may_begin(now_ms):
            return
        assert self._begun_ms is not None
        while self._next < len(self._frames):
            time_s, frame = self._frames[self._next]
            if self._begun_ms + (time_s - self._base_s) * 1000 > now_ms:
                return
            self._next += 1
            self._publish(frame)

    def _may_begin(self, now_ms: int) -> bool:
        wanted = [name for name in self._names if name in self._venue.hub.channels]
        if not wanted:
            self._first_seen_ms = None
            return False
        if self._first_seen_ms is None:
            self._first_seen_ms = now_ms
        if len(wanted) < len(self._names) and now_ms - self._first_seen_ms < START_AFTER_MS:
            return False
        self._begun_ms = now_ms
        self._shift_ms = 0 if self._keep_times else (now_ms - int(self._base_s * 1000)) // MINUTE * MINUTE
        return True

    def _publish(self, frame: dict[str, Any]) -> None:
        name = _name(frame)
        if frame["arg"]["channel"] == "books":
            self._apply(frame)
        channel = self._venue.hub.channels.get(name)
        if channel is None:
            self.skipped += 1
            return
        rows = [{**row, "ts": str(int(row["ts"]) + self._shift_ms)} for row in frame["data"]]
        if frame["arg"]["channel"] == "trades":
            self._trades.setdefault(frame["arg"]["instId"], []).extend(rows)
        payload = msgspec.json.encode({**frame, "data": rows})
        for row in rows:
            self._venue.hub.publish(channel, payload, self._row(frame, name, row))
        self.sent += 1

    def _row(self, frame: dict[str, Any], name: str, data: dict[str, Any]) -> Row:
        venue, kind = self._venue, KINDS.get(frame["arg"]["channel"], "")
        row = Row(
            0, venue.exchange, venue.market, None, kind, frame["arg"]["instId"], None, None, int(data["ts"]), (), name
        )
        if kind == "trade":
            row.trade_id, row.price, row.qty = data["tradeId"], data["px"], data["sz"]
        elif kind == "depth":
            row.first_seq = row.last_seq = 0  # there was no sequence yet
        return row

    # ── the book ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _apply(self, frame: dict[str, Any]) -> None:
        symbol = frame["arg"]["instId"]
        if frame["action"] == "snapshot" or symbol not in self._books:
            self._books[symbol] = ({}, {})
        for data in frame["data"]:
            for side, name in zip(self._books[symbol], ("bids", "asks"), strict=True):
                for level in data[name]:
                    if float(level[1]) == 0:
                        side.pop(level[0], None)
                    else:
                        side[level[0]] = level

    def book(self, symbol: str, levels: int, now_ms: int) -> dict[str, Any] | None:
        """A row of /market/books; None for a symbol whose recorded snapshot was not sent yet."""
        if symbol not in self._books:
            return None
        bids, asks = (list(side.values()) for side in self._books[symbol])
        bids.sort(key=lambda level: -float(level[0]))
        asks.sort(key=lambda level: float(level[0]))
        return {"asks": asks[:levels], "bids": bids[:levels], "ts": str(now_ms), "seqId": 0}

    def trades(self, symbol: str) -> list[dict[str, Any]] | None:
        """Rows of /market/trades, newest first; None for a symbol whose trades are not recorded."""
        return self._trades.get(symbol, [])[::-1] if self.takes(f"trades:{symbol}") else None

    def as_json(self) -> dict[str, Any]:
        """One entry of `GET /replay`."""
        return {
            "capture": self._capture.name, "exchange": self._venue.exchange, "market": self._venue.market,
            "frames": len(self._frames), "sent": self.sent, "skipped": self.skipped, "done": self.done,
            "started": self._begun_ms is not None, "loops": self.loops, "streams": sorted(self._names),
        }  # fmt: skip


def _name(frame: dict[str, Any]) -> str:
    arg = frame["arg"]
    return f"{arg['channel']}:{arg.get('instId') or arg.get('instType', '')}"
