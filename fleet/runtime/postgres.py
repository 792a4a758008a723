"""The only door to Postgres (psycopg2): one connection per thread role, named statements, LISTEN, migrations.

In: a libpq DSN and SQL. Out: rows as dicts. Used by coordinator, workers, sinks, console and CLI.

Every call ends by a deadline: the server gets `statement_timeout`, and the client waits in a callback of its own, because
a frozen backend blocks psycopg2 for ever whatever the keepalives. A call that ran into it raises StoreUnavailable, drops
the connection, and nothing is known about its effect.
"""

from __future__ import annotations

import re
import select
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

from fleet.core.errors import FleetError, SettingsError, StoreUnavailable
from fleet.runtime.queries import queries

__all__ = ["Listener", "Params", "Postgres", "Row", "StatementFailed", "Transaction", "migrate", "queries"]

Params = Sequence[Any] | Mapping[str, Any]
Row = dict[str, Any]

CONNECT_TIMEOUT_S = 5.0
CLIENT_GRACE_S = 1.0  # the client gives up this much after the server's own statement_timeout
LISTEN_PROBE_S = 15.0  # a listener that heard nothing asks the server this often whether it is still there
MIGRATION_TIMEOUT_S = 60.0
MIGRATION_LOCK = 0x666C656574  # "fleet": key of the advisory lock that lets one process migrate at a time
MIGRATIONS = "fleet.runtime.sql"
PROGRAM_LIMIT = "54"  # SQLSTATE class: a value too long for its index, or nested too deeply

psycopg2.extensions.register_adapter(dict, psycopg2.extras.Json)
psycopg2.extensions.register_adapter(uuid.UUID, psycopg2.extras.UUID_adapter)
psycopg2.extensions.register_type(  # bytea as bytes; psycopg2 gives memoryviews
    psycopg2.extensions.new_type(
        (17,), "BYTES", lambda value, cursor: None if value is None else bytes(psycopg2.BINARY(value, cursor))
    )
)


class StatementFailed(FleetError):
    """Postgres refused a statement. `is_data` says that the values were at fault (SQLSTATE class 22, 23 or 54)."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(f"{sqlstate}: {text}")
        self.sqlstate = sqlstate
        self.is_data = sqlstate[:2] in ("22", "23", PROGRAM_LIMIT)


class _DeadlineConnection(psycopg2.extensions.connection):
    """A connection that knows until when its current call may take (time.monotonic())."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.deadline = time.monotonic() + CONNECT_TIMEOUT_S
        super().__init__(*args, **kwargs)


def _wait(connection: Any) -> None:
    """psycopg2's wait callback: drive libpq until the call is done or its deadline passed (psycopg2 then closes it)."""
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        # the callback is the whole process's: a connection that others opened has no deadline and simply waits
        deadline = getattr(connection, "deadline", None)
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise psycopg2.OperationalError("no answer before the deadline")
        reading = [connection] if state == psycopg2.extensions.POLL_READ else []
        writing = [connection] if state == psycopg2.extensions.POLL_WRITE else []
        select.select(reading, writing, [], left_s)


psycopg2.extensions.set_wait_callback(_wait)


def _translate(error: Exception) -> FleetError:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, ValueError):  # psycopg2 refuses NUL characters before the server sees them
        return StatementFailed("22021", text)
    state = getattr(error, "pgcode", None) or ""
    if state.startswith(PROGRAM_LIMIT):  # psycopg2 files it under OperationalError, but no later try would succeed
        return StatementFailed(state, text)
    read_only = state == "25006"  # a primary that became a standby: reconnect
    if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.InternalError)) or read_only:
        return StoreUnavailable(f"postgres: {text}")
    return StatementFailed(state or "58000", text)


def _check(dsn: str) -> None:
    """Raises SettingsError also where libpq would take a part of the password for the host or the port, and quote it."""
    try:
        parts = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.Error:
        raise SettingsError("FLEET_POSTGRES_DSN: a libpq connection string or URL is expected") from None
    ports = [port for port in parts.get("port", "").split(",") if port]
    if "@" in parts.get("host", "") or not all(
        re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536 for port in ports
    ):
        raise SettingsError(
            "FLEET_POSTGRES_DSN: no host and port can be read; in the password of a URL @ is written %40, / %2F, : %3A"
        )


def _connect(dsn: str, application: str) -> _DeadlineConnection:
    connection: _DeadlineConnection = psycopg2.connect(
        dsn, connection_factory=_DeadlineConnection, application_name=application
    )
    connection.autocommit = True
    return connection


