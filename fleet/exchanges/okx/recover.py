"""Read-back of one OKX account after a gap: a pure dialogue of REST calls and replies (`RecoveryPlan`).

In: the account, its watermark (moved back by the caller's margin), exchange time. Out: what was missed, with the stream's ids.
Driven by workers/readback.py. Sources: exchanges/okx.md sections 5.1, 6.3, 7.

Limits are per user and endpoint, so calls are cheap and each answers for the whole account:
1. Balance and positions, the snapshot by which the next read is judged.
2. The fills since the watermark, always, though what we know may explain the snapshot: a round trip at one price without a fee
   changes nothing, and a balance may be told later than a fill. Pages backwards by billId; older than three days by product.
3. Orders: the open ones; those that were known as open and are not (one by one); and, unless it is a proof that is explained, the
   order history of the products in use, which is also where an order placed and cancelled inside the gap shows (for two hours).
4. What the balances and positions say that was not known; a known position or currency that is absent is flat or empty.
After the gap has closed a read of orders asks for the history of every product.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import UserRecord
from fleet.core.exchange import HttpCall, HttpReply, Recovered, RecoveryPlan, code_of
from fleet.core.model import AccountSpec
from fleet.core.recovery import (  # fmt: skip
    TERMINAL,
    Snapshot,
    Watermark,
    differing,
    forgotten_orders,
    hidden_fills_ms,
    missed,
    order_key,
    position_key,
    side_of,
    symbol_of,
    untold_fills_ms,
)
from fleet.exchanges.okx import parse, rows, wire
from fleet.exchanges.okx.limits import DAY_MS, LIMITS, PAGE, RECENT_FILLS_MS, RECENT_ORDERS_MS
from fleet.exchanges.okx.rows import PRODUCTS
from fleet.exchanges.okx.subscribe import product_of

T = TypeVar("T")
Dialogue = Generator[HttpCall, HttpReply, T]

MODES = ("cross", "isolated")
MAX_PAGES = 1000
EDGE_MS = 3_600_000  # the three-day and seven-day windows are left this early: they slide while we read
SKEW_MS = 1000  # between the clock of our database and the exchange's
ABSENT_MS = 90_000  # what changed so recently and is absent is gone only if fills say so: REST may be that old
STALE_MS = 300_000  # REST may be old as a whole: so far back a later read tells what it hid from those before
ACTIVE_MS = 3_600_000  # an account that traded within this time may have placed and cancelled orders that left no trace
FORGOTTEN_MS = STALE_MS  # an order the exchange does not know is forgotten only if its symbol was quiet this long
NO_SUCH_ORDER = "51603"


@dataclass
class _Findings:
    """What one read-back knows so far. Local to one plan."""

    account_id: str
    mark: Watermark
    now_ms: int
    since_ms: int
    assets: dict[str, wire.AssetRow]
    positions: list[wire.PositionRow]
    snapshot: Snapshot
    late_since_ms: int  # fills and orders since then that nobody was told of are told, too
    late: set[tuple[str, str]] = field(default_factory=set)  # symbol, order id of such fills
    fills: dict[tuple[str, str], wire.FillRow] = field(default_factory=dict)  # (order, bill) -> row
    orders: dict[str, wire.OrderRow] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)  # known as open, and REST knows nothing of them
    lost: list[str] = field(default_factory=list)


def recover(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Yields calls, is sent OK replies. Raises ConnectionFailed for a reply that is not what the sheet says (try again later)."""
    if mark.scope == "orders":
        return (yield from _came_and_went(account, mark, now_ms))
    lost: list[str] = []
    assets, positions, snapshot = yield from _holdings(mark, now_ms, lost)
    mark.behind = mark.behind and not lost  # what the key may not see is not told again: it would be told as empty
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    first = mark.base is None
    since_ms = max(mark.proven_ms, account.created_at_ms - SKEW_MS) if first else mark.proven_ms
    read_ms = max(since_ms, oldest_ms)
    late_since_ms = read_ms if first or mark.behind else min(read_ms, max(read_ms - STALE_MS, account.created_at_ms))
    found = _Findings(account.id, mark, now_ms, read_ms, assets, positions, snapshot, late_since_ms, lost=lost)
    explained = mark.explains(snapshot)
    if not explained and since_ms < oldest_ms:
        found.lost.append(f"history before {oldest_ms} ms is not kept by the exchange")
    yield from _fills(found)
    gone = mark.positions.keys() - snapshot.positions.keys() | mark.wallets.keys() - snapshot.wallets.keys()
    if not first and not explained and (found.fills or gone) and not _trial(found).explains(snapshot, _legs):
        # REST lags, the account moved on meanwhile, or it was told for once that there is nothing
        found.assets, found.positions, found.snapshot = yield from _holdings(mark, now_ms, [])
    yield from _open_orders(found)
    active = any(at_ms >= now_ms - ACTIVE_MS for at_ms in mark.symbols.values())
    if mark.scope == "full" or not explained or active:
        yield from _order_history(found)
    yield from _ended_orders(found)
    history = _history(found)
    placed_ms = {order_key(row.symbol, row.order_id): int(row.created_ms or 0) for row in found.orders.values()}
    untold_ms = 0 if found.lost else untold_fills_ms(mark, history, placed_ms, found.since_ms, account.created_at_ms)
    hidden_ms = 0 if found.lost else _hidden_ms(found, history)
    now = found.snapshot
    unasked = mark.scope == "full" and set(PRODUCTS) != set(_products(found))
    to_tell, untold_flat = _to_tell(found)
    untold_empty = {asset for asset in mark.wallets.keys() - now.wallets.keys() if not _surely_empty(found, asset)}
    absent_ms = [_latest_ms(found, key) for key in untold_flat] + [_touched_ms(found, asset) for asset in untold_empty]
    # As a base the snapshot would hide for good that these ended.
    held = now.positions | {key: mark.positions[key] for key in untold_flat}
    wallets = now.wallets | {asset: mark.wallets[asset] for asset in untold_empty}
    snapshot = Snapshot(now.at_ms, held, wallets, tuple(found.closed), now.until_ms)
    events = missed(history + _changes(found, to_tell, untold_empty), set())
    canceled, untold = forgotten_orders(mark, found.forgotten, history, account.id, now_ms)
    unrecoverable = "; ".join([*found.lost, *untold])
    untold_ms = min(filter(None, (untold_ms, hidden_ms, *absent_ms)), default=0)
    explained = not hidden_ms and not absent_ms
    return Recovered(events, snapshot, unrecoverable, explained, unasked, untold_ms, canceled)


