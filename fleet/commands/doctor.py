"""`fleet doctor`: is everything there that a fleet needs? Checks settings, stores, clock, keyring and says what to do.

In: settings. Out: one line (or JSON row) a check: ok, note (worth knowing) or problem; exit code 1 if there is a problem.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from fleet.commands.output import emit
from fleet.commands.session import Session, env_file_option, json_option, session
from fleet.core.errors import FleetError, SettingsError
from fleet.core.exchange import Exchange, Outcome
from fleet.core.model import Credentials
from fleet.core.names import MARKET_TOPICS, TOPIC_STREAMS, USER_TOPICS
from fleet.exchanges import check_names, exchanges, hosts
from fleet.runtime import clickhouse
from fleet.runtime.account_rows import AccountRows
from fleet.runtime.http import Http
from fleet.runtime.kafka_io import Consumer
from fleet.runtime.postgres import pending_migrations
from fleet.runtime.secrets import Keyring
from fleet.runtime.settings import Settings

CLOCK_TOLERANCE_MS = 500
EXCHANGE_TIMEOUT_S = 5.0
NOBODY = Credentials("", "")


class Finding(msgspec.Struct, frozen=True):
    """`level`: ok, note or problem; `advice`: what to do, "" where nothing has to be done."""

    check: str
    level: str
    what: str
    advice: str = ""


Checks = Iterator[Finding]


@click.command()
@json_option
@env_file_option
def doctor(as_json: bool) -> None:
    """Check settings, services, clock and keyring, and say what to do."""
    found: list[Finding] = []
    try:
        here = session()
    except SettingsError as error:
        found.append(Finding("settings", "problem", str(error), ADVICE["settings"]))
    else:
        found.extend(attempt("settings", settings, here))
        for check, run in CHECKS:
            found.extend(attempt(check, run, here))
    if as_json:
        emit([msgspec.structs.asdict(finding) for finding in found], as_json)
    else:
        for finding in found:
            advice = f"\n            → {finding.advice}" if finding.advice else ""
            click.echo(f"{finding.level:<8} {finding.check}: {finding.what}{advice}")
    if any(finding.level == "problem" for finding in found):
        click.get_current_context().exit(1)


def attempt(check: str, run: Callable[[Session], Checks], here: Session) -> list[Finding]:
    """A check that cannot be made is a problem with the door's own words."""
    try:
        return list(run(here))
    except FleetError as error:
        return [Finding(check, "problem", " ".join(str(error).split()), ADVICE.get(check, ""))]


def settings(here: Session) -> Checks:
    """Those that a process alone would refuse, too."""
    check_names("FLEET_MARKET_SYMBOLS", here.settings.symbols_by_venue())
    check_names("FLEET_CONNECTIONS_PER_IP", here.settings.connection_limits())
    yield Finding("settings", "ok", f"fleet {here.settings.fleet!r}, {here.settings.workers} workers")


def postgres(here: Session) -> Checks:
    pg = here.postgres()
    pending = pending_migrations(pg)
    if pending:
        yield Finding("postgres", "problem", f"{len(pending)} migrations are not applied", "run `fleet migrate`")
    else:
        yield Finding("postgres", "ok", "reachable, schema up to date")


def redis(here: Session) -> Checks:
    observation = here.redis().observe()
    yield Finding("redis", "ok", f"reachable, {len(observation.workers)} workers registered")
    if observation.malformed:
        yield Finding(
            "redis", "problem", f"unreadable worker records: {', '.join(observation.malformed)}", "remove these keys"
        )


def placement(here: Session) -> Checks:
    """Does every account have its place, and if not, why?"""
    store = here.redis()
    if not store.leader():
        yield Finding("placement", "note", "no coordinator leads", "start one; until then nothing is assigned or moved")
    numbers = store.unplaced()[1]
    for why, n in sorted(numbers.items()):
        yield Finding("placement", "problem", f"{n} accounts unplaced: {why}", PLACE_ADVICE)
    held = AccountRows(here.postgres()).quarantined()
    for row in held:
        yield Finding(
            "placement",
            "problem",
            f"account {row['account_id']} is quarantined: {row['reason']}",
            f"find out why its start ends the process, then `fleet accounts activate {row['account_id']}`",
        )
    if not (numbers or held):
        yield Finding("placement", "ok", "no account waits for a place")


def kafka(here: Session) -> Checks:
    topics = (*USER_TOPICS, TOPIC_STREAMS, *MARKET_TOPICS)
    Consumer(here.settings.kafka_bootstrap, None, topics, from_beginning=False).close()
    yield Finding("kafka", "ok", f"reachable, all {len(topics)} topics exist")


