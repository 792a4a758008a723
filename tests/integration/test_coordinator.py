"""The coordinator process on real Redis and Postgres, with workers whose shards only remember."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from fleet.core.names import HOT_RELOAD_NEW, TOPIC_STREAMS, Keys
from fleet.core.wire import EVENED, drained
from fleet.runtime.account_rows import AccountRows
from fleet.runtime.kafka_io import Consumer
from fleet.runtime.postgres import Postgres, migrate
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.settings import Settings
from fleet.services import Services
from tests.support.control import Accounts, ControlledWorker, start_coordinator, wait_for

pytestmark = pytest.mark.integration


class Fleet:
    """One fleet: settings, accounts, workers by slot, coordinator processes."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.settings = Settings.from_env(env)
        self.accounts = Accounts(self.settings.postgres_dsn)
        self.store = RedisStore(self.settings.redis_url, Keys(self.settings.fleet))
        self.workers: dict[str, ControlledWorker] = {}
        self.retired: list[ControlledWorker] = []
        self.coordinators: list[subprocess.Popen[bytes]] = []

    def coordinator(self) -> subprocess.Popen[bytes]:
        self.coordinators.append(start_coordinator(self.env))
        return self.coordinators[-1]

    def worker(self, slot: str) -> ControlledWorker:
        if slot in self.workers:
            self.retired.append(self.workers[slot])
        self.workers[slot] = ControlledWorker(self.settings, slot)
        return self.workers[slot]

    def kill(self, slot: str) -> None:
        self.workers[slot].kill()
        self.retired.append(self.workers.pop(slot))

    def running(self) -> dict[str, str]:
        """Account → slot, over all living workers; an account on two of them fails."""
        where: dict[str, str] = {}
        for slot, worker in self.workers.items():
            for account in worker.running:
                assert account not in where, f"{account} runs on {where[account]} and {slot}"
                where[account] = slot
        return where

    def settled(self, active: list[str], timeout_s: float = 10.0) -> float:
        return wait_for(lambda: set(self.running()) == set(active), timeout_s, f"{len(active)} accounts run")

    def starts(self) -> int:
        return sum(len(w.shard.starts) for w in [*self.workers.values(), *self.retired])

    def stops(self) -> int:
        return sum(len(w.shard.stops) + len(w.shard.aborted) for w in [*self.workers.values(), *self.retired])

    def log(self) -> str:
        return (Path(self.settings.log_dir) / "coordinator.log").read_text(encoding="utf-8")

    def close(self) -> None:
        with ExitStack() as ends:  # all of them, whatever one of them raises
            ends.callback(self.accounts.pg.close)
            ends.callback(self.store.close)
            for process in self.coordinators:
                ends.callback(ended, process)
            for process in self.coordinators:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
            for worker in self.workers.values():
                ends.callback(worker.kill)


def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was told to end; one that does not is killed, and an error."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
        raise


@pytest.fixture
def fleet(fleet_env: dict[str, str]) -> Iterator[Fleet]:
    yield from _fleet(fleet_env)


@pytest.fixture
def own_fleet(own_services: Callable[..., Services], fleet_env: dict[str, str]) -> Iterator[tuple[Fleet, Services]]:
    """A fleet whose Redis and Postgres may be stopped, frozen and emptied."""
    services = own_services("redis", "postgres")
    for fleet in _fleet(fleet_env | services.env):
        yield fleet, services


def _fleet(env: dict[str, str]) -> Iterator[Fleet]:
    pg = Postgres(env["FLEET_POSTGRES_DSN"], application="test")
    migrate(pg)
    pg.close()
    fleet = Fleet(env | {"FLEET_WORKERS": "2"})
    try:
        yield fleet
    finally:
        fleet.close()


def begun(fleet: Fleet, accounts: int = 40) -> list[str]:
    """Two workers, a coordinator and its accounts, settled."""
    active = fleet.accounts.add(accounts)
    fleet.coordinator()
    fleet.worker("h:0")
    fleet.worker("h:1")
    fleet.settled(active, 15)
    wait_for(lambda: assigned(fleet) == accounts, what="durable copy")
    return active


def assigned(fleet: Fleet) -> int:
    return int(fleet.accounts.pg.fetch("SELECT count(*) AS n FROM fleet_assignment")[0]["n"])


