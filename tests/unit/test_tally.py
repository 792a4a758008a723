"""A fill that a living socket drops shows in its order: the states tell of more than the fills add up to."""

from __future__ import annotations

import time

import msgspec

from fleet.core.events import Fill, Order
from fleet.core.tally import MAX_ORDERS, Tally
from tests.unit.test_progress import fill, progress

NOW = 10_000


def order(filled: str, *, ident: str = "9", source: str = "stream", at_ms: int = 2_000, recv_ms: int = 2_000) -> Order:
    return Order(
        id=f"{ident}:{filled}:{source}", exchange="binance", market="usdm", symbol="BTCUSDT", ts_event=at_ms, ts_recv=recv_ms,
        source=source, account_id="a1", order_id=ident, client_order_id="", side="buy", position_side="net", order_type="limit",
        time_in_force="gtc", status="partially_filled", price="100", stop_price="0", qty="9", filled_qty=filled, avg_price="100",
        reduce_only=False,
    )  # type: ignore[arg-type]  # fmt: skip


def tally(*events: Fill | Order) -> Tally:
    made = Tally()
    for event in events:
        made.take(event)
    return made


def test_an_order_whose_fills_add_up_is_not_short_in_whichever_order_they_come() -> None:
    assert not tally(order("0"), fill(1), order("1.00"), order("2"), fill(2)).short(NOW)


def test_a_jump_of_the_filled_quantity_is_short_until_its_fill_comes() -> None:
    made = tally(order("0"), fill(1), order("1"), fill(3), order("3"))
    assert made.short(NOW) and not made.short(2_000)  # the fill may still come, after its order
    made.take(order("3", at_ms=3_000, recv_ms=NOW))
    assert made.short(3_000)  # since the first that told
    made.take(fill(2, source="rest"))
    assert not made.short(NOW)


def test_what_was_filled_before_anything_is_known_here_is_no_loss() -> None:
    read_back = tally(order("5", source="rest"), order("6"), fill(6))
    assert not read_back.short(NOW)
    untold = tally(order("6"), fill(6))
    assert untold.short(NOW)
    untold.proven(2_000)
    assert untold.short(NOW)  # the read looked no further than this
    untold.proven(2_001)
    assert not untold.short(NOW)
    untold.take(order("8"))
    assert untold.short(NOW)


def test_an_order_of_another_symbol_that_shares_the_id_is_another() -> None:
    """Binance counts the orders of each symbol apart."""
    there = msgspec.structs.replace(fill(1), symbol="ETHUSDT")
    assert tally(order("1"), there).short(NOW)
    assert not tally(order("1"), there, fill(1)).short(NOW)


def test_only_the_newest_orders_are_kept() -> None:
    made = tally(*(order("1", ident=str(n)) for n in range(MAX_ORDERS + 5)))
    assert len(made._told) == len(made._short) == MAX_ORDERS and "BTCUSDT|4" not in made._told
    for n in range(MAX_ORDERS + 5):
        made.take(fill(n, source="rest"))
    assert len(made._filled) <= MAX_ORDERS


def test_a_stream_notices_a_jump_however_busy_it_is() -> None:
    stream, _, _ = progress()
    now_ms = int(time.time() * 1000)
    stream.live([order("0"), order("2", recv_ms=now_ms - 3_000), fill(1)])
    assert stream.short(2_000)
    assert not stream.short(4_000)
    stream.recovered([fill(2, source="rest")])
    assert not stream.short(2_000)
