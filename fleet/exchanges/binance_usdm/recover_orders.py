"""Steps 3 to 5 of a read-back (recover.py): orders since the watermark, open ones, conditional ones. Pure."""

from __future__ import annotations

from collections.abc import Set
from decimal import Decimal

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.exchange import code_of
from fleet.core.recovery import TERMINAL, order_key, symbol_of
from fleet.core.replies import decode
from fleet.exchanges.binance_usdm import rows, wire
from fleet.exchanges.binance_usdm.findings import (
    ACTIVE_MS,
    BAD_SYMBOL,
    MAX_PAGES,
    RECENT_SYMBOLS,
    Dialogue,
    Findings,
    windows,
)
from fleet.exchanges.binance_usdm.ids import ALGO, algo_name
from fleet.exchanges.binance_usdm.limits import PAGE, WINDOW_MS
from fleet.exchanges.binance_usdm.parse import ALGO_STATUSES, STATUSES

MAX_ORDERS = 5  # so many orders of a symbol one by one (1 each) cost as much as a page of them (5)


def every_order(found: Findings) -> Dialogue[bool]:
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


def recent_orders(found: Findings) -> Dialogue[None]:
    """Orders placed and ended since the watermark without a fill move nothing that a snapshot shows: they are asked for, by one
    call for all symbols, else in the symbols in use. An account that has been quiet for long is not asked about."""
    active = {s for s, at_ms in found.mark.symbols.items() if at_ms >= found.now_ms - ACTIVE_MS}
    active |= {trade.symbol for trade in found.trades.values()}
    if active and not (yield from every_order(found)):
        yield from orders_of(found, active | {symbol for symbol, _ in found.orders})


def orders_of(found: Findings, symbols: Set[str]) -> Dialogue[None]:
    for symbol in sorted(symbols):
        try:
            for order in (yield from _orders(symbol, found.since_ms, found.now_ms)):
                found.keep(order)
        except ExchangeRefused as refused:
            found.lost.append(f"orders of {symbol}: {refused.verdict}")


def traded_unseen(found: Findings) -> set[str]:
    """Symbols of orders whose fills are not all known: a round trip at one price without a fee leaves no trace in the account."""
    return {
        symbol
        for (symbol, number), row in found.orders.items()
        if row.update_ms >= found.since_ms and Decimal(row.filled) > found.mark.filled_qty(symbol, number)
    }


def orders_of_fills(found: Findings) -> Dialogue[None]:
    """The orders of the fills that were missed, where they are older than the watermark."""
    wanted: dict[str, set[str]] = {}
    for trade in found.trades.values():
        wanted.setdefault(trade.symbol, set()).add(str(trade.order_id))
    for symbol, numbers in sorted(wanted.items()):
        yield from _named_orders(found, symbol, numbers)
        left = {number for number in numbers if (symbol, number) not in found.orders}
        if 0 < len(left) <= MAX_ORDERS:  # one that has a fill exists: the other call may lag less
            yield from _orders_from(found, symbol, left)


def _named_orders(found: Findings, symbol: str, numbers: set[str]) -> Dialogue[None]:
    """Those of the orders that are not in yet: one by one (1 each), or all of the symbol from the oldest of them on (5)."""
    left = {number for number in numbers if (symbol, number) not in found.orders}
    if len(left) > MAX_ORDERS:
        yield from _orders_from(found, symbol, left)
    for number in sorted(left):
        if (symbol, number) not in found.orders:
            yield from _order(found, symbol, number)


def _orders_from(found: Findings, symbol: str, numbers: set[str]) -> Dialogue[None]:
    """Those of the orders that are on a page of the symbol's from the oldest of them on."""
    try:
        reply = yield rows.orders_call(symbol, orderId=min(map(int, numbers)))
    except ExchangeRefused:
        return  # one by one, then
    for order in decode(reply, list[wire.OrderRow], "orders"):
        if str(order.order_id) in numbers:
            found.keep(order)


def _orders(symbol: str, since_ms: int, now_ms: int) -> Dialogue[list[wire.OrderRow]]:
    found: list[wire.OrderRow] = []
    for window in windows(since_ms, now_ms):
        page = decode((yield rows.orders_call(symbol, **window)), list[wire.OrderRow], "orders")
        found += page
        if len(page) >= PAGE:
            found += yield from _older(symbol, window["startTime"], page)
            for _ in range(MAX_PAGES):
                next_id = max(row.order_id for row in page) + 1
                page = decode((yield rows.orders_call(symbol, orderId=next_id)), list[wire.OrderRow], "orders")
                found += page
                if len(page) < PAGE:
                    return found
            raise ConnectionFailed(f"orders of {symbol}: pages do not end")
    return found


def _older(symbol: str, since_ms: int, page: list[wire.OrderRow]) -> Dialogue[list[wire.OrderRow]]:
    """What a full page left out before its first order: the sheet does not say whether it has the oldest orders or the newest."""
    found: list[wire.OrderRow] = []
    while len(page) >= PAGE:
        first_id, until_ms = min(row.order_id for row in page), min(row.created_ms for row in page)
        call = rows.orders_call(symbol, startTime=since_ms, endTime=max(since_ms, until_ms))
        page = decode((yield call), list[wire.OrderRow], "orders")
        older = [row for row in page if row.order_id < first_id]
        if not older:
            break
        found += older
    return found


