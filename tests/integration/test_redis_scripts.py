"""The Lua scripts on a real Redis: against a Python model (hypothesis stateful), twice, after SCRIPT FLUSH, when frozen."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fleet.core import wire
from fleet.core.budget import Taken
from fleet.core.errors import StoreUnavailable
from fleet.core.exchange import Rate
from fleet.core.model import Desired, Ownership, StreamState, StreamStatus, WorkerView, token_of
from fleet.core.names import Keys
from fleet.core.wire import Generation, pack_leader
from fleet.runtime.redis_store import BATCH, Budget, Change, NotLeader, Poke, RedisStore, connect
from fleet.services import Services
from tests.support.redis_model import Hash, Model, Own, Window
from tests.support.services import SharedServices

pytestmark = pytest.mark.integration


@pytest.fixture
def url(services: SharedServices) -> str:
    return services.redis.url


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    opened = fresh(url)
    yield opened
    opened.close()


def fresh(url: str) -> RedisStore:
    return RedisStore(url, Keys(f"t{uuid.uuid4().hex[:10]}"))


def view(slot: str = "h:0", inc: str = "i1", seq: int = 0) -> WorkerView:
    return WorkerView(slot, inc, seq, wire.UP, "h", 1, 10, 0.0, 0)


def led(store: RedisStore, term: int = 1) -> tuple[str, Generation]:
    """Lead, with a generation that is ready."""
    assert store.lead("c", term, 60) == "OK"
    leader, generation = pack_leader("c", term), Generation("g", True)
    store.rebuild(leader, generation, {})
    return leader, generation


def owned(n: int, slot: str = "h:0", inc: str = "i1", state: str = "run") -> Ownership:
    return Ownership(slot, inc, token_of(1, n), state, 5, 1)


# ── against the model ────────────────────────────────────────────────────────────────────────────────────────────
slots = st.sampled_from(["h:0", "h:1"])
incs = st.sampled_from(["i1", "i2", "i2-1"])  # two lives of one process among them
names = st.sampled_from(["a", "b", "c"])
tokens = st.integers(1, 6)
leaders = st.tuples(st.sampled_from(["c1", "c2"]), st.integers(1, 4))
gens = st.tuples(st.sampled_from(["g1", "g2"]), st.booleans())
ips = st.sampled_from(["", "", "127.0.0.2", "::1"])
owns = st.tuples(slots, incs, tokens, st.sampled_from(["run", "revoke"]), st.integers(1, 2), st.just(1), ips)


def record(own: Own | None) -> Ownership | None:
    return Ownership(*own) if own else None


class Scripts(RuleBasedStateMachine):
    """Every operation runs on Redis, sometimes twice in a row, and on the model."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.store = fresh(self.url)
        self.model = Model()
        self.raw = connect(self.url, 2.0, self.store.keys.gen)

    @initialize(sound=st.sampled_from([True, True, True, False]))
    def begin(self, sound: bool) -> None:
        """Mostly a fleet that runs: two workers, a leader, a ready generation, an owner for each account."""
        if not sound:
            return
        self.register("h:0", "i1", False)
        self.register("h:1", "i1", False)
        self.lead(("c1", 1))
        everyone: dict[str, Own] = dict.fromkeys(("a", "b", "c"), ("h:0", "i1", 1, "run", 1, 1, ""))
        self.rebuild(("c1", 1), ("g1", True), everyone)

    def teardown(self) -> None:
        names = list(self.raw.scan_iter(match=self.store.keys.prefix.replace("{", "[{]") + "*"))
        if names:
            self.raw.delete(*names)
        self.store.close()
        self.raw.close()

    @rule(slot=slots, inc=incs, twice=st.booleans(), lock=st.sampled_from(["", "l1", "l2"]), watched=st.booleans())
    def register(self, slot: str, inc: str, twice: bool, lock: str = "", watched: bool = False) -> None:
        expected = self.model.register(slot, inc, lock, watched)
        holder, seq = self.raw.hmget(self.store.keys.worker(slot), "inc", "seq")  # type: ignore[misc]
        beat = f"{holder}|{seq or '0'}" if watched else ""
        for _ in range(1 + twice):
            got = self.store.register(view(slot, inc, self.model.w[slot].seq), lock=lock, watched=beat)
            assert (got.standing, got.life) == expected
        if expected[0] == "OK" and self.raw.hget(self.store.keys.worker(slot), "seq") is not None:
            self.model.w[slot].seq = int(self.raw.hget(self.store.keys.worker(slot), "seq") or 0)  # type: ignore[arg-type]

    @rule(slot=slots, inc=incs, seq=st.integers(0, 9))
    def heartbeat(self, slot: str, inc: str, seq: int) -> None:
        beat = self.store.heartbeat(view(slot, inc, seq))
        gen = (beat.generation.id, beat.generation.ready) if beat.generation else None
        seen = (beat.standing, gen, beat.version, beat.drain, beat.holder)
        assert seen == self.model.heartbeat(slot, inc, seq)

    @rule(slot=slots, wish=st.booleans())
    def drain(self, slot: str, wish: bool) -> None:
        known = bool(self.model.w.get(slot, Hash()).inc)
        assert self.store.set_drain(slot, wish) == known
        if known:
            self.model.w[slot].drain = wish

    @rule(slot=slots, inc=incs)
    def pull(self, slot: str, inc: str) -> None:
        got = self.store.pull(slot, inc, None, -1)
        expected = self.model.pull(slot, inc)
        assert got.standing == expected[0]
        if got.standing == "OK":
            gen = (got.generation.id, got.generation.ready) if got.generation else None
            desired = {a: (e.token, e.state, e.egress_ip) for a, e in (got.desired or {}).items()}
            assert (gen, got.version, desired) == expected[1:]
            assert self.store.pull(slot, inc, got.generation, got.version).desired is None or got.generation is None

    @rule(
        slot=slots,
        inc=incs,
        rows=st.dictionaries(names, tokens),
        removed=st.lists(names, max_size=2),
        full=st.booleans(),
    )
    def report(self, slot: str, inc: str, rows: dict[str, int], removed: list[str], full: bool) -> None:
        statuses = [StreamStatus(a, token, StreamState.LIVE, 1, 0, False) for a, token in rows.items()]
        got = self.store.report(slot, inc, statuses, removed, full=full)
        assert got == self.model.report(slot, inc, rows, removed, full)

    @rule(slot=slots, inc=incs, stopped=st.dictionaries(names, tokens, min_size=1))
    def ack_release(self, slot: str, inc: str, stopped: dict[str, int]) -> None:
        assert self.store.ack_release(slot, inc, stopped) == self.model.ack_release(slot, inc, stopped)

    @rule()
    def ack_everything_revoked(self) -> None:
        for slot in ("h:0", "h:1"):
            inc = self.model.w.get(slot, Hash()).inc
            mine = {a: o[2] for a, o in self.model.own.items() if o[:2] == (slot, inc) and o[3] == "revoke"}
            if mine:
                self.ack_release(slot, inc, mine)

    @rule(leader=leaders)
    def lead(self, leader: tuple[str, int]) -> None:
        assert self.store.lead(*leader, 60) == self.model.lead(*leader)

    @rule()
    def leader_expires(self) -> None:
        self.raw.delete(self.store.keys.leader)
        self.model.leader = None

    @rule(
        leader=leaders,
        gen=gens,
        present=st.sampled_from([True, True, False]),
        changes=st.lists(st.tuples(names, st.none() | owns, st.none() | owns), min_size=1, max_size=4),
    )
    def apply_anything(
        self,
        leader: tuple[str, int],
        gen: tuple[str, bool],
        present: bool,
        changes: list[tuple[str, Own | None, Own | None]],
    ) -> None:
        """A leader whose picture of the records is wrong."""
        if present and self.model.leader and self.model.gen:
            leader, gen = self.model.leader, self.model.gen
        self._apply(leader, gen, changes)

    @rule(account=names, slot=slots)
    def an_entry_is_left_behind(self, account: str, slot: str) -> None:
        """A desired view may hold what a former owner was told; `own` is the truth."""
        entry = wire.pack_desired(Desired(9, "run"))
        self.raw.hset(self.store.keys.desired(slot), account, entry)
        self.model.d.setdefault(slot, {})[account] = (9, "run")

    @rule(
        picks=st.lists(
            st.tuples(names, st.none() | st.tuples(slots, tokens, st.sampled_from(["run", "revoke"]), ips)),
            min_size=1,
            max_size=4,
        ),
        twice=st.booleans(),
    )
    def apply_soundly(self, picks: list[tuple[str, tuple[str, int, str, str] | None]], twice: bool) -> None:
        """What a leader with a fresh picture does."""
        if self.model.leader is None or self.model.gen is None:
            return
        unique = dict(picks)
        changes: list[tuple[str, Own | None, Own | None]] = []
        for account, pick in unique.items():
            new = (
                (pick[0], self.model.w.get(pick[0], Hash()).inc or "i9", pick[1], pick[2], 1, 1, pick[3])
                if pick
                else None
            )
            changes.append((account, self.model.own.get(account), new))
        self._apply(self.model.leader, self.model.gen, changes)
        if twice:
            self._apply(self.model.leader, self.model.gen, changes)

    def _apply(
        self, leader: tuple[str, int], gen: tuple[str, bool], changes: list[tuple[str, Own | None, Own | None]]
    ) -> None:
        expected = self.model.apply(leader, gen, changes)
        packed = [Change(a, record(old), record(new)) for a, old, new in changes]
        if isinstance(expected, str):
            with pytest.raises(NotLeader):
                self.store.apply(pack_leader(*leader), Generation(*gen), packed)
        else:
            assert self.store.apply(pack_leader(*leader), Generation(*gen), packed) == expected

    @rule(leader=leaders, present=st.booleans(), gen=gens)
    def complete(self, leader: tuple[str, int], present: bool, gen: tuple[str, bool]) -> None:
        leader = self.model.leader if present and self.model.leader else leader
        expected = self.model.complete(leader, gen[0])
        if isinstance(expected, str):
            with pytest.raises(NotLeader):
                self.store.complete(pack_leader(*leader), Generation(gen[0], False))
        else:
            assert self.store.complete(pack_leader(*leader), Generation(gen[0], False)) == Generation(gen[0], True)

    @rule(gen=gens)
    def distrust(self, gen: tuple[str, bool]) -> None:
        assert self.store.distrust(Generation(*gen)) == self.model.distrust(gen)

    @rule(leader=leaders, slot=slots, inc=incs)
    def fence(self, leader: tuple[str, int], slot: str, inc: str) -> None:
        self._leading(self.model.fence(leader, slot, inc), self.store.fence_worker, leader, slot, inc)

    @rule(slot=slots)
    def fence_the_present(self, slot: str) -> None:
        inc = self.model.w.get(slot, Hash()).inc
        if self.model.leader and inc:
            self.fence(self.model.leader, slot, inc)

    @rule(leader=leaders, slot=slots, inc=incs)
    def forget(self, leader: tuple[str, int], slot: str, inc: str) -> None:
        self._leading(self.model.forget(leader, slot, inc), self.store.forget, leader, slot, inc)

    @rule(
        leader=leaders,
        gen=gens,
        records=st.dictionaries(names, owns, max_size=3),
        asked=st.lists(slots, max_size=2, unique=True),
    )
    def rebuild(
        self, leader: tuple[str, int], gen: tuple[str, bool], records: dict[str, Own], asked: list[str] | None = None
    ) -> None:
        leader = self.model.leader or leader
        packed = {a: Ownership(*own) for a, own in records.items()}
        expected = self.model.rebuild(leader, gen, records, tuple(asked or ()))
        self._leading(expected, self.store.rebuild, leader, Generation(*gen), packed, asked or ())

    def _leading(self, expected: Any, call: Callable[..., Any], leader: tuple[str, int], *args: Any) -> None:
        if expected == "NOTLEADER":
            with pytest.raises(NotLeader):
                call(pack_leader(*leader), *args)
        else:
            assert call(pack_leader(*leader), *args) == expected

    @invariant()
    def states_are_equal(self) -> None:
        model, seen = self.model, self.store.observe()
        assert (seen.generation and (seen.generation.id, seen.generation.ready)) == model.gen
        assert seen.version == model.ver
        assert set(seen.workers) == model.workers
        for slot, got in seen.workers.items():
            want = model.w.get(slot, Hash())
            assert (got.view.incarnation, got.fenced, got.version, got.reported, got.drain) == (
                want.inc, want.fenced, want.version, want.reported, want.drain,
            )  # fmt: skip
            if want.inc:
                assert (got.view.seq, got.view.state) == (want.seq, want.state)
        assert self.store.owners()[0] == {a: Ownership(*own) for a, own in model.own.items()}
        for slot in ("h:0", "h:1"):
            entries = self.raw.hgetall(self.store.keys.desired(slot))
            parsed = {a: wire.parse_desired(text) for a, text in entries.items()}  # type: ignore[union-attr]
            assert {a: (e.token, e.state) for a, e in parsed.items()} == model.d.get(slot, {})
            assert {a: s.token for a, s in self.store.reports(slot).items()} == model.r.get(slot, {})


