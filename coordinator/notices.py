"""Notices to users: rows of `outbox` in, Telegram messages out. Run by the acting leader, in a thread of its own.

Who writes an outbox row writes it in the transaction of what it tells about, and `incident` is unique: an incident has one
row for ever. This module makes that row one message.

Exactly once ends where Telegram begins: `sendMessage` takes no idempotency key, so a process that dies after Telegram took
the message and before that is on disk must send it again or lose it. A lost notice is worse than a second one, so it is
sent again, and the window is kept as small as it gets: the row is locked (SKIP LOCKED, so a second coordinator passes it
by), marked sent *before* the call, and only the commit is left after it; if that commit fails while the process lives, the
id is remembered and the row marked later without another message. A refused connection or an error status is no delivery.
The other window is a reply that never came: Telegram may or may not have the message, and it is sent again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from fleet.core.backoff import delay_s
from fleet.core.errors import StoreUnavailable
from fleet.runtime import logs, telegram
from fleet.runtime.metrics import Metrics
from fleet.runtime.postgres import Postgres, Transaction, queries
from fleet.runtime.settings import Settings
from fleet.runtime.telegram import Answer, Delivery, Messenger

BATCH = 20  # notices of one run: Telegram allows about 30 messages a second to different chats
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 300.0

log = logs.get(__name__)


class _NotSent(Exception):
    """Rolls the transaction back; the row stays unsent."""


class NoticeSender:
    """Sends what is due. Belongs to one thread; opens and owns its connection to Postgres.

    `messenger` is for tests; by default it is the bot of FLEET_TELEGRAM_TOKEN_FILE. Raises SettingsError if that file is
    named but cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics | None = None,
        messenger: Messenger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._postgres = Postgres(settings.postgres_dsn, application="fleet-notices")
        self._messenger = messenger or telegram.from_settings(settings)
        self._metrics = metrics
        self._clock = clock
        self._sql = queries("notices", "coordinator.sql")
        self._quiet_until = 0.0  # Telegram told the bot to wait
        self._delivered: set[int] = set()  # taken by Telegram, not yet marked: the commit failed

    def run_once(self) -> int:
        """Send what is due, at most a batch; how many messages went out. Raises StoreUnavailable, StatementFailed."""
        if self._clock() < self._quiet_until:
            return 0
        self._mark_delivered()
        if not self._postgres.fetch(self._sql["waiting"])[0]["due"]:
            return 0
        sent = 0
        for _ in range(BATCH):
            row, delivery = self._next()
            if row is None or delivery is None:
                break
            self._count(delivery)
            if delivery.answer is Answer.SENT:
                sent += 1
                self._log("notice sent", row)
            else:
                self._settle(row, delivery)
            if delivery.answer is Answer.SLOW_DOWN:
                break
        return sent

    def close(self) -> None:
        self._postgres.close()
        if isinstance(self._messenger, telegram.Telegram):
            self._messenger.close()

    def _next(self) -> tuple[dict[str, Any] | None, Delivery | None]:
        """Claim one row and try to deliver it; (None, None) where nothing is due. Commits only what was sent."""
        row: dict[str, Any] | None = None
        delivery: Delivery | None = None
        try:
            with self._postgres.transaction() as tx:
                rows = tx.fetch(self._sql["claim"], {"not": sorted(self._delivered)})
                if not rows:
                    return None, None
                row = rows[0]
                delivery = self._deliver(tx, row)
                if delivery.answer is not Answer.SENT:
                    raise _NotSent
        except _NotSent:
            pass
        except StoreUnavailable:
            if row is not None and delivery is not None and delivery.answer is Answer.SENT:
                self._delivered.add(row["id"])  # the message is out, the commit is not known to be
                self._count(delivery)
                self._log("notice sent, but not yet marked", row)
            raise
        return row, delivery

    def _deliver(self, tx: Transaction, row: dict[str, Any]) -> Delivery:
        if self._messenger is None:
            return Delivery(Answer.REFUSED, "skipped: FLEET_TELEGRAM_TOKEN_FILE is not set")
        if not row["chat_id"]:
            return Delivery(Answer.REFUSED, "skipped: the account has no chat")
        tx.execute(self._sql["mark_sent"], {"id": row["id"]})
        return self._messenger.send(row["chat_id"], row["text"])

    def _settle(self, row: dict[str, Any], delivery: Delivery) -> None:
        """Write down what to do with a notice that was not sent."""
        wait_s = 0.0
        if delivery.answer is Answer.REFUSED:
            self._postgres.execute(self._sql["skip"], {"id": row["id"], "error": delivery.detail})
        elif delivery.answer is Answer.MOVED:
            self._postgres.execute(self._sql["move_chat"], {"old": row["chat_id"], "new": delivery.chat_id})
        else:
            slow_down = delivery.answer is Answer.SLOW_DOWN
            wait_s = delivery.wait_s if slow_down else _retry_s(row["attempts"])
            if slow_down:
                self._quiet_until = self._clock() + wait_s
            self._postgres.execute(
                self._sql["put_off"], {"id": row["id"], "error": delivery.detail, "wait_s": round(wait_s, 3)}
            )
        self._log("notice not sent", row, reason=delivery.detail, answer=str(delivery.answer), wait_s=round(wait_s, 1))

    def _mark_delivered(self) -> None:
        if self._delivered:
            self._postgres.execute(self._sql["mark_delivered"], {"ids": sorted(self._delivered)})
            self._delivered.clear()

    def _count(self, delivery: Delivery) -> None:
        if self._metrics is not None:
            words = {Answer.SENT: "sent", Answer.REFUSED: "skipped"}
            self._metrics.notices(words.get(delivery.answer, "failed")).inc()

    def _log(self, message: str, row: dict[str, Any], **fields: Any) -> None:
        account = str(row["account_id"]) if row["account_id"] else None
        attempt = row["attempts"] + 1
        log.info(message, action="notice", account_id=account, incident=row["incident"], attempt=attempt, **fields)


def _retry_s(attempts: int) -> float:
    return delay_s(attempts + 1, random.random, first_s=FIRST_RETRY_S * 2, cap_s=MAX_RETRY_S, floor_s=FIRST_RETRY_S)
