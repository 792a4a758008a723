"""The loss campaign's own arithmetic: the schedule, the two foldings, the comparison, whose silence it was."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fleet.demo.chaos import SPAN
from simulator.fault import KINDS as SIMULATED
from tests.campaigns.loss.faults import EXCHANGE_FAULTS, KINDS, schedule
from tests.campaigns.loss.judge import compare, of_events, of_ledger
from tests.campaigns.loss.report import silences

VENUE = {"exchange": "binance", "market": "usdm"}


def test_one_seed_is_one_schedule_and_every_kind_comes_before_any_repeats() -> None:
    faults = schedule(7, 600.0, 2.0)
    assert faults == schedule(7, 600.0, 2.0) != schedule(8, 600.0, 2.0)
    assert {fault.kind for fault in faults[: len(KINDS)]} == set(KINDS)
    assert max(fault.at_s for fault in faults) < 600.0 * SPAN
    assert {str(body.get("kind", kind)) for kind, body in EXCHANGE_FAULTS.items()} == set(SIMULATED)


def ledger() -> list[dict[str, Any]]:
    row = {**VENUE, "api_key": "K", "symbol": "BTCUSDT", "order_id": "1", "trade_id": None}
    return [
        {**row, "seq": 1, "ts": 10, "type": "order", "status": "new"},
        {**row, "seq": 3, "ts": 30, "type": "order", "status": "filled"},
        {**row, "seq": 4, "ts": 20, "type": "order", "status": "partially_filled"},  # written late
        {**row, "seq": 2, "ts": 20, "type": "fill", "trade_id": "7", "price": "5.0", "qty": "1", "side": "buy", "fee": "0.1"},
        {**row, "seq": 5, "ts": 30, "type": "fill", "trade_id": "8", "price": "5", "qty": "1", "side": "buy", "fee": "0.10"},
        {**row, "seq": 6, "ts": 30, "type": "position", "side": "BOTH", "qty": "2"},
        {**row, "seq": 7, "ts": 30, "type": "balance", "asset": "USDT", "wallet": "89.8"},
        {**row, "seq": 8, "ts": 30, "type": "balance", "asset": "USDT", "wallet": "1", "api_key": "somebody else"},
    ]  # fmt: skip


def told() -> list[dict[str, Any]]:
    e = {**VENUE, "account_id": "a", "symbol": "BTCUSDT", "order_id": "1", "source": "stream", "ts_event": 30}
    fill = {**e, "type": "fill", "price": "5", "side": "buy", "fee": "0.1", "qty": "1.0"}
    return [
        {**fill, "trade_id": "7"},
        {**fill, "trade_id": "8"},
        {**e, "type": "order", "status": "filled", "filled_qty": "2"},
        {**e, "type": "order", "status": "new", "filled_qty": "0", "ts_event": 40},
        {**e, "type": "position", "position_side": "both", "qty": "2", "margin_mode": "cross"},
        {**e, "type": "balance", "asset": "USDT", "wallet": "89.8"},
        {**e, "type": "balance", "asset": "USDT", "wallet": "94.9", "source": "rest"},  # REST lagged
        {**e, "type": "balance", "asset": "BNB", "wallet": "3"},  # since before the ledger begins
        {**e, "type": "account", "event": "margin_call"},
    ]


def test_the_same_told_in_two_ways_is_complete() -> None:
    verdict = compare(of_ledger(ledger(), {"K": "a"}), of_events(told()))
    assert verdict.complete and verdict.outstanding() == ""
    assert verdict.fills.ledger == 2 and verdict.orders.ledger == 1


def test_missing_extra_and_wrong_are_told_apart() -> None:
    records = told()
    records[0] = {**records[0], "fee": "0.2"}
    records[1] = {**records[1], "trade_id": "9"}
    records[2] = {**records[2], "status": "canceled"}
    verdict = compare(of_ledger(ledger(), {"K": "a"}), of_events(records))
    assert verdict.outstanding() == "1 fills missing, 1 fills extra, 1 fills wrong, 1 orders wrong"
    assert any("true is filled 2" in example for example in verdict.orders.examples)
    books = of_events(told())
    books.repeated.append(("binance:usdm", "a", "BTCUSDT", "7", "1"))
    assert compare(of_ledger(ledger(), {"K": "a"}), books).fills.extra == 1


def test_a_silence_is_the_latest_faults() -> None:
    def gap(opened_s: float, closed_s: float | None, account: str | None = "a") -> dict[str, Any]:
        at = [dt.datetime.fromtimestamp(s, tz=dt.UTC) if s is not None else None for s in (opened_s, closed_s)]
        return {"account": account, "opened_at": at[0], "closed_at": at[1]}

    begun = [(1_000_000, "cut"), (1_010_000, "stall")]
    gaps = [gap(1000, 1004), gap(1010, 1030), gap(1011, 1012), gap(1020, None), gap(1001, 1009, None), gap(5000, 5009)]
    assert silences(gaps, begun) == {"stall": 20.0, "cut": 4.0}