def test_a_new_fleet_is_balanced_and_every_change_of_a_row_arrives_within_a_second(fleet: Fleet) -> None:
    active = begun(fleet)
    assert sorted(len(w.running) for w in fleet.workers.values()) == [20, 20]
    slowest = 0.0
    for _ in range(20):
        active += fleet.accounts.add()
        slowest = max(slowest, fleet.settled(active, 2))
    assert slowest < 1.0
    fleet.accounts.change("is_active = false", active[3])
    assert fleet.settled([a for a in active if a != active[3]], 2) < 1.0
    fleet.accounts.change("is_active = true", active[3])
    assert fleet.settled(active, 2) < 1.0
    slot = fleet.running()[active[5]]
    token = fleet.workers[slot].running[active[5]]
    fleet.accounts.change("credential_ciphertext = 'y'", active[5])
    assert wait_for(lambda: fleet.workers[slot].running.get(active[5], 0) > token, 2, "restarted") < 1.0
    fleet.accounts.change("telegram_chat_id = '1'", active[6])  # nothing that needs a socket
    fleet.accounts.remove(active[7])
    active.remove(active[7])
    assert fleet.settled(active, 2) < 1.0
    wait_for(lambda: assigned(fleet) == len(active), what="durable copy follows")
    wait_for(lambda: fleet.log().count(HOT_RELOAD_NEW) == 40 + 20 + 1, what="one line per new account")
    assert "reconciliation" in fleet.log()


def test_with_notify_broken_the_tick_is_the_truth(fleet: Fleet) -> None:
    fleet.env["FLEET_RECONCILE_INTERVAL_S"] = "1.5"
    active = begun(fleet, 4)
    fleet.accounts.pg.execute("ALTER TABLE exchange_accounts DISABLE TRIGGER USER")
    active += fleet.accounts.add()
    assert fleet.settled(active, 4) < 2.5


def test_a_malformed_row_is_skipped_with_one_line_and_the_rest_streams(fleet: Fleet) -> None:
    active = begun(fleet, 4)
    [bad] = fleet.accounts.add()
    active += fleet.accounts.add()
    fleet.accounts.change("credential_key_id = NULL, credential_ciphertext = NULL", bad)
    [other] = [
        str(row["id"])
        for row in fleet.accounts.pg.fetch(
            "INSERT INTO exchange_accounts (user_id, exchange, market, label) VALUES ('u', 'binance', 'usdm', 'none')"
            " RETURNING id"
        )
    ]
    fleet.settled(active)
    wait_for(lambda: other in fleet.log(), what="alert")
    lines = [line for line in fleet.log().splitlines() if "account row skipped" in line and other in line]
    assert len(lines) == 1
    assert "no credentials" in lines[0]


def test_killed_and_restarted_the_same_accounts_come_back_at_once(fleet: Fleet) -> None:
    active = begun(fleet)
    mine = set(fleet.workers["h:0"].running)
    before = dict(fleet.workers["h:0"].running)
    others = dict(fleet.workers["h:1"].running)
    fleet.kill("h:0")
    worker = fleet.worker("h:0")
    assert wait_for(lambda: set(worker.running) == mine, 5, "the same accounts") < 2.0
    assert all(worker.running[a] > before[a] for a in mine)
    assert fleet.workers["h:1"].running == others
    fleet.settled(active)


def test_a_worker_that_stays_dead_loses_its_accounts_to_the_others(fleet: Fleet) -> None:
    active = begun(fleet)
    others = dict(fleet.workers["h:1"].running)
    fleet.kill("h:0")
    assert 5.5 < fleet.settled(active, 14) < 10.0
    assert {a: t for a, t in fleet.workers["h:1"].running.items() if a in others} == others
    wait_for(lambda: "worker fenced" in fleet.log(), what="log line")


def test_a_clean_exit_waits_a_moment_for_the_slot_then_moves(fleet: Fleet) -> None:
    active = begun(fleet)
    mine = set(fleet.workers["h:0"].running)
    fleet.workers["h:0"].exit()
    worker = fleet.worker("h:0")
    assert wait_for(lambda: set(worker.running) == mine, 5, "back on the same slot") < 2.0
    worker.exit()
    del fleet.workers["h:0"]
    assert fleet.settled(active, 8) < 4.5


