"""`fleet migrate` and `fleet keyring …`: what is done once per installation, and may be repeated."""

from __future__ import annotations

import click

from fleet.commands.session import env_file_option, session
from fleet.runtime import clickhouse
from fleet.runtime.kafka_io import create_topics
from fleet.runtime.postgres import migrate as migrate_postgres
from fleet.runtime.secrets import Keyring
from fleet.runtime.settings import Settings

KAFKA_S = 6.0


@click.command()
@env_file_option
def migrate() -> None:
    """Create or update the schema, the Kafka topics and the ClickHouse tables. Safe to repeat."""
    here = session()
    pg = here.postgres()
    report("Postgres", migrate_postgres(pg))
    report("Kafka", create_topics(here.settings.kafka_bootstrap, timeout_s=KAFKA_S))
    click.echo(f"ClickHouse: {clickhouse_tables(here.settings)}")


def clickhouse_tables(settings: Settings) -> str:
    """Make the tables and say so. Raises StoreUnavailable where a server is away."""
    dsn = settings.clickhouse_dsn
    if not dsn:
        return "FLEET_CLICKHOUSE_DSN is not set, skipped"
    if "://" not in dsn and clickhouse.held(dsn):
        return "the embedded engine is in use by the sink, which makes its tables itself"
    store = clickhouse.open(dsn)
    try:
        store.migrate(settings.market_ttl_days, settings.book_ttl_days)
    finally:
        store.close()
    return "tables are there"


def report(store: str, done: list[str]) -> None:
    click.echo(f"{store}: {', '.join(done) if done else 'nothing to do'}")


@click.group()
@env_file_option
def keyring() -> None:
    """The file of keys that encrypt credentials."""


@keyring.command("new")
@click.argument("file", type=click.Path(dir_okay=False))
@env_file_option
def new(file: str) -> None:
    """Create FILE with one key, readable by its owner only. Never overwrites."""
    Keyring.create(file)


@keyring.command("add-key")
@click.argument("file", type=click.Path(dir_okay=False))
@env_file_option
def add_key(file: str) -> None:
    """Add a key to FILE: it encrypts from now on, the older ones still decrypt."""
    Keyring.load(file).add_key()
