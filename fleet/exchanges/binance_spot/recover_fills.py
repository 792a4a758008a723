"""Steps 1, 3, 4 and 6 of a read-back (recover.py): the account, and the trades that it shows and nobody told. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from fleet.core.errors import ExchangeRefused
from fleet.core.events import UserRecord
from fleet.core.exchange import code_of
from fleet.core.recovery import NEAR_MS, STAMP_MS, Snapshot, order_key, symbol_of, untold_fills_ms
from fleet.core.replies import decode
from fleet.exchanges.binance_spot import assets, rows, wire
from fleet.exchanges.binance_spot.findings import BAD_SYMBOL, Dialogue, Findings
from fleet.exchanges.binance_spot.pages import allocations_since, since
from fleet.exchanges.binance_spot.session import CLOCK, clock_ms

MAX_GUESSES = 30  # symbols asked for because both their assets are unexplained; one that does not exist costs 20 too


def read_account(at_ms: int) -> Dialogue[tuple[wire.AccountRow, Snapshot]]:
    reply = yield rows.ACCOUNT
    account = decode(reply, wire.AccountRow, "account")
    sums = {row.asset: Decimal(row.free) + Decimal(row.locked) for row in account.balances}
    wallets = {asset: format(sum_, "f") for asset, sum_ in sums.items() if sum_}
    return account, Snapshot(reply.at_ms or at_ms, {}, wallets, shown_ms=account.update_ms)


def missing_trades(found: Findings) -> Dialogue[None]:
    """Read trades, likely symbols first, until they explain the account or no symbol is left."""
    mark = found.mark
    known = set(mark.symbols) | set(map(symbol_of, mark.orders)) | {symbol for symbol, _ in found.orders}
    if mark.base is None:
        held = found.snapshot.wallets
        yield from trades_of(found, known)
        yield from trades_of(found, _guesses(found, assets.symbols_of(held, held), known))
        return
    active = {s for s, at_ms in mark.symbols.items() if at_ms >= mark.base.at_ms}
    yield from trades_of(found, _both_legs_open(found, known))
    if found.behind():  # the account lagged behind the trades, or moved on meanwhile
        yield from _account_again(found)
    yield from _new_symbols(found, known)
    for choose in (_base_open, lambda *_: active, lambda *_: known):
        if found.explains():
            break
        yield from trades_of(found, choose(found, known) - found.read)
    if found.behind():
        yield from _account_again(found)


def _account_again(found: Findings) -> Dialogue[None]:
    at_ms = clock_ms((yield CLOCK))
    found.account, found.snapshot = yield from read_account(at_ms)


def _both_legs_open(found: Findings, known: set[str]) -> set[str]:
    open_ = found.open_assets()
    pairs = {symbol: found.legs(symbol) for symbol in known}
    return {symbol for symbol, pair in pairs.items() if pair and pair[0] in open_ and pair[1] in open_}


def _base_open(found: Findings, known: set[str]) -> set[str]:
    open_ = found.open_assets()
    pairs = {symbol: found.legs(symbol) for symbol in known}
    return {symbol for symbol, pair in pairs.items() if pair is None or pair[0] in open_ or pair[1] in open_}


def _new_symbols(found: Findings, known: set[str]) -> Dialogue[None]:
    """Symbols that never traded before, of two unexplained assets: first those of which one was given for the other. Each one
    found changes what is unexplained."""
    for _ in range(MAX_GUESSES):
        open_ = {asset: Decimal(amount) for asset, amount in found.open_assets().items()}
        gained, given = (
            {a for a, amount in open_.items() if amount > 0},
            {a for a, amount in open_.items() if amount < 0},
        )
        exchanged = assets.symbols_of(gained, given) | assets.symbols_of(given, gained)
        likely = _guesses(found, exchanged, known) or _guesses(found, assets.symbols_of(open_, open_), known)
        if not likely:
            return
        yield from trades_of(found, likely[:1])


def _guesses(found: Findings, symbols: set[str], known: set[str]) -> list[str]:
    """Those of `symbols` not asked for yet, likely ones first. Two assets have a symbol in one direction only."""
    real = known | {symbol for symbol, _ in found.trades}
    backwards = {quote + base for base, quote in filter(None, map(found.legs, real))}
    return sorted(symbols - real - found.read - backwards, key=assets.rank)[:MAX_GUESSES]


def trades_of(found: Findings, symbols: Iterable[str]) -> Dialogue[None]:
    latest = found.mark.symbols
    for symbol in sorted(symbols, key=lambda s: (-latest.get(s, 0), s)):
        found.read.add(symbol)
        try:
            trades = yield from since(rows.trades_call, symbol, list[wire.TradeRow], "fromId", found)
        except ExchangeRefused as refused:
            if symbol in latest:  # one that was guessed need not exist
                lost = found.unlisted if code_of(refused) == BAD_SYMBOL else found.lost
                lost.append(f"fills of {symbol}: {refused.verdict}")
            continue
        for trade in trades:
            if trade.trade_ms >= found.since_ms:
                found.trades[trade.key] = trade


def allocations(found: Findings) -> Dialogue[None]:
    """What smart order routing gave orders: such fills are in no answer about trades."""
    booked = found.mark.known_fills
    for symbol in sorted(_allocated(found)):
        try:
            told = yield from allocations_since(symbol, found)
        except ExchangeRefused as refused:
            found.lost.append(f"allocations of {symbol}: {refused.verdict}")
            continue
        new = [row for row in told if row.trade_ms >= found.since_ms and row.key not in booked]
        found.trades.update({row.key: row for row in new})


def _allocated(found: Findings) -> set[str]:
    """Symbols with an order of which more is filled than the known fills and the trades read make up, and that says it was routed
    or was placed since the watermark: of an older one the watermark may have forgotten fills."""
    read: dict[tuple[str, str], Decimal] = {}
    for trade in found.fresh():
        key = (trade.symbol, str(trade.order_id))
        read[key] = read.get(key, Decimal(0)) + Decimal(trade.qty)
    return {
        symbol
        for (symbol, number), row in found.orders.items()
        if row.update_ms >= found.since_ms
        and (row.used_sor or row.created_ms >= found.since_ms)
        and Decimal(row.filled) > found.mark.filled_qty(symbol, number) + read.get((symbol, number), Decimal(0))
    }


def untold_ms(found: Findings, history: list[UserRecord], born_ms: int, *, explained: bool) -> int:
    """Since when the trades are behind: an order was filled for more than its trades, or the wallets show that assets were given
    for others (not just put in or taken out): at `account.update_ms`, or where a known fill is of that time, before it, as early as
    after the base. 0 = neither."""
    placed_ms = {order_key(*order): row.created_ms for order, row in found.orders.items()}
    read = [event for event in history if event.symbol in found.read]
    by_order_ms = untold_fills_ms(found.mark, read, placed_ms, found.since_ms, born_ms)
    amounts = [] if explained or found.mark.base is None else [Decimal(a) for a in found.open_assets().values()]
    exchanged = any(amount > 0 for amount in amounts) and any(amount < 0 for amount in amounts)
    if not exchanged or found.mark.base is None:
        return by_order_ms
    known = [booking.ts for booking in found.mark.recent if booking.key] + [t.trade_ms for t in found.trades.values()]
    base_ms, at_ms = found.mark.base.at_ms, found.account.update_ms
    near = any(abs(ts - base_ms) < NEAR_MS for ts in known)  # it may be in the base already, and no other be hidden
    if not near and 0 <= at_ms - max(known, default=0) < STAMP_MS and at_ms < found.snapshot.at_ms:
        at_ms = base_ms + 1
    return min(filter(None, [by_order_ms, at_ms]), default=0)
