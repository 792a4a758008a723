"""Bybit read-back as a dialogue: what it asks for, page by page, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import AccountEvent, Balance, Fill, Order, Position
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Recovered, Verdict
from fleet.core.model import AccountSpec
from fleet.core.recovery import KEPT, Booking, Snapshot, Watermark
from fleet.exchanges.bybit import ids
from fleet.exchanges.bybit.recover import STALE_MS, recover
from tests.contract.samples.bybit import COIN, EXECUTION, ORDER, POSITION, UUID, reply, rest_row
from tests.unit.test_recovery import resting

DAY_MS = 86_400_000
NOW = 1_790_000_000_000
SPEC = AccountSpec("acc", "u", "bybit", "unified", "l", False, 1, 0)
Answer = Callable[[str, dict[str, str]], Any]


def read(mark: Watermark, answer: Answer, now_ms: int = NOW) -> tuple[Recovered, list[tuple[str, dict[str, str]]]]:
    """Carry the plan out; `answer` gives a reply's rows, a whole body, or an ExchangeRefused. → found, calls."""
    plan = recover(SPEC, mark, now_ms)
    calls: list[tuple[str, dict[str, str]]] = []
    try:
        call = next(plan)
        while True:
            assert isinstance(call, HttpCall) and call.auth == "signed"
            calls.append((call.path, dict(call.params)))
            given = answer(call.path, dict(call.params))
            if isinstance(given, ExchangeRefused):
                call = plan.throw(given)
            else:
                call = plan.send(
                    HttpReply(200, {}, given if isinstance(given, bytes) else reply(*given), at_ms=now_ms + 3)
                )
    except StopIteration as end:
        found: Recovered = end.value
        return found, calls


def nothing(path: str, params: dict[str, str]) -> list[Any]:
    return []


def refused(code: str = "10005") -> ExchangeRefused:
    return ExchangeRefused("GET x", Verdict(Outcome.PERMANENT, code))


def proven(**more: Any) -> Watermark:
    return Watermark(proven_ms=NOW - 60_000, base=Snapshot(NOW - 60_000, {}, {}), **more)


def test_a_quiet_account() -> None:
    found, calls = read(proven(scope="proof"), nothing)
    assert (found.events, found.unrecoverable, found.snapshot.at_ms) == ([], "", NOW + 3)
    asked = [(path.rpartition("/")[2], p.get("category"), p.get("settleCoin")) for path, p in calls]
    assert asked == [
        ("list", "linear", None), ("list", "spot", None), ("list", "inverse", None), ("list", "option", None),
        ("history", "linear", None), ("history", "spot", None),
        ("realtime", "linear", "USDT"), ("realtime", "linear", "USDC"), ("realtime", "spot", None), ("list", "linear", "USDT"),
        ("list", "linear", "USDC"), ("wallet-balance", None, None),
    ]  # fmt: skip
    assert calls[0][1] == {"category": "linear", "limit": "100", "startTime": str(NOW - 60_000 - STALE_MS)}
    _, whole = read(proven(), nothing)
    assert len(whole) == 18


def test_pages_follow_the_cursor_and_windows_the_seven_days() -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/execution/list" and params["category"] == "linear":
            cursor, end = params.get("cursor", ""), int(params.get("endTime", NOW))
            row = rest_row(EXECUTION, execId=f"{end}{cursor}", execTime=str(end - 5))
            return reply(row, cursor="" if cursor == "b%3A1" else "b%3A1" if cursor else "a%2C1")
        return []

    found, calls = read(Watermark(proven_ms=NOW - 15 * DAY_MS), answer)
    pages = [p for path, p in calls if path == "/v5/execution/list" and p["category"] == "linear"]
    assert [p.get("cursor") for p in pages] == [None, "a%2C1", "b%3A1"] * 3
    assert len({e.id for e in found.events if isinstance(e, Fill)}) == 9
    spans = [(int(p["startTime"]), int(p["endTime"])) for p in pages if "endTime" in p]
    assert all(0 < end - start < 7 * DAY_MS for start, end in spans)
    assert spans[0][0] == NOW - 15 * DAY_MS and int(pages[-1]["startTime"]) == spans[-1][1] + 1


def test_history_that_is_not_kept_says_so() -> None:
    found, calls = read(Watermark(proven_ms=NOW - 800 * DAY_MS), nothing)
    assert "is not kept" in found.unrecoverable
    assert int(calls[0][1]["startTime"]) == NOW - 729 * DAY_MS


