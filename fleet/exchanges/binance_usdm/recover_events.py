"""What a read-back (recover.py) found, as events; step 6 of it. Pure."""

from __future__ import annotations

from decimal import Decimal

from fleet.core.errors import ExchangeRefused
from fleet.core.events import Order, UserRecord
from fleet.core.recovery import TERMINAL, differing, order_key
from fleet.core.replies import decode
from fleet.exchanges.binance_usdm import rows, wire
from fleet.exchanges.binance_usdm.findings import Dialogue, Findings
from fleet.exchanges.binance_usdm.parse import algo_order

REST_LAG_MS = 5000


def history(found: Findings) -> list[UserRecord]:
    """Fills and orders since the watermark; of older orders those that ended meanwhile (first-ever read: all open ones)."""
    events: list[UserRecord] = []
    for trade in found.trades.values():
        order = found.orders.get((trade.symbol, str(trade.order_id)))
        known = found.mark.orders.get(order_key(trade.symbol, str(trade.order_id)))
        client = order.client_id if order else known.client_order_id if known else ""
        events.append(rows.fill(trade, client, found.account_id, found.now_ms))
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


def _is_news(found: Findings, event: Order) -> bool:
    """Changed since the watermark, ended, or open and nobody knew."""
    unknown = event.status not in TERMINAL and not found.mark.is_open(event.symbol, event.order_id)
    ended = order_key(event.symbol, event.order_id) in found.closed
    return unknown or ended or event.ts_event >= found.since_ms or found.mark.base is None


def changes(found: Findings) -> Dialogue[list[UserRecord]]:
    """Positions and wallets that differ from the last known ones. A known position that is absent is flat."""
    mark, now = found.mark, found.snapshot.positions
    to_tell = differing(mark.positions, now)
    to_tell |= mark.moved_again(found.traded())
    read = (rows.fill(trade, "", found.account_id, found.now_ms) for trade in found.trades.values())
    to_tell |= mark.moved_unheard(read) & now.keys()
    entries: dict[str, str] = {}
    for _ in range(2):  # once more where a reply leaves one out
        if to_tell & now.keys() <= entries.keys():
            break
        try:
            risks = decode((yield rows.RISK), list[wire.RiskRow], "positionRisk")
        except ExchangeRefused:
            break  # the quantity is known; only the entry price stays untold
        entries |= {rows.key_of(risk): risk.entry for risk in risks if not _is_stale(found, risk)}
    listed = _listed(found)
    lagging = {key for key in to_tell & now.keys() if 0 < listed[key].update_ms < found.latest_fill_ms(key)}
    lagging |= {key for key in to_tell - now.keys() if not _surely_flat(found, key)}
    events: list[UserRecord] = []
    for key in sorted(to_tell - lagging):  # of which we do not know more than this account read
        symbol, _, side = key.partition("|")
        row = listed.get(key) or wire.PositionRow(symbol=symbol, side=side, qty="0")
        changed_ms = row.update_ms or _flat_since_ms(found, key) or found.snapshot.at_ms
        entry = entries.get(key, "" if key in now else "0")
        events.append(rows.position(row, entry, changed_ms, found.account_id, found.now_ms))
    assets = {row.asset: row for row in found.account.assets}
    spent = mark.spent_again(trade.fee_asset for trade in found.trades.values())
    for asset in sorted(differing(mark.wallets, found.snapshot.wallets) | spent):
        wallet = assets.get(asset) or wire.AssetRow(asset=asset, wallet="0")
        events.append(rows.balance(wallet, found.account_id, found.now_ms))
    return events


def _listed(found: Findings) -> dict[str, wire.PositionRow]:
    return {rows.key_of(row): row for row in found.account.positions}


def _is_stale(found: Findings, risk: wire.RiskRow) -> bool:
    """Is it of another position than the account's? The call may lag: better no entry price than that of an older position."""
    row = _listed(found).get(rows.key_of(risk))
    return row is not None and risk.qty is not None and Decimal(risk.qty) != Decimal(row.qty)


def _flat_since_ms(found: Findings, key: str) -> int:
    """When a position became flat. Where no fill tells of that yet, when a wallet last changed: with the time of the fill before,
    the socket's word of that fill would outrank it in Postgres."""
    paid_ms = max((row.update_ms for row in found.account.assets), default=0)
    untold = key in found.trial().unexplained(found.snapshot)[0]
    return max(found.latest_ms(key), paid_ms if untold else 0)


def _surely_flat(found: Findings, key: str) -> bool:
    """An account read that lags may not show a position that the stream just opened: believe it if the fills agree, or if
    the last fill is too old for lag."""
    return found.snapshot.at_ms - found.latest_ms(key) >= REST_LAG_MS or found.explains()
