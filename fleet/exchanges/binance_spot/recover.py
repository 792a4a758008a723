"""Read-back of one Binance Spot account after a gap: a pure dialogue of REST calls and replies (`RecoveryPlan`).

In: the account, its watermark (moved back by the caller's margin), exchange time. Out: what was missed, with the stream's ids.
Driven by workers/readback.py. Sources: exchanges/binance.md sections 5.3, 7.2, 7.3.

Weight is the scarce thing when a crowd of accounts reconnects, so each step is taken only if the one before proved too little:
1. The account (20). If the fills known since the base explain every wallet (base against quote asset, fees), none is missing.
2. Open orders, only where something is locked or an order was known as open: of the known symbols (6 each). What they lock
   must be what the account says is locked; otherwise there are others, and all symbols are asked for (80). A quiet account
   with nothing locked ends after one call.
3. Trades (20) of the symbols whose assets are unexplained; of symbols that nobody knew but whose two assets are; of those that
   traded since the base; of the other known ones. No call tells the trades of all symbols.
4. The account again where it does not fit the trades (REST lags).
5. The orders of the fills that were missed (4 each, 20 for a symbol), and each order (4) that was known as open and is not any
   more. All orders (20) of the three symbols used last, if that was within ten minutes.
A proof that finds every wallet explained looks at the open orders of one symbol (another each minute) and at no history. A read
of fills leaves 2 out, and of 5 all but the orders of missed fills.
After the gap has closed a read of orders asks for all orders (20) of the five symbols used last, whenever that was. Not found: an
order placed and cancelled unfilled inside the gap in another symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import Order, UserRecord
from fleet.core.exchange import HttpCall, HttpReply, Recovered, RecoveryPlan
from fleet.core.model import AccountSpec
from fleet.core.recovery import TERMINAL, Legs, Snapshot, Watermark, missed, untold_fills_ms
from fleet.core.replies import decode
from fleet.exchanges.binance_spot import assets, rows, wire
from fleet.exchanges.binance_spot.limits import LIMITS, PAGE, WINDOW_MS
from fleet.exchanges.binance_spot.parse import ORDER_STATUSES, balance
from fleet.exchanges.binance_spot.session import CLOCK, clock_ms

T = TypeVar("T")
Row = TypeVar("Row", wire.TradeRow, wire.OrderRow)
Dialogue = Generator[HttpCall, HttpReply, T]

SKEW_MS = 1000  # between the clock of our database and the exchange's
FORGOTTEN_MS = 60_000  # an order that the exchange does not know is forgotten only if its symbol was quiet this long
MAX_PAGES = 1000
ACTIVE_MS, ACTIVE_SYMBOLS = (
    600_000,
    3,
)  # an account that traded just now may have placed and cancelled orders without a trace
ASKED_SYMBOLS = 5  # and once the gap has closed, any account may have, in these
MAX_GUESSES = 30  # symbols asked for because both their assets are unexplained; one that does not exist costs 20 too
MAX_ORDERS = 5  # so many orders of a symbol one by one (4 each) cost as much as all of them (20)
MAX_SINGLE = 13  # so many symbols' open orders one by one (6 each) cost as much as all of them (80)


@dataclass
class _Findings:
    """What one read-back knows so far. Local to one plan."""

    account_id: str
    mark: Watermark
    now_ms: int
    since_ms: int
    account: wire.AccountRow
    snapshot: Snapshot
    trades: dict[tuple[str, int, int], wire.TradeRow] = field(default_factory=dict)
    orders: dict[tuple[str, str], wire.OrderRow] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)  # symbols whose trades are in
    frugal: bool = False  # a proof, and every wallet is explained
    unasked: set[str] = field(default_factory=set)  # symbols whose known orders a proof leaves to the next one
    closed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def legs(self) -> Legs:
        base = self.mark.base.wallets if self.mark.base else {}
        return assets.legs({*base, *self.snapshot.wallets, *self.mark.wallets, *self.mark.earned})

    @property
    def locked(self) -> dict[str, Decimal]:
        return {row.asset: Decimal(row.locked) for row in self.account.balances if Decimal(row.locked)}


def recover(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Yields calls, is sent OK replies. Raises ConnectionFailed for a reply that is not what the sheet says (try again later)."""
    if mark.scope == "orders":
        return (yield from _came_and_went(account, mark, now_ms))
    first, snapshot = yield from _account(now_ms)
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    found = _Findings(account.id, mark, now_ms, max(mark.proven_ms, oldest_ms), first, snapshot)
    since_ms = max(mark.proven_ms, account.created_at_ms - SKEW_MS)  # a first-ever read: since the account is ours
    complete = 0 < first.update_ms <= since_ms if mark.base is None else mark.explains(snapshot, found.legs)
    found.frugal = complete and mark.scope == "proof"
    if mark.scope != "fills":
        yield from _open_orders(found)
    if not complete:
        if mark.proven_ms < oldest_ms:
            found.lost.append(f"history before {oldest_ms} ms is not read")
        yield from _missing_trades(found)
        yield from _orders_of_fills(found)
    if not found.frugal and mark.scope != "fills":
        yield from _orders_of(found, _in_use(found))
        yield from _trades_of(found, _traded_unseen(found) - found.read)
    if mark.scope != "fills":
        yield from _ended_orders(found)
    history = _history(found)
    placed_ms = {str(number): row.created_ms for (_, number), row in found.orders.items()}
    judged = [event for event in history if event.symbol in found.read]
    untold_ms = 0 if found.lost else untold_fills_ms(mark, judged, placed_ms, found.since_ms, account.created_at_ms)
    events = missed(history + _changes(found), set())
    snapshot = Snapshot(found.snapshot.at_ms, {}, found.snapshot.wallets, tuple(found.closed))
    complete = complete or mark.base is None or _explained(found)
    unasked = mark.scope == "full" and bool(_latest(mark, ASKED_SYMBOLS) - _in_use(found))
    return Recovered(events, snapshot, "; ".join(found.lost), complete, unasked, untold_ms)