def test_fills_older_than_the_watermark_are_not_told() -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        old = rest_row(EXECUTION, execTime=str(NOW - 70_000))
        return [old] if path == "/v5/execution/list" and params["category"] == "linear" else []

    assert read(proven(), answer)[0].events == []


def test_a_proof_tells_a_fill_that_rest_hid_from_the_reads_before_it() -> None:
    """All of REST may be old for a while: then nothing disagrees, and the gap is closed without what happened at its end."""

    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/execution/list" and params["category"] == "linear":
            hidden = rest_row(EXECUTION, execTime=str(NOW - 200_000), orderId="late")
            return [hidden, rest_row(EXECUTION, execId="known", execTime=str(NOW - 300_000)), aged]
        if path == "/v5/order/realtime" and params.get("orderId") == "late":
            return [rest_row(ORDER, orderId="late", orderStatus="Filled", updatedTime=str(NOW - 200_000))]
        moved = rest_row(POSITION, updatedTime=str(NOW - 200_000))
        return [moved] if path == "/v5/position/list" and params.get("settleCoin") == "USDT" else []

    aged = rest_row(EXECUTION, execId="aged", execTime=str(NOW - 500_000))
    known = Booking(NOW - 300_000, f"{EXECUTION['symbol']}|", "1", "USDT", "0", trade=f"known/{EXECUTION['orderId']}")
    found, _ = read(proven(scope="proof", recent=[known]), answer)
    fills = [event.order_id for event in found.events if isinstance(event, Fill)]
    assert fills == ["late"] and found.explained and not found.untold_ms
    assert [event.order_id for event in found.events if isinstance(event, Order)] == ["late"]
    busy = [Booking(NOW - 61_000, "X|", "1", "USDT", "0", trade=f"{n}/1") for n in range(KEPT)]
    told = {ids.fill_id("acc", "linear", EXECUTION["symbol"], "known", EXECUTION["orderId"]): None}
    found, _ = read(proven(scope="proof", recent=busy, told=told), answer)
    late = [event.order_id for event in found.events if isinstance(event, Fill)]
    assert late == ["late"], "a busy account's watermark has forgotten; this process has not"


def test_an_order_that_ended_in_the_gap_is_asked_for_by_id() -> None:
    ended = rest_row(ORDER, orderStatus="Cancelled", createdTime="1", updatedTime=str(NOW - 9))

    def answer(path: str, params: dict[str, str]) -> Any:
        return [ended] if path == "/v5/order/realtime" and params.get("orderId") == UUID else []

    found, calls = read(proven(orders=resting(f"ETHUSDT|{UUID}")), answer)
    (order,) = found.events
    assert isinstance(order, Order) and (order.status, order.source) == ("canceled", "rest")
    assert found.snapshot.closed_orders == (f"ETHUSDT|{UUID}",)
    (single,) = [p for path, p in calls if "orderId" in p]
    assert single == {"category": "linear", "orderId": UUID, "openOnly": "1", "symbol": "ETHUSDT"}


def test_an_order_that_nobody_knows_is_forgotten_only_after_a_while() -> None:
    quiet, calls = read(proven(orders=resting("BTCUSDT|77")), nothing)
    assert quiet.snapshot.closed_orders == ("BTCUSDT|77",)
    assert [path for path, p in calls if p.get("orderId") == "77"] == ["/v5/order/realtime", "/v5/order/history"]
    fresh, _ = read(proven(orders=resting("BTCUSDT|77"), symbols={"BTCUSDT": NOW - 1000}), nothing)
    assert fresh.snapshot.closed_orders == ()
    not_there, _ = read(
        proven(orders=resting("BTCUSDT|77")), lambda path, p: refused("110001") if "orderId" in p else []
    )
    assert not_there.snapshot.closed_orders == ("BTCUSDT|77",)
    assert (not_there.unrecoverable, [e.order_id for e in not_there.canceled]) == ("", ["77"])
    denied, _ = read(proven(orders=resting("BTCUSDT|77")), lambda path, p: refused("10005") if "orderId" in p else [])
    assert (denied.snapshot.closed_orders, denied.unrecoverable) == (
        ("BTCUSDT|77",),
        "order 77 of BTCUSDT: permanent(10005)",
    )
    early, _ = read(proven(orders=resting("BTCUSDT|77"), scope="fills"), nothing)
    assert early.snapshot.closed_orders == (), "REST may lag: the full read says it"


