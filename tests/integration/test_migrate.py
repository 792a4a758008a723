"""The schema: versioned, safe to repeat and to run twice at once; the account table's own rules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fleet.runtime.postgres import Postgres, StatementFailed, migrate

pytestmark = pytest.mark.integration
TABLES = {
    "exchange_accounts", "orders", "order_history", "fills", "positions", "balances", "account_events", "stream_gaps",
    "fleet_term", "fleet_assignment", "fleet_witness", "stream_watermarks", "outbox", "dead_letter", "fleet_schema",
}  # fmt: skip


@pytest.fixture
def pg(database: str) -> Iterator[Postgres]:
    store = Postgres(database, application="tests")
    yield store
    store.close()


@pytest.fixture
def accounts(pg: Postgres) -> Postgres:
    migrate(pg)
    return pg


def add(pg: Postgres, **values: Any) -> str:
    row = {"user_id": "u", "exchange": "binance", "market": "usdm", "label": "main"} | values
    columns, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    return str(pg.fetch(f"INSERT INTO exchange_accounts ({columns}) VALUES ({places}) RETURNING id", row)[0]["id"])


def test_twice_is_as_once(pg: Postgres) -> None:
    first = migrate(pg)
    assert first == sorted(first)
    assert first
    assert migrate(pg) == []
    found = {row["tablename"] for row in pg.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert found >= TABLES
    assert pg.fetch("SELECT id, exchange, label, is_active FROM exchange_accounts;") == []
    assert pg.fetch("SELECT term FROM fleet_term") == [{"term": 0}]


def test_several_processes_at_once(database: str) -> None:
    # Without a limit, one that finds no connection leaves the others waiting, and the pool's exit for them, for ever.
    together = threading.Barrier(4, timeout=30)

    def one(_: int) -> list[str]:
        pg = Postgres(database, application="tests")
        pg.fetch("SELECT 1")
        together.wait()
        try:
            return migrate(pg)
        finally:
            pg.close()

    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(one, range(4)))
    assert sorted(map(bool, applied)) == [False, False, False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"exchange": "kraken"},
        {"market": "unified"},
        {"exchange": "bybit", "market": "usdm"},
        {"exchange": "okx", "market": "spot"},
        {"credential_key_id": "k1"},
    ],
)
def test_impossible_rows_are_refused(accounts: Postgres, wrong: dict[str, str]) -> None:
    with pytest.raises(StatementFailed) as caught:
        add(accounts, **wrong)
    assert caught.value.is_data


def test_one_label_per_user_and_venue(accounts: Postgres) -> None:
    add(accounts)
    add(accounts, label="second")
    add(accounts, user_id="v")
    add(accounts, exchange="bybit", market="unified")
    with pytest.raises(StatementFailed):
        add(accounts)


def test_the_revision_grows_exactly_when_a_new_socket_is_needed(accounts: Postgres) -> None:
    account = add(accounts)

    def after(change: str) -> int:
        accounts.execute(f"UPDATE exchange_accounts SET {change} WHERE id = %s", (account,))
        (row,) = accounts.fetch("SELECT revision, updated_at >= created_at AS touched FROM exchange_accounts")
        assert row["touched"]
        return int(row["revision"])

    assert after("label = 'x'") == 1
    assert after("telegram_chat_id = '7'") == 1
    assert after("is_active = false, deactivated_reason = 'why'") == 1
    (row,) = accounts.fetch("SELECT deactivated_reason, deactivated_at FROM exchange_accounts")
    assert row["deactivated_reason"] == "why" and row["deactivated_at"] is not None
    assert after("is_active = true") == 2
    (row,) = accounts.fetch("SELECT deactivated_reason, deactivated_at FROM exchange_accounts")
    assert row == {"deactivated_reason": None, "deactivated_at": None}
    assert after("is_active = true") == 2
    assert after("credential_key_id = 'k', credential_ciphertext = 'x'") == 3
    assert after("credential_ciphertext = 'y'") == 4
    assert after("is_testnet = true") == 5
    assert after("market = 'spot'") == 6
    assert after("revision = 1") == 6
