"""What the accounts of a rig live through: a pulse of orders, and real trading that is compared with Kafka afterwards.

In: the simulator's control interface. Out: orders and fills of its engine, so that its ledger knows them; for trading, the
difference between that ledger and what reached Kafka (tests/campaigns/loss/judge.py). Runs in the campaign's process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from fleet.core.names import TOPIC_FILLS, USER_TOPICS
from fleet.demo.simulated import Control, SimulatorFailed
from fleet.runtime.kafka_io import Consumer, KafkaRecord
from tests.campaigns.loss.judge import Key, Verdict, compare, of_events, of_ledger

if TYPE_CHECKING:
    from tests.campaigns.ownership.rig import Rig

PULSE_S, BEATS_PER_S = 0.5, 60.0  # with hundreds of accounts slower: the exchange is one process
MARKET = "usdm"
POLL_S, POLL_RECORDS = 0.5, 20_000
AGAIN_S = 2.0


def pulse_s(accounts: int) -> float:
    """Seconds from one order of an account to the next."""
    return max(PULSE_S, accounts / BEATS_PER_S)


class Pulse:
    """Keeps every active account talking: one resting order or its cancellation each `pulse_s`. A thread of its own."""

    def __init__(self, rig: Rig, control: Control) -> None:
        self._rig, self._control = rig, control
        self._resting: dict[str, str] = {}  # API key → order id
        self._stop = threading.Event()
        self.refused = 0
        self.still = threading.Lock()  # whoever holds it keeps the pulse from beating
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        self._control.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            for credentials in list(self._rig.credentials.values()):
                try:
                    with self.still:
                        self._beat(credentials.api_key)
                except SimulatorFailed:
                    self.refused += 1
                    self._resting.pop(credentials.api_key, None)
            self._stop.wait(max(0.05, self._rig.pulse_s - (time.monotonic() - began)))

    def _beat(self, api_key: str) -> None:
        order = self._resting.pop(api_key, None)
        if order is not None:
            self._control.call("DELETE", f"/orders/{order}?api_key={api_key}&symbol=BTCUSDT")
            return
        spec = {"api_key": api_key, "market": MARKET, "symbol": "BTCUSDT", "side": "buy", "qty": "0.01"}
        placed = self._control.call("POST", "/orders", {**spec, "price": "50000", "fills": 0})
        self._resting[api_key] = str(placed["order_id"])


class Traded(msgspec.Struct):
    """Ledger against Kafka, from the rig's start on; the later fields are of the time that is judged."""

    verdict: Verdict
    complete_after_s: float  # from the end of the trading until nothing was missing
    events_per_s: float  # that the exchange made
    fills: int = 0
    fills_from_rest: int = 0
    fill_late_s: float = 0.0  # from the exchange's time of a fill to its record in Kafka, at most ...
    fill_late_p99_s: float = 0.0  # ... and but for one in a hundred

    @property
    def problems(self) -> list[str]:
        return [] if self.verdict.complete else [f"ledger and Kafka differ: {self.verdict.outstanding()}"]


class Trading:
    """Random orders, fills and cancellations over all accounts, from `begin` to `compare`."""

    def __init__(self, control: Control, bootstrap: str, rate: float, pulse: Pulse) -> None:
        self._control, self._bootstrap, self.rate, self._pulse = control, bootstrap, rate, pulse
        self._ledger: list[dict[str, Any]] = []
        self._records: list[KafkaRecord] = []
        self._consumer: Consumer | None = None
        self._events, self._since_s = 0, 0.0

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def begin(self) -> None:
        self._control.call("POST", "/load", {"events_per_s": self.rate})
        self._events, self._since_s = self._made(), time.monotonic()

    def _made(self) -> int:
        return int(self._control.call("GET", "/load")["events"])

    def compare(self, accounts: Mapping[str, str], since_ms: int, within_s: float) -> Traded:
        """End the trading, wait until Kafka has all that the ledger knows, and begin it again. `accounts`: API key → account id of
        those that count; `since_ms`: what is told of fills beyond their number is told of those since then."""
        events_per_s = (self._made() - self._events) / (time.monotonic() - self._since_s)
        with self._pulse.still:
            self._control.load(0.0, 0.0)
            ended_s = time.monotonic()
            while not (verdict := self._verdict(accounts)).complete and time.monotonic() - ended_s < within_s:
                time.sleep(AGAIN_S)
            found = Traded(verdict, round(time.monotonic() - ended_s, 1), round(events_per_s))
        self._timing(found, set(accounts.values()), since_ms)
        self.begin()
        return found

    def _verdict(self, accounts: Mapping[str, str]) -> Verdict:
        self._ledger += self._control.ledger(self._ledger[-1]["seq"] if self._ledger else 0, market=False)
        if self._consumer is None:
            self._consumer = Consumer(self._bootstrap, None, USER_TOPICS)
        while page := self._consumer.poll(POLL_S, POLL_RECORDS):
            self._records += page
        wanted = set(accounts.values())
        books = of_events(event for _, event in self._told(USER_TOPICS, wanted))
        books.repeated += under_two_ids(event for _, event in self._told((TOPIC_FILLS,), wanted))
        return compare(of_ledger(self._ledger, accounts), books)

    def _told(self, topics: Sequence[str], wanted: Set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """When each record was made (ms), and its event: decoded anew each time, because many take less room undecoded."""
        for record in self._records:
            if record.topic in topics and record.value and (record.key or b"").decode() in wanted:
                yield record.timestamp_ms, msgspec.json.decode(record.value)

    def _timing(self, found: Traded, wanted: Set[str], since_ms: int) -> None:
        late: dict[str, float] = {}
        for made_ms, event in self._told((TOPIC_FILLS,), wanted):
            if event["ts_event"] >= since_ms and event["id"] not in late:
                late[event["id"]] = (made_ms - event["ts_event"]) / 1000
                found.fills_from_rest += event["source"] == "rest"
        found.fills = len(late)
        if late:
            ordered = sorted(late.values())
            found.fill_late_s, found.fill_late_p99_s = ordered[-1], ordered[len(ordered) * 99 // 100]


def under_two_ids(fills: Iterable[Mapping[str, Any]]) -> list[Key]:
    """A fill may be told twice, but under one id only."""
    ids: dict[Key, str] = {}
    keys = (((e["account_id"], e["symbol"], e["trade_id"], e["order_id"]), e["id"]) for e in fills)
    return [key for key, name in keys if ids.setdefault(key, name) != name]
