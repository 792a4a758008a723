"""The commands of `fleet` against the real stores: exit codes, JSON, and that no credential is ever shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from fleet.cli import main
from fleet.commands import control
from fleet.core.model import Ownership, StreamState, StreamStatus, WorkerView, token_of
from fleet.core.names import Keys
from fleet.core.wire import Generation
from fleet.runtime.kafka_io import Consumer, KafkaRecord
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.secrets import Keyring
from tests.support.fleet import fresh_env
from tests.support.records import wait_until
from tests.support.services import SharedServices
from workers.sinks.loop import DeadLetter
from workers.sinks.postgres import put_aside

pytestmark = pytest.mark.integration

KEY, SECRET = "canary-key-51f6", "canary-secret-9a02"
CREDENTIALS = json.dumps({"api_key": KEY, "secret": SECRET})
NOBODY = "00000000-0000-4000-8000-000000000000"


class Answer(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Cli:
    """Runs `fleet …` with an environment of its own: in this process, because starting one costs half a second of a core;
    `migrate` in another one, because the embedded ClickHouse engine lets go of its directory only when its process ends."""

    def __init__(self, env: dict[str, str], directory: Path) -> None:
        self.env = {"PATH": os.environ["PATH"], "HOME": str(directory), **env}

    def run(self, *args: str, stdin: str = "", **env: str) -> Answer:
        if "migrate" in args:
            done = subprocess.run(
                [sys.executable, "-m", "fleet.cli", *args],
                env=self.env | env, input=stdin, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            return Answer(done.returncode, done.stdout, done.stderr)
        result = CliRunner().invoke(main, args, input=stdin, env=self.env | env)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    def ok(self, *args: str, stdin: str = "") -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))

    def fails(self, code: int, *args: str, stdin: str = "", **env: str) -> str:
        """The one line on standard error of a command that must fail."""
        done = self.run(*args, stdin=stdin, **env)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert "Traceback" not in done.stderr
        return done.stderr.strip()

    def add(self, label: str, *more: str) -> str:
        words = ("--user", "u1", "--exchange", "binance", "--market", "usdm", "--label", label, "--credentials", "-")
        return self.ok("accounts", "add", *words, *more, stdin=CREDENTIALS).strip()


@pytest.fixture(scope="module")
def cli(services: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    directory = tmp_path_factory.mktemp("cli")
    with fresh_env(services, directory) as env:
        cli = Cli(env, directory)
        cli.ok("migrate")
        cli.ok("keyring", "new", str(directory / "keyring"))
        whole(cli)
        yield cli


def test_migrate_may_be_repeated(cli: Cli) -> None:
    assert "Postgres: nothing to do" in cli.ok("migrate")


def test_a_keyring_is_never_overwritten_and_takes_more_keys(cli: Cli) -> None:
    path = Path(cli.env["FLEET_KEYRING_FILE"])
    assert path.stat().st_mode & 0o777 == 0o600
    account = cli.add("before the second key")
    assert "exists" in cli.fails(2, "keyring", "new", str(path))
    cli.ok("keyring", "add-key", str(path))
    ring = Keyring.load(path)
    row = ciphertext(cli, account)
    assert ring.decrypt(row["credential_key_id"], row["credential_ciphertext"], account).secret == SECRET
    assert row["credential_key_id"] != ciphertext(cli, cli.add("after the second key"))["credential_key_id"]


def test_the_life_of_an_account(cli: Cli) -> None:
    account = cli.add("life")
    row = cli.json("accounts", "show", account)
    assert (row["exchange"], row["market"], row["is_active"], row["is_testnet"]) == ("binance", "usdm", True, False)
    assert account in [r["id"] for r in cli.json("accounts", "list")]
    cli.ok("accounts", "deactivate", account, "--reason", "holiday")
    row = cli.json("accounts", "show", account)
    assert (row["is_active"], row["deactivated_reason"]) == (False, "holiday")
    assert row["deactivated_at"].endswith("Z")
    cli.ok("accounts", "activate", account)
    row = cli.json("accounts", "show", account)
    assert (row["is_active"], row["deactivated_reason"], row["deactivated_at"]) == (True, None, None)
    before = ciphertext(cli, account)
    cli.ok("accounts", "set-credentials", account, "--credentials", "-", stdin=CREDENTIALS)
    assert ciphertext(cli, account)["credential_ciphertext"] != before["credential_ciphertext"]
    cli.ok("accounts", "remove", account)
    assert account in cli.fails(1, "accounts", "show", account)


def test_add_prints_the_id_alone_or_json(cli: Cli, tmp_path: Path) -> None:
    assert len(cli.add("plain")) == 36
    file = tmp_path / "credentials.json"
    file.write_text(CREDENTIALS)
    words = ("--user", "u2", "--exchange", "binance", "--market", "usdm", "--label", "from a file", "--testnet")
    answer = cli.json("accounts", "add", *words, "--telegram-chat", "42", "--credentials", str(file))
    row = cli.json("accounts", "show", answer["id"])
    assert (row["is_testnet"], row["telegram_chat_id"]) == (True, "42")


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        ("not json", ()),
        ('{"api_key": "k"}', ()),
        ('{"api_key": "", "secret": "s"}', ()),
        (CREDENTIALS, ("--market", "unified")),
        (CREDENTIALS, ("--exchange", "nyse")),
        (CREDENTIALS, ("--credentials", "/no/such/file")),
    ],
)
def test_a_wrong_account_is_wrong_use(cli: Cli, stdin: str, words: tuple[str, ...]) -> None:
    right = ("--user", "u1", "--exchange", "binance", "--market", "usdm", "--label", "wrong", "--credentials", "-")
    said = cli.fails(2, "accounts", "add", *right, *words, stdin=stdin)
    assert KEY not in said and SECRET not in said


def test_two_accounts_of_one_label_are_refused(cli: Cli) -> None:
    cli.add("twice")
    words = ("--user", "u1", "--exchange", "binance", "--market", "usdm", "--label", "twice", "--credentials", "-")
    assert "already has" in cli.fails(2, "accounts", "add", *words, stdin=CREDENTIALS)


def test_credentials_are_never_taken_from_the_command_line(cli: Cli) -> None:
    words = ("--user", "u1", "--exchange", "binance", "--market", "usdm", "--label", "argv")
    assert "terminal" in cli.fails(2, "accounts", "add", *words)
    assert "No such option" in cli.fails(2, "accounts", "add", *words, "--api-key", KEY)


def test_unknown_accounts(cli: Cli) -> None:
    for command in (("show",), ("activate",), ("deactivate", "--reason", "r"), ("remove",)):
        assert NOBODY in cli.fails(1, "accounts", *command, NOBODY)
    assert "UUID" in cli.fails(2, "accounts", "show", "17")
    assert NOBODY in cli.fails(1, "account", NOBODY)


def test_views_show_what_redis_and_postgres_say(cli: Cli) -> None:
    account = cli.add("views")
    assert cli.json("account", account)["slot"] is None
    worker = place(cli, account)
    (shard,) = [s for s in cli.json("shards") if s["slot"] == worker.slot]
    assert set(shard) == {"slot", "host", "pid", "state", "incarnation", "accounts", "live", "load", "heartbeat_age_s"}
    assert (shard["host"], shard["pid"], shard["state"], shard["accounts"], shard["live"]) == ("h", 17, "up", 1, 1)
    assert [row["id"] for row in cli.json("shard", worker.slot)] == [account]
    row = cli.json("account", account)
    assert set(row) == {
        "id", "exchange", "market", "slot", "token", "state", "since", "last_event_at", "reconnects", "gap",
        "egress_ip", "reason",
    }  # fmt: skip
    assert (row["slot"], row["token"], row["state"], row["reconnects"]) == (worker.slot, token_of(1, 1), "live", 2)
    assert row["last_event_at"] == "2026-11-25T00:00:00.000Z"
    assert "no shard" in cli.fails(1, "shard", "nowhere:0")
    assert "no shard" in cli.fails(1, "drain", "nowhere:0")
    store = redis_of(cli)
    for words, wish in ((("--no-wait",), True), (("--undo",), False)):
        cli.ok("drain", worker.slot, *words)
        assert store.observe().workers[worker.slot].drain is wish
    store.close()


def test_without_redis_the_views_say_where_they_have_it_from(cli: Cli) -> None:
    account, slot = cli.add("durable"), f"d{uuid.uuid4().hex[:6]}:0"
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    insert = "INSERT INTO fleet_assignment (account_id, slot, incarnation, token, egress_ip) VALUES (%s, %s, 'i', 7, '10.0.0.7')"
    pg.execute(insert, (account, slot))
    away = {"FLEET_REDIS_URL": "redis://127.0.0.1:1/0"}
    for words in (("shards",), ("shard", slot), ("account", account)):
        done = cli.run(*words, "--json", **away)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "redis" in done.stderr and "copy in postgres" in done.stderr and "newest move" in done.stderr
        found = json.loads(done.stdout)
        [row] = [found] if isinstance(found, dict) else [r for r in found if r["slot"] == slot]
        assert row["state"] == "unknown"
    assert (row["slot"], row["token"], row["egress_ip"], row["exchange"]) == (slot, 7, "10.0.0.7", "binance")
    pg.close()
    for words in (("budget",), ("drain", slot), ("rebalance",), ("rotate",)):
        done = cli.run(*words, **away)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "redis" in done.stderr
    gone = away | {"FLEET_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none"}
    for words in (("shards",), ("shard", slot), ("account", account)):
        done = cli.run(*words, "--json", **gone)
        assert done.returncode == 1 and not done.stdout and len(done.stderr.strip().splitlines()) == 1
    done = cli.run("account", account, "--json", FLEET_POSTGRES_DSN=gone["FLEET_POSTGRES_DSN"])
    assert done.returncode == 1 and "not known" in done.stderr and json.loads(done.stdout)["exchange"] is None


def test_without_a_leader_the_views_say_so_and_a_drain_names_it(cli: Cli) -> None:
    account = cli.add("leaderless")
    worker = place(cli, account)
    store = redis_of(cli)
    store.resign(store.leader())
    done = cli.run("shards", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)[0]["slot"] == worker.slot
    assert "no coordinator leads" in done.stderr
    why = control._why_they_stay(SimpleNamespace(), store, worker.slot)  # type: ignore[arg-type]
    assert "no" in why and "the wish is kept" in why
    store.close()


@pytest.mark.parametrize("lost", ["all of it", "the generation", "being rebuilt"])
def test_until_redis_is_rebuilt_the_views_are_of_the_copy(cli: Cli, lost: str) -> None:
    account, slot = cli.add(f"lost: {lost}"), "h:0"
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    pg.execute(
        "INSERT INTO fleet_assignment (account_id, slot, incarnation, token) VALUES (%s, %s, 'inc1', 7)",
        (account, slot),
    )
    pg.close()
    place(cli, account)
    lose(cli, lost)
    for words in (("shards",), ("shard", slot), ("account", account)):
        done = cli.run(*words, "--json")
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
        assert "being rebuilt" in done.stderr and "copy in postgres" in done.stderr
        found = json.loads(done.stdout)
        [row] = (
            [found]
            if isinstance(found, dict)
            else [r for r in found if r.get("id", account) == account and r["slot"] == slot]
        )
        assert (row["state"], row["rebuilding"]) == ("unknown", True)
        assert "being rebuilt" in cli.run(*words).stderr
    assert (row["slot"], row["token"], row["gap"]) == (slot, 7, None)
    for words in (("drain", "other:0"), ("rotate",), ("top", "--json")):
        assert "being rebuilt" in cli.fails(1, *words)
    whole(cli)
    assert "rebuilding" not in cli.json("account", account)


@pytest.mark.parametrize("words", [("drain", "h:0"), ("rotate",), ("rebalance",)])
@pytest.mark.parametrize("lost", ["all of it", "all of it, and rebuilt"])
def test_a_wish_that_redis_lost_is_not_done(
    cli: Cli, words: tuple[str, ...], lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(cli, cli.add(f"{words[0]}: {lost}"))
    monkeypatch.setattr(control.time, "sleep", lambda _: lose(cli, lost))
    done = cli.run(*words)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1, done.stdout
    assert done.stderr == "fleet: the wish was lost (Redis lost its data); give it again\n"
    whole(cli)


def test_an_account_in_quarantine_says_so_everywhere(cli: Cli) -> None:
    account = cli.add("poison")
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    pg.execute(
        "INSERT INTO fleet_quarantine (incident, account_id, revision, reason) VALUES (%s, %s, 1, 'deadly')",
        (account, account),
    )
    pg.close()
    row = cli.json("account", account)
    assert row["state"] == "quarantined" and "deadly" in row["reason"]
    assert f"1 in quarantine: {account};" in cli.run("shards").stderr
    for away in ({}, {"FLEET_REDIS_URL": "redis://127.0.0.1:1/0"}):
        done = cli.run("shards", "--json", **away)
        assert (done.returncode, f"1 in quarantine: {account};" in done.stderr) == (len(away), True)
        last = json.loads(done.stdout)[-1]
        assert (last["slot"], last["state"], last["accounts"], last["live"]) == (None, "quarantined", 1, 0)
        (held,) = last["quarantined"]
        assert (held["account_id"], held["reason"]) == (account, "deadly") and held["since"].endswith("Z")
        assert held["release"] == f"fleet accounts activate {account}"
    found = json.loads(cli.run("doctor", "--json").stdout)
    assert any(f["check"] == "placement" and f["level"] == "problem" and account in f["what"] for f in found)
    assert cli.run("accounts", "activate", account).stdout == "out of quarantine\n"
    assert cli.json("account", account)["state"] == "unplaced"
    assert cli.run("accounts", "activate", account).stdout == ""


def test_a_quarantine_ends_with_its_row_whether_or_not_anybody_led_then(cli: Cli) -> None:
    """`fleet doctor` named a removed account for ever, and advised to activate it."""
    gone, changed = cli.add("poison, removed"), cli.add("poison, changed")
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    for account in (gone, changed):
        pg.execute(
            "INSERT INTO fleet_quarantine (incident, account_id, revision, reason) VALUES (%s, %s, 1, 'deadly')",
            (account, account),
        )
    pg.close()
    assert "2 in quarantine" in cli.run("shards").stderr
    cli.ok("accounts", "remove", gone)
    cli.ok("accounts", "set-credentials", changed, "--credentials", "-", stdin=CREDENTIALS)
    assert "quarantine" not in cli.run("shards").stderr
    assert cli.json("account", changed)["state"] == "unplaced"
    assert "quarantined" not in cli.run("doctor").stdout


def test_gaps_are_filtered(cli: Cli) -> None:
    account = cli.add("gaps")
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    insert = (
        "INSERT INTO stream_gaps (id, account_id, stream, exchange, market, opened_at, closed_at, reason, recovered_events)"
        " VALUES (%s, %s, %s, 'binance', 'usdm', now() - interval '2 hours', %s, 'cut', 3)"
    )
    pg.execute(insert, ("g1", account, account, None))
    pg.execute(insert.replace("%s, 'cut'", "now() - interval '1 hour', 'cut'"), ("g2", account, account))
    pg.close()
    mine = [g for g in cli.json("gaps") if g["account_id"] == account]
    assert len(mine) == 2
    assert set(mine[0]) >= {"account_id", "opened_at", "closed_at", "reason", "recovered_events", "recoverable"}
    assert [g["closed_at"] for g in cli.json("gaps", "--open") if g["account_id"] == account] == [None]
    assert len([g for g in cli.json("gaps", "--since", "30m") if g["account_id"] == account]) == 1
    assert len([g for g in cli.json("gaps", "--since", "90m") if g["account_id"] == account]) == 2
    assert "ISO 8601" in cli.fails(2, "gaps", "--since", "yesterday")
    cli.ok("accounts", "remove", account)  # nobody can close them any more
    assert not [g for g in cli.json("gaps", "--open") if g["account_id"] == account]
    assert len([g for g in cli.json("gaps") if g["account_id"] == account]) == 2


def test_doctor_names_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other-keyring"
    cli.ok("keyring", "new", str(other))
    account = cli.add("doctor")
    done = cli.run("doctor", "--json", FLEET_KEYRING_FILE=str(other))
    assert done.returncode == 1
    findings = json.loads(done.stdout)
    levels = {f["check"]: f["level"] for f in findings if f["check"] in ("settings", "postgres", "redis", "kafka")}
    assert levels == {"settings": "ok", "postgres": "ok", "redis": "ok", "kafka": "ok"}
    assert any(f["check"] == "keyring" and account in f["what"] and f["advice"] for f in findings)
    bare, store = str(uuid.uuid4()), Postgres(cli.env["FLEET_POSTGRES_DSN"], application="tests")
    store.execute(
        "INSERT INTO exchange_accounts (id, user_id, exchange, market) VALUES (%s, 'by SQL', 'okx', 'unified')", (bare,)
    )
    done = cli.run("doctor")
    store.execute("DELETE FROM exchange_accounts WHERE id = %s", (bare,))
    store.close()
    assert done.returncode == 1 and f"account {bare}: it has no credentials" in done.stdout
    other.chmod(0o640)
    done = cli.run("doctor", FLEET_KEYRING_FILE=str(other))
    assert done.returncode == 1 and "chmod 600" in done.stdout
    done = cli.run("doctor", "--json", FLEET_WORKERS="none")
    assert done.returncode == 1 and "FLEET_WORKERS" in json.loads(done.stdout)[0]["what"]
    findings = json.loads(cli.run("doctor", "--json", FLEET_POSTGRES_DSN="host=127.0.0.1 port=1").stdout)
    (advice,) = [f["advice"] for f in findings if f["check"] == "keyring" and f["level"] == "problem"]
    assert "FLEET_POSTGRES_DSN" in advice and "keyring new" not in advice  # a new one opens nothing
    done = cli.run("doctor", FLEET_CONNECTIONS_PER_IP="binance=5")
    assert done.returncode == 1 and "unknown venue 'binance'; known: binance_spot" in done.stdout


def test_doctor_reads_the_clock_of_every_venue_that_accounts_are_at(cli: Cli) -> None:
    words = ("--user", "clocks", "--label", "l", "--credentials", "-")
    secret = json.dumps({"api_key": KEY, "secret": SECRET, "passphrase": "p"})
    for exchange in ("bybit", "okx"):
        cli.ok("accounts", "add", "--exchange", exchange, "--market", "unified", *words, stdin=secret)
    away = {f"FLEET_{venue}_REST_URL": "http://127.0.0.1:1" for venue in ("BINANCE_USDM", "BYBIT", "OKX")}
    found = json.loads(cli.run("doctor", "--json", FLEET_MARKET_SYMBOLS="", **away).stdout)
    assert [f["what"].partition(":")[0] for f in found if f["check"] == "clock"] == ["binance_usdm", "bybit", "okx"]


@pytest.mark.parametrize(
    ("variable", "value", "command"),
    [
        ("FLEET_POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/none", ("accounts", "list")),
        ("FLEET_REDIS_URL", "redis://127.0.0.1:1/0", ("shards",)),
        ("FLEET_KAFKA_BOOTSTRAP", "127.0.0.1:1", ("migrate",)),
    ],
)
def test_a_missing_service_is_one_line(cli: Cli, variable: str, value: str, command: tuple[str, ...]) -> None:
    done = cli.run(*command, **{variable: value})
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


def test_settings_come_from_a_file_before_or_after_the_command(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.env"
    file.write_text(f"# a fleet\nFLEET_POSTGRES_DSN='{cli.env['FLEET_POSTGRES_DSN']}'\n")
    for words in (("--env-file", str(file), "accounts", "list"), ("accounts", "list", "--env-file", str(file))):
        assert cli.run(*words, FLEET_POSTGRES_DSN="").returncode == 0
    file.write_text("FLEET_WORKERS\n")
    assert "KEY=VALUE" in cli.fails(2, "--env-file", str(file), "accounts", "list")
    assert "no-such" in cli.fails(2, "shards", "--env-file", str(tmp_path / "no-such"))


def test_dead_letters_are_listed_and_sent_again(cli: Cli) -> None:
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    (row,) = pg.fetch(
        'INSERT INTO dead_letter (sink, topic, partition, "offset", key, value, reason)'
        " VALUES ('postgres', 'user.account', 0, -7, %s, %s, 'test') RETURNING id",
        (b"nobody", b'{"not": "an event"}'),
    )
    letter = int(row["id"])
    assert [r["reason"] for r in cli.json("dead-letters", "list") if r["id"] == letter] == ["test"]
    assert "1 of 1 sent again" in cli.ok("dead-letters", "retry", str(letter))
    assert pg.fetch("SELECT retried_at FROM dead_letter WHERE id = %s", (letter,))[0]["retried_at"] is not None
    (row,) = pg.fetch(
        'INSERT INTO dead_letter (sink, topic, partition, "offset", key, value, reason)'
        " VALUES ('postgres', 'user.account', 0, -8, %s, %s, 'test') RETURNING id",
        (b"nobody", b"x" * 2_000_000),
    )
    done = cli.run("dead-letters", "retry", str(row["id"]))
    assert (done.returncode, done.stdout.strip()) == (1, "0 of 1 sent again")
    assert f"dead letter {row['id']} is refused for good" in done.stderr and "run it again" not in done.stderr
    newest = cli.run("dead-letters", "list", "--limit", "1", "--json")
    assert [r["id"] for r in json.loads(newest.stdout)] == [row["id"]]
    assert "--limit shows more" in newest.stderr
    pg.execute("DELETE FROM dead_letter WHERE id = %s", (row["id"],))
    pg.close()
    assert "kafka" in cli.fails(1, "dead-letters", "retry", str(letter), FLEET_KAFKA_BOOTSTRAP="127.0.0.1:1").lower()
    assert "no dead letter" in cli.fails(1, "dead-letters", "retry", "999999999")


def test_a_dead_letter_goes_back_with_its_headers_and_one_of_a_topic_made_anew_is_another(cli: Cli) -> None:
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    headers = {"token": "7", "shard": "h:0", "incarnation": "i\\u0000\0"}
    first, second = (KafkaRecord("user.account", 0, -9, b"k", value, headers, 0) for value in (b"first", b"second"))
    for record in (first, first, second):
        put_aside(pg, "postgres", [DeadLetter(record, record.value, "test")])
    letters = pg.fetch('SELECT id, value FROM dead_letter WHERE "offset" = -9 ORDER BY id')
    assert [bytes(row["value"]) for row in letters] == [b"first", b"second"]
    pg.close()
    consumer = Consumer(cli.env["FLEET_KAFKA_BOOTSTRAP"], None, ["user.account"], from_beginning=False)
    consumer.poll(1.0, 1)
    cli.ok("dead-letters", "retry", str(letters[1]["id"]))
    (record,) = wait_until(lambda: consumer.poll(0.5, 10), 10, "the record is in Kafka again")
    consumer.close()
    assert (record.value, record.headers) == (b"second", headers | {"incarnation": "i\\u0000␀"})


def ciphertext(cli: Cli, account: str) -> dict[str, Any]:
    pg = Postgres(cli.env["FLEET_POSTGRES_DSN"], application="test")
    try:
        return pg.fetch(
            "SELECT credential_key_id, credential_ciphertext FROM exchange_accounts WHERE id = %s", (account,)
        )[0]
    finally:
        pg.close()


def redis_of(cli: Cli) -> RedisStore:
    return RedisStore(cli.env["FLEET_REDIS_URL"], Keys(cli.env["FLEET_NAME"]), timeout_s=2.0)


def whole(cli: Cli) -> None:
    """Somebody leads, and the data in Redis are whole."""
    store = redis_of(cli)
    assert store.lead("tester", 1, 30.0) == "OK"
    store.rebuild(store.leader(), Generation("g1", True), {})
    store.close()


def lose(cli: Cli, what: str) -> None:
    """What is left after FLUSHALL, a worker's distrust, the first step of a rebuild; of this fleet alone."""
    store = redis_of(cli)
    raw: Any = store._client
    if what.startswith("all of it"):
        raw.delete(*raw.scan_iter(store.keys.prefix.replace("{", "[{]") + "*"))
    raw.delete(store.keys.gen)
    if what == "being rebuilt":
        store.rebuild(store.leader(), Generation("g2", False), {})
    elif what == "all of it, and rebuilt":
        assert store.lead("tester", 1, 30.0) == "OK"
        store.rebuild(store.leader(), Generation("g2", True), {})
        store.register(WorkerView("h:0", "inc1", 1, "up", "h", 17, 1000, 1.0, 0))
    store.close()


def place(cli: Cli, account: str) -> WorkerView:
    """A worker that is up and streams `account`, as the two sides of Redis would write it."""
    store = redis_of(cli)
    now_ms = int(time.time() * 1000)
    worker = WorkerView("h:0", "inc1", 1, "up", "h", 17, 1000, 1.0, 0)
    owner = Ownership("h:0", "inc1", token_of(1, 1), "run", now_ms, 1)
    assert store.lead("tester", 1, 30.0) == "OK"
    store.rebuild(store.leader(), Generation("g1", True), {account: owner})
    store.register(worker)
    status = StreamStatus(account, owner.token, StreamState.LIVE, 1_795_564_800_000, 2, False)
    store.report("h:0", "inc1", [status], full=True)
    store.close()
    return worker