def test_scripts_do_what_the_model_does(url: str) -> None:
    machine = type("ScriptsHere", (Scripts,), {"url": url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class Windows(RuleBasedStateMachine):
    """A windowed bucket whose exchange tells what was used: every operation on Redis and on the model. Its window is so long that
    none of its edges is near; a new one begins by moving what Redis remembers into the past."""

    url = ""
    rate = Rate(120, 120e-7, 1e7, used_header="x-used")

    def __init__(self) -> None:
        super().__init__()
        self.store = fresh(self.url)
        self.key = self.store.keys.budget("weight", "x", "ip")
        self.raw: Any = connect(self.url, 2.0, self.store.keys.gen)
        self.model, self.since, self.former = Window(120, 10), "", "0.5"

    def teardown(self) -> None:
        self.raw.delete(self.key)
        self.store.close()
        self.raw.close()

    def same(self, said: Taken, left: float, unknown: bool) -> None:
        assert said.left == pytest.approx(left, abs=1e-4) and bool(said.unknown_since) == unknown
        if unknown and self.since:
            assert said.unknown_since == self.since
        if said.unknown_since != self.since:
            self.since, self.former = said.unknown_since, self.since or self.former

    @rule(amount=st.sampled_from([1, 5, 20, 40, 200]), reserve=st.sampled_from([0, 18]))
    def take(self, amount: float, reserve: float) -> None:
        expected = self.model.take(amount, reserve)
        said = self.store.bucket_take("weight", "x", "ip", amount, self.rate, reserve)
        if expected is None:
            assert said.wait_s > 50 and said.left is None
            return
        assert (said.wait_s == 0.0) == expected[0] and (not expected[2] or said.wait_s <= 0.5)
        self.same(said, *expected[1:])

    @rule(
        used=st.sampled_from([0, 30, 80, 109, 113, 118, 130]),
        sent=st.sampled_from(["now", "early", "before"]),
        knew=st.booleans(),
        twice=st.booleans(),
    )
    def observe(self, used: float, sent: str, knew: bool, twice: bool) -> None:
        since = self.since if knew else self.former
        expected = self.model.observe(used, sent, knew and bool(self.since))
        passed_s = self.raw.time()[0] % 1e7
        age_s = {"now": 0.1, "early": passed_s, "before": passed_s + 5.0}[sent]
        said = self.store.bucket_observe("weight", "x", "ip", used, self.rate, age_s, since)
        if twice:
            assert self.store.bucket_observe("weight", "x", "ip", used, self.rate, age_s, since) == said
        self.same(said, *expected)

    @rule()
    def a_window_passes(self) -> None:
        fields = self.raw.hgetall(self.key)
        if self.model.tokens is not None:
            self.raw.hset(self.key, "at", float(fields["at"]) - 1e7)
            self.model.passed, self.since, self.former = True, "", self.since or self.former

    @rule()
    def redis_is_emptied(self) -> None:
        self.raw.delete(self.key)
        self.model, self.since, self.former = Window(120, 10), "", self.since or self.former

    @rule()
    def block(self) -> None:
        self.store.bucket_block("weight", "x", "ip", 60)
        self.model.blocked = True


def test_windowed_buckets_do_what_the_model_does(url: str) -> None:
    machine = type("WindowsHere", (Windows,), {"url": url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# ── one by one ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_batch_is_at_most_500_and_500_are_quick(store: RedisStore) -> None:
    leader, generation = led(store)
    store.register(view())
    changes = [Change(f"account-{n}", None, owned(n)) for n in range(BATCH)]
    started = time.perf_counter()
    assert all(store.apply(leader, generation, changes))
    assert time.perf_counter() - started < 2.0
    with pytest.raises(ValueError, match="501"):
        store.apply(leader, generation, [*changes, Change("one more", None, owned(1))])


def test_who_is_unplaced_is_told_by_the_leader_alone(store: RedisStore) -> None:
    leader, _ = led(store)
    store.set_unplaced(leader, {f"a{n:04d}": "full" if n % 2 else "nobody" for n in range(3000)})
    named, numbers = store.unplaced()
    assert (
        len(named) == wire.UNPLACED_NAMED and named["a0000"] == "nobody" and numbers == {"full": 1500, "nobody": 1500}
    )
    with pytest.raises(NotLeader):
        store.set_unplaced(pack_leader("other", 1), {"a": "b"})
    store.set_unplaced(leader, {}, {wire.drained("h:0"): "full", wire.EVENED: ""})
    assert store.unplaced() == ({}, {})
    assert [store.answer(w) for w in (wire.drained("h:0"), wire.drained("h:1"), wire.EVENED)] == ["full", None, ""]
    store.set_unplaced(leader, {})
    assert store.unplaced() == ({}, {}) and store.answer(wire.EVENED) is None


def test_a_worker_hears_of_its_accounts_addresses_and_an_older_one_of_none(store: RedisStore) -> None:
    leader, generation = led(store)
    store.register(view())
    records = {"a": msgspec.structs.replace(owned(1), egress_ip="127.0.0.2"), "b": owned(2)}
    assert all(store.apply(leader, generation, [Change(a, None, record) for a, record in records.items()]))
    desired = store.pull("h:0", "i1", None, -1).desired
    assert desired == {"a": Desired(token_of(1, 1), "run", "127.0.0.2"), "b": Desired(token_of(1, 2), "run")}
    raw: Any = store._client
    entries = raw.hgetall(store.keys.desired("h:0"))  # what the release before this one reads
    assert [text.count("|") for text in entries.values()] == [1, 1]
    assert store.ack_release("h:0", "i1", {"a": token_of(1, 1)}) == "OK" and set(store.owners()[0]) == {"b"}


def test_a_stale_leader_is_refused(store: RedisStore) -> None:
    leader, generation = led(store, term=1)
    store.register(view())
    store.resign(leader)
    assert store.lead("other", 2, 60) == "OK"
    with pytest.raises(NotLeader):
        store.apply(leader, generation, [Change("a", None, owned(1))])
    with pytest.raises(NotLeader):
        store.fence_worker(leader, "h:0", "i1")
    with pytest.raises(NotLeader):
        store.rebuild(leader, generation, {"a": owned(1)})
    store.resign(leader)  # resigning late takes nothing from the successor
    assert store.leader() == pack_leader("other", 2)
    assert store.owners()[0] == {}


def test_the_lease_expires(store: RedisStore) -> None:
    assert store.lead("c", 1, 0.2) == "OK"
    assert store.lead("d", 2, 60) == "HELD"
    deadline = time.monotonic() + 5
    while store.lead("d", 2, 60) != "OK":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert store.lead("c", 1, 60) == "HELD"


def test_script_flush_and_a_restart_are_not_noticed(store: RedisStore, url: str) -> None:
    store.register(view())
    redis.Redis.from_url(url).script_flush()
    assert store.heartbeat(view(seq=1)).standing == "OK"


def test_data_loss_is_unknown_not_fenced(own_services: Callable[..., Services]) -> None:
    store = fresh(own_services("redis").redis.url)
    store.register(view())
    store._client.flushall()
    assert store.heartbeat(view(seq=1)).standing == "UNKNOWN"
    assert store.pull("h:0", "i1", None, 0).standing == "UNKNOWN"
    assert store.register(view()).standing == "OK"
    store.close()


def test_a_frozen_redis_costs_half_a_second_a_call(own_services: Callable[..., Services]) -> None:
    server = own_services("redis").redis
    store = fresh(server.url)
    store.register(view())
    server.pause()
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.heartbeat(view(seq=1))
        assert 0.3 < time.monotonic() - started < 4.0
    server.resume()
    assert store.heartbeat(view(seq=2)).standing == "OK"
    server.stop()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.heartbeat(view(seq=3))
    assert time.monotonic() - started < 3.0
    store.close()


def test_a_poke_wakes_and_its_loss_only_costs_the_wait(store: RedisStore, url: str) -> None:
    poke = Poke(url, store.keys, "h:0")
    assert poke.wait(1.0)  # the subscription began: look once, whatever was published before
    assert not poke.wait(0.05)
    store.poke("h:0")
    started = time.monotonic()
    assert poke.wait(5.0)
    assert time.monotonic() - started < 4.0
    assert not poke.wait(0.05)
    poke.close()


def test_drain_is_an_operators_wish(store: RedisStore) -> None:
    assert not store.set_drain("h:0", True)
    store.register(view())
    assert store.set_drain("h:0", True)
    assert store.heartbeat(view(seq=1)).drain
    assert store.set_drain("h:0", False)
    assert not store.heartbeat(view(seq=2)).drain


def test_a_drain_ends_with_the_process_not_with_its_lease(store: RedisStore) -> None:
    store.register(view(inc="p1-0"))
    store.set_drain("h:0", True)
    store.register(view(inc="p1-1"))  # it lost its lease, and began anew
    assert store.heartbeat(view(inc="p1-1", seq=1)).drain
    store.register(view(inc="p2-0"))
    assert not store.heartbeat(view(inc="p2-0", seq=1)).drain


def test_beats_are_told_by_redis_clock(store: RedisStore) -> None:
    """Whatever the clock of the host shows; one that was overtaken is not a newer one."""
    raw, key = store._client, store.keys.worker("h:0")
    for beat in (lambda: store.register(view(seq=3)), lambda: store.heartbeat(view(seq=4))):
        before = store.observe().now_ms
        beat()  # type: ignore[no-untyped-call]
        assert before <= store.observe().workers["h:0"].beat_ms <= store.observe().now_ms
    raw.hset(key, "beat_ms", "7")
    assert store.heartbeat(view(seq=2)).standing == "OK" and store.observe().workers["h:0"].beat_ms == 7


def test_the_shared_bucket(store: RedisStore) -> None:
    rate = Rate(3, 10)
    assert [store.bucket_take("dial", "binance", "ip", 1, rate).wait_s for _ in range(3)] == [0.0] * 3
    wait_s = store.bucket_take("dial", "binance", "ip", 1, rate).wait_s
    assert 0 < wait_s <= 0.1
    assert store.bucket_take("dial", "binance", "other", 1, rate).wait_s == 0.0
    assert store.bucket_take("weight", "binance", "ip", 1, rate).wait_s == 0.0
    store.bucket_block("dial", "binance", "other", 30)
    store.bucket_block("dial", "binance", "other", 1)
    assert store.bucket_take("dial", "binance", "other", 1, rate).wait_s > 29
    rows = {(row["kind"], row["egress_ip"]): row for row in store.budgets()}
    assert set(rows) == {("dial", "ip"), ("dial", "other"), ("weight", "ip")}
    assert rows["dial", "other"]["blocked_s"] > 29


def test_the_bucket_keeps_the_limit_over_time(store: RedisStore) -> None:
    rate = Rate(5, 50)
    started, granted = time.monotonic(), 0
    while time.monotonic() - started < 0.6:
        granted += store.bucket_take("dial", "x", "ip", 1, rate).wait_s == 0.0
    assert granted <= 5 + 50 * (time.monotonic() - started) + 1
    assert granted >= 15


def test_a_windowed_bucket_keeps_the_limit_of_every_clock_window(store: RedisStore) -> None:
    rate = Rate(5, 5, window_s=1.0)
    granted: dict[int, int] = {}
    started = time.monotonic()
    while time.monotonic() - started < 2.5:
        if store.bucket_take("weight", "x", "ip", 1, rate).wait_s == 0.0:
            second = int(time.time())
            granted[second] = granted.get(second, 0) + 1
    assert max(granted.values()) == 5 and sum(granted.values()) >= 10
    assert (
        store.bucket_take("weight", "y", "ip", 6, Rate(5, 5, 1.0)).wait_s <= 1.2
    )  # more than a window: the whole of one


def test_who_only_asks_a_sliding_bucket_puts_nobody_off(store: RedisStore) -> None:
    """Its last tenth is given out evenly: an amount of 0 is no part of that."""
    rate = Rate(20, 1, window_s=20.0, sliding=True)
    assert [store.bucket_take("dial", "asked", "ip", 1, rate).wait_s for _ in range(18)] == [0.0] * 18
    first = store.bucket_take("dial", "asked", "ip", 1, rate).wait_s
    time.sleep(0.3)
    assert store.bucket_take("dial", "asked", "ip", 0, rate).wait_s == 0.0
    assert first > 0.0
    assert store.bucket_take("dial", "asked", "ip", 1, rate).wait_s < first - 0.2


def test_a_sliding_bucket_keeps_the_limit_of_every_span(store: RedisStore) -> None:
    """Twenty in any second: eighteen at once, two more evenly, and again once the eighteen are a second old."""
    rate = Rate(20, 20, window_s=1.0, sliding=True)
    granted: list[float] = []
    waits: list[float] = []
    started = time.monotonic()
    while time.monotonic() - started < 2.5:
        asked = time.monotonic()
        wait_s = store.bucket_take("dial", "x", "ip", 1, rate).wait_s
        if wait_s == 0.0:
            granted.append(asked)
        waits.append(wait_s)
    assert sum(at < granted[0] + 0.3 for at in granted) >= 18
    assert all(sum(at <= other <= at + 1.0 for other in granted) <= 20 for at in granted)
    assert len(granted) >= 40 and max(waits) <= 1.1
    [row] = [row for row in store.budgets() if row["exchange"] == "x"]
    assert 0 <= row["tokens"] <= 20 and row["burst"] == 20
    store.bucket_block("dial", "x", "ip", 30)
    assert store.bucket_take("dial", "x", "ip", 1, rate).wait_s > 29


def test_an_observed_bucket_shows_what_is_left_of_its_window(store: RedisStore) -> None:
    rate = Rate(120, 2, 60.0, used_header="x-used")
    shown = store.bucket_take("weight", "x", "ip", 4, rate)
    assert shown.unknown_since and shown.left == 6
    raw: Any = store._client
    raw.hset(store.keys.budget("weight", "x", "ip"), "at", raw.time()[0] - 60)  # a window ago: all of it is there again
    [row] = store.budgets()
    assert (row["tokens"], row["burst"], row["kind"]) == (120, 120, "weight")
    assert store.bucket_take("weight", "x", "ip", 0, rate).left == 120


def test_budget_lives_on_its_share_while_redis_is_away(own_services: Callable[..., Services]) -> None:
    server = own_services("redis").redis
    now = [100.0]
    budget = Budget(fresh(server.url), share=0.5, clock=lambda: now[0])
    rate = Rate(10, 0.001)
    assert budget.take("dial", "binance", "ip", 1, rate) == 0.0
    server.stop()
    granted = sum(budget.take("dial", "binance", "ip", 1, rate) == 0.0 for _ in range(20))
    assert granted == 4  # of a share of 5; the shared bucket's grant counts
    budget.block("dial", "binance", "ip", 60)
    assert budget.take("dial", "binance", "ip", 1, rate) > 50
    server.start()
    now[0] += 5.0
    assert budget.take("dial", "binance", "other", 1, rate) == 0.0
    [blocked] = [row for row in fresh(server.url).budgets() if row["egress_ip"] == "ip"] or [{"blocked_s": 0}]
    assert blocked["blocked_s"] == 0  # another fleet's name: nothing leaks between fleets
    colleague = Budget(budget._store, share=0.5)  # type: ignore[arg-type]
    assert colleague.take("dial", "binance", "ip", 1, rate) > 50  # heard, now that Redis is back


def test_a_counter_that_is_no_number_is_no_usable_answer(services: SharedServices) -> None:
    """Somebody wrote to our keys by hand: neither the worker's lease thread nor the leader's loop may die of it."""
    store = fresh(services.redis.url)
    assert store.register(view("h:0", "i1", 1)).standing == "OK"
    raw = connect(services.redis.url, 2.0, store.keys.gen)
    raw.hset(store.keys.worker("h:0"), "version", "abc")
    with pytest.raises(StoreUnavailable, match="not a number"):
        store.heartbeat(view("h:0", "i1", 2))
    with pytest.raises(StoreUnavailable, match="not a number"):
        store.pull("h:0", "i1", None, -1)
    raw.set(store.keys.version, "abc")
    with pytest.raises(StoreUnavailable, match="not a number"):
        store.observe()
    store.close()
    raw.close()
