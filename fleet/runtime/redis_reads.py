"""What anybody reads from Redis: workers, ownership records, reports, why accounts run nowhere.

In: nothing or an id. Out: typed values; what is unreadable is left out and named where it matters. Part of
`redis_store.RedisStore`; runs in coordinator, console and CLI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fleet.core import wire
from fleet.core.errors import BeingRebuilt, WireError
from fleet.core.model import Ownership, StreamStatus
from fleet.runtime.redis_calls import RedisCalls, count_of

PAGE = 5000  # records asked for at a time: 0.5 MB, and 8 ms of Redis' single thread


class Observation(msgspec.Struct, frozen=True):
    """What the leader reads each tick: all workers, and the counter of writes to `own`."""

    generation: wire.Generation | None
    version: int
    workers: dict[str, wire.WorkerRecord]
    malformed: list[str]
    rebalance: bool = False  # an operator asks for it
    now_ms: int = 0  # by Redis' clock, which the time of a beat is told by


class OwnPart(msgspec.Struct, frozen=True):
    """Some ownership records, and what stood beside them at the same instant."""

    generation: wire.Generation | None
    version: int  # counter of writes to `own`
    size: int  # records in all, unreadable ones included
    records: dict[str, Ownership]
    malformed: list[str]
    cursor: int = 0  # of the next page; 0 = there is none


def check_rebuilt(generation: wire.Generation | None) -> None:
    """Raises BeingRebuilt where that is missing or not ready: what stood beside it may be a part of the truth, or none of it."""
    if generation is None or not generation.ready:
        raise BeingRebuilt("redis has lost its data, or never had any: being rebuilt, by whoever leads")


class Reads(RedisCalls):
    """Nothing here writes."""

    def leader(self) -> str:
        """`holder|term` of the acting leader, "" where there is none."""
        return str(self._call(self._client.get, self.keys.leader) or "")

    def observe(self) -> Observation:
        """Generation, write counter and every worker's hash, in two round trips."""
        keys = self.keys

        def read() -> Observation:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(keys.gen)
                pipe.get(keys.version)
                pipe.get(keys.rebalance)
                pipe.smembers(keys.workers)
                pipe.time()
                generation, version, rebalance, slots, (seconds, micros) = pipe.execute()
                names = sorted(slots)
                for slot in names:
                    pipe.hgetall(keys.worker(slot))
                hashes = pipe.execute() if names else []
            workers, malformed = {}, []
            for slot, fields in zip(names, hashes, strict=True):
                try:
                    workers[slot] = wire.parse_worker(slot, fields)
                except WireError:
                    malformed.append(slot)
            return Observation(
                wire.parse_generation(generation), count_of(version), workers, malformed, bool(rebalance),
                seconds * 1000 + micros // 1000,
            )  # fmt: skip

        observation: Observation = self._call(read)
        return observation

    def owners(self) -> tuple[dict[str, Ownership], list[str]]:
        """Every ownership record, and the accounts whose record is unreadable, page by page. For people: what changes
        meanwhile is shown as it was, as it is, or (removed and written again) not at all."""
        texts: dict[str, str] = {}
        cursor = -1
        while cursor:  # each page a call
            cursor, page = self._call(lambda at: self._client.hscan(self.keys.own, at, count=PAGE), max(cursor, 0))
            texts.update(page)
        return _records(texts)

    def own_page(self, cursor: int) -> OwnPart:
        """About PAGE records; 0 is the first page. Redis gives every record that stands from the first page to the last one
        at least once, as it is by then, if one and the same server gives all pages."""
        return self._own_part(
            lambda pipe: pipe.hscan(self.keys.own, cursor, count=PAGE), lambda reply: (reply[1], int(reply[0]))
        )

    def own_of(self, accounts: Sequence[str]) -> OwnPart:
        """The records of these accounts, at least one."""

        def texts(values: Sequence[str | None]) -> tuple[dict[str, str], int]:
            return {account: text for account, text in zip(accounts, values, strict=True) if text is not None}, 0

        return self._own_part(lambda pipe: pipe.hmget(self.keys.own, accounts), texts)

    def _own_part(self, ask: Callable[[Any], object], texts: Callable[[Any], tuple[dict[str, str], int]]) -> OwnPart:
        """`ask` queues a command, `texts` makes records and a cursor of its reply; all is of one instant, hence MULTI."""

        def read() -> list[Any]:
            with self._client.pipeline(transaction=True) as pipe:
                ask(pipe)
                pipe.get(self.keys.gen)
                pipe.get(self.keys.version)
                pipe.hlen(self.keys.own)
                return list(pipe.execute())

        reply, generation, version, size = self._call(read)
        found, cursor = texts(reply)
        return OwnPart(wire.parse_generation(generation), count_of(version), int(size), *_records(found), cursor)

    def owner(self, account_id: str) -> Ownership | None:
        text = self._call(self._client.hget, self.keys.own, account_id)
        return wire.parse_own(text) if text else None

    def reports(self, slot: str) -> dict[str, StreamStatus]:
        """What the worker said last of its streams; unreadable entries are left out. Of one instant: a rebuild takes an account
        that is missing here for one that the worker does not run. A worker's capacity bounds how long this is."""
        found: dict[str, StreamStatus] = {}
        for account, text in self._call(self._client.hgetall, self.keys.report(slot)).items():
            try:
                found[account] = wire.parse_report(account, text)
            except WireError:
                continue
        return found

    def report_of(self, slot: str, account_id: str) -> StreamStatus | None:
        text = self._call(self._client.hget, self.keys.report(slot), account_id)
        return wire.parse_report(account_id, text) if text else None

    def unplaced(self) -> tuple[dict[str, str], dict[str, int]]:
        """(account → why it runs nowhere, of some; why → how many, of all), as the leader said last."""
        return wire.parse_unplaced(self._call(self._client.hgetall, self.keys.unplaced))

    def answer(self, wish: str) -> str | None:
        """What the leader says of a wish (`wire.drained`, `wire.EVENED`); None = nothing yet."""
        text: str | None = self._call(self._client.hget, self.keys.unplaced, wire.answer_field(wish))
        return text


def _records(texts: Mapping[str, str]) -> tuple[dict[str, Ownership], list[str]]:
    records: dict[str, Ownership] = {}
    malformed: list[str] = []
    for account, text in texts.items():
        try:
            records[account] = wire.parse_own(text)
        except WireError:
            malformed.append(account)
    return records, malformed
