"""`fleet dead-letters …`: records that a sink could not store. In: rows of dead_letter; out: the same records in Kafka again."""

from __future__ import annotations

import threading
from typing import Any

import click

from fleet.commands.output import emit_newest, limit_option
from fleet.commands.session import Stopped, env_file_option, json_option, session
from fleet.runtime.kafka_io import Producer, RecordRefused
from fleet.runtime.postgres import queries

COLUMNS = ("id", "sink", "topic", "partition", "offset", "at", "retried_at", "reason")
FLUSH_S = 15.0


@click.group("dead-letters")
@env_file_option
def dead_letters() -> None:
    """Records that a sink could not store."""


@dead_letters.command("list")
@limit_option(1_000)
@json_option
@env_file_option
def list_letters(limit: int, as_json: bool) -> None:
    """Newest first."""
    rows = session().postgres().fetch(queries("dead_letters")["list_dead_letters"], {"most": limit})
    emit_newest(rows, limit, as_json, COLUMNS)


@dead_letters.command("retry")
@click.argument("ids", type=int, nargs=-1, metavar="[ID…]")
@env_file_option
def retry(ids: tuple[int, ...]) -> None:
    """Send them to Kafka again: those named, or all that were not sent again yet. Sinks are idempotent, so it is safe."""
    here = session()
    pg = here.postgres()
    sql = queries("dead_letters")
    letters = pg.fetch(sql["pending_dead_letters"], {"ids": list(ids) or None})
    missing = set(ids) - {int(letter["id"]) for letter in letters}
    if missing:
        raise Stopped(f"no dead letter {', '.join(map(str, sorted(missing)))}", 1)
    sent, refused = send_again(here.settings.kafka_bootstrap, letters) if letters else ([], {})
    if sent:
        pg.execute(sql["mark_retried"], {"ids": sent})
    click.echo(f"{len(sent)} of {len(letters)} sent again")
    for letter_id, why in refused.items():
        click.echo(f"dead letter {letter_id} is refused for good: {why}", err=True)
    if len(sent) + len(refused) < len(letters):
        raise Stopped(f"{len(letters) - len(sent) - len(refused)} were not acknowledged by Kafka; run it again", 1)
    if refused:
        raise Stopped(f"{len(refused)} cannot be sent, and stay", 1)


def send_again(bootstrap: str, letters: list[dict[str, Any]]) -> tuple[list[int], dict[int, str]]:
    """Ids of the letters that the broker acknowledged, and {id: why} of those that no later try would bring there. Raises
    StoreUnavailable."""
    acknowledged: list[int] = []
    refused: dict[int, str] = {}
    lock = threading.Lock()  # guards both: the callbacks run in the producer's thread
    producer = Producer(bootstrap, "fleet-dead-letters")

    def done_for(letter_id: int) -> Any:
        def done(error: Exception | None) -> None:
            with lock:
                if error is None:
                    acknowledged.append(letter_id)
                elif isinstance(error, RecordRefused):
                    refused[letter_id] = str(error)

        return done

    try:
        producer.prepare(())  # while Kafka is away each record would wait for it anew
        for letter in letters:
            key, value = bytes(letter["key"] or b""), bytes(letter["value"] or b"")
            headers = [(name, text.encode()) for name, text in letter["headers"].items()]
            producer.send(letter["topic"], key, value, headers, done_for(int(letter["id"])))
        producer.flush(FLUSH_S)
    finally:
        producer.close(FLUSH_S)
    with lock:
        return list(acknowledged), dict(refused)