def test_an_added_worker_gets_new_accounts_and_a_drain_empties_one(fleet: Fleet) -> None:
    active = begun(fleet, 10)
    newcomer = fleet.worker("h:2")
    wait_for(lambda: newcomer.heartbeat.registered, what="registered")
    wait_for(lambda: '"shard":"h:2"' in fleet.log(), what="seen by the leader")
    active += fleet.accounts.add(5)
    fleet.settled(active)
    assert len(newcomer.running) >= 4
    fleet.store.set_drain("h:0", True)
    wait_for(lambda: not fleet.workers["h:0"].running, 10, "drained")
    fleet.settled(active)


def test_full_workers_leave_accounts_unplaced_with_a_reason(fleet: Fleet) -> None:
    fleet.env["FLEET_WORKER_CAPACITY"] = "5"
    fleet.settings = Settings.from_env(fleet.env)
    fleet.accounts.add(12)
    fleet.coordinator()
    fleet.worker("h:0")
    fleet.worker("h:1")
    wait_for(lambda: len(fleet.running()) == 10, 15, "ten placed")
    wait_for(lambda: "every worker is full" in fleet.log(), what="reason")
    fleet.worker("h:2")
    wait_for(lambda: len(fleet.running()) == 12, 10, "all placed")


def test_a_drain_into_a_full_fleet_stops_nobody_and_a_rebalance_is_answered(fleet: Fleet) -> None:
    fleet.env["FLEET_WORKER_CAPACITY"] = "5"
    fleet.settings = Settings.from_env(fleet.env)
    begun(fleet, 10)
    stops = fleet.stops()
    fleet.store.set_drain("h:0", True)
    wait_for(lambda: fleet.store.answer(drained("h:0")) == "no room on another worker", 10, "an answer")
    assert "accounts stay on a drained worker" in fleet.log()
    fleet.store.ask_rebalance()
    wait_for(lambda: not fleet.store.observe().rebalance, 10, "the wish withdrawn")
    assert fleet.store.answer(EVENED) == ""
    assert len(fleet.running()) == 10 and fleet.stops() == stops
    fleet.worker("h:2")
    wait_for(lambda: not fleet.workers["h:0"].running and len(fleet.running()) == 10, 15, "drained")
    wait_for(lambda: fleet.store.answer(drained("h:0")) is None, 10, "nothing to say")


def test_the_leader_dies_and_a_standby_takes_over_without_touching_a_stream(fleet: Fleet) -> None:
    active = begun(fleet)
    standby = fleet.coordinator()
    first = fleet.coordinators[0]
    starts, stops = fleet.starts(), fleet.stops()
    first.kill()
    first.wait(10)
    active += fleet.accounts.add()
    assert fleet.settled(active, 15) < 12
    assert (fleet.starts(), fleet.stops()) == (starts + 1, stops)
    third = fleet.coordinator()
    standby.terminate()
    assert standby.wait(10) == 0
    active += fleet.accounts.add()
    assert fleet.settled(active, 10) < 8
    assert third.poll() is None
    assert fleet.stops() == stops


def test_a_leader_that_was_stopped_wakes_as_a_standby(fleet: Fleet) -> None:
    active = begun(fleet)
    fleet.coordinator()
    starts, stops = fleet.starts(), fleet.stops()
    fleet.coordinators[0].send_signal(signal.SIGSTOP)
    active += fleet.accounts.add()
    fleet.settled(active, 15)
    fleet.coordinators[0].send_signal(signal.SIGCONT)
    active += fleet.accounts.add()
    fleet.settled(active, 5)
    assert (fleet.starts(), fleet.stops()) == (starts + 2, stops)
    wait_for(lambda: "no longer leading" in fleet.log(), what="stood down")


def test_a_quarantine_outlives_its_leader_and_redis_until_an_operator_ends_it(
    own_fleet: tuple[Fleet, Services],
) -> None:
    fleet, services = own_fleet
    fleet.env["FLEET_WORKERS"] = "1"
    [poison] = fleet.accounts.add()
    first = fleet.coordinator()
    wait_for(fleet.store.leader, 10, "a leader")
    fleet.coordinator()
    for _ in range(3):
        worker = fleet.worker("h:0")
        worker.shard.starting.add(poison)
        wait_for(lambda worker=worker: poison in worker.running, 10, "the account's start")  # type: ignore[misc]
        fleet.kill("h:0")
    healthy = fleet.worker("h:0")
    wait_for(lambda: "account quarantined" in fleet.log(), 10, "the verdict")
    rows = AccountRows(fleet.accounts.pg)
    wait_for(lambda: rows.quarantine_of(poison), 5, "its row")
    first.kill()
    wait_for(lambda: "account stays quarantined" in fleet.log(), 12, "the next leader to know")
    redis.Redis.from_url(fleet.settings.redis_url).flushall()
    wait_for(lambda: "rebuild: done" in fleet.log().split("account stays quarantined")[1], 15, "a rebuild")
    [other] = fleet.accounts.add()
    wait_for(lambda: other in healthy.running, 10, "somebody else to start")
    assert poison not in healthy.running
    assert rows.activate(poison)
    assert wait_for(lambda: poison in healthy.running, 5, "its start") < 2.0
    assert rows.quarantine_of(poison) is None and not rows.activate(poison)