def test_an_order_that_nobody_knows_is_told_as_canceled() -> None:
    open_row = rest_row(ORDER, orderStatus="New", cumExecQty="0", updatedTime="1")
    first, _ = read(
        Watermark(proven_ms=NOW - 60_000), lambda path, p: [open_row] if path == "/v5/order/realtime" else []
    )
    mark = proven()
    mark.advance(next(event for event in first.events if isinstance(event, Order)))
    found, _ = read(mark, nothing)
    assert [(e.order_id, e.status, e.ts_event) for e in found.canceled] == [(UUID, "canceled", NOW)]
    assert (found.unrecoverable, found.snapshot.closed_orders) == ("", (f"ETHUSDT|{UUID}",))


def test_an_order_still_open_stays_open() -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        return (
            [rest_row(ORDER, updatedTime="1")]
            if path == "/v5/order/realtime" and params.get("settleCoin") == "USDT"
            else []
        )

    found, _ = read(proven(orders=resting(f"ETHUSDT|{UUID}")), answer)
    assert (found.events, found.snapshot.closed_orders) == ([], ())
    first, _ = read(Watermark(proven_ms=NOW - 60_000), answer)  # a first-ever read tells what is open
    assert [e.order_id for e in first.events if isinstance(e, Order)] == [UUID]


def test_the_order_of_a_fill_is_read_though_it_is_older_than_the_gap() -> None:
    filled = rest_row(ORDER, orderStatus="Filled", cumExecQty="0.02", createdTime="1", updatedTime=str(NOW - 5))

    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/execution/list" and params["category"] == "linear":
            return [rest_row(EXECUTION, execTime=str(NOW - 5))]
        return [filled] if path == "/v5/order/history" and "orderId" in params else []

    found, _ = read(proven(), answer)
    assert [type(e).__name__ for e in found.events] == ["Fill", "Order"]


def test_of_two_states_of_an_order_the_further_one_counts() -> None:
    filled = rest_row(ORDER, orderStatus="Filled", cumExecQty="0.02", updatedTime=str(NOW - 9))
    lagging = rest_row(ORDER, updatedTime=str(NOW - 8))

    def answer(path: str, params: dict[str, str]) -> Any:
        if params.get("category") != "linear":
            return []
        return {"/v5/order/history": [filled], "/v5/order/realtime": [lagging]}.get(path, [])

    (order,) = read(proven(), answer)[0].events
    assert isinstance(order, Order) and order.status == "filled"


def test_a_fill_of_rest_does_not_say_that_nothing_was_earned() -> None:
    """The rows of execution/list have no execPnl (6.4)."""
    row = {name: value for name, value in rest_row(EXECUTION, execTime=str(NOW - 5)).items() if name != "execPnl"}
    found, _ = read(
        proven(),
        lambda path, p: [row] if path == "/v5/execution/list" and p["category"] in ("linear", "spot") else [],
    )
    assert sorted((e.id.split(":")[4], e.realized_pnl) for e in found.events if isinstance(e, Fill)) == [
        ("linear", ""), ("spot", "0"),
    ]  # fmt: skip


def test_executions_of_one_id_are_told_each() -> None:
    """An execution id is unique with its symbol (7), and names both sides of a trade with oneself (6.3: sorted by order then)."""
    row = rest_row(EXECUTION, execTime=str(NOW - 5))
    both = [
        row,
        {**row, "symbol": "BTCUSDT"},
        {**row, "orderId": "other", "side": "Buy" if row["side"] == "Sell" else "Sell"},
    ]

    def answer(path: str, params: dict[str, str]) -> Any:
        return both if path == "/v5/execution/list" and params["category"] == "linear" else []

    fills = [event for event in read(proven(), answer)[0].events if isinstance(event, Fill)]
    assert len({fill.id for fill in fills}) == len(fills) == 3


def test_unknown_status_is_reported() -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        return (
            [rest_row(ORDER, orderStatus="Parked")]
            if path == "/v5/order/history" and params["category"] == "spot"
            else []
        )

    assert "unknown status Parked" in read(proven(), answer)[0].unrecoverable


