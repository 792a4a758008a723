"""One account at a simulated exchange, with its past. In: record versions from the engine; out: the account as of any
recent instant.

`Account.view(lag_ms, now_ms)` is the account as REST sees it when REST lags the engine. Pure; used in the simulator
process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from simulator.records import Asset, Fill, Income, Order, Position

VERSIONS_KEPT = 512
T = TypeVar("T")


@dataclass(slots=True)
class History(Generic[T]):
    """Versions of one state, oldest first."""

    versions: deque[tuple[int, T]] = field(default_factory=lambda: deque(maxlen=VERSIONS_KEPT))

    def put(self, time_ms: int, value: T) -> None:
        self.versions.append((time_ms, value))

    @property
    def last(self) -> T:
        return self.versions[-1][1]

    def at(self, as_of_ms: int | None) -> T | None:
        """The version in force at `as_of_ms` (None = now), or None when there was none yet."""
        if as_of_ms is None:
            return self.versions[-1][1]
        for time_ms, value in reversed(self.versions):
            if time_ms <= as_of_ms:
                return value
        return None


@dataclass(slots=True)
class Account:
    """One account at one venue. `state` is what PATCH /accounts sets: active, invalid, no_permission, ip_banned."""

    api_key: str
    secret: str
    passphrase: str
    uid: int
    state: str = "active"
    hedge_mode: bool = False
    leverage: dict[str, int] = field(default_factory=dict)
    orders: dict[int, History[Order]] = field(default_factory=dict)
    open_ids: dict[int, None] = field(default_factory=dict)
    fills: dict[str, list[Fill]] = field(default_factory=dict)
    assets: dict[str, History[Asset]] = field(default_factory=dict)
    positions: dict[tuple[str, str], History[Position]] = field(default_factory=dict)
    incomes: list[Income] = field(default_factory=list)
    last_ms: int = 0

    def instant(self, now_ms: int) -> int:
        """The next instant of this account: `now_ms`, or just after the last one."""
        self.last_ms = max(now_ms, self.last_ms + 1)
        return self.last_ms

    def order(self, order_id: int) -> Order | None:
        history = self.orders.get(order_id)
        return history.last if history else None

    def view(self, lag_ms: int, now_ms: int) -> View:
        """The account as it was `lag_ms` ago (0 = now)."""
        return View(self, None if lag_ms <= 0 else now_ms - lag_ms)


class View:
    """Read access to an account as of one instant; what happened later does not show."""

    def __init__(self, account: Account, as_of_ms: int | None) -> None:
        self._account = account
        self._as_of_ms = as_of_ms

    def orders(self) -> list[Order]:
        """All orders as they were placed."""
        found = [history.at(self._as_of_ms) for history in self._account.orders.values()]
        return sorted((order for order in found if order is not None), key=lambda order: order.created_ms)

    def open_orders(self) -> list[Order]:
        if self._as_of_ms is not None:
            return [order for order in self.orders() if order.is_open]
        return [self._account.orders[ident].last for ident in self._account.open_ids]

    def order(self, order_id: int) -> Order | None:
        history = self._account.orders.get(order_id)
        return history.at(self._as_of_ms) if history else None

    def fills(self, symbol: str) -> list[Fill]:
        """Fills of one symbol, ascending by id."""
        rows = self._account.fills.get(symbol, [])
        if self._as_of_ms is None:
            return rows
        return rows[: bisect_right(rows, self._as_of_ms, key=lambda fill: fill.time_ms)]

    def assets(self) -> list[Asset]:
        found = [history.at(self._as_of_ms) for history in self._account.assets.values()]
        return [asset for asset in found if asset is not None]

    def positions(self) -> list[Position]:
        found = [history.at(self._as_of_ms) for history in self._account.positions.values()]
        return [position for position in found if position is not None]

    def incomes(self) -> list[Income]:
        rows = self._account.incomes
        return rows if self._as_of_ms is None else [row for row in rows if row.time_ms <= self._as_of_ms]
