"""Accounts and workers that come and go, by the calls of a leader and of workers on a real Redis. In: a store; out: what is left.

Used by tests/integration/test_redis_forms.py (short) and benchmarks/scaling.py (an hour's worth).
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from fleet.core import wire
from fleet.core.exchange import Rate
from fleet.core.model import Ownership, StreamState, StreamStatus, WorkerView, token_of
from fleet.core.wire import Generation, pack_leader
from fleet.runtime.redis_store import Change, RedisStore, connect

TERM = 1
READY = Generation("g", True)
LEADER = pack_leader("churn", TERM)
DIALS = Rate(1000, 1000, window_s=1.0, sliding=True)


class Footprint(msgspec.Struct, frozen=True):
    """What one fleet's keys hold, without the buckets: those count events of the last window, and no more."""

    keys: int
    fields: int
    memory_bytes: int


def footprint(store: RedisStore, url: str) -> Footprint:
    """All keys of the fleet: how many, their fields, their MEMORY USAGE (every field sampled)."""
    client: Any = connect(url, 5.0, store.keys.gen)
    names = [key for key in client.scan_iter(count=1000) if key.startswith(store.keys.prefix) and ":budget:" not in key]
    fields = sum(client.hlen(key) if client.type(key) == "hash" else 1 for key in names)
    memory = sum(client.memory_usage(key, samples=0) or 0 for key in names)
    client.close()
    return Footprint(len(names), fields, memory)


class Churn:
    """`accounts` owned by `workers`; each `cycle` does one thing of each kind and leaves as many of both."""

    def __init__(self, store: RedisStore, accounts: int, workers: int, seed: int = 1) -> None:
        self._store, self._random = store, random.Random(seed)
        self._token, self._made = 0, 0
        self._lives = dict.fromkeys((f"h:{n}" for n in range(workers)), 0)
        assert store.lead("churn", TERM, 3600) == "OK"
        store.rebuild(LEADER, READY, {})
        for slot in self._lives:
            self._restart(slot)
        self._own: dict[str, Ownership] = {}
        for _ in range(accounts):
            self._add()

    def cycle(self) -> None:
        """One account added, one removed, one moved; one worker restarted, another one lost and forgotten."""
        self._add()
        self._release(self._random.choice(list(self._own)), to=None)
        account = self._random.choice(list(self._own))
        self._release(account, to=self._random.choice(list(self._lives)))
        slot = self._random.choice(list(self._lives))
        self._restart(slot)
        self._again(slot, slot)
        lost, heir = self._random.sample(list(self._lives), 2)
        assert self._store.fence_worker(LEADER, lost, self._incarnation(lost))
        self._again(lost, heir)
        assert self._store.forget(LEADER, lost, self._incarnation(lost))
        self._restart(lost)
        self._store.bucket_take("dial", "okx", "ip", 1, DIALS)
        self._store.set_unplaced(LEADER, {account: "churn"} if self._random.random() < 0.5 else {})

    def level(self) -> None:
        """Every worker reports all it has, as after its first full report."""
        self._store.set_unplaced(LEADER, {})
        for slot in self._lives:
            mine = [_status(a, o.token) for a, o in self._own.items() if o.slot == slot]
            assert self._store.report(slot, self._incarnation(slot), mine, full=True) == "OK"

    def _incarnation(self, slot: str) -> str:
        return f"i{self._lives[slot]:09d}"

    def _restart(self, slot: str) -> None:
        self._lives[slot] += 1
        view = WorkerView(slot, self._incarnation(slot), 0, wire.UP, "h", 1, 1000, 0.0, 0)
        assert self._store.register(view).standing == "OK"

    def _record(self, slot: str) -> Ownership:
        self._token += 1
        return Ownership(slot, self._incarnation(slot), token_of(TERM, self._token), wire.RUN, 1_700_000_000_000, 1)

    def _put(self, account: str, new: Ownership | None) -> None:
        assert self._store.apply(LEADER, READY, [Change(account, self._own.get(account), new)]) == [True]
        if new is None:
            del self._own[account]
        else:
            self._own[account] = new

    def _add(self) -> None:
        self._made += 1
        slot = self._random.choice(list(self._lives))
        account = f"{self._made:08d}-0000-4000-8000-000000000000"
        self._put(account, self._record(slot))
        status = _status(account, self._own[account].token)
        assert self._store.report(slot, self._incarnation(slot), [status], full=False) == "OK"

    def _release(self, account: str, to: str | None) -> None:
        """Both phases of a move (R7), or of an end."""
        old = self._own[account]
        self._put(account, msgspec.structs.replace(old, state=wire.REVOKE))
        assert self._store.report(old.slot, old.incarnation, [], [account], full=False) == "OK"
        assert self._store.ack_release(old.slot, old.incarnation, {account: old.token}) == "OK"
        del self._own[account]
        if to is not None:
            self._put(account, self._record(to))

    def _again(self, slot: str, heir: str) -> None:
        """What a worker that is gone had starts again on `heir`."""
        for account in [a for a, o in self._own.items() if o.slot == slot]:
            self._put(account, self._record(heir))


def _status(account: str, token: int) -> StreamStatus:
    return StreamStatus(account, token, StreamState.LIVE, 1_700_000_000_000, 0, False)
