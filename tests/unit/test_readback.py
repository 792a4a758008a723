"""Read-backs: first and second read, permanent refusals inside a plan, failures repeated, cancellation, verdicts."""

from __future__ import annotations

import decimal
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from fleet.core.errors import ConnectionFailed, ExchangeRefused, NoPermit
from fleet.core.events import Fill
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Recovered, RecoveryPlan, Verdict
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Scope, Snapshot, Watermark
from workers import readback
from workers.progress import Gap
from workers.readback import CROWD, ReadBack, Reading
from workers.rest_queue import WHENEVER, RestQueue

SPEC = AccountSpec("a1", "u1", "binance", "usdm", "main", False, 1, 1_000)
OK = HttpReply(200, {}, b"{}")


class FakeRest:
    """Plays the exchange: `answers` are taken in order, an exception is raised, then OK for ever."""

    def __init__(self, plan: Callable[[AccountSpec, Watermark, int], RecoveryPlan]) -> None:
        self.exchange = self
        self.recover = plan
        self.answers: list[Exception] = []
        self.calls: list[str] = []
        self.manners: list[tuple[float, bool]] = []

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def call(
        self,
        call: HttpCall,
        credentials: Credentials,
        cancelled: Callable[[], bool],
        *,
        reserved_share: float,
        patient: bool,
    ) -> HttpReply:
        self.calls.append(call.path)
        self.manners.append((reserved_share, patient))
        if self.answers:
            raise self.answers.pop(0)
        return OK


class FakeProgress:
    overflowed = exposed = False
    unasked = True
    traded_ms = 0

    def __init__(self) -> None:
        self.log: list[str] = []
        self.scopes: list[str] = []
        self.gaps: list[Gap] = []

    def mark_for_reading(self, margin_ms: int, scope: Scope) -> Watermark:
        self.scopes.append(scope)
        return Watermark(proven_ms=5_000 - margin_ms, scope=scope)

    def recovered(self, events: list[object], canceled: object) -> list[object]:
        self.log.append("recovered")
        return []

    def prove(self, snapshot: Snapshot, proven_ms: int, scope: Scope = "full") -> None:
        self.log.append("prove")

    def leave_unasked(self, since_ms: int) -> None:
        self.log.append(f"unasked since {since_ms}")

    def asked(self, events: list[object]) -> list[object]:
        self.log.append("asked")
        return events

    def clock_went_back(self, now_ms: int) -> None:
        for gap in self.gaps:
            gap.until_ms = min(gap.until_ms, now_ms)

    def closes(self, settled_ms: int) -> bool:
        return any(gap.until_ms <= settled_ms for gap in self.gaps)

    def close_gaps(self, settled_ms: int, unrecoverable: str) -> list[Gap]:
        if self.gaps and not self.closes(settled_ms):
            return []
        self.log.append("closed" + unrecoverable)
        return self.gaps

    def lose(self, at_ms: int, reason: str, lost: str) -> None:
        self.log.append(f"lost {reason}: {lost}")


class FakeStream:
    spec, credentials, known_here = SPEC, Credentials("k", "s"), True

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


