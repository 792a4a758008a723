"""Accounts and their money: orders → fills → positions → balances, venue-agnostic, in Decimal. In: order requests;
out: Change records.

One change is one instant of the engine (`time_ms`, strictly increasing per account), so the stream and REST, which are both
written from the same records, agree in ids, times and amounts. Every state is an immutable record and its past versions are
kept for a while: `Account.view(as_of_ms)` is the account as REST sees it when REST lags the engine. Pure apart from the clock
value passed in; runs in the simulator process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Generic, Literal, TypeVar

import msgspec

ZERO = Decimal(0)
MONEY = Decimal("0.00000001")
VERSIONS_KEPT = 512
ORDERS_KEPT = 50_000
OPEN_STATUSES = frozenset(("NEW", "PARTIALLY_FILLED"))
T = TypeVar("T")


def money(value: Decimal) -> Decimal:
    """Rounded to 8 decimals, as balances are kept."""
    return value.quantize(MONEY, rounding=ROUND_HALF_UP)


def text(value: Decimal) -> str:
    """Plain decimal notation without superfluous zeros."""
    if value == 0:
        return "0"
    out = format(value, "f")
    return out.rstrip("0").rstrip(".") if "." in out else out


class Instrument(msgspec.Struct, frozen=True):
    """What is traded. `kind` linear: positions settled in `quote`; spot: base and quote change hands."""

    symbol: str
    base: str
    quote: str
    tick: Decimal
    step: Decimal
    kind: Literal["linear", "spot"] = "linear"


class Order(msgspec.Struct, frozen=True):
    """One order at one instant; sides are BUY and SELL, statuses NEW, PARTIALLY_FILLED, FILLED, CANCELED, EXPIRED, REJECTED."""

    id: int
    client_id: str
    symbol: str
    side: str
    type: str
    time_in_force: str
    price: Decimal
    qty: Decimal
    created_ms: int
    updated_ms: int
    filled: Decimal = ZERO
    cost: Decimal = ZERO
    status: str = "NEW"
    position_side: str = "BOTH"
    reduce_only: bool = False
    stop_price: Decimal = ZERO
    expiry_reason: str = "0"

    @property
    def average(self) -> Decimal:
        return self.cost / self.filled if self.filled else ZERO

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES


class Fill(msgspec.Struct, frozen=True):
    """One execution of one order."""

    id: int
    order_id: int
    client_id: str
    symbol: str
    side: str
    position_side: str
    price: Decimal
    qty: Decimal
    fee: Decimal
    fee_asset: str
    realized: Decimal
    is_maker: bool
    time_ms: int


class Asset(msgspec.Struct, frozen=True):
    """A balance. `locked` is what open spot orders hold; futures keep it 0."""

    asset: str
    wallet: Decimal
    updated_ms: int
    locked: Decimal = ZERO


class Position(msgspec.Struct, frozen=True):
    """A linear position; `qty` is signed, `realized` accumulates profit before fees."""

    symbol: str
    side: str
    qty: Decimal = ZERO
    entry: Decimal = ZERO
    break_even: Decimal = ZERO
    realized: Decimal = ZERO
    margin_asset: str = "USDT"
    updated_ms: int = 0


class Income(msgspec.Struct, frozen=True):
    """A movement of money: REALIZED_PNL, COMMISSION, FUNDING_FEE, TRANSFER."""

    kind: str
    amount: Decimal
    asset: str
    symbol: str
    time_ms: int
    id: int
    trade_id: int | None = None


class Change(msgspec.Struct):
    """What one instant changed. `delta` is the balance change that is neither profit nor fee (deposits, funding)."""

    time_ms: int
    reason: str
    order: Order | None = None
    fill: Fill | None = None
    assets: list[Asset] = []
    positions: list[Position] = []
    delta: Decimal = ZERO


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
        """All orders in order of id."""
        found = [history.at(self._as_of_ms) for history in self._account.orders.values()]
        return sorted((order for order in found if order is not None), key=lambda order: order.id)

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


class Engine:
    """Ids and arithmetic of one venue. `trade_ids` hands out the venue's next trade id of a symbol."""

    def __init__(
        self, instruments: dict[str, Instrument], *, taker_fee: Decimal, maker_fee: Decimal, first_order_id: int
    ) -> None:
        self.instruments = instruments
        self._taker_fee = taker_fee
        self._maker_fee = maker_fee
        self._next_order_id = first_order_id
        self._next_income_id = first_order_id * 10

    def deposit(self, account: Account, asset: str, amount: Decimal, now_ms: int, kind: str = "TRANSFER") -> Change:
        """Add `amount` (may be negative) to a wallet."""
        time_ms = account.instant(now_ms)
        changed = self._add(account, asset, amount, time_ms)
        self._income(account, kind, amount, asset, "", time_ms)
        reason = "FUNDING_FEE" if kind == "FUNDING_FEE" else "DEPOSIT" if amount >= 0 else "WITHDRAW"
        return Change(time_ms, reason, assets=[changed], delta=amount)

    def place(self, account: Account, *, symbol: str, side: str, qty: Decimal, price: Decimal, now_ms: int,
    order_type: str = "LIMIT",
              time_in_force: str = "GTC", client_id: str = "", position_side: str = "BOTH",
              reduce_only: bool = False) -> Change:  # fmt: skip
        """A new order, accepted and resting."""
        time_ms = account.instant(now_ms)
        self._next_order_id += 1
        ident = self._next_order_id
        order = Order(
            ident, client_id or f"sim{ident:x}", symbol, side, order_type, time_in_force, price, qty, time_ms, time_ms,
            position_side=position_side, reduce_only=reduce_only,
        )  # fmt: skip
        account.orders[ident] = History()
        account.open_ids[ident] = None
        self._put_order(account, order)
        change = Change(time_ms, "ORDER", order=order)
        if self.instruments[symbol].kind == "spot":
            change.assets = [self._lock(account, order, qty, time_ms)]
        self._forget_oldest(account)
        return change

    def fill(
        self,
        account: Account,
        order_id: int,
        qty: Decimal,
        price: Decimal,
        *,
        trade_id: int,
        is_maker: bool,
        now_ms: int,
    ) -> Change:
        """One execution of a resting order: the order, its money and its position move in the same instant."""
        time_ms = account.instant(now_ms)
        order = account.orders[order_id].last
        filled = order.filled + qty
        order = msgspec.structs.replace(
            order,
            filled=filled,
            cost=order.cost + qty * price,
            updated_ms=time_ms,
            status="FILLED" if filled >= order.qty else "PARTIALLY_FILLED",
        )
        self._put_order(account, order)
        instrument = self.instruments[order.symbol]
        settle = self._settle_spot if instrument.kind == "spot" else self._settle_linear
        change = settle(account, order, instrument, qty, price, trade_id, is_maker, time_ms)
        fill = change.fill
        assert fill is not None
        account.fills.setdefault(order.symbol, []).append(fill)
        return change

    def end(
        self, account: Account, order_id: int, now_ms: int, status: str = "CANCELED", expiry_reason: str = "0"
    ) -> Change:
        """Cancel or expire a resting order."""
        time_ms = account.instant(now_ms)
        order = account.orders[order_id].last
        ended = msgspec.structs.replace(order, status=status, updated_ms=time_ms, expiry_reason=expiry_reason)
        self._put_order(account, ended)
        change = Change(time_ms, "ORDER", order=ended)
        if self.instruments[order.symbol].kind == "spot":
            change.assets = [self._lock(account, order, order.filled - order.qty, time_ms)]
        return change

    def amend(self, account: Account, order_id: int, now_ms: int, *, price: Decimal, qty: Decimal) -> Change:
        """Change price and quantity of a resting order."""
        time_ms = account.instant(now_ms)
        order = msgspec.structs.replace(account.orders[order_id].last, price=price, qty=qty, updated_ms=time_ms)
        self._put_order(account, order)
        return Change(time_ms, "AMENDMENT", order=order)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _put_order(self, account: Account, order: Order) -> None:
        account.orders[order.id].put(order.updated_ms, order)
        if not order.is_open:
            account.open_ids.pop(order.id, None)

    @staticmethod
    def _forget_oldest(account: Account) -> None:
        if len(account.orders) > ORDERS_KEPT:
            for ident in [i for i in list(account.orders)[: ORDERS_KEPT // 10] if i not in account.open_ids]:
                del account.orders[ident]

    def _settle_linear(self, account: Account, order: Order, instrument: Instrument, qty: Decimal, price: Decimal, trade_id: int,
                       is_maker: bool, time_ms: int) -> Change:  # fmt: skip
        signed = qty if order.side == "BUY" else -qty
        key = (order.symbol, order.position_side)
        history = account.positions.setdefault(key, History())
        before = (
            history.last
            if history.versions
            else Position(order.symbol, order.position_side, margin_asset=instrument.quote)
        )
        fee = money(qty * price * (self._maker_fee if is_maker else self._taker_fee))
        position, realized = moved(before, signed, price, fee, time_ms)
        history.put(time_ms, position)
        asset = self._add(account, instrument.quote, realized - fee, time_ms)
        if realized:
            self._income(account, "REALIZED_PNL", realized, instrument.quote, order.symbol, time_ms, trade_id)
        self._income(account, "COMMISSION", -fee, instrument.quote, order.symbol, time_ms, trade_id)
        fill = Fill(
            trade_id, order.id, order.client_id, order.symbol, order.side, order.position_side, price, qty, fee, instrument.quote,
            realized, is_maker, time_ms,
        )  # fmt: skip
        return Change(time_ms, "ORDER", order=order, fill=fill, assets=[asset], positions=[position])

    def _settle_spot(self, account: Account, order: Order, instrument: Instrument, qty: Decimal, price: Decimal, trade_id: int,
                     is_maker: bool, time_ms: int) -> Change:  # fmt: skip
        buys = order.side == "BUY"
        rate = self._maker_fee if is_maker else self._taker_fee
        got_asset, got = (instrument.base, qty) if buys else (instrument.quote, qty * price)
        gave_asset, gave = (instrument.quote, qty * price) if buys else (instrument.base, qty)
        fee = money(got * rate)
        unlocked = qty * (order.price or price) if buys else qty
        given = self._add(account, gave_asset, -gave, time_ms, locked=-unlocked)
        gotten = self._add(account, got_asset, got - fee, time_ms)
        fill = Fill(
            trade_id, order.id, order.client_id, order.symbol, order.side, order.position_side, price, qty, fee, got_asset, ZERO,
            is_maker, time_ms,
        )  # fmt: skip
        return Change(time_ms, "ORDER", order=order, fill=fill, assets=[gotten, given])

    def _lock(self, account: Account, order: Order, qty: Decimal, time_ms: int) -> Asset:
        """Reserve (or release, for a negative `qty`) what a spot order would give."""
        instrument = self.instruments[order.symbol]
        asset, amount = (instrument.quote, qty * order.price) if order.side == "BUY" else (instrument.base, qty)
        return self._add(account, asset, ZERO, time_ms, locked=amount)

    def _add(self, account: Account, asset: str, amount: Decimal, time_ms: int, locked: Decimal = ZERO) -> Asset:
        history = account.assets.setdefault(asset, History())
        before = history.last if history.versions else Asset(asset, ZERO, time_ms)
        after = Asset(asset, money(before.wallet + amount), time_ms, max(ZERO, before.locked + locked))
        history.put(time_ms, after)
        return after

    def _income(
        self,
        account: Account,
        kind: str,
        amount: Decimal,
        asset: str,
        symbol: str,
        time_ms: int,
        trade_id: int | None = None,
    ) -> None:
        self._next_income_id += 1
        account.incomes.append(Income(kind, amount, asset, symbol, time_ms, self._next_income_id, trade_id))


def moved(before: Position, signed: Decimal, price: Decimal, fee: Decimal, time_ms: int) -> tuple[Position, Decimal]:
    """A linear position after an execution of `signed` quantity, and the profit it realised (before the fee)."""
    qty = before.qty + signed
    opens = before.qty == 0 or (before.qty > 0) == (signed > 0)
    realized = ZERO
    if opens:
        entry = money((before.entry * abs(before.qty) + price * abs(signed)) / abs(qty))
        break_even = money(
            (before.break_even * abs(before.qty) + price * abs(signed) + (fee if qty > 0 else -fee)) / abs(qty)
        )
    else:
        closed = min(abs(signed), abs(before.qty))
        realized = money((price - before.entry) * (closed if before.qty > 0 else -closed))
        flipped = qty != 0 and (qty > 0) != (before.qty > 0)
        entry = ZERO if qty == 0 else price if flipped else before.entry
        break_even = ZERO if qty == 0 else price if flipped else before.break_even
    return (
        msgspec.structs.replace(
            before, qty=qty, entry=entry, break_even=break_even, realized=before.realized + realized, updated_ms=time_ms
        ),
        realized,
    )
