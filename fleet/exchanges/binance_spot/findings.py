"""What one read-back of a Binance Spot account knows so far, and what that explains. Pure; shared by recover*.py."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from fleet.core.exchange import HttpCall, HttpReply
from fleet.core.recovery import Legs, Snapshot, Watermark, symbol_of
from fleet.exchanges.binance_spot import assets, rows, wire

BAD_SYMBOL = "-1121"  # listed no more
T = TypeVar("T")
Dialogue = Generator[HttpCall, HttpReply, T]


@dataclass
class Findings:
    """What one read-back knows so far. Local to one plan."""

    account_id: str
    mark: Watermark
    now_ms: int
    since_ms: int
    account: wire.AccountRow
    snapshot: Snapshot
    trades: dict[tuple[str, str], wire.TradeRow] = field(default_factory=dict)  # and allocations nobody knew
    orders: dict[tuple[str, str], wire.OrderRow] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)  # symbols whose trades are in
    frugal: bool = False  # a proof, and every wallet is explained
    unasked: set[str] = field(default_factory=set)  # symbols whose known orders a proof leaves to the next one
    closed: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)  # known as open, and archived
    lost: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)  # lost too, unless nothing is missing

    @property
    def legs(self) -> Legs:
        base = self.mark.base.wallets if self.mark.base else {}
        return assets.legs({*base, *self.snapshot.wallets, *self.mark.wallets, *self.mark.earned})

    @property
    def locked(self) -> dict[str, Decimal]:
        return {row.asset: Decimal(row.locked) for row in self.account.balances if Decimal(row.locked)}

    def keep(self, order: wire.OrderRow) -> None:
        """Of two answers about one order the newer counts."""
        key = (order.symbol, str(order.order_id))
        if key not in self.orders or self.orders[key].update_ms <= order.update_ms:
            self.orders[key] = order

    def trial(self) -> Watermark:
        """The watermark with the trades that were read in place of those known before, but for known ones that REST does not
        show yet, or not among trades: allocations."""
        trial = self.mark.without(self.read)
        for booking in self.mark.recent:
            symbol = symbol_of(booking.key)
            if symbol in self.read and (symbol, booking.trade) not in self.trades and booking.ts < self.snapshot.at_ms:
                trial.book(booking)
        for trade in self.trades.values():
            if trade.trade_ms < self.snapshot.at_ms:
                trial.advance(rows.fill(trade, "", self.account_id, self.now_ms))
        return trial

    def explains(self) -> bool:
        """Do the trades that were read, and the known ones of symbols not read, lead from the base to the snapshot?"""
        return self.trial().explains(self.snapshot, self.legs)

    def open_assets(self) -> dict[str, str]:
        """Assets whose wallet is not yet explained, and by how much."""
        return self.trial().unexplained(self.snapshot, self.legs)[1]

    def fresh(self) -> list[wire.TradeRow]:
        """The trades that were read, but for those that the watermark has booked: Kafka has these. By identity only: a sweep gives
        equal fills in one millisecond."""
        booked = self.mark.known_fills
        return [trade for key, trade in self.trades.items() if key not in booked]