class Postgres:
    """One connection, opened on first use and again after a failure. Belongs to one thread."""

    def __init__(self, dsn: str, *, application: str, statement_timeout_s: float = 5.0) -> None:
        """`dsn`: libpq keywords or URL. Raises SettingsError where it is neither (its text may hold a password)."""
        _check(dsn)
        self._dsn = dsn
        self._application = application
        self._timeout_s = statement_timeout_s
        self._connection: _DeadlineConnection | None = None
        self._in_transaction = False

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        """Run one statement and return its rows. Raises StoreUnavailable or StatementFailed."""
        with self._cursor(self._timeout_s) as cursor:
            cursor.execute(sql, params or None)
            return [] if cursor.description is None else [dict(row) for row in cursor.fetchall()]

    def execute(self, sql: str, params: Params = ()) -> int:
        """Run one statement and return how many rows it touched. Raises StoreUnavailable or StatementFailed."""
        with self._cursor(self._timeout_s) as cursor:
            cursor.execute(sql, params or None)
            return int(cursor.rowcount)

    @contextmanager
    def transaction(self, timeout_s: float | None = None) -> Iterator[Transaction]:
        """All or nothing; rolled back on any exception. `timeout_s` replaces the deadline of each statement inside.

        StoreUnavailable out of the commit itself means that the outcome is unknown.
        """
        if self._in_transaction:
            raise RuntimeError("a transaction is already open on this connection")
        timeout_s = timeout_s or self._timeout_s
        with self._cursor(timeout_s) as cursor:
            cursor.execute("BEGIN")
            if timeout_s != self._timeout_s:
                cursor.execute(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}")
        self._in_transaction = True
        try:
            yield Transaction(self, timeout_s)
        except BaseException:
            self._rollback()
            raise
        try:  # still "in" it: a connection found dead here must not be replaced by a new one that commits nothing
            with self._cursor(timeout_s) as cursor:
                cursor.execute("COMMIT")
        finally:
            self._in_transaction = False

    def execute_values(self, parts: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
        """Run statements, each with its rows in place of its single `%s`, as one transaction and in one round trip: the server
        takes the statements of one message as a transaction. Raises StoreUnavailable (the outcome may be unknown) or
        StatementFailed (nothing was stored)."""
        if self._in_transaction:
            raise RuntimeError("a transaction is already open on this connection")
        with self._cursor(self._timeout_s) as cursor:
            message = b";\n".join(_filled_in(cursor, sql, rows) for sql, rows in parts if rows)
            if message:
                cursor.execute(message)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        connection, self._connection, self._in_transaction = self._connection, None, False
        if connection is not None:
            connection.close()

    def _rollback(self) -> None:
        self._in_transaction = False
        if self._connection is None or self._connection.closed:
            return
        try:
            with self._cursor(CLIENT_GRACE_S) as cursor:
                cursor.execute("ROLLBACK")
        except FleetError:  # the error that led here matters more; without a connection there is no transaction left
            self.close()

    @contextmanager
    def _cursor(self, timeout_s: float) -> Iterator[Any]:
        """A cursor whose statements share one deadline; psycopg2's errors come out translated, a broken connection closed."""
        try:
            connection = self._ready()
            connection.deadline = time.monotonic() + timeout_s + CLIENT_GRACE_S
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                yield cursor
        except (psycopg2.Error, ValueError) as error:
            translated = _translate(error)
            if translated.retryable and not _survives(error):
                self.close()
            raise translated from error

    def _ready(self) -> _DeadlineConnection:
        if self._connection is not None and not self._in_transaction and _hung_up(self._connection):
            self.close()
        if self._connection is None or self._connection.closed:
            if self._in_transaction:
                raise psycopg2.InterfaceError("the connection was lost inside a transaction")
            self._connection = _connect(self._dsn, self._application)
            self._connection.deadline = time.monotonic() + CONNECT_TIMEOUT_S
            with self._connection.cursor() as cursor:
                cursor.execute(f"SET statement_timeout = {int(self._timeout_s * 1000)}")
        return self._connection


class Transaction:
    """The statements of one open transaction; made by `Postgres.transaction()`."""

    def __init__(self, postgres: Postgres, timeout_s: float) -> None:
        self._postgres = postgres
        self._timeout_s = timeout_s

    def fetch(self, sql: str, params: Params = ()) -> list[Row]:
        with self._postgres._cursor(self._timeout_s) as cursor:
            cursor.execute(sql, params or None)
            return [] if cursor.description is None else [dict(row) for row in cursor.fetchall()]

    def execute(self, sql: str, params: Params = ()) -> int:
        with self._postgres._cursor(self._timeout_s) as cursor:
            cursor.execute(sql, params or None)
            return int(cursor.rowcount)

    def execute_values(self, sql: str, rows: Sequence[Sequence[Any]], *, page_size: int = 1000) -> None:
        """Run `sql`, whose single `%s` stands for the VALUES list, over pages of `rows`."""
        if rows:
            with self._postgres._cursor(self._timeout_s) as cursor:
                psycopg2.extras.execute_values(cursor, sql, rows, page_size=page_size)


def _filled_in(cursor: Any, sql: str, rows: Sequence[Sequence[Any]]) -> bytes:
    """`sql` with its VALUES list, quoted by the client library."""
    before, after = sql.rstrip().rstrip(";").split("%s")
    place = "(" + ",".join(["%s"] * len(rows[0])) + ")"
    return before.encode() + b",".join(cursor.mogrify(place, row) for row in rows) + after.encode()


def _survives(error: Exception) -> bool:
    """A cancelled, deadlocked or conflicting statement fails alone; its connection is sound."""
    return (
        bool(getattr(error, "pgcode", None))
        and str(getattr(error, "pgcode", ""))[:2] in ("40", "55", "57")
        and not (
            isinstance(
                error, (psycopg2.errors.AdminShutdown, psycopg2.errors.CrashShutdown, psycopg2.errors.CannotConnectNow)
            )
        )
    )


def _hung_up(connection: _DeadlineConnection) -> bool:
    """Did the server close this idle connection? The first poll only fetches its farewell, the second one fails."""
    try:
        for _ in range(2):
            if connection.closed:
                return True
            if not select.select([connection], [], [], 0)[0]:
                return False
            connection.poll()
    except (psycopg2.Error, OSError, ValueError):
        return True
    return False


class Listener:
    """LISTEN on one channel. Nothing is queued while it is disconnected, so its owner reloads fully after a failure."""

    def __init__(self, dsn: str, channel: str) -> None:
        self._dsn = dsn
        self._channel = channel
        self._connection: _DeadlineConnection | None = None
        self._probed = 0.0

    def wait(self, timeout_s: float) -> list[str]:
        """Payloads that arrived, [] after `timeout_s`. Raises StoreUnavailable; the next call then connects again."""
        try:
            return self._wait(timeout_s)
        except (psycopg2.Error, OSError, ValueError) as error:
            self.close()
            raise _translate(error) if isinstance(error, psycopg2.Error) else StoreUnavailable("postgres") from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _wait(self, timeout_s: float) -> list[str]:
        until = time.monotonic() + timeout_s
        connection = self._listening()
        while True:
            if connection.notifies:
                payloads = [str(notice.payload) for notice in connection.notifies]
                connection.notifies.clear()
                return payloads
            left_s = until - time.monotonic()
            if left_s <= 0:
                return []
            if time.monotonic() - self._probed > LISTEN_PROBE_S:
                self._probe(connection, "SELECT 1")
            elif select.select([connection], [], [], min(left_s, LISTEN_PROBE_S))[0]:
                connection.poll()  # after the backend died this succeeds once; the loop comes back and the next one raises

    def _listening(self) -> _DeadlineConnection:
        if self._connection is None:
            self._connection = _connect(self._dsn, "fleet listener")
            quoted = psycopg2.extensions.quote_ident(self._channel, self._connection)
            self._probe(self._connection, f"LISTEN {quoted}")
        return self._connection

    def _probe(self, connection: _DeadlineConnection, sql: str) -> None:
        connection.deadline = time.monotonic() + CONNECT_TIMEOUT_S
        with connection.cursor() as cursor:
            cursor.execute(sql)
        self._probed = time.monotonic()


def migrate(postgres: Postgres) -> list[str]:
    """Bring the schema up to date; returns the names applied now. Safe to repeat and from several processes at once."""
    applied: list[str] = []
    with postgres.transaction(timeout_s=MIGRATION_TIMEOUT_S) as tx:
        tx.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        tx.execute(
            "CREATE TABLE IF NOT EXISTS fleet_schema"
            " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done = {int(row["version"]) for row in tx.fetch("SELECT version FROM fleet_schema")}
        for version, name, sql in _migrations():
            if version not in done:
                tx.execute(sql)
                tx.execute("INSERT INTO fleet_schema (version, name) VALUES (%s, %s)", (version, name))
                applied.append(name)
    return applied


def pending_migrations(postgres: Postgres) -> list[str]:
    """Names of the migrations that `migrate` would apply now. Changes nothing."""
    there = postgres.fetch("SELECT to_regclass('fleet_schema') IS NOT NULL AS there")[0]["there"]
    done = {int(row["version"]) for row in postgres.fetch("SELECT version FROM fleet_schema")} if there else set()
    return [name for version, name, _ in _migrations() if version not in done]


def _migrations() -> list[tuple[int, str, str]]:
    files = [f for f in resources.files(MIGRATIONS).iterdir() if f.name[:4].isdigit() and f.name.endswith(".sql")]
    return [(int(f.name[:4]), f.name[:-4], f.read_text(encoding="utf-8")) for f in sorted(files, key=lambda f: f.name)]
