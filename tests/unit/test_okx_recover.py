"""Read-back of OKX accounts, carried out against a table of replies: pages, windows, refusals, lag, what is flat."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import Balance, Event, Fill, Order, Position
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Recovered, Verdict
from fleet.core.model import AccountSpec
from fleet.core.recovery import Booking, Snapshot, Watermark
from fleet.exchanges.okx import parse, recover, rows, wire
from tests.unit.test_recovery import resting

NOW = 1_790_000_000_000
DAY = 86_400_000
SWAP = "BTC-USDT-SWAP"
SPEC = AccountSpec("acc", "u", "okx", "unified", "l", False, 1, NOW - 30 * DAY)
Reply = bytes | Exception
Answer = Callable[[dict[str, str]], Reply]
REFUSED = ExchangeRefused("x", Verdict(Outcome.PERMANENT, "51603"))


def data(*found: Any) -> bytes:
    return json.dumps({"code": "0", "data": list(found), "msg": ""}).encode()


def wallet(asset: str, amount: str, at_ms: int = NOW - 50) -> dict[str, str]:
    return {"ccy": asset, "cashBal": amount, "availBal": amount, "uTime": str(at_ms)}


def balance(*wallets: dict[str, str]) -> bytes:
    return data({"details": list(wallets), "totalEq": "1"})


def held(qty: str, symbol: str = SWAP, side: str = "net", mode: str = "cross", at_ms: int = NOW - 50) -> dict[str, str]:
    return {
        "instId": symbol, "instType": "SWAP", "pos": qty, "posSide": side, "mgnMode": mode, "avgPx": "100", "upl": "1",
        "uTime": str(at_ms),
    }  # fmt: skip


def fill(
    bill: int, order: str = "7", at_ms: int = NOW - 50, symbol: str = SWAP, qty: str = "1", **more: str
) -> dict[str, str]:
    kind = "SWAP" if symbol.endswith("SWAP") else "SPOT"
    return {
        "instId": symbol, "instType": kind, "tradeId": str(bill + 500), "ordId": order, "billId": str(bill), "side": "buy",
        "fillPx": "100", "fillSz": qty, "fee": "-0.1", "feeCcy": "USDT", "fillPnl": "0", "execType": "T", "fillTime": str(at_ms),
        "ts": str(at_ms + 1), "posSide": "net", **more,
    }  # fmt: skip


def order(
    ident: str, state: str = "filled", at_ms: int = NOW - 50, created_ms: int = 0, symbol: str = SWAP
) -> dict[str, str]:
    return {
        "instId": symbol, "instType": "SWAP", "ordId": ident, "side": "buy", "state": state, "uTime": str(at_ms),
        "cTime": str(created_ms or at_ms - 10), "ordType": "limit", "px": "100", "sz": "1",
        "accFillSz": "1" if state == "filled" else "0",
    }  # fmt: skip


def read(
    mark: Watermark, answers: dict[str, Reply | Answer], spec: AccountSpec = SPEC
) -> tuple[Recovered, list[HttpCall]]:
    """Paths that are not listed answer with nothing."""
    plan = recover.recover(spec, mark, NOW)
    calls = [next(plan)]
    try:
        while len(calls) < 2500:
            call = calls[-1]
            answer = answers.get(call.path, data())
            if callable(answer):
                answer = answer(dict(call.params))
            if isinstance(answer, Exception):
                calls.append(plan.throw(answer))
            else:
                calls.append(plan.send(HttpReply(200, {}, answer, NOW - 10)))
    except StopIteration as end:
        return end.value, calls
    raise AssertionError("the read-back does not end")


def based(
    positions: dict[str, str] | None = None, wallets: dict[str, str] | None = None, at_ms: int = NOW - 60_000
) -> Watermark:
    mark = Watermark(proven_ms=at_ms)
    mark.prove(Snapshot(at_ms, positions or {}, wallets or {}), at_ms)
    return mark


def paths(calls: list[HttpCall]) -> list[str]:
    return [call.path for call in calls]


def of(found: Recovered, kind: type[Event]) -> list[Any]:
    return [event for event in found.events if isinstance(event, kind)]


def test_a_proof_of_an_explained_account_costs_four_calls() -> None:
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"})
    found, calls = read(mark, {rows.BALANCE.path: balance(wallet("USDT", "5")), rows.POSITIONS.path: data(held("2"))})
    assert (found.events, found.unrecoverable) == ([], "")
    asked = [rows.BALANCE.path, rows.POSITIONS.path, rows.FILLS, rows.PENDING]
    assert paths(calls) == [*asked, rows.ORDERS]  # where orders may have come and gone unfilled
    assert found.snapshot == Snapshot(NOW - 10, {f"{SWAP}|net|cross": "2"}, {"USDT": "5"}, (), NOW - 10)
    mark.scope = "proof"
    _, calls = read(mark, {rows.BALANCE.path: balance(wallet("USDT", "5")), rows.POSITIONS.path: data(held("2"))})
    assert paths(calls) == asked


def test_a_fill_that_moved_no_balance_is_read() -> None:
    """There and back at one price, without a fee; or a balance that is told later than the fill."""
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"})
    mark.scope = "proof"
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")), rows.POSITIONS.path: data(held("2")), rows.FILLS: data(fill(3)),
    }  # fmt: skip
    found, _ = read(mark, answers)
    assert [told.trade_id for told in of(found, Fill)] == ["503"]


def test_a_missing_fill_is_read_with_its_order_position_and_wallet() -> None:
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"})
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "4.9")),
        rows.POSITIONS.path: data(held("3")),
        rows.FILLS: data(fill(3)),
        rows.ORDERS: data(order("7")),
    }
    found, calls = read(mark, answers)
    assert [type(e).__name__ for e in found.events] == ["Fill", "Order", "Position", "Balance"]
    (told,) = of(found, Fill)
    assert (told.trade_id, told.order_id, told.fee, told.source) == ("503", "7", "0.1", "rest")
    assert paths(calls).count(rows.FILLS) == 2  # once more, because all that came is newer than what is asked for
    assert paths(calls).count(rows.BALANCE.path) == 1
    assert [dict(c.params)["instType"] for c in calls if c.path == rows.ORDERS] == ["SWAP"]
    begin = next(dict(c.params)["begin"] for c in calls if c.path == rows.FILLS)
    assert int(begin) <= NOW - 60_000
    for event in found.events:
        mark.advance(event)
    assert mark.explains(found.snapshot)


def test_fills_are_read_though_the_key_may_not_see_balances_or_positions() -> None:
    refused = ExchangeRefused("x", Verdict(Outcome.PERMANENT, "50120"))
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"})
    found, _ = read(mark, {rows.BALANCE.path: refused, rows.POSITIONS.path: data(held("3")), rows.FILLS: data(fill(3))})
    assert [type(e).__name__ for e in found.events] == ["Fill", "Position"]
    assert (
        found.snapshot.wallets == {"USDT": "5"} and "wallets" in found.unrecoverable and "50120" in found.unrecoverable
    )
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "4.9")), rows.POSITIONS.path: refused, rows.FILLS: data(fill(3)),
    }  # fmt: skip
    found, _ = read(mark, answers)
    assert [type(e).__name__ for e in found.events] == ["Fill", "Balance"]
    assert found.snapshot.positions == {f"{SWAP}|net|cross": "2"} and "positions" in found.unrecoverable


def test_an_account_that_lags_behind_its_fills_is_asked_again() -> None:
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"})
    told = iter([balance(wallet("USDT", "5.5")), balance(wallet("USDT", "4.9"))])
    held_now = iter([data(held("2")), data(held("3"))])
    found, calls = read(
        mark,
        {
            rows.BALANCE.path: lambda p: next(told),
            rows.POSITIONS.path: lambda p: next(held_now),
            rows.FILLS: data(fill(3)),
        },
    )
    assert paths(calls).count(rows.BALANCE.path) == 2 and found.snapshot.wallets == {"USDT": "4.9"}


def test_pages_go_backwards_until_the_watermark() -> None:
    pages = {"": range(300, 200, -1), "201": range(200, 100, -1), "101": range(100, 0, -1)}

    def fills(params: dict[str, str]) -> bytes:
        bills = pages[params.get("after", "")]
        return data(*(fill(b, order=str(b), at_ms=NOW - 60_000 + (b - 150) * 10) for b in bills))

    def orders(params: dict[str, str]) -> bytes:
        last = int(params.get("after", 401))
        return data(*(order(str(n), created_ms=NOW - 60_000 + (n - 250) * 10) for n in range(last - 1, last - 101, -1)))

    mark = Watermark(proven_ms=NOW - 60_000)
    found, calls = read(
        mark, {rows.FILLS: fills, rows.ORDERS: orders, "/api/v5/trade/order": lambda p: data(order(p["ordId"]))}
    )
    asked = [dict(c.params).get("after", "") for c in calls if c.path == rows.FILLS]
    assert asked == ["", "201", "101"]  # the third is older than the watermark
    assert len(of(found, Fill)) == 151 and min(int(f.order_id) for f in of(found, Fill)) == 150
    swaps = [dict(c.params).get("after", "") for c in calls if c.path == rows.ORDERS]
    assert swaps == ["", "301", "201"]
    singles = {dict(c.params)["ordId"] for c in calls if c.path == "/api/v5/trade/order"}
    assert singles == set()  # every order with a fill came with the pages


def test_a_fill_that_rest_hid_from_the_reads_before_is_told() -> None:
    """All of REST may be old for a while: then nothing disagrees, and the gap is closed without what happened at its end."""
    hidden, told, known, aged = fill(4, order="9", at_ms=NOW - 200_000), fill(3), fill(2), fill(1, at_ms=NOW - 400_000)
    told["fillTime"] = known["fillTime"] = str(NOW - 250_000)
    mark = based({}, {})
    mark.told = {rows.fill(msgspec.convert(told, wire.FillRow), SPEC.id, NOW).id: None}
    mark.recent = [Booking(NOW - 250_000, f"{SWAP}|net", "1", "USDT", "0", trade="502/7")]
    answers = {
        rows.FILLS: data(hidden, told, known, aged),
        rows.POSITIONS.path: data(held("1", at_ms=NOW - 200_000)),
        "/api/v5/trade/order": data(order("9", at_ms=NOW - 200_000)),
        rows.ORDERS: data(
            order("11", "canceled", NOW - 210_000),
            order("10", "canceled", NOW - 220_000),
            order("5", at_ms=NOW - 400_000),
        ),
    }
    mark.told |= {f"okx:unified:{SPEC.id}:order:{SWAP}:10:canceled:0": None}
    found, calls = read(mark, answers)
    assert [event.order_id for event in (*of(found, Fill), *of(found, Order))] == ["9", "11", "9"]
    assert paths(calls).count("/api/v5/trade/order") == 1
    assert found.explained and not found.untold_ms, "the base was old as well"
    mark.behind = True
    assert of(read(mark, answers)[0], Fill) == [], "a new life does not know yet what it has told"


def test_a_short_page_is_not_the_last_by_being_short() -> None:
    """A server that gives seven rows where a hundred are asked for, the oldest of all being older than the watermark."""

    def fills(params: dict[str, str]) -> bytes:
        newest = int(params.get("after", "31")) - 1
        return data(*(fill(b, at_ms=NOW - (50 if b > 10 else 370_000)) for b in range(newest, max(newest - 7, 0), -1)))

    found, calls = read(based(), {rows.FILLS: fills})
    assert {told.trade_id for told in of(found, Fill)} == {str(b + 500) for b in range(11, 31)}
    assert [dict(c.params).get("after", "") for c in calls if c.path == rows.FILLS] == ["", "24", "17"]


def test_pages_without_end_are_given_up() -> None:
    recover_pages, recover.MAX_PAGES = recover.MAX_PAGES, 3
    try:
        full = data(*(fill(b) for b in range(100)))
        with pytest.raises(ConnectionFailed, match="fills"):
            read(Watermark(proven_ms=NOW - 60_000), {rows.FILLS: full})
        pending = data(*(order(str(n), "live", created_ms=NOW) for n in range(100)))
        with pytest.raises(ConnectionFailed, match="orders"):
            read(Watermark(proven_ms=NOW - 60_000), {rows.PENDING: pending})
    finally:
        recover.MAX_PAGES = recover_pages


def test_older_than_three_days_is_read_by_product_and_older_than_the_history_is_said() -> None:
    def fills(params: dict[str, str]) -> Reply:
        kind = params["instType"]
        if kind == "OPTION":
            return ExchangeRefused("x", Verdict(Outcome.PERMANENT, "50030"))
        return data(fill(9, at_ms=NOW - 5 * DAY)) if kind == "SWAP" else data()

    found, calls = read(
        based(at_ms=NOW - 10 * DAY), {rows.OLD_FILLS: fills, rows.BALANCE.path: balance(wallet("USDT", "1"))}
    )
    asked = [dict(c.params)["instType"] for c in calls if c.path == rows.OLD_FILLS]
    assert list(dict.fromkeys(asked)) == list(recover.PRODUCTS) and len(asked) == len(recover.PRODUCTS) + 1
    assert len(of(found, Fill)) == 1 and "fills of OPTION" in found.unrecoverable
    assert rows.OLD_ORDERS in paths(calls) and rows.ORDERS not in paths(calls)
    found, _ = read(based(at_ms=NOW - 100 * DAY), {rows.BALANCE.path: balance(wallet("USDT", "1"))})
    assert "history before" in found.unrecoverable


def test_a_refused_order_history_is_said() -> None:
    mark = based(wallets={"USDT": "5"})
    found, _ = read(mark, {rows.ORDERS: REFUSED, rows.FILLS: data(fill(1)), "/api/v5/trade/order": data(order("7"))})
    assert "orders of SWAP" in found.unrecoverable and len(of(found, Order)) == 1


def test_what_became_of_open_orders() -> None:
    mark = based(wallets={"USDT": "5"})
    mark.orders = resting(f"{SWAP}|1", f"{SWAP}|2", "ETH-USDT|3", f"{SWAP}|4", "SOL-USDT|5")
    mark.symbols = {SWAP: NOW - 10 * DAY, "ETH-USDT": NOW - 100, "SOL-USDT": NOW - 10 * DAY}

    def one(params: dict[str, str]) -> Reply:
        known = {"2": data(order("2", "canceled", NOW - 9 * DAY)), "4": data(order("4", "live", NOW - 9 * DAY))}
        return known.get(params["ordId"], REFUSED)

    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")),
        rows.PENDING: data(order("1", "live", NOW - 9 * DAY)),
        "/api/v5/trade/order": one,
    }
    found, calls = read(mark, answers)
    assert set(found.snapshot.closed_orders) == {
        f"{SWAP}|2",
        "SOL-USDT|5",
    }  # 3 may only lag; 5 was forgotten by the exchange
    assert (found.unrecoverable, [e.order_id for e in found.canceled]) == ("", ["5"])
    assert [(e.order_id, e.status) for e in of(found, Order)] == [("2", "canceled")]
    assert paths(calls).count("/api/v5/trade/order") == 4


def test_many_single_orders_come_no_faster_than_60_in_two_seconds() -> None:
    """The limit is of a user and instrument: 30 a second at the most, however fast the exchange answers."""
    mark = based({}, {"USDT": "5"})
    mark.orders = resting(*(f"{SWAP}|{number}" for number in range(200)))
    _, calls = read(mark, {rows.BALANCE.path: balance(wallet("USDT", "5"))})
    weights = [call.weight for call in calls if call.path == "/api/v5/trade/order"]
    assert len(weights) == 200
    in_two_seconds = [sum(1 for end in range(at, 200) if sum(weights[at : end + 1]) <= 400) for at in range(200)]
    assert max(in_two_seconds) <= 60


def test_an_order_that_the_exchange_forgot_is_told_as_canceled() -> None:
    mark = based(wallets={"USDT": "5"})
    (event,) = of(read(Watermark(proven_ms=NOW - DAY), {rows.PENDING: data(order("5", "live", NOW - DAY))})[0], Order)
    mark.advance(event)
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")),
        "/api/v5/trade/order": REFUSED,
    }
    found, _ = read(mark, answers)
    assert [(e.order_id, e.status, e.source, e.ts_event) for e in found.canceled] == [("5", "canceled", "rest", NOW)]
    assert (found.unrecoverable, found.snapshot.closed_orders) == ("", (f"{SWAP}|5",))
    answers["/api/v5/trade/order"] = ExchangeRefused("x", Verdict(Outcome.PERMANENT, "51001"))
    found, _ = read(mark, answers)
    assert (list(found.canceled), found.unrecoverable) == ([], f"order 5 of {SWAP}: permanent(51001)")
    mark.scope = "fills"
    assert read(mark, answers)[0].snapshot.closed_orders == (), "REST may lag: the full read says it"


def test_a_first_read_tells_open_orders_of_any_age_and_unknown_states() -> None:
    mark = Watermark(proven_ms=NOW - 1000)
    found, calls = read(mark, {rows.PENDING: data(order("1", "live", NOW - 9 * DAY), order("2", "parked"))})
    assert [e.order_id for e in of(found, Order)] == ["1"] and "unknown state parked" in found.unrecoverable
    asked = [dict(c.params)["instType"] for c in calls if c.path == rows.ORDERS]
    assert asked == ["SPOT", "SWAP"]  # nothing is known about what the account trades


def test_spot_symbols_are_looked_for_as_margin_too() -> None:
    mark = based(wallets={"USDT": "5"})
    mark.symbols = {"BTC-USDT": NOW - 100, "BTC-USD-270326": 1}
    _, calls = read(mark, {})
    assert [dict(c.params)["instType"] for c in calls if c.path == rows.ORDERS] == ["SPOT", "MARGIN", "FUTURES"]


def test_the_newer_of_two_states_of_an_order_counts() -> None:
    mark = based(wallets={"USDT": "5"})
    answers: dict[str, Reply | Answer] = {
        rows.PENDING: data(order("1", "live", NOW - 100)),
        rows.FILLS: data(fill(1, order="1")),
        rows.ORDERS: data(order("1", "filled", NOW - 50), order("1", "canceled", NOW - 200)),
    }
    found, _ = read(mark, answers)
    assert [e.status for e in of(found, Order)] == ["filled"]


def test_closed_positions_and_emptied_wallets_are_told() -> None:
    lags = "SOL-USDT-SWAP|net|cross"  # just traded, and nothing proves it flat
    mark = based({f"{SWAP}|net|cross": "2", "ETH-USDT-SWAP|short|cross": "-1", lags: "3"}, {"USDT": "5", "BTC": "1"})
    mark.symbols = {SWAP: NOW - 100, "ETH-USDT-SWAP": NOW - 91_000, "SOL-USDT-SWAP": NOW - 100}
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "4.9")),
        rows.FILLS: data(fill(1, side="sell", qty="2")),
    }
    found, _ = read(mark, answers)
    flat = {(e.symbol, e.position_side): (e.qty, e.ts_event) for e in of(found, Position)}
    assert flat == {("ETH-USDT-SWAP", "short"): ("0", NOW - 10), (SWAP, "net"): ("0", NOW - 50)}
    assert not found.explained  # no base, or the next read would know nothing of it
    assert {e.asset: e.wallet for e in of(found, Balance)} == {"USDT": "4.9", "BTC": "0"}
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"})
    found, _ = read(mark, answers)
    assert [(e.symbol, e.qty, e.ts_event) for e in of(found, Position)] == [(SWAP, "0", NOW - 50)]


def test_what_was_opened_just_now_is_not_flat_because_an_old_rest_does_not_show_it() -> None:
    """Told by its time, a wrong end would outrank what was told before, and stay until the next fill."""
    mark = based({}, {"USDT": "5"})
    mark.positions, mark.wallets = {f"{SWAP}|net|cross": "2"}, {"USDT": "5", "ETH": "3"}
    mark.book(Booking(NOW - 40_000, f"{SWAP}|net", "2", "USDT", "0", trade="1/7"))
    mark.book(Booking(NOW - 30_000, "ETH-USDT|net", "3", "ETH", "0", "0", trade="2/8"))
    found, _ = read(mark, {rows.BALANCE.path: balance(wallet("USDT", "5"))})
    assert (of(found, Position), [event.asset for event in of(found, Balance)]) == ([], [])
    assert not found.explained and found.untold_ms == NOW - 40_000, "it is read again"
    assert (found.snapshot.positions, found.snapshot.wallets) == (mark.positions, mark.wallets)
    sold = data(fill(1, side="sell", qty="2"), fill(2, side="sell", qty="3", symbol="ETH-USDT", fee="0"))
    found, _ = read(mark, {rows.BALANCE.path: balance(wallet("USDT", "5")), rows.FILLS: sold})
    assert [(e.symbol, e.qty) for e in of(found, Position)] == [(SWAP, "0")]
    assert [(e.asset, e.wallet) for e in of(found, Balance)] == [("ETH", "0")]
    assert found.explained and not found.untold_ms and found.snapshot.positions == {}


def test_an_empty_list_is_asked_for_again() -> None:
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"}, NOW - 3_600_000)
    asked = dict[str, int]()

    def once_empty(path: str, reply: bytes) -> Answer:
        def answer(params: dict[str, str]) -> bytes:
            asked[path] = asked.get(path, 0) + 1
            return data() if asked[path] == 1 else reply

        return answer

    wallets, positions = balance(wallet("USDT", "5")), data(held("2"))
    for path, reply in ((rows.POSITIONS.path, positions), (rows.BALANCE.path, wallets)):
        answers = {rows.POSITIONS.path: positions, rows.BALANCE.path: wallets, path: once_empty(path, reply)}
        assert read(mark, answers)[0].events == [] and asked[path] == 2


def test_a_position_closed_in_a_short_gap_is_told_though_a_wallet_changed_for_another_reason() -> None:
    """A deposit, or a fill of Spot, says nothing against what the fills of the position say."""
    mark = based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"})
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "77"), wallet("BTC", "1")),
        rows.FILLS: data(fill(2, "8", symbol="BTC-USDT"), fill(1, side="sell", qty="2")),
    }
    found, _ = read(mark, answers)
    assert [(e.symbol, e.qty, e.ts_event) for e in of(found, Position)] == [(SWAP, "0", NOW - 50)] and found.explained


def test_an_ended_margin_position_is_left_for_the_next_read() -> None:
    """Held short in the quote currency, while its fills count the base: they cannot tell that it ended."""
    mark = based({"BTC-USDT|net|cross": "-100"}, {"USDT": "5"})
    closing = fill(1, symbol="BTC-USDT", instType="MARGIN")
    found, _ = read(mark, {rows.BALANCE.path: balance(wallet("USDT", "5")), rows.FILLS: data(closing)})
    assert of(found, Position) == [] and not found.explained


def test_an_expired_option_is_flat_later_than_it_was_told_open() -> None:
    """Its expiry is not pushed (okx.md 5.4), and its position was told under the time of its last fill."""
    option = "BTC-USD-260925-70000-C"
    mark = based({f"{option}|net|cross": "2"}, {"BTC": "5"})
    mark.symbols = {option: NOW - DAY}
    (flat,) = of(read(mark, {rows.BALANCE.path: balance(wallet("BTC", "5.1"))})[0], Position)
    assert (flat.symbol, flat.qty) == (option, "0") and flat.ts_event > NOW - DAY


def test_cross_and_isolated_positions_of_one_side_are_two() -> None:
    answers: dict[str, Reply | Answer] = {
        rows.POSITIONS.path: data(
            held("2", side="short"), held("1", side="short", mode="isolated"), held("0", "X-USDT-SWAP")
        ),
        rows.BALANCE.path: balance(wallet("USDT", "5"), wallet("ETH", "0")),
    }
    found, _ = read(Watermark(proven_ms=NOW - 1000), answers)
    assert found.snapshot.positions == {f"{SWAP}|short|cross": "-2", f"{SWAP}|short|isolated": "-1"}
    assert found.snapshot.wallets == {"USDT": "5"}
    assert sorted((e.margin_mode, e.qty) for e in of(found, Position)) == [("cross", "-2"), ("isolated", "-1")]


def test_an_isolated_position_that_came_and_went_leaves_the_cross_one_as_it_is() -> None:
    """Cross 10 is held; isolated 1 is opened and closed by fills that name no mode."""
    wallets = {"USDT": "5"}
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")), rows.POSITIONS.path: data(held("10", at_ms=NOW - DAY)),
    }  # fmt: skip
    mark = based({f"{SWAP}|net|cross": "10"}, wallets)
    told = parse.position(wire.PositionRow(SWAP, "0", str(NOW - 50), "net", "isolated"), "acc", NOW, "stream")
    mark.advance(told)
    assert mark.positions == {f"{SWAP}|net|cross": "10"} and not mark.suspicious(lambda symbol: True)
    assert of(read(mark, answers)[0], Position) == []
    mark = based({f"{SWAP}|net|cross": "10", f"{SWAP}|net|isolated": "1"}, wallets)  # its closing was missed
    found, _ = read(mark, answers | {rows.FILLS: data(fill(1, side="sell", fee="0"))})
    assert [(e.margin_mode, e.qty, e.ts_event) for e in of(found, Position)] == [("isolated", "0", NOW - 50)]
    for event in found.events:
        mark.advance(event)
    assert mark.explains(found.snapshot)


def test_a_position_closed_and_opened_again_in_the_gap_is_told_with_its_new_entry_price() -> None:
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "4.8")), rows.POSITIONS.path: data(held("2") | {"avgPx": "104"}),
        rows.FILLS: data(fill(1, side="sell", qty="2"), fill(2, qty="2")),
    }  # fmt: skip
    found, _ = read(based({f"{SWAP}|net|cross": "2"}, {"USDT": "5"}), answers)
    assert [(e.qty, e.entry_price) for e in of(found, Position)] == [("2", "104")]


def test_a_watermark_from_before_modes_were_told_apart() -> None:
    """What Postgres has may be of either mode: both are told, once, and nothing is suspicious."""
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")), rows.POSITIONS.path: data(held("10", at_ms=NOW - DAY)),
    }  # fmt: skip
    mark = based({f"{SWAP}|net": "10"}, {"USDT": "5"})
    mark.symbols = {SWAP: NOW - DAY}
    mark = msgspec.json.decode(msgspec.json.encode(mark), type=Watermark)
    found, _ = read(mark, answers)
    assert [(e.margin_mode, e.qty) for e in of(found, Position)] == [("cross", "10"), ("isolated", "0")]
    assert mark.explains(found.snapshot) and not mark.suspicious(lambda symbol: True)
    for event in found.events:
        mark.advance(event)
    mark.prove(found.snapshot, NOW - 10)
    assert mark.positions == {f"{SWAP}|net|cross": "10"} and not mark.suspicious(lambda symbol: True)
    assert of(read(mark, answers)[0], Position) == []
    mark = based({f"{SWAP}|net": "10"}, {"USDT": "5"})
    mark.symbols = {SWAP: NOW - DAY}
    found, _ = read(mark, answers | {rows.POSITIONS.path: data()})
    assert [(e.margin_mode, e.qty) for e in of(found, Position)] == [("cross", "0"), ("isolated", "0")]
    found, _ = read(mark, answers | {rows.POSITIONS.path: REFUSED})
    assert of(found, Position) == []


def test_a_first_read_begins_with_the_account() -> None:
    young = AccountSpec("acc", "u", "okx", "unified", "l", False, 1, NOW - 500)
    found, _ = read(Watermark(proven_ms=NOW - 6 * DAY), {rows.FILLS: data(fill(1), fill(2, at_ms=NOW - 5000))}, young)
    assert [f.trade_id for f in of(found, Fill)] == ["501"]


@pytest.mark.parametrize("path", [rows.BALANCE.path, rows.POSITIONS.path, rows.PENDING, rows.FILLS])
@pytest.mark.parametrize("body", [b"<html>", b'{"code":"0"}', b'{"code":"0","data":[{}]}'])
def test_replies_that_are_not_what_the_sheet_says_are_tried_again_later(path: str, body: bytes) -> None:
    if (path, body) == (rows.BALANCE.path, b'{"code":"0","data":[{}]}'):
        body = b'{"code":"0","data":[{"details":5}]}'
    with pytest.raises(ConnectionFailed, match="unreadable"):
        read(Watermark(proven_ms=NOW - 1000), {path: body})


# ── Orders that came and went ────────────────────────────────────────────────────────────────────────────────────
def test_orders_of_products_never_used_are_told_by_a_read_of_orders() -> None:
    mark = based(wallets={"USDT": "5"})
    mark.symbols = {SWAP: NOW - 1000}
    answers: dict[str, Reply | Answer] = {rows.BALANCE.path: balance(wallet("USDT", "5"))}
    found, _ = read(mark, answers)
    assert found.unasked
    mark.scope = "proof"
    assert not read(mark, answers)[0].unasked
    mark.scope = "orders"

    def history(params: dict[str, str]) -> Reply:
        if params["instType"] == "OPTION":
            return REFUSED
        return data(order("9", "canceled", symbol="BTC-USDT")) if params["instType"] == "SPOT" else data()

    found, calls = read(mark, {rows.ORDERS: history})
    assert [(told.order_id, told.status) for told in of(found, Order)] == [("9", "canceled")]
    assert paths(calls) == [rows.ORDERS] * 5 and found.unrecoverable == "", "not every account has options"
    mark.proven_ms = NOW - 30 * DAY  # the archive does not tell what was cancelled unfilled
    found, calls = read(mark, {rows.ORDERS: lambda params: REFUSED})
    assert set(paths(calls)) == {rows.ORDERS} and found.unrecoverable == "orders of SWAP: permanent(51603)"


def test_an_order_that_is_ahead_of_its_fills_is_said() -> None:
    answers: dict[str, Reply | Answer] = {rows.ORDERS: data(order("7", created_ms=NOW - 100))}
    assert read(based(), answers)[0].untold_ms == NOW - 50
    assert read(based(), answers | {rows.FILLS: data(fill(3))})[0].untold_ms == 0
    mark = based()
    (told,) = of(read(mark, {rows.FILLS: data(fill(3))})[0], Fill)
    mark.advance(told)
    assert read(mark, answers)[0].untold_ms == 0, "the socket told it, REST does not yet"


def test_a_position_that_is_ahead_of_its_fills_is_said() -> None:
    """REST tells fills later than positions: as a base this snapshot would explain the fill away."""
    opened = NOW - 30_000

    def told(
        *fills: dict[str, str], qty: str = "1", symbol: str = SWAP, at_ms: int = opened, base: str = ""
    ) -> Recovered:
        answers: dict[str, Reply | Answer] = {
            rows.BALANCE.path: balance(wallet("USDT", "5")),
            rows.POSITIONS.path: data(held(qty, symbol, at_ms=at_ms)),
            rows.FILLS: data(*fills),
        }
        return read(based({f"{SWAP}|net|cross": base} if base else {}, {"USDT": "5"}), answers)[0]

    ahead = told()
    assert (ahead.untold_ms, ahead.explained) == (opened, False)
    explained = told(fill(1, fee="0", at_ms=opened))
    assert (explained.untold_ms, explained.explained) == (0, True)
    assert told(fill(1, fee="0", at_ms=opened), qty="3").untold_ms == NOW - 59_999  # one of two, or an older one
    assert told(base="1").untold_ms == 0
    assert told(fill(1, fee="0", at_ms=opened), base="1").untold_ms == 0  # it lags, and is read again by the next one
    assert told(at_ms=NOW).untold_ms == 0  # the socket tells that one
    assert told(fill(1, fee="0", at_ms=NOW - 58_000), qty="2").untold_ms == 0  # was the base taken before it, or after?
    assert told(symbol="BTC-USD-260925-70000-C").untold_ms == 0  # it may have expired
    gone = read(based({f"{SWAP}|net|cross": "1"}, {"USDT": "5"}), {rows.BALANCE.path: balance(wallet("USDT", "5"))})[0]
    assert (gone.untold_ms, gone.explained) == (NOW - 59_999, False)


def test_a_read_that_waited_is_no_sign_of_a_hidden_fill() -> None:
    """A ban between the calls of the read before: its positions have a fill of long after its balance."""
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")),
        rows.POSITIONS.path: data(held("3", at_ms=NOW - 10_000)),
        rows.FILLS: data(fill(2, qty="2", fee="0", at_ms=NOW - 10_000), fill(1, fee="0", at_ms=NOW - 45_000)),
    }
    mark = based({f"{SWAP}|net|cross": "1"}, {"USDT": "5"})
    assert read(mark, answers)[0].untold_ms == NOW - 59_999
    mark.prove(Snapshot(NOW - 60_000, {f"{SWAP}|net|cross": "1"}, {"USDT": "5"}, (), NOW - 44_000), NOW - 60_000)
    assert read(mark, answers)[0].untold_ms == 0


def test_of_the_two_sides_of_a_position_the_one_that_moved_last_counts() -> None:
    long = held("1", side="long", at_ms=NOW)
    short = held("1", side="short", at_ms=NOW - 40_000)
    for both in ((long, short), (short, long)):
        answers: dict[str, Reply | Answer] = {rows.BALANCE.path: balance(), rows.POSITIONS.path: data(*both)}
        found = read(based({f"{SWAP}|short|cross": "-1"}), answers)[0]
        assert found.untold_ms == 0, "the socket tells that one"


def test_a_new_life_does_not_tell_as_empty_what_its_key_may_not_see() -> None:
    mark = based({}, {})
    mark.behind = True
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: REFUSED, rows.POSITIONS.path: REFUSED, rows.FILLS: data(fill(1, at_ms=NOW - 9000)),
    }  # fmt: skip
    found = read(mark, answers)[0]
    assert len(of(found, Fill)) == 1 and of(found, Position) == [] and of(found, Balance) == []
    assert "wallets" in found.unrecoverable and "positions" in found.unrecoverable


def test_a_fill_between_the_two_calls_is_no_sign_of_a_hidden_one() -> None:
    """Positions are asked for before fills: that one is in the fills only, and such a read was taken for one that lacks a fill."""
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")),
        rows.POSITIONS.path: data(held("2", at_ms=NOW - 30_000)),
        rows.FILLS: data(fill(2, fee="0", at_ms=NOW - 5), fill(1, fee="0", at_ms=NOW - 30_000)),
    }
    found = read(based({f"{SWAP}|net|cross": "1"}, {"USDT": "5"}), answers)[0]
    assert (found.untold_ms, found.explained) == (0, True)


def test_of_an_order_and_a_position_ahead_of_their_fills_the_earlier_counts() -> None:
    """That of just now would have let the gap close, and its snapshot would have explained the hidden fill away."""
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")),
        rows.POSITIONS.path: data(held("1", at_ms=NOW - 30_000)),
        rows.ORDERS: data(order("7", symbol="ETH-USDT-SWAP", created_ms=NOW - 60)),
    }
    assert read(based(wallets={"USDT": "5"}), answers)[0].untold_ms == NOW - 30_000


def test_a_hidden_fill_is_older_than_the_known_one_that_came_after_it() -> None:
    """The account went on trading after the gap. With the time of that the gap would have closed, the hidden fill lost for good."""
    answers: dict[str, Reply | Answer] = {
        rows.BALANCE.path: balance(wallet("USDT", "5")),
        rows.POSITIONS.path: data(held("3", at_ms=NOW - 5_000)),
        rows.FILLS: data(fill(2, fee="0", at_ms=NOW - 5_000)),
    }
    assert read(based({}, {"USDT": "5"}), answers)[0].untold_ms == NOW - 59_999
    answers[rows.POSITIONS.path] = data(held("3", at_ms=NOW - 4_000))  # by another one, of that time
    assert read(based({}, {"USDT": "5"}), answers)[0].untold_ms == NOW - 4_000