# ── Positions and wallet ─────────────────────────────────────────────────────────────────────────────────────────
def test_positions_and_wallets_that_changed() -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/position/list" and params.get("settleCoin") == "USDT":
            return [rest_row(POSITION, avgPrice="2317.3"), rest_row(POSITION, symbol="BTCUSDT", size="1")]
        if path == "/v5/account/wallet-balance":
            return [{"coin": [COIN, COIN | {"coin": "BTC", "walletBalance": "2"}]}]
        return []

    mark = proven(positions={"BTCUSDT|both": "-1"}, wallets={"BTC": "2.0", "ETH": "5"})
    found, _ = read(mark, answer)
    assert [(e.symbol, e.qty) for e in found.events if isinstance(e, Position)] == [("ETHUSDT", "-0.02")]
    told = {e.asset: (e.wallet, e.ts_event) for e in found.events if isinstance(e, Balance)}
    assert told.keys() == {"USDT", "ETH"} and told["ETH"][0] == "0"
    assert found.snapshot.positions == {"ETHUSDT|both": "-0.02", "BTCUSDT|both": "-1"}
    assert found.snapshot.wallets == {"USDT": "37.87866827", "BTC": "2"}


def test_a_position_closed_and_opened_again_in_the_gap_is_told_with_its_new_entry_price() -> None:
    traded = [
        rest_row(EXECUTION, execId=name, side=side, execTime=str(NOW - 5))
        for name, side in (("1", "Buy"), ("2", "Sell"))
    ]

    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/position/list" and params.get("settleCoin") == "USDT":
            return [rest_row(POSITION, entryPrice="2400", updatedTime=str(NOW - 5))]
        return traded if path == "/v5/execution/list" and params["category"] == "linear" else []

    found, _ = read(proven(positions={"ETHUSDT|both": "-0.02"}), answer)
    assert [(e.qty, e.entry_price) for e in found.events if isinstance(e, Position)] == [("-0.02", "2400")]


def test_a_known_position_that_is_not_listed_is_asked_for_by_symbol() -> None:
    flat = rest_row(POSITION, side="", size="0", updatedTime=str(NOW - 7))

    def answer(path: str, params: dict[str, str]) -> Any:
        return [flat] if path == "/v5/position/list" and params.get("symbol") == "ETHUSDT" else []

    found, _ = read(proven(positions={"ETHUSDT|both": "-0.02"}), answer)
    (position,) = found.events
    assert isinstance(position, Position) and (position.qty, position.ts_event) == ("0", NOW - 7)
    assert found.snapshot.positions == {}


def test_a_known_position_that_nobody_lists_is_flat_unless_it_is_young() -> None:
    found, _ = read(proven(positions={"ETHUSDT|long": "1"}), nothing)
    (position,) = found.events
    assert isinstance(position, Position) and (position.qty, position.position_side) == ("0", "long")
    young, _ = read(proven(positions={"ETHUSDT|long": "1"}, symbols={"ETHUSDT": NOW - 100}), nothing)
    assert young.events == [] and not young.explained  # no base, or the next read would know nothing of it


def test_a_known_position_of_an_expired_contract_is_flat_and_hides_no_other() -> None:
    """Its symbol is refused: no reason to leave the other positions unread, at this and at every later read."""
    held = rest_row(POSITION, updatedTime=str(NOW - 5))

    def answer(path: str, params: dict[str, str]) -> Any:
        if path != "/v5/position/list" or "symbol" not in params:
            return [held] if params.get("settleCoin") == "USDT" and path == "/v5/position/list" else []
        return refused("10001")

    found, _ = read(proven(positions={"BTC-30DEC22-1400-C|both": "1"}), answer)
    told = {e.symbol: e.qty for e in found.events if isinstance(e, Position)}
    assert told == {"BTC-30DEC22-1400-C": "0", held["symbol"]: found.snapshot.positions[f"{held['symbol']}|both"]}
    assert found.unrecoverable == "" and len(found.snapshot.positions) == 1


def test_a_flat_position_has_a_time_though_the_wallet_is_refused() -> None:
    found, _ = read(
        proven(positions={"ETHUSDT|both": "1"}), lambda path, p: refused() if path.endswith("wallet-balance") else []
    )
    (flat,) = found.events
    assert isinstance(flat, Position) and flat.qty == "0" and flat.ts_event > NOW - DAY_MS


def test_a_coin_without_a_figure_is_not_empty() -> None:
    coins = [{"accountType": "UNIFIED", "coin": [{**COIN, "coin": "BTC", "walletBalance": ""}]}]
    found, _ = read(proven(wallets={"BTC": "2"}), lambda path, p: coins if path.endswith("wallet-balance") else [])
    assert (found.events, found.snapshot.wallets) == ([], {"BTC": "2"})


