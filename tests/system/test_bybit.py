"""A whole fleet of Bybit accounts: what the socket lost comes back by REST; a login that fails for the clock deactivates nobody,
a revoked key its account alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet, eventually, fresh_env
from tests.support.services import SharedServices

pytestmark = pytest.mark.system

VENUE = ("bybit", "unified")


@pytest.fixture(scope="module")
def fleet(services: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory: Path = tmp_path_factory.mktemp("bybit")
    with fresh_env(services, directory) as env:
        env |= {"FLEET_MARKET_SYMBOLS": "bybit:BTCUSDT,bybit:spot/BTCUSDT"}
        with Fleet(env, directory, workers=1, accounts=3, venue=VENUE) as fleet:
            fleet.wait_live(3)
            yield fleet


def order(fleet: Fleet, api_key: str, symbol: str, fills: int) -> list[str]:
    body = {
        "api_key": api_key,
        "market": "unified",
        "symbol": symbol,
        "side": "buy",
        "qty": "0.03",
        "price": "3000",
        "fills": fills,
    }
    placed: dict[str, Any] = fleet.control.call("POST", "/orders", body)
    return list(placed["trade_ids"])


def stored(fleet: Fleet, account: str) -> dict[str, str]:
    """trade id → source, as they reached Postgres."""
    rows = fleet.pg.fetch("SELECT trade_id, source FROM fills WHERE account_id = %s", (account,))
    return {row["trade_id"]: row["source"] for row in rows}


def active(fleet: Fleet, account: str) -> bool:
    return bool(fleet.rows.show(account)["is_active"])


def test_fills_dropped_from_the_socket_come_back_by_rest(fleet: Fleet) -> None:
    account = next(iter(fleet.credentials))
    api_key = fleet.credentials[account].api_key
    heard = order(fleet, api_key, "BTCUSDT", 2)
    eventually(lambda: set(stored(fleet, account)) == set(heard), 10.0, "what the socket told")
    fault = fleet.control.fault({"kind": "drop_event", "api_key": api_key})
    lost = order(fleet, api_key, "BTCUSDT", 3) + order(fleet, api_key, "spot/BTCUSDT", 2)
    fleet.control.heal(fault)
    fleet.control.fault({"kind": "cut", "api_key": api_key})
    eventually(lambda: set(stored(fleet, account)) == {*heard, *lost}, 30.0, "what the socket had lost")
    found = stored(fleet, account)
    assert {found[trade] for trade in heard} == {"stream"} and {found[trade] for trade in lost} == {"rest"}


def test_a_clock_off_by_a_minute_deactivates_nobody(fleet: Fleet) -> None:
    """The venue calls a late login "Params Error", as it does a bad key: the signed call tells them apart."""
    fault = fleet.control.fault({"kind": "clock_skew", "exchange": "bybit", "ms": 60_000})
    try:
        fleet.control.fault({"kind": "cut", "path": "/v5/private"})
        eventually(lambda: all(map(fleet.streaming, fleet.credentials)), 60.0, "all accounts to stream again")
        assert all(active(fleet, account) for account in fleet.credentials)
    finally:
        fleet.control.heal(fault)


def test_a_revoked_key_deactivates_its_account_alone(fleet: Fleet) -> None:
    account = list(fleet.credentials)[-1]
    api_key = fleet.credentials[account].api_key
    fleet.control.call("PATCH", f"/accounts/{api_key}", {"state": "invalid"})
    fleet.control.fault({"kind": "cut", "api_key": api_key})
    eventually(lambda: not active(fleet, account), 60.0, "deactivation")
    assert "10003" in fleet.rows.show(account)["deactivated_reason"]
    others = [other for other in fleet.credentials if other != account]
    eventually(lambda: all(map(fleet.streaming, others)), 60.0)
    assert all(active(fleet, other) for other in others)
    for secret in (api_key, fleet.credentials[account].secret):
        assert secret not in fleet.log_text()
