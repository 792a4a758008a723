"""Read-back of one Bybit account after a gap: a pure dialogue of REST calls and replies (`RecoveryPlan`).

In: the account, its watermark (moved back by the caller's margin), exchange time. Out: what was missed, with the stream's ids.
Driven by workers/readback.py. Sources: exchanges/bybit.md sections 6.3, 6.4, 7.

One call tells the fills of all symbols of a category, so they are always read: a quiet account costs 18 calls of weight 1, a
proof of it 12.
1. Executions and order history of each category since the watermark, in windows of seven days, page by page.
2. Open orders; then each order that is known as open or has a fill here, and was in neither list.
3. Positions by settlement coin, which lists open ones only; each known one that is not listed is asked for by symbol, and is flat
   where the venue refuses that: the contract has expired.
4. The wallet.
Fills are read in every category: the first one in another category may be the one that was lost. A proof asks for the rest
where the account was seen: linear and spot, inverse and option once a symbol of theirs was known or a fill was read. A refusal
elsewhere tells of no loss: not every account has every product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import Fill, UserRecord
from fleet.core.exchange import HttpCall, HttpReply, Recovered, RecoveryPlan, code_of
from fleet.core.model import AccountSpec
from fleet.core.recovery import (
    TERMINAL,
    Snapshot,
    Watermark,
    differing,
    forgotten_orders,
    hidden_fills_ms,
    missed,
    order_key,
    symbol_of,
    untold_fills_ms,
)
from fleet.exchanges.bybit import ids, rows, wire
from fleet.exchanges.bybit.limits import FILL_PAGE, LIMITS, ORDER_PAGE, POSITION_PAGE, WINDOW_MS
from fleet.exchanges.bybit.parse import UNREADABLE

T = TypeVar("T")
Dialogue = Generator[HttpCall, HttpReply, T]
Params = tuple[tuple[str, str], ...]

EXECUTIONS, HISTORY, OPEN = "/v5/execution/list", "/v5/order/history", "/v5/order/realtime"
POSITIONS, WALLET = "/v5/position/list", "/v5/account/wallet-balance"
SETTLE_COINS: Params = (("settleCoin", "USDT"), ("settleCoin", "USDC"))  # a linear list needs a symbol or one of these
REST_LAG_MS = 5000
STALE_MS = 300_000  # REST may be old as a whole (7): a proof also tells fills that it hid from the reads before
FORGOTTEN_MS = 60_000  # an order that is in no list is forgotten only if its symbol was quiet this long (REST lags)
NO_SUCH_ORDER = "110001"
MAX_PAGES = 2000
EVERY = ("linear", "spot", "inverse", "option")


@dataclass
class _Findings:
    """What one read-back knows so far. Local to one plan."""

    account_id: str
    mark: Watermark
    now_ms: int
    since_ms: int
    used: set[str]  # categories in which the account was seen
    late_since_ms: int  # fills since then that are unknown are told, too
    at_ms: int = 0  # exchange time before the first call
    # category, symbol, execution id, order id: what names one (7), and which side of a trade with oneself it is (6.3)
    fills: dict[tuple[str, str, str, str], msgspec.Raw] = field(default_factory=dict)
    orders: dict[tuple[str, str], wire.OrderRow] = field(default_factory=dict)  # category, order id
    known_fills: set[tuple[str, str]] = field(default_factory=set)
    late: set[tuple[str, str]] = field(default_factory=set)  # symbol, order id of fills that are told late
    open: set[str] = field(default_factory=set)
    closed: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)  # known as open, and no list has them
    positions: dict[str, tuple[wire.PositionRow, str]] = field(default_factory=dict)  # "SYMBOL|side" -> row, category
    coins: dict[str, wire.CoinRow] = field(default_factory=dict)
    told_ms: int = 0  # server time of the last reply
    lost: list[str] = field(default_factory=list)


def recover(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Yields calls, is sent OK replies. Raises ConnectionFailed for a reply that is not what the sheet says (try again later)."""
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    since_ms = max(mark.proven_ms, oldest_ms)
    late_since_ms = min(since_ms, max(_late_since_ms(mark), account.created_at_ms, oldest_ms))
    found = _Findings(account.id, mark, now_ms, since_ms, _used(mark), late_since_ms, known_fills=mark.known_fills)
    if mark.proven_ms < oldest_ms:
        found.lost.append(f"history before {oldest_ms} ms is not kept by the exchange")
    for category in EVERY:
        yield from _fills(found, category)
    found.used |= {category for category, *_ in found.fills}
    categories = [category for category in EVERY if mark.scope == "full" or category in found.used]
    for category in categories:
        yield from _orders(found, category)
    for category in categories:
        yield from _open_orders(found, category)
    yield from _single_orders(found)
    known_positions = yield from _positions(found, categories)
    known_wallets = yield from _wallet(found)
    history = _history(found)
    placed_ms = {order_key(row.symbol, row.order_id): int(row.created_time or 0) for row in found.orders.values()}
    canceled, untold = forgotten_orders(mark, found.forgotten, history, account.id, now_ms)
    snapshot = _snapshot(found, known_positions, known_wallets)
    untold_ms = 0 if found.lost else untold_fills_ms(mark, history, placed_ms, found.since_ms, account.created_at_ms)
    hidden_ms = 0 if found.lost else _hidden_ms(found, history, snapshot)
    return Recovered(
        missed(history + _changes(found, history, known_positions, known_wallets), set()),
        snapshot,
        "; ".join([*found.lost, *untold]),
        explained=not hidden_ms and not _unsure(found, known_positions),
        untold_ms=min(filter(None, (untold_ms, hidden_ms)), default=0),
        canceled=canceled,
    )


