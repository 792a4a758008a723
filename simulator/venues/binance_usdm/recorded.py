"""Replay of a recorded Binance USDⓈ-M capture. In: a Capture; out: its frames on the sockets that subscribed,
re-timed, and its order-book snapshots at /fapi/v1/depth.

Starts when every recorded stream has a subscriber, or START_AFTER_MS after the first one has (streams nobody wants
are skipped). Frames go out at their recorded distances; their times are moved by whole minutes to now, unless the
recording's times are kept. A snapshot asked for after its moment is the recorded book brought up to date with what
was sent since.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from simulator.candles import MINUTE
from simulator.ledger import Row
from simulator.replay import Capture

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.twin import BinanceUsdm

START_AFTER_MS = 10_000
KINDS = {"aggTrade": "trade", "kline": "kline", "depthUpdate": "depth", "bookTicker": "book_ticker", "24hrTicker": "ticker",
         "markPriceUpdate": "mark_price", "forceOrder": "liquidation"}  # fmt: skip
_SPEED = re.compile(r"(@depth)@(?:100|500)ms$")


class RecordedBook:
    """One symbol's recorded snapshot, advanced by the diffs that were sent."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.last_id: int = snapshot["lastUpdateId"]
        self._times = {name: snapshot[name] for name in ("E", "T") if name in snapshot}
        self._sides: dict[str, dict[str, str]] = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}

    def apply(self, data: dict[str, Any]) -> None:
        """Take one diff, if the snapshot does not hold it already."""
        if data["u"] <= self.last_id:
            return
        self.last_id = data["u"]
        self._times = {"E": data["E"], "T": data["T"]}
        for name, side in self._sides.items():
            for price, qty in data[name]:
                if float(qty) == 0:
                    side.pop(price, None)
                else:
                    side[price] = qty

    def encode(self, limit: int, shift_ms: int) -> bytes:
        """The body of /fapi/v1/depth."""
        bids = sorted(self._sides["b"].items(), key=lambda level: -float(level[0]))[:limit]
        asks = sorted(self._sides["a"].items(), key=lambda level: float(level[0]))[:limit]
        times = {name: value + shift_ms for name, value in self._times.items()}
        return msgspec.json.encode({"lastUpdateId": self.last_id, **times, "bids": bids, "asks": asks})


class Recorded:
    """The replay of one capture."""

    def __init__(self, venue: BinanceUsdm, capture: Capture) -> None:
        self._venue = venue
        self._capture = capture
        self._loop = venue.world.options.replay_loop
        self._keep_times = venue.world.options.replay_keeps_times
        self._frames = [(frame.time_s, json.loads(frame.body)) for frame in capture.frames]
        self._frames = [(time_s, frame) for time_s, frame in self._frames if "stream" in frame]
        self._streams = {frame["stream"] for _, frame in self._frames}
        self._books: dict[str, RecordedBook] = {}
        self._load_books()
        self._next = 0
        self._begun_ms: int | None = None
        self._first_seen_ms: int | None = None
        self._base_s = self._frames[0][0] if self._frames else 0.0
        self._shift_ms = 0
        self.sent = 0
        self.skipped = 0
        self.loops = 0

    @staticmethod
    def is_ours(capture: Capture) -> bool:
        return any(
            urlsplit(url).hostname in ("fstream.binance.com", "fapi.binance.com")
            for url in (*capture.urls, *capture.replies)
        )

    def takes(self, stream: str) -> bool:
        """Does the recording feed this stream (also under another push speed)?"""
        return stream in self._streams or any(
            _SPEED.sub(r"\1", known) == _SPEED.sub(r"\1", stream) for known in self._streams
        )

    @property
    def done(self) -> bool:
        return self._next >= len(self._frames)

    def restart(self, *, loop: bool | None = None) -> None:
        """Play again from the start, once subscribed."""
        self._next, self._begun_ms, self._first_seen_ms, self.sent, self.skipped = 0, None, None, 0, 0
        self._load_books()
        if loop is not None:
            self._loop = loop

    def _load_books(self) -> None:
        for url, reply in self._capture.replies.items():
            symbol = parse_qs(urlsplit(url).query).get("symbol", [""])[0]
            if "/depth" in url and symbol:
                self._books[symbol] = RecordedBook(json.loads(reply.body))

    def _targets(self, stream: str) -> list[str]:
        """Names of the channels that get the frames of a recorded stream."""
        channels = self._venue.hub.channels
        if stream in channels:
            return [stream]
        plain = _SPEED.sub(r"\1", stream)
        return [name for name in (plain, plain + "@100ms", plain + "@500ms") if plain != stream and name in channels]

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
        wanted = [stream for stream in self._streams if self._targets(stream)]
        if not wanted:
            self._first_seen_ms = None
            return False
        if self._first_seen_ms is None:
            self._first_seen_ms = now_ms
        if len(wanted) < len(self._streams) and now_ms - self._first_seen_ms < START_AFTER_MS:
            return False
        self._begun_ms = now_ms
        self._shift_ms = 0 if self._keep_times else (now_ms - int(self._base_s * 1000)) // MINUTE * MINUTE
        return True

    def _publish(self, frame: dict[str, Any]) -> None:
        data = frame["data"]
        if data.get("e") == "depthUpdate" and data["s"] in self._books:
            self._books[data["s"]].apply(data)
        targets = self._targets(frame["stream"])
        if not targets:
            self.skipped += 1
            return
        shifted = _shifted(data, self._shift_ms)
        payload = msgspec.json.encode(shifted)
        for name in targets:
            self._venue.hub.publish(self._venue.hub.channels[name], payload, self._row(name, shifted))
        self.sent += 1

    def _row(self, stream: str, data: dict[str, Any]) -> Row:
        venue, kind = self._venue, KINDS.get(data.get("e", ""), data.get("e", ""))
        row = Row(
            0,
            venue.exchange,
            venue.market,
            None,
            kind,
            data.get("s", ""),
            None,
            None,
            data.get("T") or data.get("E", 0),
            (),
            stream,
        )
        if kind == "trade":
            row.trade_id, row.price, row.qty = str(data["a"]), data["p"], data["q"]
        elif kind == "kline":
            candle = data["k"]
            row.interval, row.open_time, row.closed = candle["i"], candle["t"], candle["x"]
        elif kind == "depth":
            row.first_seq, row.last_seq = data["U"], data["u"]
        return row

    def depth(self, symbol: str, limit: int) -> bytes | None:
        book = self._books.get(symbol)
        return book.encode(limit, self._shift_ms) if book else None

    def as_json(self) -> dict[str, Any]:
        """One entry of `GET /replay`."""
        return {
            "capture": self._capture.name, "exchange": self._venue.exchange, "market": self._venue.market,
            "frames": len(self._frames),
            "sent": self.sent, "skipped": self.skipped, "done": self.done, "started": self._begun_ms is not None,
            "loops": self.loops,
            "streams": sorted(self._streams),
        }  # fmt: skip


def _shifted(data: dict[str, Any], shift_ms: int) -> dict[str, Any]:
    """The payload with its times moved."""
    if not shift_ms:
        return data
    out = {**data, **{name: data[name] + shift_ms for name in ("E", "T") if isinstance(data.get(name), int)}}
    if "k" in data:
        out["k"] = {**data["k"], "t": data["k"]["t"] + shift_ms, "T": data["k"]["T"] + shift_ms}
    return out
