"""The door to Postgres: errors translated, calls bounded, notifications, transactions."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator

import psutil
import pytest

from fleet.core.errors import SettingsError, StoreUnavailable
from fleet.runtime.postgres import Listener, Postgres, StatementFailed, migrate, queries
from fleet.services import Services
from tests.support.records import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def pg(database: str) -> Iterator[Postgres]:
    store = Postgres(database, application="tests", statement_timeout_s=1.0)
    yield store
    store.close()


def backend(pg: Postgres) -> int:
    return int(pg.fetch("SELECT pg_backend_pid() AS pid")[0]["pid"])


def test_values_come_back_as_they_went_in(pg: Postgres) -> None:
    account = uuid.uuid4()
    (row,) = pg.fetch(
        "SELECT %s::uuid AS id, %s::bytea AS sealed, %s::numeric AS qty, %s::jsonb AS data",
        (account, b"\0\xff", "0.0200", {"a": [1, None]}),
    )
    assert (str(row["id"]), row["sealed"], str(row["qty"]), row["data"]) == (
        str(account), b"\0\xff", "0.0200", {"a": [1, None]},
    )  # fmt: skip


def test_errors_say_whether_the_data_was_at_fault(pg: Postgres) -> None:
    for sql, at_fault in (("SELECT 'x'::uuid", True), ("SELECT 1/0", True), ("SELECT * FROM nowhere", False)):
        with pytest.raises(StatementFailed) as caught:
            pg.fetch(sql)
        assert caught.value.is_data is at_fault
        assert not caught.value.retryable
    with pytest.raises(StatementFailed) as caught:
        pg.execute("SELECT %s", ("a\0b",))
    assert caught.value.is_data
    assert pg.fetch("SELECT 1 AS one") == [{"one": 1}]


def test_a_failed_transaction_leaves_nothing(pg: Postgres) -> None:
    pg.execute("CREATE TABLE t (n integer PRIMARY KEY)")
    with pg.transaction() as tx:
        tx.execute_values("INSERT INTO t VALUES %s", [(n,) for n in range(2500)])
    with pytest.raises(StatementFailed), pg.transaction() as tx:
        tx.execute("DELETE FROM t")
        tx.execute("INSERT INTO t VALUES (1), (1)")
    with pytest.raises(KeyError), pg.transaction() as tx:
        tx.execute("DELETE FROM t")
        raise KeyError
    assert pg.fetch("SELECT count(*) AS n FROM t") == [{"n": 2500}]


def test_a_transaction_does_not_go_on_over_a_new_connection(pg: Postgres, database: str) -> None:
    pg.execute("CREATE TABLE t (n integer)")
    other = Postgres(database, application="tests")
    with pytest.raises(StoreUnavailable), pg.transaction() as tx:
        tx.execute("INSERT INTO t VALUES (1)")
        other.execute("SELECT pg_terminate_backend(%s)", (int(tx.fetch("SELECT pg_backend_pid() AS p")[0]["p"]),))
        for n in range(3):
            tx.execute("INSERT INTO t VALUES (%s)", (n,))
    assert pg.fetch("SELECT n FROM t") == []
    other.close()


def test_a_commit_whose_backend_died_is_never_reported_as_done(pg: Postgres, database: str) -> None:
    pg.execute("CREATE TABLE t (n integer)")
    other = Postgres(database, application="tests")
    with pytest.raises(StoreUnavailable), pg.transaction() as tx:
        tx.execute("INSERT INTO t VALUES (1)")
        pid = int(tx.fetch("SELECT pg_backend_pid() AS p")[0]["p"])
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        wait_until(lambda: not other.fetch("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)), 5, "backend gone")
    assert pg.fetch("SELECT n FROM t") == []
    other.close()


def test_slow_statements_are_cancelled_and_the_connection_stays(pg: Postgres) -> None:
    before = backend(pg)
    with pytest.raises(StoreUnavailable):
        pg.fetch("SELECT pg_sleep(5)")
    assert backend(pg) == before


def test_a_frozen_backend_blocks_nobody_for_long(own_services: Callable[..., Services]) -> None:
    """On a server of its own: making or dropping a database waits for every backend of a server, a frozen one too."""
    pg = Postgres(own_services("postgres").postgres.dsn, application="tests", statement_timeout_s=1.0)
    pid = backend(pg)
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            pg.fetch("SELECT 1")
        assert time.monotonic() - started < 8.0
        assert backend(pg) != pid
    finally:
        os.kill(pid, signal.SIGCONT)
        pg.close()


def test_an_idle_connection_that_died_is_replaced_without_an_error(pg: Postgres, database: str) -> None:
    pid = backend(pg)
    other = Postgres(database, application="tests")
    other.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: not psutil.pid_exists(pid), 5, "backend gone, and its socket with it")
    assert backend(pg) != pid
    other.close()


def test_a_wrong_dsn_is_one_line_without_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        Postgres("host=x hunter2 oops", application="tests")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(StoreUnavailable) as refused:
        Postgres("postgresql://u:hunter2@127.0.0.1:1/x", application="tests").fetch("SELECT 1")
    assert "hunter2" not in str(refused.value)


def test_notifications_arrive_and_a_dead_listener_says_so(pg: Postgres, database: str) -> None:
    migrate(pg)
    listener = Listener(database, "exchange_accounts_changed")
    assert listener.wait(0.05) == []
    sql = "INSERT INTO exchange_accounts (user_id, exchange, market, label) VALUES (1, 'binance', 'usdm', %s) RETURNING id"
    first = pg.fetch(sql, ("a",))[0]["id"]
    started = time.monotonic()
    assert listener.wait(5) == [first]
    assert time.monotonic() - started < 4.0
    pg.execute("UPDATE exchange_accounts SET label = 'b'")
    assert listener.wait(5) == [first]
    pg.execute("DELETE FROM exchange_accounts")
    assert listener.wait(5) == [first]
    pg.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleet listener'")
    with pytest.raises(StoreUnavailable):
        for _ in range(3):
            listener.wait(2)
    assert listener.wait(0.05) == []
    second = pg.fetch(sql, ("c",))[0]["id"]
    assert listener.wait(5) == [second]
    listener.close()


def test_a_server_that_restarts_is_found_again(own_services: Callable[..., Services]) -> None:
    server = own_services("postgres").postgres
    pg = Postgres(server.dsn, application="tests")
    listener = Listener(server.dsn, "x")
    assert pg.fetch("SELECT 1 AS one") and listener.wait(0.01) == []
    server.kill()
    with pytest.raises(StoreUnavailable):
        pg.fetch("SELECT 1")
    with pytest.raises(StoreUnavailable):
        listener.wait(2)
    server.start()
    assert pg.fetch("SELECT 1 AS one") == [{"one": 1}]
    assert listener.wait(0.01) == []
    pg.close()
    listener.close()


def test_every_named_statement_has_a_description_and_is_found() -> None:
    assert {"orders", "fills", "stream_gaps", "dead_letter"} <= set(queries("sinks"))
    assert all(sql.startswith("--") for sql in queries("clickhouse").values())
