"""Redis and Postgres of a simulated fleet: plain dicts under a virtual clock, reachable or not, per node.

The scripts' meaning comes from tests/support/redis_model.py, which integration tests hold equal to the Lua.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fleet.core import wire
from fleet.core.errors import StoreUnavailable
from fleet.core.lease import Answer
from fleet.core.model import AccountSpec, Desired, Ownership, StreamState, StreamStatus, WorkerView
from fleet.core.observe import WitnessRow
from fleet.core.wire import Generation, WorkerRecord
from fleet.runtime.redis_store import Beat, Change, NotLeader, Observation, View
from tests.support.redis_model import Hash, Model, Own


class Clock:
    """Virtual seconds; never moves by itself."""

    def __init__(self) -> None:
        self.now = 1000.0

    def now_ms(self) -> int:
        return int(self.now * 1000)


class Redis:
    """The server: the model's state, its leader key's expiry, what went wrong."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.model = Model()
        self.views: dict[str, WorkerView] = {}  # what each slot's hash says beside the fields of the model
        self.leader_until = 0.0
        self.up = True
        self.cut: set[str] = set()  # nodes that cannot reach it
        self.copies: list[tuple[float, Any]] = []  # what a replica may hold

    def expire(self) -> None:
        if self.model.leader and self.clock.now >= self.leader_until:
            self.model.leader = None

    def flush(self) -> None:
        self.model, self.views, self.copies = Model(), {}, []

    def replicate(self) -> None:
        """Keep what a replica that lags up to two seconds would have."""
        now = self.clock.now
        self.copies = [c for c in self.copies if now - c[0] < 2.0]
        self.copies.append((now, copy.deepcopy((self.model, self.views, self.leader_until))))

    def fail_over(self, lag_s: float) -> None:
        """A replica that lags by `lag_s` takes over: the writes since are lost."""
        older = [c for c in self.copies if self.clock.now - c[0] >= lag_s]
        if older:
            self.model, self.views, self.leader_until = copy.deepcopy(older[-1][1])


