"""A worker in one process, killed and started again, for tests: real sockets and REST against the simulator; Kafka and the rows of
Postgres are small models that keep what the real ones would keep.

In: accounts at the simulator. Out: what reached "Kafka", by which incarnation, and what the watermarks say. `kill` is kill -9:
whatever was not acknowledged is gone, and the next worker starts from the watermark that was saved last.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from fleet import exchanges
from fleet.core.decoding import decode
from fleet.core.exchange import Exchange, Rate
from fleet.core.model import AccountSpec, Credentials, StreamState
from fleet.core.names import USER_TOPICS
from fleet.core.recovery import Watermark
from fleet.runtime.http import Http
from fleet.runtime.kafka_io import Producer
from fleet.runtime.metrics import Metrics
from fleet.runtime.settings import Settings
from tests.support.simulator import Simulator
from workers.accounts import Loaded
from workers.connection import Connection
from workers.credentials import CredentialDesk
from workers.progress import Progress
from workers.publish import Headers, Publisher, RecordProducer
from workers.readback import ReadBack
from workers.rest import VenueRest
from workers.stream import AccountStream, Worker

ACK_S = 0.05
SAVE_S = 0.1
SETTINGS = {"FLEET_SECOND_READ_S": "2", "FLEET_RECOVER_MARGIN_S": "2", "FLEET_RECOVER_HOLD_S": "10"}
Done = Callable[[Exception | None], None]


class LateKafka:
    """What Kafka has: (incarnation, record). It acknowledges ACK_S after it stored, and stores only what it acknowledges."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.stalled: set[bytes] = set()  # keys whose partition does not answer

    def user_records(self, account_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Of one account, in order."""
        return [
            (by, r) for by, r in list(self.records) if r.get("account_id") == account_id and r["topic"] in USER_TOPICS
        ]


class KafkaSession:
    """One worker's client (workers.publish.RecordProducer). After `kill` nothing of it is stored or acknowledged any more."""

    def __init__(self, kafka: LateKafka, incarnation: str) -> None:
        self._kafka, self._incarnation = kafka, incarnation
        self._lock = threading.Lock()  # guards _waiting, and makes kill and storing exclude each other
        self._waiting: deque[tuple[float, str, bytes, bytes, Done]] = deque()
        self._killed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kafka-{incarnation}")
        self._thread.start()

    def send(
        self, topic: str, key: bytes, value: bytes, headers: Headers, done: Done, valid: Callable[[], bool]
    ) -> None:
        with self._lock:
            self._waiting.append((time.monotonic() + ACK_S, topic, key, value, done))

    def flush(self, timeout_s: float) -> bool:
        return True

    def abort(self) -> None:
        with self._lock:
            self._waiting.clear()

    def close(self, timeout_s: float) -> None:
        self.kill()

    def kill(self) -> None:
        with self._lock:
            self._killed.set()
            self._waiting.clear()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._killed.wait(0.01):
            with self._lock:
                due = [w for w in self._waiting if w[0] <= time.monotonic() and w[2] not in self._kafka.stalled]
                self._waiting = deque(w for w in self._waiting if w not in due)
                for _, topic, _, value, done in due:
                    self._kafka.records.append((self._incarnation, {"topic": topic, **json.loads(value)}))
                    done(None)


class Rows:
    """Stands for Postgres: accounts, and their watermarks as they were saved last."""

    def __init__(self) -> None:
        self.accounts: dict[str, tuple[AccountSpec, Credentials]] = {}
        self.marks: dict[str, str] = {}

    def add(self, account_id: str, credentials: Credentials, exchange: str, market: str) -> None:
        created_ms = int(time.time() * 1000)
        spec = AccountSpec(account_id, "user", exchange, market, "bench", False, 1, created_ms)
        self.accounts[account_id] = (spec, credentials)

    def load(self, account_id: str) -> Loaded:
        spec, credentials = self.accounts[account_id]
        stored = self.marks.get(account_id)
        mark = decode(stored, Watermark) if stored else Watermark(proven_ms=spec.created_at_ms)
        return Loaded(spec, credentials, mark, stored is not None)

    def save(self, progresses: list[tuple[int, Progress]]) -> None:
        for _, progress in progresses:
            if progress.dirty:
                progress.dirty = False
                self.marks[progress.spec.id] = progress.watermark_json()

    def save_last(self, token: int, progress: Progress) -> None:
        self.save([(token, progress)])

    def deactivate(self, spec: AccountSpec, reason: str, text: str) -> bool:
        raise AssertionError(f"nobody's credentials are wrong here: {spec.id} {reason}")


class Always:
    """A lease without end."""

    def valid(self) -> bool:
        return True


class NoLimit:
    """Permits without limit."""

    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        return 0.0

    def block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        return None

    def observed(self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, sent_s: float) -> None:
        return None


class WorkerBench:
    """One life of a worker process over all accounts of `rows`."""

    def __init__(
        self,
        simulator: Simulator,
        kafka: LateKafka | str,
        rows: Rows,
        incarnation: str,
        settings: dict[str, str] | None = None,
    ) -> None:
        """`kafka`: the model, or a broker's address."""
        self.settings = Settings.from_env({**simulator.env, **SETTINGS, **(settings or {})})
        self.rows, self.stop, self.metrics = rows, threading.Event(), Metrics()
        session = None if isinstance(kafka, str) else KafkaSession(kafka, incarnation)
        self._session = session

        def producer() -> RecordProducer:
            return session or Producer(str(kafka), incarnation)

        self.publisher = Publisher(producer, Always(), self.settings.buffer_bytes, self.metrics).start()
        self.readback = ReadBack(
            margin_s=self.settings.recover_margin_s,
            second_read_s=self.settings.second_read_s,
            random=lambda: 0.0,
            stop=self.stop,
        ).start()
        self._rests: dict[str, VenueRest] = {}
        worker = self._worker(incarnation)
        self.streams = {account_id: AccountStream(account_id, 1, worker) for account_id in rows.accounts}
        self._saver = threading.Thread(target=self._save, name=f"rows-{incarnation}")
        self._saver.start()
        for stream in self.streams.values():
            stream.start()

    def _worker(self, incarnation: str) -> Worker:
        def user_url(exchange: Exchange, is_testnet: bool, ticket: str) -> str:
            return exchange.user_url(exchanges.hosts(exchange, is_testnet, self.settings.endpoints), ticket)

        return Worker(
            settings=self.settings,
            slot="bench:0",
            incarnation=lambda: incarnation,
            gate=Always(),
            publisher=self.publisher,
            readback=self.readback,
            accounts=self.rows,  # type: ignore[arg-type]
            desk=CredentialDesk(self.rows, lambda spec: len(self.streams)),  # type: ignore[arg-type]
            metrics=self.metrics,
            venue=self._rest,
            user_url=user_url,
            connect=lambda rest, url, account_id, cancelled: Connection.open(url, cancelled=cancelled),
            shares=lambda exchange: False,
            random=lambda: 0.0,
        )

    def _rest(self, spec: AccountSpec) -> VenueRest:
        venue = exchanges.for_account(spec.exchange, spec.market)
        if venue.name not in self._rests:
            http = Http(exchanges.hosts(venue, False, self.settings.endpoints).rest)
            self._rests[venue.name] = VenueRest(venue, False, http, NoLimit(), "default", self.metrics, self.stop)
        return self._rests[venue.name]

    def _save(self) -> None:
        while not self.stop.wait(SAVE_S):
            self.rows.save([(s.token, s.progress) for s in self.streams.values() if s.running])

    def settled(self) -> bool:
        """Everybody is live, no gap is open, and Kafka has everything."""
        return all(
            s.running
            and s.state is StreamState.LIVE
            and s.progress.mark.base
            and not s.progress.gap
            and s.progress.flushed()
            for s in self.streams.values()
        )

    def kill(self) -> None:
        """kill -9: no flush, no last save."""
        if self._session is not None:
            self._session.kill()
        self.stop.set()
        self._saver.join(10)
        assert not self._saver.is_alive()
        for stream in self.streams.values():
            stream.revoke()
            stream.stop()
        for stream in self.streams.values():
            assert stream.join(10.0)
        self.readback.join(5.0)
        self.publisher.close(0.1)