def _late_since_ms(mark: Watermark) -> int:
    """How far back a proof looks for fills that nobody was told of."""
    return mark.proven_ms - STALE_MS if mark.scope == "proof" and mark.base is not None else mark.proven_ms


def _hidden_ms(found: _Findings, history: list[UserRecord], snapshot: Snapshot) -> int:
    """Since when a perpetual's position is ahead of its fills. Options and dated futures also end without one; spot has none. Not
    judged is one that moved by something else: a stock's split (CorporateAction), the end of a contract (Settle, Delivery), a fill
    from before the base."""
    executions = map(_row, found.fills.values())
    otherwise = {row.symbol for row in executions if row.exec_type not in rows.TRADING and row.exec_type != "Funding"}
    otherwise |= {symbol for symbol, _ in found.late}  # the base was as old as the read that hid them
    changed_ms: dict[str, int] = {}
    for row, _ in found.positions.values():
        changed_ms[row.symbol] = max(changed_ms.get(row.symbol, 0), int(row.updated_time or 0))

    def judged(symbol: str, order_id: str) -> bool:
        perpetual = (
            "-" not in symbol and symbol not in otherwise and (not rows.is_inverse(symbol) or symbol.endswith("USD"))
        )
        return perpetual and rows.category_of(symbol, order_id) in ("linear", "inverse")

    return hidden_fills_ms(found.mark, history, snapshot, changed_ms, judged)


def _used(mark: Watermark) -> set[str]:
    known = {*mark.symbols, *map(symbol_of, mark.orders), *(symbol_of(key) for key in mark.positions)}
    return {"linear", "spot", *(rows.category_of(symbol, "") for symbol in known)}


def _refused(found: _Findings, category: str, what: str, refused: ExchangeRefused) -> None:
    """What cannot be read is lost, where there may be something to lose."""
    if category in found.used:
        found.lost.append(f"{what} of {category}: {refused.verdict}")


# ── Calls ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _answer(found: _Findings, path: str, params: Params, shape: type[T]) -> Dialogue[T]:
    """One call's result. Raises ConnectionFailed for a reply of another shape."""
    reply = yield HttpCall("GET", path, params, auth="signed")
    found.at_ms = found.at_ms or reply.at_ms or found.now_ms
    try:
        answer = decoding.decode(reply.body, wire.Answer[shape])  # type: ignore[valid-type]
    except UNREADABLE as error:
        raise ConnectionFailed(f"{path}: unreadable reply") from error
    found.told_ms = answer.time or found.now_ms
    return answer.result


