"""Read-back of one Binance USDⓈ-M account after a gap: a pure dialogue of REST calls and replies (`RecoveryPlan`).

In: the account, its watermark (moved back by the caller's margin), exchange time. Out: what was missed, with the stream's ids.
Driven by workers/readback.py. Sources: exchanges/binance.md sections 5.2, 7.2, 7.3.

Weight is the scarce thing when a crowd of accounts reconnects, so each step is taken only if the one before proved too little:
1. The account (5). If what we know explains its positions and wallets, no fill is missing.
2. Else trades (5) of the symbols whose position is unexplained or that traded since the base; then of the other known ones.
   Bookings (30) name the symbols that traded and that nobody knew. The account again if it does not fit the trades (REST lags).
3. Orders since the watermark, of all symbols (5), where the account was active within the hour or fills were missed; a proof
   asks only in the latter case. The orders of the missed fills that are older (1 each). A read of fills ends here.
4. Open orders (1 a symbol) where some are known as open; where step 3 did not tell all, also where the account hints at some.
   Each order (1) that was known as open and is not any more. A proof looks at three symbols, and at others next time.
5. Conditional orders (1 a symbol), of which the matching engine knows nothing until they trigger.
6. Entry prices (5) if positions changed.
What step 3 did not tell, and conditional orders that came and went, are asked for after the gap has closed, by a read of orders: 5,
and 5 for each of the three symbols used last. Not found: orders that came and went unfilled more than three days ago, conditional
ones in other symbols.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Set
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import Order, UserRecord
from fleet.core.exchange import HttpCall, HttpReply, Recovered, RecoveryPlan
from fleet.core.model import AccountSpec
from fleet.core.recovery import TERMINAL, Snapshot, Watermark, missed
from fleet.core.replies import decode
from fleet.exchanges.binance_usdm import rows, wire
from fleet.exchanges.binance_usdm.ids import ALGO, algo_name
from fleet.exchanges.binance_usdm.limits import LIMITS, PAGE, WINDOW_MS
from fleet.exchanges.binance_usdm.parse import ALGO_STATUSES, STATUSES, algo_order
from fleet.exchanges.binance_usdm.session import CLOCK, clock_ms

T = TypeVar("T")
Dialogue = Generator[HttpCall, HttpReply, T]

REST_LAG_MS = 5000
SKEW_MS = 1000  # between the clock of our database and the exchange's
ACTIVE_MS = 3_600_000  # an account that traded within this time may have placed and cancelled orders that left no trace
RECENT_SYMBOLS = 3  # symbols whose open orders are looked at though nothing hints at any; and so many a proof looks at
ASKED_SYMBOLS = 5  # symbols last used, asked for orders that came and went where no one call tells those of all
MAX_ORDERS = 5  # so many orders of a symbol one by one (1 each) cost as much as a page of them (5)
FORGOTTEN_MS = (
    60_000  # an order the exchange does not know is forgotten only if its symbol was quiet this long (REST lags)
)
MAX_PAGES = 1000
TRADING = frozenset({"COMMISSION", "REALIZED_PNL", "INSURANCE_CLEAR"})  # bookings that a fill leaves behind


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
    conditional: dict[str, wire.AlgoRow] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)  # symbols whose trades are in
    every_order: bool | None = None  # are all orders since the watermark in? None = not asked
    closed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def frugal(self) -> bool:
        """A proof that did not have to ask for all orders."""
        return self.mark.scope == "proof" and self.every_order is None

    def keep(self, order: wire.OrderRow) -> None:
        """Of two answers about one order the newer counts."""
        key = (order.symbol, str(order.order_id))
        if key not in self.orders or self.orders[key].update_ms <= order.update_ms:
            self.orders[key] = order


def recover(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Yields calls, is sent OK replies. Raises ConnectionFailed for a reply that is not what the sheet says (try again later)."""
    if mark.scope == "orders":
        return (yield from _came_and_went(account, mark, now_ms))
    first, snapshot = yield from _account(now_ms)
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    found = _Findings(account.id, mark, now_ms, max(mark.proven_ms, oldest_ms), first, snapshot)
    since_ms = max(mark.proven_ms, account.created_at_ms - SKEW_MS)  # a first-ever read: since the account is ours
    explained = _untouched(first, since_ms) if mark.base is None else mark.explains(snapshot)
    if not explained:
        if mark.proven_ms < oldest_ms:
            found.lost.append(f"history before {oldest_ms} ms is not kept by the exchange")
        yield from _missing_trades(found)
        if (
            mark.base is not None and found.trades and not _explained(found)
        ):  # the account lagged behind the trades, or moved on meanwhile
            at_ms = clock_ms((yield CLOCK))
            found.account, found.snapshot = yield from _account(at_ms)
    if mark.scope == "full" or (mark.scope == "proof" and not explained):
        yield from _recent_orders(found)
        yield from _trades_of(found, _traded_unseen(found) - found.read)
    yield from _orders_of_fills(found)
    if mark.scope != "fills":
        yield from _open_orders(found)
        yield from _conditional_orders(found)
    changes = yield from _changes(found)
    events = _history(found) + changes
    snapshot = Snapshot(found.snapshot.at_ms, found.snapshot.positions, found.snapshot.wallets, tuple(found.closed))
    explained = explained or mark.base is None or _explained(found)
    untold_ms = 0 if found.lost else _untold_ms(found, explained)
    return Recovered(missed(events, set()), snapshot, "; ".join(found.lost), explained, mark.scope == "full", untold_ms)


