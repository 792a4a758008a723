"""OKX frames to normalised events. Pure; called by the reading thread of each socket for every message.

In: one message as bytes. Out: events, replies, or Unknown/Malformed; nothing is raised, whatever the bytes. The envelope is
decoded first, then its rows straight into wire.py's types; only rows that do not fit are decoded again, one by one.
Sources: exchanges/okx.md sections 1.2, 2, 3.1, 4, 5.
"""

from __future__ import annotations

import email.utils
import hashlib
import re
from collections.abc import Callable
from typing import Any, Literal

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
    Pong,
    Reply,
    Unknown,
    UserItem,
    Verdict,
)
from fleet.core.series import interval_ms
from fleet.exchanges.okx import ids, wire
from fleet.exchanges.okx.limits import EXCHANGE, MARKET
from fleet.exchanges.okx.session import CODES, LOGGED_IN_ALREADY, LOGIN, UNREADABLE, key_of, moment, verdict_of
from fleet.exchanges.okx.subscribe import INTERVALS

STATES: dict[str, OrderStatus] = {
    "live": "new", "partially_filled": "partially_filled", "filled": "filled", "canceled": "canceled", "mmp_canceled": "canceled",
}  # fmt: skip
IMMEDIATE = {
    "fok": "fok",
    "op_fok": "fok",
    "ioc": "ioc",
    "optimal_limit_ioc": "ioc",
}  # order types that are a time in force
# Known private channels that are kept as `account` events with their payload; any other is kept too, and reported as Unknown.
ACCOUNT_CHANNELS = frozenset(
    {"liquidation-warning", "account-greeks", "orders-algo", "algo-advance", "deposit-info", "withdrawal-info", "fills"}
)
UPGRADE = "64008"
OVER_LIMIT = "channel-conn-count-error"
_BAD = (*UNREADABLE, LookupError)
_NAMED = re.compile(r"channel:(?P<channel>[\w-]+)(?:,\s*inst(?:Id|Type):(?P<what>[\w.-]+))?", re.ASCII)
_MS = re.compile(r"[0-9]{1,15}")

_frame = decoding.decoder(wire.Frame).decode
_X = EXCHANGE
_M = MARKET
_V = ids.VENUE


def ms(text: str) -> int:
    return int(text or 0)


def negated(number: str) -> str:
    """OKX tells what a fee does to the balance; everywhere in the fleet a fee paid is positive."""
    if number.startswith("-"):
        return number[1:]
    return f"-{number}" if number.strip("0.") else number or "0"


def signed(row: wire.PositionRow) -> str:
    """Told without a sign: a short position in long/short mode, and one on margin, which is short where it is in the quote currency
    (the venue's words of `posSide`: "posCcy being quote currency means short position")."""
    qty = row.qty or "0"
    short = row.position_side == "short" or (row.currency != "" and row.symbol.endswith(f"-{row.currency}"))
    return f"-{qty}" if short and qty.strip("-0.") and not qty.startswith("-") else qty


# ── Market ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _ticker(m: wire.TickerRow, now_ms: int) -> Ticker:
    return Ticker(
        id=f"{_V}:ticker:{m.symbol}:{m.ts}:{m.last}:{m.bid}:{m.bid_qty}:{m.ask}:{m.ask_qty}", exchange=_X, market=_M,
        symbol=m.symbol, ts_event=ms(m.ts), ts_recv=now_ms, last=m.last,
        bid=m.bid or None, bid_qty=m.bid_qty or None, ask=m.ask or None,
        ask_qty=m.ask_qty or None, open_24h=m.open or None, high_24h=m.high or None, low_24h=m.low or None,
        volume_24h=m.volume or None, quote_volume_24h=m.quote_volume or None,
    )  # fmt: skip


def _trade(m: wire.TradeRow, now_ms: int) -> Trade:
    return Trade(
        id=f"{_V}:trade:{m.symbol}:{m.trade_id}", exchange=_X, market=_M, symbol=m.symbol, ts_event=ms(m.ts), ts_recv=now_ms,
        trade_id=m.trade_id, price=m.price, qty=m.qty, side=m.side, count=int(m.count),
    )  # fmt: skip


