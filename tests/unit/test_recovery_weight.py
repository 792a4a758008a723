"""What read-backs and audits cost in request weight, venue by venue, from the pure plans; the table in docs/recovery.md.

A read-back after a short gap is two reads: fills at once, everything some seconds later. In a crowd it is one full read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fleet.core.recovery import Scope, Snapshot, Watermark
from fleet.exchanges import exchanges
from fleet.exchanges.okx import rows as okx_rows
from fleet.runtime.settings import Settings
from tests.contract.samples.bybit import ORDER, UUID, rest_row
from tests.unit import test_binance_recover as usdm
from tests.unit import test_binance_spot_recover as spot
from tests.unit import test_bybit_recover as bybit
from tests.unit import test_okx_recover as okx
from tests.unit.test_recovery import resting
from workers.readback import CROWD, PATIENT_SHARE
from workers.rest import PROBE_SHARE
from workers.upkeep import FULL_AUDIT_EACH

ACCOUNTS = 300  # on one address
SHARE = 0.10  # of the weight limit that audits may take
# What the exchanges document for one address and minute; OKX limits private calls per user, so this is our own bound.
LIMIT_PER_MIN = {"binance_usdm": 2400, "binance_spot": 6000, "bybit": 7200, "okx": 6000}
Costs = Callable[[Scope], int]


def usdm_account(kind: str) -> Costs:
    """Quiet; active: two symbols traded within the hour, an order rests in each; missed: and a fill was lost."""
    venue = usdm.Venue()
    symbols = ("AUSDT", "BUSDT") if kind != "quiet" else ()
    orders = [f"{symbol}|{venue.order(symbol, 'SELL', '1', usdm.T0 - 50)['orderId']}" for symbol in symbols]
    mark = usdm.based(venue)
    for n, symbol in enumerate(symbols):
        for event in usdm.items(venue.trade(symbol, "BUY", "1", usdm.T0 + n)):
            mark.advance(event)
    mark.orders |= resting(*orders)
    venue.read(mark, usdm.T0 + 100)
    mark.prove(venue.read(mark, usdm.T0 + 100).snapshot, usdm.T0 + 100)
    if kind == "missed":
        venue.trade("AUSDT", "SELL", "1", usdm.T0 + 200, pnl="1")

    def cost(scope: Scope) -> int:
        mark.scope = scope
        found = venue.read(mark, usdm.T0 + 60_000)
        for event in found.events:
            mark.advance(event)
        mark.prove(found.snapshot, mark.proven_ms)
        return venue.weight

    return cost


def spot_account(kind: str) -> Costs:
    exchange, now = spot.Exchange(), spot.NOW
    symbols = ("BTCUSDT", "ETHUSDT") if kind != "quiet" else ()
    for symbol in symbols:
        exchange.order(symbol, "BUY", "0.1", "80000" if symbol == "BTCUSDT" else "3000", now - 2 * spot.DAY)
    mark = spot.proven(exchange, now - 60_000)
    mark.symbols = dict.fromkeys(symbols, now - 50_000)
    if kind == "missed":
        exchange.trade("BTCUSDT", "SELL", "0.5", "84000", now - 1000)

    def cost(scope: Scope) -> int:
        mark.scope = scope
        exchange.read(mark)
        return exchange.weight

    return cost


def bybit_account(kind: str) -> Costs:
    active = kind != "quiet"
    more: dict[str, Any] = (
        {"symbols": {"BTCUSDT": bybit.NOW - 1000}, "orders": resting(f"BTCUSDT|{UUID}")} if active else {}
    )

    def answer(path: str, params: dict[str, str]) -> Any:
        rests = active and path.endswith("realtime") and params["category"] == "linear"
        return [rest_row(ORDER, orderStatus="New")] if rests else []

    return lambda scope: len(bybit.read(bybit.proven(scope=scope, **more), answer)[1])


def okx_account(kind: str) -> Costs:
    active, fills = kind != "quiet", [okx.fill(1)] if kind == "missed" else []

    def cost(scope: Scope) -> int:
        mark = Watermark(okx.NOW - 60_000, Snapshot(okx.NOW - 60_000, {}, {"USDT": "5"}), scope=scope)
        if active:
            mark.symbols = {okx.SWAP: okx.NOW - 1000, "BTC-USDT": okx.NOW - 1000}
            mark.orders = resting(f"{okx.SWAP}|9")
        answers: dict[str, Any] = {
            okx_rows.BALANCE.path: okx.balance(okx.wallet("USDT", "4.9" if fills else "5")),
            okx_rows.FILLS: okx.data(*fills), okx_rows.PENDING: okx.data(*([okx.order("9", "live")] if active else [])),
        }  # fmt: skip
        return len(okx.read(mark, answers)[1])

    return cost


VENUES = {"binance_usdm": usdm_account, "binance_spot": spot_account, "bybit": bybit_account, "okx": okx_account}
# venue -> kind of account -> weight of the early read of fills, of the full read after it, of a full read that is the only one
TABLE = {
    "binance_usdm": {"quiet": (5, 5, 5), "active": (5, 14, 14), "missed": (11, 14, 19)},
    "binance_spot": {"quiet": (20, 20, 20), "active": (20, 72, 72), "missed": (44, 72, 96)},
    "bybit": {"quiet": (12, 18, 18), "active": (12, 18, 18)},
    "okx": {"quiet": (4, 6, 6), "active": (7, 7, 7), "missed": (11, 11, 11)},
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in TABLE.items() for kind in kinds])
def test_a_read_back_costs(name: str, kind: str) -> None:
    early = VENUES[name](kind)
    assert (early("fills"), early("full"), VENUES[name](kind)("full")) == TABLE[name][kind]


ORDERS = {
    "binance_usdm": 17,
    "binance_spot": 40,
    "bybit": 0,
    "okx": 5,
}  # once per gap, after it; two symbols: usdm 5, 5 a symbol, three at most, and 1 each; spot 20 a symbol, five at most


@pytest.mark.parametrize("name", VENUES)
def test_a_read_of_what_a_gap_left_unasked_costs(name: str) -> None:
    if ORDERS[name]:
        assert VENUES[name]("active")("orders") == ORDERS[name]
    else:
        found, _ = bybit.read(bybit.proven(), bybit.nothing)
        assert not found.unasked, "its full read asks for every order of the account"


@pytest.mark.parametrize("name", VENUES)
def test_audits_and_probes_of_active_accounts_stay_within_a_tenth_of_the_limit(name: str) -> None:
    account, limits = VENUES[name]("active"), exchanges()[name].limits
    assert limits.proof_weight == account("proof")
    each_min = ACCOUNTS * 60 / Settings().audit_interval_s / FULL_AUDIT_EACH
    proofs = max((FULL_AUDIT_EACH - 1) * each_min * account("proof"), PROBE_SHARE * limits.weight.per_s * 60)
    per_min = proofs + each_min * account("full")
    assert per_min <= SHARE * LIMIT_PER_MIN[name], f"{per_min:.0f} of {LIMIT_PER_MIN[name]}"
    assert LIMIT_PER_MIN[name] >= 0.9 * exchanges()[name].limits.weight.per_s * 60


def test_a_crowd_of_quiet_accounts_and_those_that_traded_fit_into_six_minutes() -> None:
    """1,000 quiet ones, of which the first hundred of each of four workers are read twice, and 50 of which fills were missed."""
    quiet, missed = TABLE["binance_usdm"]["quiet"], TABLE["binance_usdm"]["missed"]
    listen_keys = 1050
    weight = 4 * CROWD * sum(quiet[:2]) + (1000 - 4 * CROWD) * quiet[2] + 50 * sum(missed[:2]) + listen_keys
    budget = exchanges()["binance_usdm"].limits.weight
    assert weight / (budget.burst * (1 - PATIENT_SHARE)) * budget.window_s <= 360
