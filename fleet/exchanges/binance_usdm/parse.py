"""Binance USDⓈ-M frames to normalised events. Pure; called by the reading thread of each socket for every message.

In: one message as bytes, raw (`{"e":…}`) or combined (`{"stream":…,"data":…}`). Out: events, replies, or Unknown/Malformed;
nothing is raised, whatever the bytes. The known forms are decoded straight into wire.py's types (about 1 µs a frame); only
what does not fit is decoded a second time to say why. Sources: exchanges/binance.md sections 1.3, 1.4, 3, 4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.events import (
    AccountEvent,
    Balance,
    Depth,
    Fill,
    Kline,
    Liquidation,
    MarkPrice,
    Order,
    OrderStatus,
    Position,
    Side,
    Source,
    Ticker,
    Trade,
    plain,
)
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
from fleet.exchanges.binance_usdm import ids, wire
from fleet.exchanges.binance_usdm.limits import EXCHANGE, MARKET
from fleet.exchanges.binance_usdm.session import CODES

SIDES: dict[str, Side] = {"BUY": "buy", "SELL": "sell"}
STATUSES: dict[str, OrderStatus] = {
    "NEW": "new", "PARTIALLY_FILLED": "partially_filled", "FILLED": "filled", "CANCELED": "canceled", "REJECTED": "rejected",
    "EXPIRED": "expired", "EXPIRED_IN_MATCH": "expired", "NEW_INSURANCE": "new", "NEW_ADL": "new",
}  # fmt: skip
# Of conditional orders. One that triggered is over: what comes of it is an order of its own, with its own fills.
ALGO_STATUSES: dict[str, OrderStatus] = {
    "NEW": "new", "TRIGGERING": "new", "TRIGGERED": "new", "FINISHED": "expired", "CANCELED": "canceled", "REJECTED": "rejected",
    "EXPIRED": "expired",
}  # fmt: skip
FILLING = frozenset({"TRADE", "CALCULATED"})  # execution types that carry a trade id; CALCULATED = liquidation or ADL
# Kept as `account` events with their payload; any other type is kept too, and reported as Unknown beside.
ACCOUNT_EVENTS = frozenset(
    {
        "ACCOUNT_CONFIG_UPDATE",
        "MARGIN_CALL",
        "ALGO_UPDATE",
        "STRATEGY_UPDATE",
        "GRID_UPDATE",
        "CONDITIONAL_ORDER_TRIGGER_REJECT",
    }
)
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""What decoding bytes can raise: not JSON, not the declared type, not UTF-8, nested too deeply, an integer of absurd length."""

_market_frame = decoding.decoder(wire.MarketFrame).decode
_market_raw = decoding.decoder(wire.MarketMessage).decode
_user_frame = decoding.decoder(wire.UserFrame).decode
_user_raw = decoding.decoder(wire.UserMessage).decode
_snapshot = decoding.decoder(wire.BookSnapshot).decode
_X = EXCHANGE
_M = MARKET
_V = ids.VENUE


# ── Market ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _agg_trade(m: wire.AggTrade, now_ms: int) -> Trade:
    return Trade(
        id=f"{_V}:trade:{m.symbol}:{m.agg_id}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.trade_ms, ts_recv=now_ms,
        trade_id=str(m.agg_id), price=m.price, qty=m.qty, side="sell" if m.buyer_is_maker else "buy",
    )  # fmt: skip


def _kline(m: wire.KlineUpdate, now_ms: int) -> Kline:
    k = m.candle  # an open candle is told again and again: its event time tells the updates apart
    return Kline(
        id=f"{_V}:kline:{m.symbol}:{k.interval}:{k.open_ms}:{'closed' if k.closed else m.event_ms}",
        exchange=_X, market=_M, symbol=m.symbol, ts_event=m.event_ms, ts_recv=now_ms, interval=k.interval, open_time=k.open_ms,
        close_time=k.close_ms, open=k.open, high=k.high, low=k.low, close=k.close, volume=k.volume, closed=k.closed,
    )  # fmt: skip


def _day_ticker(m: wire.DayTicker, now_ms: int) -> Ticker:
    return Ticker(
        id=f"{_V}:ticker:{m.symbol}:{m.event_ms}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.event_ms, ts_recv=now_ms,
        last=m.last, open_24h=m.open, high_24h=m.high, low_24h=m.low, volume_24h=m.volume, quote_volume_24h=m.quote_volume,
    )  # fmt: skip


