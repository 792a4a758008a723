"""From TLS bytes to normalised events, per core: our connection, reader and parser against websocket-client and json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import websocket

from benchmarks.peer import Peer, sender
from benchmarks.sender import BLOB_FRAMES
from fleet.core.errors import ConnectionFailed
from fleet.core.events import Depth, Kline, MarketRecord, MarkPrice, Ticker, Trade
from fleet.exchanges import exchanges
from workers.connection import Connection, tls_context

FRAMES = 300_000
BASELINE_FRAMES = 90_000
TARGET_PER_S = 200_000


def measure() -> dict[str, Any]:
    """Frames per second of CPU time of the receiving process, both ways, over the same traffic."""
    with sender() as peer:
        ours = max(_ours(peer, FRAMES) for _ in range(3))
        baseline = max(_baseline(peer, BASELINE_FRAMES) for _ in range(2))
    return {
        "what": "TLS socket to normalised event, frames/s/core",
        "value": round(ours),
        "baseline": round(baseline),
        "baseline_is": "websocket-client recv_data (UTF-8 check off) + json.loads + the same events",
        "target": TARGET_PER_S,
        "met": ours >= TARGET_PER_S,
    }


def _ours(peer: Peer, frames: int) -> float:
    parse = exchanges()["binance_usdm"].market_data.parse
    connection = Connection.open(f"{peer.url}/flood/{frames}", tls=tls_context(peer.ca_file))
    events = 0
    read = connection.read
    started = time.process_time()
    with suppress(ConnectionFailed):  # the sender's close ends it
        while True:
            now_ms = int(time.time() * 1000)
            for message in read(5.0):
                events += len(parse(message, "/market", now_ms))
    cpu_s = time.process_time() - started
    connection.close()
    _check(events, frames)
    return events / cpu_s


def _baseline(peer: Peer, frames: int) -> float:
    client = websocket.create_connection(
        f"{peer.url}/flood/{frames}", sslopt={"ca_certs": peer.ca_file}, skip_utf8_validation=True
    )
    events = 0
    started = time.process_time()
    while True:
        opcode, data = client.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            break
        events += len(normalise(json.loads(data), int(time.time() * 1000)))
    cpu_s = time.process_time() - started
    client.close()
    _check(events, frames)
    return events / cpu_s


def _check(events: int, frames: int) -> None:
    if events != frames // BLOB_FRAMES * BLOB_FRAMES:
        raise RuntimeError(f"{events} events of {frames} frames")


# ── the baseline's normalisation: the same events from dicts ─────────────────────────────────────────────────────
def normalise(frame: dict[str, Any], now_ms: int) -> list[MarketRecord]:
    """What a straightforward client does with json.loads' dict."""
    data = frame["data"]
    fields = {"exchange": "binance", "market": "usdm", "symbol": data["s"], "ts_recv": now_ms}
    return [_EVENTS[data["e"]](data, fields)]


def _trade(d: dict[str, Any], fields: dict[str, Any]) -> Trade:
    side: Any = "sell" if d["m"] else "buy"
    return Trade(
        id=f"binance_usdm:trade:{d['s']}:{d['a']}",
        ts_event=d["T"],
        trade_id=str(d["a"]),
        price=d["p"],
        qty=d["q"],
        side=side,
        **fields,
    )


def _best(d: dict[str, Any], fields: dict[str, Any]) -> Ticker:
    return Ticker(
        id=f"binance_usdm:book_ticker:{d['s']}:{d['u']}",
        ts_event=d["T"],
        bid=d["b"],
        bid_qty=d["B"],
        ask=d["a"],
        ask_qty=d["A"],
        **fields,
    )


def _depth(d: dict[str, Any], fields: dict[str, Any]) -> Depth:
    bids: list[Any] = [tuple(level) for level in d["b"]]
    asks: list[Any] = [tuple(level) for level in d["a"]]
    return Depth(
        id=f"binance_usdm:depth:{d['s']}:{d['U']}:{d['u']}",
        ts_event=d["T"],
        kind="update",
        bids=bids,
        asks=asks,
        first_seq=d["U"],
        last_seq=d["u"],
        prev_seq=d["pu"],
        **fields,
    )


def _mark(d: dict[str, Any], fields: dict[str, Any]) -> MarkPrice:
    return MarkPrice(
        id=f"binance_usdm:mark_price:{d['s']}:{d['E']}",
        ts_event=d["E"],
        mark=d["p"],
        index=d["i"],
        funding_rate=d["r"],
        next_funding=d["T"],
        **fields,
    )


def _kline(d: dict[str, Any], fields: dict[str, Any]) -> Kline:
    k = d["k"]
    return Kline(
        id=f"binance_usdm:kline:{d['s']}:{k['i']}:{k['t']}:{d['E']}",
        ts_event=d["E"],
        interval=k["i"],
        open_time=k["t"],
        close_time=k["T"],
        open=k["o"],
        high=k["h"],
        low=k["l"],
        close=k["c"],
        volume=k["v"],
        closed=k["x"],
        **fields,
    )


def _day(d: dict[str, Any], fields: dict[str, Any]) -> Ticker:
    return Ticker(
        id=f"binance_usdm:ticker:{d['s']}:{d['E']}",
        ts_event=d["E"],
        last=d["c"],
        open_24h=d["o"],
        high_24h=d["h"],
        low_24h=d["l"],
        volume_24h=d["v"],
        quote_volume_24h=d["q"],
        **fields,
    )


_EVENTS: dict[str, Callable[[dict[str, Any], dict[str, Any]], MarketRecord]] = {
    "aggTrade": _trade, "bookTicker": _best, "depthUpdate": _depth, "markPriceUpdate": _mark, "kline": _kline, "24hrTicker": _day,
}  # fmt: skip
