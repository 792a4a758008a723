"""The worker's lease and inbox on a real Redis and Postgres (R2, R4–R7): what they obey, what they survive."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from fleet.core.model import Ownership, token_of
from fleet.core.names import Keys
from fleet.core.wire import Generation, pack_leader
from fleet.runtime.postgres import Postgres, migrate, queries
from fleet.runtime.redis_store import Change, RedisStore
from fleet.runtime.settings import Settings
from fleet.services import Services
from tests.support.control import ControlledWorker, wait_for
from tests.support.services import SharedServices

pytestmark = pytest.mark.integration
LEADER = pack_leader("c", 1)
READY = Generation("g", True)


class Leader:
    """A leader by hand: writes records as the coordinator would."""

    def __init__(self, settings: Settings) -> None:
        self.store = RedisStore(settings.redis_url, Keys(settings.fleet))
        self.own: dict[str, Ownership] = {}
        self.n = 0
        self.lead(READY)

    def lead(self, generation: Generation) -> None:
        self.generation = generation
        self.store.lead("c", 1, 600)
        self.store.rebuild(LEADER, generation, self.own)

    def write(self, account: str, worker: ControlledWorker, state: str = "run", token: int | None = None) -> int:
        self.n += 1
        token = token_of(1, self.n) if token is None else token
        new = Ownership(worker.slot, worker.heartbeat.incarnation, token, state, 5, 1)
        change = Change(account, self.store.owner(account), new)
        assert self.store.apply(LEADER, self.generation, [change]) == [True]
        self.own[account] = new
        return token

    def revoke(self, account: str) -> None:
        record = self.own.pop(account)
        change = Change(account, record, dataclass_replace(record, "revoke"))
        assert self.store.apply(LEADER, self.generation, [change]) == [True]


def dataclass_replace(record: Ownership, state: str) -> Ownership:
    return Ownership(record.slot, record.incarnation, record.token, state, record.since_ms, record.revision)


@pytest.fixture
def settings(services: SharedServices) -> Settings:
    env = {"FLEET_REDIS_URL": services.redis.url, "FLEET_NAME": f"t{uuid.uuid4().hex[:10]}"}
    return Settings.from_env(env)


@pytest.fixture
def start() -> Iterator[Callable[..., ControlledWorker]]:
    started: list[ControlledWorker] = []

    def begin(settings: Settings, slot: str = "h:0", *, witness: bool = False, lock: str = "") -> ControlledWorker:
        started.append(ControlledWorker(settings, slot, witness=witness, lock=lock))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()


def registered(worker: ControlledWorker) -> ControlledWorker:
    wait_for(lambda: worker.heartbeat.registered and worker.heartbeat.gate.valid(), what="registered with a lease")
    return worker


def test_it_registers_holds_a_lease_and_beats(settings: Settings, start: Callable[..., ControlledWorker]) -> None:
    leader = Leader(settings)
    worker = registered(start(settings))
    view = leader.store.observe().workers["h:0"].view
    assert (view.incarnation, view.state, view.pid, view.capacity) == (
        worker.heartbeat.incarnation,
        "up",
        os.getpid(),
        1000,
    )
    assert worker.shard.incarnation == view.incarnation
    wait_for(lambda: leader.store.observe().workers["h:0"].view.seq >= view.seq + 2, what="the counter moves")


def test_assign_revoke_release(settings: Settings, start: Callable[..., ControlledWorker]) -> None:
    leader = Leader(settings)
    worker = registered(start(settings))
    token = leader.write("a", worker)
    assert wait_for(lambda: worker.running == {"a": token}, what="started") < 0.5
    wait_for(lambda: leader.store.report_of("h:0", "a") is not None, what="reported")
    leader.revoke("a")
    assert wait_for(lambda: leader.store.owner("a") is None, what="released") < 0.5
    assert worker.running == {}
    assert leader.store.report_of("h:0", "a") is None


def test_a_revoke_is_not_acknowledged_before_the_stream_has_stopped(
    settings: Settings, start: Callable[..., ControlledWorker]
) -> None:
    leader = Leader(settings)
    worker = registered(start(settings))
    leader.write("a", worker)
    wait_for(lambda: "a" in worker.running, what="started")
    worker.shard.stuck.add("a")
    leader.revoke("a")
    wait_for(lambda: worker.heartbeat.applied >= leader.store.observe().workers["h:0"].version, what="revoke seen")
    record = leader.store.owner("a")
    assert record is not None
    assert record.state == "revoke"
    worker.shard.stuck.clear()
    wait_for(lambda: leader.store.owner("a") is None, what="released")


def test_a_new_token_restarts_and_an_older_one_does_not(
    settings: Settings, start: Callable[..., ControlledWorker]
) -> None:
    leader = Leader(settings)
    worker = registered(start(settings))
    first = leader.write("a", worker)
    wait_for(lambda: worker.running == {"a": first}, what="started")
    second = leader.write("a", worker)
    wait_for(lambda: worker.running == {"a": second}, what="restarted")
    leader.write("a", worker, token=first)
    version = leader.store.observe().workers["h:0"].version
    wait_for(lambda: worker.heartbeat.applied >= version, what="older entry seen")
    assert worker.running == {"a": second}


def test_fenced_stops_everything_and_registers_empty(
    settings: Settings, start: Callable[..., ControlledWorker]
) -> None:
    leader = Leader(settings)
    worker = registered(start(settings))
    former = worker.heartbeat.incarnation
    leader.write("a", worker)
    wait_for(lambda: "a" in worker.running, what="started")
    leader.store.fence_worker(LEADER, "h:0", former)
    assert wait_for(lambda: worker.shard.aborted == ["fenced"], what="aborted") < 1.5
    assert not worker.running
    registered(worker)
    assert worker.heartbeat.incarnation != former
    assert worker.shard.incarnation == worker.heartbeat.incarnation
    assert leader.store.heartbeat(dead_view(former)).standing == "FENCED"
    token = leader.write("a", worker)
    wait_for(lambda: worker.running == {"a": token}, what="runs under the new incarnation")


def dead_view(incarnation: str):  # type: ignore[no-untyped-def]
    from fleet.core.model import WorkerView

    return WorkerView("h:0", incarnation, 99, "up", "h", 1, 1, 0.0, 0)


def test_a_slot_is_not_taken_from_a_process_under_another_lock(
    own_services: Callable[..., Services], start: Callable[..., ControlledWorker]
) -> None:
    """Two hosts by one name: the flock of the second proves nothing about the first (R8)."""
    settings = Settings.from_env(own_services("redis", "postgres").env)
    migrate(Postgres(settings.postgres_dsn, application="test"))
    leader = Leader(settings)
    first = registered(start(settings, lock="here"))
    token = leader.write("a", first)
    wait_for(lambda: "a" in first.running, what="started")
    beats = leader.store.observe().workers["h:0"].view.seq
    second = start(settings, lock="elsewhere", witness=True)
    wait_for(lambda: leader.store.observe().workers["h:0"].view.seq >= beats + 6, what="longer than a lease has passed")
    assert first.running == {"a": token} and first.shard.aborted == [] and not second.heartbeat.registered
    first.kill()
    assert wait_for(lambda: second.heartbeat.registered, 30, "the first is silent") > 8.0
    second.exit()
    assert (
        wait_for(lambda: registered(start(settings, lock="third")), what="who has left leaves the slot at once") < 1.5
    )


def test_a_slot_is_taken_at_once_under_the_same_lock(
    settings: Settings, start: Callable[..., ControlledWorker]
) -> None:
    Leader(settings)
    registered(start(settings, lock="here")).kill()
    assert wait_for(lambda: registered(start(settings, lock="here")), what="registered") < 1.5


def test_a_copy_from_before_a_restart_is_data_loss_not_a_verdict(
    settings: Settings, start: Callable[..., ControlledWorker]
) -> None:
    """A failover may bring back the slot's record of the life before this one (proof seed 8246)."""
    leader = Leader(settings)
    assert leader.store.register(dead_view("predecessor")).standing == "OK"
    raw, key = redis.Redis.from_url(settings.redis_url), Keys(settings.fleet).worker("h:0")
    older = raw.dump(key)
    worker = registered(start(settings))
    token = leader.write("a", worker)
    wait_for(lambda: "a" in worker.running, what="started")
    lives = worker.heartbeat.incarnation
    raw.restore(key, 0, older, replace=True)
    wait_for(lambda: raw.get(Keys(settings.fleet).gen) is None, what="the copy is distrusted")
    wait_for(lambda: raw.hget(key, "inc") == lives.encode(), what="registered again")
    leader.lead(Generation("rebuilt", ready=True))
    wait_for(lambda: worker.heartbeat.applied > 0, what="the rebuilt view")
    assert worker.running == {"a": token} and worker.shard.aborted == []
    assert worker.heartbeat.incarnation == lives


