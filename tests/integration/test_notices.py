"""Outbox to Telegram: one incident, one message, whatever happens on the way. A real Postgres, a Bot API on loopback."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.notices import NoticeSender
from fleet.core.errors import SettingsError, StoreUnavailable
from fleet.runtime import logs, telegram
from fleet.runtime.metrics import Metrics
from fleet.runtime.postgres import Postgres, migrate
from fleet.runtime.settings import Settings
from fleet.runtime.telegram import Answer
from tests.support.telegram import BotApi

TOKEN = "123456789:AAF-canary_canary_canary_canary_canary"

pytestmark = pytest.mark.integration


def error(status: int, description: str, **parameters: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    body = {"ok": False, "error_code": status, "description": description}
    return status, {**body, **({"parameters": parameters} if parameters else {})}, {}


@pytest.fixture
def bot() -> Iterator[BotApi]:
    api = BotApi()
    yield api
    api.stop()


@pytest.fixture
def postgres(fleet_env: dict[str, str]) -> Iterator[Postgres]:
    postgres = Postgres(fleet_env["FLEET_POSTGRES_DSN"], application="test")
    migrate(postgres)
    yield postgres
    postgres.close()


@pytest.fixture
def settings(fleet_env: dict[str, str], bot: BotApi, tmp_path: Path) -> Settings:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    return Settings.from_env(
        {**fleet_env, "FLEET_TELEGRAM_TOKEN_FILE": str(token_file), "FLEET_TELEGRAM_API_URL": bot.url}
    )


def add(postgres: Postgres, text: str = "stopped", chat: str | None = "42", incident: str = "") -> int:
    (row,) = postgres.fetch(
        "INSERT INTO outbox (account_id, incident, chat_id, text) VALUES (%s, %s, %s, %s) RETURNING id",
        (str(uuid.uuid4()), incident or str(uuid.uuid4()), chat, text),
    )
    return int(row["id"])


def row(postgres: Postgres, notice: int) -> dict[str, Any]:
    return postgres.fetch(
        "SELECT sent_at IS NOT NULL AS sent, attempts, last_error, next_attempt_at = 'infinity' AS skipped,"
        " CASE WHEN isfinite(next_attempt_at) THEN extract(epoch FROM next_attempt_at - now())::float END AS due_in_s"
        " FROM outbox WHERE id = %s",
        (notice,),
    )[0]


def hurry(postgres: Postgres) -> None:
    """What is put off is due now."""
    postgres.execute("UPDATE outbox SET next_attempt_at = now() WHERE isfinite(next_attempt_at)")


def test_a_notice_is_sent_once_to_the_users_chat(settings: Settings, postgres: Postgres, bot: BotApi) -> None:
    metrics = Metrics()
    sender = NoticeSender(settings, metrics=metrics)
    assert sender.run_once() == 0
    notice = add(postgres, "Streaming of your account 'main' has stopped ⚠️", "-100123")
    assert sender.run_once() == 1 and sender.run_once() == 0
    assert bot.messages == [{"chat_id": "-100123", "text": "Streaming of your account 'main' has stopped ⚠️"}]
    assert bot.paths == {f"/bot{TOKEN}/sendMessage"}
    assert row(postgres, notice)["sent"] and row(postgres, notice)["attempts"] == 1
    assert b'fleet_notices_total{status="sent"} 1.0' in metrics.render()
    sender.close()


def test_without_a_token_or_a_chat_nothing_is_sent_and_nothing_waits(
    settings: Settings, postgres: Postgres, bot: BotApi, fleet_env: dict[str, str]
) -> None:
    no_bot = NoticeSender(Settings.from_env(fleet_env))
    first = add(postgres)
    assert no_bot.run_once() == 0
    no_bot.close()
    sender = NoticeSender(settings)
    second = add(postgres, chat=None)
    assert sender.run_once() == 0 and sender.run_once() == 0
    for notice, why in ((first, "FLEET_TELEGRAM_TOKEN_FILE"), (second, "no chat")):
        state = row(postgres, notice)
        assert state["skipped"] and not state["sent"] and state["attempts"] == 0 and why in state["last_error"]
    assert bot.messages == []
    sender.close()


def test_429_is_honoured_for_the_whole_bot(settings: Settings, postgres: Postgres, bot: BotApi) -> None:
    now = [100.0]
    sender = NoticeSender(settings, clock=lambda: now[0])
    first, second = add(postgres, "one"), add(postgres, "two")
    bot.script.append(error(429, "Too Many Requests: retry after 7", retry_after=7))
    assert sender.run_once() == 0
    assert 6 < row(postgres, first)["due_in_s"] <= 7 and row(postgres, first)["attempts"] == 1
    hurry(postgres)
    now[0] += 6.9
    assert sender.run_once() == 0 and len(bot.messages) == 1, "the second notice waits too"
    now[0] += 0.2
    assert sender.run_once() == 2
    assert [message["text"] for message in bot.accepted] == ["one", "two"]
    assert row(postgres, first)["sent"] and row(postgres, second)["sent"]
    sender.close()


@pytest.mark.parametrize(
    "answer",
    [
        error(500, "Internal Server Error"),
        error(502, "Bad Gateway"),
        error(401, "Unauthorized"),
        (403, b"<html>proxy says no</html>", {}),
        (200, b"<html>captive portal</html>", {}),
        (502, b'"\xe9teint"', {}),
        (502, b"[" * 100_000, {}),
        "cut",
    ],
    ids=["500", "502", "401 token", "proxy 403", "portal 200", "latin-1", "nested", "cut"],
)
def test_outages_are_waited_out_with_backoff(settings: Settings, postgres: Postgres, bot: BotApi, answer: Any) -> None:
    sender = NoticeSender(settings)
    notice = add(postgres)
    bot.script.append(answer)
    assert sender.run_once() == 0
    state = row(postgres, notice)
    assert not state["sent"] and not state["skipped"] and state["attempts"] == 1 and state["due_in_s"] > 0
    hurry(postgres)
    assert sender.run_once() == 1 and row(postgres, notice)["sent"]
    sender.close()


def test_a_dead_api_is_tried_for_ever_ever_more_slowly(settings: Settings, postgres: Postgres, bot: BotApi) -> None:
    port = bot.server_address[1]
    bot.stop()
    sender = NoticeSender(settings)
    notice = add(postgres)
    for attempt in range(1, 8):
        assert sender.run_once() == 0
        assert row(postgres, notice)["attempts"] == attempt
        assert 0 < row(postgres, notice)["due_in_s"] <= 300
        hurry(postgres)
    again = BotApi(port)
    assert sender.run_once() == 1 and len(again.accepted) == 1
    again.stop()
    sender.close()


def test_a_chat_that_refuses_is_given_up_and_the_others_go_on(
    settings: Settings, postgres: Postgres, bot: BotApi
) -> None:
    sender = NoticeSender(settings)
    blocked, unknown, fine = add(postgres), add(postgres), add(postgres)
    bot.script += [
        error(403, "Forbidden: bot was blocked by the user"),
        error(400, "Bad Request: chat not found"),
    ]
    assert sender.run_once() == 1
    assert row(postgres, blocked)["skipped"] and "blocked by the user" in row(postgres, blocked)["last_error"]
    assert row(postgres, unknown)["skipped"] and row(postgres, fine)["sent"]
    sender.close()


def test_a_group_that_moved_is_followed(settings: Settings, postgres: Postgres, bot: BotApi) -> None:
    sender = NoticeSender(settings)
    add(postgres, chat="-1")
    bot.script.append(error(400, "Bad Request: group chat was upgraded", migrate_to_chat_id=-1001))
    assert sender.run_once() == 1
    assert [message["chat_id"] for message in bot.messages] == ["-1", "-1001"]
    sender.close()


def test_two_senders_at_once_send_each_notice_once(settings: Settings, postgres: Postgres, bot: BotApi) -> None:
    for n in range(30):
        add(postgres, f"n{n}")
    senders = [NoticeSender(settings) for _ in range(3)]

    def drain(sender: NoticeSender) -> None:
        while sender.run_once():
            pass

    threads = [threading.Thread(target=drain, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(message["text"] for message in bot.messages) == sorted(f"n{n}" for n in range(30))
    for sender in senders:
        sender.close()


class KillsBackends:
    """A bot whose message goes out just before Postgres loses our connection: the commit fails."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres, self.sent = postgres, 0

    def send(self, chat_id: str, text: str) -> telegram.Delivery:
        self.sent += 1
        self.postgres.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'fleet-notices'"
            " AND datname = current_database()"
        )
        return telegram.Delivery(Answer.SENT)


