"""Read-backs: first and second read, permanent refusals inside a plan, failures repeated, cancellation, verdicts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Recovered, RecoveryPlan, Verdict
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Snapshot, Watermark
from workers.readback import ReadBack, Reading

SPEC = AccountSpec("a1", "u1", "binance", "usdm", "main", False, 1, 1_000)
OK = HttpReply(200, {}, b"{}")


class FakeRest:
    """Plays the exchange: `answers` are taken in order, an exception is raised, then OK for ever."""

    def __init__(self, plan: Callable[[AccountSpec, Watermark, int], RecoveryPlan]) -> None:
        self.exchange = self
        self.recover = plan
        self.answers: list[Exception] = []
        self.calls: list[str] = []

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def call(self, call: HttpCall, credentials: Credentials, cancelled: Callable[[], bool]) -> HttpReply:
        self.calls.append(call.path)
        if self.answers:
            raise self.answers.pop(0)
        return OK


class FakeProgress:
    overflowed = False
    last_event_ms = 0

    def __init__(self) -> None:
        self.log: list[str] = []

    def mark_for_reading(self, margin_ms: int) -> Watermark:
        return Watermark(proven_ms=5_000 - margin_ms)

    def recovered(self, events: list[object]) -> list[object]:
        self.log.append("recovered")
        return []

    def prove(self, snapshot: Snapshot, proven_ms: int) -> None:
        self.log.append("prove")

    def close_gap(self, unrecoverable: str) -> None:
        self.log.append("closed" + unrecoverable)


class FakeStream:
    spec, credentials = SPEC, Credentials("k", "s")

    def __init__(self, plan: Callable[[AccountSpec, Watermark, int], RecoveryPlan]) -> None:
        self.rest, self.progress = FakeRest(plan), FakeProgress()
        self.done = threading.Event()
        self.refused: list[Verdict] = []

    def rejected(self, verdict: Verdict) -> None:
        self.refused.append(verdict)
        self.done.set()

    def proven(self, reading: Reading) -> None:
        self.done.set()


def plan(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    yield HttpCall("GET", "/account")
    try:
        yield HttpCall("GET", "/optional")
    except ExchangeRefused:
        yield HttpCall("GET", "/instead")
    return Recovered([], Snapshot(now_ms, {}, {}))


@pytest.fixture
def back() -> Iterator[ReadBack]:
    stop = threading.Event()
    made = ReadBack(margin_s=1.0, second_read_s=0.3, random=lambda: 0.1, stop=stop, threads=2).start()
    yield made
    stop.set()
    made.join(2.0)


def test_the_gap_closes_after_the_second_read_only(back: ReadBack) -> None:
    stream = FakeStream(plan)
    started_s = time.monotonic()
    reading = back.request(stream, stream.rest.now_ms())  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert reading.reads == 2 and time.monotonic() - started_s >= 0.3
    assert stream.progress.log == ["recovered", "prove", "recovered", "prove", "closed"]


def test_what_cannot_be_read_is_tried_again_by_the_second_read_which_says_so(back: ReadBack) -> None:
    """A proof in between would make the second read cheap, and the gap would close as if nothing were missing."""

    def partly(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        yield HttpCall("GET", "/account")
        return Recovered([], Snapshot(now_ms, {}, {}), " history is not kept")

    stream = FakeStream(partly)
    back.request(stream, stream.rest.now_ms())  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.progress.log == ["recovered", "recovered", "prove", "closed history is not kept"]


def test_a_read_that_starts_late_enough_is_both(back: ReadBack) -> None:
    stream = FakeStream(plan)
    back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.progress.log == ["recovered", "prove", "closed"]


def test_an_audit_is_one_read_and_touches_no_gap(back: ReadBack) -> None:
    stream = FakeStream(plan)
    back.request(stream, stream.rest.now_ms(), audit=True)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.progress.log == ["recovered", "prove"]


def test_a_permanent_refusal_is_the_plans_own_business(back: ReadBack) -> None:
    stream = FakeStream(plan)
    stream.rest.answers = [ConnectionFailed("cut"), ConnectionFailed("cut")]
    refusal = ExchangeRefused("GET /optional", Verdict(Outcome.PERMANENT, "-1121"))

    def optional(call: HttpCall, credentials: Credentials, cancelled: Callable[[], bool]) -> HttpReply:
        if call.path == "/optional":
            stream.rest.calls.append(call.path)
            raise refusal
        return FakeRest.call(stream.rest, call, credentials, cancelled)

    stream.rest.call = optional  # type: ignore[method-assign]
    back.request(stream, 0)  # type: ignore[arg-type]
    assert stream.done.wait(10.0)
    assert stream.rest.calls == ["/account", "/account", "/account", "/optional", "/instead"]


def test_dead_credentials_are_told_to_the_stream_and_not_repeated(back: ReadBack) -> None:
    stream = FakeStream(plan)
    stream.rest.answers = [ExchangeRefused("GET /account", Verdict(Outcome.INVALID, "-1022"))]
    back.request(stream, 0)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert [v.code for v in stream.refused] == ["-1022"] and stream.rest.calls == ["/account"]
    assert stream.progress.log == []


def test_a_cancelled_reading_does_nothing_more(back: ReadBack) -> None:
    stream = FakeStream(plan)
    reading = back.request(stream, stream.rest.now_ms() + 60_000)  # type: ignore[arg-type]
    deadline_s = time.monotonic() + 5.0
    while reading.reads == 0 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    reading.cancel()
    calls = len(stream.rest.calls)
    back.submit(stream.done.set, 0.2)
    assert stream.done.wait(5.0) and len(stream.rest.calls) == calls
    assert "closed" not in stream.progress.log


def test_gaps_come_before_audits_and_the_last_trader_first() -> None:
    stop = threading.Event()
    back = ReadBack(margin_s=1.0, second_read_s=0.0, random=lambda: 0.1, stop=stop, threads=1)
    order: list[str] = []
    streams = []
    for name, last_ms, audit in (("audit", 9, True), ("quiet", 0, False), ("trader", 5, False)):
        stream = FakeStream(plan)
        stream.progress.last_event_ms = last_ms
        stream.proven = lambda reading, name=name: order.append(name)  # type: ignore[method-assign]
        back.request(stream, 0, audit=audit)  # type: ignore[arg-type]
        streams.append(stream)
    back.start()
    deadline_s = time.monotonic() + 5.0
    while len(order) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    stop.set()
    back.join(2.0)
    assert order == ["trader", "quiet", "audit"]
