"""The watermark: what it books, when it explains a snapshot, what a proof keeps."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import recovery
from fleet.core.events import AccountEvent, Balance, Fill, Order, Position
from fleet.core.recovery import (
    KEPT,
    Resting,
    Snapshot,
    Watermark,
    differing,
    forgotten_orders,
    missed,
    untold_fills_ms,
)


def common(at_ms: int, symbol: str = "S", name: str = "i") -> dict[str, Any]:
    return {
        "id": f"{name}{at_ms}",
        "exchange": "x",
        "market": "m",
        "symbol": symbol,
        "ts_event": at_ms,
        "ts_recv": 0,
        "account_id": "a",
    }


def fill(
    at_ms: int, side: str = "buy", qty: str = "1", fee: str = "0.1", pnl: str = "", symbol: str = "S", asset: str = "U"
) -> Fill:
    return Fill(
        **common(at_ms, symbol, "f"), trade_id=str(at_ms), order_id="1", client_order_id="", side=side, position_side="both",  # type: ignore[arg-type]
        price="1", qty=qty, fee=fee, fee_asset=asset, liquidity="maker", realized_pnl=pnl,
    )  # fmt: skip


def order(at_ms: int, order_id: str, status: str) -> Order:
    return Order(
        **common(at_ms, name="o"), order_id=order_id, client_order_id="", side="buy", position_side="both", order_type="limit",
        time_in_force="gtc", status=status, price="1", stop_price="0", qty="1", filled_qty="0", avg_price="0", reduce_only=False,  # type: ignore[arg-type]
    )  # fmt: skip


def resting(*keys: str) -> dict[str, Resting]:
    """Orders of these keys, known as open and not filled (`Watermark.orders`)."""
    row = Resting("x", "m", "", "buy", "both", "limit", "gtc", "1", "0", "1", "0", "0", False)
    return dict.fromkeys(keys, row)


def position(at_ms: int, qty: str) -> Position:
    return Position(
        **common(at_ms, name="p"),
        position_side="both",
        qty=qty,
        entry_price="1",
        unrealized_pnl="0",
        margin_mode="cross",
    )


def balance(at_ms: int, wallet: str, change: str | None = None) -> Balance:
    return Balance(**common(at_ms, "", "b"), asset="U", wallet=wallet, change=change)


def test_fills_explain_positions_and_wallets() -> None:
    mark = Watermark(proven_ms=0)
    assert not mark.explains(Snapshot(1, {}, {}))  # never proven
    mark.prove(Snapshot(10, {}, {"U": "100"}), 10)
    mark.advance(fill(5))  # in the base already
    assert mark.explains(Snapshot(11, {}, {"U": "100.00"}))
    mark.advance(fill(20, qty="2"))
    mark.advance(fill(30, "sell", "1", "0", "5"))
    assert mark.explains(Snapshot(40, {"S|both": "1.0"}, {"U": "104.9"}))
    assert not mark.explains(Snapshot(40, {"S|both": "1"}, {"U": "105"}))
    assert not mark.explains(Snapshot(40, {"S|both": "2"}, {"U": "104.9"}))
    assert not mark.explains(Snapshot(40, {"S|both": "1", "T|both": "1"}, {"U": "104.9"}))
    assert mark.symbols == {"S": 30} and mark.last_event_ms == 30


def test_funding_is_booked_where_the_event_tells_it() -> None:
    mark = Watermark(proven_ms=0)
    mark.prove(Snapshot(10, {}, {"U": "100"}), 10)
    mark.advance(balance(20, "99.5", "-0.5"))
    mark.advance(balance(21, "99.5", "0"))
    mark.advance(balance(5, "100", "7"))  # before the base
    mark.advance(balance(22, "99.5"))
    assert mark.explains(Snapshot(30, {}, {"U": "99.5"}))
    assert mark.wallets == {"U": "99.5"}
    mark.advance(balance(23, "0.00"))
    assert mark.wallets == {}


def test_positions_and_orders_are_tracked() -> None:
    mark = Watermark(proven_ms=0)
    mark.advance(position(1, "2"))
    assert mark.positions == {"S|both": "2"}
    mark.advance(position(2, "0.000"))
    assert mark.positions == {}
    mark.advance(order(1, "7", "new"))
    mark.advance(order(2, "8", "partially_filled"))
    assert mark.open_orders() == [("S", "7"), ("S", "8")]
    mark.advance(order(3, "7", "canceled"))
    mark.advance(order(3, "9", "filled"))
    assert mark.open_orders() == [("S", "8")]
    mark.prove(Snapshot(5, {}, {}, ("S|8", "S|404")), 5)
    assert mark.orders == {}
    mark.advance(AccountEvent(**common(9), event="X", data={}))
    assert mark.last_event_ms == 9


def test_an_order_that_the_exchange_forgot_ended_without_a_further_fill() -> None:
    mark = Watermark(proven_ms=0)
    mark.advance(order(1, "7", "new"))
    mark.advance(msgspec.structs.replace(order(2, "7", "partially_filled"), filled_qty="0.5", client_order_id="c"))
    mark = msgspec.json.decode(msgspec.json.encode(mark), type=Watermark)
    ends, untold = forgotten_orders(mark, ["S|7", "S|7"], [], "a", 99)
    assert untold == []
    (end,) = ends
    assert end == msgspec.structs.replace(
        order(99, "7", "canceled"), id="x:m:a:order:S:7:canceled:forgotten", source="rest", ts_recv=99,
        filled_qty="0.5", client_order_id="c",
    )  # fmt: skip
    mark.advance(end)
    assert mark.orders == {}


def test_how_a_forgotten_order_ended_is_not_made_up() -> None:
    words = ["order 1 of S: ended, the exchange does not tell how"]
    mark = Watermark(proven_ms=0)
    mark.advance(order(1, "1", "new"))
    assert forgotten_orders(mark, ["S|1"], [fill(5)], "a", 99) == ([], words), (
        "older than the history, and filled in the gap"
    )
    mark.advance(fill(5))
    assert forgotten_orders(mark, ["S|1"], [], "a", 99) == ([], words), "the fill came, the state after it did not"
    mark.prove(Snapshot(9, {}, {}, ("S|1",)), 9)
    assert mark.orders == {}


def test_open_orders_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(recovery, "MAX_OPEN_ORDERS", 2)
    mark = Watermark(proven_ms=0)
    for n in range(5):
        mark.advance(order(n, str(n), "new"))
    assert len(mark.orders) == 2
    mark.advance(msgspec.structs.replace(order(9, "1", "partially_filled"), filled_qty="0.5"))
    assert mark.orders["S|1"].filled_qty == "0.5"


def test_orders_of_two_symbols_that_share_an_id_are_two() -> None:
    """Binance counts the orders and the trades of each symbol apart."""
    mark = Watermark(proven_ms=50, base=Snapshot(50, {}, {}))
    here = order(60, "1", "new")
    there = msgspec.structs.replace(here, symbol="T")
    mark.advance(here)
    mark.advance(there)
    mark.advance(msgspec.structs.replace(there, status="canceled"))
    assert mark.open_orders() == [("S", "1")]
    mark.advance(there)
    assert forgotten_orders(mark, ["S|1", "T|1"], [fill(61)], "a", 99)[1] == [
        "order 1 of S: ended, the exchange does not tell how"
    ]
    mark.prove(Snapshot(90, {}, {}, ("T|1",)), 90)
    assert mark.open_orders() == [("S", "1")]
    filled = [msgspec.structs.replace(state, status="filled", filled_qty="1") for state in (here, there)]
    made = [fill(60), msgspec.structs.replace(fill(60), symbol="T")]
    placed = {"S|1": 60, "T|1": 60}
    unread = Watermark(proven_ms=50, base=Snapshot(50, {}, {}))
    assert untold_fills_ms(unread, [*filled, *made], placed, 50, 10) == 0
    assert untold_fills_ms(unread, [*filled, made[0]], placed, 50, 10) == 60
    unread.advance(made[1])
    assert untold_fills_ms(unread, [*filled, made[0]], placed, 50, 10) == 0


def test_a_proof_keeps_what_happened_after_its_snapshot() -> None:
    mark = Watermark(proven_ms=0)
    mark.prove(Snapshot(10, {}, {"U": "100"}), 10)
    mark.advance(fill(20))
    mark.advance(fill(30))
    mark.advance(balance(31, "90", "-9.8"))
    mark.prove(Snapshot(25, {"S|both": "1"}, {"U": "99.9"}), 5)
    assert mark.proven_ms == 10  # never backwards
    assert (mark.moved, mark.earned, mark.booked) == ({"S|both": "1"}, {"U": "-0.1"}, {"U": "-9.8"})
    assert mark.explains(Snapshot(40, {"S|both": "2"}, {"U": "90"}))


def test_recent_bookings_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(recovery, "MAX_RECENT", 3)
    mark = Watermark(proven_ms=0)
    for n in range(50):
        mark.advance(fill(n))
    assert len(mark.recent) <= 6 and mark.recent[-1].ts == 49
    assert mark.moved == {"S|both": "50"}


def test_stored_and_loaded_again() -> None:
    mark = Watermark(proven_ms=3)
    mark.prove(Snapshot(10, {}, {"U": "1"}), 10)
    mark.advance(fill(20))
    mark.advance(balance(21, "2", "1"))
    assert msgspec.json.decode(msgspec.json.encode(mark), type=Watermark) == mark
    old = b'{"proven_ms":5,"base":{"at_ms":1,"positions":{},"wallets":{}}}'
    assert msgspec.json.decode(old, type=Watermark).recent == []


def test_missed_leaves_out_the_known_and_sorts() -> None:
    events = [
        order(5, "1", "filled"),
        fill(5),
        position(5, "1"),
        balance(5, "1"),
        fill(1),
        AccountEvent(**common(5), event="X", data={}),
    ]
    assert [e.id for e in missed(list(events), {"f1"})] == ["f5", "o5", "p5", "b5", "i5"]
    assert missed([], set()) == []


@pytest.mark.parametrize(
    ("placed_ms", "known", "ahead"),
    [
        (60, 0, True),  # in the gap
        (40, 0, True),  # before it: what it was filled then is known
        (40, KEPT, False),  # ... but not of an account that traded more than the watermark remembers
        (60, KEPT, True),
        (9, 0, False),  # before the account was ours
    ],
)
def test_an_order_that_rest_tells_before_its_fills(placed_ms: int, known: int, ahead: bool) -> None:
    """The order "1" is filled for 2; the gap begins at 50, the account is ours since 10."""
    mark = Watermark(proven_ms=50, base=Snapshot(50, {}, {}))
    for n in range(known):
        mark.advance(msgspec.structs.replace(fill(1000 + n), order_id="other"))
    state = msgspec.structs.replace(order(70, "1", "filled"), filled_qty="2")
    placed = {"S|1": placed_ms}
    assert untold_fills_ms(mark, [fill(60), state], placed, 50, 10) == (70 if ahead else 0)
    assert untold_fills_ms(mark, [fill(60), fill(61), state], placed, 50, 10) == 0
    mark.advance(fill(61))  # the socket told it
    assert untold_fills_ms(mark, [fill(60), state], placed, 50, 10) == 0


def test_a_fill_that_comes_after_the_proof_that_has_it_is_remembered_and_not_counted() -> None:
    """Else its order would look filled for more than its fills in the next gap."""
    mark = Watermark(proven_ms=0)
    mark.prove(Snapshot(50, {"S|both": "1"}, {}), 40)
    mark.advance(fill(45))
    assert (mark.moved, mark.earned, mark.filled_qty("S", "1")) == ({}, {}, Decimal(1))
    mark.prove(Snapshot(90, {"S|both": "1"}, {}), 80)
    assert mark.filled_qty("S", "1") == Decimal(1) and len(mark.recent) == 1


def test_an_order_of_before_the_gap_is_not_judged() -> None:
    state = msgspec.structs.replace(order(49, "1", "filled"), filled_qty="2")
    assert untold_fills_ms(Watermark(proven_ms=50, base=Snapshot(50, {}, {})), [state], {"S|1": 20}, 50, 10) == 0


def test_amounts_differ_by_value_and_an_absent_one_is_0() -> None:
    assert differing({"U": "5", "V": "1", "W": "0.0"}, {"U": "5.00", "X": "2"}) == {"V", "X"}


@given(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from(["buy", "sell"]), st.integers(1, 5), st.integers(-3, 3))),
    st.integers(0, 100),
)
def test_any_proof_on_the_way_explains_the_end(rows: list[tuple[int, str, int, int]], cut: int) -> None:
    """Wherever a snapshot is taken and whenever it is proven, the rest of the fills lead from it to the end."""
    rows = sorted(rows, key=lambda row: row[0])

    def state(until: int) -> Snapshot:
        held = sum(q if side == "buy" else -q for at, side, q, _ in rows if at < until)
        wallet = sum(pnl - Decimal("0.1") for at, _, _, pnl in rows if at < until)
        return Snapshot(until, {"S|both": str(held)} if held else {}, {"U": str(wallet)} if wallet else {})

    mark = Watermark(proven_ms=0)
    mark.prove(state(0), 0)
    for at_ms, side, qty, pnl in rows:
        mark.advance(fill(at_ms, side, str(qty), "0.1", str(pnl)))
    mark.prove(state(cut), cut)
    assert mark.explains(state(1000))


def test_without_takes_the_fills_of_some_symbols_out() -> None:
    mark = Watermark(proven_ms=0)
    mark.prove(Snapshot(10, {}, {"U": "100"}), 10)
    mark.advance(fill(20, fee="1", symbol="A"))
    mark.advance(fill(21, fee="2", symbol="B"))
    mark.advance(balance(22, "90", "5"))
    trial = mark.without({"B"})
    assert (trial.moved, trial.earned, trial.booked) == ({"A|both": "1"}, {"U": "-1"}, {"U": "5"})
    assert trial.base == mark.base and mark.earned == {"U": "-3"}


def test_two_margin_modes_are_kept_apart_where_they_are_two_positions() -> None:
    """OKX; a position of Binance or Bybit changes its mode and stays one. Fills name no mode: they explain the sum."""

    def held(exchange: str, mode: str, qty: str) -> Position:
        return msgspec.structs.replace(position(2, qty), exchange=exchange, margin_mode=mode)

    mark = Watermark(proven_ms=0)
    mark.prove(Snapshot(1, {"S|both|cross": "10"}, {}), 1)
    for event in (fill(2), held("okx", "isolated", "1")):
        mark.advance(event)
    assert mark.positions == {"S|both|cross": "10", "S|both|isolated": "1"}
    assert not mark.suspicious(lambda symbol: True)
    assert mark.unexplained(Snapshot(3, {"S|both|cross": "10", "S|both|isolated": "1"}, {}))[0] == {}
    mark.prove(Snapshot(2, {"S|both|cross": "10", "S|both|isolated": "1"}, {}), 2)  # the fill is later than this
    mark.advance(held("okx", "isolated", "2"))
    assert not mark.suspicious(lambda symbol: True) and sum(map(Decimal, mark.positions.values())) == 12
    for mode, qty in (("isolated", "0"), ("cross", "0")):
        mark.advance(held("okx", mode, qty))
    assert mark.positions == {} and mark.suspicious(lambda symbol: True)
    mark = Watermark(proven_ms=0)
    for mode in ("cross", "isolated"):
        mark.advance(held("binance", mode, "2"))
    assert mark.positions == {"S|both": "2"}


def test_fills_settled_in_kind_move_two_wallets_and_no_position() -> None:
    """Spot: base against quote, the fee in either or in a third asset; `legs` says which symbol is which two assets."""
    legs = {"BTCUSDT|both": ("BTC", "USDT")}.get
    mark = Watermark(proven_ms=0)
    mark.prove(Snapshot(100, {}, {"USDT": "1000", "BNB": "1"}), 100)
    mark.advance(msgspec.structs.replace(fill(150, qty="0.5", fee="0.01", symbol="BTCUSDT", asset="BNB"), price="100"))
    now = Snapshot(200, {}, {"USDT": "950", "BNB": "0.99", "BTC": "0.5"})
    assert mark.explains(now, legs)
    assert not mark.explains(now)  # without legs it is a position, and there is none
    other = Snapshot(200, {}, {"USDT": "940", "BNB": "0.99", "BTC": "0.6"})
    positions, wallets = mark.unexplained(other, legs)
    assert positions == {} and {a: Decimal(v) for a, v in wallets.items()} == {"USDT": -10, "BTC": Decimal("0.1")}
    _, wallets = mark.without({"BTCUSDT"}).unexplained(now, legs)
    assert {a: Decimal(v) for a, v in wallets.items()} == {"USDT": -50, "BNB": Decimal("-0.01"), "BTC": Decimal("0.5")}
    mark.prove(now, 200)
    assert mark.paid == {} and mark.explains(now, legs)


def test_a_booking_names_its_fill_and_older_rows_are_still_read() -> None:
    mark = Watermark(proven_ms=0)
    mark.advance(fill(150))
    assert [booking.trade for booking in mark.recent] == ["150/1"]
    stored = msgspec.json.encode(mark)
    assert msgspec.json.decode(stored, type=Watermark) == mark
    old = msgspec.json.decode(b'[150,"S|both","1","U","-0.1"]', type=recovery.Booking)
    assert (old.cost, old.trade) == ("0", "")


def test_the_last_fills_outlive_a_proof_and_are_booked_once() -> None:
    mark = Watermark(0, Snapshot(0, {}, {}))
    for n in range(KEPT + 10):
        mark.advance(fill(10 + n))
    mark.prove(Snapshot(10_000, dict(mark.moved), dict(mark.earned)), 10_000)
    assert len(mark.recent) == KEPT and mark.moved == mark.earned == {}
    mark.advance(fill(11_000, "sell"))
    assert Decimal(mark.moved["S|both"]) == -1
    assert mark.without(set()).earned == mark.earned, "what is in the base is not counted again"


def test_nothing_after_its_snapshot_is_proven() -> None:
    """The exchange's clock, as we heard it, was ahead: a watermark in the future would pass over what is lost until then."""
    mark = Watermark(proven_ms=1000)
    mark.prove(Snapshot(2000, {}, {}), 72_000)
    assert mark.proven_ms == 2000
    mark.proven_ms = 72_000  # of a worker that did not know
    mark.prove(Snapshot(3000, {}, {}), 2500)
    assert mark.proven_ms == 3000
