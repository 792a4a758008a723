"""Steps 1 and 2 of a read-back (recover.py): the trades that the account shows and nobody told. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import UserRecord
from fleet.core.exchange import code_of
from fleet.core.recovery import NEAR_MS, order_key, symbol_of, untold_fills_ms
from fleet.core.replies import decode
from fleet.exchanges.binance_usdm import rows, wire
from fleet.exchanges.binance_usdm.findings import BAD_SYMBOL, MAX_PAGES, Dialogue, Findings, windows
from fleet.exchanges.binance_usdm.limits import PAGE
from fleet.exchanges.binance_usdm.recover_orders import every_order

TRADING = frozenset({"COMMISSION", "REALIZED_PNL", "INSURANCE_CLEAR"})  # bookings that a fill leaves behind


def missing_trades(found: Findings) -> Dialogue[None]:
    """Read trades, likely symbols first, until they explain the account or no symbol is left."""
    mark = found.mark
    known = set(mark.symbols) | set(map(symbol_of, mark.orders)) | {p.symbol for p in found.account.positions}
    known |= {symbol_of(key) for key in mark.positions}
    if mark.base is not None:
        active = {s for s, at_ms in mark.symbols.items() if at_ms >= mark.base.at_ms}
        for likely in (_unexplained_symbols(found), active):
            yield from trades_of(found, likely - found.read)
            if found.explains():
                return
    else:
        known |= yield from _ordered_symbols(found)
    yield from trades_of(found, known - found.read)
    if mark.base is not None and not found.explains():
        yield from every_order(found)  # costs 5 and may show the symbols that nobody knew; a page of bookings costs 30
        yield from trades_of(found, {symbol for symbol, _ in found.orders} - found.read)
        if not found.explains():
            yield from trades_of(found, (yield from _booked_symbols(found)) - found.read)


def _ordered_symbols(found: Findings) -> Dialogue[set[str]]:
    """Symbols with orders since the watermark; where no one call tells them, those with bookings too."""
    complete = yield from every_order(found)
    symbols = {symbol for symbol, _ in found.orders}
    return symbols if complete else symbols | (yield from _booked_symbols(found))


def _unexplained_symbols(found: Findings) -> set[str]:
    """Symbols whose position is not the base plus the fills since."""
    mark, now = found.mark, found.snapshot.positions
    before = mark.base.positions if mark.base else {}
    keys = before.keys() | mark.moved.keys() | now.keys()
    return {
        symbol_of(key)
        for key in keys
        if Decimal(before.get(key, "0")) + Decimal(mark.moved.get(key, "0")) != Decimal(now.get(key, "0"))
    }


def trades_of(found: Findings, symbols: Iterable[str]) -> Dialogue[None]:
    latest = found.mark.symbols
    for symbol in sorted(symbols, key=lambda s: (-latest.get(s, 0), s)):
        found.read.add(symbol)
        try:
            trades = yield from _trades(symbol, found.since_ms, found.now_ms)
        except ExchangeRefused as refused:
            lost = found.unlisted if code_of(refused) == BAD_SYMBOL else found.lost
            lost.append(f"fills of {symbol}: {refused.verdict}")
            continue
        for trade in trades:
            if trade.trade_ms >= found.since_ms:
                found.trades[trade.symbol, trade.trade_id, trade.order_id] = trade


def _trades(symbol: str, since_ms: int, now_ms: int) -> Dialogue[list[wire.TradeRow]]:
    """By time in windows of seven days until a page is full, from there by id: from the last one's again, as a trade of the account
    with itself is two rows of one id, and a page may end between them."""
    found: list[wire.TradeRow] = []
    for window in windows(since_ms, now_ms):
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


def _booked_symbols(found: Findings) -> Dialogue[set[str]]:
    symbols: set[str] = set()
    for window in windows(found.since_ms, found.now_ms):
        for _ in range(MAX_PAGES):
            try:
                reply = yield rows.income_call(**window)
            except ExchangeRefused:
                return symbols  # not every key may see it; the known symbols are read
            bookings = decode(reply, list[wire.IncomeRow], "income")
            symbols |= {b.symbol for b in bookings if b.symbol and b.type in TRADING}
            if len(bookings) < PAGE:
                break
            # its last millisecond again: the page may have ended within it
            window["startTime"] = max(window["startTime"] + 1, *(b.time_ms for b in bookings))
    return symbols


def untold_ms(found: Findings, history: list[UserRecord], born_ms: int, *, explained: bool) -> int:
    """Since when the trades are behind: the account shows a position that they do not lead to and that changed after the last of
    them (one that is flat by now is listed no more; its wallets changed with it), or an order was filled for more than its trades.
    0 = neither. A first-ever read knows only of what changed since the account is ours."""
    listed = {rows.key_of(row): row.update_ms for row in found.account.positions if Decimal(row.qty)}
    paid_ms = max((row.update_ms for row in found.account.assets), default=0)
    unexplained = {} if explained else found.trial().unexplained(found.snapshot)[0]
    changes = [(key, listed.get(key, paid_ms)) for key in unexplained]
    ours_ms = found.since_ms if found.mark.base is None else 0
    times = [at_ms for key, at_ms in changes if at_ms > max(ours_ms, found.latest_fill_ms(key))]
    times += [_hidden_ms(found, key) for key, at_ms in changes if key in listed and at_ms == found.latest_fill_ms(key)]
    placed_ms = {order_key(*order): row.created_ms for order, row in found.orders.items()}
    read = [event for event in history if event.symbol in found.read]
    by_order_ms = untold_fills_ms(found.mark, read, placed_ms, found.since_ms, born_ms)
    return min(filter(None, [*times, by_order_ms]), default=0)


def _hidden_ms(found: Findings, key: str) -> int:
    """Of a position that is unexplained though a known fill changed it last: the hidden one came before that, as early as after the
    base. 0 where it may be none: a known fill was near the base, which may have it, or came while the account was asked for."""
    base = found.mark.base
    if base is None or found.latest_fill_ms(key) >= found.snapshot.at_ms:
        return 0
    known = [b.ts for b in found.mark.recent if b.key == key]
    known += [t.trade_ms for t in found.trades.values() if f"{t.symbol}|{t.position_side.lower()}" == key]
    return 0 if any(abs(at_ms - base.at_ms) < NEAR_MS for at_ms in known) else base.at_ms + 1
