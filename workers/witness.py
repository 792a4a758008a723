"""The second heartbeat path (R5d): while Redis is away, the lease is renewed through a row of Postgres.

In: questions of the heartbeat thread. Out: answers it collects at its next beat. Runs in each `workers userdata` process on a
thread of its own, so that a frozen Postgres never delays a beat.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from fleet.core.errors import FleetError
from fleet.core.lease import Answer
from fleet.runtime.logs import get
from fleet.runtime.postgres import Postgres, queries


class Witness:
    """Beats, or fences another incarnation, in Postgres on request; `ask`, `fence` and `answers` never block."""

    def __init__(self, postgres: Callable[[], Postgres], slot: str, clock: Callable[[], float]) -> None:
        self._factory, self._slot, self._clock = postgres, slot, clock
        self._questions: queue.Queue[tuple[str, str] | None] = queue.Queue(maxsize=1)
        self._answers: queue.SimpleQueue[tuple[float, str, Answer]] = queue.SimpleQueue()
        self._sql = queries("witness")
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._put(None)

    def ask(self, incarnation: str) -> None:
        """Never blocks: while one question is on its way, further ones are dropped."""
        self._put(("beat", incarnation))

    def fence(self, incarnation: str) -> None:
        """From the answer on, no beat of this incarnation of the slot is accepted."""
        self._put(("fence", incarnation))

    def answers(self, incarnation: str) -> list[tuple[float, Answer]]:
        """(asked_at, answer) of the questions about this incarnation that were answered since the last call; those about
        another one are dropped."""
        found: list[tuple[float, Answer]] = []
        while not self._answers.empty():
            asked_at, asked_about, answer = self._answers.get()
            if asked_about == incarnation:
                found.append((asked_at, answer))
        return found

    def _put(self, question: tuple[str, str] | None) -> None:
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            return

    def _run(self) -> None:
        pg: Postgres | None = None
        silent = False
        while (question := self._questions.get()) is not None:
            asked_at = self._clock()  # before the send (R4); a question may have waited for the one before it
            statement, incarnation = question
            values = {"slot": self._slot, "incarnation": incarnation}
            try:
                pg = pg or self._factory()
                if statement == "fence":
                    pg.execute(self._sql["fence"], values)
                    answer = Answer.OK
                else:
                    answer = Answer.OK if pg.fetch(self._sql["beat"], values) else Answer.FENCED
                self._answers.put((asked_at, incarnation, answer))
                silent = False
            except FleetError as error:
                if not silent:
                    get("witness").warning("no witness", action="witness", shard=self._slot, error=str(error))
                silent = True
                self._answers.put((asked_at, incarnation, Answer.NONE))
        if pg is not None:
            pg.close()