def test_a_proof_reads_inverse_and_options_where_they_were_seen() -> None:
    known = proven(symbols={"BTCUSD": 1, "BTC-30DEC22-1400-C": 1}, positions={"BTCUSD|both": "300"}, scope="proof")
    _, calls = read(known, nothing)
    for category, more in (("inverse", ["list"]), ("option", [])):
        asked = [path.rpartition("/")[2] for path, p in calls if p.get("category") == category]
        assert asked == ["list", "history", "realtime", "list", *more]


@pytest.mark.parametrize(("category", "symbol"), [("inverse", "BTCUSD"), ("option", "BTC-30DEC22-1400-C")])
def test_the_first_fill_in_another_category_may_be_the_lost_one(category: str, symbol: str) -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/execution/list" and params["category"] == category:
            return [rest_row(EXECUTION, symbol=symbol, execTime=str(NOW - 5))]
        return []

    found, calls = read(proven(scope="proof"), answer)
    (fill,) = found.events
    assert isinstance(fill, Fill) and f":fill:{category}:{symbol}:" in fill.id
    assert {"history", "realtime", "list"} <= {
        path.rpartition("/")[2] for path, p in calls if p.get("category") == category
    }


def test_a_product_that_an_account_does_not_have_is_no_loss() -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        return refused("10028") if params.get("category") in ("inverse", "option") else []

    found, calls = read(proven(), answer)
    assert (found.unrecoverable, len(calls)) == ("", 18)


# ── What a key may not do, and replies that are not what the sheet says ──────────────────────────────────────────
def test_what_is_refused_is_named_and_the_rest_is_read() -> None:
    known = proven(positions={"ETHUSDT|both": "1"}, wallets={"USDT": "5"})
    found, calls = read(known, lambda path, p: [] if p == {**p, "category": "spot", "limit": "100"} else refused())
    assert len(calls) == 15
    for what in ("fills of linear", "orders of spot", "open orders of linear", "positions", "wallet"):
        assert what in found.unrecoverable
    assert (found.events, found.snapshot.positions, found.snapshot.wallets) == (
        [],
        {"ETHUSDT|both": "1"},
        {"USDT": "5"},
    )


def test_a_key_that_may_see_nothing_proves_nothing() -> None:
    """Its gap stays open, and is read when the key is allowed to again; until then with the pauses of a failed read."""
    with pytest.raises(ExchangeRefused, match="10005"):
        read(proven(), lambda path, params: refused())


@pytest.mark.parametrize("body", [b"<html>", b'{"result":{"list":[{"execId":5}]}}', b'{"result":{}}'])
def test_unreadable_replies_are_tried_again_later(body: bytes) -> None:
    with pytest.raises(ConnectionFailed):
        read(proven(), lambda path, params: body)


def test_an_unreadable_trade_is_tried_again_later() -> None:
    row = rest_row(EXECUTION, side="", execTime=str(NOW))
    with pytest.raises(ConnectionFailed, match="without side"):
        read(proven(), lambda path, params: [row] if path == "/v5/execution/list" else [])


def test_pages_that_do_not_end() -> None:
    with pytest.raises(ConnectionFailed, match="do not end"):
        read(proven(), lambda path, params: reply(rest_row(EXECUTION), cursor="again"))


def test_bookings_are_told_with_their_payload() -> None:
    row = rest_row(EXECUTION, execType="Settle", execTime=str(NOW - 1), orderId="")

    def answer(path: str, params: dict[str, str]) -> Any:
        return [row] if path == "/v5/execution/list" and params["category"] == "linear" else []

    (event,) = read(proven(), answer)[0].events
    assert isinstance(event, AccountEvent) and event.event == "execution.Settle"
    assert event.data == json.loads(json.dumps(row)) and event.source == "rest"


def test_an_order_that_is_ahead_of_its_fills_is_said() -> None:
    filled = rest_row(
        ORDER, orderStatus="Filled", cumExecQty="0.02", createdTime=str(NOW - 90), updatedTime=str(NOW - 5)
    )

    def answer(*fills: Any) -> Answer:
        told = {("/v5/order/history", "linear"): [filled], ("/v5/execution/list", "linear"): list(fills)}
        return lambda path, params: told.get((path, params.get("category", "")), [])

    assert read(proven(), answer())[0].untold_ms == NOW - 5
    half = rest_row(EXECUTION, execTime=str(NOW - 5), execQty="0.01")
    assert read(proven(), answer(half))[0].untold_ms == NOW - 5
    assert (
        read(proven(), answer(half, rest_row(EXECUTION, execId="2", execTime=str(NOW - 5), execQty="0.01")))[
            0
        ].untold_ms
        == 0
    )


