"""What an account consists of: instruments, orders, fills, balances, positions, movements of money. Immutable;
amounts are Decimal.

In: nothing; out: record types and the texts of their amounts. Pure; used in the simulator process.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

import msgspec

ZERO = Decimal(0)
MONEY = Decimal("0.00000001")
OPEN_STATUSES = frozenset(("NEW", "PARTIALLY_FILLED"))
SERIES = 10**20  # an order's id is its number, as the exchange shows it, plus this times the series that counted it


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
    def number(self) -> int:
        """The id that the exchange shows. Where each symbol's orders are counted apart, those of two symbols share it."""
        return self.id % SERIES

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

    @property
    def order_number(self) -> int:
        return self.order_id % SERIES


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