class Store:
    """One node's connection: the interface of fleet.runtime.redis_store.RedisStore over the model."""

    def __init__(self, redis: Redis, node: str, rng: random.Random, timed_out: Callable[[], None]) -> None:
        self._redis, self._node, self._rng, self._timed_out = redis, node, rng, timed_out
        self.flaky = 0.0  # part of the calls whose answer is lost

    @property
    def _model(self) -> Model:
        self._redis.expire()
        return self._redis.model

    def _reach(self) -> None:
        if not self._redis.up or self._node in self._redis.cut:
            self._timed_out()
            raise StoreUnavailable("simulated")

    def _done(self) -> None:
        if self.flaky and self._rng.random() < self.flaky:
            self._timed_out()
            raise StoreUnavailable("simulated: the answer was lost")

    def register(self, view: WorkerView, *, beat_ms: int, egress_ips: tuple[str, ...] = ()) -> Any:
        self._reach()
        standing = self._model.register(view.slot, view.incarnation)
        if standing == "OK":
            self._redis.views[view.slot] = view
        self._done()
        return standing

    def heartbeat(self, view: WorkerView, *, beat_ms: int, egress_ips: tuple[str, ...] = ()) -> Beat:
        self._reach()
        reply = self._model.heartbeat(view.slot, view.incarnation, view.seq)
        if reply[0] == "OK":
            self._redis.views[view.slot] = view
        self._done()
        if reply[0] != "OK":
            return Beat(reply[0])
        return Beat("OK", _generation(reply[1]), reply[2], reply[3])

    def pull(self, slot: str, incarnation: str, generation: Generation | None, version: int) -> View:
        self._reach()
        reply = self._model.pull(slot, incarnation)
        if reply[0] != "OK":
            return View(reply[0])
        found = _generation(reply[1])
        if found == generation and found is not None and reply[2] == version:
            return View("OK", found, version, None)
        return View("OK", found, reply[2], {a: Desired(token, state) for a, (token, state) in reply[3].items()})

    def report(
        self, slot: str, incarnation: str, statuses: Sequence[StreamStatus], removed: Sequence[str] = (), *, full: bool
    ) -> Any:
        self._reach()
        tokens = {s.account_id: s.token for s in statuses}
        standing = self._model.report(slot, incarnation, tokens, list(removed), full)
        self._done()
        return standing

    def ack_release(self, slot: str, incarnation: str, stopped: Mapping[str, int]) -> Any:
        self._reach()
        standing = self._model.ack_release(slot, incarnation, dict(stopped))
        self._done()
        return standing

    def leader(self) -> str:
        self._reach()
        leader = self._model.leader
        return wire.pack_leader(*leader) if leader else ""

    def lead(self, holder: str, term: int, lease_s: float) -> Any:
        self._reach()
        answer = self._model.lead(holder, term)
        if answer == "OK":
            self._redis.leader_until = self._redis.clock.now + lease_s
        self._done()
        return answer

    def resign(self, leader: str) -> None:
        self._reach()
        if self._model.leader == _leader(leader):
            self._redis.model.leader = None

    def observe(self) -> Observation:
        self._reach()
        model = self._model
        records = {slot: self._record(slot, model.w.get(slot, Hash())) for slot in sorted(model.workers)}
        return Observation(_generation(model.gen), model.ver, records, [])

    def _record(self, slot: str, fields: Hash) -> WorkerRecord:
        seen = self._redis.views.get(slot)
        view = WorkerView(
            slot,
            fields.inc,
            fields.seq,
            (seen.state if seen and fields.state != "fenced" else fields.state) if fields.inc else wire.GONE,
            seen.host if seen else slot.partition(":")[0],
            0,
            seen.capacity if seen else 0,
            0.0,
            0,
        )
        return WorkerRecord(view, fields.fenced, fields.version, fields.drain, 0, (), fields.reported)

    def owners(self) -> tuple[dict[str, Ownership], list[str]]:
        self._reach()
        return {a: Ownership(*own) for a, own in self._model.own.items()}, []

    def reports(self, slot: str) -> dict[str, StreamStatus]:
        self._reach()
        rows = self._model.r.get(slot, {})
        return {a: StreamStatus(a, token, StreamState.LIVE, 0, 0, False) for a, token in rows.items()}

    def apply(self, leader: str, generation: Generation, changes: Sequence[Change]) -> list[bool]:
        self._reach()
        packed = [(c.account_id, _own(c.expected), _own(c.new)) for c in changes]
        done = self._model.apply(_leader(leader), (generation.id, generation.ready), packed)
        self._done()
        if isinstance(done, str):
            raise NotLeader(done)
        return done

    def fence_worker(self, leader: str, slot: str, incarnation: str) -> bool:
        return bool(self._leading(self._model.fence, leader, slot, incarnation))

    def forget(self, leader: str, slot: str, incarnation: str) -> bool:
        return bool(self._leading(self._model.forget, leader, slot, incarnation))

    def rebuild(
        self, leader: str, generation: Generation, records: Mapping[str, Ownership], slots: Iterable[str] = ()
    ) -> int:
        packed = {a: _own(record) for a, record in records.items()}
        gen = (generation.id, generation.ready)
        return int(self._leading(self._model.rebuild, leader, gen, packed, tuple(slots)))

    def _leading(self, call: Callable[..., Any], leader: str, *args: Any) -> Any:
        self._reach()
        done = call(_leader(leader), *args)
        self._done()
        if isinstance(done, str):
            raise NotLeader(done)
        return done

    def poke(self, slot: str) -> None:
        self._reach()

    def close(self) -> None:
        return