def test_a_position_that_is_ahead_of_its_fills_is_said() -> None:
    """REST tells executions later than positions: as a base this snapshot would explain the fill away."""
    opened = NOW - 30_000
    position = rest_row(POSITION, size="0.02", side="Buy", updatedTime=str(opened))

    def told(linear: list[Any], spot: list[Any] | None = None, row: dict[str, Any] = position) -> Recovered:
        fills = {"linear": linear, "spot": spot or []}

        def answer(path: str, params: dict[str, str]) -> Any:
            if path == "/v5/execution/list":
                return fills.get(params["category"], [])
            return [row] if path == "/v5/position/list" and params.get("settleCoin") == "USDT" else []

        return read(proven(), answer)[0]

    mine = rest_row(EXECUTION, side="Buy", execQty="0.02", execTime=str(opened))
    assert (told([]).untold_ms, told([]).explained) == (opened, False)
    assert (told([mine]).untold_ms, told([mine]).explained) == (0, True)
    assert told([], [mine | {"orderId": "17", "execId": "18"}]).untold_ms == opened  # a fill of the spot market
    assert told([], row=position | {"updatedTime": str(NOW + 1)} | {"symbol": "ETHUSDT"}).untold_ms == NOW + 1
    assert told([], row=position | {"updatedTime": str(NOW + 4)}).untold_ms == 0  # the socket tells that one
    assert told([], row=position | {"symbol": "ETHUSDT-26DEC26"}).untold_ms == 0  # it may have been delivered


def test_a_read_that_waited_is_no_sign_of_a_hidden_fill() -> None:
    """A ban in the midst of the read before: its positions have a fill of long after it had begun."""
    position = rest_row(POSITION, size="0.05", side="Buy", updatedTime=str(NOW - 10_000))
    first = rest_row(EXECUTION, side="Buy", execQty="0.02", execTime=str(NOW - 45_000), execId="1")
    second = rest_row(EXECUTION, side="Buy", execQty="0.03", execTime=str(NOW - 10_000), execId="2")

    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/execution/list" and params["category"] == "linear":
            return [first, second]
        return [position] if path == "/v5/position/list" and params.get("settleCoin") == "USDT" else []

    def told(until_ms: int) -> Recovered:
        base = Snapshot(NOW - 60_000, {"ETHUSDT|both": "0.02"}, {}, (), until_ms)
        return read(Watermark(NOW - 60_000, base), answer)[0]

    assert (told(NOW - 44_000).untold_ms, told(NOW - 44_000).explained) == (0, True)
    assert told(NOW - 59_000).untold_ms == NOW - 59_999, "that one did not wait"
    assert read(proven(), nothing)[0].snapshot.until_ms == json.loads(reply())["time"]


@pytest.mark.parametrize(("kind", "hidden"), [("CorporateAction", False), ("Settle", False), ("Funding", True)])
def test_a_position_that_moved_without_a_trade_is_no_sign_of_a_hidden_fill(kind: str, hidden: bool) -> None:
    """A stock's perpetual was split, or a contract ended: the gap was told as unrecoverable, and nothing was missing."""
    position = rest_row(POSITION, size="0.06", side="Buy", updatedTime=str(NOW - 10_000))
    booked = rest_row(EXECUTION, execType=kind, execTime=str(NOW - 10_000))

    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/execution/list" and params["category"] == "linear":
            return [booked]
        return [position] if path == "/v5/position/list" and params.get("settleCoin") == "USDT" else []

    mark = Watermark(NOW - 60_000, Snapshot(NOW - 60_000, {"ETHUSDT|both": "0.02"}, {}))
    assert read(mark, answer)[0].untold_ms == (NOW - 10_000 if hidden else 0)


def test_of_an_order_and_a_position_ahead_of_their_fills_the_earlier_counts() -> None:
    """That of just now would have let the gap close, and its snapshot would have explained the hidden fill away."""
    position = rest_row(POSITION, size="0.02", side="Buy", updatedTime=str(NOW - 30_000))
    order = rest_row(ORDER, orderStatus="Filled", cumExecQty="1", createdTime=str(NOW - 50), updatedTime=str(NOW - 40))

    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/order/history" and params["category"] == "linear":
            return [order]
        return [position] if path == "/v5/position/list" and params.get("settleCoin") == "USDT" else []

    assert read(proven(), answer)[0].untold_ms == NOW - 30_000
