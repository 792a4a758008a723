"""Ledger rows of accounts. In: an account's changes; out: rows of type order, fill, position, balance and account.
Pure; used by every venue.
"""

from __future__ import annotations

from simulator.account import Account
from simulator.ledger import Row
from simulator.records import Change, Fill, Order, text


class UserRows:
    """Makes the rows of one venue; the ledger fills in seq and sockets."""

    def __init__(self, exchange: str, market: str) -> None:
        self._exchange = exchange
        self._market = market

    def row(self, account: Account, kind: str, symbol: str, ts: int) -> Row:
        """A row with the common fields only."""
        return Row(0, self._exchange, self._market, account.api_key, kind, symbol, None, None, ts, ())

    def event(self, account: Account, name: str, ts: int, symbol: str = "") -> Row:
        """An account event by its exchange's name."""
        row = self.row(account, "account", symbol, ts)
        row.event = name
        return row

    def money(self, account: Account, change: Change) -> list[Row]:
        """A balance row per asset and a position row per position that changed."""
        rows = []
        for asset in change.assets:
            row = self.row(account, "balance", "", change.time_ms)
            row.asset, row.wallet = asset.asset, text(asset.wallet)
            rows.append(row)
        for position in change.positions:
            row = self.row(account, "position", position.symbol, change.time_ms)
            row.side, row.qty, row.price = position.side, text(position.qty), text(position.entry)
            rows.append(row)
        return rows

    def order(self, account: Account, order: Order) -> Row:
        """The order as it stands."""
        row = self.row(account, "order", order.symbol, order.updated_ms)
        row.order_id, row.side, row.status = str(order.number), order.side.lower(), order.status.lower()
        row.qty, row.price = text(order.qty), text(order.price)
        return row

    def fill(self, account: Account, fill: Fill) -> Row:
        """One execution."""
        row = self.row(account, "fill", fill.symbol, fill.time_ms)
        row.order_id, row.trade_id, row.side = str(fill.order_number), str(fill.id), fill.side.lower()
        row.price, row.qty, row.fee = text(fill.price), text(fill.qty), text(fill.fee)
        return row