def _book_ticker(m: wire.BookTicker, now_ms: int) -> Ticker:
    return Ticker(
        id=f"{_V}:book_ticker:{m.symbol}:{m.update_id}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.engine_ms,
        ts_recv=now_ms, bid=m.bid, bid_qty=m.bid_qty, ask=m.ask, ask_qty=m.ask_qty,
    )  # fmt: skip


def _depth(m: wire.DepthUpdate, now_ms: int) -> Depth:
    return Depth(
        id=f"{_V}:depth:{m.symbol}:{m.first_id}:{m.last_id}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.engine_ms,
        ts_recv=now_ms, kind="update", bids=m.bids, asks=m.asks, first_seq=m.first_id, last_seq=m.last_id, prev_seq=m.previous_id,
    )  # fmt: skip


def _liquidation(m: wire.ForceOrder, now_ms: int) -> Liquidation:
    o = m.order  # the venue gives no id: at most one per symbol and second, so what it says identifies it
    return Liquidation(
        id=f"{_V}:liquidation:{o.symbol}:{o.trade_ms}:{SIDES[o.side]}:{plain(o.qty)}:{plain(o.price)}", exchange=_X, market=_M,
        symbol=o.symbol, ts_event=o.trade_ms, ts_recv=now_ms, side=SIDES[o.side], price=o.price, qty=o.qty,
    )  # fmt: skip


def _mark_price(m: wire.MarkPriceUpdate, now_ms: int) -> MarkPrice:
    return MarkPrice(
        id=f"{_V}:mark_price:{m.symbol}:{m.event_ms}", exchange=_X, market=_M, symbol=m.symbol, ts_event=m.event_ms, ts_recv=now_ms,
        mark=m.mark, index=m.index or None, funding_rate=m.rate or None, next_funding=m.next_funding_ms or None,
    )  # fmt: skip