def _order(found: Findings, symbol: str, order_id: str) -> Dialogue[None]:
    try:
        found.keep(decode((yield rows.order_call(symbol, order_id)), wire.OrderRow, "order"))
    except (
        ExchangeRefused
    ) as refused:  # -2013: placed more than three days ago and cancelled unfilled, or not visible yet
        found.refused(symbol, order_id, refused)


def open_orders(found: Findings) -> Dialogue[None]:
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
                found.closed.append(order_key(symbol, number))


def _known_open(found: Findings, *, conditional: bool) -> dict[str, set[str]]:
    """By symbol, the orders that were open as far as the stream told."""
    known: dict[str, set[str]] = {}
    for symbol, order_id in found.mark.open_orders():
        if order_id.startswith(ALGO) == conditional:
            known.setdefault(symbol, set()).add(order_id)
    return known


def _hinted_symbols(found: Findings, known: Set[str]) -> set[str]:
    """Symbols that may have open orders of which we know nothing. The account lists those with a position or open orders only;
    where all orders since the watermark are in, so are these."""
    mark, rows_ = found.mark, found.account.positions
    if found.every_order and mark.base is not None:
        return set()
    listed = {p.symbol for p in rows_}
    hinted = {p.symbol for p in rows_ if not Decimal(p.qty)}
    if Decimal(found.account.open_orders_margin) and not (found.frugal and known):
        hinted = listed
    return hinted if found.frugal else hinted | (found.recent_symbols() & listed)


def _a_few(symbols: Set[str], now_ms: int) -> list[str]:
    """Three of them, others each minute."""
    ordered = sorted(symbols)
    first = now_ms // 60_000 * RECENT_SYMBOLS % max(1, len(ordered))
    return (ordered[first:] + ordered[:first])[:RECENT_SYMBOLS]


def conditional_orders(found: Findings) -> Dialogue[None]:
    """Conditional orders that rest, where some are known or the account was active; and what became of the known ones."""
    known, mark = _known_open(found, conditional=True), found.mark
    wanted = set(known)
    if mark.base is None:
        wanted |= {p.symbol for p in found.account.positions} | mark.symbols.keys() | {s for s, _ in found.orders}
    elif not found.frugal:
        wanted |= {s for s in found.recent_symbols() if mark.symbols[s] >= found.now_ms - ACTIVE_MS}
    for symbol in _a_few(wanted, found.now_ms) if found.frugal else sorted(wanted):
        try:
            resting = decode((yield rows.open_algo_orders_call(symbol)), list[wire.AlgoRow], "conditional orders")
        except ExchangeRefused as refused:
            if code_of(refused) != BAD_SYMBOL:
                return  # a server before 2025-12-09, whose open orders tell them
            resting = []
        found.conditional |= {algo_name(row.algo_id): row for row in resting}
        for name in sorted(known.get(symbol, set()) - found.conditional.keys()):
            try:
                row = decode((yield rows.algo_order_call(name.removeprefix(ALGO))), wire.AlgoRow, "conditional order")
            except ExchangeRefused as refused:
                found.refused(symbol, name, refused)
                continue
            found.conditional[name] = row
            if ALGO_STATUSES.get(row.status) in TERMINAL:
                found.closed.append(order_key(symbol, name))


def resting_conditional_orders(found: Findings) -> Dialogue[None]:
    """Those that rest now, a stop that protects a position say, in every symbol that this account ever used."""
    symbols: list[str] = sorted({*found.mark.symbols, *map(symbol_of, found.mark.positions)})
    for symbol in symbols if len(symbols) <= rows.ALL_SYMBOLS else [""]:
        try:
            resting = decode((yield rows.open_algo_orders_call(symbol)), list[wire.AlgoRow], "conditional orders")
        except ExchangeRefused as refused:
            if code_of(refused) != BAD_SYMBOL:
                return  # a server before 2025-12-09
            continue  # listed no more
        found.conditional |= {algo_name(row.algo_id): row for row in resting}


def past_conditional_orders(found: Findings) -> Dialogue[None]:
    """Conditional orders placed since the watermark, whatever became of them, of the symbols used last: no call tells all."""
    latest = dict(found.mark.symbols)
    for row in found.orders.values():
        latest[row.symbol] = max(latest.get(row.symbol, 0), row.update_ms)
    for symbol in sorted(latest, key=lambda s: -latest[s])[:RECENT_SYMBOLS]:
        where = {"startTime": found.since_ms}
        for _ in range(MAX_PAGES):
            try:
                reply = yield rows.all_algo_orders_call(symbol, **where)
            except ExchangeRefused as refused:
                if code_of(refused) != BAD_SYMBOL:
                    return  # a server before 2025-12-09
                found.lost.append(f"conditional orders of {symbol}: {refused.verdict}")
                break
            page = decode(reply, list[wire.AlgoRow], "conditional orders")
            found.conditional |= {algo_name(row.algo_id): row for row in page}
            if len(page) < PAGE:
                break
            where = {"algoId": max(row.algo_id for row in page) + 1}
        else:
            raise ConnectionFailed(f"conditional orders of {symbol}: pages do not end")