def _came_and_went(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Orders that ended since `proven_ms`, by one call for all symbols; where that does not tell all, of the symbols it named and
    the last used ones. And the fills of those whose fills are not known; and conditional orders. Unfilled ones are told for three
    days, so it looks no further back than one call reaches."""
    since_ms = min(max(mark.proven_ms, now_ms - WINDOW_MS), now_ms)
    found = _Findings(
        account.id, mark, now_ms, since_ms, wire.AccountRow(assets=[], positions=[]), Snapshot(now_ms, {}, {})
    )
    if not (yield from _every_order(found)):
        yield from _orders_of(found, {symbol for symbol, _ in found.orders} | _recent_symbols(found, ASKED_SYMBOLS))
    yield from _trades_of(found, _traded_unseen(found))
    yield from _past_conditional_orders(found)
    return Recovered(missed(_history(found), set()), found.snapshot, "; ".join(found.lost))


def _account(at_ms: int) -> Dialogue[tuple[wire.AccountRow, Snapshot]]:
    reply = yield rows.ACCOUNT
    account = decode(reply, wire.AccountRow, "account")
    positions = {rows.key_of(p): p.qty for p in account.positions if Decimal(p.qty)}
    wallets = {a.asset: a.wallet for a in account.assets if Decimal(a.wallet)}
    return account, Snapshot(reply.at_ms or at_ms, positions, wallets)


def _untouched(account: wire.AccountRow, since_ms: int) -> bool:
    """A first-ever read: nothing can have happened since then if nothing is held and no wallet changed since."""
    held = any(Decimal(p.qty) or p.update_ms > since_ms for p in account.positions)
    return not held and all(a.update_ms <= since_ms for a in account.assets)


# ── Fills ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _missing_trades(found: _Findings) -> Dialogue[None]:
    """Read trades, likely symbols first, until they explain the account or no symbol is left."""
    mark = found.mark
    known = set(mark.symbols) | set(mark.open_orders.values()) | {p.symbol for p in found.account.positions}
    known |= {key.partition("|")[0] for key in mark.positions}
    if mark.base is not None:
        active = {s for s, at_ms in mark.symbols.items() if at_ms >= mark.base.at_ms}
        for likely in (_unexplained_symbols(found), active):
            yield from _trades_of(found, likely - found.read)
            if _explained(found):
                return
    else:
        known |= yield from _ordered_symbols(found)
    yield from _trades_of(found, known - found.read)
    if mark.base is not None and not _explained(found):
        yield from _trades_of(found, (yield from _booked_symbols(found)) - found.read)


def _ordered_symbols(found: _Findings) -> Dialogue[set[str]]:
    """Symbols with orders since the watermark; where no one call tells them, those with bookings too."""
    complete = yield from _every_order(found)
    symbols = {symbol for symbol, _ in found.orders}
    return symbols if complete else symbols | (yield from _booked_symbols(found))


def _unexplained_symbols(found: _Findings) -> set[str]:
    """Symbols whose position is not the base plus the fills since."""
    mark, now = found.mark, found.snapshot.positions
    before = mark.base.positions if mark.base else {}
    keys = before.keys() | mark.moved.keys() | now.keys()
    return {
        key.partition("|")[0]
        for key in keys
        if Decimal(before.get(key, "0")) + Decimal(mark.moved.get(key, "0")) != Decimal(now.get(key, "0"))
    }


def _trial(found: _Findings) -> Watermark:
    """The watermark with the trades that were read in place of those known before; known ones that REST does not show yet stay."""
    trial = found.mark.without(found.read)
    shown: set[tuple[str, str]] = set()
    for trade in found.trades.values():
        fill = rows.fill(trade, "", found.account_id, found.now_ms)
        shown.add((f"{fill.symbol}|{fill.position_side}", f"{fill.trade_id}/{fill.order_id}"))
        if trade.trade_ms < found.snapshot.at_ms:
            trial.advance(fill)
    for booking in found.mark.recent:
        if booking.key.partition("|")[0] in found.read and (booking.key, booking.trade) not in shown:
            trial.book(booking)
    return trial


def _explained(found: _Findings) -> bool:
    """Do the trades that were read, and the known ones of symbols not read, lead from the base to the snapshot?"""
    return found.mark.base is not None and _trial(found).explains(found.snapshot)


def _untold_ms(found: _Findings, explained: bool) -> int:
    """Since when the trades are behind: the account shows a position that they do not lead to and that changed after the last of
    them (one that is flat by now is listed no more; its wallets changed with it), or an order that is younger than the watermark
    was filled for more than its trades. 0 = neither."""
    listed = {rows.key_of(row): row.update_ms for row in found.account.positions if Decimal(row.qty)}
    paid_ms = max((row.update_ms for row in found.account.assets), default=0)
    unexplained = {} if explained else _trial(found).unexplained(found.snapshot)[0]
    changes = [(key, listed.get(key, paid_ms)) for key in unexplained]
    times = [at_ms for key, at_ms in changes if at_ms > _latest_fill_ms(found, key)]
    filled: dict[tuple[str, str], Decimal] = {}
    for trade in found.trades.values():
        order = trade.symbol, str(trade.order_id)
        filled[order] = filled.get(order, Decimal(0)) + Decimal(trade.qty)
    for (symbol, number), row in found.orders.items():
        judged = symbol in found.read and row.created_ms >= found.since_ms
        if judged and Decimal(row.filled) > filled.get((symbol, number), Decimal(0)):
            times.append(row.update_ms)
    return min(times, default=0)


def _trades_of(found: _Findings, symbols: Iterable[str]) -> Dialogue[None]:
    latest = found.mark.symbols
    for symbol in sorted(symbols, key=lambda s: (-latest.get(s, 0), s)):
        found.read.add(symbol)
        try:
            trades = yield from _trades(symbol, found.since_ms, found.now_ms)
        except ExchangeRefused as refused:
            found.lost.append(f"fills of {symbol}: {refused.verdict}")
            continue
        for trade in trades:
            if trade.trade_ms >= found.since_ms:
                found.trades[trade.symbol, trade.trade_id, trade.order_id] = trade


def _trades(symbol: str, since_ms: int, now_ms: int) -> Dialogue[list[wire.TradeRow]]:
    """By time in windows of seven days until a page is full, from there by id: from the last one's again, as a trade of the account
    with itself is two rows of one id, and a page may end between them."""
    found: list[wire.TradeRow] = []
    for window in _windows(since_ms, now_ms):
        page = decode((yield rows.trades_call(symbol, **window)), list[wire.TradeRow], "trades")
        found += page
        if len(page) >= PAGE:
            for _ in range(MAX_PAGES):
                last_id = max(row.trade_id for row in page)
                page = decode((yield rows.trades_call(symbol, fromId=last_id)), list[wire.TradeRow], "trades")
                found += page
                if len(page) < PAGE:
                    return found
            raise ConnectionFailed(f"trades of {symbol}: pages do not end")
    return found


def _windows(since_ms: int, now_ms: int) -> list[dict[str, int]]:
    """startTime and endTime of calls that may span seven days; the last is open-ended, so that nothing newer is cut off."""
    windows = []
    while since_ms + WINDOW_MS < now_ms:
        windows.append({"startTime": since_ms, "endTime": since_ms + WINDOW_MS})
        since_ms += WINDOW_MS + 1
    return [*windows, {"startTime": since_ms}]


def _booked_symbols(found: _Findings) -> Dialogue[set[str]]:
    symbols: set[str] = set()
    for page in range(1, MAX_PAGES + 1):
        try:
            reply = yield rows.income_call(found.since_ms, page)
        except ExchangeRefused:
            break  # not every key may see it; the known symbols are read
        bookings = decode(reply, list[wire.IncomeRow], "income")
        symbols |= {b.symbol for b in bookings if b.symbol and b.type in TRADING}
        if len(bookings) < PAGE:
            break
    return symbols


# ── Orders ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _every_order(found: _Findings) -> Dialogue[bool]:
    """Orders of all symbols since the watermark, by one call that is made once. False where it does not tell all of them: there are
    too many, it is too long ago, or the server is one before 2026-08-25."""
    if found.every_order is None:
        found.every_order = False
        if found.now_ms - found.since_ms <= WINDOW_MS:
            try:
                page = decode((yield rows.all_orders_call(found.since_ms)), list[wire.OrderRow], "orders")
            except ExchangeRefused:
                return False
            for order in page:
                found.keep(order)
            found.every_order = len(page) < PAGE
    return found.every_order


def _recent_orders(found: _Findings) -> Dialogue[None]:
    """Orders placed and ended since the watermark without a fill move nothing that a snapshot shows: they are asked for, by one
    call for all symbols, else in the symbols in use. An account that has been quiet for long is not asked about."""
    active = {s for s, at_ms in found.mark.symbols.items() if at_ms >= found.now_ms - ACTIVE_MS}
    active |= {trade.symbol for trade in found.trades.values()}
    if active and not (yield from _every_order(found)):
        yield from _orders_of(found, active | {symbol for symbol, _ in found.orders})


def _orders_of(found: _Findings, symbols: Set[str]) -> Dialogue[None]:
    for symbol in sorted(symbols):
        try:
            for order in (yield from _orders(symbol, found.since_ms, found.now_ms)):
                found.keep(order)
        except ExchangeRefused as refused:
            found.lost.append(f"orders of {symbol}: {refused.verdict}")


def _traded_unseen(found: _Findings) -> set[str]:
    """Symbols of orders whose fills are not all known: a round trip at one price without a fee leaves no trace in the account."""
    return {
        symbol
        for (symbol, number), row in found.orders.items()
        if row.update_ms >= found.since_ms and Decimal(row.filled) > found.mark.filled_qty(symbol, number)
    }


def _orders_of_fills(found: _Findings) -> Dialogue[None]:
    """The orders of the fills that were missed, where they are older than the watermark."""
    wanted: dict[str, set[str]] = {}
    for trade in found.trades.values():
        wanted.setdefault(trade.symbol, set()).add(str(trade.order_id))
    for symbol, numbers in sorted(wanted.items()):
        yield from _named_orders(found, symbol, numbers)


def _named_orders(found: _Findings, symbol: str, numbers: set[str]) -> Dialogue[None]:
    """Those of the orders that are not in yet: one by one (1 each), or all of the symbol from the oldest of them on (5)."""
    left = {number for number in numbers if (symbol, number) not in found.orders}
    if len(left) > MAX_ORDERS:
        try:
            reply = yield rows.orders_call(symbol, orderId=min(map(int, left)))
            for order in decode(reply, list[wire.OrderRow], "orders"):
                if str(order.order_id) in left:
                    found.keep(order)
        except ExchangeRefused:
            pass  # one by one, then
    for number in sorted(left):
        if (symbol, number) not in found.orders:
            yield from _order(found, symbol, number)


def _orders(symbol: str, since_ms: int, now_ms: int) -> Dialogue[list[wire.OrderRow]]:
    found: list[wire.OrderRow] = []
    for window in _windows(since_ms, now_ms):
        page = decode((yield rows.orders_call(symbol, **window)), list[wire.OrderRow], "orders")
        found += page
        if len(page) >= PAGE:
            for _ in range(MAX_PAGES):
                next_id = max(row.order_id for row in page) + 1
                page = decode((yield rows.orders_call(symbol, orderId=next_id)), list[wire.OrderRow], "orders")
                found += page
                if len(page) < PAGE:
                    return found
            raise ConnectionFailed(f"orders of {symbol}: pages do not end")
    return found


def _order(found: _Findings, symbol: str, order_id: str) -> Dialogue[None]:
    try:
        found.keep(decode((yield rows.order_call(symbol, order_id)), wire.OrderRow, "order"))
    except ExchangeRefused:  # -2013: cancelled unfilled more than three days ago, or not visible yet
        if found.now_ms - found.mark.symbols.get(symbol, 0) > FORGOTTEN_MS:
            found.closed.append(order_id)


def _open_orders(found: _Findings) -> Dialogue[None]:
    """Orders open now, in every symbol that may have some; and what became of those that were open."""
    known = _known_open(found, conditional=False)
    told = {symbol for symbol, numbers in known.items() if all((symbol, number) in found.orders for number in numbers)}
    wanted = (known.keys() - told) | _hinted_symbols(found, known.keys())
    still: set[tuple[str, str]] = set()
    for symbol in _a_few(wanted, found.now_ms) if found.frugal else sorted(wanted):
        try:
            reply = yield rows.open_orders_call(symbol)
        except ExchangeRefused as refused:
            found.lost.append(f"open orders of {symbol}: {refused.verdict}")
        else:
            for order in decode(reply, list[wire.OrderRow], "open orders"):
                found.keep(order)
                still.add((symbol, str(order.order_id)))
        yield from _named_orders(found, symbol, {n for n in known.get(symbol, ()) if (symbol, n) not in still})
    for symbol, numbers in known.items():
        for number in sorted(numbers):
            row = found.orders.get((symbol, number))
            if row is not None and STATUSES.get(row.status) in TERMINAL:
                found.closed.append(number)


def _known_open(found: _Findings, *, conditional: bool) -> dict[str, set[str]]:
    """By symbol, the orders that were open as far as the stream told."""
    known: dict[str, set[str]] = {}
    for order_id, symbol in found.mark.open_orders.items():
        if order_id.startswith(ALGO) == conditional:
            known.setdefault(symbol, set()).add(order_id)
    return known


def _hinted_symbols(found: _Findings, known: Set[str]) -> set[str]:
    """Symbols that may have open orders of which we know nothing. The account lists those with a position or open orders only;
    where all orders since the watermark are in, so are these."""
    mark, rows_ = found.mark, found.account.positions
    if found.every_order and mark.base is not None:
        return set()
    listed = {p.symbol for p in rows_}
    hinted = {p.symbol for p in rows_ if not Decimal(p.qty)}
    if Decimal(found.account.open_orders_margin) and not (found.frugal and known):
        hinted = listed
    return hinted if found.frugal else hinted | (_recent_symbols(found) & listed)


def _recent_symbols(found: _Findings, count: int = RECENT_SYMBOLS) -> set[str]:
    latest = found.mark.symbols
    return set(sorted(latest, key=lambda s: -latest[s])[:count])


def _a_few(symbols: Set[str], now_ms: int) -> list[str]:
    """Three of them, others each minute."""
    ordered = sorted(symbols)
    first = now_ms // 60_000 * RECENT_SYMBOLS % max(1, len(ordered))
    return (ordered[first:] + ordered[:first])[:RECENT_SYMBOLS]


def _conditional_orders(found: _Findings) -> Dialogue[None]:
    """Conditional orders that rest, where some are known or the account was active; and what became of the known ones."""
    known, mark = _known_open(found, conditional=True), found.mark
    wanted = set(known)
    if mark.base is None:
        wanted |= {p.symbol for p in found.account.positions} | mark.symbols.keys() | {s for s, _ in found.orders}
    elif not found.frugal:
        wanted |= {s for s in _recent_symbols(found) if mark.symbols[s] >= found.now_ms - ACTIVE_MS}
    for symbol in _a_few(wanted, found.now_ms) if found.frugal else sorted(wanted):
        try:
            resting = decode((yield rows.open_algo_orders_call(symbol)), list[wire.AlgoRow], "conditional orders")
        except ExchangeRefused:
            return  # a server before 2025-12-09, whose open orders tell them
        found.conditional |= {algo_name(row.algo_id): row for row in resting}
        for name in sorted(known.get(symbol, set()) - found.conditional.keys()):
            try:
                row = decode((yield rows.algo_order_call(name.removeprefix(ALGO))), wire.AlgoRow, "conditional order")
            except ExchangeRefused:
                if found.now_ms - mark.symbols.get(symbol, 0) > FORGOTTEN_MS:
                    found.closed.append(name)
                continue
            found.conditional[name] = row
            if ALGO_STATUSES.get(row.status) in TERMINAL:
                found.closed.append(name)


def _past_conditional_orders(found: _Findings) -> Dialogue[None]:
    """Conditional orders placed since the watermark, whatever became of them, of the symbols used last: no call tells all."""
    latest = dict(found.mark.symbols)
    for row in found.orders.values():
        latest[row.symbol] = max(latest.get(row.symbol, 0), row.update_ms)
    for symbol in sorted(latest, key=lambda s: -latest[s])[:RECENT_SYMBOLS]:
        where = {"startTime": found.since_ms}
        for _ in range(MAX_PAGES):
            try:
                reply = yield rows.all_algo_orders_call(symbol, **where)
            except ExchangeRefused:
                return  # a server before 2025-12-09
            page = decode(reply, list[wire.AlgoRow], "conditional orders")
            found.conditional |= {algo_name(row.algo_id): row for row in page}
            if len(page) < PAGE:
                break
            where = {"algoId": max(row.algo_id for row in page) + 1}
        else:
            raise ConnectionFailed(f"conditional orders of {symbol}: pages do not end")


# ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _history(found: _Findings) -> list[UserRecord]:
    """Fills and orders since the watermark; of older orders those that ended meanwhile (first-ever read: all open ones)."""
    events: list[UserRecord] = []
    for trade in found.trades.values():
        order = found.orders.get((trade.symbol, str(trade.order_id)))
        events.append(rows.fill(trade, order.client_id if order else "", found.account_id, found.now_ms))
    for (symbol, order_id), row in found.orders.items():
        event = rows.order(row, found.account_id, found.now_ms)
        if event is None:
            found.lost.append(f"order {order_id} of {symbol}: unknown status {row.status[:40]}")
        elif _is_news(found, event):
            events.append(event)
    for name, algo in found.conditional.items():
        event = algo_order(algo, algo.update_ms, found.account_id, found.now_ms, "rest")
        if event is None:
            found.lost.append(f"conditional order {name} of {algo.symbol}: unknown status {algo.status[:40]}")
        elif _is_news(found, event):
            events.append(event)
    return events


def _is_news(found: _Findings, event: Order) -> bool:
    """Changed since the watermark, ended, or open and nobody knew."""
    unknown = event.status not in TERMINAL and event.order_id not in found.mark.open_orders
    return unknown or event.ts_event >= found.since_ms or event.order_id in found.closed or found.mark.base is None


def _changes(found: _Findings) -> Dialogue[list[UserRecord]]:
    """Positions and wallets that differ from the last known ones. A known position that is absent is flat."""
    known, now = found.mark.positions, found.snapshot.positions
    differing = {key for key in now if Decimal(known.get(key, "0")) != Decimal(now[key])}
    entries: dict[str, str] = {}
    if differing:
        try:
            risks = decode((yield rows.RISK), list[wire.RiskRow], "positionRisk")
            entries = {rows.key_of(risk): risk.entry for risk in risks}
        except ExchangeRefused:
            pass  # the quantity is known; only the entry price stays untold
    listed = {rows.key_of(row): row for row in found.account.positions}
    lagging = {key for key in differing if 0 < listed[key].update_ms < _latest_fill_ms(found, key)}
    differing -= lagging  # of which we know more than this account read
    differing |= {key for key in known if key not in now and _surely_flat(found, key)}
    events: list[UserRecord] = []
    for key in sorted(differing):
        symbol, _, side = key.partition("|")
        row = listed.get(key) or wire.PositionRow(symbol=symbol, side=side, qty="0")
        changed_ms = row.update_ms or _flat_since_ms(found, key) or found.snapshot.at_ms
        events.append(rows.position(row, entries.get(key, "0"), changed_ms, found.account_id, found.now_ms))
    assets = {row.asset: row for row in found.account.assets}
    wallets = found.mark.wallets
    for asset in sorted(assets.keys() | wallets.keys()):
        wallet = assets.get(asset) or wire.AssetRow(asset=asset, wallet="0")
        if Decimal(wallet.wallet) != Decimal(wallets.get(asset, "0")):
            events.append(rows.balance(wallet, found.account_id, found.now_ms))
    return events


def _latest_fill_ms(found: _Findings, key: str) -> int:
    """When the position last changed, as far as fills tell: the exchange stamps both alike. 0 = none is known."""
    read = [t.trade_ms for t in found.trades.values() if f"{t.symbol}|{t.position_side.lower()}" == key]
    return max([*read, *(booking.ts for booking in found.mark.recent if booking.key == key)], default=0)


def _latest_ms(found: _Findings, key: str) -> int:
    return _latest_fill_ms(found, key) or found.mark.symbols.get(key.partition("|")[0], 0)


def _flat_since_ms(found: _Findings, key: str) -> int:
    """When a position became flat. Where no fill tells of that yet, when a wallet last changed: with the time of the fill before,
    the socket's word of that fill would outrank it in Postgres."""
    paid_ms = max((row.update_ms for row in found.account.assets), default=0)
    untold = key in _trial(found).unexplained(found.snapshot)[0]
    return max(_latest_ms(found, key), paid_ms if untold else 0)


def _surely_flat(found: _Findings, key: str) -> bool:
    """An account read that lags may not show a position that the stream just opened: believe it if the fills agree, or if
    the last fill is too old for lag."""
    return found.snapshot.at_ms - _latest_ms(found, key) >= REST_LAG_MS or _explained(found)