def clickhouse_store(here: Session) -> Checks:
    dsn = here.settings.clickhouse_dsn
    if not dsn:
        yield Finding("clickhouse", "note", "FLEET_CLICKHOUSE_DSN is not set: market data is not stored")
        return
    if "://" not in dsn:
        yield embedded(Path(dsn))
        return
    store = clickhouse.open(dsn)
    try:
        store.query("SELECT 1")
    finally:
        store.close()
    yield Finding("clickhouse", "ok", "reachable")


def embedded(directory: Path) -> Finding:
    """The embedded engine belongs to one process, the sink; looking inside would take it away."""
    if directory.is_dir():
        return Finding("clickhouse", "ok", f"embedded in {directory}")
    return Finding("clickhouse", "problem", f"{directory} does not exist", "run `fleet migrate`")


def keyring(here: Session) -> Checks:
    path = here.settings.keyring_file
    if not path:
        yield Finding("keyring", "problem", "FLEET_KEYRING_FILE is not set", "create one with `fleet keyring new FILE`")
        return
    ring = Keyring.load(path)
    yield Finding("keyring", "ok", f"{path} is readable by its owner only")
    try:
        bad = AccountRows(here.postgres()).undecryptable(ring)
    except FleetError as error:  # nothing is wrong with the keyring: no advice to make another one, which opens nothing
        yield Finding(
            "keyring", "problem", f"whether it opens the credentials is not known: {error}", ADVICE["postgres"]
        )
        return
    for account_id, why in bad:
        yield Finding(
            "keyring",
            "problem",
            f"account {account_id}: {why}",
            f"`fleet accounts set-credentials {account_id}`, or use its keyring",
        )
    if not bad:
        yield Finding("keyring", "ok", "it opens the credentials of every account")


def clock(here: Session) -> Checks:
    for venue in venues_in_use(here):
        try:
            yield offset(venue, here.settings)
        except FleetError as error:
            yield Finding(
                "clock", "problem", f"{venue.name}: {error}", "check the network, or this venue's FLEET_*_REST_URL"
            )


def venues_in_use(here: Session) -> list[Exchange]:
    """Those of the active accounts and of the market symbols; of the symbols alone while Postgres cannot be asked."""
    names = set(here.settings.symbols_by_venue())
    pairs: set[tuple[str, str]] = set()
    try:
        pairs = {(row["exchange"], row["market"]) for row in AccountRows(here.postgres()).every() if row["is_active"]}
    except FleetError:  # told by the check of Postgres
        pass
    return [v for name, v in sorted(exchanges().items()) if name in names or (v.exchange, v.market) in pairs]


def offset(venue: Exchange, settings: Settings) -> Finding:
    """How far our clock is from the exchange's, taken at the middle of the call."""
    root = hosts(venue, False, settings.endpoints).rest
    http = Http(root, ca_file=settings.tls_ca_file, timeout_s=EXCHANGE_TIMEOUT_S)
    try:
        http.send(venue.sign(venue.clock, NOBODY, 0, False))  # the first call pays for TCP and TLS
        before = time.time()
        reply = http.send(venue.sign(venue.clock, NOBODY, 0, False))
        after = time.time()
    finally:
        http.close()
    verdict = venue.classify(reply)
    if verdict.outcome is not Outcome.OK:
        return Finding("clock", "problem", f"{venue.name}: {root} answered {reply.status}", "try again later")
    off_ms = venue.clock_ms(reply) - (before + after) * 500
    text = f"{venue.name}: ours is {abs(off_ms):.0f} ms {'behind' if off_ms > 0 else 'ahead'}"
    if abs(off_ms) > CLOCK_TOLERANCE_MS:
        return Finding("clock", "problem", text, "start NTP on this machine; signed calls are refused beyond 1 s")
    return Finding("clock", "ok", text)


PLACE_ADVICE = "more workers, a larger FLEET_WORKER_CAPACITY, or one more address in FLEET_EGRESS_IPS"
ADVICE = {
    "settings": "correct this setting; docs/settings.md lists them all",
    "postgres": "start Postgres, or correct FLEET_POSTGRES_DSN",
    "redis": "start Redis, or correct FLEET_REDIS_URL",
    "kafka": "start Kafka or correct FLEET_KAFKA_BOOTSTRAP; `fleet migrate` creates the topics",
    "clickhouse": "start ClickHouse, or correct FLEET_CLICKHOUSE_DSN",
    "keyring": "chmod 600 the file, or create one with `fleet keyring new FILE`",
}
CHECKS: list[tuple[str, Callable[[Session], Checks]]] = [
    ("postgres", postgres),
    ("redis", redis),
    ("placement", placement),
    ("kafka", kafka),
    ("clickhouse", clickhouse_store),
    ("keyring", keyring),
    ("clock", clock),
]
