"""`python -m workers sink postgres|clickhouse`: one process per store, from settings to exit code.

In: Kafka records and settings. Out: rows in the store; logs; metrics on FLEET_METRICS_BASE_PORT + 2 (postgres) or + 3
(clickhouse). SIGTERM ends it once it has caught up, within 10 s.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING, Any

from fleet.core.errors import SettingsError
from fleet.runtime import logs
from fleet.runtime.kafka_io import Consumer
from fleet.runtime.metrics import Metrics, port_of
from fleet.runtime.postgres import Postgres
from fleet.runtime.settings import Settings
from fleet.runtime.shutdown import die_with_parent, install_stop
from workers.sinks.loop import Loop
from workers.sinks.postgres import PostgresSink, Rows

if TYPE_CHECKING:
    from workers.sinks.clickhouse import Line


def run(name: str, settings: Settings) -> int:
    """Run the sink `name` until SIGTERM; the exit code. Raises SettingsError."""
    loop_of = LOOPS.get(name)
    if loop_of is None:
        raise SettingsError(f"sink {name!r}: postgres or clickhouse is expected")
    program = f"sink_{name}"
    logs.configure(settings, program)
    stop = install_stop()
    die_with_parent()
    metrics = Metrics(settings.metrics_namespace)
    loop = loop_of(settings, stop, metrics)
    close_metrics = metrics.serve(port_of(settings.metrics_base_port, program))
    log = logs.get(__name__)
    log.info("sink started", action="start", sink=name)
    try:
        loop.run()
    finally:
        log.info("sink stopped", action="stop", sink=name)
        close_metrics()
        logs.close()
    return 0


def postgres_loop(settings: Settings, stop: Event, metrics: Metrics) -> Loop[Rows]:
    """The Postgres sink, not running yet."""
    settings.need("postgres_dsn")
    sink = PostgresSink(Postgres(settings.postgres_dsn, application="sink postgres"))
    return Loop(sink, lambda: _consumer(settings, sink.name, sink.topics), stop, metrics)


def clickhouse_loop(settings: Settings, stop: Event, metrics: Metrics) -> Loop[Line]:
    """The ClickHouse sink, not running yet. Without FLEET_POSTGRES_DSN its dead letters are only logged."""
    from fleet.runtime import clickhouse  # a fifth of a start; the Postgres sink does without
    from workers.sinks.clickhouse import ClickHouseSink

    settings.need("clickhouse_dsn")
    clickhouse.server_url(settings.clickhouse_dsn)
    letters = Postgres(settings.postgres_dsn, application="sink clickhouse") if settings.postgres_dsn else None
    sink = ClickHouseSink(
        lambda: clickhouse.open(settings.clickhouse_dsn),
        lambda store: store.migrate(settings.market_ttl_days, settings.book_ttl_days),
        letters,
    )
    return Loop(sink, lambda: _consumer(settings, sink.name, sink.topics), stop, metrics)


LOOPS: dict[str, Callable[[Settings, Event, Metrics], Loop[Any]]] = {
    "postgres": postgres_loop,
    "clickhouse": clickhouse_loop,
}


def _consumer(settings: Settings, name: str, topics: tuple[str, ...]) -> Consumer:
    return Consumer(settings.kafka_bootstrap, f"{settings.fleet}.sink_{name}", topics)