def test_data_loss_keeps_streams_and_uploads_them(
    own_services: Callable[..., Services], start: Callable[..., ControlledWorker]
) -> None:
    settings = Settings.from_env(own_services("redis").env)
    leader = Leader(settings)
    worker = registered(start(settings))
    token = leader.write("a", worker)
    wait_for(lambda: "a" in worker.running, what="started")
    redis.Redis.from_url(settings.redis_url).flushall()
    leader.store.lead("c", 1, 600)
    leader.store.rebuild(LEADER, Generation("g2", False), {})  # rebuilding: the view is empty, and nobody obeys it
    wait_for(lambda: "a" in leader.store.reports("h:0"), what="uploaded")
    assert leader.store.reports("h:0")["a"].token == token
    assert leader.store.observe().workers["h:0"].reported == worker.heartbeat.incarnation
    assert (worker.running, worker.shard.aborted, worker.shard.stops) == ({"a": token}, [], [])
    leader.lead(Generation("g2", True))  # restored under the same token: still nothing to do
    version = leader.store.observe().workers["h:0"].version
    wait_for(lambda: worker.heartbeat.applied >= version, what="rebuilt view seen")
    assert (worker.running, worker.shard.stops, worker.shard.starts) == ({"a": token}, [], [("a", token)])


def test_streams_go_on_while_redis_is_frozen_and_then_down(
    own_services: Callable[..., Services], start: Callable[..., ControlledWorker]
) -> None:
    """R5 (e): no witness here, so that isolation carries it; nothing restarts when Redis is back."""
    services = own_services("redis")
    settings = Settings.from_env(services.env)
    leader = Leader(settings)
    worker = registered(start(settings))
    token = leader.write("a", worker)
    wait_for(lambda: "a" in worker.running, what="started")
    services.redis.pause()
    held(worker, 6.0)
    services.redis.resume()
    services.redis.stop()
    held(worker, 6.0)
    services.redis.start()
    wait_for(lambda: worker.heartbeat._silent is False, what="redis answers again")
    assert (worker.running, worker.shard.aborted, worker.shard.stops) == ({"a": token}, [], [])


