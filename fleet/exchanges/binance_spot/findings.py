"""What one read-back of a Binance Spot account knows so far, and what that explains. Pure; shared by recover*.py."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from msgspec.structs import replace

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

    def trial(self, since_ms: int, until_ms: int) -> Watermark:
        """The watermark with what changed from `since_ms` to before `until_ms`: the trades that were read in place of those known
        before, but for known ones that REST does not show yet, or not among trades: allocations."""
        trial, base = self.mark.without(self.read), self.mark.base
        if base is None:
            return trial
        for booking in self.mark.recent:
            symbol, counts = symbol_of(booking.key), since_ms <= booking.ts < until_ms
            if symbol in self.read:
                if counts and (symbol, booking.trade) not in self.trades:
                    trial.book(replace(booking, ts=base.at_ms))
            elif counts and booking.ts < base.at_ms:
                trial.book(replace(booking, ts=base.at_ms))
            elif not counts and booking.ts >= base.at_ms:
                trial.book(booking.undone())
        for trade in self.trades.values():
            if since_ms <= trade.trade_ms < until_ms:
                fill = rows.fill(trade, "", self.account_id, self.now_ms)
                trial.advance(replace(fill, ts_event=base.at_ms))
        return trial

    def trials(self) -> list[Watermark]:
        """Since the base and until the snapshot were asked for; and, as REST's copies may be old, by the latest change that each
        says it shows."""
        base, shown_ms = self.mark.base, self.account.update_ms
        trials = [self.trial(base.at_ms if base else 0, self.snapshot.at_ms)]
        if base is not None and 0 < base.shown_ms <= shown_ms:
            trials.append(self.trial(base.shown_ms + 1, shown_ms + 1))
        return trials

    def explains(self) -> bool:
        """Do the trades that were read, and the known ones of symbols not read, lead from the base to the snapshot?"""
        return any(trial.explains(self.snapshot, self.legs) for trial in self.trials())

    def behind(self) -> bool:
        """Do the trades that were read not lead to the account, or further?"""
        newest_ms = max((trade.trade_ms for trade in self.trades.values()), default=0)
        return newest_ms > self.account.update_ms or (newest_ms > 0 and not self.explains())

    def open_assets(self) -> dict[str, str]:
        """Assets whose wallet is not yet explained, and by how much."""
        return min((trial.unexplained(self.snapshot, self.legs)[1] for trial in self.trials()), key=len)

    def fresh(self) -> list[wire.TradeRow]:
        """The trades that were read, but for those that the watermark has booked: Kafka has these. By identity only: a sweep gives
        equal fills in one millisecond."""
        booked = self.mark.known_fills
        return [trade for key, trade in self.trades.items() if key not in booked]
