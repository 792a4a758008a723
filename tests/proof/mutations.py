"""What the proof would miss if it were blind: each rule of ownership.md broken in one place, to be caught by the simulator.

In: the name of a mutation. Out: a context in which the code under test (or, for the scripts, their model) has lost that rule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from coordinator.lease import Leadership
from coordinator.quarantine import Quarantine
from coordinator.rebuild import Rebuild
from fleet.core import lease, observe, plan, wire
from fleet.core.lease import Answer, Order
from fleet.core.model import token_of
from tests.proof import redis_db
from tests.proof.redis_db import Script
from workers import heartbeat, inbox

Patch = Callable[[], list[tuple[Any, str, Any]]]


@dataclass(frozen=True)
class Mutation:
    """`faults`: those that show it; empty = whatever a seed draws. `seeds`: so many are enough."""

    rule: str
    what: str
    patch: Patch
    faults: tuple[str, ...] = ()
    seeds: int = 60
    isolation_max_s: float | None = None


@contextlib.contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    saved = []
    try:
        for thing, name, value in mutation.patch():
            if isinstance(thing, dict):
                saved.append((thing, name, thing[name]))
                thing[name] = value
            else:
                saved.append((thing, name, getattr(thing, name)))
                setattr(thing, name, value)
        yield
    finally:
        for thing, name, value in reversed(saved):
            if isinstance(thing, dict):
                thing[name] = value
            else:
                setattr(thing, name, value)


# ── scripts ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _view_without_records() -> list[tuple[Any, str, Any]]:
    """R1: the desired view is believed as it stands, without the one record per account."""

    def pull(db: redis_db.Db, keys: Any, argv: Any) -> list[str]:
        reply = redis_db.pull(db, keys, argv)
        if reply[-1] == "same" or reply[0] != "OK":
            return reply
        return reply[:4] + [value for pair in db.hash(keys[2]).items() for value in pair]

    return [(redis_db.SCRIPTS, "pull", pull)]


def _as_leader(script: Script, key: int = 0) -> Script:
    """R12: whoever asks counts as the leader."""

    def run(db: redis_db.Db, keys: Any, argv: Any) -> list[str]:
        held, until = db.get(keys[key]), db.expires.get(keys[key])
        db.set(keys[key], argv[0])
        reply = script(db, keys, argv)
        db.delete(keys[key])
        if held is not None:
            db.set(keys[key], held)
            if until is not None:
                db.expires[keys[key]] = until
        return reply

    return run


def _any_leader_writes() -> list[tuple[Any, str, Any]]:
    return [
        (redis_db.SCRIPTS, name, _as_leader(redis_db.SCRIPTS[name])) for name in ("apply", "fence_worker", "rebuild")
    ]


# ── rules of the core, and their carriers ────────────────────────────────────────────────────────────────────────
def _tokens_without_term() -> list[tuple[Any, str, Any]]:
    def next_token(self: Leadership) -> int:
        self._n += 1
        return token_of(1, self._n)

    return [(Leadership, "next_token", next_token)]


def _clocks_trusted() -> list[tuple[Any, str, Any]]:
    """R3: silence is the leader's wall clock minus what the worker wrote of its own, instead of a counter that stands still."""
    see = observe.see

    def trusting(memory: Any, workers: Any, owners: Any, now: float) -> Any:
        from coordinator import reconciler

        wall_ms = reconciler.time.time() * 1000
        found = see(memory, workers, owners, now)
        return {
            slot: msgspec.structs.replace(s, beat_at=now - (wall_ms - workers[slot].beat_ms) / 1000)
            if slot in workers and workers[slot].beat_ms
            else s
            for slot, s in found.items()
        }

    pack = wire.pack_worker

    def telling(*args: Any, **more: Any) -> dict[str, str]:
        return pack(*args, **more) | {"beat_ms": str(heartbeat._now_ms())}

    return [(observe, "see", trusting), (wire, "pack_worker", telling)]


def _pause_ignored() -> list[tuple[Any, str, Any]]:
    """R5: either of these two is enough, as the proof showed: the gap that is noticed, the deadline that is final."""
    return [
        (lease, "observe", lambda state, now, times: msgspec.structs.replace(state, seen_at=now)),
        (lease, "lapsed", lambda state, now: False),
    ]


def _gate_open() -> list[tuple[Any, str, Any]]:
    return [(heartbeat.LeaseGate, "valid", lambda self: True)]


def _answered(change: Callable[..., Any]) -> Patch:
    real = lease.answered
    return lambda: [(lease, "answered", lambda *args: change(real, *args))]


def _counted_from_the_reply(real: Any, state: Any, asked_at: float, now: float, answer: Answer, times: Any) -> Any:
    if answer is Answer.OK:  # both the count from before the send and the look at the deadline are lost with it
        state = msgspec.structs.replace(state, deadline=max(state.deadline, now + 0.001))
        return real(state, now, now, answer, times)
    return real(state, asked_at, now, answer, times)


def _fenced_ignored(real: Any, state: Any, asked_at: float, now: float, answer: Answer, times: Any) -> Any:
    return real(state, asked_at, now, Answer.OK if answer is Answer.FENCED else answer, times)


def _unknown_is_fenced(real: Any, state: Any, asked_at: float, now: float, answer: Answer, times: Any) -> Any:
    return real(state, asked_at, now, Answer.FENCED if answer is Answer.UNKNOWN else answer, times)


def _never_ask_the_witness(real: Any, state: Any, asked_at: float, now: float, answer: Answer, times: Any) -> Any:
    after, order = real(state, asked_at, now, answer, times)
    return after, Order.NOTHING if order is Order.ASK_WITNESS else order