_MARKET: dict[type, Callable[[Any, int], MarketItem]] = {
    wire.AggTrade: _agg_trade, wire.KlineUpdate: _kline, wire.DayTicker: _day_ticker, wire.BookTicker: _book_ticker,
    wire.DepthUpdate: _depth, wire.ForceOrder: _liquidation, wire.MarkPriceUpdate: _mark_price,
}  # fmt: skip
_MARKET_TAGS = frozenset(
    {"aggTrade", "kline", "24hrTicker", "bookTicker", "depthUpdate", "forceOrder", "markPriceUpdate"},
)
_USER_TAGS = frozenset({"ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "TRADE_LITE", "listenKeyExpired", "serverShutdown"})


def parse_market(frame: bytes, path: str, now_ms: int) -> list[MarketItem]:
    """Events of one public message. `path` is not needed: payloads name their type."""
    try:
        message: Any = _market_raw(frame) if frame.startswith(b'{"e"') else _market_frame(frame).data
        build = _MARKET.get(type(message))
        if build is not None:
            return [build(message, now_ms)] if message.st == wire.UM else []
        if message is not None:
            return [_MARKET[type(m)](m, now_ms) for m in message if m.st == wire.UM]
    except UNREADABLE:
        pass  # decoded again below, which says why
    return _again(frame, lambda kind, row: _market_row(kind, row, now_ms))


def _market_row(kind: str, row: dict[str, Any], now_ms: int) -> list[MarketItem]:
    if kind not in _MARKET_TAGS:
        return [Goodbye(kind) if kind == "serverShutdown" else Unknown(kind[:40])]
    message = decoding.convert(row, wire.MarketMessage)
    return [_MARKET[type(message)](message, now_ms)] if message.st == wire.UM else []


def parse_snapshot(reply: HttpReply, symbol: str, now_ms: int) -> Depth:
    """The order book of `GET /fapi/v1/depth`. Raises ConnectionFailed if the reply is not one."""
    try:
        book = _snapshot(reply.body)
    except UNREADABLE as error:
        raise ConnectionFailed(f"order book of {symbol}: unreadable reply") from error
    return Depth(
        id=ids.depth_snapshot_id(symbol, book.last_id, now_ms), exchange=_X, market=_M, symbol=symbol,
        ts_event=book.engine_ms or now_ms,
        ts_recv=now_ms, source="rest", kind="snapshot", bids=book.bids, asks=book.asks, first_seq=book.last_id,
        last_seq=book.last_id,
    )  # fmt: skip


# ── User data ────────────────────────────────────────────────────────────────────────────────────────────────────
def parse_user(frame: bytes, account_id: str, now_ms: int) -> list[UserItem]:
    """Events of one private message. A fill comes before the order state it led to."""
    try:
        message = _user_raw(frame) if frame.startswith(b'{"e"') else _user_frame(frame).data
        if message is not None:
            return _user_message(message, account_id, now_ms)
    except UNREADABLE:
        pass  # decoded again below, which says why
    return _again(frame, lambda kind, row: _user_row(kind, row, account_id, now_ms))


def _user_row(kind: str, row: dict[str, Any], account_id: str, now_ms: int) -> list[UserItem]:
    if kind in _USER_TAGS:
        return _user_message(decoding.convert(row, wire.UserMessage), account_id, now_ms)
    if kind == "ALGO_UPDATE" and row.get("st") == wire.CM:
        return []
    event = _account_event(kind[:40], row, account_id, now_ms)
    if kind == "ALGO_UPDATE":
        return [event, *_algo_update(row, event.ts_event, account_id, now_ms)]
    return [event] if kind in ACCOUNT_EVENTS else [Unknown(kind[:40]), event]


def _user_message(message: wire.UserMessage, account_id: str, now_ms: int) -> list[UserItem]:
    if isinstance(message, wire.OrderTradeUpdate):
        return _order_update(message.order, account_id, now_ms) if message.st != wire.CM else []
    if isinstance(message, wire.AccountUpdate):
        return _account_update(message, account_id, now_ms) if message.st != wire.CM else []
    if isinstance(message, wire.ListenKeyExpired):
        return [TicketExpired()]
    if isinstance(message, wire.ServerShutdown):
        return [Goodbye("serverShutdown")]
    return []  # TRADE_LITE: the same fill comes, complete, as ORDER_TRADE_UPDATE


def _order_update(o: wire.OrderState, account_id: str, now_ms: int) -> list[UserItem]:
    items: list[UserItem] = []
    order, side, position_side = str(o.order_id), SIDES[o.side], o.position_side.lower()
    if o.execution in FILLING and o.trade_id > 0:
        items.append(Fill(
            id=ids.fill_id(account_id, o.symbol, o.trade_id, o.order_id), exchange=_X, market=_M, symbol=o.symbol,
            ts_event=o.trade_ms, ts_recv=now_ms, account_id=account_id, trade_id=str(o.trade_id), order_id=order,
            client_order_id=o.client_id, side=side, position_side=position_side, price=o.last_price, qty=o.last_qty,
            fee=o.fee or "0", fee_asset=o.fee_asset or "", liquidity="maker" if o.maker else "taker", realized_pnl=o.realized,
        ))  # fmt: skip
    status = STATUSES.get(o.status)
    if status is None:
        return [*items, Unknown(f"order status {o.status[:40]}")]
    items.append(Order(
        id=ids.order_id(account_id, o.symbol, o.order_id, status, o.filled, o.price, o.qty, o.trade_ms),
        exchange=_X, market=_M, symbol=o.symbol,
        ts_event=o.trade_ms, ts_recv=now_ms, account_id=account_id, order_id=order, client_order_id=o.client_id, side=side,
        position_side=position_side, order_type=o.type.lower(), time_in_force=o.time_in_force.lower(), status=status, price=o.price,
        stop_price=o.stop_price, qty=o.qty, filled_qty=o.filled, avg_price=o.avg_price, reduce_only=o.reduce_only,
    ))  # fmt: skip
    return items


def _algo_update(row: dict[str, Any], at_ms: int, account_id: str, now_ms: int) -> list[UserItem]:
    """The conditional order as an order too; nothing where the payload is not what the sheet says."""
    try:
        state = decoding.convert(row.get("o"), wire.AlgoState)
    except msgspec.ValidationError:
        return []
    order = algo_order(state, at_ms, account_id, now_ms, "stream")
    return [order] if order is not None else []


def algo_order(
    row: wire.AlgoState | wire.AlgoRow, at_ms: int, account_id: str, now_ms: int, source: Source
) -> Order | None:
    """A conditional order, from the socket or from REST. None for a status that the sheet does not know."""
    status = ALGO_STATUSES.get(row.status)
    if status is None:
        return None
    return Order(
        id=ids.algo_order_id(account_id, row.symbol, row.algo_id, row.status, at_ms), exchange=_X, market=_M, symbol=row.symbol,
        ts_event=at_ms, ts_recv=now_ms, source=source, account_id=account_id, order_id=ids.algo_name(row.algo_id),
        client_order_id=row.client_id or "", side=SIDES[row.side], position_side=(row.position_side or "BOTH").lower(),
        order_type=row.type.lower(), time_in_force=(row.time_in_force or "").lower(), status=status, price=row.price or "0",
        stop_price=row.trigger_price or "0", qty=row.qty or "0", filled_qty="0", avg_price="0", reduce_only=row.reduce_only,
    )  # fmt: skip


def _account_update(m: wire.AccountUpdate, account_id: str, now_ms: int) -> list[UserItem]:
    items: list[UserItem] = []
    for p in m.change.positions:
        side = p.side.lower()
        items.append(Position(
            id=ids.position_id(account_id, p.symbol, side, m.change_ms, p.qty), exchange=_X, market=_M, symbol=p.symbol,
            ts_event=m.change_ms, ts_recv=now_ms, account_id=account_id, position_side=side, qty=p.qty, entry_price=p.entry,
            unrealized_pnl=p.unrealized, margin_mode=p.margin.lower(),
        ))  # fmt: skip
    items += [
        Balance(
            id=ids.balance_id(account_id, b.asset, m.change_ms, b.wallet), exchange=_X, market=_M, symbol="", ts_event=m.change_ms,
            ts_recv=now_ms, account_id=account_id, asset=b.asset, wallet=b.wallet, change=b.change,
        ) for b in m.change.wallets
    ]  # fmt: skip
    return items


def _account_event(kind: str, row: dict[str, Any], account_id: str, now_ms: int) -> AccountEvent:
    """Anything else, with its payload as sent (without what could be a key). Raises ValueError where it cannot be JSON again."""
    data = {name: value for name, value in row.items() if name != "listenKey"}
    text = msgspec.json.encode(data, order="sorted")
    inner: dict[str, Any] = next((row[name] for name in ("o", "ac", "su", "or") if isinstance(row.get(name), dict)), {})
    symbol, at_ms = inner.get("s"), row.get("T", row.get("E"))
    if kind == "ALGO_UPDATE" and inner:  # section 7.2; the other types have no key of their own
        key = ":".join(str(part)[:40] for part in (inner.get("aid"), inner.get("X"), row.get("T"), inner.get("ia")))
    else:
        key = hashlib.blake2b(text, digest_size=12).hexdigest()
    return AccountEvent(
        id=ids.account_event_id(account_id, kind, key), exchange=_X, market=_M, symbol=symbol if isinstance(symbol, str) else "",
        ts_event=at_ms if type(at_ms) is int and 0 <= at_ms < 2**53 else now_ms, ts_recv=now_ms, account_id=account_id,
        event=kind, data=data,
    )  # fmt: skip


# ── Whatever the typed decoders refused ──────────────────────────────────────────────────────────────────────────
def _again(frame: bytes, items_of: Callable[[str, dict[str, Any]], list[Any]]) -> list[Any]:
    """A control reply, an envelope with its keys in another order, an unknown type, or garbage: found out row by row, so
    that one bad row of an array does not hide the others."""
    try:
        payload = msgspec.json.decode(frame)
    except UNREADABLE as error:
        return [Malformed(f"not JSON: {type(error).__name__}")]
    if isinstance(payload, dict) and "data" in payload and "e" not in payload:
        payload = payload["data"]
    items: list[Any] = []
    for row in payload if isinstance(payload, list) else [payload]:
        kind = row.get("e", "") if isinstance(row, dict) else None
        if not isinstance(kind, str):
            items.append(Malformed("not an object with an event type"))
        elif "e" not in row:
            items.append(_control(row))
        else:
            try:
                items += items_of(kind, row)
            except UNREADABLE as error:
                items.append(Malformed(f"{kind[:40]}: {str(error)[:80]}"))
    return items


def _control(row: dict[str, Any]) -> Control:
    """`{"result":…,"id":…}`, `{"error":{"code","msg"}}` or `{"code","msg"}`, with or without id (1.4). Errors here are ours: a
    bad name, too many streams, broken JSON."""
    key = str(row.get("id", ""))[:40]
    error = row.get("error", row)
    if isinstance(error, dict) and type(error.get("code")) is int:
        return Reply(key, Verdict(CODES.get(error["code"], Outcome.PERMANENT), str(error["code"])[:20]))
    if "result" not in row:
        return Unknown("")
    result = row["result"]
    names = tuple(str(name) for name in result) if isinstance(result, list) else ()
    return Reply(key, Verdict(Outcome.OK), names)
