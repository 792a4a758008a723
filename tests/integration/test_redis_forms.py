"""Redis behind Sentinel and as a Cluster, by real redis-server processes: the same scripts, budgets and errors as on one server."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis.crc import key_slot

from fleet.core.errors import StoreUnavailable
from fleet.core.exchange import Rate
from fleet.core.model import Ownership
from fleet.core.names import Keys
from fleet.core.wire import Generation, pack_leader
from fleet.runtime.redis_store import SCRIPTS, Change, Poke, RedisStore
from fleet.runtime.settings import Settings
from fleet.services import Redis
from fleet.services.redis_forms import Cluster, Formation, Replicated, wait_until
from tests.integration.test_redis_scripts import Scripts, fresh, led, owned, view
from tests.support.churn import Churn, footprint
from tests.support.control import ControlledWorker, wait_for
from tests.support.services import SharedServices

pytestmark = pytest.mark.integration
BUDGET_S = 0.5
SLACK_S = 0.4  # of a loaded machine; what is to be excluded are multiples of the budget, one per node


@pytest.fixture(scope="module", params=["sentinel", "cluster"])
def formation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Formation]:
    directory = tmp_path_factory.mktemp(request.param)
    formed: Formation = Replicated(directory) if request.param == "sentinel" else Cluster(directory)
    with formed:
        yield formed


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as formed:
        yield formed


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    with Replicated(tmp_path) as formed:
        yield formed


def refused(call: Callable[[], object]) -> float:
    """Seconds until StoreUnavailable came."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        call()
    return time.monotonic() - began


def beat(store: RedisStore, seq: int) -> object:
    return store.heartbeat(view(seq=seq)).standing