def _no_isolation(real: Any, state: Any, asked_at: float, now: float, answer: Answer, times: Any) -> Any:
    after, order = real(state, asked_at, now, answer, times)
    return (state if after.isolated and not state.isolated else after), order


def _isolation_without_end(real: Any, state: Any, asked_at: float, now: float, answer: Answer, times: Any) -> Any:
    return real(state, asked_at, now, answer, msgspec.structs.replace(times, isolation_max_s=1e9))


def _obey_anything() -> list[tuple[Any, str, Any]]:
    real = lease.obey
    return [(inbox, "obey", lambda current, seen, view, rebuilt: real(current, seen, view, rebuilt=True))]


def _released_before_it_ends() -> list[tuple[Any, str, Any]]:
    real = inbox.Inbox._acknowledge
    return [
        (inbox.Inbox, "_acknowledge", lambda self, store, incarnation, statuses: real(self, store, incarnation, {}))
    ]


def _moved_without_revoke() -> list[tuple[Any, str, Any]]:
    """R7: the account goes to another worker at once."""
    real = plan._Draft._release

    def release(self: Any, account_id: str, record: Any, *, revoke: bool, reason: str) -> None:
        others = [w for w in self.workers.values() if w.standing is plan.Standing.UP and w.slot != record.slot]
        if reason == "drain" and others:
            self._assign(account_id, record, others[0].slot, "dead", "")
        else:
            real(self, account_id, record, revoke=revoke, reason=reason)

    return [(plan._Draft, "_release", release)]


def _restart_proves_nothing() -> list[tuple[Any, str, Any]]:
    """R8: a slot's new incarnation says nothing about the former one."""
    return [(plan._Draft, "_come_back", lambda self, account_id, record, worker: None)]


def _judged(change: Callable[..., Any]) -> Patch:
    real = observe.judge
    return lambda: [(observe, "judge", lambda *args: change(real, *args))]


def _no_witness_asked(real: Any, suspects: Mapping[str, str], *rest: Any) -> Any:
    return observe.Verdicts(fence=dict(suspects))


def _no_mass_guard() -> list[tuple[Any, str, Any]]:
    return [(observe, "mass", lambda silent, workers: False)]


def _rebuild_restores_nothing() -> list[tuple[Any, str, Any]]:
    """R10: the new generation is ready at once and empty."""

    def step(self: Any, observed: Any, now: float) -> Any:
        if not self._has_term and not self._begin(observed):
            return None
        self._restored = {}
        assert observed.latest is not None
        return self._finish(observed, msgspec.structs.replace(observed.latest, workers={}))

    return [(Rebuild, "step", step)]


def _no_quarantine() -> list[tuple[Any, str, Any]]:
    return [(Quarantine, "quarantined", lambda self: frozenset())]


MASS = ("every worker cut off",)
MUTATIONS = (
    Mutation("R1", "a view is believed without the record", _view_without_records, (), 400),
    Mutation("R2", "tokens do not grow with the term", _tokens_without_term, (), 400),
    Mutation("R3", "wall clocks are trusted", _clocks_trusted, ("clock jump",)),
    Mutation("R4", "the gate is always open", _gate_open, ("SIGSTOP past the lease",)),
    Mutation("R5a", "counted from the reply", _answered(_counted_from_the_reply), ("SIGSTOP amid a heartbeat",)),
    Mutation("R5b", "FENCED is ignored", _answered(_fenced_ignored), ("SIGSTOP past the lease", "release withheld")),
    Mutation("R5c", "UNKNOWN stops streams", _answered(_unknown_is_fenced), ("FLUSHALL",)),
    Mutation("R5d", "the witness is never asked", _answered(_never_ask_the_witness), ("worker cut off from redis",)),
    Mutation("R5e", "no isolation", _answered(_no_isolation), ("both down",)),
    Mutation(
        "R5e", "isolation without end", _answered(_isolation_without_end), ("worker cut off from both",), 60, 12.0
    ),
    Mutation("R5", "a pause is neither noticed nor fatal", _pause_ignored, ("SIGSTOP while cut off",)),
    Mutation("R6", "a view that is not rebuilt is obeyed", _obey_anything, ("FLUSHALL", "redis restarted empty")),
    Mutation(
        "R7", "released before the stream has ended", _released_before_it_ends, ("worker drained", "release withheld")
    ),
    Mutation("R7", "moved without a revoke", _moved_without_revoke, ("worker drained", "worker added")),
    Mutation("R8", "a restart proves nothing", _restart_proves_nothing, ("kill -9, restarted",)),
    Mutation("R9", "the witness has no voice in verdicts", _judged(_no_witness_asked), ("worker cut off from redis",)),
    Mutation("R10", "a rebuild restores nothing", _rebuild_restores_nothing, ("FLUSHALL",)),
    Mutation("R11", "no mass guard", _no_mass_guard, MASS),
    Mutation("R12", "scripts do not look who leads", _any_leader_writes, ("leader paused amid a write",)),
    Mutation("R13", "no quarantine", _no_quarantine, ("poison account",)),
)


def caught(mutation: Mutation, first: int = 0) -> tuple[int, str]:
    """(seeds it took, what was violated); (seeds tried, "") where it escaped."""
    from tests.proof.campaign import run

    with mutated(mutation):
        for n in range(mutation.seeds):
            only = mutation.faults[n % len(mutation.faults)] if mutation.faults else None
            result = run(
                first + n if only is None else first + n * 3, only=only, isolation_max_s=mutation.isolation_max_s
            )
            if result.violations:
                return n + 1, result.violations[0]
    return mutation.seeds, ""