def _pages(found: _Findings, path: str, params: Params, row: type[T]) -> Dialogue[list[T]]:
    """All rows of a list, following its cursor, which is sent back as it came."""
    collected: list[T] = []
    cursor: Params = ()
    for _ in range(MAX_PAGES):
        page = yield from _answer(found, path, params + cursor, wire.Page[row])  # type: ignore[valid-type]
        collected += page.rows
        if not page.cursor or not page.rows:
            return collected
        cursor = (("cursor", page.cursor),)
    raise ConnectionFailed(f"{path}: pages do not end")


def _windows(since_ms: int, now_ms: int) -> list[Params]:
    """startTime and endTime of calls that may span seven days; the last is open-ended, so that nothing newer is cut off."""
    windows: list[Params] = []
    while since_ms + WINDOW_MS < now_ms:
        windows.append((("startTime", str(since_ms)), ("endTime", str(since_ms + WINDOW_MS))))
        since_ms += WINDOW_MS + 1
    return [*windows, (("startTime", str(since_ms)),)]


def _list(category: str, limit: int) -> Params:
    return (("category", category), ("limit", str(limit)))


def _settled(category: str) -> list[Params]:
    """What a list of open things needs beside its category."""
    return [(coin,) for coin in SETTLE_COINS] if category == "linear" else [()]


# ── Fills and orders ─────────────────────────────────────────────────────────────────────────────────────────────
def _fills(found: _Findings, category: str) -> Dialogue[None]:
    try:
        for window in _windows(found.late_since_ms, found.now_ms):
            for raw in (yield from _pages(found, EXECUTIONS, _list(category, FILL_PAGE) + window, msgspec.Raw)):
                row = _row(raw)
                at_ms = int(row.exec_time or 0)
                late = found.late_since_ms <= at_ms < found.since_ms and _is_untold(found, row, category)
                if late:
                    found.late.add((row.symbol, row.order_id))
                if late or at_ms >= found.since_ms:
                    found.fills[category, row.symbol, row.exec_id, row.order_id] = raw
    except ExchangeRefused as refused:
        _refused(found, category, "fills", refused)


def _is_untold(found: _Findings, row: wire.ExecutionRow, category: str) -> bool:
    """A fill that neither this process told, as far as it remembers, nor the one before, as far as the watermark does."""
    if row.exec_type not in rows.TRADING or (row.symbol, f"{row.exec_id}/{row.order_id}") in found.known_fills:
        return False
    return ids.fill_id(found.account_id, category, row.symbol, row.exec_id, row.order_id) not in found.mark.told


def _row(raw: msgspec.Raw) -> wire.ExecutionRow:
    try:
        return decoding.decode(raw, wire.ExecutionRow)
    except UNREADABLE as error:
        raise ConnectionFailed(f"{EXECUTIONS}: unreadable row") from error


def _orders(found: _Findings, category: str) -> Dialogue[None]:
    try:
        for window in _windows(found.since_ms, found.now_ms):
            _keep(
                found,
                category,
                (yield from _pages(found, HISTORY, _list(category, ORDER_PAGE) + window, wire.OrderRow)),
            )
    except ExchangeRefused as refused:
        _refused(found, category, "orders", refused)


def _open_orders(found: _Findings, category: str) -> Dialogue[None]:
    for settled in _settled(category):
        try:
            listed = yield from _pages(found, OPEN, _list(category, ORDER_PAGE) + settled, wire.OrderRow)
        except ExchangeRefused as refused:
            _refused(found, category, "open orders", refused)
            continue
        _keep(found, category, listed)
        found.open |= {row.order_id for row in listed}


def _keep(found: _Findings, category: str, listed: list[wire.OrderRow]) -> None:
    """The two lists lag each other: of two states of an order the further one counts (section 7)."""
    for row in listed:
        known = found.orders.get((category, row.order_id))
        if known is None or _progress(known) <= _progress(row):
            found.orders[category, row.order_id] = row


def _progress(row: wire.OrderRow) -> tuple[bool, Decimal, int]:
    return _ended(row), Decimal(row.cum_exec_qty or "0"), int(row.updated_time or 0)