def _mark(m: wire.MarkRow, now_ms: int) -> MarkPrice:
    return MarkPrice(  # two may share a time: the price tells them apart
        id=f"{_V}:mark_price:{m.symbol}:{m.ts}:{plain(m.mark)}", exchange=_X, market=_M, symbol=m.symbol, ts_event=ms(m.ts),
        ts_recv=now_ms, mark=m.mark,
    )  # fmt: skip


def _funding(m: wire.FundingRow, now_ms: int) -> MarkPrice:
    return MarkPrice(
        id=f"{_V}:funding:{m.symbol}:{m.due}:{m.rate}:{m.ts}", exchange=_X, market=_M, symbol=m.symbol, ts_event=ms(m.ts) or now_ms,
        ts_recv=now_ms, mark=None, funding_rate=m.rate or None, next_funding=ms(m.due) or None,
    )  # fmt: skip


def _liquidations(m: wire.LiquidationRow, now_ms: int) -> list[MarketItem]:
    items: list[MarketItem] = []
    seen: dict[str, int] = {}
    for d in m.details:  # the venue gives no id: what it says identifies it, and a number where it says it twice
        content = f"{m.symbol}:{d.ts}:{d.side}:{d.position_side}:{plain(d.qty)}:{plain(d.price)}"
        seen[content] = again = seen.get(content, -1) + 1
        items.append(Liquidation(
            id=f"{_V}:liquidation:{content}:{again}", exchange=_X, market=_M, symbol=m.symbol, ts_event=ms(d.ts), ts_recv=now_ms,
            side=d.side, price=d.price, qty=d.qty,
        ))  # fmt: skip
    return items


def _levels(levels: list[list[str]]) -> list[tuple[str, str]]:
    return [(level[0], level[1]) for level in levels]


def _depth(
    m: wire.BookRow, symbol: str, kind: Literal["snapshot", "update"], source: Literal["stream", "rest"], now_ms: int
) -> Depth:
    seq, prev = m.seq or 0, m.prev or 0  # captures of 2022 have none: the order on the socket is all there is
    update = kind == "update"
    # A snapshot is sent to every new subscriber, a keepalive each minute: with the same numbers, and no repetition.
    again = not update or prev == seq
    name = f"{m.ts}:{m.checksum}" if m.seq is None else f"{seq}:{m.ts}" if again else f"{prev}:{seq}"
    return Depth(
        id=f"{_V}:depth:{symbol}:{kind}:{name}", exchange=_X, market=_M, symbol=symbol, ts_event=ms(m.ts), ts_recv=now_ms,
        source=source, kind=kind, bids=_levels(m.bids), asks=_levels(m.asks), first_seq=prev if update else seq, last_seq=seq,
        prev_seq=prev if update else None,
    )  # fmt: skip


def _book(m: wire.BookRow, symbol: str, action: str, now_ms: int) -> MarketItem:
    return _depth(m, symbol, "update" if action == "update" else "snapshot", "stream", now_ms)


def _quote(m: wire.BookRow, symbol: str, action: str, now_ms: int) -> MarketItem:
    none: list[tuple[str | None, str | None]] = [(None, None)]
    bid, ask = (list[tuple[str | None, str | None]](_levels(side)) or none for side in (m.bids, m.asks))
    return Ticker(
        id=f"{_V}:book_ticker:{symbol}:{m.seq or 0}:{m.ts}", exchange=_X, market=_M, symbol=symbol, ts_event=ms(m.ts),
        ts_recv=now_ms, bid=bid[0][0], bid_qty=bid[0][1], ask=ask[0][0], ask_qty=ask[0][1],
    )  # fmt: skip


