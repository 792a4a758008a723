"""Records as workers publish them, and what the sinks must make of them, for the sink tests.

In: a seed. Out: events of a few accounts in the order of their topics, repeats and late states included; the expected final
rows, computed here in plain Python, independently of the SQL.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec

from fleet.core.events import Balance, Event, Fill, Order, Position, Trade, UserEvent
from fleet.core.names import TOPIC_OF_TYPE
from fleet.runtime.kafka_io import Producer

FINAL = ("filled", "canceled", "rejected", "expired")


def topic_of(event: Event) -> str:
    return TOPIC_OF_TYPE[str(type(event).__struct_config__.tag)]


def publish(bootstrap: str, records: Iterable[tuple[str, bytes, bytes]], timeout_s: float = 30.0) -> None:
    """Send (topic, key, value) records and wait for every acknowledgement."""
    failures: list[Exception] = []
    producer = Producer(bootstrap, "test")
    for topic, key, value in records:
        producer.send(topic, key, value, [("token", b"1")], lambda error: failures.append(error) if error else None)
    assert producer.flush(timeout_s)
    producer.close(timeout_s)
    assert not failures, failures[0]


def as_record(event: Event) -> tuple[str, bytes, bytes]:
    key = event.account_id if isinstance(event, UserEvent) else f"{event.exchange}:{event.market}:{event.symbol}"
    return topic_of(event), key.encode(), msgspec.json.encode(event)


class Trading:
    """Random trading of `accounts` accounts. `events(n)` makes about n more events; `expected()` what tables must hold."""

    def __init__(self, seed: int, accounts: int = 5) -> None:
        self._random = random.Random(seed)
        self.accounts = [str(uuid.UUID(int=self._random.getrandbits(128), version=4)) for _ in range(accounts)]
        self.sent: list[UserEvent] = []
        self._n = 0

    def events(self, count: int) -> list[UserEvent]:
        fresh: list[UserEvent] = []
        while len(fresh) < count:
            fresh += self._one_order(self._random.choice(self.accounts))
            if self._random.random() < 0.2:  # a read-back tells old news again, under the same ids
                fresh += self._random.sample(fresh + self.sent[-200:], k=min(3, len(fresh)))
        self.sent += fresh
        return fresh

    def _one_order(self, account: str) -> list[UserEvent]:
        self._n += 1
        number, draw = self._n, self._random
        symbol = draw.choice(("BTCUSDT", "ETHUSDT"))
        now = 1_790_000_000_000 + number * 10
        common: dict[str, Any] = {
            "exchange": "binance", "market": "usdm", "account_id": account, "ts_recv": now + 5,
        }  # fmt: skip
        order = {
            "order_id": str(number), "client_order_id": f"c{number}", "side": "buy", "position_side": "both",
            "order_type": "limit", "time_in_force": "gtc", "price": "100.10", "stop_price": "", "qty": "0.030",
            "reduce_only": False, "symbol": symbol,
        }  # fmt: skip
        states: list[UserEvent] = []
        steps = [("new", "0"), ("partially_filled", "0.010"), ("filled", "0.030")][: draw.randint(1, 3)]
        if steps[-1][0] != "filled" and draw.random() < 0.5:
            steps.append(("canceled", steps[-1][1]))
        for step, (status, filled) in enumerate(steps):
            at = now + step
            states.append(
                Order(id=f"o:{account}:{number}:{status}", ts_event=at, status=status, filled_qty=filled,
                      avg_price="100.10", **order, **common)  # type: ignore[arg-type]
            )  # fmt: skip
            if status in ("partially_filled", "filled"):
                states.append(
                    Fill(id=f"f:{account}:{number}:{step}", ts_event=at, trade_id=f"{number}{step}", symbol=symbol,
                         order_id=str(number), client_order_id=f"c{number}", side="buy", position_side="both",
                         price="100.10", qty="0.010", fee="0.0004", fee_asset="USDT", liquidity="maker",
                         realized_pnl="0", **common)
                )  # fmt: skip
        states.append(
            Position(id=f"p:{account}:{number}", ts_event=now + 4, symbol=symbol, position_side="both",
                     qty=f"{number}.5", entry_price="100", unrealized_pnl="-1.25", margin_mode="cross", **common)
        )  # fmt: skip
        states.append(
            Balance(
                id=f"b:{account}:{number}", ts_event=now + 4, symbol="", asset="USDT", wallet=f"{number}.00", **common
            )
        )
        if draw.random() < 0.3:
            draw.shuffle(states)
        return states

    def expected(self) -> dict[str, set[tuple[Any, ...]]]:
        orders: dict[tuple[str, str], Order] = {}
        latest: dict[tuple[str, ...], Position | Balance] = {}
        history: set[tuple[Any, ...]] = set()
        fills: set[tuple[Any, ...]] = set()
        for e in self.sent:
            if isinstance(e, Fill):
                fills.add((e.id, e.account_id, e.trade_id, Decimal(e.price), Decimal(e.qty)))
            elif isinstance(e, Order):
                history.add((e.id,))
                known = orders.get((e.account_id, e.order_id))
                if known is None or _rank(e) > _rank(known):
                    orders[(e.account_id, e.order_id)] = e
            elif isinstance(e, (Position, Balance)):
                key = (type(e).__name__, e.account_id, e.symbol)
                if key not in latest or e.ts_event > latest[key].ts_event:
                    latest[key] = e
        return {
            "fills": fills,
            "order_history": history,
            "orders": {(e.id, e.account_id, e.order_id, e.status, Decimal(e.filled_qty)) for e in orders.values()},
            "positions": {(p.id, p.account_id, Decimal(p.qty)) for p in latest.values() if isinstance(p, Position)},
            "balances": {(b.id, b.account_id, Decimal(b.wallet)) for b in latest.values() if isinstance(b, Balance)},
        }


TABLE_COLUMNS = {
    "fills": "id, account_id, trade_id, price, qty",
    "order_history": "id",
    "orders": "id, account_id, order_id, status, filled_qty",
    "positions": "id, account_id, qty",
    "balances": "id, account_id, wallet",
}


def _rank(order: Order) -> tuple[bool, Decimal, int]:
    return order.status in FINAL, Decimal(order.filled_qty), order.ts_event


def trades(symbol: str, first: int, count: int) -> list[Trade]:
    """Public trades first … first+count-1 of one symbol."""
    return [
        Trade(id=f"binance:usdm:trade:{symbol}:{n}", exchange="binance", market="usdm", symbol=symbol,
              ts_event=1_790_000_000_000 + n, ts_recv=1_790_000_000_001 + n, trade_id=str(n), price="60000.10",
              qty="0.001", side="buy")
        for n in range(first, first + count)
    ]  # fmt: skip


def wait_until(condition: Any, timeout_s: float, what: str, pause_s: float = 0.05) -> Any:
    """The first true value of `condition()`; fails after `timeout_s`."""
    until, pause = time.monotonic() + timeout_s, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {timeout_s} s: {what}"
        pause.wait(pause_s)
    return value