def test_flushall_moves_nothing_and_the_fleet_goes_on(own_fleet: tuple[Fleet, Services]) -> None:
    fleet, services = own_fleet
    active = begun(fleet)
    starts, stops = fleet.starts(), fleet.stops()
    redis.Redis.from_url(services.redis.url).flushall()
    wait_for(lambda: "rebuild: done" in fleet.log().rpartition("records restored")[2], 15, "rebuilt")
    active += fleet.accounts.add()
    fleet.settled(active, 10)
    assert (fleet.starts(), fleet.stops()) == (starts + 1, stops)
    assert len(fleet.store.owners()[0]) == len(active)


def test_flushall_while_the_leader_is_dead(own_fleet: tuple[Fleet, Services]) -> None:
    """Only Postgres and the workers know: the next leader restores from them."""
    fleet, services = own_fleet
    active = begun(fleet)
    starts, stops = fleet.starts(), fleet.stops()
    fleet.coordinators[0].kill()
    fleet.coordinators[0].wait(10)
    redis.Redis.from_url(services.redis.url).flushall()
    fleet.coordinator()
    active += fleet.accounts.add()
    fleet.settled(active, 20)
    assert (fleet.starts(), fleet.stops()) == (starts + 1, stops)


@pytest.mark.parametrize("names", [("redis",), ("postgres",), ("redis", "postgres")])
def test_stores_that_are_down_stop_no_stream(own_fleet: tuple[Fleet, Services], names: tuple[str, ...]) -> None:
    fleet, services = own_fleet
    active = begun(fleet)
    starts, stops = fleet.starts(), fleet.stops()
    servers: list[Any] = [getattr(services, name) for name in names]
    for server in servers:
        server.stop()
    closed: list[str] = []

    def looked(ticks: list[int] = [0]) -> bool:  # noqa: B006 (one call, one list)
        closed.extend(slot for slot, w in fleet.workers.items() if not w.heartbeat.gate.valid())
        ticks[0] += 1
        return ticks[0] > 700

    wait_for(looked, 60, "ten seconds of looking")
    for server in servers:
        server.start()
    fleet.accounts.pg.close()
    active += fleet.accounts.add()
    fleet.settled(active, 25)
    assert closed == []
    assert (fleet.starts(), fleet.stops()) == (starts + 1, stops)


def test_each_move_is_a_record_in_kafka(migrated_env: dict[str, str]) -> None:
    for fleet in _fleet(migrated_env):
        consumer = Consumer(fleet.settings.kafka_bootstrap, None, [TOPIC_STREAMS], from_beginning=True)
        active = begun(fleet, 3)
        found: dict[str, dict[str, str]] = {}

        def read(
            consumer: Consumer = consumer, found: dict[str, dict[str, str]] = found, active: list[str] = active
        ) -> bool:
            for record in consumer.poll(0.5, 500):
                if record.key is not None and record.key.decode() in active and b'"moved"' in record.value:
                    found[record.key.decode()] = record.headers
            return set(found) == set(active)

        wait_for(read, 20, "three moves")
        consumer.close()
        for account, headers in found.items():
            slot = fleet.running()[account]
            assert headers["shard"] == slot
            assert int(headers["token"]) == fleet.workers[slot].running[account]


def test_wrong_settings_are_one_line_and_exit_2(fleet_env: dict[str, str]) -> None:
    for wrong in ({"FLEET_POSTGRES_DSN": ""}, {"FLEET_LEADER_TICK_S": "soon"}, {"FLEET_REDIS_URL": "nowhere"}):
        done = subprocess.run(
            [sys.executable, "-m", "coordinator"], env=fleet_env | wrong, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 2, wrong
        assert next(iter(wrong)) in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
