"""The loss campaign, short: six accounts through a stalled broker, slow and lagging REST, repeated frames, orders that ended
unseen and a worker killed with records that nobody had acknowledged. Afterwards what Kafka has must be what the ledger says.

And each of the parts that make it so is taken out once: then this very campaign has to fail.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from fleet.core.model import Credentials, StreamState
from tests.campaigns.loss.judge import compare, of_events, of_ledger
from tests.support.bench import LateKafka, Rows, WorkerBench
from tests.support.simulator import Simulator, eventually
from workers import readback
from workers.progress import Progress
from workers.readback import ReadBack

TRADING = ("lagging", "held", "stalled", "repeated", "unfilled")
ACCOUNTS = (*TRADING, "belated")
BELATED_S = (
    5.0  # REST's lag, longer than the second read waits; the account is older than that and was never used before
)
_runs = itertools.count()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(plain=True, rate=1) as simulator:
        simulator.settings(weight_limit=1_000_000)  # the campaigns follow one another within its minute
        yield simulator


class Campaign:
    """One run on six new accounts."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator, self.kafka, self.rows = simulator, LateKafka(), Rows()
        run, self.created_s = next(_runs), time.monotonic()
        self.keys = {name: f"{name}{run}".ljust(64, "k") for name in ACCOUNTS}
        for name, key in self.keys.items():
            simulator.account(key, "s" * 64)
            self.rows.add(name, Credentials(key, "s" * 64), "binance", "usdm")
        self.worker = WorkerBench(simulator, self.kafka, self.rows, "first")

    def run(self) -> str:
        """What is wrong at the end, "" if nothing is."""
        try:
            eventually(self.worker.settled, 15.0, "everybody is live")
            resting = self.trade()
            self.repeat()
            self.hold()
            self.stall()
            eventually(
                lambda: time.monotonic() - self.created_s > BELATED_S + 0.5, 10.0, "accounts older than REST's lag"
            )
            self.worker.kill()
            belated = self.while_nobody_looks(resting)
            self.worker = WorkerBench(self.simulator, self.kafka, self.rows, "second")
            eventually(self.worker.settled, 20.0, "everybody is live again, no gap open")
            self.tell_at_last(belated)
            return "; ".join(filter(None, (self.verdict(), self.disorder())))
        finally:
            self.worker.kill()

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────
    def order(self, name: str, fills: int = 1, symbol: str = "BTCUSDT") -> str:
        placed = self.simulator.order(self.keys[name], symbol, "buy", "0.1", "50000", fills=fills)
        return str(placed["order_id"])

    def trade(self) -> dict[str, str]:
        """Everybody but one trades a little and leaves an order resting."""
        for name in TRADING:
            self.order(name, fills=2)
        return {name: self.order(name, fills=0, symbol="ETHUSDT") for name in TRADING}

    def repeat(self) -> None:
        """The exchange sends frames twice."""
        self.simulator.fault("duplicate_event", api_key=self.keys["repeated"], count=8)
        self.order("repeated", fills=2)

    def cut(self, name: str, meanwhile: Callable[[], object]) -> None:
        """A socket dies, cannot be replaced for a moment, and something happens meanwhile."""
        stream, key = self.worker.streams[name], self.keys[name]
        refusal = self.simulator.fault("rest_error", api_key=key, path="/fapi/v1/listenKey", status=503)
        self.simulator.fault("cut", api_key=key)
        eventually(lambda: stream.socket is None, 5.0, "the cut")
        meanwhile()
        self.simulator.end_fault(refusal)

    def hold(self) -> None:
        """Live events arrive while the read-back of what was missed is still under way."""
        slow = self.simulator.fault("slow", api_key=self.keys["held"], path="/fapi/v", ms=250)
        self.cut("held", lambda: self.order("held", fills=2))
        eventually(lambda: self.worker.streams["held"].state is StreamState.RECOVERING, 8.0, "a new socket")
        self.order("held", fills=2)
        self.simulator.end_fault(slow)

    def stall(self) -> None:
        """Kafka stores nothing of one account any more, whose read-backs meanwhile find everything in order."""
        stream = self.worker.streams["stalled"]
        self.kafka.stalled.add(b"stalled")
        self.order("stalled", fills=3)
        since_s, margin_s = time.monotonic(), self.worker.settings.recover_margin_s
        eventually(lambda: time.monotonic() - since_s > margin_s + 0.5, 10.0, "older than any margin")
        self.cut("stalled", lambda: self.order("stalled", symbol="ETHUSDT"))
        eventually(lambda: stream.socket is not None, 8.0, "a new socket")
        eventually(
            lambda: self.worker.streams["held"].progress.gap is None and stream.progress.gap is None, 10.0, "gaps"
        )
        time.sleep(0.3)  # three times as long as it takes to save a watermark

    def while_nobody_looks(self, resting: dict[str, str]) -> int:
        """The worker is dead, the market is not; and REST will not tell the last moment at once, nor of one account before both
        reads are over. → that fault."""
        self.kafka.stalled.clear()
        for name in TRADING:
            self.simulator.cancel(self.keys[name], "ETHUSDT", resting[name])
            self.simulator.cancel(self.keys[name], "BTCUSDT", self.order(name, fills=0))
            if name != "unfilled":
                self.order(name, fills=2)
        self.simulator.fault("rest_lag", api_key=self.keys["lagging"], ms=1800)
        self.order("lagging", symbol="ETHUSDT")
        belated = self.simulator.fault("rest_lag", api_key=self.keys["belated"], ms=int(BELATED_S * 1000))
        self.order("belated", symbol="ETHUSDT")
        return belated

    def tell_at_last(self, belated: int) -> None:
        """REST has caught up when the account is read back the next time."""
        self.simulator.end_fault(belated)
        self.cut("belated", lambda: None)
        eventually(lambda: self.worker.streams["belated"].socket is not None, 8.0, "a new socket")
        eventually(self.worker.settled, 20.0, "nothing is left to read back")

    # ── what came of it ──────────────────────────────────────────────────────────────────────────────────────────
    def verdict(self) -> str:
        books = of_events(record for name in ACCOUNTS for _, record in self.kafka.user_records(name))
        for name in ACCOUNTS:
            told: set[tuple[str, str]] = set()
            for incarnation, record in self.kafka.user_records(name):
                if (
                    incarnation,
                    record["id"],
                ) in told:  # another life may repeat what nobody acknowledged, under the same id
                    books.repeated.append((name, record["id"]))
                told.add((incarnation, record["id"]))
        accounts = {key: name for name, key in self.keys.items()}
        verdict = compare(of_ledger(self.simulator.ledger(market="0"), accounts), books)
        shown = [
            *verdict.fills.examples,
            *verdict.orders.examples,
            *verdict.positions.examples,
            *verdict.balances.examples,
        ]
        return "" if verdict.complete else f"{verdict.outstanding()}: {shown}"

    def disorder(self) -> str:
        """What was missed comes before what happened later."""
        records = [r for by, r in self.kafka.user_records("held") if by == "first" and r["type"] in ("fill", "order")]
        times = [r["ts_event"] for r in records]
        return "" if times == sorted(times) else f"out of order: {times}"