class Postgres:
    """The database: terms, durable assignments, the witness."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.term = 0
        self.assignments: dict[str, Ownership] = {}
        self.witness: dict[str, tuple[str, str, float]] = {}  # slot -> incarnation, fenced, last beat
        self.accounts: dict[str, AccountSpec] = {}
        self.version = 0
        self.up = True
        self.cut: set[str] = set()

    def reachable(self, node: str) -> bool:
        return self.up and node not in self.cut


class Terms:
    """What coordinator/lease.py uses of Postgres."""

    def __init__(self, postgres: Postgres, node: str) -> None:
        self._postgres, self._node = postgres, node

    def fetch(self, sql: str, params: Any = ()) -> list[dict[str, Any]]:
        if not self._postgres.reachable(self._node):
            raise StoreUnavailable("simulated")
        self._postgres.term += 1
        return [{"term": self._postgres.term}]


class Assignments:
    """What coordinator/assignments.py is to the leader; `work` stands for its thread."""

    def __init__(self, postgres: Postgres, node: str) -> None:
        self.up_since: float | None = None
        self._postgres, self._node = postgres, node
        self._pending: dict[str, tuple[Ownership | None, int]] = {}
        self._fences: dict[str, str] = {}
        self._suspects: tuple[str, ...] = ()
        self._read: tuple[float, dict[str, WitnessRow]] | None = None
        self._restore = False
        self._restored: dict[str, Ownership] | None = None

    def record(self, changes: Mapping[str, Ownership], removed: Mapping[str, int]) -> None:
        self._pending.update((a, (r, r.token)) for a, r in changes.items())
        self._pending.update((a, (None, token)) for a, token in removed.items())

    def fence(self, fences: Mapping[str, str]) -> None:
        self._fences.update(fences)

    def witness(self, suspects: Iterable[str]) -> tuple[float, dict[str, WitnessRow]] | None:
        wanted = tuple(sorted(suspects))
        if wanted != self._suspects:
            self._suspects, self._read = wanted, None
        return self._read

    def restore(self) -> dict[str, Ownership] | None:
        if self._restored is None:
            self._restore = True
            return None
        restored, self._restored = self._restored, None
        return restored

    def work(self) -> None:
        postgres, now = self._postgres, self._postgres.clock.now
        if not postgres.reachable(self._node):
            self.up_since = None
            return
        self.up_since = self.up_since or now
        for slot, incarnation in self._fences.items():
            row = postgres.witness.get(slot, (incarnation, "", float("-inf")))
            postgres.witness[slot] = (row[0], incarnation, row[2])
        for account, (record, token) in self._pending.items():
            known = postgres.assignments.get(account)
            if known is not None and known.token > token:
                continue
            if record is None:
                postgres.assignments.pop(account, None)
            else:
                postgres.assignments[account] = record
        self._fences, self._pending = {}, {}
        if self._suspects:
            rows = {s: postgres.witness[s] for s in self._suspects if s in postgres.witness}
            self._read = (now, {s: WitnessRow(inc, fenced, now - at) for s, (inc, fenced, at) in rows.items()})
        if self._restore:
            self._restored, self._restore = dict(postgres.assignments), False


class Witness:
    """What workers/witness.py is to the heartbeat: answers come with the next beat."""

    def __init__(self, postgres: Postgres, node: str, slot: str) -> None:
        self._postgres, self._node, self._slot = postgres, node, slot
        self._answers: list[tuple[float, str, Answer]] = []

    def ask(self, asked_at: float, incarnation: str) -> None:
        postgres = self._postgres
        if not postgres.reachable(self._node):
            self._answers.append((asked_at, incarnation, Answer.NONE))
            return
        _, fenced, _ = postgres.witness.get(self._slot, ("", "", 0.0))
        if fenced == incarnation:
            self._answers.append((asked_at, incarnation, Answer.FENCED))
            return
        postgres.witness[self._slot] = (incarnation, fenced, postgres.clock.now)
        self._answers.append((asked_at, incarnation, Answer.OK))

    def answers(self, incarnation: str) -> list[tuple[float, Answer]]:
        found = [(at, answer) for at, asked_by, answer in self._answers if asked_by == incarnation]
        self._answers = []
        return found


def _generation(gen: tuple[str, bool] | None) -> Generation | None:
    return Generation(*gen) if gen else None


def _leader(text: str) -> tuple[str, int]:
    holder, _, term = text.rpartition("|")
    return holder, int(term or 0)


def _own(record: Ownership | None) -> Own | None:
    if record is None:
        return None
    return record.slot, record.incarnation, record.token, record.state, record.since_ms, record.revision
