"""Bybit frames to normalised events. Pure and without memory; called by the reading thread of each socket for every message.

In: one message as bytes, and for public ones the path of their socket, which names the category. Out: events, replies, or
Unknown/Malformed; nothing is raised, whatever the bytes. A ticker delta becomes an event with null for what it does not say:
the reader of the socket fills that in.
Sources: exchanges/bybit.md sections 1.2, 1.4, 2, 3.2, 4, 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.events import AccountEvent, Depth, Kline, Liquidation, MarkPrice, Ticker, Trade, plain
from fleet.core.exchange import Control, Malformed, MarketItem, Outcome, Pong, Reply, Unknown, UserItem, Verdict
from fleet.exchanges.bybit import ids, rows, wire
from fleet.exchanges.bybit.limits import EXCHANGE, MARKET
from fleet.exchanges.bybit.session import CODES
from fleet.exchanges.bybit.subscribe import CATEGORIES, DEFAULT_CATEGORY, INTERVALS_BACK

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""What decoding bytes can raise: not JSON, not the declared type, not UTF-8, nested too deeply, an integer of absurd length."""

_frame = decoding.decoder(wire.Frame).decode
_raws = decoding.decoder(list[msgspec.Raw]).decode
_head = decoding.decoder(wire.Categorised).decode
_any = msgspec.json.Decoder().decode
_X = EXCHANGE


# ── Market ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _klines(f: wire.Frame, market: str, now_ms: int) -> list[MarketItem]:
    symbol = f.topic.rpartition(".")[2]
    items: list[MarketItem] = []
    for k in _CANDLES(f.data):
        interval = INTERVALS_BACK.get(k.interval, k.interval)
        items.append(Kline(
            id=ids.market_id(market, "kline", symbol, interval, k.start, "closed" if k.confirm else f.ts), exchange=_X,
            market=market, symbol=symbol, ts_event=f.ts, ts_recv=now_ms, interval=interval, open_time=k.start, close_time=k.end,
            open=k.open, high=k.high, low=k.low, close=k.close, volume=k.volume, closed=k.confirm,
        ))  # fmt: skip
    return items


def _tickers(f: wire.Frame, market: str, now_ms: int) -> list[MarketItem]:
    """Ticker and mark price come in one message; each becomes an event only if the message says something of it."""
    t = _TICKER(f.data)
    items: list[MarketItem] = []
    told = (
        t.last, t.bid, t.bid_qty, t.ask, t.ask_qty, t.open_24h, t.high_24h, t.low_24h, t.volume_24h, t.quote_volume_24h,
    )  # fmt: skip
    if any(value is not None for value in told):
        items.append(Ticker(
            id=ids.market_id(market, "ticker", t.symbol, f.cs, f.ts), exchange=_X, market=market, symbol=t.symbol, ts_event=f.ts,
            ts_recv=now_ms, last=t.last, bid=t.bid, bid_qty=t.bid_qty, ask=t.ask, ask_qty=t.ask_qty, open_24h=t.open_24h,
            high_24h=t.high_24h, low_24h=t.low_24h, volume_24h=t.volume_24h, quote_volume_24h=t.quote_volume_24h,
        ))  # fmt: skip
    if t.mark or t.index or t.funding_rate or t.next_funding:
        items.append(MarkPrice(
            id=ids.market_id(market, "mark_price", t.symbol, f.cs, f.ts), exchange=_X, market=market, symbol=t.symbol,
            ts_event=f.ts, ts_recv=now_ms, mark=t.mark or None, index=t.index or None, funding_rate=t.funding_rate or None,
            next_funding=int(t.next_funding or 0) or None,
        ))  # fmt: skip
    return items


def _book(f: wire.Frame, market: str, now_ms: int) -> list[MarketItem]:
    """`u` counts the updates of one depth by one; 1 = the service restarted, and the frame is a snapshot whatever it says.
    A snapshot's id has its sending time: the same state is sent to every new subscriber and must not pass for a repetition."""
    b = _BOOK(f.data)
    if f.topic.startswith("orderbook.1."):
        return [_best(f, b, market, now_ms)]
    whole = f.type == "snapshot" or b.update_id == 1
    parts: tuple[object, ...] = ("snapshot", b.update_id, f.ts) if whole else (b.update_id, b.seq)
    return [Depth(
        id=ids.market_id(market, "depth", b.symbol, *parts), exchange=_X, market=market, symbol=b.symbol, ts_event=f.cts or f.ts,
        ts_recv=now_ms, kind="snapshot" if whole else "update", bids=b.bids, asks=b.asks, first_seq=b.update_id,
        last_seq=b.update_id,
    )]  # fmt: skip