def _ended(row: wire.OrderRow) -> bool:
    return rows.STATUSES.get(row.order_status) in TERMINAL


def _single_orders(found: _Findings) -> Dialogue[None]:
    """Orders known as open or filled here that no list told: the open list keeps closed ones for a while, the history longer."""
    wanted: dict[tuple[str, str], str] = {}
    for symbol, order_id in found.mark.open_orders():
        wanted[rows.category_of(symbol, order_id), order_id] = symbol
    for (category, *_), raw in found.fills.items():
        row = _row(raw)
        if row.exec_type in rows.TRADING and row.order_id:
            wanted[category, row.order_id] = row.symbol
    for (category, order_id), symbol in sorted(wanted.items()):
        refusals: list[str] = []
        for path, more in ((OPEN, (("openOnly", "1"), ("symbol", symbol))), (HISTORY, ())):
            if (category, order_id) not in found.orders:
                params = (("category", category), ("orderId", order_id), *more)
                refusals += yield from _single_order(found, path, params)
        if not found.mark.is_open(symbol, order_id) or order_id in found.open:
            continue
        key, known = order_key(symbol, order_id), found.orders.get((category, order_id))
        if known is not None:
            found.closed += [key] if _ended(known) else []
        elif found.now_ms - found.mark.symbols.get(symbol, 0) > FORGOTTEN_MS and found.mark.scope != "fills":
            found.closed.append(key)
            found.lost += [f"order {order_id} of {symbol}: {verdict}" for verdict in refusals[:1]]
            found.forgotten += [] if refusals else [key]  # cancelled unfilled more than a day ago


def _single_order(found: _Findings, path: str, params: Params) -> Dialogue[list[str]]:
    """→ why it could not be looked up."""
    (_, category), (_, order_id), *_ = params
    try:
        page = yield from _answer(found, path, params, wire.Page[wire.OrderRow])
    except ExchangeRefused as refused:
        return [] if code_of(refused) == NO_SUCH_ORDER else [str(refused.verdict)]
    _keep(found, category, [row for row in page.rows if row.order_id == order_id])
    return []


# ── Positions and wallet ─────────────────────────────────────────────────────────────────────────────────────────
def _positions(found: _Findings, categories: list[str]) -> Dialogue[bool]:
    """False where the key may not see them."""
    try:
        for category in categories:
            for settled in _settled(category) if category != "spot" else []:
                yield from _held(found, category, _list(category, POSITION_PAGE) + settled)
    except ExchangeRefused as refused:
        found.lost.append(f"positions: {refused.verdict}")
        return False
    absent = {symbol_of(key) for key in found.mark.positions.keys() - found.positions.keys()}
    for symbol in sorted(absent | _moved_again(found)):
        category = rows.category_of(symbol, "")
        with contextlib.suppress(ExchangeRefused):
            page = yield from _answer(
                found, POSITIONS, (("category", category), ("symbol", symbol)), wire.Page[wire.PositionRow]
            )
            _hold(found, category, page.rows)
    return True


def _moved_again(found: _Findings) -> set[str]:
    """Symbols whose positions are to be told though they may be as they were: asked for one by one, as no list tells flat ones."""
    return found.mark.moved_again(_row(raw).symbol for (category, *_), raw in found.fills.items() if category != "spot")


def _held(found: _Findings, category: str, params: Params) -> Dialogue[None]:
    try:
        _hold(found, category, (yield from _pages(found, POSITIONS, params, wire.PositionRow)))
    except ExchangeRefused:
        if category in found.used:
            raise


def _hold(found: _Findings, category: str, listed: list[wire.PositionRow]) -> None:
    for row in listed:
        found.positions[f"{row.symbol}|{rows.position_side(category, row.position_idx)}"] = (row, category)


