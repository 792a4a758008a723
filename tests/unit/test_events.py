"""Normalised events: plain decimals in ids, JSON forms, the published schema."""

from __future__ import annotations

import json
import runpy
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import schema
from fleet.core.events import (
    AccountEvent,
    Balance,
    Depth,
    Fill,
    Kline,
    Liquidation,
    MarkPrice,
    Order,
    Position,
    Record,
    StreamEvent,
    Ticker,
    Trade,
    plain,
)
from fleet.core.exchange import HttpRequest, Step

EVENT: dict[str, Any] = {
    "id": "i",
    "exchange": "binance",
    "market": "usdm",
    "symbol": "BTCUSDT",
    "ts_event": 1,
    "ts_recv": 2,
}
USER: dict[str, Any] = EVENT | {"account_id": "a"}
SAMPLES: list[Record] = [
    Order(**USER, order_id="1", client_order_id="c", side="buy", position_side="both", order_type="limit", time_in_force="gtc",
          status="new", price="1.10", stop_price="0", qty="2", filled_qty="0", avg_price="0", reduce_only=False),
    Fill(**USER, trade_id="1", order_id="2", client_order_id="c", side="sell", position_side="long", price="1.10", qty="2",
         fee="0.1", fee_asset="USDT", liquidity="maker", realized_pnl="0"),
    Position(**USER, position_side="both", qty="-1", entry_price="1", unrealized_pnl="0", margin_mode="cross"),
    Balance(**USER | {"symbol": "", "source": "rest"}, asset="USDT", wallet="1.50"),
    AccountEvent(**USER, event="MARGIN_CALL", data={"x": [1, None, "1.10"]}),
    Trade(**EVENT, trade_id="1", price="1", qty="1", side="buy"),
    Kline(**EVENT, interval="1m", open_time=1, close_time=2, open="1", high="1", low="1", close="1", volume="1", closed=True),
    Ticker(**EVENT, last="1.10"),
    Depth(**EVENT, kind="update", bids=[("1", "0")], asks=[], first_seq=1, last_seq=2, prev_seq=0),
    Liquidation(**EVENT, side="sell", price="1", qty="1"),
    MarkPrice(**EVENT, mark="1", next_funding=5),
    StreamEvent(**EVENT, stream="s", event="gap_opened", reason="cut", account_id="a", data={"n": 1}),
]  # fmt: skip
VALIDATOR = jsonschema.Draft202012Validator(schema.generate())


def test_the_published_schema_is_the_generated_one() -> None:
    published = Path(__file__).parents[2] / "docs" / "schema.json"
    assert published.read_text() == schema.text(), "run: python -m fleet.core.schema > docs/schema.json"
    jsonschema.Draft202012Validator.check_schema(json.loads(published.read_text()))


@pytest.mark.parametrize("event", SAMPLES, ids=lambda e: type(e).__name__)
def test_each_record_fits_the_schema_and_comes_back(event: Record) -> None:
    text = msgspec.json.encode(event)
    VALIDATOR.validate(json.loads(text))
    assert msgspec.json.decode(text, type=Record) == event


def test_the_samples_are_complete() -> None:
    assert {type(event) for event in SAMPLES} == set(schema.RECORDS)


@pytest.mark.parametrize(
    "change", [{"price": 1.1}, {"side": "BUY"}, {"type": "other"}, {"status": "done"}, {"ts_event": "1"}]
)
def test_the_schema_refuses_what_is_wrong(change: dict[str, Any]) -> None:
    value = json.loads(msgspec.json.encode(SAMPLES[0])) | change
    assert not VALIDATOR.is_valid(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.020", "0.02"), ("2.000", "2"), ("100", "100"), ("-0", "0"), ("-0.00", "0"), ("", "0"), ("0", "0"), (".50", ".5"),
     ("-1.10", "-1.1")],
)  # fmt: skip
def test_plain(text: str, expected: str) -> None:
    assert plain(text) == expected


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6), st.integers(0, 4))
def test_plain_is_the_same_number_in_one_form(number: Decimal, zeros: int) -> None:
    text = f"{number:f}"
    longer = text + "0" * zeros
    assert Decimal(plain(text)) == number and plain(text) == plain(longer)


def test_the_schema_is_printed_by_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(Path(schema.__file__)), run_name="__main__")
    assert capsys.readouterr().out == schema.text()


def test_values_that_carry_secrets_do_not_show_them() -> None:
    assert repr(Step("authenticating", "login", b"secret")) == "Step(authenticating login)"
    assert repr(HttpRequest("GET", "/p?signature=secret", (("key", "secret"),))) == "HttpRequest(GET /p)"
