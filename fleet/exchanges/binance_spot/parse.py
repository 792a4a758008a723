"""Binance Spot frames to normalised events. Pure; called by the reading thread of each socket for every message.

In: one message as bytes: raw (`{"e":…}`), combined (`{"stream":…,"data":…}`) or of the WebSocket API (`{"subscriptionId":…,
"event":…}`, replies with `id`). Out: events, replies, or Unknown/Malformed; nothing is raised, whatever the bytes. The known
forms are decoded straight into wire.py's types; only what does not fit is decoded a second time to say why.
Sources: exchanges/binance.md sections 1.3, 1.4, 3, 4.3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.events import AccountEvent, Balance, Depth, Fill, Kline, Order, OrderStatus, Side, Ticker, Trade, plain
from fleet.core.exchange import (
    Control,
    Goodbye,
    HttpReply,
    Malformed,
    MarketItem,
    Outcome,
    Reply,
    TicketExpired,
    Unknown,
    UserItem,
    Verdict,
)
from fleet.exchanges.binance_spot import ids, wire
from fleet.exchanges.binance_spot.limits import EXCHANGE, MARKET
from fleet.exchanges.binance_spot.session import CODES, STATUSES

SIDES: dict[str, Side] = {"BUY": "buy", "SELL": "sell"}
ORDER_STATUSES: dict[str, OrderStatus] = {
    "NEW": "new", "PENDING_NEW": "new", "PARTIALLY_FILLED": "partially_filled", "FILLED": "filled", "CANCELED": "canceled",
    "REJECTED": "rejected", "EXPIRED": "expired", "EXPIRED_IN_MATCH": "expired",
}  # fmt: skip
# Kept as `account` events with their payload, and the fields that tell two of them apart (7.2; none = the whole payload).
# Any other type is kept too, and reported as Unknown beside.
ACCOUNT_EVENTS: dict[str, tuple[str, ...]] = {
    "balanceUpdate": ("a", "d", "T"), "externalLockUpdate": ("a", "d", "T"), "listStatus": (),
}  # fmt: skip
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""What decoding bytes can raise: not JSON, not the declared type, not UTF-8, nested too deeply, an integer of absurd length."""

_market_frame = decoding.decoder(wire.MarketFrame).decode
_market_raw = decoding.decoder(wire.MarketMessage).decode
_quote_frame = decoding.decoder(wire.BookTickerFrame).decode
_user_frame = decoding.decoder(wire.UserFrame).decode
_snapshot = decoding.decoder(wire.BookSnapshot).decode
_X = EXCHANGE
_M = MARKET
_V = ids.VENUE


# ── Market ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _trade(m: wire.PublicTrade, now_ms: int) -> Trade:
    return Trade(
        id=f"{_V}:trade:{m.symbol}:{m.trade_id}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.trade_ms, ts_recv=now_ms,
        trade_id=str(m.trade_id), price=m.price, qty=m.qty, side="sell" if m.buyer_is_maker else "buy",
    )  # fmt: skip


def _kline(m: wire.KlineUpdate, now_ms: int) -> Kline:
    k = m.candle  # an open candle is told again and again: its event time tells the updates apart
    told = "closed" if k.closed else m.event_ms
    return Kline(
        id=f"{_V}:kline:{m.symbol}:{k.interval}:{k.open_ms}:{told}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.event_ms,
        ts_recv=now_ms, interval=k.interval, open_time=k.open_ms, close_time=k.close_ms, open=k.open, high=k.high, low=k.low,
        close=k.close, volume=k.volume, closed=k.closed,
    )  # fmt: skip


def _day_ticker(m: wire.DayTicker, now_ms: int) -> Ticker:
    return Ticker(
        id=f"{_V}:ticker:{m.symbol}:{m.event_ms}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.event_ms, ts_recv=now_ms,
        last=m.last, bid=m.bid, bid_qty=m.bid_qty, ask=m.ask, ask_qty=m.ask_qty, open_24h=m.open, high_24h=m.high,
        low_24h=m.low, volume_24h=m.volume, quote_volume_24h=m.quote_volume,
    )  # fmt: skip


def _book_ticker(m: wire.BookTicker, now_ms: int) -> Ticker:
    """The venue tells no time with it: it is that of its arrival."""
    return Ticker(
        id=f"{_V}:book_ticker:{m.symbol}:{m.update_id}", exchange=_X, market=_M, symbol=m.symbol, ts_event=now_ms, ts_recv=now_ms,
        bid=m.bid, bid_qty=m.bid_qty, ask=m.ask, ask_qty=m.ask_qty,
    )  # fmt: skip


def _depth(m: wire.DepthUpdate, now_ms: int) -> Depth:
    return Depth(
        id=f"{_V}:depth:{m.symbol}:{m.first_id}:{m.last_id}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.event_ms,
        ts_recv=now_ms, kind="update", bids=m.bids, asks=m.asks, first_seq=m.first_id, last_seq=m.last_id,
    )  # fmt: skip