def close_ms(open_ms: int, interval: str) -> int:
    """Last millisecond of a candle."""
    if interval == "1M":
        year, month, _, _ = moment(open_ms)
        following = (year + month // 12, month % 12 + 1, 1, 0, 0, 0, 0, 1, -1, 0)
        return email.utils.mktime_tz(following) * 1000 - 1
    return open_ms + interval_ms(interval) - 1


def _candle(row: list[str], symbol: str, interval: str, now_ms: int) -> Kline:
    """[ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm]. The only time told is the opening: a closed candle is of its end, an
    open one of its beginning, and its figures tell its updates apart."""
    if not _MS.fullmatch(row[0]):
        raise ValueError("opening time")
    opened = int(row[0])
    closed, end = row[8] == "1", close_ms(opened, interval)
    state = "closed" if closed else ":".join(row[1:6])
    return Kline(
        id=f"{_V}:kline:{symbol}:{interval}:{opened}:{state}", exchange=_X, market=_M, symbol=symbol,
        ts_event=end if closed else opened, ts_recv=now_ms, interval=interval, open_time=opened, close_time=end,
        open=row[1], high=row[2], low=row[3], close=row[4],
        volume=row[5], closed=closed,
    )  # fmt: skip


def _candles(interval: str) -> Callable[[list[str], wire.Frame, int], list[MarketItem]]:
    return lambda row, frame, now_ms: [_candle(row, frame.arg.symbol, interval, now_ms)]


class _Kind:
    """How the rows of a channel are decoded and what they become."""

    def __init__(self, row: Any, build: Callable[[Any, wire.Frame, int], list[MarketItem]]) -> None:
        self.row, self.build = row, build
        self.rows = decoding.decoder(list[row]).decode


_MARKET: dict[str, _Kind] = {
    "tickers": _Kind(wire.TickerRow, lambda m, f, now_ms: [_ticker(m, now_ms)]),
    "trades": _Kind(wire.TradeRow, lambda m, f, now_ms: [_trade(m, now_ms)]),
    "trades-all": _Kind(wire.TradeRow, lambda m, f, now_ms: [_trade(m, now_ms)]),
    "mark-price": _Kind(wire.MarkRow, lambda m, f, now_ms: [_mark(m, now_ms)]),
    "funding-rate": _Kind(wire.FundingRow, lambda m, f, now_ms: [_funding(m, now_ms)]),
    "liquidation-orders": _Kind(wire.LiquidationRow, lambda m, f, now_ms: _liquidations(m, now_ms)),
    "bbo-tbt": _Kind(wire.BookRow, lambda m, f, now_ms: [_quote(m, f.arg.symbol, f.action, now_ms)]),
    **dict.fromkeys(
        ("books", "books5", "books-l2-tbt", "books50-l2-tbt", "books-rpi", "books-elp"),
        _Kind(wire.BookRow, lambda m, f, now_ms: [_book(m, f.arg.symbol, f.action, now_ms)]),
    ),
    **{f"candle{bar}": _Kind(list[str], _candles(interval)) for bar, interval in INTERVALS.items()},
}


def parse_market(frame: bytes, path: str, now_ms: int) -> list[MarketItem]:
    """Events of one public message. `path` is not needed: pushes name their channel."""
    head = _head(frame)
    if not isinstance(head, wire.Frame):
        return [head]
    if head.event:
        return list(_control(head))
    kind = _MARKET.get(head.arg.channel)
    if kind is None:
        return [Unknown(head.arg.channel[:40])]
    return _build(head, kind, now_ms)


def _build(head: wire.Frame, kind: _Kind, now_ms: int) -> list[Any]:
    try:
        return [item for row in kind.rows(head.data) for item in kind.build(row, head, now_ms)]
    except _BAD:
        pass  # row by row, so that one bad row does not hide the others
    return _row_by_row(head, lambda value: kind.build(decoding.convert(value, kind.row), head, now_ms))


def parse_snapshot(reply: HttpReply, symbol: str, now_ms: int) -> Depth:
    """The order book of `GET /market/books`. Raises ConnectionFailed if the reply is not one."""
    try:
        (book,) = decoding.decode(reply.body, _Books).data
        return _depth(book, symbol, "snapshot", "rest", now_ms)
    except _BAD as error:
        raise ConnectionFailed(f"order book of {symbol}: unreadable reply") from error


class _Books(msgspec.Struct):
    data: list[wire.BookRow]


# ── User data ────────────────────────────────────────────────────────────────────────────────────────────────────
def parse_user(frame: bytes, account_id: str, now_ms: int) -> list[UserItem]:
    """Events of one private message. A fill comes before the order state it led to."""
    head = _head(frame)
    if not isinstance(head, wire.Frame):
        return [head]
    if head.event:
        return list(_control(head))
    channel = head.arg.channel
    if channel in _USER:
        row, build = _USER[channel]
        return _row_by_row(head, lambda value: build(decoding.convert(value, row), account_id, now_ms))
    items: list[UserItem] = [] if channel in ACCOUNT_CHANNELS else [Unknown(channel[:40])]
    return [*items, *_row_by_row(head, lambda value: [_account_event(channel[:40], value, account_id, now_ms)])]


def _order_items(o: wire.OrderRow, account_id: str, now_ms: int) -> list[UserItem]:
    """A liquidation or ADL is pushed without a trade id: two equal ones of one millisecond would be one fill, and REST's another.
    Its fills are left to REST, which is asked within seconds: the order tells of more than they add up to (core/tally.py)."""
    items: list[UserItem] = []
    if o.fill_qty.strip("0.") and o.trade_id not in ids.UNTOLD:
        at_ms = ms(o.fill_ms) or ms(o.update_ms)
        items.append(Fill(
            id=ids.fill_id(account_id, o.symbol, o.trade_id, o.order_id), exchange=_X, market=_M, symbol=o.symbol,
            ts_event=at_ms, ts_recv=now_ms,
            account_id=account_id, trade_id=o.trade_id, order_id=o.order_id, client_order_id=o.client_id, side=o.side,
            position_side=o.position_side or "net", price=o.fill_price or "0", qty=o.fill_qty, fee=negated(o.fill_fee),
            fee_asset=o.fill_fee_asset, liquidity="maker" if o.execution == "M" else "taker", realized_pnl=o.fill_pnl or "0",
        ))  # fmt: skip
    state = order_state(o, account_id, now_ms, "stream")
    return [*items, state if state is not None else Unknown(f"order state {o.state[:40]}")]


def order_state(o: wire.OrderRow, account_id: str, now_ms: int, source: Literal["stream", "rest"]) -> Order | None:
    """The order after this push, or as REST has it; None for a state that the sheet does not know."""
    status = STATES.get(o.state)
    if status is None:
        return None
    kind, filled, price, qty = o.type.lower(), o.filled or "0", o.price or "0", o.qty or "0"
    return Order(
        id=ids.order_id(account_id, o.symbol, o.order_id, status, filled, ms(o.update_ms), price, qty), exchange=_X, market=_M,
        symbol=o.symbol, ts_event=ms(o.update_ms), ts_recv=now_ms, source=source, account_id=account_id, order_id=o.order_id,
        client_order_id=o.client_id, side=o.side, position_side=o.position_side or "net", order_type=kind,
        time_in_force=IMMEDIATE.get(kind, "gtc"), status=status, price=price,
        stop_price=o.stop_loss or o.take_profit or "0",
        qty=qty, filled_qty=filled, avg_price=o.average or "0", reduce_only=o.reduce_only == "true",
    )  # fmt: skip


def position(p: wire.PositionRow, account_id: str, now_ms: int, source: Literal["stream", "rest"]) -> Position:
    side, qty = p.position_side or "net", signed(p)
    return Position(
        id=ids.position_id(account_id, p.symbol, p.margin_mode, side, ms(p.update_ms), qty), exchange=_X, market=_M,
        symbol=p.symbol, ts_event=ms(p.update_ms), ts_recv=now_ms, source=source,
        account_id=account_id, position_side=side, qty=qty,
        entry_price=p.entry or "0", unrealized_pnl=p.unrealized or "0", margin_mode=p.margin_mode,
    )  # fmt: skip


def balance(b: wire.AssetRow, account_id: str, now_ms: int, source: Literal["stream", "rest"]) -> Balance:
    wallet = b.wallet or "0"
    return Balance(
        id=ids.balance_id(account_id, b.asset, ms(b.update_ms), wallet, b.available or None), exchange=_X, market=_M, symbol="",
        ts_event=ms(b.update_ms), ts_recv=now_ms, source=source, account_id=account_id, asset=b.asset, wallet=wallet,
        available=b.available or None,
    )  # fmt: skip


def _together(t: wire.Together, account_id: str, now_ms: int) -> list[UserItem]:
    """The fastest word on wallets. Of positions only that one closed: the rest it tells without the profit, and `positions`
    follows with it."""
    items: list[UserItem] = [balance(b, account_id, now_ms, "stream") for b in t.wallets]
    return [*items, *(position(p, account_id, now_ms, "stream") for p in t.positions if not p.qty.strip("-0."))]


_USER: dict[str, tuple[Any, Callable[[Any, str, int], list[UserItem]]]] = {
    "orders": (wire.OrderRow, _order_items),
    "positions": (wire.PositionRow, lambda p, account, now_ms: [position(p, account, now_ms, "stream")]),
    "account": (wire.AccountRow, lambda a, account, now_ms: [balance(b, account, now_ms, "stream") for b in a.details]),
    "balance_and_position": (wire.Together, _together),
}


def _account_event(channel: str, row: Any, account_id: str, now_ms: int) -> AccountEvent:
    """Anything else, with its payload as sent. Raises ValueError for what is not an object."""
    if not isinstance(row, dict):
        raise ValueError("not an object")
    text = msgspec.json.encode(row, order="sorted")
    told = next((row[name] for name in ("uTime", "pTime", "ts") if isinstance(row.get(name), str)), "")
    symbol = row.get("instId")
    return AccountEvent(
        id=ids.account_event_id(account_id, channel, hashlib.blake2b(text, digest_size=12).hexdigest()), exchange=_X, market=_M,
        symbol=symbol if isinstance(symbol, str) else "", ts_event=int(told) if _MS.fullmatch(told) else now_ms, ts_recv=now_ms,
        account_id=account_id, event=channel, data=row,
    )  # fmt: skip


# ── Envelope, rows, control ──────────────────────────────────────────────────────────────────────────────────────
def _head(frame: bytes) -> wire.Frame | Pong | Malformed | Unknown:
    if frame == b"pong":
        return Pong()
    try:
        head = _frame(frame)
    except UNREADABLE as error:
        return Malformed(f"not a message: {type(error).__name__}")
    if not head.event and not head.arg.channel:
        return Unknown("")
    return head


def _row_by_row(head: wire.Frame, build: Callable[[Any], list[Any]]) -> list[Any]:
    try:
        rows = msgspec.json.decode(head.data)
    except UNREADABLE as error:
        return [Malformed(f"{head.arg.channel[:40]}: {type(error).__name__}")]
    if not isinstance(rows, list):
        return [Malformed(f"{head.arg.channel[:40]}: data is no list")]
    items: list[Any] = []
    for row in rows:
        try:
            items += build(row)
        except _BAD as error:
            items.append(Malformed(f"{head.arg.channel[:40]}: {str(error)[:80]}"))
    return items


def _control(head: wire.Frame) -> list[Control]:
    """Acks come one an argument; an error names its argument only in its text."""
    event, channel = head.event, head.arg.channel
    if event == "login":
        return [_login(head.code or "0")]
    if event in ("subscribe", "unsubscribe"):
        what = head.arg.symbol or head.arg.product
        return [Reply(head.id[:40] or key_of(channel), Verdict(Outcome.OK), (f"{channel}:{what}",))]
    if event == "error":
        return [_error(head)]
    if event == "notice":
        return [Goodbye(UPGRADE) if head.code == UPGRADE else Unknown(f"notice {head.code[:20]}")]
    if event == "channel-conn-count":
        return []
    if event == OVER_LIMIT:  # after the ack: this socket's subscription was ended again
        return [Reply(key_of(head.channel), Verdict(Outcome.PERMANENT, OVER_LIMIT))]
    return [Unknown(event[:40])]


def _login(code: str) -> Reply:
    done = code == "0" or code in LOGGED_IN_ALREADY
    return Reply(LOGIN, Verdict(Outcome.OK) if done else verdict_of(code))


def _error(head: wire.Frame) -> Reply:
    """One that has no id and names no channel answers the login, whatever its code (3.1): all else that we ask has an id."""
    named = _NAMED.search(head.msg)
    channel = head.arg.channel or (named["channel"] if named else "")
    if not head.id and not channel:
        return _login(head.code)
    what = head.arg.symbol or head.arg.product or (named["what"] or "" if named else "")
    about = (f"{channel}:{what}",) if channel and what else ()
    verdict = verdict_of(head.code)
    if about and head.code not in CODES:  # of one argument among many: no reason to end the socket of the others
        verdict = Verdict(Outcome.PERMANENT, verdict.code)
    return Reply(head.id[:40] or key_of(channel), verdict, about)
