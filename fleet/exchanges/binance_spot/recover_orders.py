"""Steps 2 and 5 of a read-back (recover.py): open orders, those of missed fills, those that came and went. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from fleet.core.errors import ExchangeRefused
from fleet.core.exchange import code_of
from fleet.core.recovery import TERMINAL, Watermark, order_key, symbol_of
from fleet.core.replies import decode
from fleet.exchanges.binance_spot import rows, wire
from fleet.exchanges.binance_spot.findings import Dialogue, Findings
from fleet.exchanges.binance_spot.pages import since
from fleet.exchanges.binance_spot.parse import ORDER_STATUSES

FORGOTTEN_MS = 60_000  # an order that the exchange does not know is forgotten only if its symbol was quiet this long
ARCHIVED = "-2026"
# An account that traded just now may have placed and cancelled orders without a trace.
ACTIVE_MS, ACTIVE_SYMBOLS = 600_000, 3
MAX_ORDERS = 5  # so many orders of a symbol one by one (4 each) cost as much as all of them (20)
MAX_SINGLE = 13  # so many symbols' open orders one by one (6 each) cost as much as all of them (80)

Locking = tuple[str, bool, str, str, str]
"""Of an order: symbol, does it buy, price, quantity, filled quantity."""


def orders_of_fills(found: Findings) -> Dialogue[None]:
    """The orders of the fills that were missed: each one (4), or all of the symbol since the watermark (20), and those of them
    that are older than it."""
    wanted: dict[str, set[str]] = {}
    for trade in found.fresh():
        wanted.setdefault(trade.symbol, set()).add(str(trade.order_id))
    for symbol, numbers in sorted(wanted.items()):
        if len(numbers) > MAX_ORDERS:
            yield from orders_of(found, {symbol})
        for number in sorted(numbers):
            if (symbol, number) not in found.orders:
                yield from _order(found, symbol, number)


def _page_of(found: Findings, symbol: str, numbers: list[int]) -> Dialogue[None]:
    """Those of the orders that are in one page."""
    try:
        reply = yield rows.orders_call(symbol, orderId=min(numbers))
    except ExchangeRefused:
        return  # one by one, then
    for order in decode(reply, list[wire.OrderRow], "orders"):
        if order.order_id in numbers:
            found.keep(order)


def _order(found: Findings, symbol: str, order_id: str) -> Dialogue[None]:
    try:
        found.keep(decode((yield rows.order_call(symbol, order_id)), wire.OrderRow, "order"))
    except (
        ExchangeRefused
    ) as refused:  # of a known order -2026: ended unfilled long ago. -2013: not visible yet, or nobody knows
        quiet = found.now_ms - found.mark.symbols.get(symbol, 0) > FORGOTTEN_MS
        if quiet and found.mark.is_open(symbol, order_id) and found.mark.scope != "fills":
            found.closed.append(order_key(symbol, order_id))
            if code_of(refused) == ARCHIVED:
                found.forgotten.append(order_key(symbol, order_id))
            else:
                found.lost.append(f"order {order_id} of {symbol}: {refused.verdict}")


def open_orders(found: Findings) -> Dialogue[None]:
    """Orders open now. An open order locks what it would give, so where nothing is locked there is none."""
    symbols = sorted(set(map(symbol_of, found.mark.orders)))
    if not found.locked or (found.frugal and not symbols):
        return
    if found.frugal:
        chosen = {symbols[found.now_ms // 60_000 % len(symbols)], *_otherwise_locked(found, symbols)}
        found.unasked = set(symbols) - chosen
        yield from _open_orders_of(found, chosen)
        return
    if found.mark.base is not None and 0 < len(symbols) <= MAX_SINGLE:
        yield from _open_orders_of(found, symbols)
        if _locks(found, _read(found)) == found.locked:
            return
    for order in decode((yield rows.open_orders_call()), list[wire.OrderRow], "open orders"):
        found.keep(order)


def _open_orders_of(found: Findings, symbols: Iterable[str]) -> Dialogue[None]:
    for symbol in sorted(symbols):
        try:
            reply = yield rows.open_orders_call(symbol)
        except ExchangeRefused as refused:
            found.lost.append(f"open orders of {symbol}: {refused.verdict}")
            continue
        for order in decode(reply, list[wire.OrderRow], "open orders"):
            found.keep(order)


def _read(found: Findings) -> list[Locking]:
    return [(o.symbol, o.side == "BUY", o.price, o.qty, o.filled) for o in found.orders.values()]


def _otherwise_locked(found: Findings, symbols: list[str]) -> list[str]:
    """Those of which an asset is locked for more, or less, than the orders known as open lock: one was placed, amended or ended
    that nobody told. (Order lists lock once for several: theirs are always among these.)"""
    open_ = found.mark.orders.items()
    known = _locks(found, [(symbol_of(key), o.side == "buy", o.price, o.qty, o.filled_qty) for key, o in open_])
    odd = {asset for asset in known.keys() | found.locked.keys() if known.get(asset) != found.locked.get(asset)}
    return [symbol for symbol in symbols if odd & set(found.legs(symbol) or ())]


def _locks(found: Findings, orders: list[Locking]) -> dict[str, Decimal]:
    """What these lock, as far as one can tell (order lists lock once for several)."""
    sums: dict[str, Decimal] = {}
    for symbol, buys, price, qty, filled in orders:
        pair = found.legs(symbol)
        if pair is not None:
            left = Decimal(qty) - Decimal(filled)
            asset, amount = (pair[1], left * Decimal(price)) if buys else (pair[0], left)
            sums[asset] = sums.get(asset, Decimal(0)) + amount
    return {asset: amount for asset, amount in sums.items() if amount}


def used_last(mark: Watermark, count: int) -> set[str]:
    """The symbols used last. No call tells the orders of all."""
    return set(sorted(mark.symbols, key=lambda s: (-mark.symbols[s], s))[:count])


def in_use(found: Findings) -> set[str]:
    """Those of them whose orders a read-back asks for at once."""
    latest = found.mark.symbols
    return {s for s in used_last(found.mark, ACTIVE_SYMBOLS) if latest[s] >= found.now_ms - ACTIVE_MS}


def orders_of(found: Findings, symbols: set[str]) -> Dialogue[None]:
    """All orders since the watermark, also those that ended without a fill."""
    for symbol in sorted(symbols):
        try:
            for order in (yield from since(rows.orders_call, symbol, list[wire.OrderRow], "orderId", found)):
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


def ended_orders(found: Findings) -> Dialogue[None]:
    """What became of orders that were open: each one (4), or of many of a symbol the page that begins with the oldest (20)."""
    missing: dict[str, list[int]] = {}
    for symbol, order_id in found.mark.open_orders():
        if (symbol, order_id) not in found.orders and symbol not in found.unasked:
            missing.setdefault(symbol, []).append(int(order_id))
    for symbol, numbers in missing.items():
        if len(numbers) > MAX_ORDERS:
            yield from _page_of(found, symbol, numbers)
    for symbol, order_id in found.mark.open_orders():
        if (symbol, order_id) not in found.orders and symbol not in found.unasked:
            yield from _order(found, symbol, order_id)
        row = found.orders.get((symbol, order_id))
        if row is not None and ORDER_STATUSES.get(row.status) in TERMINAL:
            found.closed.append(order_key(symbol, order_id))