_MARKET: dict[type, Callable[[Any, int], MarketItem]] = {
    wire.PublicTrade: _trade, wire.KlineUpdate: _kline, wire.DayTicker: _day_ticker, wire.DepthUpdate: _depth,
}  # fmt: skip
_MARKET_TAGS = frozenset({"trade", "kline", "24hrTicker", "depthUpdate"})


def parse_market(frame: bytes, path: str, now_ms: int) -> list[MarketItem]:
    """Events of one public message. `path` is not needed: payloads name their type, or are book tickers."""
    try:
        if frame.find(b'"data":{"u":', 0, 100) > 0:
            return [_book_ticker(_quote_frame(frame).data, now_ms)]
        message = _market_raw(frame) if frame.startswith(b'{"e"') else _market_frame(frame).data
        if message is not None:
            return [_MARKET[type(message)](message, now_ms)]
    except UNREADABLE:
        pass  # decoded again below, which says why
    return _again(frame, "data", lambda kind, row: _market_row(kind, row, now_ms))


def _market_row(kind: str | None, row: dict[str, Any], now_ms: int) -> list[MarketItem]:
    if kind is None:
        if row.keys() >= {"u", "s", "b", "B", "a", "A"}:
            return [_book_ticker(decoding.convert(row, wire.BookTicker), now_ms)]
        return [_reply(row)]
    if kind not in _MARKET_TAGS:
        return [Goodbye(kind) if kind == "serverShutdown" else Unknown(kind[:40])]
    message = decoding.convert(row, wire.MarketMessage)
    return [_MARKET[type(message)](message, now_ms)]


def parse_snapshot(reply: HttpReply, symbol: str, now_ms: int) -> Depth:
    """The order book of `GET /api/v3/depth`. Raises ConnectionFailed if the reply is not one."""
    try:
        book = _snapshot(reply.body)
    except UNREADABLE as error:
        raise ConnectionFailed(f"order book of {symbol}: unreadable reply") from error
    return Depth(
        id=ids.depth_snapshot_id(symbol, book.last_id, now_ms), exchange=_X, market=_M, symbol=symbol,
        ts_event=now_ms, ts_recv=now_ms,
        source="rest", kind="snapshot", bids=book.bids, asks=book.asks, first_seq=book.last_id, last_seq=book.last_id,
    )  # fmt: skip


# ── User data ────────────────────────────────────────────────────────────────────────────────────────────────────
def parse_user(frame: bytes, account_id: str, now_ms: int) -> list[UserItem]:
    """Events of one private message. A fill comes before the order state it led to."""
    try:
        message = _user_frame(frame).event
        if message is not None:
            return _user_message(message, account_id, now_ms)
    except UNREADABLE:
        pass  # decoded again below, which says why
    return _again(frame, "event", lambda kind, row: _user_row(kind, row, account_id, now_ms))


def _user_row(kind: str | None, row: dict[str, Any], account_id: str, now_ms: int) -> list[UserItem]:
    if kind is None:
        return [_reply(row)]
    if kind in ("executionReport", "outboundAccountPosition", "eventStreamTerminated", "serverShutdown"):
        return _user_message(decoding.convert(row, wire.UserMessage), account_id, now_ms)
    event = _account_event(kind[:40], row, account_id, now_ms)
    return [event] if kind in ACCOUNT_EVENTS else [Unknown(kind[:40]), event]


def _user_message(message: wire.UserMessage, account_id: str, now_ms: int) -> list[UserItem]:
    if isinstance(message, wire.ExecutionReport):
        return _execution(message, account_id, now_ms)
    if isinstance(message, wire.AccountPosition):
        return [balance(state, message.change_ms, account_id, now_ms, "stream") for state in message.assets]
    if isinstance(message, wire.StreamTerminated):
        return [
            TicketExpired()
        ]  # nothing more comes on this socket: not a planned rotation, which the old one outlives
    return [Goodbye("serverShutdown")]


def _execution(o: wire.ExecutionReport, account_id: str, now_ms: int) -> list[UserItem]:
    items: list[UserItem] = []
    order, side, client_id = str(o.order_id), SIDES[o.side], o.client_id
    if o.execution != "REPLACED":  # an amended order is called as the request that changed it, any other keeps its name
        client_id = o.original_client_id or client_id
    if o.execution == "TRADE" and (o.trade_id >= 0 or o.allocation_id >= 0):
        trade = str(o.trade_id) if o.trade_id >= 0 else ids.allocation(o.allocation_id)
        items.append(Fill(
            id=ids.fill_id(account_id, o.symbol, trade, o.order_id), exchange=_X, market=_M, symbol=o.symbol,
            ts_event=o.change_ms, ts_recv=now_ms, account_id=account_id, trade_id=trade, order_id=order,
            client_order_id=client_id, side=side, position_side="", price=o.last_price, qty=o.last_qty, fee=o.fee or "0",
            fee_asset=o.fee_asset or "", liquidity="maker" if o.maker else "taker", realized_pnl="0",
        ))  # fmt: skip
    status = ORDER_STATUSES.get(o.status)
    if status is None:
        return [*items, Unknown(f"order status {o.status[:40]}")]
    items.append(Order(
        id=ids.order_id(account_id, o.symbol, o.order_id, o.type, status, o.filled, o.qty, o.change_ms), exchange=_X, market=_M,
        symbol=o.symbol, ts_event=o.change_ms, ts_recv=now_ms, account_id=account_id, order_id=order, client_order_id=client_id,
        side=side, position_side="", order_type=o.type.lower(), time_in_force=o.time_in_force.lower(), status=status, price=o.price,
        stop_price=o.stop_price, qty=o.qty, filled_qty=o.filled, avg_price=average(o.paid, o.filled), reduce_only=False,
    ))  # fmt: skip
    return items