@pytest.mark.parametrize("told_at", [3, 99])
def test_a_gap_stays_open_while_there_are_fills_that_rest_does_not_tell(told_at: int) -> None:
    """As a base that snapshot would explain the fills away: they would never be asked for again."""
    stop, reads = threading.Event(), list[str]()

    def lagging(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        yield HttpCall("GET", "/account")
        reads.append(mark.scope)
        untold_ms = 0 if len(reads) >= told_at else 4_000
        return Recovered([], Snapshot(now_ms, {}, {}), explained=not untold_ms, untold_ms=untold_ms)

    back = ReadBack(margin_s=1.0, second_read_s=0.01, random=lambda: 0.1, stop=stop, threads=2).start()
    stream = FakeStream(lagging)
    stream.progress.gaps = [Gap("g", 3_000, "cut", until_ms=5_000)]
    reading = back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    stop.set()
    back.join(2.0)
    assert stream.progress.log[-2] == "prove" and stream.progress.log.count("prove") == 1
    lost = "fills at 4000 ms, which the exchange does not tell"
    assert stream.progress.log[-1] == "closed" + ("" if told_at == 3 else lost)
    assert reading.reads == min(told_at, readback.MAX_LATE + 1)


def test_what_happened_after_the_socket_took_over_is_the_socket_s_to_tell(back: ReadBack) -> None:
    def busy(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        yield HttpCall("GET", "/account")
        return Recovered([], Snapshot(now_ms, {}, {}), explained=False, untold_ms=now_ms)

    stream = FakeStream(busy)
    reading = back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert reading.reads == 1 and stream.progress.log == ["recovered", "prove", "closed"]


def test_a_read_that_starts_late_enough_is_both(back: ReadBack) -> None:
    stream = FakeStream(plan)
    back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.progress.log == ["recovered", "prove", "closed"]


def test_a_clock_that_went_back_does_not_keep_a_gap_open(back: ReadBack) -> None:
    """The socket's beginning was noted by a clock a minute ahead, which the first signed call corrected."""
    stream = FakeStream(plan)
    ahead_ms = stream.rest.now_ms() + 70_000
    stream.progress.gaps.append(Gap("g", ahead_ms - 1000, "closed", ahead_ms))
    reading = back.request(stream, ahead_ms)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert reading.reads == 2 and reading.subscribed_ms <= stream.rest.now_ms()
    assert stream.progress.log == ["recovered", "prove", "recovered", "prove", "closed"]


def test_an_audit_is_one_read_and_touches_no_gap(back: ReadBack) -> None:
    stream = FakeStream(plan)
    back.request(stream, stream.rest.now_ms(), audit="full")  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.progress.log == ["recovered", "prove"]


def test_a_permanent_refusal_is_the_plans_own_business(back: ReadBack) -> None:
    stream = FakeStream(plan)
    stream.rest.answers = [ConnectionFailed("cut"), ConnectionFailed("cut")]
    refusal = ExchangeRefused("GET /optional", Verdict(Outcome.PERMANENT, "-1121"))

    def optional(
        call: HttpCall,
        credentials: Credentials,
        cancelled: Callable[[], bool],
        *,
        reserved_share: float,
        patient: bool,
    ) -> HttpReply:
        if call.path == "/optional":
            stream.rest.calls.append(call.path)
            raise refusal
        return FakeRest.call(stream.rest, call, credentials, cancelled, reserved_share=reserved_share, patient=patient)

    stream.rest.call = optional  # type: ignore[method-assign]
    back.request(stream, 0)  # type: ignore[arg-type]
    assert stream.done.wait(10.0)
    assert stream.rest.calls == ["/account", "/account", "/account", "/optional", "/instead"]


def test_a_call_that_came_too_fast_is_made_again_and_not_the_whole_plan(back: ReadBack) -> None:
    """A long plan comes too fast again and again: begun anew each time it would never end, and no gap would close."""

    def long(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        for page in range(30):
            yield HttpCall("GET", f"/fills/{page}")
        return Recovered([], Snapshot(now_ms, {}, {}))

    stream = FakeStream(long)
    answer, allowed = stream.rest.call, [0]

    def ten_at_once(call: HttpCall, *args: object, **kinds: object) -> HttpReply:
        allowed[0] = (allowed[0] + 1) % 11
        if allowed[0] == 0:
            raise ExchangeRefused("GET /fills", Verdict(Outcome.RATE, "50011", 2.0))
        return answer(call, *args, **kinds)  # type: ignore[arg-type]

    stream.rest.call = ten_at_once  # type: ignore[method-assign,assignment]
    reading = back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.rest.calls == [f"/fills/{page}" for page in range(30)] and reading.attempt == 0


@pytest.mark.parametrize(
    "failure", [ConnectionFailed("reset"), ExchangeRefused("GET /fills", Verdict(Outcome.TRANSIENT, "10016"))]
)
def test_a_plan_survives_calls_that_fail(back: ReadBack, failure: Exception) -> None:
    """One in a hundred fails while the market moves: a plan of some hundred calls would hardly ever end."""

    def long(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        for page in range(300):
            yield HttpCall("GET", f"/fills/{page}")
        return Recovered([], Snapshot(now_ms, {}, {}))

    stream = FakeStream(long)
    answer, asked = stream.rest.call, [0]

    def each_hundredth_fails(call: HttpCall, *args: object, **kinds: object) -> HttpReply:
        asked[0] += 1
        if asked[0] % 100 == 0:
            raise failure
        return answer(call, *args, **kinds)  # type: ignore[arg-type]

    stream.rest.call = each_hundredth_fails  # type: ignore[method-assign,assignment]
    reading = back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.rest.calls == [f"/fills/{page}" for page in range(300)] and reading.attempt == 0


def test_a_call_that_fails_and_fails_ends_the_plan(back: ReadBack) -> None:
    stream = FakeStream(plan)
    answer, failed = stream.rest.call, [0]

    def optional_fails(call: HttpCall, *args: object, **kinds: object) -> HttpReply:
        if call.path == "/optional" and failed[0] <= readback.MAX_FAILURES:
            failed[0] += 1
            raise ConnectionFailed("reset")
        return answer(call, *args, **kinds)  # type: ignore[arg-type]

    stream.rest.call = optional_fails  # type: ignore[method-assign,assignment]
    back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(10.0)
    assert stream.rest.calls == ["/account", "/account", "/optional"]


def test_a_call_that_is_always_too_fast_is_given_up_for_a_while(back: ReadBack) -> None:
    stream = FakeStream(plan)
    refusal = ExchangeRefused("GET /account", Verdict(Outcome.RATE, "50011", 2.0))
    stream.rest.answers = [refusal] * (readback.MAX_TOO_FAST + 1)
    reading = back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    deadline_s = time.monotonic() + 5.0
    while not reading.attempt and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert reading.attempt == 1 and stream.done.wait(5.0)


@pytest.mark.parametrize("where", ["plan", "publishing"])
def test_whatever_goes_wrong_in_a_read_it_is_tried_again(back: ReadBack, where: str) -> None:
    """A read that ended without a word would leave its gap open for good, and the account without audits."""
    stream, wrong = FakeStream(plan), [decimal.InvalidOperation("-"), AttributeError("x")]

    def fails() -> None:
        if wrong:
            raise wrong.pop()

    def odd(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        yield HttpCall("GET", "/account")
        if where == "plan":
            fails()
        return Recovered([], Snapshot(now_ms, {}, {}))

    def recovered(events: list[object], canceled: object) -> list[object]:
        if where == "publishing":
            fails()
        return []

    stream.rest.recover, stream.progress.recovered = odd, recovered  # type: ignore[method-assign]
    back.request(stream, 0)  # type: ignore[arg-type]
    assert stream.done.wait(10.0) and not wrong


def test_a_read_whose_events_found_the_buffer_full_proves_nothing(back: ReadBack) -> None:
    """Though there be room again a moment later: the stream asks anew then. As a base its snapshot would explain them away."""
    stream, asked = FakeStream(plan), threading.Event()

    def full(events: list[object], canceled: object) -> None:
        asked.set()

    stream.progress.recovered = full  # type: ignore[assignment, method-assign]
    back.request(stream, 0)  # type: ignore[arg-type]
    assert asked.wait(5.0) and not stream.done.wait(0.3) and stream.progress.log == []


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
    back.submit(stream.rest, stream.done.set, 0.2)  # type: ignore[arg-type]
    assert stream.done.wait(5.0) and len(stream.rest.calls) == calls
    assert "closed" not in stream.progress.log


def test_a_snapshot_that_nothing_explains_is_no_base_before_it_was_read_twice(back: ReadBack) -> None:
    """It may be ahead of the fills that REST tells: as a base it would explain away the one that is still to come."""

    def ahead(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        yield HttpCall("GET", "/account")
        return Recovered([], Snapshot(now_ms, {}, {}), explained=False)

    stream = FakeStream(ahead)
    back.request(stream, stream.rest.now_ms())  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.progress.log == ["recovered", "recovered", "prove", "closed"]
    audited = FakeStream(ahead)
    back.request(audited, 0, audit="proof")  # type: ignore[arg-type]
    assert audited.done.wait(5.0)
    assert audited.progress.log == ["recovered", "recovered", "prove"]


def test_an_audit_of_two_reads_remembers_what_the_first_found(back: ReadBack) -> None:
    """The second finds it published already: forgotten, silent loss would not be told, and a deaf socket would live on."""
    read_at: list[int] = []

    def plan(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        yield HttpCall("GET", "/account")
        read_at.append(now_ms)
        return Recovered(
            [told(6_000)] if len(read_at) == 1 else [], Snapshot(now_ms, {}, {}), explained=len(read_at) > 1
        )

    stream = FakeStream(plan)
    stream.progress.recovered = lambda events, canceled: list(events)  # type: ignore[method-assign]
    reading = back.request(stream, 0, audit="proof")  # type: ignore[arg-type]
    assert stream.done.wait(5.0) and len(read_at) == 2
    assert (reading.recovered, reading.only_rest_ms) == (1, 6_000)
    assert reading.read_ms > read_at[0], "and it was looked at again later"


def told(ts_event: int) -> Fill:
    return Fill(
        id=f"f{ts_event}", exchange="binance", market="usdm", symbol="BTCUSDT", ts_event=ts_event, ts_recv=ts_event,
        account_id="a1", source="rest", trade_id="1", order_id="7", client_order_id="", side="buy", position_side="both",
        price="1", qty="1", fee="0", fee_asset="USDT", liquidity="taker", realized_pnl="0",
    )  # fmt: skip


def carried_out(requests: list[tuple[str, FakeStream, Scope | None]], second_read_s: float = 0.0) -> list[str]:
    """Who was complete first, with one thread and everything asked for before it began."""
    stop = threading.Event()
    back = ReadBack(margin_s=1.0, second_read_s=second_read_s, random=lambda: 0.1, stop=stop, threads=1)
    order: list[str] = []
    for name, stream, audit in requests:
        stream.rest = requests[0][1].rest
        stream.proven = lambda reading, name=name: order.append(name)  # type: ignore[method-assign]
        back.request(stream, 0, audit=audit)  # type: ignore[arg-type]
    back.start()
    deadline_s = time.monotonic() + 10.0
    while len(order) < len(requests) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    stop.set()
    back.join(2.0)
    return order


def account(*, opened_s_ago: float = 0.0, traded: bool = False, exposed: bool = False) -> FakeStream:
    stream, now_ms = FakeStream(plan), int(time.time() * 1000)
    stream.progress.gaps = [Gap("g", now_ms - int(opened_s_ago * 1000), "cut", until_ms=1)]
    stream.progress.traded_ms = now_ms - 10_000 if traded else 0
    stream.progress.exposed = exposed
    return stream


def test_who_traded_comes_first_then_who_has_something_then_audits_and_what_was_left_unasked_last() -> None:
    kinds = {
        "orders": account(traded=True), "audit": account(traded=True), "quiet": account(), "exposed": account(exposed=True),
        "trader": account(traded=True),
    }  # fmt: skip
    beside_gaps: dict[str, Scope] = {"audit": "proof", "orders": "orders"}
    asked = [(name, stream, beside_gaps.get(name)) for name, stream in kinds.items()]
    assert carried_out(asked) == ["trader", "exposed", "quiet", "audit", "orders"]


def test_nobody_waits_for_ever_the_oldest_gap_goes_first_among_equals() -> None:
    assert carried_out([
        ("new trader", account(traded=True), None), ("old quiet", account(opened_s_ago=120), None),
        ("old trader", account(traded=True, opened_s_ago=30), None), ("quiet", account(), None),
    ]) == ["old quiet", "old trader", "new trader", "quiet"]  # fmt: skip


def test_an_early_read_is_about_fills_but_for_the_first_of_a_life(back: ReadBack) -> None:
    for known_here, scopes in ((True, ["fills", "full"]), (False, ["full", "full"])):
        stream = FakeStream(plan)
        stream.known_here = known_here
        back.request(stream, stream.rest.now_ms())  # type: ignore[arg-type]
        assert stream.done.wait(5.0) and stream.progress.scopes == scopes


def test_a_read_of_a_new_socket_closes_the_gap_before_it(back: ReadBack) -> None:
    """Cut again before the proof: the first gap must not wait until the account is left in peace."""
    stream, now_ms = FakeStream(plan), int(time.time() * 1000)
    stream.progress.gaps = [Gap("before", now_ms - 9_000, "cut", until_ms=now_ms - 5_000)]
    reading = back.request(stream, now_ms + 60_000)  # type: ignore[arg-type]
    deadline_s = time.monotonic() + 5.0
    while "closed" not in stream.progress.log and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert stream.progress.log[-1] == "closed" and stream.progress.scopes == ["full"] and reading.under_way


def test_what_the_socket_tells_makes_a_read_urgent() -> None:
    stop = threading.Event()
    back = ReadBack(margin_s=1.0, second_read_s=0.0, random=lambda: 0.1, stop=stop, threads=1)
    order: list[str] = []
    readings = {}
    venue = FakeRest(plan)
    for name in ("quiet", "heard"):
        stream = account()
        stream.rest = venue
        stream.proven = lambda reading, name=name: order.append(name)  # type: ignore[method-assign]
        readings[name] = back.request(stream, 0)  # type: ignore[arg-type]
    for _ in range(3):
        back.hurry(readings["heard"])
    back.start()
    deadline_s = time.monotonic() + 5.0
    while len(order) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    stop.set()
    back.join(2.0)
    assert order == ["heard", "quiet"], "each once"


def test_in_a_crowd_a_quiet_account_is_read_once_late_enough() -> None:
    stop = threading.Event()
    back = ReadBack(margin_s=1.0, second_read_s=0.5, random=lambda: 0.1, stop=stop, threads=2)
    streams = [account() for _ in range(CROWD + 50)]
    for stream in streams:
        stream.rest = streams[0].rest
        back.request(stream, stream.rest.now_ms())  # type: ignore[arg-type]
    back.start()
    assert all(stream.done.wait(10.0) for stream in streams)
    stop.set()
    back.join(2.0)
    reads = [len(stream.progress.scopes) for stream in streams]
    assert max(reads) == 1


def test_in_a_crowd_quiet_accounts_leave_the_weight_to_urgent_ones_of_their_venue_and_address() -> None:
    stop, order = threading.Event(), list[str]()
    back = ReadBack(margin_s=1.0, second_read_s=0.4, random=lambda: 0.01, stop=stop, threads=6)
    trader, elsewhere = account(traded=True), account()
    quiet = [account() for _ in range(CROWD + 20)]

    def named(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        order.append(account.id if trader.done.is_set() else f"{account.id} before the trader was through")
        return plan(account, mark, now_ms)

    for name, stream in (("trader", trader), ("elsewhere", elsewhere), *(("quiet", stream) for stream in quiet)):
        stream.spec = msgspec.structs.replace(SPEC, id=name)
        stream.rest.recover = named
        if name == "quiet":
            stream.rest = trader.rest
    for stream in (*quiet, elsewhere, trader):
        back.request(stream, stream.rest.now_ms() - (0 if stream is trader else 1_000))  # type: ignore[arg-type]
    back.start()
    assert all(stream.done.wait(10.0) for stream in (trader, elsewhere, *quiet))
    stop.set()
    back.join(2.0)
    assert order.count("quiet") == len(quiet)
    assert set(order) - {"quiet"} == {f"{name} before the trader was through" for name in ("trader", "elsewhere")}


def test_an_urgent_account_that_is_never_through_does_not_hold_the_quiet_up_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readback, "BEHIND_MOST_S", 0.3)
    stop, begun_s = threading.Event(), list[float]()
    back = ReadBack(margin_s=1.0, second_read_s=0.0, random=lambda: 0.01, stop=stop, threads=6)
    trader, quiet = account(traded=True), [account() for _ in range(CROWD + 20)]

    def endless(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        if account.id == "trader":
            raise ConnectionFailed("not now")
        begun_s.append(time.monotonic())
        return plan(account, mark, now_ms)

    trader.spec, trader.rest.recover = msgspec.structs.replace(SPEC, id="trader"), endless
    for stream in quiet:
        stream.rest = trader.rest
    asked_s = time.monotonic()
    for stream in (trader, *quiet):
        back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    back.start()
    assert all(stream.done.wait(10.0) for stream in quiet) and not trader.done.is_set()
    stop.set()
    back.join(2.0)
    assert min(begun_s) - asked_s >= 0.3


def test_the_patient_leave_a_thread_to_the_urgent() -> None:
    stop, go_on = threading.Event(), threading.Event()
    back = ReadBack(margin_s=1.0, second_read_s=0.0, random=lambda: 0.1, stop=stop, threads=3)

    def held_up(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        assert account.id == "trader" or go_on.wait(10.0)
        yield HttpCall("GET", "/account")
        return Recovered([], Snapshot(now_ms, {}, {}))

    venue = FakeRest(held_up)
    patient = [account() for _ in range(5)]
    for stream in patient:
        stream.rest = venue
        back.request(stream, 0)  # type: ignore[arg-type]
    back.start()
    trader = account(traded=True)
    trader.spec, trader.rest = msgspec.structs.replace(SPEC, id="trader"), venue
    back.request(trader, 0)  # type: ignore[arg-type]
    assert trader.done.wait(5.0) and not any(stream.done.is_set() for stream in patient)
    go_on.set()
    assert all(stream.done.wait(5.0) for stream in patient)
    stop.set()
    back.join(2.0)


def test_rest_threads_that_could_not_start_are_started_by_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A venue's queue without threads would keep every gap there open for good."""
    stop, stream, start = threading.Event(), account(), threading.Thread.start
    back = ReadBack(margin_s=1.0, second_read_s=0.0, random=lambda: 0.1, stop=stop).start()

    def one_is_left(thread: threading.Thread) -> None:
        if thread.name != "rest-0":
            raise RuntimeError("can't start new thread")
        start(thread)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", one_is_left)
            with pytest.raises(RuntimeError):
                back.request(stream, 0)  # type: ignore[arg-type]
            back.join(0.1)
        back.request(stream, 0)  # type: ignore[arg-type]
        assert stream.done.wait(5.0)
    finally:
        stop.set()
        back.join(2.0)


def test_an_exchange_that_bans_us_holds_up_no_account_of_another_one() -> None:
    """Its read-backs wait for weight for an hour; were the threads common, no gap of the other exchanges would close meanwhile."""
    stop, over = threading.Event(), threading.Event()
    back = ReadBack(margin_s=1.0, second_read_s=0.0, random=lambda: 0.1, stop=stop).start()

    def banned(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
        assert over.wait(10.0)
        yield HttpCall("GET", "/account")
        return Recovered([], Snapshot(now_ms, {}, {}))

    venue = FakeRest(banned)
    victims = [account(traded=True) for _ in range(20)]
    for stream in victims:
        stream.rest = venue
        back.request(stream, 0)  # type: ignore[arg-type]
    elsewhere = account(traded=True)
    back.request(elsewhere, 0)  # type: ignore[arg-type]
    try:
        assert elsewhere.done.wait(5.0) and not any(stream.done.is_set() for stream in victims)
    finally:
        over.set()
        stop.set()
        back.join(2.0)


# ── Orders that came and went ────────────────────────────────────────────────────────────────────────────────────────
def hasty(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    yield HttpCall("GET", f"/{mark.scope}")
    if mark.scope == "orders":
        return Recovered([], Snapshot(0, {}, {}), "orders of X: permanent(-1121)")
    return Recovered([], Snapshot(now_ms, {}, {}), unasked=mark.scope == "full")


def test_what_a_gap_leaves_unasked_is_noted_before_the_watermark_moves(back: ReadBack) -> None:
    stream = FakeStream(hasty)
    stream.progress.gaps = [Gap("g", 4_000, "cut", until_ms=1)]
    back.request(stream, stream.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert stream.done.wait(5.0)
    assert stream.progress.log == ["recovered", "unasked since 4000", "prove", "closed"]
    new = FakeStream(hasty)
    back.request(new, new.rest.now_ms() - 1_000)  # type: ignore[arg-type]
    assert new.done.wait(5.0) and new.progress.log == ["recovered", "prove", "closed"], (
        "no gap: it is new, or was rotated"
    )
    audited = FakeStream(hasty)
    back.request(audited, 0, audit="full")  # type: ignore[arg-type]
    assert audited.done.wait(5.0)
    assert audited.progress.log == ["recovered", "prove"], "an audit is about a socket that lives"


def test_a_read_of_orders_proves_nothing_and_does_not_wait_for_weight(
    back: ReadBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readback, "ORDERS_PAUSE_S", 0.01)
    stream = FakeStream(hasty)
    stream.rest.answers = [NoPermit("no weight"), ConnectionFailed("cut"), NoPermit("no weight")]
    reading = back.request(stream, 0, audit="orders")  # type: ignore[arg-type]
    assert stream.done.wait(10.0)
    assert stream.rest.calls == ["/orders"] * 4 and set(stream.rest.manners) == {(readback.ORDERS_SHARE, False)}
    assert stream.progress.log == ["asked"] and reading.done and reading.attempt == 1, "no weight is no failure"


def test_what_is_answered_is_not_asked_again(back: ReadBack) -> None:
    stream = FakeStream(hasty)
    stream.progress.unasked = False
    reading = back.request(stream, 0, audit="orders")  # type: ignore[arg-type]
    deadline_s = time.monotonic() + 5.0
    while not reading.done and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert reading.done and stream.rest.calls == [] and not stream.done.is_set()


def test_a_crowd_s_gaps_close_before_anything_that_they_left_unasked_is_asked() -> None:
    stop, order, count = threading.Event(), list[str](), CROWD + 50
    back = ReadBack(margin_s=1.0, second_read_s=0.0, random=lambda: 0.1, stop=stop)
    done, venue = threading.Semaphore(0), FakeRest(hasty)

    def crowd_member() -> FakeStream:
        stream = FakeStream(hasty)
        stream.rest = venue

        def proven(reading: Reading) -> None:
            order.append(reading.audit or "closed")
            if reading.audit is None:
                back.request(stream, 0, audit="orders")  # type: ignore[arg-type]
            done.release()

        stream.proven = proven  # type: ignore[method-assign]
        return stream

    for stream in [crowd_member() for _ in range(count)]:
        back.request(stream, 0)  # type: ignore[arg-type]
    back.start()
    assert all(done.acquire(timeout=10.0) for _ in range(2 * count))
    stop.set()
    back.join(2.0)
    first = order.index("orders")
    assert order[:first].count("closed") >= count - readback.THREADS and order.count("orders") == count


def test_what_may_wait_for_ever_takes_one_thread_only() -> None:
    stop, running, most = threading.Event(), list[int](), list[int]()
    queue = RestQueue(stop, threads=6)
    all_done = threading.Semaphore(0)

    def job() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        all_done.release()

    for _ in range(8):
        queue.submit(job, deadline_s=WHENEVER)
    queue.start()
    assert all(all_done.acquire(timeout=5.0) for _ in range(8)) and max(most) == 1
    stop.set()
    queue.join(2.0)