def _best(f: wire.Frame, b: wire.BookState, market: str, now_ms: int) -> Ticker:
    bid, ask = b.bids[0] if b.bids else (None, None), b.asks[0] if b.asks else (None, None)
    return Ticker(
        id=ids.market_id(market, "book_ticker", b.symbol, b.update_id, b.seq), exchange=_X, market=market, symbol=b.symbol,
        ts_event=f.cts or f.ts, ts_recv=now_ms, bid=bid[0], bid_qty=bid[1], ask=ask[0], ask_qty=ask[1],
    )  # fmt: skip


def _trades(f: wire.Frame, market: str, now_ms: int) -> list[MarketItem]:
    return [Trade(
        id=ids.market_id(market, "trade", t.symbol, t.trade_id), exchange=_X, market=market, symbol=t.symbol, ts_event=t.trade_ms,
        ts_recv=now_ms, trade_id=t.trade_id, price=t.price, qty=t.qty, side=rows.SIDES[t.side],
    ) for t in _TRADES(f.data)]  # fmt: skip


def _liquidations(f: wire.Frame, market: str, now_ms: int) -> list[MarketItem]:
    """`S` is the side of the liquidated position (4.5), ours that of the order. No id is given: what it says identifies it, and
    its number among equals of the frame."""
    items: list[MarketItem] = []
    seen: dict[str, int] = {}
    for row in _LIQUIDATIONS(f.data):
        side = "sell" if row.side == "Buy" else "buy"
        key = ids.market_id(
            market, "liquidation", row.symbol, row.liquidated_ms, side, plain(row.qty), plain(row.price)
        )
        seen[key] = number = seen.get(key, 0) + 1
        items.append(Liquidation(
            id=key if number == 1 else f"{key}:{number}", exchange=_X, market=market, symbol=row.symbol,
            ts_event=row.liquidated_ms, ts_recv=now_ms, side="sell" if row.side == "Buy" else "buy", price=row.price, qty=row.qty,
        ))  # fmt: skip
    return items


_CANDLES = decoding.decoder(list[wire.Candle]).decode
_TICKER = decoding.decoder(wire.TickerState).decode
_BOOK = decoding.decoder(wire.BookState).decode
_TRADES = decoding.decoder(list[wire.PublicTrade]).decode
_LIQUIDATIONS = decoding.decoder(list[wire.Liquidated]).decode
_MARKET: dict[str, Callable[[wire.Frame, str, int], list[MarketItem]]] = {
    "kline": _klines, "tickers": _tickers, "orderbook": _book, "publicTrade": _trades, "allLiquidation": _liquidations,
}  # fmt: skip


def parse_market(frame: bytes, path: str, now_ms: int) -> list[MarketItem]:
    """Events of one public message; `path` ends in the category."""
    try:
        f = _frame(frame)
        if not f.topic:
            return [_control(f, private=False)]
        build = _MARKET.get(f.topic.partition(".")[0])
        if build is None:
            return [Unknown(f.topic.partition(".")[0][:40])]
        category = path.rpartition("/")[2]
        return build(f, category if category in CATEGORIES else DEFAULT_CATEGORY, now_ms)
    except UNREADABLE as error:
        return [_malformed(error)]


# ── User data ────────────────────────────────────────────────────────────────────────────────────────────────────
def parse_user(frame: bytes, account_id: str, now_ms: int) -> list[UserItem]:
    """Events of one private message, in the venue's order. A bad row does not hide its neighbours."""
    try:
        f = _frame(frame)
        if not f.topic:
            return [_control(f, private=True)]
        told = rows.Told(account_id, f.created_ms or now_ms, now_ms, "stream", str(f.id)[:80])
        build = _USER.get(f.topic.partition(".")[0]) if not f.topic.startswith("execution.fast") else None
        if build is None:
            return _other(f, told)
        raws = _raws(f.data)
    except UNREADABLE as error:
        return [_malformed(error)]
    items: list[UserItem] = []
    for raw in raws:
        try:
            items += build(raw, told)
        except UNREADABLE as error:
            items.append(_malformed(error))
    return items


def _category(raw: msgspec.Raw) -> str | None:
    """None: rows of another product (event contracts) come on the same topics, with fields of their own."""
    category = _head(raw).category
    return category if category in rows.CATEGORIES else None