def held(worker: ControlledWorker, for_s: float) -> None:
    """The lease is valid at every look for `for_s`."""
    ticks = iter(range(int(for_s * 1000)))

    def looked() -> bool:
        assert worker.heartbeat.gate.valid()
        return next(ticks) > for_s * 50

    wait_for(looked, timeout_s=for_s * 5, what="looks")


def test_isolation_ends(own_services: Callable[..., Services], start: Callable[..., ControlledWorker]) -> None:
    services = own_services("redis")
    settings = Settings.from_env(services.env | {"FLEET_ISOLATION_MAX_S": "3"})
    worker = registered(start(settings))
    services.redis.stop()
    wait_for(lambda: worker.shard.aborted, timeout_s=15, what="given up")
    assert not worker.heartbeat.gate.valid()


def test_the_witness_carries_the_lease_and_can_fence(
    own_services: Callable[..., Services], start: Callable[..., ControlledWorker]
) -> None:
    services = own_services("redis", "postgres")
    settings = Settings.from_env(services.env | {"FLEET_ISOLATION_MAX_S": "0.1"})
    pg = Postgres(settings.postgres_dsn, application="test")
    migrate(pg)
    worker = registered(start(settings, witness=True))
    services.redis.stop()
    wait_for(lambda: pg.fetch("SELECT 1 FROM fleet_witness WHERE beat >= 4"), timeout_s=15, what="beats in the witness")
    assert worker.heartbeat.gate.valid()
    assert not worker.shard.aborted
    sql = queries("witness")
    row = pg.fetch(sql["age"], {"slots": ["h:0"]})[0]
    assert row["incarnation"] == worker.heartbeat.incarnation
    assert row["age_s"] < 5
    pg.execute(sql["fence"], {"slot": "h:0", "incarnation": worker.heartbeat.incarnation})
    wait_for(lambda: worker.shard.aborted, timeout_s=10, what="fenced by the witness")
    pg.close()


def test_a_pause_past_the_lease_ends_the_incarnation(
    settings: Settings, start: Callable[..., ControlledWorker]
) -> None:
    """The heartbeat thread sleeps past the deadline, as in a stopped process: the gate closes by itself."""
    leader = Leader(settings)
    worker = registered(start(settings))
    leader.write("a", worker)
    wait_for(lambda: "a" in worker.running, what="started")
    former = worker.heartbeat.incarnation
    original = worker.heartbeat.beat
    worker.heartbeat.beat = lambda: None  # type: ignore[method-assign]
    wait_for(lambda: not worker.heartbeat.gate.valid(), timeout_s=8, what="gate closed")
    worker.heartbeat.beat = original  # type: ignore[method-assign]
    wait_for(lambda: worker.shard.aborted, what="aborted")
    registered(worker)
    assert worker.heartbeat.incarnation != former


def test_gone_is_announced(settings: Settings, start: Callable[..., ControlledWorker]) -> None:
    leader = Leader(settings)
    worker = registered(start(settings))
    worker.heartbeat.drain()
    wait_for(lambda: leader.store.observe().workers["h:0"].view.state == "draining", what="draining")
    worker.exit()
    assert leader.store.observe().workers["h:0"].view.state == "gone"
    assert not worker.heartbeat.gate.valid()