def test_a_lost_commit_sends_no_second_message(settings: Settings, postgres: Postgres) -> None:
    messenger = KillsBackends(postgres)
    sender = NoticeSender(settings, messenger=messenger)
    notice = add(postgres)
    with pytest.raises(StoreUnavailable):
        sender.run_once()
    assert not row(postgres, notice)["sent"]
    deadline = time.monotonic() + 10
    while not row(postgres, notice)["sent"] and time.monotonic() < deadline:
        try:
            sender.run_once()
        except StoreUnavailable:
            continue
    assert row(postgres, notice)["sent"] and messenger.sent == 1
    sender.close()


def test_the_token_is_in_no_log_row_or_exception(
    settings: Settings, postgres: Postgres, bot: BotApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs.configure(Settings(log_dir=str(tmp_path), log_level="debug"), "coordinator")
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    sender = NoticeSender(settings)
    add(postgres)
    bot.script += ["cut", error(401, "Unauthorized"), error(404, "Not Found")]
    for _ in range(4):
        sender.run_once()
        hurry(postgres)
    bot.stop()
    add(postgres, "after")
    assert sender.run_once() == 0
    logs.close()
    written = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    kept = json.dumps(postgres.fetch("SELECT last_error FROM outbox"))
    assert "notice not sent" in written
    assert TOKEN not in written + kept + caplog.text + repr(sender.__dict__)
    sender.close()


def test_a_token_file_that_cannot_be_used_is_a_clear_error(settings: Settings, tmp_path: Path) -> None:
    missing = Settings(telegram_token_file=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="FLEET_TELEGRAM_TOKEN_FILE=.*No such file"):
        telegram.from_settings(missing)
    (tmp_path / "odd").write_text("not a token\n")
    with pytest.raises(SettingsError, match="holds no bot token") as caught:
        telegram.from_settings(Settings(telegram_token_file=str(tmp_path / "odd")))
    assert "not a token" not in str(caught.value)
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(SettingsError, match="FLEET_TELEGRAM_API_URL='http://api.example'"):
        telegram.from_settings(
            Settings(telegram_token_file=str(tmp_path / "token"), telegram_api_url="http://api.example")
        )
