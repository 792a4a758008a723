"""Money of accounts: orders → fills → positions → balances, venue-agnostic, in Decimal. In: order requests; out:
Change records.

One change is one instant of the engine (`time_ms`, strictly increasing per account), so the stream and REST, which
are both written from the same records, agree in ids, times and amounts. Pure apart from the clock value passed in;
used in the simulator process.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from simulator.account import Account, History, View
from simulator.records import SERIES, ZERO, Asset, Change, Fill, Income, Instrument, Order, Position, money, text

__all__ = (
    "Account", "Asset", "Change", "Engine", "Fill", "Income", "Instrument", "Order", "Position", "View", "moved", "text",
)  # fmt: skip
ORDERS_KEPT = 50_000


class Engine:
    """Ids and arithmetic of one venue. `by_symbol`: the orders of each symbol are counted apart (Binance), so that those of two
    symbols meet in one number."""

    def __init__(
        self,
        instruments: dict[str, Instrument],
        *,
        taker_fee: Decimal,
        maker_fee: Decimal,
        first_order_id: int,
        by_symbol: bool = False,
    ) -> None:
        self.instruments = instruments
        self._series = {symbol: i if by_symbol else 0 for i, symbol in enumerate(instruments)}
        self._numbers = dict.fromkeys(self._series.values(), first_order_id)
        self._taker_fee = taker_fee
        self._maker_fee = maker_fee
        self._next_income_id = first_order_id * 10

    def order_id(self, symbol: str, number: int) -> int:
        """The id of the order that the exchange shows as `number` of `symbol`."""
        return self._series.get(symbol, 0) * SERIES + number

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
        series = self._series[symbol]
        self._numbers[series] += 1
        ident = self.order_id(symbol, self._numbers[series])
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
        left, at = order.qty - order.filled, order.price or price
        unlocked = money((left + qty) * at) - money(left * at) if buys else qty
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
        asset, amount = (instrument.quote, money(qty * order.price)) if order.side == "BUY" else (instrument.base, qty)
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
