"""The end of a read-back (recover.py): what was found, as events. Pure."""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from fleet.core.events import Order, UserRecord
from fleet.core.recovery import TERMINAL, differing, order_key, symbol_of
from fleet.exchanges.binance_spot import rows, wire
from fleet.exchanges.binance_spot.findings import Findings
from fleet.exchanges.binance_spot.parse import balance

SETTLED_MS = 250
"""So long after a wallet's last change, by a clock that is not quite the exchange's, an account shows all of that millisecond. The
socket, whose word counts at equal times, may have told but the first of two changes in it: a market order is placed and filled at
once."""


def history(found: Findings) -> list[UserRecord]:
    """Fills and orders since the watermark; of older orders those that ended meanwhile (first-ever read: all open ones)."""
    events: list[UserRecord] = []
    for trade in found.fresh():
        order = found.orders.get((trade.symbol, str(trade.order_id)))
        events.append(rows.fill(trade, order.client_id if order else "", found.account_id, found.now_ms))
    for (symbol, order_id), row in found.orders.items():
        event = rows.order(row, found.account_id, found.now_ms)
        if event is None:
            found.lost.append(f"order {order_id} of {symbol}: unknown status {row.status[:40]}")
        elif row.update_ms >= found.since_ms or order_key(symbol, order_id) in found.closed or _unknown(found, event):
            events.append(event)
    return events


def _unknown(found: Findings, order: Order) -> bool:
    """Open, and nobody knew, or not for this price, quantity and filled quantity; at a first-ever read nobody knew of any."""
    known = found.mark.orders.get(order_key(order.symbol, order.order_id))
    told = known and [Decimal(known.price), Decimal(known.qty), Decimal(known.filled_qty)]
    unknown = told != [Decimal(order.price), Decimal(order.qty), Decimal(order.filled_qty)]
    return (order.status not in TERMINAL and unknown) or found.mark.base is None


def changes(found: Findings) -> list[UserRecord]:
    """Wallets that differ from the last known ones, or of which another part is free, as after an order that was placed or ended
    unfilled; a known one that is absent is empty."""
    listed = {row.asset: row for row in found.account.balances}
    touched = _touched(found)
    spent = found.mark.spent_again({*touched, *_booked(found, found.since_ms)})
    changed = differing(found.mark.wallets, found.snapshot.wallets)
    locked = differing(found.mark.available, {asset: row.free for asset, row in listed.items()}) - changed
    # What they do not explain, or what a known fill changed that is not read again, changed later than they tell.
    later = found.open_assets().keys() | _booked(found) | locked
    events: list[UserRecord] = []
    for asset in sorted(changed | locked | spent):
        row = listed.get(asset) or wire.BalanceRow(asset, "0", "0")
        traded_ms = 0 if asset in later else touched.get(asset, 0)
        # Nor later than the account's latest change: the trades may be ahead of an old copy.
        changed_ms = min(filter(None, (traded_ms, found.account.update_ms)), default=found.snapshot.at_ms)
        event = balance(row, changed_ms, found.account_id, found.now_ms, "rest")
        if found.snapshot.at_ms - changed_ms > SETTLED_MS:
            event = replace(event, ts_event=changed_ms + 1)
        events.append(event)
    return events


def _booked(found: Findings, since_ms: int = 0) -> set[str]:
    """Assets of the fills since then that are known and were not read."""
    known, legs = [b for b in found.mark.recent if b.ts >= since_ms], found.legs
    fills = [b for b in known if symbol_of(b.key) not in found.read]
    return {asset for fill in fills for asset in (*(legs(fill.key) or ()), fill.asset)}


def _touched(found: Findings) -> dict[str, int]:
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
