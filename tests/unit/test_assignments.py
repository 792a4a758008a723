"""The durable copy of ownership: what Postgres refuses holds nobody up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coordinator.assignments import Assignments
from fleet.core.model import Ownership
from fleet.runtime.postgres import StatementFailed
from tests.support.control import wait_for


class Strict:
    """Stands for Postgres: an account id that is no uuid (here: starts with x) is refused, and its transaction with it."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.deleted: list[str] = []

    @contextmanager
    def transaction(self) -> Iterator[Strict]:
        before = list(self.stored), list(self.deleted)
        try:
            yield self
        except StatementFailed:
            self.stored, self.deleted = before
            raise

    def execute_values(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            if str(row[0]).startswith("x"):
                raise StatementFailed("22P02", "invalid input syntax for type uuid")
            (self.stored if "INSERT" in sql else self.deleted).append(row[0])

    def fetch(self, sql: str, params: Any = ()) -> list[dict[str, Any]]:
        return []

    def close(self) -> None: ...


def test_a_record_that_is_no_accounts_keeps_neither_the_others_nor_verdicts_waiting() -> None:
    strict: Any = Strict()
    assignments = Assignments(lambda: strict, lambda: None)
    records = {f"a{n}": Ownership("h:0", "i", n + 1, "run", 0, 1) for n in range(9)}
    assignments.record(records | {"x1": Ownership("h:0", "i", 50, "run", 0, 1)}, {"x2": 60, "gone": 70})
    assignments.start()
    until_s = time.monotonic() + 5
    while assignments.up_since is None and time.monotonic() < until_s:
        time.sleep(0.01)
    assignments.stop(5)
    assert assignments.up_since is not None  # Postgres counts as there
    assert sorted(strict.stored) == sorted(records) and strict.deleted == ["gone"]


class ReadOnly(Strict):
    """A standby: it can be read."""

    writable = False

    def fetch(self, sql: str, params: Any = ()) -> list[dict[str, Any]]:
        return [{"writable": self.writable}] if "transaction_read_only" in sql else []


def test_where_no_worker_could_beat_there_is_no_witness() -> None:
    """R9: that nobody beat says nothing, and the time that Postgres could be read does not count."""
    standby: Any = ReadOnly()
    assignments = Assignments(lambda: standby, lambda: None)
    assignments.start()
    wait_for(lambda: assignments.up_since is not None, 5, "first probe")
    assert assignments.witness(["h:0"]) is None
    wait_for(lambda: assignments.up_since is None, 5, "no witness")
    assert assignments.witness(["h:0"]) is None
    standby.writable = True
    wait_for(lambda: assignments.witness(["h:0"]) is not None, 5, "a witness")
    reading = assignments.witness(["h:0", "h:1"])
    assert reading is not None and reading.slots == {"h:0"}  # what was read holds for who was asked for
    wait_for(lambda: assignments.witness(["h:0", "h:1"]).slots == {"h:0", "h:1"}, 5, "both")  # type: ignore[union-attr]
    assignments.stop(5)
    assert assignments.up_since is not None
