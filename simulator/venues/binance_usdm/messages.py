"""User events of Binance USDⓈ-M as JSON bytes (sheet 4.2). In: engine records; out: payloads. Pure."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from simulator.frames import encode as frame
from simulator.records import Asset, Change, Fill, Order, Position, text

__all__ = (
    "account_update",
    "config_update",
    "encode",
    "frame",
    "listen_key_expired",
    "order_update",
    "trade_lite",
    "wrap",
)

encode = msgspec.json.Encoder().encode


def order_update(order: Order, fill: Fill | None, execution: str, event_ms: int) -> bytes:
    """ORDER_TRADE_UPDATE; `execution` is o.x: NEW, CANCELED, EXPIRED, TRADE or AMENDMENT."""
    left = (order.qty - order.filled) * order.price if order.is_open else Decimal(0)
    buys = order.side == "BUY"
    return encode({
        "e": "ORDER_TRADE_UPDATE", "T": order.updated_ms, "E": event_ms,
        "o": {
            "s": order.symbol, "c": order.client_id, "S": order.side, "o": order.type, "f": order.time_in_force,
            "q": text(order.qty), "p": text(order.price), "ap": text(average(order)), "sp": text(order.stop_price),
            "x": execution, "X": order.status, "i": order.number,
            "l": text(fill.qty) if fill else "0", "z": text(order.filled), "L": text(fill.price) if fill else "0",
            "n": text(fill.fee) if fill else "0", "N": fill.fee_asset if fill else "USDT",
            "T": order.updated_ms, "t": fill.id if fill else 0,
            "b": text(left) if buys else "0", "a": "0" if buys else text(left),
            "m": fill.is_maker if fill else False, "R": order.reduce_only, "wt": "CONTRACT_PRICE", "ot": order.type,
            "ps": order.position_side, "cp": False, "rp": text(fill.realized) if fill else "0", "pP": False, "si": 0, "ss": 0,
            "V": "EXPIRE_MAKER", "pm": "NONE", "gtd": 0, "er": order.expiry_reason,
        },
    })  # fmt: skip


def average(order: Order) -> Decimal:
    """Average price, 8 decimals at most."""
    return round(order.average, 8)


def trade_lite(
    fill: Fill, order: Order, price: str, qty: str, order_price: str, order_qty: str, event_ms: int
) -> bytes:
    """TRADE_LITE: the same fill, earlier and with less; numbers padded to the symbol's decimals."""
    return encode({
        "e": "TRADE_LITE", "E": event_ms, "T": fill.time_ms, "s": fill.symbol, "q": order_qty, "p": order_price, "m": fill.is_maker,
        "c": order.client_id, "S": fill.side, "L": price, "l": qty, "t": fill.id, "i": fill.order_number,
    })  # fmt: skip


def account_update(change: Change, unrealized: dict[str, Decimal], event_ms: int) -> bytes:
    """ACCOUNT_UPDATE with what changed; `unrealized` by symbol and side."""
    return encode({
        "e": "ACCOUNT_UPDATE", "T": change.time_ms, "E": event_ms,
        "a": {
            "B": [_balance(asset, change.delta) for asset in change.assets],
            "P": [_position(position, unrealized[position.symbol + position.side]) for position in change.positions],
            "m": change.reason,
        },
    })  # fmt: skip


def _balance(asset: Asset, delta: Decimal) -> dict[str, str]:
    return {"a": asset.asset, "wb": text(asset.wallet), "cw": text(asset.wallet), "bc": text(delta)}


def _position(position: Position, unrealized: Decimal) -> dict[str, str]:
    return {
        "s": position.symbol, "pa": text(position.qty), "ep": text(position.entry), "cr": text(position.realized),
        "up": text(unrealized), "mt": "cross", "iw": "0", "ps": position.side, "ma": position.margin_asset,
        "bep": text(position.break_even),
    }  # fmt: skip


def listen_key_expired(listen_key: str, event_ms: int) -> bytes:
    return encode({"e": "listenKeyExpired", "E": event_ms, "listenKey": listen_key})


def config_update(symbol: str, leverage: int, event_ms: int) -> bytes:
    return encode({"e": "ACCOUNT_CONFIG_UPDATE", "E": event_ms, "T": event_ms, "ac": {"s": symbol, "l": leverage}})


def wrap(form: int, name: str, payload: bytes) -> bytes:
    """The message for an envelope: 0 raw, 1 combined."""
    return b'{"stream":"%s","data":%s}' % (name.encode(), payload) if form else payload