def average(paid: str, filled: str) -> str:
    """Average price of an order: spot tells only the sums it comes from. With 8 decimals as prices have, or 10 digits: a coin's
    price may be a few units of the eighth decimal."""
    qty = Decimal(filled)
    if not qty:
        return "0"
    price = Decimal(paid) / qty
    return plain(f"{price:.{max(8, 9 - price.adjusted())}f}")


def balance(
    state: wire.AssetState | wire.BalanceRow, changed_ms: int, account_id: str, now_ms: int, source: Any
) -> Balance:
    """Wallet = free + locked, with the decimals that the venue shows."""
    wallet = format(Decimal(state.free) + Decimal(state.locked), "f")
    return Balance(
        id=ids.balance_id(account_id, state.asset, changed_ms, wallet, state.free), exchange=_X, market=_M, symbol="",
        ts_event=changed_ms, ts_recv=now_ms, source=source, account_id=account_id, asset=state.asset, wallet=wallet,
        available=state.free,
    )  # fmt: skip


def _account_event(kind: str, row: dict[str, Any], account_id: str, now_ms: int) -> AccountEvent:
    """Anything else, with its payload as sent. Raises ValueError where it cannot be JSON again."""
    text = msgspec.json.encode(row, order="sorted")
    names = ACCOUNT_EVENTS.get(kind) or ()
    symbol, at_ms = row.get("s"), row.get("T", row.get("E"))
    key = ":".join(str(row.get(name))[:40] for name in names) or hashlib.blake2b(text, digest_size=12).hexdigest()
    return AccountEvent(
        id=ids.account_event_id(account_id, kind, key), exchange=_X, market=_M, symbol=symbol if isinstance(symbol, str) else "",
        ts_event=at_ms if type(at_ms) is int and 0 <= at_ms < 2**53 else now_ms, ts_recv=now_ms, account_id=account_id,
        event=kind, data=row,
    )  # fmt: skip


# ── Whatever the typed decoders refused ──────────────────────────────────────────────────────────────────────────
def _again(frame: bytes, inner: str, items_of: Callable[[str | None, dict[str, Any]], list[Any]]) -> list[Any]:
    """A control reply, an envelope or a payload with its keys in another order, an unknown type, or garbage. `inner` is the
    envelope's member that holds the payload; array streams hold several, of which one bad row does not hide the others."""
    try:
        payload = msgspec.json.decode(frame)
    except UNREADABLE as error:
        return [Malformed(f"not JSON: {type(error).__name__}")]
    if isinstance(payload, dict) and inner in payload and "e" not in payload:
        payload = payload[inner]
    items: list[Any] = []
    for row in payload if isinstance(payload, list) else [payload]:
        kind = row.get("e") if isinstance(row, dict) else 0
        if kind is not None and not isinstance(kind, str):
            items.append(Malformed("not an object with an event type"))
            continue
        try:
            items += items_of(kind, row)
        except UNREADABLE as error:
            items.append(Malformed(f"{(kind or 'untyped')[:40]}: {str(error)[:80]}"))
    return items


def _reply(row: dict[str, Any]) -> Control:
    """`{"id","status","result"|"error"}` of the WebSocket API, `{"result","id"}`, `{"error":{"code","msg"}}` or `{"code","msg"}`
    of a stream, with or without id (1.4). A code from 0 up is a stream's: a bad name, too many streams, broken JSON."""
    ident = row.get("id")
    key = "" if ident is None else str(ident)[:40]
    error = row.get("error", row)
    if isinstance(error, dict) and type(error.get("code")) is int:
        code: int = error["code"]
        outcome = CODES.get(code, Outcome.PERMANENT if code >= 0 else Outcome.TRANSIENT)
        status = row.get("status")
        outcome = STATUSES.get(status, outcome) if type(status) is int else outcome
        return Reply(key, Verdict(outcome, str(code)[:20], _told_wait_s(error)))
    if "result" not in row:
        return Unknown("")
    names = row["result"]
    return Reply(key, Verdict(Outcome.OK), tuple(str(name) for name in names) if isinstance(names, list) else ())


def _told_wait_s(error: dict[str, Any]) -> float:
    """`data.retryAfter` less `data.serverTime`, both in ms; 0 where the WebSocket API does not say."""
    data = error.get("data")
    until, now = (data.get("retryAfter"), data.get("serverTime")) if isinstance(data, dict) else (None, None)
    if type(until) is not int or type(now) is not int:
        return 0.0
    return min(max(0.0, (until - now) / 1000), 7 * 86_400.0)
