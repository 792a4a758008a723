"""The only door to ClickHouse (clickhouse-connect, which also drives chdb): the market tables, behind one interface.

In: a directory (ClickHouse embedded in this process) or a server URL; blocks of rows. Out: rows of queries. Used by the
ClickHouse sink, `fleet migrate`, demo and tests. One process holds a directory's lock: while the sink runs, others get
StoreUnavailable and look after it stopped.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from fleet.core.errors import FleetError, SettingsError, StoreUnavailable
from fleet.runtime.queries import queries

TABLES = (
    "market_trades",
    "market_klines",
    "market_tickers",
    "market_depth",
    "market_liquidations",
    "market_mark_prices",
)
TTL_DAYS = 90
BOOK_TTL_DAYS = 7
ENGINES = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"
CALL_TIMEOUT_S = 8
CONNECT_TIMEOUT_S = 3
# A batch may reach over more days than the 100 partitions that ClickHouse allows by default, as when a sink starts late.
INSERT_SETTINGS = {"input_format_skip_unknown_fields": 1, "max_partitions_per_insert_block": 0}
# ClickHouse error codes that say the rows are at fault: parsing, types, ranges, constraints.
DATA_CODES = frozenset({6, 25, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 469, 636})

# It logs every failed call with its rows and traceback; what matters of it leaves here as an exception.
logging.getLogger("clickhouse_connect").propagate = False
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)


class RowsRefused(FleetError):
    """ClickHouse could not take a block because of its rows."""


class ClickHouse:
    """One client. Belongs to one thread. Raises StoreUnavailable, or RowsRefused from the inserts."""

    def __init__(self, client: Client, where: str) -> None:
        self._client = client
        self._where = where

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows of Python values as one block."""
        try:
            self._client.insert(table, rows, column_names=list(columns))
        except (ClickHouseError, OSError, TypeError, ValueError, AttributeError) as error:
            raise self._translate(error) from error

    def insert_lines(self, table: str, lines: bytes) -> None:
        """Insert newline-delimited JSON objects as one block; ClickHouse parses them, keys without a column are ignored."""
        try:
            self._client.raw_insert(table, insert_block=lines, fmt="JSONEachRow", settings=INSERT_SETTINGS)
        except (ClickHouseError, OSError) as error:
            raise self._translate(error) from error

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a SELECT; `parameters` fill `{name:Type}` places."""
        try:
            return list(self._client.query(sql, parameters=parameters).named_results())
        except (ClickHouseError, OSError) as error:
            raise self._translate(error, reading=True) from error

    def create(self, ttl_days: int = TTL_DAYS, book_ttl_days: int = BOOK_TTL_DAYS) -> None:
        """Create the tables that are missing. Safe to repeat."""
        for statement in queries("clickhouse").values():
            self._command(statement.replace("{ttl_days}", str(ttl_days)).replace("{book_ttl_days}", str(book_ttl_days)))

    def migrate(self, ttl_days: int, book_ttl_days: int) -> None:
        """Create the tables that are missing, and give those that are there these lives. Safe to repeat."""
        self.create(ttl_days, book_ttl_days)
        engines = {str(row["name"]): str(row["engine_full"]) for row in self.query(ENGINES)}
        for table, statement in queries("clickhouse").items():
            days = book_ttl_days if "{book_ttl_days}" in statement else ttl_days
            if (
                f"toIntervalDay({days})" not in engines[table]
            ):  # only then: it rewrites what is stored, in the background
                self._command(f"ALTER TABLE {table} MODIFY TTL stored_at + INTERVAL {days} DAY")

    def _command(self, sql: str) -> None:
        try:
            self._client.command(sql)
        except (ClickHouseError, OSError) as error:
            raise self._translate(error, reading=True) from error

    def close(self) -> None:
        """Close; the embedded engine gives its directory up."""
        self._client.close()

    def _translate(self, error: Exception, *, reading: bool = False) -> FleetError:
        text = str(error).partition("\n")[0][:300]
        at_fault = isinstance(error, (TypeError, ValueError, AttributeError)) or (
            isinstance(error, DatabaseError) and getattr(error, "code", None) in DATA_CODES
        )
        return RowsRefused(text) if at_fault and not reading else StoreUnavailable(f"clickhouse {self._where}: {text}")


def open(dsn: str) -> ClickHouse:
    """`dsn`: a directory (made if missing), or http[s]:// or clickhouse[s]://user:password@host:port/database.

    Raises StoreUnavailable (server away, directory held by another process) or SettingsError.
    """
    url = server_url(dsn)
    if url is None:
        return _open_directory(dsn)
    secure = url.scheme in ("https", "clickhouses")
    where = f"{url.hostname}:{url.port or (8443 if secure else 8123)}"
    try:
        client = clickhouse_connect.get_client(
            host=url.hostname,
            port=url.port or 0,
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password or ""),
            database=url.path.strip("/") or "default",
            interface="https" if secure else "http",
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=CALL_TIMEOUT_S,
            query_retries=0,
        )
    except (ClickHouseError, OSError) as error:
        raise StoreUnavailable(f"clickhouse {where}: {type(error).__name__}") from error
    return ClickHouse(client, where)


def server_url(dsn: str) -> SplitResult | None:
    """The parts of a server's URL, None for a directory. Raises SettingsError, which quotes nothing: there may be a password."""
    if "://" not in dsn:
        return None
    try:
        url = urlsplit(dsn)
        known = url.scheme in ("http", "https", "clickhouse", "clickhouses") and url.hostname and url.port != 0
    except ValueError:
        known = False
    if not known or "@" in url.path + url.query + url.fragment:  # then a password's own "/", "?" or "#" ended the host
        raise SettingsError(
            "FLEET_CLICKHOUSE_DSN: a directory or http[s]://user:password@host:port/database is expected"
        ) from None
    return url


def _open_directory(path: str) -> ClickHouse:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"FLEET_CLICKHOUSE_DSN={path}: {error.strerror}") from error
    try:
        client = clickhouse_connect.get_client(interface="chdb", path=path)
    except (ClickHouseError, OSError) as error:
        raise StoreUnavailable(f"clickhouse {path}: cannot be opened, another process may hold it") from error
    return ClickHouse(client, path)


def held(directory: str) -> bool:
    """Does an embedded engine run in this directory? Told by the lock it holds; trying to open another one would write the
    engine's own error to standard error."""
    try:
        with (Path(directory) / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go as the file is closed
    except BlockingIOError:
        return True
    except OSError:  # no engine ever ran here
        return False
    return False


def count_rows(dsn: str) -> dict[str, tuple[int, int]]:
    """{table: (rows, unique ids)} of the market tables; rows above ids are repeats not merged yet."""
    store = open(dsn)
    try:
        store.create()
        counts = {}
        for table in TABLES:
            (row,) = store.query(f"SELECT count() AS rows, uniqExact(id) AS ids FROM {table}")
            counts[table] = (int(row["rows"]), int(row["ids"]))
        return counts
    finally:
        store.close()
