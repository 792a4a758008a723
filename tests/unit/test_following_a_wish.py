"""`fleet drain`, `rotate`, `rebalance` while Redis loses its data: nothing empty is taken for done, no lost wish for kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from fleet.commands import control
from fleet.commands.control import Wish
from fleet.commands.session import Stopped
from fleet.core import wire
from fleet.core.model import WorkerView
from fleet.core.wire import Generation, WorkerRecord
from fleet.runtime.redis_store import Observation

BEFORE, BUILDING, AFTER = Generation("g1", True), Generation("g2", False), Generation("g2", True)
WORKER = WorkerRecord(WorkerView("h:0", "i-0", 9, wire.UP, "h", 1, 10, 4.0, 1), drain=True, rotate="w")
FORGOTTEN = msgspec.structs.replace(WORKER, drain=False, rotate="")


def seen(generation: Generation | None, record: WorkerRecord | None = WORKER, rebalance: bool = True) -> Observation:
    return Observation(generation, 1, {"h:0": record} if record else {}, [], rebalance)


class Redis:
    """Shows one picture after the other, the last one for ever. `left` goes with the pictures."""

    def __init__(self, *pictures: tuple[Observation, int]) -> None:
        self._pictures = iter(pictures)
        self.left = 0

    def observe(self) -> Observation:
        self.picture, self.left = next(self._pictures, (getattr(self, "picture", None), self.left))  # type: ignore[assignment]
        return self.picture


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(control.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(control.time, "sleep", sleep)
    yield


def drained(redis: Redis) -> Wish:
    return Wish(BEFORE, lambda now: "h:0" in now.workers and now.workers["h:0"].drain, lambda _: redis.left)


def rotated(_: Redis) -> Wish:
    return Wish(
        BEFORE,
        lambda now: control._all_know(now, ("h:0",), "w"),
        lambda now: control._to_rotate(now, ("h:0",), "w"),
    )


def rebalanced(_: Redis) -> Wish:
    return Wish(BEFORE, lambda now: now.rebalance, lambda now: (int(now.rebalance), "h:0 4"))


def follow(redis: Redis, wish: Callable[[Redis], Wish]) -> None:
    control._follow(redis, wish(redis), "left", lambda: "stalled")  # type: ignore[arg-type]


@pytest.mark.parametrize("wish", [drained, rotated, rebalanced])
@pytest.mark.parametrize(
    "after",
    [
        seen(None, None, rebalance=False),
        seen(None, FORGOTTEN, rebalance=False),
        seen(BUILDING, FORGOTTEN, rebalance=False),
        seen(AFTER, FORGOTTEN, rebalance=False),
    ],
)
def test_a_wish_that_was_lost_is_not_done(after: Observation, wish: Callable[[Redis], Wish]) -> None:
    with pytest.raises(Stopped, match="the wish was lost .*give it again") as raised:
        follow(Redis((seen(BEFORE), 4), (after, 0)), wish)
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("wish", [drained, rotated, rebalanced])
def test_a_rebuild_is_waited_for(wish: Callable[[Redis], Wish], capsys: Any) -> None:
    """Of data that were doubted only, and hold the wish still: what is done after it is done."""
    done = seen(
        AFTER, msgspec.structs.replace(WORKER, view=msgspec.structs.replace(WORKER.view, rotation="w|0")), False
    )
    follow(Redis((seen(BEFORE), 4), (seen(None), 0), (seen(BUILDING), 0), (seen(AFTER), 4), (done, 0)), wish)
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("wish", [drained, rotated, rebalanced])
def test_a_rebuild_without_end_is_not_waited_for(wish: Callable[[Redis], Wish]) -> None:
    with pytest.raises(Stopped, match="being rebuilt.*unless Redis loses"):
        follow(Redis((seen(BEFORE), 4), (seen(None), 0)), wish)


def test_a_wish_that_ended_unfulfilled_says_so() -> None:
    with pytest.raises(Stopped, match="no longer stands"):
        follow(Redis((seen(BEFORE), 4), (seen(BEFORE, FORGOTTEN), 4)), drained)
    follow(Redis((seen(BEFORE), 4), (seen(BEFORE, None), 0)), drained)  # stopped and forgotten, once it was empty
    follow(Redis((seen(BEFORE), 4), (seen(BEFORE, None), 0)), rotated)
