"""The comparison at the end: ledger against Kafka against Postgres and ClickHouse. In: what was watched; out: a filled report."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fleet.core.names import MARKET_TOPICS, TOPIC_DEPTH
from fleet.demo.report import Dials, Fills, Gaps, Latency, MarketTopic, Percentiles, Report
from fleet.demo.watch import Watch, percentiles
from fleet.runtime import clickhouse
from fleet.runtime.settings import Settings

SHOWN = 3  # examples of what is missing, in the report's problems
MINUTES = 5


class Comparison:
    """Fills the parts of a report that say whether anything went missing."""

    def __init__(self, watch: Watch, settings: Settings) -> None:
        self._watch = watch
        self._settings = settings

    def fill(self, report: Report) -> None:
        tally = self._watch.tally
        report.events = dict(sorted(tally.events.items()))
        report.fills = self._fills(report)
        report.market = self._market(report)
        self._replay(report)
        doubled = tally.double_streamed()
        report.double_streamed = len(doubled)
        report.problems += [
            f"account {account} was streamed by two owners at once" for account in sorted(doubled)[:SHOWN]
        ]
        p50, p99, most = percentiles(tally.latencies_ms)
        report.latency_ms = Latency(Percentiles(p50, p99, most))
        report.gaps = self._gaps()
        report.reconnects = self._reconnects()
        report.dials = dials(self._watch.calls)
        if tally.undecodable:
            report.problems.append(f"{tally.undecodable} records in Kafka are not events")
        if report.gaps.opened != report.gaps.closed:
            report.problems.append(f"{report.gaps.opened - report.gaps.closed} gaps are still open")

    def _fills(self, report: Report) -> Fills:
        tally = self._watch.tally
        expected, stored = self._watch.fills_expected(), self._watch.fills_in_postgres()
        missing = {key for key in expected if key not in tally.fills or key not in stored}
        for key in sorted(missing)[:SHOWN]:
            where = "Kafka" if key not in tally.fills else "Postgres"
            report.problems.append(f"fill {key[3]} of {key[2]}, account {key[1]}, is not in {where}")
        return Fills(
            ledger=len(expected),
            kafka_unique=len(tally.fills),
            postgres=len(stored),
            missing=len(missing),
            from_rest=sum(1 for source in tally.fills.values() if source == "rest"),
        )

    def _market(self, report: Report) -> dict[str, MarketTopic]:
        stored = self._stored()
        closed_at = {c["id"]: c.get("closed_at") for c in self._watch.connections}
        return {topic: self._topic(topic, closed_at, stored, report) for topic in MARKET_TOPICS}

    def _topic(
        self, topic: str, closed_at: dict[Any, int | None], stored: dict[str, int], report: Report
    ) -> MarketTopic:
        tally, ledger = self._watch.tally, self._watch.ledger
        sent, doomed = ledger.written(closed_at, topic)
        lost = sent - tally.market
        if topic == TOPIC_DEPTH:
            lost = Counter({k: n for k, n in lost.items() if not tally.covered_by_snapshot(k, ledger.market[k][0][0])})
        for key in sorted(lost)[:SHOWN]:
            report.problems.append(f"{' '.join(key)}: sent but not in Kafka")
        in_kafka, in_clickhouse = len(tally.market_ids[topic]), stored.get(topic, 0)
        if in_clickhouse < in_kafka:
            report.problems.append(f"{topic}: {in_kafka - in_clickhouse} events are in Kafka but not in ClickHouse")
        gone = doomed - (tally.market - sent)
        return MarketTopic(
            sent=sent.total() + doomed.total() - gone.total(),
            kafka=in_kafka,
            clickhouse=in_clickhouse,
            missing=lost.total() + max(0, in_kafka - in_clickhouse),
            with_socket=gone.total(),
        )

    def _replay(self, report: Report) -> None:
        """Rows in ClickHouse against frames in the captures; a book's snapshot by REST is a row that no frame stands for."""
        snapshots = self._watch.tally.rest_snapshots
        for topic, frames in report.replay.items():
            rows = report.market[topic].clickhouse - (snapshots if topic == TOPIC_DEPTH else 0)
            if rows != frames:
                report.problems.append(f"{topic}: {frames} frames in the captures, {rows} rows in ClickHouse")

    def _stored(self) -> dict[str, int]:
        """Distinct events per topic in ClickHouse; the sink has stopped, so the embedded engine is free."""
        counts = clickhouse.count_rows(self._settings.clickhouse_dsn)
        return {topic: counts[topic.replace(".", "_")][1] for topic in MARKET_TOPICS}

    def _gaps(self) -> Gaps:
        rows = self._watch.gaps()
        closed = [row for row in rows if row["closed_at"] is not None]
        return Gaps(
            opened=len(rows),
            closed=len(closed),
            unrecoverable=sum(1 for row in rows if not row["recoverable"]),
            max_s=round(max(((row["closed_at"] - row["opened_at"]).total_seconds() for row in closed), default=0.0), 3),
        )

    def _reconnects(self) -> int:
        """Sockets beyond the first of each account, as the simulator counted them."""
        sockets: dict[str, int] = {}
        for connection in self._watch.connections:
            if connection.get("api_key"):
                sockets[connection["api_key"]] = sockets.get(connection["api_key"], 0) + 1
        return sum(count - 1 for count in sockets.values())


def dials(calls: dict[str, Any]) -> Dials:
    """From the simulator's table of handshakes a minute; the five minutes slide by whole minutes."""
    per_minute: dict[tuple[str, int], int] = {}
    for row in calls.get("dials_per_minute", ()):
        at = (str(row["ip"]), int(row["minute"]) // 60_000)
        per_minute[at] = per_minute.get(at, 0) + int(row["dials"])
    most = max(
        (sum(per_minute.get((ip, minute + i), 0) for i in range(MINUTES)) for ip, minute in per_minute), default=0
    )
    return Dials(total=sum(per_minute.values()), max_per_5min_per_ip=most)
