"""Positions and wallets that went and came back while nobody could save it: Kafka may have heard of the way there, so their return
is told though the watermark knows nothing else. USDⓈ-M and Spot by the read-backs of test_rest_lag, the others by their plans."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest

from fleet.core.events import Balance, Position
from fleet.core.recovery import Watermark
from fleet.exchanges.okx import rows
from tests.contract.samples.bybit import EXECUTION, POSITION, rest_row
from tests.unit import test_binance_spot_recover as spot
from tests.unit import test_bybit_recover as bybit
from tests.unit import test_okx_recover as okx
from tests.unit.test_binance_recover import T0, items
from tests.unit.test_rest_lag import HOUR_MS, LaggingSpot, LaggingUsdm, Life, proven_usdm

AT_MS = T0 + 60_000


def reborn(life: Life, saved: str) -> Life:
    """The next life, from the watermark that was saved, after a gap."""
    second = Life(life.venue, msgspec.json.decode(saved, type=Watermark))
    life.venue.now_ms = AT_MS + 12_000
    second.progress.open_gap(AT_MS, "moved")
    second.progress.taken_over(life.venue.now_ms)
    second.read(life.venue.now_ms)
    return second


def positions(*lives: Life) -> list[str]:
    return [r["qty"] for life in lives for r in life.kafka.records if r["type"] == "position"]


@pytest.mark.parametrize("fills_saved", [False, True])
def test_a_new_life_tells_a_position_that_the_one_before_told_and_did_not_save(fills_saved: bool) -> None:
    """Opened and told; closed in the gap, or told as filled only, before the position was."""
    first = proven_usdm()
    venue = cast(LaggingUsdm, first.venue)
    saved = first.progress.watermark_json()
    first.progress.live(items(venue.trade("BTCUSDT", "BUY", "1", AT_MS)))
    closing = items(venue.trade("BTCUSDT", "SELL", "1", AT_MS + 500))
    if fills_saved:
        mark = msgspec.json.decode(saved, type=Watermark)
        for event in [*items(first_frames(venue)), *closing]:
            if not isinstance(event, Position):
                mark.advance(event)
        saved = msgspec.json.encode(mark).decode()
    second = reborn(first, saved)
    assert positions(first, second) == ["1", "0"]
    assert second.closed() == [True] and second.progress.mark.positions == {}


def first_frames(venue: LaggingUsdm) -> list[bytes]:
    """The frames of a trade like the first, from a venue of its own."""
    return LaggingUsdm().trade("BTCUSDT", "BUY", "1", AT_MS)


def test_a_quiet_account_s_new_life_tells_nothing_twice() -> None:
    first = proven_usdm()
    venue = cast(LaggingUsdm, first.venue)
    first.progress.live(items(venue.trade("BTCUSDT", "BUY", "1", T0 + 1_000)))
    first.kafka.acknowledge()
    venue.now_ms = AT_MS - 20_000
    first.read(T0, audit="full")
    first.kafka.acknowledge()
    assert positions(reborn(first, first.progress.watermark_json())) == []


def test_a_position_on_its_way_to_kafka_is_taken_back_where_the_gap_took_it_back() -> None:
    life = proven_usdm()
    venue = cast(LaggingUsdm, life.venue)
    life.progress.live(items(venue.trade("BTCUSDT", "BUY", "1", AT_MS)))  # Kafka is slow: nothing acknowledged
    life.progress.open_gap(AT_MS + 100, "cut")
    venue.trade("BTCUSDT", "SELL", "1", AT_MS + 500)
    venue.now_ms = AT_MS + 12_000
    life.progress.taken_over(venue.now_ms)
    life.read(venue.now_ms)
    assert positions(life) == ["1", "0"] and life.closed() == [True]


def test_a_spot_wallet_that_was_bought_and_sold_again_is_told_as_empty() -> None:
    venue = LaggingSpot()
    first = Life(venue, Watermark(proven_ms=spot.NOW - HOUR_MS))
    venue.now_ms = spot.NOW - HOUR_MS + 10_000
    first.read(venue.now_ms)
    first.progress.mark.symbols["ETHUSDT"] = spot.NOW - HOUR_MS
    saved = first.progress.watermark_json()
    venue.trade("ETHUSDT", "BUY", "1", "100", spot.NOW - 9_000)
    venue.trade("ETHUSDT", "SELL", str(1 - spot.FEE), "100", spot.NOW - 8_000)
    assert venue.wallets["ETH"] == 0
    second = Life(venue, msgspec.json.decode(saved, type=Watermark))
    venue.now_ms = spot.NOW
    second.progress.open_gap(spot.NOW - 10_000, "moved")
    second.progress.taken_over(spot.NOW)
    second.read(spot.NOW)
    told = {r["asset"]: Decimal(r["wallet"]) for r in second.kafka.records if r["type"] == "balance"}
    assert told["ETH"] == 0 and second.closed() == [True]


@pytest.mark.parametrize("behind", [True, False])
def test_bybit_tells_what_came_back(behind: bool) -> None:
    def answer(path: str, params: dict[str, str]) -> Any:
        if path == "/v5/execution/list" and params["category"] == "linear":
            return [rest_row(EXECUTION, execTime=str(bybit.NOW - 500), feeCurrency="USDT")]
        if path == "/v5/position/list" and "symbol" in params:
            return [rest_row(POSITION, side="", size="0", updatedTime=str(bybit.NOW - 400))]
        return []

    found, _ = bybit.read(bybit.proven(behind=behind), answer)
    told = [(e.symbol, e.qty, e.ts_event) for e in found.events if isinstance(e, Position)]
    assert told == ([("ETHUSDT", "0", bybit.NOW - 400)] if behind else [])
    assert [(e.asset, e.wallet) for e in found.events if isinstance(e, Balance)] == ([("USDT", "0")] if behind else [])


@pytest.mark.parametrize("behind", [True, False])
def test_okx_tells_what_came_back(behind: bool) -> None:
    mark = okx.based({"ETH-USDT-SWAP|net|cross": "3"}, {"USDT": "5"})
    mark.behind = behind
    answers: dict[str, Any] = {
        rows.FILLS: okx.data(
            okx.fill(1, fee="0", at_ms=okx.NOW - 9000),
            okx.fill(2, side="sell", fee="0", at_ms=okx.NOW - 8000),
            okx.fill(3, symbol="BTC-USDT", fee="0", at_ms=okx.NOW - 8000, feeCcy="BTC", posSide=""),
        ),
        rows.BALANCE.path: okx.balance(okx.wallet("USDT", "5")),
        rows.POSITIONS.path: okx.data(okx.held("3", "ETH-USDT-SWAP")),
    }
    found, _ = okx.read(mark, answers)
    flat = {(e.symbol, e.position_side, e.qty, e.ts_event) for e in okx.of(found, Position)}
    assert flat == ({(okx.SWAP, "net", "0", okx.NOW - 8000)} if behind else set())
    told = {e.asset: e.wallet for e in okx.of(found, Balance)}
    assert told == ({"USDT": "5", "BTC": "0"} if behind else {})


@pytest.mark.parametrize("behind", [True, False])
def test_a_spot_wallet_that_known_fills_emptied_again_is_told_though_the_fee_was_in_bnb(behind: bool) -> None:
    """The fills were saved, and what the socket said of the wallets after the first of them was not: Kafka may have it."""
    exchange = spot.Exchange()
    exchange.wallets["BNB"] = Decimal(5)
    mark = Watermark(proven_ms=spot.NOW - HOUR_MS)
    mark.prove(exchange.read(mark, spot.NOW - HOUR_MS).snapshot, spot.NOW - HOUR_MS)
    for side, at_ms in (
        ("BUY", spot.NOW - HOUR_MS // 2),
        ("SELL", spot.NOW - HOUR_MS // 2 + 1000),
    ):  # not in use any more
        row = exchange.trade("ETHUSDT", side, "1", "100", at_ms) | {"commission": "0.001", "commissionAsset": "BNB"}
        exchange.trades[-1] = row
        mark.advance(spot.rows.fill(spot.msgspec.convert(row, spot.wire.TradeRow), "", "acc", spot.NOW))
    exchange.wallets |= {"BNB": Decimal("4.998"), "ETH": Decimal(0), "USDT": Decimal(mark.wallets["USDT"])}
    mark.behind = behind
    found = exchange.read(mark, spot.NOW)
    told = {e.asset: Decimal(e.wallet) for e in found.events if isinstance(e, Balance)}
    assert (found.explained, told.pop("BNB")) == (True, Decimal("4.998"))
    assert told == ({"ETH": 0, "USDT": Decimal(mark.wallets["USDT"])} if behind else {})