def _order(raw: msgspec.Raw, told: rows.Told) -> list[UserItem]:
    category = _category(raw)
    if category is None:
        return [Unknown("order of another category")]
    row = _ORDER(raw)
    event = rows.order(row, category, told)
    return [event if event is not None else Unknown(f"order status {row.order_status[:40]}")]


def _execution(raw: msgspec.Raw, told: rows.Told) -> list[UserItem]:
    category = _category(raw)
    if category is None:
        return [Unknown("execution of another category")]
    row = _EXECUTION(raw)
    if row.exec_type in rows.TRADING:
        return [rows.fill(row, category, told)]
    return [rows.booking(row, category, _payload(raw), told)]


def _position(raw: msgspec.Raw, told: rows.Told) -> list[UserItem]:
    category = _category(raw)
    if category is None:
        return [Unknown("position of another category")]
    return [rows.position(_POSITION(raw), category, told)]


def _wallet(raw: msgspec.Raw, told: rows.Told) -> list[UserItem]:
    return [rows.balance(coin, told) for coin in _WALLET(raw).coin if coin.wallet_balance]  # "" tells nothing of it


_ORDER = decoding.decoder(wire.OrderRow).decode
_EXECUTION = decoding.decoder(wire.ExecutionRow).decode
_POSITION = decoding.decoder(wire.PositionRow).decode
_WALLET = decoding.decoder(wire.WalletRow).decode
_USER: dict[str, Callable[[msgspec.Raw, rows.Told], list[UserItem]]] = {
    "order": _order, "execution": _execution, "position": _position, "wallet": _wallet,
}  # fmt: skip


def _payload(raw: bytes | msgspec.Raw) -> dict[str, Any]:
    """A row as sent; the caller knows it to be an object."""
    payload: dict[str, Any] = _any(raw)
    return payload


def _other(f: wire.Frame, told: rows.Told) -> list[UserItem]:
    """A topic that we did not subscribe or do not know: kept with its payload, and reported beside."""
    name = f.topic[:40]
    payload = _payload(b'{"data":%s}' % (bytes(f.data) or b"null"))
    key = hashlib.blake2b(bytes(f.data), digest_size=12).hexdigest()
    event = AccountEvent(
        id=ids.account_event_id(told.account_id, name, f"{f.created_ms}:{key}"), exchange=_X, market=MARKET, symbol="",
        ts_event=told.at_ms, ts_recv=told.now_ms, account_id=told.account_id, event=name, data=payload,
    )  # fmt: skip
    return [Unknown(name), event]


# ── Answers to what we sent ──────────────────────────────────────────────────────────────────────────────────────
_echo = decoding.decoder(wire.Echo).decode
_topics = decoding.decoder(wire.Topics).decode


def _control(f: wire.Frame, *, private: bool) -> Control:
    """Pongs and answers. Their shape depends on the socket (1.2, 2): all are taken on all."""
    if f.op == "pong" or (f.op == "ping" and f.success):
        return Pong()
    if f.type == "COMMAND_RESP":
        told = _topics(f.data)
        return Reply("", _verdict(f, "subscribe", private), tuple(told.done or told.failed))
    if f.success is None and f.ret_code is None:
        return Unknown(f.op[:40])
    echo = _echo(f.request) if bytes(f.request) else wire.Echo()
    op = f.op or echo.op or ("auth" if private else "")
    return Reply((f.req_id or echo.req_id or op)[:40], _verdict(f, op, private))


def _verdict(f: wire.Frame, op: str, private: bool) -> Verdict:
    """A refused login names no reason that could be told apart (3.2: a bad key and a slow clock read alike), so it is a
    suspicion, which a signed call confirms or not. The texts of subscriptions are all there is to go by (1.4). One that is not
    known costs a public topic its place until the next socket, and not its neighbours theirs: the socket stays open."""
    if f.success or f.ret_code == 0:
        return Verdict(Outcome.OK)
    if f.ret_code is not None:
        return Verdict(CODES.get(f.ret_code, Outcome.TRANSIENT), str(f.ret_code)[:20])
    if op == "auth":
        return Verdict(Outcome.INVALID, "auth")
    if "already subscribed" in f.ret_msg:
        return Verdict(Outcome.OK)
    known = ("handler not found", "args size", "invalid op", "Invalid symbol")
    text = next((words for words in known if words in f.ret_msg), "")
    if text or not private:
        return Verdict(Outcome.PERMANENT, text or f.ret_msg[:60])
    return Verdict(Outcome.TRANSIENT, op[:20])


def _malformed(error: BaseException) -> Malformed:
    return Malformed(f"{type(error).__name__}: {str(error)[:80]}")