# ── the parts without which it fails ─────────────────────────────────────────────────────────────────────────────────
def no_second_read(patch: pytest.MonkeyPatch) -> None:
    made = ReadBack.__init__

    def init(self: ReadBack, **options: object) -> None:
        made(self, **{**options, "second_read_s": 0.0})  # type: ignore[arg-type]

    patch.setattr(ReadBack, "__init__", init)


def no_margin(patch: pytest.MonkeyPatch) -> None:
    made = ReadBack.__init__

    def init(self: ReadBack, **options: object) -> None:
        made(self, **{**options, "margin_s": 0.0})  # type: ignore[arg-type]

    patch.setattr(ReadBack, "__init__", init)
    patch.setattr(readback, "MAX_LATE", 0)  # or the gap stays open for minutes, for what nobody asks for any more


def no_hold(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Progress, "hold", lambda self: None)


def no_wait_for_the_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    settle = Progress._settle

    def at_once(self: Progress) -> None:
        unacked, self._unacked = self._unacked, {}
        settle(self)
        self._unacked = unacked

    patch.setattr(Progress, "_settle", at_once)


class _Forgetful(dict[str, None]):
    def __contains__(self, key: object) -> bool:
        return False


def no_dedupe(patch: pytest.MonkeyPatch) -> None:
    made = Progress.__init__

    def init(self: Progress, *parts: object) -> None:
        made(self, *parts)  # type: ignore[arg-type]
        self._known = _Forgetful()

    patch.setattr(Progress, "__init__", init)


MUTATIONS = {
    "the second read-back": (no_second_read, "missing"),
    "the margin": (no_margin, "missing"),
    "the hold buffer": (no_hold, "out of order"),
    "the wait for the acknowledgement": (no_wait_for_the_acknowledgement, "missing"),
    "the dedupe": (no_dedupe, "extra"),
}


def test_nothing_is_lost_repeated_or_out_of_order(simulator: Simulator) -> None:
    assert Campaign(simulator).run() == ""


@pytest.mark.parametrize("part", MUTATIONS)
def test_without_one_part_the_campaign_fails(part: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, symptom = MUTATIONS[part]
    mutate(monkeypatch)
    assert symptom in Campaign(simulator).run()
