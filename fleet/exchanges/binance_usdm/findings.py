"""What one read-back of a Binance USDⓈ-M account knows so far, and what that explains. Pure; shared by recover*.py."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

from fleet.core.errors import ExchangeRefused
from fleet.core.exchange import HttpCall, HttpReply, code_of
from fleet.core.recovery import Snapshot, Watermark, order_key, symbol_of
from fleet.exchanges.binance_usdm import rows, wire
from fleet.exchanges.binance_usdm.limits import WINDOW_MS

T = TypeVar("T")
Dialogue = Generator[HttpCall, HttpReply, T]

ACTIVE_MS = 3_600_000  # an account that traded within this time may have placed and cancelled orders that left no trace
RECENT_SYMBOLS = 3  # symbols whose open orders are looked at though nothing hints at any; and so many a proof looks at
MAX_PAGES = 1000
FORGOTTEN_MS = (
    60_000  # an order the exchange does not know is forgotten only if its symbol was quiet this long (REST lags)
)
NO_SUCH_ORDER = "-2013"
BAD_SYMBOL = "-1121"  # listed no more


@dataclass
class Findings:
    """What one read-back knows so far. Local to one plan."""

    account_id: str
    mark: Watermark
    now_ms: int
    since_ms: int
    account: wire.AccountRow
    snapshot: Snapshot
    trades: dict[tuple[str, int, int], wire.TradeRow] = field(default_factory=dict)
    orders: dict[tuple[str, str], wire.OrderRow] = field(default_factory=dict)
    conditional: dict[str, wire.AlgoRow] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)  # symbols whose trades are in
    every_order: bool | None = None  # are all orders since the watermark in? None = not asked
    closed: list[str] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)  # known as open, and REST knows nothing of them
    lost: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)  # lost too, unless nothing is missing

    @property
    def frugal(self) -> bool:
        """A proof that did not have to ask for all orders."""
        return self.mark.scope == "proof" and self.every_order is None

    def keep(self, order: wire.OrderRow) -> None:
        """Of two answers about one order the newer counts."""
        key = (order.symbol, str(order.order_id))
        self.forgotten.discard(order_key(*key))
        if key not in self.orders or self.orders[key].update_ms <= order.update_ms:
            self.orders[key] = order

    def refused(self, symbol: str, order_id: str, refused: ExchangeRefused) -> None:
        """An order is not told. A known one ended then, unless REST lags: not in a read that starts that early, nor just after
        its symbol told something."""
        quiet = self.now_ms - self.mark.symbols.get(symbol, 0) > FORGOTTEN_MS
        if not self.mark.is_open(symbol, order_id) or not quiet or self.mark.scope == "fills":
            return
        if code_of(refused) == NO_SUCH_ORDER:
            self.forgotten.add(order_key(symbol, order_id))
        else:
            self.closed.append(order_key(symbol, order_id))
            self.lost.append(f"order {order_id} of {symbol}: {refused.verdict}")

    def trial(self) -> Watermark:
        """The watermark with the trades that were read in place of those known before, but for known ones that REST does not
        show yet."""
        trial = self.mark.without(self.read)
        shown: set[tuple[str, str]] = set()
        for trade in self.trades.values():
            fill = rows.fill(trade, "", self.account_id, self.now_ms)
            shown.add((f"{fill.symbol}|{fill.position_side}", f"{fill.trade_id}/{fill.order_id}"))
            if trade.trade_ms < self.snapshot.at_ms:
                trial.advance(fill)
        for booking in self.mark.recent:
            if symbol_of(booking.key) in self.read and (booking.key, booking.trade) not in shown:
                trial.book(booking)
        return trial

    def explains(self) -> bool:
        """Do the trades that were read, and the known ones of symbols not read, lead from the base to the snapshot?"""
        return self.mark.base is not None and self.trial().explains(self.snapshot)

    def traded(self) -> set[str]:
        """Keys of the positions that fills since the watermark moved, known ones and those that were read."""
        read = {f"{t.symbol}|{t.position_side.lower()}" for t in self.trades.values()}
        return read | {b.key for b in self.mark.recent if b.key and b.ts >= self.since_ms}

    def latest_fill_ms(self, key: str) -> int:
        """When the position last changed, as far as fills tell: the exchange stamps both alike. 0 = none is known."""
        read = [t.trade_ms for t in self.trades.values() if f"{t.symbol}|{t.position_side.lower()}" == key]
        return max([*read, *(booking.ts for booking in self.mark.recent if booking.key == key)], default=0)

    def latest_ms(self, key: str) -> int:
        return self.latest_fill_ms(key) or self.mark.symbols.get(symbol_of(key), 0)

    def recent_symbols(self, count: int = RECENT_SYMBOLS) -> set[str]:
        """The symbols used last."""
        latest = self.mark.symbols
        return set(sorted(latest, key=lambda s: -latest[s])[:count])


def windows(since_ms: int, now_ms: int) -> list[dict[str, int]]:
    """startTime and endTime of calls that may span seven days; the last is open-ended, so that nothing newer is cut off."""
    spans = []
    while since_ms + WINDOW_MS < now_ms:
        spans.append({"startTime": since_ms, "endTime": since_ms + WINDOW_MS})
        since_ms += WINDOW_MS + 1
    return [*spans, {"startTime": since_ms}]
