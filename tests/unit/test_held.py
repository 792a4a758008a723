"""A slot that another process holds under another lock (R8): when may a newcomer take it? workers/heartbeat.py with a clock of our
own, over a Redis that knows register.lua's rule and a Postgres that knows who is fenced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fleet.core.errors import StoreUnavailable
from fleet.core.model import WorkerView
from fleet.runtime.redis_store import Beat
from fleet.runtime.redis_worker import Registration
from fleet.runtime.settings import Settings
from tests.support.control import Remembering, wait_for
from workers.heartbeat import Heartbeat

HOLDER = "a-0"


class Redis:
    holder, seq, away = HOLDER, 40, False

    def register(self, view: WorkerView, *, watched: str = "", **_: Any) -> Registration:
        if self.away:
            raise StoreUnavailable("redis: down")
        beat = f"{self.holder}|{self.seq}"
        if self.holder != view.incarnation and beat != watched:
            return Registration("HELD", beat=beat)
        self.holder = view.incarnation
        return Registration("OK", 2)

    def heartbeat(self, view: WorkerView, **_: Any) -> Beat:
        return Beat("OK", former=view.seq - 1)

    def poke(self, slot: str) -> None: ...


class Postgres:
    def __init__(self) -> None:
        self.fenced, self.away = "", False

    def execute(self, sql: str, values: dict[str, str]) -> None:
        if self.away:
            raise StoreUnavailable("postgres: down")
        self.fenced = values["incarnation"]

    def close(self) -> None: ...


class Newcomer:
    """The waiting process, with its stores. `wait` beats once a second; the holder too, while `holder_beats`."""

    def __init__(self) -> None:
        self.redis, self.postgres, self.now, self.holder_beats = Redis(), Postgres(), 1000.0, True
        store: Any = lambda: self.redis  # noqa: E731
        postgres: Any = lambda: self.postgres  # noqa: E731
        self.heartbeat = Heartbeat(
            Settings(), store, postgres, Remembering(), "h:0", lock="other", clock=lambda: self.now
        )
        assert self.heartbeat._witness is not None
        self.witness = self.heartbeat._witness
        self.witness.start()

    def wait(self, for_s: int) -> None:
        for _ in range(for_s):
            self.now += 1
            self.redis.seq += self.holder_beats and not self.redis.away
            self.heartbeat.beat()
            wait_for(lambda: self.witness._questions.empty(), 2, "the witness took the question")

    def fenced(self) -> None:
        wait_for(lambda: not self.witness._answers.empty(), 2, "the witness answered")


@pytest.fixture
def newcomer() -> Iterator[Newcomer]:
    one = Newcomer()
    yield one
    one.witness.stop()


def test_a_slot_is_taken_only_from_who_can_renew_nowhere_any_more(newcomer: Newcomer) -> None:
    """The holder was cut off from Redis alone, renewed through the witness, and both ran the slot without an end."""
    newcomer.wait(10)
    assert newcomer.postgres.fenced == ""  # one that beats is left alone
    newcomer.holder_beats = False
    newcomer.wait(5)
    assert newcomer.postgres.fenced == ""
    newcomer.wait(1)
    newcomer.fenced()
    assert newcomer.postgres.fenced == HOLDER
    newcomer.wait(6)  # from the answer on: it may have renewed a moment before
    assert not newcomer.heartbeat.registered
    newcomer.wait(1)
    assert newcomer.heartbeat.registered


def test_without_postgres_the_holder_keeps_the_slot(newcomer: Newcomer) -> None:
    newcomer.wait(3)
    newcomer.holder_beats, newcomer.postgres.away = False, True
    newcomer.wait(60)
    assert not newcomer.heartbeat.registered and newcomer.redis.holder == HOLDER


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("gap", ["redis was away", "it was paused itself"])
def test_a_holder_that_could_not_beat_was_not_silent(newcomer: Newcomer, gap: str, fenced: bool) -> None:
    """The newcomer called first when Redis was back, named the beat from before, and took a live owner's slot."""
    newcomer.wait(3)
    newcomer.holder_beats = False
    if fenced:
        newcomer.wait(6)
        newcomer.fenced()
        newcomer.wait(1)
    if gap == "redis was away":
        newcomer.redis.away = True
        newcomer.wait(60)
        newcomer.redis.away = False
    else:
        newcomer.now += 60
    newcomer.wait(2)
    assert not newcomer.heartbeat.registered and newcomer.redis.holder == HOLDER
