"""The simulated money: positions, profit, fees and past versions. In: orders; out: changes that add up."""

from __future__ import annotations

from decimal import Decimal as D

from hypothesis import given
from hypothesis import strategies as st

from simulator.account import Account
from simulator.engine import Engine, moved
from simulator.records import Instrument, Position, text

BTC = Instrument("BTCUSDT", "BTC", "USDT", D("0.1"), D("0.001"))
SPOT = Instrument("ETHUSDT", "ETH", "USDT", D("0.01"), D("0.001"), kind="spot")
START = D(100_000)


def engine() -> Engine:
    return Engine({"BTCUSDT": BTC, "ETHUSDT": SPOT}, taker_fee=D("0.0005"), maker_fee=D("0.0002"), first_order_id=1000)


def account(eng: Engine) -> Account:
    made = Account("key", "secret", "", 1)
    eng.deposit(made, "USDT", START, 1)
    return made


@given(
    st.lists(
        st.tuples(st.sampled_from(("BUY", "SELL")), st.integers(1, 50), st.integers(500, 1500)), min_size=1, max_size=30
    )
)
def test_wallet_equals_deposits_plus_profit_minus_fees(steps: list[tuple[str, int, int]]) -> None:
    eng = engine()
    acc = account(eng)
    for i, (side, qty, price) in enumerate(steps):
        placed = eng.place(acc, symbol="BTCUSDT", side=side, qty=D(qty) / 1000, price=D(price), now_ms=10 + i)
        assert placed.order is not None
        eng.fill(acc, placed.order.id, D(qty) / 1000, D(price), trade_id=i + 1, is_maker=i % 2 == 0, now_ms=10 + i)
    fills = acc.fills["BTCUSDT"]
    wallet = acc.assets["USDT"].last.wallet
    assert wallet == START + sum(f.realized - f.fee for f in fills)
    assert wallet == sum(row.amount for row in acc.incomes)
    held = sum(f.qty if f.side == "BUY" else -f.qty for f in fills)
    position = acc.positions["BTCUSDT", "BOTH"].last
    assert position.qty == held
    assert position.realized == sum(f.realized for f in fills)
    assert (position.entry == 0) == (held == 0)
    times = [f.time_ms for f in fills]
    assert times == sorted(set(times)), "every change of an account has its own instant"


def test_reversing_a_position_realises_only_what_was_closed() -> None:
    long = Position("BTCUSDT", "BOTH", qty=D(2), entry=D(100))
    after, realized = moved(long, D(-3), D(110), D(0), 5)
    assert (after.qty, after.entry, realized) == (D(-1), D(110), D(20))


def test_partly_filled_order_then_cancelled() -> None:
    eng = engine()
    acc = account(eng)
    order = eng.place(acc, symbol="BTCUSDT", side="BUY", qty=D(1), price=D(100), now_ms=10).order
    assert order is not None
    partly = eng.fill(acc, order.id, D("0.4"), D(100), trade_id=7, is_maker=True, now_ms=11)
    assert partly.order is not None and partly.order.status == "PARTIALLY_FILLED"
    ended = eng.end(acc, order.id, 12)
    assert ended.order is not None and (ended.order.status, ended.order.filled) == ("CANCELED", D("0.4"))
    assert not acc.open_ids


def test_a_lagging_view_shows_the_past() -> None:
    eng = engine()
    acc = account(eng)
    order = eng.place(acc, symbol="BTCUSDT", side="BUY", qty=D(1), price=D(100), now_ms=1000).order
    assert order is not None
    eng.fill(acc, order.id, D(1), D(100), trade_id=7, is_maker=True, now_ms=2000)
    then = acc.view(1500, 3000)
    assert [o.status for o in then.orders()] == ["NEW"] and not then.fills("BTCUSDT") and not then.positions()
    assert then.assets()[0].wallet == START
    now = acc.view(0, 3000)
    assert [o.status for o in now.orders()] == ["FILLED"] and len(now.fills("BTCUSDT")) == 1


def test_spot_locks_and_swaps() -> None:
    eng = engine()
    acc = account(eng)
    order = eng.place(acc, symbol="ETHUSDT", side="BUY", qty=D(2), price=D(100), now_ms=10).order
    assert order is not None and acc.assets["USDT"].last.locked == D(200)
    eng.fill(acc, order.id, D(2), D(100), trade_id=1, is_maker=True, now_ms=11)
    assert (acc.assets["USDT"].last.wallet, acc.assets["USDT"].last.locked) == (START - 200, D(0))
    assert acc.assets["ETH"].last.wallet == D(2) - D("0.0004")
    assert not acc.positions


def test_what_an_order_locks_is_kept_in_eight_decimals() -> None:
    """Free and locked are told rounded: unrounded their sum would not be the wallet."""
    eng = engine()
    acc = account(eng)
    order = eng.place(acc, symbol="ETHUSDT", side="BUY", qty=D("1.066900001"), price=D("0.02925"), now_ms=10).order
    assert order is not None and acc.assets["USDT"].last.locked == D("0.03120683")
    eng.fill(acc, order.id, D("0.5"), D("0.02925"), trade_id=1, is_maker=True, now_ms=11)
    assert acc.assets["USDT"].last.locked == D("0.01658183")
    eng.end(acc, order.id, 12)
    assert acc.assets["USDT"].last.locked == 0


def test_decimal_text() -> None:
    assert [text(D(x)) for x in ("0.0200", "100", "1E+2", "-0.0", "0")] == ["0.02", "100", "100", "0", "0"]
