"""Rows for operators: whose word counts, by whose clock, and what is never told from data that are being rebuilt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleet.core import wire
from fleet.core.errors import BeingRebuilt, WireError
from fleet.core.model import Ownership, StreamState, StreamStatus, WorkerView
from fleet.core.wire import Generation, WorkerRecord
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.redis_store import Observation, OwnPart

NOW_MS = 1_000_000_000  # by Redis' clock, which has nothing to do with this host's
READY = Generation("g", True)


class Redis:
    """One worker, h:0, that owns account `a` and reported it live."""

    def __init__(self, age_ms: int = 500, **fields: Any) -> None:
        self.generation: Generation | None = READY
        self.owner = Ownership("h:0", "i-0", 7, wire.RUN, 0)
        self.malformed: list[str] = []
        view = WorkerView("h:0", "i-0", 9, wire.UP, "h", 1, 10, 1.0, 1)
        for name in set(fields) & set(WorkerView.__struct_fields__):
            view = msgspec.structs.replace(view, **{name: fields.pop(name)})
        self.workers = {"h:0": WorkerRecord(view, beat_ms=NOW_MS - age_ms, **fields)}

    def observe(self) -> Observation:
        return Observation(self.generation, 1, self.workers, [], now_ms=NOW_MS)

    def owners(self) -> tuple[dict[str, Ownership], list[str]]:
        return {"a": self.owner}, []

    def own_page(self, cursor: int) -> OwnPart:
        return OwnPart(self.generation, 1, 1, {"a": self.owner}, self.malformed)

    def own_of(self, accounts: list[str]) -> OwnPart:
        return OwnPart(self.generation, 1, 1, {} if self.malformed else {"a": self.owner}, self.malformed)

    def report_of(self, slot: str, account: str) -> StreamStatus:
        return StreamStatus(account, 7, StreamState.LIVE, 1, 0, False)

    def reports(self, slot: str) -> dict[str, StreamStatus]:
        return {"a": self.report_of(slot, "a")}


def view(redis: Redis) -> FleetView:
    return FleetView(redis, 7.0)  # type: ignore[arg-type]


def shown(redis: Redis) -> tuple[Any, ...]:
    """State, age and live accounts of the worker, state and gap of its account; every view must agree on it."""
    (shard,) = view(redis).shards()
    account = view(redis).account("a")
    (row,) = view(redis).shard("h:0") or []
    assert (row["state"], row["gap"]) == (account["state"], account["gap"])
    assert len(view(redis).live()) == shard["live"]
    return shard["state"], shard["heartbeat_age_s"], shard["live"], account["state"], account["gap"]


def test_age_is_told_by_redis_clock_alone() -> None:
    assert shown(Redis()) == ("up", 0.5, 1, "live", False)
    assert shown(Redis(age_ms=-3)) == ("up", 0.0, 1, "live", False)  # it beat while we looked


@pytest.mark.parametrize(
    ("redis", "expected"),
    [
        (Redis(age_ms=300_000), ("silent", 300.0, 0, "silent", None)),
        (Redis(age_ms=300_000, state=wire.DRAINING), ("silent", 300.0, 0, "silent", None)),
        (Redis(fenced="i-0"), ("fenced", 0.5, 0, "unknown", None)),
        (Redis(fenced="i-former"), ("up", 0.5, 1, "live", False)),
        (Redis(state=wire.GONE), ("gone", 0.5, 0, "unknown", None)),
        (Redis(incarnation="i-1"), ("up", 0.5, 0, "unknown", None)),
    ],
)
def test_the_last_words_of_who_is_not_alive_do_not_count(redis: Redis, expected: tuple[Any, ...]) -> None:
    assert shown(redis) == expected


def test_an_owner_of_whom_redis_knows_nothing() -> None:
    redis = Redis()
    redis.workers = {}
    assert view(redis).shards() == [] and view(redis).live() == {}
    assert view(redis).account("a")["state"] == "unknown"


@pytest.mark.parametrize("generation", [None, Generation("g", False)])
def test_what_is_not_whole_is_not_told(generation: Generation | None) -> None:
    redis = Redis()
    redis.generation = generation
    for look in (
        view(redis).shards,
        view(redis).owners,
        lambda: view(redis).shard("h:0"),
        lambda: view(redis).account("a"),
    ):
        with pytest.raises(BeingRebuilt, match="being rebuilt"):
            look()


def test_an_unreadable_record_is_no_account_without_an_owner() -> None:
    redis = Redis()
    redis.malformed = ["a"]
    with pytest.raises(WireError, match="unreadable"):
        view(redis).account("a")