# ── both forms ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_scripts_do_what_the_model_does_in_each_form(formation: Formation) -> None:
    machine = type("ScriptsInAForm", (Scripts,), {"url": formation.url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_every_script_and_reader_runs_in_each_form(formation: Formation) -> None:
    """Scripts that the model does not have, and what several keys are read for in one trip."""
    store = fresh(formation.url)
    leader, generation = led(store)
    assert store.register(view()).standing == "OK"
    assert store.apply(leader, generation, [Change("a", None, owned(1))]) == [True]
    store.set_unplaced(leader, {"b": "full"})
    assert store.unplaced() == ({"b": "full"}, {"full": 1})
    assert set(store.observe().workers) == {"h:0"} and set(store.owners()[0]) == {"a"}
    part = store.own_page(0)
    assert part.generation == generation and part.size == 1 and set(part.records) == {"a"} and part.cursor == 0
    assert set(store.own_of(["a", "b"]).records) == {"a"}
    assert store.set_drain("h:0", True) and not store.vacant(60)
    assert store.bucket_take("dial", "okx", "ip", 1, Rate(20, 20, window_s=1.0, sliding=True)).wait_s == 0.0
    store.bucket_block("dial", "binance", "ip", 30)
    assert [row["exchange"] for row in store.budgets()] == ["binance", "okx"]
    store.resign(leader)
    assert store.leader() == ""
    store.close()


def test_a_poke_arrives_in_each_form(formation: Formation) -> None:
    store = fresh(formation.url)
    poke = Poke(formation.url, store.keys, "h:0")
    assert poke.wait(2.0)
    store.poke("h:0")
    began = time.monotonic()
    assert poke.wait(5.0) and time.monotonic() - began < 4.0
    leader, generation = led(store)  # a script publishes as well
    assert store.register(view()).standing == "OK"
    assert store.apply(leader, generation, [Change("a", None, owned(1))]) == [True]
    assert poke.wait(5.0)
    poke.close()
    store.close()


def test_scripts_touch_only_keys_that_they_name() -> None:
    """On a Cluster a key must be an argument, and all keys share one slot."""
    keys = Keys("any")
    names = [keys.gen, keys.leader, keys.own, keys.worker("h:0"), keys.desired("h:0"), keys.report("h:0"), keys.version]
    assert len({key_slot(name.encode()) for name in [*names, keys.budget("dial", "x", "ip"), keys.channel("h:0")]}) == 1
    assert not [name for name, text in SCRIPTS.items() if "fleet:" in text]


# ── Sentinel ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_sentinel_failover_stops_no_stream_and_the_store_comes_back(replicated: Replicated, tmp_path: Path) -> None:
    """The master is killed while a worker beats: R5 (d, e) carry it, and the same client finds the next master."""
    env = {
        "FLEET_REDIS_URL": replicated.url,
        "FLEET_NAME": f"t{uuid.uuid4().hex[:8]}",
        "FLEET_LOG_DIR": str(tmp_path),
        "FLEET_RUN_DIR": str(tmp_path),
    }
    found = Settings.from_env(env)
    store = RedisStore(found.redis_url, Keys(found.fleet))
    poke = Poke(found.redis_url, store.keys, "elsewhere")
    worker = ControlledWorker(found, "h:0")
    try:
        wait_for(lambda: "h:0" in store.observe().workers, 10, "registered")
        leader, generation = led(store)
        record = Ownership("h:0", worker.heartbeat.incarnation, 1 << 32, "run", 5, 1)
        assert store.apply(leader, generation, [Change("a", None, record)]) == [True]
        wait_for(lambda: "a" in worker.running, 10, "started")
        assert poke.wait(2.0)
        old = replicated.master
        wait_until(lambda: _caught_up(replicated), "the replica lags")
        old.kill()
        assert refused(lambda: store.observe()) < BUDGET_S + SLACK_S
        seen = [0]

        def beats_on() -> bool:
            try:
                seen.append(store.observe().workers["h:0"].view.seq)
            except (StoreUnavailable, KeyError):
                return False
            return len(seen) > 3 and seen[-1] > seen[1]

        wait_for(beats_on, 15, "heartbeats on the next master")
        assert replicated.master is not old
        assert (worker.running, worker.shard.aborted, worker.shard.stops) == ({"a": 1 << 32}, [], [])
        wait_for(lambda: _woken(poke, 0.1), 5, "a subscription on the next master")
        store.poke("elsewhere")
        assert poke.wait(5.0)
    finally:
        worker.kill()
        poke.close()
        store.close()


def _woken(poke: Poke, timeout_s: float) -> bool:
    try:
        return poke.wait(timeout_s)
    except StoreUnavailable:  # the subscription was on the master that is gone
        return False


def _caught_up(replicated: Replicated) -> bool:
    offsets = set()
    for server in replicated.servers:
        info = redis.Redis(port=server.port).info("replication")
        offsets.add(info["master_repl_offset"])
    return len(offsets) == 1


def test_a_master_that_became_a_replica_and_silent_sentinels_are_no_usable_answer(replicated: Replicated) -> None:
    store = fresh(replicated.url)
    assert store.register(view()).standing == "OK"
    master, replica = replicated.servers
    for sentinel in replicated.sentinels[1:]:
        sentinel.pause()
    try:
        # Demoted behind the sentinels' back, as after a failover that one sentinel has not heard of.
        redis.Redis(port=replica.port).replicaof("NO", "ONE")
        redis.Redis(port=master.port).replicaof("127.0.0.1", str(replica.port))
        assert refused(lambda: beat(store, 1)) < BUDGET_S + SLACK_S
        assert refused(lambda: store.observe()) < BUDGET_S + SLACK_S  # a read, which the replica would answer
        replicated.sentinels[0].pause()
        for _ in range(3):
            assert refused(lambda: beat(store, 2)) < BUDGET_S + SLACK_S
    finally:
        for sentinel in replicated.sentinels:
            sentinel.resume()
        redis.Redis(port=master.port).replicaof("NO", "ONE")
        redis.Redis(port=replica.port).replicaof("127.0.0.1", str(master.port))
    wait_for(lambda: _works(store, 3), 20, "the master again")
    for sentinel in replicated.sentinels:
        sentinel.kill()
    assert beat(store, 4) == "OK"  # who is connected needs no sentinel
    replicated.master.pause()
    assert refused(lambda: beat(store, 5)) < BUDGET_S + SLACK_S
    assert refused(lambda: beat(store, 6)) < BUDGET_S + SLACK_S
    store.close()


def _works(store: RedisStore, seq: int) -> bool:
    try:
        return beat(store, seq) in ("OK", "UNKNOWN")
    except StoreUnavailable:
        return False


def test_too_few_replicas_and_wrong_passwords_are_no_usable_answer(replicated: Replicated) -> None:
    store = fresh(replicated.url)
    assert store.register(view()).standing == "OK"
    redis.Redis(port=replicated.servers[0].port).config_set("min-replicas-to-write", "3")
    with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
        beat(store, 1)
    redis.Redis(port=replicated.servers[0].port).config_set("min-replicas-to-write", "0")
    assert beat(store, 2) == "OK"
    store.close()
    secret = "canary-of-the-url"
    wrong = RedisStore(replicated.url.replace("://", f"://me:{secret}@"), store.keys)
    with pytest.raises(StoreUnavailable) as failed:
        beat(wrong, 3)
    error: BaseException | None = failed.value
    while error is not None:
        assert secret not in f"{error} {error!r} {error.args}"
        error = error.__cause__
    wrong.close()


# ── Cluster ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_slot_that_moves_is_followed(cluster: Cluster) -> None:
    store = fresh(cluster.url)
    leader, generation = led(store)
    assert store.register(view()).standing == "OK"
    assert store.apply(leader, generation, [Change("a", None, owned(1))]) == [True]
    poke = Poke(cluster.url, store.keys, "h:0")
    assert poke.wait(2.0)
    slot = key_slot(store.keys.gen.encode())
    source = cluster.servers[slot * 3 // 16384]
    target = cluster.servers[(cluster.servers.index(source) + 1) % 3]
    _move_slot(cluster, slot, source, target)
    with pytest.raises(StoreUnavailable, match=r"Moved|MOVED|moved|\d+ 127.0.0.1"):
        beat(store, 1)
    wait_for(lambda: _works(store, 2), 5, "the slot's new place")
    assert beat(store, 3) == "OK" and set(store.owners()[0]) == {"a"} and store.leader() == leader
    assert redis.Redis(port=target.port).exists(store.keys.own)
    store.poke("h:0")
    assert poke.wait(5.0)  # the subscription stays where it is: a cluster tells all its nodes
    poke.close()
    target.kill()  # cluster-require-full-coverage: all of it is down, and its nodes still answer
    for _ in range(4):
        assert refused(lambda: beat(store, 4)) < BUDGET_S + SLACK_S
    for server in cluster.servers:
        if server is not target:
            server.pause()
    try:
        for _ in range(4):  # nobody says where the slot is: the topology has the same budget
            assert refused(lambda: beat(store, 5)) < BUDGET_S + SLACK_S
    finally:
        for server in cluster.servers:
            server.resume()
    target.start()
    wait_for(lambda: _works(store, 6), 15, "the cluster's return")
    assert beat(store, 7) == "OK"
    store.close()


def _move_slot(cluster: Cluster, slot: int, source: Redis, target: Redis) -> None:
    old, new = redis.Redis(port=source.port), redis.Redis(port=target.port)
    new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", cluster.node_id(source))
    old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", cluster.node_id(target))
    names = old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000)
    old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
    for server in (target, source, *(s for s in cluster.servers if s not in (source, target))):
        redis.Redis(port=server.port).execute_command("CLUSTER SETSLOT", slot, "NODE", cluster.node_id(target))


def test_a_cluster_is_a_store_like_any_other(cluster: Cluster) -> None:
    """Leases and generations as on one server; a node of the URL that is dead does not matter."""
    dead = cluster.url.replace("://", "://127.0.0.1:1,")
    store = RedisStore(dead, Keys(f"t{uuid.uuid4().hex[:8]}"))
    assert store.lead("c", 7, 60) == "OK"
    store.rebuild(pack_leader("c", 7), Generation("g", True), {"a": owned(1)})
    assert store.observe().generation == Generation("g", True)
    assert store.distrust(Generation("g", True))
    store.close()


# ── no growth ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_accounts_and_workers_that_come_and_go_leave_nothing_behind(services: SharedServices) -> None:
    """`python -m benchmarks.scaling churn` is the long form."""
    store = RedisStore(services.redis.url, Keys(f"t{uuid.uuid4().hex[:8]}"), 2.0)
    work = Churn(store, accounts=60, workers=5)
    found = []
    for count in (20, 120):
        for _ in range(count):
            work.cycle()
        work.level()
        found.append(footprint(store, services.redis.url))
    assert found[1].fields == found[0].fields
    assert found[1].keys <= 3 * 5 + 6  # three a worker (a view or a report without entries is no key), six of the fleet
    assert found[1].memory_bytes <= found[0].memory_bytes * 1.05
    store.close()
