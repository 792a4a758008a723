"""Postgres as plain Python: the statements of coordinator/sql/control.sql and fleet/runtime/sql/witness.sql over dicts.

In: the statements' texts and parameters, as coordinator/ and workers/ send them. Out: rows, or StoreUnavailable. A commit
whose reply is lost has happened. Notifications reach listeners that are connected at that instant, as in reality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fleet.core.errors import StoreUnavailable
from fleet.runtime.queries import queries
from tests.proof import network
from tests.proof.network import Refusal, Server, Silence
from tests.proof.virtual import Process, Task, World

CONTROL = queries("control", "coordinator.sql")
WITNESS = queries("witness")
READS = {"active_accounts", "some_accounts", "assignments", "quarantine", "age", "writable"}
NAMES = {sql: name for name, sql in (CONTROL | WITNESS).items()}


@dataclass
class Row:
    """exchange_accounts, what the control path sees of it."""

    id: str
    active: bool = True
    revision: int = 1
    exchange: str = "binance"


@dataclass
class Witnessed:
    incarnation: str
    beat: int
    updated_at: float
    fenced: str | None = None


@dataclass
class Tables:
    accounts: dict[str, Row] = field(default_factory=dict)
    term: int = 0
    assignment: dict[str, tuple[str, str, int, int, int, str]] = field(default_factory=dict)
    quarantine: dict[str, dict[str, Any]] = field(default_factory=dict)  # by incident, oldest first
    witness: dict[str, Witnessed] = field(default_factory=dict)


class PostgresServer(Server):
    """Tables and what may be done with them. `wall` is how far its clock is off."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "postgres")
        self.tables = Tables()
        self.wall = 0.0
        self.read_only = False
        self.listeners: list[FakeListener] = []

    def changed(self, account: str) -> None:
        for listener in self.listeners:
            listener.deliver(account)

    def lose_listeners(self) -> None:
        for listener in list(self.listeners):
            listener.broken()

    def run(self, name: str, params: Any) -> list[dict[str, Any]]:
        if self.read_only and name not in READS:
            raise StoreUnavailable("postgres: cannot execute it in a read-only transaction")
        rows: list[dict[str, Any]] = getattr(self, f"_{name}")(params)
        return rows

    # ── statements ───────────────────────────────────────────────────────────────────────────────────────────────
    def _active_accounts(self, _: Any) -> list[dict[str, Any]]:
        return [self._row(row) for row in self.tables.accounts.values() if row.active]

    def _some_accounts(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [self._row(row) for row in self.tables.accounts.values() if row.active and row.id in params["ids"]]

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "id": row.id, "user_id": "u", "exchange": row.exchange, "market": "usdm", "label": row.id,
            "is_testnet": False, "revision": row.revision, "telegram_chat_id": None, "created_at_ms": 0,
            "has_credentials": True,
        }  # fmt: skip

    def _next_term(self, _: Any) -> list[dict[str, Any]]:
        self.tables.term += 1
        return [{"term": self.tables.term}]

    def _assignments(self, _: Any) -> list[dict[str, Any]]:
        return [
            {
                "account_id": a,
                "slot": s,
                "incarnation": i,
                "token": str(t),
                "since_ms": ms,
                "revision": r,
                "egress_ip": ip,
            }
            for a, (s, i, t, ms, r, ip) in self.tables.assignment.items()
        ]

    def _store_assignments(self, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        table = self.tables.assignment
        for account, slot, incarnation, token, since_ms, revision, egress_ip in rows:
            if account not in table or table[account][2] <= int(token):
                table[account] = (slot, incarnation, int(token), since_ms, revision, egress_ip)
        return []

    def _delete_assignments(self, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        table = self.tables.assignment
        for account, token in rows:
            if account in table and table[account][2] <= int(token):
                del table[account]
        return []

    def _quarantine(self, _: Any) -> list[dict[str, Any]]:
        return list({row["account_id"]: row for row in self.tables.quarantine.values()}.values())

    def _store_quarantine(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        self.tables.quarantine.setdefault(params["incident"], {**params, "cleared": False})
        self.changed(params["account_id"])
        return []

    def _lift_quarantine(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        row = self.tables.quarantine.get(params["incident"])
        if row is not None:
            self.tables.quarantine[params["incident"]] = {**row, "cleared": True}
            self.changed(row["account_id"])
        return []

    def _beat(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        row = self.tables.witness.get(params["slot"])
        if row is None:
            self.tables.witness[params["slot"]] = Witnessed(params["incarnation"], 1, self._clock())
            return [{"beat": 1}]
        if row.fenced == params["incarnation"]:
            return []
        row.incarnation, row.beat, row.updated_at = params["incarnation"], row.beat + 1, self._clock()
        return [{"beat": row.beat}]

    def _age(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        now = self._clock()
        return [
            {
                "slot": s,
                "incarnation": r.incarnation,
                "beat": r.beat,
                "fenced_inc": r.fenced,
                "age_s": now - r.updated_at,
            }
            for s, r in self.tables.witness.items()
            if s in params["slots"]
        ]

    def _writable(self, _: Any) -> list[dict[str, Any]]:
        return [{"writable": not self.read_only}]

    def _fence(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        row = self.tables.witness.get(params["slot"])
        if row is None:
            self.tables.witness[params["slot"]] = Witnessed(params["incarnation"], 0, -1e9, params["incarnation"])
        else:
            row.fenced = params["incarnation"]
        return []

    def _clock(self) -> float:
        return self.world.now + self.wall


class FakePostgres:
    """fleet.runtime.postgres.Postgres of one thread."""

    def __init__(self, server: PostgresServer, statement_timeout_s: float) -> None:
        self._server, self._timeout_s = server, statement_timeout_s

    def _call(self, execute: Callable[[], Any]) -> Any:
        try:
            return self._server.call(execute, self._timeout_s)
        except (Silence, Refusal) as error:
            raise StoreUnavailable(f"postgres: {type(error).__name__}") from error

    def fetch(self, sql: str, params: Any = ()) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._call(lambda: self._server.run(NAMES[sql], params))
        return rows

    def execute(self, sql: str, params: Any = ()) -> int:
        self._call(lambda: self._server.run(NAMES[sql], params))
        return 1

    @contextmanager
    def transaction(self, timeout_s: float | None = None) -> Iterator[FakeTransaction]:
        transaction = FakeTransaction()
        yield transaction
        work = transaction.work

        def commit() -> None:
            for name, rows in work:
                self._server.run(name, rows)

        self._call(commit)

    def close(self) -> None: ...


class FakeTransaction:
    """Writes kept until the commit."""

    def __init__(self) -> None:
        self.work: list[tuple[str, Any]] = []

    def execute_values(self, sql: str, rows: Sequence[Sequence[Any]], **_: Any) -> None:
        if rows:
            self.work.append((NAMES[sql], list(rows)))

    def execute(self, sql: str, params: Any = ()) -> int:
        self.work.append((NAMES[sql], params))
        return 1


class FakeListener:
    """fleet.runtime.postgres.Listener: nothing is queued while disconnected."""

    def __init__(self, server: PostgresServer, process: Process) -> None:
        self._server, self._process, self._world = server, process, server.world
        self._payloads: list[str] = []
        self._connected = False
        self._waiting: tuple[Task, int] | None = None

    def wait(self, timeout_s: float) -> list[str]:
        state = self._server.cut.get(self._process, self._server.state)
        if state != network.OPEN:
            self.broken()
            self._world.block(3.0 if state == network.SILENT else 0.001)
            raise StoreUnavailable("postgres: listener")
        if not self._connected:
            self._connected = True
            self._server.listeners.append(self)
        if not self._payloads and timeout_s > 0:
            task = self._world.task
            assert task is not None
            self._waiting = (task, task.turn)
            self._world.block(timeout_s)
            self._waiting = None
        if not self._connected:
            raise StoreUnavailable("postgres: listener lost")
        payloads, self._payloads = self._payloads, []
        return payloads

    def deliver(self, payload: str) -> None:
        if not self._server.usable(self._process):
            return
        self._payloads.append(payload)
        if self._waiting is not None:
            task, turn = self._waiting
            self._world.after(0.002, lambda: self._world.step(task, turn, True))

    def broken(self) -> None:
        if self._connected:
            self._connected = False
            self._payloads.clear()
            self._server.listeners.remove(self)

    def close(self) -> None:
        self.broken()


__all__ = ["FakeListener", "FakePostgres", "PostgresServer", "Row", "World"]
