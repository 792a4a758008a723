"""What anybody reads from Redis: workers, ownership records, reports, why accounts run nowhere.

In: nothing or an id. Out: typed values; what is unreadable is left out and named where it matters. Part of
`redis_store.RedisStore`; runs in coordinator, console and CLI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fleet.core import wire
from fleet.core.errors import WireError
from fleet.core.model import Ownership, StreamStatus
from fleet.runtime.redis_calls import RedisCalls


class Observation(msgspec.Struct, frozen=True):
    """What the leader reads each tick: all workers, and the counter of writes to `own`."""

    generation: wire.Generation | None
    version: int
    workers: dict[str, wire.WorkerRecord]
    malformed: list[str]
    rebalance: bool = False  # an operator asks for it


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
                generation, version, rebalance, slots = pipe.execute()
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
                wire.parse_generation(generation), int(version or 0), workers, malformed, bool(rebalance)
            )

        observation: Observation = self._call(read)
        return observation

    def owners(self) -> tuple[dict[str, Ownership], list[str]]:
        """Every ownership record, and the accounts whose record is unreadable."""
        return _records(self._call(self._client.hgetall, self.keys.own))

    def ownership(self) -> tuple[wire.Generation | None, dict[str, Ownership], list[str]]:
        """The generation that the records belong to, the records, and the accounts whose record is unreadable."""

        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(self.keys.own)
                pipe.get(self.keys.gen)  # read last: data that are lost in between have another generation, or none
                return list(pipe.execute())

        texts, generation = self._call(read)
        return wire.parse_generation(generation), *_records(texts)

    def owner(self, account_id: str) -> Ownership | None:
        text = self._call(self._client.hget, self.keys.own, account_id)
        return wire.parse_own(text) if text else None

    def reports(self, slot: str) -> dict[str, StreamStatus]:
        """What the worker said last of its streams; unreadable entries are left out."""
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


def _records(texts: Mapping[str, str]) -> tuple[dict[str, Ownership], list[str]]:
    records: dict[str, Ownership] = {}
    malformed: list[str] = []
    for account, text in texts.items():
        try:
            records[account] = wire.parse_own(text)
        except WireError:
            malformed.append(account)
    return records, malformed
