"""The market-data process, `python -m workers marketdata`: its parts in the order they start and the order they stop.

In: settings. Out: exit code. One process holds every public stream of the fleet: one thread per lane (socket), one per venue
that reads REST (order books, what is missing), one that sends to Kafka. The main thread only waits, sweeps each health check
interval, ends on SIGTERM.
"""

from __future__ import annotations

import threading
import time

from fleet import exchanges
from fleet.core import names
from fleet.core.exchange import Exchange
from fleet.runtime import logs
from fleet.runtime.http import Http
from fleet.runtime.kafka_io import Producer
from fleet.runtime.metrics import Metrics, port_of
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import Budget, RedisStore
from fleet.runtime.settings import Settings
from fleet.runtime.shutdown import Checklist, die_with_parent, install_stop
from workers.connection import tls_context
from workers.market_plan import Lane, plan
from workers.market_publish import MarketPublisher
from workers.market_reader import MarketReader
from workers.market_stream import MarketStream
from workers.market_watermarks import Source, Watermarks
from workers.rest import VenueRest

PROGRAM = "marketdata"
SHUTDOWN_S = 7.5  # inside supervisord's 10, with the interpreter's own start and end
REST_TIMEOUT_S = 10.0
DEFAULT_EGRESS = "default"
STACK_BYTES = 512 * 1024
RESUME_WAIT_S = 2.0  # for the marks of the former life, before the sockets open


def run(settings: Settings) -> int:
    """Hold the configured public streams until SIGTERM. Raises SettingsError before anything starts."""
    venues = exchanges.exchanges()
    lanes = plan(venues, settings.symbols_by_venue(), settings.market_kinds())
    die_with_parent()
    stop = install_stop()
    threading.stack_size(STACK_BYTES)
    logs.configure(settings, PROGRAM)
    try:
        return MarketData(settings, venues, lanes).run_until(stop)
    finally:
        logs.close()


class MarketData:
    """Everything of the process."""

    def __init__(self, settings: Settings, venues: dict[str, Exchange], lanes: list[Lane]) -> None:
        self.settings = settings
        self.log = logs.get(PROGRAM)
        self.halt = threading.Event()  # ends the lanes
        self.metrics = Metrics(settings.metrics_namespace)
        self.tls = tls_context(settings.tls_ca_file)
        self.egress_ip = settings.egress_ips[0] if settings.egress_ips else None
        store = RedisStore(settings.redis_url, names.Keys(settings.fleet), settings.redis_timeout_s)
        self.budget = Budget(store, 1 / (settings.workers + 1))
        self.publisher = MarketPublisher(
            Producer(settings.kafka_bootstrap, PROGRAM), settings.buffer_bytes, self.metrics
        )
        self.readers: list[MarketReader] = []
        self.streams: list[MarketStream] = []
        for name in dict.fromkeys(lane.venue for lane in lanes):
            self._add_venue(venues[name], [lane for lane in lanes if lane.venue == name])
        self.watermarks = self._watermarks() if settings.postgres_dsn else None
        self.health = HealthCheck(self.streams, settings.max_consecutive_failures)

    def _add_venue(self, venue: Exchange, lanes: list[Lane]) -> None:
        hosts = exchanges.hosts(venue, False, self.settings.endpoints)
        http = Http(hosts.rest, source_ip=self.egress_ip, timeout_s=REST_TIMEOUT_S, tls=self.tls)
        rest = VenueRest(venue, False, http, self.budget, self.egress_ip or DEFAULT_EGRESS, self.metrics, self.halt)
        reader = MarketReader(venue, rest, self.halt)
        self.readers.append(reader)
        for lane in lanes:
            self.streams.append(
                MarketStream(
                    lane,
                    venue,
                    venue.market_data.url(hosts, lane.path),
                    rest,
                    reader,
                    self.publisher,
                    self.metrics,
                    self.halt,
                    tls=self.tls,
                    source_ip=self.egress_ip,
                )
            )

    def _watermarks(self) -> Watermarks:
        sources = [Source(stream.feed.venue, stream.feed.backfill) for stream in self.streams]
        return Watermarks(Postgres(self.settings.postgres_dsn, application=PROGRAM), self.publisher, sources)

    def run_until(self, stop: threading.Event) -> int:
        """Start, wait, stop in order; 1 if a step of the shutdown failed."""
        close_metrics = self.metrics.serve(port_of(self.settings.metrics_base_port, PROGRAM))
        self._mention_left_out()
        self.publisher.start()
        for reader in self.readers:
            reader.start()
        if self.watermarks is None:
            self.log.warning("no Postgres: after a restart market data begins anew", action="start")
        elif not self.watermarks.start(RESUME_WAIT_S):
            self.log.warning("the marks of the former life are not read yet", action="start")
        for stream in self.streams:
            stream.start()
        self.log.info(names.MARKET_STARTED, action="start", lanes=len(self.streams), topics=self._topics())
        sweep_s = time.monotonic()
        while not stop.wait(1.0):
            self.metrics.buffer_bytes().set(self.publisher.pending_bytes())
            if time.monotonic() - sweep_s >= self.settings.health_check_interval_s:
                sweep_s = time.monotonic()
                self.health.sweep()
        failed = self._shut_down()
        close_metrics()
        return 1 if failed else 0

    def _topics(self) -> int:
        return sum(len(stream.lane.topics) for stream in self.streams)

    def _mention_left_out(self) -> None:
        for venue in dict.fromkeys(lane.lane.venue for lane in self.streams):
            kinds = exchanges.exchanges()[venue].market_data.kinds
            missing = [kind for kind in self.settings.market_kinds() if kind not in kinds]
            if missing:
                self.log.warning(
                    "market data kinds this venue does not have", action="start", venue=venue, kinds=missing
                )

    def _shut_down(self) -> list[str]:
        """Sockets, then Kafka, under one deadline (contracts.md: market shutdown 10 s)."""
        self.halt.set()
        steps = Checklist()
        steps.add("market data sockets", self._stop_streams)
        steps.add("kafka", lambda left_s: self.publisher.close(max(0.5, left_s - 0.8)))
        if self.watermarks is not None:
            steps.add("watermarks", self.watermarks.close)
        return steps.run(SHUTDOWN_S, self.log)

    def _stop_streams(self, left_s: float) -> None:
        deadline_s = time.monotonic() + min(2.0, left_s / 2)
        for stream in self.streams:
            stream.join(max(0.0, deadline_s - time.monotonic()))
        for stream in self.streams:
            stream.abort()
        if not all(stream.join(1.0) for stream in self.streams):
            raise TimeoutError("a market data thread did not end")


class HealthCheck:
    """The periodic sweep: a safety net and a line for the operator, not the detector (contracts.md: 60 s, warn after 3)."""

    def __init__(self, streams: list[MarketStream], max_failures: int) -> None:
        self._streams, self._max = streams, max_failures
        self._failures = 0
        self._log = logs.get("market_health")

    def sweep(self) -> int:
        """Consecutive sweeps that found a lane unhealthy, this one included."""
        sick = {stream.lane.name: why for stream in self._streams if (why := stream.unhealthy())}
        self._failures = self._failures + 1 if sick else 0
        if self._failures >= self._max:
            self._log.warning("market data health check failed", action="health", failures=self._failures, lanes=sick)
        return self._failures