def _came_and_went(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Orders that ended since `proven_ms` in the symbols used last, and the fills of those whose fills are not known."""
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    since_ms = min(max(mark.proven_ms, oldest_ms), now_ms)
    found = _Findings(account.id, mark, now_ms, since_ms, wire.AccountRow([]), Snapshot(now_ms, {}, {}))
    yield from _orders_of(found, _latest(mark, ASKED_SYMBOLS))
    yield from _trades_of(found, _traded_unseen(found))
    return Recovered(missed(_history(found), set()), found.snapshot, "; ".join(found.lost))


def _account(at_ms: int) -> Dialogue[tuple[wire.AccountRow, Snapshot]]:
    reply = yield rows.ACCOUNT
    account = decode(reply, wire.AccountRow, "account")
    sums = {row.asset: Decimal(row.free) + Decimal(row.locked) for row in account.balances}
    return account, Snapshot(
        reply.at_ms or at_ms, {}, {asset: format(sum_, "f") for asset, sum_ in sums.items() if sum_}
    )


# ── Fills ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _missing_trades(found: _Findings) -> Dialogue[None]:
    """Read trades, likely symbols first, until they explain the account or no symbol is left."""
    mark = found.mark
    known = set(mark.symbols) | set(mark.open_orders.values()) | {symbol for symbol, _ in found.orders}
    if mark.base is None:
        held = found.snapshot.wallets
        yield from _trades_of(found, known)
        yield from _trades_of(found, _guesses(found, assets.symbols_of(held, held), known))
        return
    active = {s for s, at_ms in mark.symbols.items() if at_ms >= mark.base.at_ms}
    yield from _trades_of(found, _both_legs_open(found, known))
    if found.trades and not _explained(found):  # the account lagged behind them, or moved on meanwhile
        yield from _account_again(found)
    yield from _new_symbols(found, known)
    for choose in (_base_open, lambda *_: active, lambda *_: known):
        if _explained(found):
            return
        yield from _trades_of(found, choose(found, known) - found.read)
    if found.trades and not _explained(found):
        yield from _account_again(found)


def _account_again(found: _Findings) -> Dialogue[None]:
    at_ms = clock_ms((yield CLOCK))
    found.account, found.snapshot = yield from _account(at_ms)


def _open_assets(found: _Findings) -> dict[str, str]:
    """Assets whose wallet is not yet explained, and by how much."""
    return _trial(found).unexplained(found.snapshot, found.legs)[1]


def _both_legs_open(found: _Findings, known: set[str]) -> set[str]:
    open_ = _open_assets(found)
    pairs = {symbol: found.legs(symbol) for symbol in known}
    return {symbol for symbol, pair in pairs.items() if pair and pair[0] in open_ and pair[1] in open_}


def _base_open(found: _Findings, known: set[str]) -> set[str]:
    open_ = _open_assets(found)
    pairs = {symbol: found.legs(symbol) for symbol in known}
    return {symbol for symbol, pair in pairs.items() if pair is None or pair[0] in open_ or pair[1] in open_}


def _new_symbols(found: _Findings, known: set[str]) -> Dialogue[None]:
    """Symbols that never traded before, of two unexplained assets: first those of which one was given for the other. Each one
    found changes what is unexplained."""
    for _ in range(MAX_GUESSES):
        open_ = {asset: Decimal(amount) for asset, amount in _open_assets(found).items()}
        gained, given = (
            {a for a, amount in open_.items() if amount > 0},
            {a for a, amount in open_.items() if amount < 0},
        )
        exchanged = assets.symbols_of(gained, given) | assets.symbols_of(given, gained)
        likely = _guesses(found, exchanged, known) or _guesses(found, assets.symbols_of(open_, open_), known)
        if not likely:
            return
        yield from _trades_of(found, likely[:1])


def _guesses(found: _Findings, symbols: set[str], known: set[str]) -> list[str]:
    """Those of `symbols` not asked for yet, likely ones first. Two assets have a symbol in one direction only."""
    real = known | {symbol for symbol, _, _ in found.trades}
    backwards = {quote + base for base, quote in filter(None, map(found.legs, real))}
    return sorted(symbols - real - found.read - backwards, key=assets.rank)[:MAX_GUESSES]


def _trial(found: _Findings) -> Watermark:
    """The watermark with the trades that were read in place of those known before."""
    trial = found.mark.without(found.read)
    for trade in found.trades.values():
        if trade.trade_ms < found.snapshot.at_ms:
            trial.advance(rows.fill(trade, "", found.account_id, found.now_ms))
    return trial


def _explained(found: _Findings) -> bool:
    """Do the trades that were read, and the known ones of symbols not read, lead from the base to the snapshot?"""
    return _trial(found).explains(found.snapshot, found.legs)


def _trades_of(found: _Findings, symbols: Iterable[str]) -> Dialogue[None]:
    latest = found.mark.symbols
    for symbol in sorted(symbols, key=lambda s: (-latest.get(s, 0), s)):
        found.read.add(symbol)
        try:
            trades = yield from _since(rows.trades_call, symbol, list[wire.TradeRow], "fromId", found)
        except ExchangeRefused as refused:
            if symbol in latest:  # one that was guessed need not exist
                found.lost.append(f"fills of {symbol}: {refused.verdict}")
            continue
        for trade in trades:
            if trade.trade_ms >= found.since_ms:
                found.trades[trade.symbol, trade.trade_id, trade.order_id] = trade


def _since(
    call: Callable[..., HttpCall], symbol: str, shape: type[list[Row]], by_id: str, found: _Findings
) -> Dialogue[list[Row]]:
    """Rows since the watermark. Within 24 h by time. Before that the latest page, and if that does not reach back far enough,
    by time in windows of 24 h until one has rows; in all cases from there on by id."""
    page: list[Row]
    if found.now_ms - found.since_ms <= WINDOW_MS:
        page = decode((yield call(symbol, startTime=found.since_ms)), shape, symbol)
        return page if len(page) < PAGE else page + (yield from _following(call, symbol, shape, by_id, page))
    page = decode((yield call(symbol)), shape, symbol)
    if len(page) < PAGE or min(map(_created_ms, page)) <= found.since_ms:
        return page
    for start_ms in range(found.since_ms, found.now_ms, WINDOW_MS + 1):
        page = decode((yield call(symbol, startTime=start_ms, endTime=start_ms + WINDOW_MS)), shape, symbol)
        if page:
            break
    return page + (yield from _following(call, symbol, shape, by_id, page))


def _following(
    call: Callable[..., HttpCall], symbol: str, shape: type[list[Row]], by_id: str, page: list[Row]
) -> Dialogue[list[Row]]:
    """The rows after those of `page`, and its last again: a trade of the account with itself is two rows of one id, and a page may
    end between them."""
    found: list[Row] = []
    for _ in range(MAX_PAGES):
        last = max(map(_id, page), default=0)
        page = decode((yield call(symbol, **{by_id: last})), shape, symbol)
        found += page
        if len(page) < PAGE:
            return found
    raise ConnectionFailed(f"{symbol}: pages do not end")


def _id(row: Any) -> int:
    return row.trade_id if isinstance(row, wire.TradeRow) else row.order_id


def _created_ms(row: Any) -> int:
    return row.trade_ms if isinstance(row, wire.TradeRow) else row.created_ms


# ── Orders ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _orders_of_fills(found: _Findings) -> Dialogue[None]:
    """The orders of the fills that were missed: each one (4), or all of the symbol since the watermark (20), and those of them
    that are older than it."""
    wanted: dict[str, set[str]] = {}
    for trade in _fresh(found):
        wanted.setdefault(trade.symbol, set()).add(str(trade.order_id))
    for symbol, numbers in sorted(wanted.items()):
        if len(numbers) > MAX_ORDERS:
            try:
                for order in (yield from _since(rows.orders_call, symbol, list[wire.OrderRow], "orderId", found)):
                    _keep(found, order)
            except ExchangeRefused as refused:
                found.lost.append(f"orders of {symbol}: {refused.verdict}")
        for number in sorted(numbers):
            if (symbol, number) not in found.orders:
                yield from _order(found, symbol, number)


def _fresh(found: _Findings) -> list[wire.TradeRow]:
    """The trades that were read, but for those that the watermark has booked: Kafka has these. By identity only: a sweep gives
    equal fills in one millisecond."""
    booked = {(booking.key, booking.trade) for booking in found.mark.recent}
    return [t for t in found.trades.values() if (f"{t.symbol}|", f"{t.trade_id}/{t.order_id}") not in booked]


def _keep(found: _Findings, order: wire.OrderRow) -> None:
    key = (order.symbol, str(order.order_id))
    if key not in found.orders or found.orders[key].update_ms <= order.update_ms:
        found.orders[key] = order


def _order(found: _Findings, symbol: str, order_id: str) -> Dialogue[None]:
    try:
        _keep(found, decode((yield rows.order_call(symbol, order_id)), wire.OrderRow, "order"))
    except ExchangeRefused:  # -2013 or -2026: ended unfilled long ago, or not visible yet
        if found.now_ms - found.mark.symbols.get(symbol, 0) > FORGOTTEN_MS:
            found.closed.append(order_id)


def _open_orders(found: _Findings) -> Dialogue[None]:
    """Orders open now. An open order locks what it would give, so where nothing is locked there is none."""
    symbols = sorted(set(found.mark.open_orders.values()))
    if not found.locked or (found.frugal and not symbols):
        return
    if found.frugal:
        chosen = symbols[found.now_ms // 60_000 % len(symbols)]
        found.unasked = set(symbols) - {chosen}
        try:
            for order in decode((yield rows.open_orders_call(chosen)), list[wire.OrderRow], "open orders"):
                _keep(found, order)
        except ExchangeRefused as refused:
            found.lost.append(f"open orders of {chosen}: {refused.verdict}")
        return
    if found.mark.base is not None and 0 < len(symbols) <= MAX_SINGLE:
        for symbol in symbols:
            try:
                reply = yield rows.open_orders_call(symbol)
            except ExchangeRefused as refused:
                found.lost.append(f"open orders of {symbol}: {refused.verdict}")
                continue
            for order in decode(reply, list[wire.OrderRow], "open orders"):
                _keep(found, order)
        if _locks(found) == found.locked:
            return
    for order in decode((yield rows.open_orders_call()), list[wire.OrderRow], "open orders"):
        _keep(found, order)


def _locks(found: _Findings) -> dict[str, Decimal]:
    """What the open orders that were read lock, as far as one can tell (order lists lock once for several)."""
    sums: dict[str, Decimal] = {}
    for order in found.orders.values():
        pair = found.legs(order.symbol)
        if pair is not None:
            left = Decimal(order.qty) - Decimal(order.filled)
            asset, amount = (pair[1], left * Decimal(order.price)) if order.side == "BUY" else (pair[0], left)
            sums[asset] = sums.get(asset, Decimal(0)) + amount
    return {asset: amount for asset, amount in sums.items() if amount}


def _latest(mark: Watermark, count: int) -> set[str]:
    """The symbols used last. No call tells the orders of all."""
    return set(sorted(mark.symbols, key=lambda s: (-mark.symbols[s], s))[:count])


def _in_use(found: _Findings) -> set[str]:
    """Those of them whose orders a read-back asks for at once."""
    latest = found.mark.symbols
    return {s for s in _latest(found.mark, ACTIVE_SYMBOLS) if latest[s] >= found.now_ms - ACTIVE_MS}


def _orders_of(found: _Findings, symbols: set[str]) -> Dialogue[None]:
    """Orders placed and ended since the watermark without a fill."""
    for symbol in sorted(symbols):
        try:
            for order in (yield from _since(rows.orders_call, symbol, list[wire.OrderRow], "orderId", found)):
                _keep(found, order)
        except ExchangeRefused as refused:
            found.lost.append(f"orders of {symbol}: {refused.verdict}")


def _traded_unseen(found: _Findings) -> set[str]:
    """Symbols of orders whose fills are not all known: a round trip at one price without a fee leaves no trace in the account."""
    return {
        symbol
        for (symbol, number), row in found.orders.items()
        if row.update_ms >= found.since_ms and Decimal(row.filled) > found.mark.filled_qty(symbol, number)
    }


def _ended_orders(found: _Findings) -> Dialogue[None]:
    """What became of orders that were open."""
    for order_id, symbol in found.mark.open_orders.items():
        if (symbol, order_id) not in found.orders and symbol not in found.unasked:
            yield from _order(found, symbol, order_id)
        row = found.orders.get((symbol, order_id))
        if row is not None and ORDER_STATUSES.get(row.status) in TERMINAL:
            found.closed.append(order_id)


# ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _history(found: _Findings) -> list[UserRecord]:
    """Fills and orders since the watermark; of older orders those that ended meanwhile (first-ever read: all open ones)."""
    events: list[UserRecord] = []
    for trade in _fresh(found):
        order = found.orders.get((trade.symbol, str(trade.order_id)))
        events.append(rows.fill(trade, order.client_id if order else "", found.account_id, found.now_ms))
    for (symbol, order_id), row in found.orders.items():
        event = rows.order(row, found.account_id, found.now_ms)
        if event is None:
            found.lost.append(f"order {order_id} of {symbol}: unknown status {row.status[:40]}")
        elif row.update_ms >= found.since_ms or order_id in found.closed or _unknown(found, event):
            events.append(event)
    return events


def _unknown(found: _Findings, order: Order) -> bool:
    """Open, and nobody knew; at a first-ever read nobody knew of any."""
    unknown = order.status not in TERMINAL and order.order_id not in found.mark.open_orders
    return unknown or found.mark.base is None


def _changes(found: _Findings) -> list[UserRecord]:
    """Wallets that differ from the last known ones; a known one that is absent is empty."""
    known, now = found.mark.wallets, found.snapshot.wallets
    listed = {row.asset: row for row in found.account.balances}
    touched = _touched(found)
    events: list[UserRecord] = []
    for asset in sorted(known.keys() | now.keys()):
        if Decimal(known.get(asset, "0")) != Decimal(now.get(asset, "0")):
            row = listed.get(asset) or wire.BalanceRow(asset, "0", "0")
            changed_ms = touched.get(asset) or found.account.update_ms or found.snapshot.at_ms
            events.append(balance(row, changed_ms, found.account_id, found.now_ms, "rest"))
    return events


def _touched(found: _Findings) -> dict[str, int]:
    """When each asset last changed, as far as the trades and orders read tell: the account tells only the latest of all."""
    times: dict[str, int] = {}
    legs = found.legs
    stamps = [(asset, t.trade_ms) for t in found.trades.values() for asset in (*(legs(t.symbol) or ()), t.fee_asset)]
    for order in found.orders.values():
        pair = legs(order.symbol)
        stamps += [(pair[order.side == "BUY"], order.update_ms)] if pair else []  # what it locks or locked
    for asset, at_ms in stamps:
        times[asset] = max(times.get(asset, 0), at_ms)
    return times