def _wallet(found: _Findings) -> Dialogue[bool]:
    """False where the key may not see it. Coins that are not listed hold nothing; one without a figure is as it was. Raises
    ExchangeRefused where nothing at all could be read before either: that proves nothing, and may be cured."""
    try:
        page = yield from _answer(found, WALLET, (("accountType", "UNIFIED"),), wire.Page[wire.WalletRow])
    except ExchangeRefused as refused:
        if not found.at_ms:
            raise
        found.lost.append(f"wallet: {refused.verdict}")
        return False
    for coin in (coin for wallet in page.rows for coin in wallet.coin):
        if coin.wallet_balance:
            found.coins[coin.coin] = coin
        elif coin.coin in found.mark.wallets:
            found.coins[coin.coin] = wire.CoinRow(coin=coin.coin, wallet_balance=found.mark.wallets[coin.coin])
    return True


def _snapshot(found: _Findings, positions: bool, wallets: bool) -> Snapshot:
    held = {key: rows.signed_qty(row) for key, (row, _) in found.positions.items() if Decimal(row.size)}
    owned = {name: coin.wallet_balance for name, coin in found.coins.items() if Decimal(coin.wallet_balance)}
    return Snapshot(
        found.at_ms,
        held if positions else dict(found.mark.positions),
        owned if wallets else dict(found.mark.wallets),
        tuple(found.closed),
        found.told_ms,
    )


# ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _history(found: _Findings) -> list[UserRecord]:
    """Fills and bookings since the watermark; orders that changed since, that ended meanwhile, or (first-ever read) are open."""
    told = rows.Told(found.account_id, found.now_ms, found.now_ms, "rest")
    events: list[UserRecord] = []
    for (category, *_), raw in found.fills.items():
        execution = _row(raw)
        try:
            if execution.exec_type in rows.TRADING:
                events.append(rows.fill(execution, category, told))
            else:
                events.append(rows.booking(execution, category, msgspec.json.decode(raw), told))
        except ValueError as error:
            raise ConnectionFailed(f"{EXECUTIONS}: {error}") from error
    for (category, order_id), row in found.orders.items():
        event = rows.order(row, category, told)
        if event is None:
            found.lost.append(f"order {order_id} of {row.symbol}: unknown status {row.order_status[:40]}")
        elif (
            event.ts_event >= found.since_ms
            or order_key(row.symbol, order_id) in found.closed
            or (row.symbol, order_id) in found.late
            or found.mark.base is None
        ):
            events.append(event)
    return events


def _unsure(found: _Findings, positions: bool) -> set[str]:
    """Known positions that nobody lists and that are left for the next read: one that lags may not show what the stream just
    opened. As a base this one would hide for good that they ended."""
    gone = found.mark.positions.keys() - found.positions.keys() if positions else set[str]()
    return {key for key in gone if found.at_ms - found.mark.symbols.get(symbol_of(key), 0) < REST_LAG_MS}


def _changes(found: _Findings, history: list[UserRecord], positions: bool, wallets: bool) -> list[UserRecord]:
    """Positions and wallets that differ from the last known ones; a known position that nobody lists is flat."""
    events: list[UserRecord] = []
    known, told = found.mark.positions, rows.Told(found.account_id, found.told_ms, found.now_ms, "rest")
    moved = _moved_again(found) | {symbol_of(key) for key in found.mark.moved_unheard(history)}
    for key, (row, category) in sorted(found.positions.items() if positions else ()):
        if row.symbol in moved or Decimal(rows.signed_qty(row)) != Decimal(known.get(key, "0")):
            events.append(rows.position(row, category, told))
    gone = known.keys() - found.positions.keys() - _unsure(found, positions) if positions else set[str]()
    for key in sorted(gone):
        symbol, _, side = key.partition("|")
        idx = next((idx for idx, name in rows.POSITION_SIDES.items() if name == side), 0)
        flat = wire.PositionRow(symbol=symbol, position_idx=idx, size="0", entry_price="0")
        events.append(rows.position(flat, rows.category_of(symbol, ""), told))
    spent = found.mark.spent_again(event.fee_asset for event in history if isinstance(event, Fill))
    owned = {asset: coin.wallet_balance for asset, coin in found.coins.items()}
    for asset in sorted(differing(found.mark.wallets, owned) | spent if wallets else ()):
        coin = found.coins.get(asset) or wire.CoinRow(coin=asset, wallet_balance="0")
        events.append(rows.balance(coin, told))
    return events
