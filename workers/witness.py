"""The second heartbeat path (R5d): while Redis is away, the lease is renewed through a row of Postgres.

In: questions of the heartbeat thread. Out: answers it collects at its next beat. Runs in each `workers userdata` process on a
thread of its own, so that a frozen Postgres never delays a beat.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from fleet.core.errors import FleetError
from fleet.core.lease import Answer
from fleet.runtime.logs import get
from fleet.runtime.postgres import Postgres, queries


class Witness:
    """Beats in Postgres on request; `ask` and `answers` never block."""

    def __init__(self, postgres: Callable[[], Postgres], slot: str, clock: Callable[[], float]) -> None:
        self._factory, self._slot, self._clock = postgres, slot, clock
        self._questions: queue.Queue[str | None] = queue.Queue(maxsize=1)
        self._answers: queue.SimpleQueue[tuple[float, str, Answer]] = queue.SimpleQueue()
        self._sql = queries("witness")
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._put(None)

    def ask(self, incarnation: str) -> None:
        """Never blocks: while one question is on its way, further ones are dropped."""
        self._put(incarnation)

    def answers(self, incarnation: str) -> list[tuple[float, Answer]]:
        """(asked_at, answer) of the questions answered since the last call; those of a former incarnation are dropped."""
        found: list[tuple[float, Answer]] = []
        while not self._answers.empty():
            asked_at, asked_by, answer = self._answers.get()
            if asked_by == incarnation:
                found.append((asked_at, answer))
        return found

    def _put(self, question: str | None) -> None:
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            return

    def _run(self) -> None:
        pg: Postgres | None = None
        silent = False
        while (incarnation := self._questions.get()) is not None:
            asked_at = self._clock()  # before the send (R4); a question may have waited for the one before it
            try:
                pg = pg or self._factory()
                rows: list[dict[str, Any]] = pg.fetch(
                    self._sql["beat"], {"slot": self._slot, "incarnation": incarnation}
                )
                self._answers.put((asked_at, incarnation, Answer.OK if rows else Answer.FENCED))
                silent = False
            except FleetError as error:
                if not silent:
                    get("witness").warning("no witness", action="witness", shard=self._slot, error=str(error))
                silent = True
                self._answers.put((asked_at, incarnation, Answer.NONE))
        if pg is not None:
            pg.close()
