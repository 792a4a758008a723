"""What the leader asks of Redis: to lead, to change who owns what, to fence and forget workers, to rebuild.

In: its `holder|term`, the generation, compare-and-set changes. Out: what stands; NotLeader where another leader acts or the data
are not those of the plan. Part of `redis_store.RedisStore`; runs in coordinators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from fleet.core import wire
from fleet.core.errors import StoreUnavailable
from fleet.core.model import Desired, Ownership, format_token
from fleet.runtime.redis_calls import BATCH, RedisCalls, chunks, flat


class NotLeader(StoreUnavailable):
    """A script refused a write: another leader acts, or Redis has lost its data. Observe again."""


class Change(msgspec.Struct, frozen=True):
    """One compare-and-set of the leader: `expected` → `new` (None = no record). The entry follows the new record."""

    account_id: str
    expected: Ownership | None
    new: Ownership | None


class LeaderCalls(RedisCalls):
    """A former leader's calls change nothing."""

    def vacant(self, lease_s: float) -> bool:
        """Does nobody lead? Keys expire by Redis' wall clock: where it was set back, a dead leader's lease would last for as
        long. A lease that is longer than any leader takes is cut down."""

        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self.keys.leader)
                pipe.pttl(self.keys.leader)
                return list(pipe.execute())

        leader, left_ms = self._call(read)
        if leader and left_ms > lease_s * 1000:
            self._call(self._client.pexpire, self.keys.leader, int(lease_s * 1000))
        return not leader

    def lead(self, holder: str, term: int, lease_s: float) -> Literal["OK", "HELD", "STALE"]:
        reply = self._run(
            "lead",
            [self.keys.leader, self.keys.term],
            [wire.check_name(holder), format_token(term), int(lease_s * 1000)],
        )
        answer: Literal["OK", "HELD", "STALE"] = reply[0]
        return answer

    def resign(self, leader: str) -> None:
        self._run("resign", [self.keys.leader], [leader])

    def apply(self, leader: str, generation: wire.Generation, changes: Sequence[Change]) -> list[bool]:
        """Compare-and-set up to BATCH changes; True where the new record stands.

        Raises NotLeader where another leader has taken over, or the generation is not the one the plan was made for.
        """
        if len(changes) > BATCH:
            raise ValueError(f"{len(changes)} changes in one batch")
        index = _slot_index(changes)
        args: list[Any] = []
        for change in changes:
            new, old = change.new, change.expected
            entry = wire.pack_desired(Desired(new.token, new.state)) if new else ""
            args += [
                change.account_id,
                wire.pack_own(old) if old else "",
                wire.pack_own(new) if new else "",
                index[new.slot] if new else 0,
                new.incarnation if new else "",
                entry,
                index[old.slot] if old else 0,
            ]
        reply = self._run(
            "apply",
            [self.keys.leader, self.keys.gen, self.keys.own, self.keys.version, *self._slot_keys(index)],
            [leader, wire.pack_generation(generation), self.keys.channel(""), len(index), *index, *args],
        )
        _check_leader(reply)
        return [done == "1" for done in reply[1:]]

    def set_unplaced(
        self, leader: str, reasons: Mapping[str, str], answers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """The leader's word on accounts that run nowhere, and on wishes that it can do no more for. Raises NotLeader."""
        fields = flat(wire.pack_unplaced(reasons, answers))
        _check_leader(self._run("unplaced", [self.keys.leader, self.keys.unplaced], [leader, *fields]))

    def fence_worker(self, leader: str, slot: str, incarnation: str) -> bool:
        """True once the incarnation is fenced; False where another one has registered meanwhile."""
        keys = self.keys
        reply = self._run(
            "fence_worker",
            [keys.leader, keys.workers, keys.worker(slot), keys.desired(slot)],
            [leader, slot, incarnation, keys.channel(slot)],
        )
        _check_leader(reply)
        return bool(reply[0] == "OK")

    def forget(self, leader: str, slot: str, incarnation: str) -> bool:
        keys = self.keys
        reply = self._run(
            "forget",
            [keys.leader, keys.workers, keys.worker(slot), keys.desired(slot), keys.report(slot)],
            [leader, slot, incarnation],
        )
        _check_leader(reply)
        return bool(reply[0] == "OK")

    def rebuild(
        self, leader: str, generation: wire.Generation, records: Mapping[str, Ownership], slots: Iterable[str] = ()
    ) -> int:
        """Set the generation and restore records; returns how many were written (a higher token stays). With `slots` and
        no records, these workers count as not having reported yet."""
        written = 0
        for chunk in chunks(list(records.items())) if records else [[]]:
            names = [r.slot for _, r in chunk] if records else slots
            index = {slot: n for n, slot in enumerate(dict.fromkeys(names), 1)}
            args: list[Any] = []
            for account, record in chunk:
                entry = wire.pack_desired(Desired(record.token, record.state))
                args += [account, wire.pack_own(record), index[record.slot], entry]
            reply = self._run(
                "rebuild",
                [self.keys.leader, self.keys.gen, self.keys.own, self.keys.version, *self._slot_keys(index)],
                [leader, wire.pack_generation(generation), self.keys.channel(""), len(index), *index, *args],
            )
            _check_leader(reply)
            written += int(reply[1])
        return written

    def complete(self, leader: str, building: wire.Generation) -> wire.Generation:
        """The generation that was being built is ready. Raises NotLeader where its data are gone, or somebody else leads."""
        ready = wire.Generation(building.id, True)
        packed = [wire.pack_generation(building), wire.pack_generation(ready)]
        _check_leader(self._run("complete", [self.keys.leader, self.keys.gen, self.keys.version], [leader, *packed]))
        return ready

    def poke(self, slot: str) -> None:
        """Shorten a worker's wait; losing it costs a tick."""
        self._call(self._client.publish, self.keys.channel(slot), "desired")

    def _slot_keys(self, index: Mapping[str, int]) -> list[str]:
        return [key for slot in index for key in (self.keys.worker(slot), self.keys.desired(slot))]


def _check_leader(reply: Sequence[Any]) -> None:
    if reply[0] in ("NOTLEADER", "GEN"):
        raise NotLeader("another leader acts" if reply[0] == "NOTLEADER" else "the generation changed")


def _slot_index(changes: Sequence[Change]) -> dict[str, int]:
    slots = dict.fromkeys(r.slot for c in changes for r in (c.expected, c.new) if r is not None)
    return {slot: n for n, slot in enumerate(slots, 1)}