def _hidden_ms(found: _Findings, history: list[UserRecord]) -> int:
    """Since when a swap's position is ahead of its fills. Options and futures also end without one. Not judged is one of which a
    fill is told late: the base was as old as the read that hid it."""
    late = {symbol for symbol, _ in found.late}
    changed_ms: dict[str, int] = {}
    for row in found.positions:
        changed_ms[row.symbol] = max(changed_ms.get(row.symbol, 0), int(row.update_ms or 0))

    def judged(symbol: str, order_id: str) -> bool:
        return product_of(symbol) == "SWAP" and symbol not in late

    return hidden_fills_ms(found.mark, history, found.snapshot, changed_ms, judged)


def _came_and_went(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Orders that ended since `proven_ms`, of every product. A refusal where the account was never seen tells of no loss: not every
    account has every product. No call tells of those that were cancelled unfilled more than two hours ago."""
    since_ms = min(max(mark.proven_ms, now_ms - RECENT_ORDERS_MS + EDGE_MS), now_ms)
    found = _Findings(account.id, mark, now_ms, since_ms, {}, [], Snapshot(now_ms, {}, {}), since_ms)
    used = _products(found)
    for product in PRODUCTS:
        yield from _orders_of(found, rows.ORDERS, product, told=product in used)
    return Recovered(missed(_history(found), set()), found.snapshot, "; ".join(found.lost))


def _holdings(
    mark: Watermark, at_ms: int, lost: list[str]
) -> Dialogue[tuple[dict[str, wire.AssetRow], list[wire.PositionRow], Snapshot]]:
    """Balances and positions, as one snapshot of the instant before the first of the two calls. Of what the key may not see it
    has the last known, and `lost` says so: the fills can be read all the same."""
    assets: dict[str, wire.AssetRow] = {}
    positions: list[wire.PositionRow] = []
    wallets, held, until_ms = dict(mark.wallets), dict(mark.positions), 0
    try:
        reply = yield rows.BALANCE
        at_ms = reply.at_ms or at_ms
        assets = {b.asset: b for account in rows.decode(reply, wire.AccountRow, "balance") for b in account.details}
        wallets = {b.asset: b.wallet for b in assets.values() if Decimal(b.wallet or "0")}
    except ExchangeRefused as refused:
        lost.append(f"wallets: {refused.verdict}")
    try:
        reply = yield rows.POSITIONS
        until_ms = reply.at_ms
        positions = rows.decode(reply, wire.PositionRow, "positions")
        sums: dict[str, Decimal] = {}
        for row in positions:
            sums[_key(row)] = sums.get(_key(row), Decimal(0)) + Decimal(parse.signed(row))
        held = {key: str(qty) for key, qty in sums.items() if qty}
    except ExchangeRefused as refused:
        lost.append(f"positions: {refused.verdict}")
    return assets, positions, Snapshot(at_ms, held, wallets, until_ms=until_ms)


def _key(row: wire.PositionRow) -> str:
    """The key of a position in snapshots and watermarks."""
    return position_key(row.symbol, row.position_side or "net", row.margin_mode)


def _in_each_mode(key: str) -> list[str]:
    """A watermark from before modes were told apart says "SYMBOL|side": that may have been either of two positions, or both."""
    return [key] if key != side_of(key) else [f"{key}|{mode}" for mode in MODES]


# ── Fills ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _fills(found: _Findings) -> Dialogue[None]:
    if found.now_ms - found.late_since_ms <= RECENT_FILLS_MS - EDGE_MS:
        yield from _fill_pages(found, rows.FILLS, {})
        return
    for product in PRODUCTS:
        try:
            yield from _fill_pages(found, rows.OLD_FILLS, {"instType": product})
        except ExchangeRefused as refused:
            found.lost.append(f"fills of {product}: {refused.verdict}")


def _fill_pages(found: _Findings, path: str, params: dict[str, str]) -> Dialogue[None]:
    """Backwards until a page reaches back before `late_since_ms`: a full one as a whole, as its rows are not in strict order of
    time. A short one is not the last by being short (a server may give fewer than asked for), but if it brings nothing new.
    `begin` filters on the time of the bill, a little after the fill's: a day of margin for those that were booked late."""
    after, begin, seen = "", str(max(0, found.late_since_ms - DAY_MS)), set[str]()
    known = found.mark.known_fills
    for _ in range(MAX_PAGES):
        page = rows.decode((yield rows.page_call(path, after, **params, begin=begin)), wire.FillRow, "fills")
        for row in page:
            if row.at_ms >= found.since_ms:
                found.fills[row.order_id, row.bill_id] = row
            elif row.at_ms >= found.late_since_ms:
                fill = rows.fill(row, found.account_id, found.now_ms)
                if fill.id not in found.mark.told and (fill.symbol, f"{fill.trade_id}/{fill.order_id}") not in known:
                    found.fills[row.order_id, row.bill_id] = row
                    found.late.add((row.symbol, row.order_id))
        older = [int(row.ts or 0) < found.late_since_ms for row in page]
        new = {row.bill_id for row in page} - seen
        if all(older) if len(page) >= PAGE else any(older) or not new:
            return
        seen |= new
        after = min((row.bill_id for row in page), key=_as_number)
    raise ConnectionFailed("fills: pages do not end")


def _as_number(ident: str) -> tuple[int, str]:
    return (len(ident), ident)  # ids are decimal


def _trial(found: _Findings) -> Watermark:
    """The base and the fills since: those read, and those that are known without them."""
    trial = Watermark(found.mark.proven_ms, found.mark.base)
    trial.booked = dict(found.mark.booked)
    for row in found.fills.values():
        if row.at_ms < found.snapshot.at_ms:
            trial.advance(rows.fill(row, found.account_id, found.now_ms))
    read = {(booking.key, booking.trade) for booking in trial.recent}
    for booking in found.mark.recent:
        if booking.key and booking.ts < found.snapshot.at_ms and (booking.key, booking.trade) not in read:
            trial.book(booking)
    return trial


def _legs(key: str) -> tuple[str, str] | None:
    """The two wallets that fills of a symbol move, where they make no position."""
    symbol = symbol_of(key)
    if product_of(symbol) != "SPOT":
        return None
    base, _, quote = symbol.partition("-")
    return base, quote


# ── Orders ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _take(found: _Findings, orders: list[wire.OrderRow]) -> None:
    for order in orders:
        known = found.orders.get(order.order_id)
        if known is None or int(known.update_ms or 0) <= int(order.update_ms or 0):
            found.orders[order.order_id] = order


def _open_orders(found: _Findings) -> Dialogue[None]:
    _take(found, (yield from _order_pages(found, rows.PENDING, {}, 0)))


def _order_pages(found: _Findings, path: str, params: dict[str, str], until_ms: int) -> Dialogue[list[wire.OrderRow]]:
    """Backwards by ordId; the pages are sorted by creation, so they end at orders created before `until_ms`."""
    after, orders = "", list[wire.OrderRow]()
    for _ in range(MAX_PAGES):
        page = rows.decode((yield rows.page_call(path, after, **params)), wire.OrderRow, "orders")
        orders += page
        if len(page) < PAGE or all(int(row.created_ms or 0) < until_ms for row in page):
            return orders
        after = min((row.order_id for row in page), key=_as_number)
    raise ConnectionFailed("orders: pages do not end")


def _order_history(found: _Findings) -> Dialogue[None]:
    """Finished orders of the products in use, created since the watermark, or a little before it."""
    recent = found.now_ms - found.late_since_ms <= RECENT_ORDERS_MS - EDGE_MS
    for product in _products(found):
        yield from _orders_of(found, rows.ORDERS if recent else rows.OLD_ORDERS, product)


def _orders_of(found: _Findings, path: str, product: str, *, told: bool = True) -> Dialogue[None]:
    """`told`: say so where they are refused."""
    try:
        _take(found, (yield from _order_pages(found, path, {"instType": product}, found.late_since_ms)))
    except ExchangeRefused as refused:
        if told:
            found.lost.append(f"orders of {product}: {refused.verdict}")


def _products(found: _Findings) -> list[str]:
    symbols = {*found.mark.symbols, *map(symbol_of, found.mark.orders), *(p.symbol for p in found.positions)}
    used = {product_of(symbol) for symbol in symbols} | {row.product for row in found.fills.values()}
    if "SPOT" in used:
        used.add("MARGIN")  # the same instId
    return [product for product in PRODUCTS if product in (used or {"SPOT", "SWAP"})]


def _ended_orders(found: _Findings) -> Dialogue[None]:
    """What became of the orders that were known as open, and the state of those with fills that are older than the gap."""
    wanted = {*found.mark.open_orders(), *((row.symbol, row.order_id) for row in found.fills.values() if row.order_id)}
    asked = 0
    for symbol, order_id in sorted(wanted):
        if order_id not in found.orders:
            call = rows.order_call(symbol, order_id, asked)
            asked += 1
            try:
                _take(found, rows.decode((yield call), wire.OrderRow, "order"))
            except ExchangeRefused as refused:  # 51603: cancelled unfilled more than two hours ago, or not visible yet
                if found.mark.is_open(symbol, order_id):
                    _refused_order(found, symbol, order_id, refused)
        row = found.orders.get(order_id)
        if row is not None and found.mark.is_open(symbol, order_id) and parse.STATES.get(row.state) in TERMINAL:
            found.closed.append(order_key(symbol, order_id))


def _refused_order(found: _Findings, symbol: str, order_id: str, refused: ExchangeRefused) -> None:
    """An order that was open ended then, unless REST lags: not in a read that starts that early, nor just after its symbol told
    something."""
    quiet = found.now_ms - found.mark.symbols.get(symbol, 0) > FORGOTTEN_MS
    if not quiet or found.mark.scope == "fills":
        return
    key = order_key(symbol, order_id)
    found.closed.append(key)
    if code_of(refused) == NO_SUCH_ORDER:
        found.forgotten.append(key)
    else:
        found.lost.append(f"order {order_id} of {symbol}: {refused.verdict}")


# ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────
def _history(found: _Findings) -> list[UserRecord]:
    """Fills and orders since the watermark; of older orders those that ended meanwhile (first-ever read: all open ones)."""
    events: list[UserRecord] = [rows.fill(row, found.account_id, found.now_ms) for row in found.fills.values()]
    for order_id, row in found.orders.items():
        event = parse.order_state(row, found.account_id, found.now_ms, "rest")
        if event is None:
            found.lost.append(f"order {order_id} of {row.symbol}: unknown state {row.state[:40]}")
        elif (
            (event.ts_event >= found.late_since_ms and event.id not in found.mark.told)
            or event.ts_event >= found.since_ms
            or order_key(row.symbol, order_id) in found.closed
            or (row.symbol, order_id) in found.late
            or (found.mark.base is None and event.status not in TERMINAL)
        ):
            events.append(event)
    return events


def _to_tell(found: _Findings) -> tuple[set[str], set[str]]:
    """Keys of positions that differ from the last known ones, and of those that may be flat and are left for the next read."""
    mark, now = found.mark, found.snapshot.positions
    moved = mark.moved_again(_moved(row) for row in found.fills.values() if row.product != "SPOT")
    to_tell = {mode for key in differing(mark.positions, now) | moved for mode in _in_each_mode(key)}
    unheard = mark.moved_unheard(rows.fill(row, found.account_id, found.now_ms) for row in found.fills.values())
    young = {_key(row) for row in found.positions if int(row.update_ms or 0) >= found.since_ms}
    to_tell |= {key for key in now.keys() & young if side_of(key) in unheard}
    unsure = {key for key in to_tell - now.keys() if not _surely_flat(found, key)}
    return to_tell - unsure, unsure & mark.positions.keys()


def _changes(found: _Findings, to_tell: set[str], untold_empty: set[str]) -> list[UserRecord]:
    """Positions and wallets that differ from the last known ones. What is known and absent is flat, or empty."""
    mark, account, now_ms = found.mark, found.account_id, found.now_ms
    events: list[UserRecord] = [
        parse.position(row, account, now_ms, "rest") for row in found.positions if _key(row) in to_tell
    ]
    for key in sorted(to_tell - found.snapshot.positions.keys()):
        symbol, side, mode = key.split("|")
        flat = wire.PositionRow(
            symbol=symbol, qty="0", update_ms=str(_flat_ms(found, key)), position_side=side, margin_mode=mode
        )
        events.append(parse.position(flat, account, now_ms, "rest"))
    spent = mark.spent_again(row.fee_asset for row in found.fills.values())
    for asset in sorted(differing(mark.wallets, found.snapshot.wallets) | spent):
        if asset not in found.assets and asset in found.snapshot.wallets:
            continue  # the key may not see it
        if asset in untold_empty:
            continue
        row = found.assets.get(asset) or wire.AssetRow(asset=asset, wallet="0", update_ms=str(found.snapshot.at_ms))
        events.append(parse.balance(row, account, now_ms, "rest"))
    return events


def _moved(row: wire.FillRow) -> str:
    return f"{row.symbol}|{row.position_side or 'net'}"


def _latest_ms(found: _Findings, key: str) -> int:
    """When the position last changed, as far as fills tell: the exchange stamps both alike."""
    symbol, side = side_of(key).split("|")
    fills = [row for row in found.fills.values() if (row.symbol, row.position_side or "net") == (symbol, side)]
    known = [booking.ts for booking in found.mark.recent if booking.key == side_of(key)]
    return max([row.at_ms for row in fills] + known, default=found.mark.symbols.get(symbol, 0))


def _flat_ms(found: _Findings, key: str) -> int:
    """When a position ended: with the fill that was missed, and without one (an option expired, a future was delivered) by the time
    of the snapshot. The last known fill is no end: the position was told under its time, and of two at once the stream's counts."""
    latest_ms = _latest_ms(found, key)
    return latest_ms if latest_ms > found.mark.symbols.get(side_of(key).split("|")[0], 0) else found.snapshot.at_ms


def _surely_flat(found: _Findings, key: str) -> bool:
    """A read that is old does not show a position that was just opened, and what is told by its time outranks all that was told
    before: believe it if the fills of that position agree, or if the last one is too old for that."""
    if found.snapshot.at_ms - _latest_ms(found, key) >= ABSENT_MS:
        return True
    return found.mark.base is not None and side_of(key) not in _trial(found).unexplained(found.snapshot, _legs)[0]


def _touched_ms(found: _Findings, asset: str) -> int:
    """When a fill last changed a wallet, as far as is known."""

    def touches(symbol: str, fee_asset: str) -> bool:
        return asset in (_legs(symbol) or (fee_asset,))

    read = [row.at_ms for row in found.fills.values() if touches(row.symbol, row.fee_asset)]
    known = [booking.ts for booking in found.mark.recent if touches(symbol_of(booking.key), booking.asset)]
    return max(read + known, default=0)


def _surely_empty(found: _Findings, asset: str) -> bool:
    """The same of a wallet."""
    if found.snapshot.at_ms - _touched_ms(found, asset) >= ABSENT_MS:
        return True
    return found.mark.base is not None and asset not in _trial(found).unexplained(found.snapshot, _legs)[1]
