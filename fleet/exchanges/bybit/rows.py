"""Bybit rows to events. A row of the socket and one of REST have the same fields, so both come through here and get the same
ids. Pure; used by parse.py and recover.py. Sources: exchanges/bybit.md sections 5, 6.4, 7.

What the venue does not say is "": the position side of a fill (it has no positionIdx), the profit of a fill by REST (6.4), the
margin mode of a position, the position side of anything on spot.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from fleet.core.events import AccountEvent, Balance, Fill, Order, OrderStatus, Position, Side, Source
from fleet.exchanges.bybit import ids, wire
from fleet.exchanges.bybit.limits import EXCHANGE, MARKET

CATEGORIES = frozenset({"linear", "spot", "inverse", "option"})
SIDES: dict[str, Side] = {"Buy": "buy", "Sell": "sell"}
POSITION_SIDES = {0: "both", 1: "long", 2: "short"}
STATUSES: dict[str, OrderStatus] = {
    "Created": "new", "New": "new", "Untriggered": "new", "Triggered": "new", "Active": "new",
    "PartiallyFilled": "partially_filled", "Filled": "filled", "Cancelled": "canceled", "PartiallyFilledCanceled": "canceled",
    "Deactivated": "canceled", "Rejected": "rejected",
}  # fmt: skip
# Execution types that trade; the others (Funding, Delivery, Settle, ...) book money and are told as `account` events.
TRADING = frozenset({"Trade", "AdlTrade", "BustTrade", "BlockTrade", "MovePosition", "FutureSpread"})
_INVERSE = re.compile(r"[A-Z0-9]+USD(?:[FGHJKMNQUVXZ]\d\d)?")
_OPTION = re.compile(r".+-[0-9.]+-[CP](?P<coin>-[A-Z]+)?")


class Told(NamedTuple):
    """By whom and when a row was told. `at_ms`: the message's time, for rows without one of their own; `message`: its id, "" by
    REST."""

    account_id: str
    at_ms: int
    now_ms: int
    source: Source
    message: str = ""


def category_of(symbol: str, order_id: str) -> str:
    """Of a known order: spot ids are numeric, the others are uuids (5.1); only inverse symbols end in USD or USD and an expiry,
    only options' in strike and kind."""
    if order_id.isdigit():
        return "spot"
    if _OPTION.fullmatch(symbol):
        return "option"
    return "inverse" if is_inverse(symbol) else "linear"


def is_inverse(symbol: str) -> bool:
    return _INVERSE.fullmatch(symbol) is not None


def position_side(category: str, position_idx: int) -> str:
    return "" if category == "spot" else POSITION_SIDES.get(position_idx, "both")


def order(row: wire.OrderRow, category: str, told: Told) -> Order | None:
    """None for a status that the sheet does not know."""
    status = STATUSES.get(row.order_status)
    if status is None:
        return None
    filled, changed_ms = row.cum_exec_qty or "0", int(row.updated_time or 0) or told.at_ms
    return Order(
        id=ids.order_id(told.account_id, category, row.order_id, status, filled, row.price, row.qty, changed_ms),
        exchange=EXCHANGE, market=MARKET, symbol=row.symbol, ts_event=changed_ms, ts_recv=told.now_ms,
        source=told.source, account_id=told.account_id,
        order_id=row.order_id, client_order_id=row.order_link_id, side=SIDES[row.side],
        position_side=position_side(category, row.position_idx), order_type=row.order_type.lower(),
        time_in_force=row.time_in_force.lower(), status=status, price=row.price, stop_price=row.trigger_price, qty=row.qty,
        filled_qty=filled, avg_price=row.avg_price, reduce_only=row.reduce_only,
    )  # fmt: skip


def fill(row: wire.ExecutionRow, category: str, told: Told) -> Fill:
    """Raises ValueError for a row that trades without saying what."""
    if row.side not in SIDES or not row.exec_qty or not row.exec_price:
        raise ValueError("a trade without side, price or quantity")
    return Fill(
        id=ids.fill_id(told.account_id, category, row.symbol, row.exec_id, row.order_id), exchange=EXCHANGE, market=MARKET,
        symbol=row.symbol, ts_event=int(row.exec_time or 0) or told.at_ms, ts_recv=told.now_ms, source=told.source,
        account_id=told.account_id, trade_id=row.exec_id, order_id=row.order_id, client_order_id=row.order_link_id,
        side=SIDES[row.side], position_side="", price=row.exec_price, qty=row.exec_qty, fee=row.exec_fee or "0",
        fee_asset=row.fee_currency or _fee_asset(row, category), liquidity="maker" if row.is_maker else "taker",
        realized_pnl=row.exec_pnl or ("0" if category == "spot" else ""),
    )  # fmt: skip


def _fee_asset(row: wire.ExecutionRow, category: str) -> str:
    """The settlement coin, where REST leaves the currency out; "" on spot (a pair does not tell where its base ends)."""
    if category == "inverse":
        return row.symbol.partition("USD")[0]
    if category == "option":
        option = _OPTION.fullmatch(row.symbol)
        return (option["coin"] or "-USDC")[1:] if option else ""
    return {"linear": "USDT" if "USDT" in row.symbol else "USDC"}.get(category, "")


def booking(row: wire.ExecutionRow, category: str, payload: dict[str, Any], told: Told) -> AccountEvent:
    """An execution that is no trade, with its payload as sent."""
    name = f"execution.{row.exec_type[:40]}"
    return AccountEvent(
        id=ids.account_event_id(told.account_id, name, f"{category}:{row.symbol}:{row.exec_id}"), exchange=EXCHANGE, market=MARKET,
        symbol=row.symbol, ts_event=int(row.exec_time or 0) or told.at_ms, ts_recv=told.now_ms, source=told.source,
        account_id=told.account_id, event=name, data=payload,
    )  # fmt: skip


def signed_qty(row: wire.PositionRow) -> str:
    return f"-{row.size}" if row.side == "Sell" and row.size.strip("0.") else row.size


def position(row: wire.PositionRow, category: str, told: Told) -> Position:
    side, qty, changed_ms = (
        position_side(category, row.position_idx),
        signed_qty(row),
        int(row.updated_time or 0) or told.at_ms,
    )
    return Position(
        id=ids.position_id(told.account_id, category, row.symbol, side, changed_ms, str(row.seq)[:20], qty),
        exchange=EXCHANGE, market=MARKET, symbol=row.symbol, ts_event=changed_ms, ts_recv=told.now_ms,
        source=told.source, account_id=told.account_id,
        position_side=side, qty=qty, entry_price=row.entry_price or row.avg_price, unrealized_pnl=row.unrealised_pnl,
        margin_mode="",
    )  # fmt: skip


def balance(row: wire.CoinRow, told: Told) -> Balance:
    return Balance(
        id=ids.balance_id(told.account_id, row.coin, told.at_ms, told.message, row.wallet_balance), exchange=EXCHANGE,
        market=MARKET, symbol="", ts_event=told.at_ms, ts_recv=told.now_ms, source=told.source, account_id=told.account_id,
        asset=row.coin, wallet=row.wallet_balance, available=row.available_to_withdraw or None,
    )  # fmt: skip
