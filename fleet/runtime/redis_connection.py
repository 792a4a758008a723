"""The one door to redis-py: `connect` returns a client of one connection to the server that holds this fleet's keys.

In: FLEET_REDIS_URL (`redis_place`), the budget of a call, a key. Out: a `redis.Redis` that never retries. Used by
`redis_calls`, in every process.

All keys of a fleet share one hash tag, so in a cluster too there is exactly one server to talk to, and Sentinel and Cluster are
one thing: who is it now? That is asked each time a connection opens; after any error the connection is closed, so the next
call asks again. redis-py's RedisCluster and SentinelConnectionPool are not used: both try one node after the other with a full
timeout each, and RedisCluster follows 16 redirections and refreshes its topology inside a call; neither can keep a call within a
budget that a worker's lease counts on. Here looking up, names included, opening, logging in and every command of one call share
its budget, in all three forms: each step waits for what the steps before it left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from fleet.core.errors import SettingsError
from fleet.runtime import redis_place
from fleet.runtime.deadline import Deadline, Names
from fleet.runtime.redis_place import Node, Place

__all__ = ["FAILURES", "NoScriptError", "connect"]

FAILURES = (RedisError, OSError)  # whatever a call can raise
LOOKUP = 0.6  # of the budget: the rest is left to open the connection and to run the command
TRIES = 3  # nodes that are asked within one call; the next call begins with the one after them
LEARNED = 16  # cluster nodes that are remembered beside those of the URL
ARRIVED_S = 0.02  # a reply that follows a long one may still be read

Locate = Callable[[float], Node]
NAMES = Names()


def connect(url: str, timeout_s: float, key: str, deadline: Deadline | None = None) -> redis.Redis:
    """A client of one connection for the server that holds `key`. RESP2: no HELLO, one round trip less on each reconnect.

    What runs inside `with deadline:` shares its time; without one each step has `timeout_s`. Nothing is opened yet. Raises
    SettingsError where the URL is not understood.
    """
    place = redis_place.parse(url)
    deadline = deadline or Deadline(timeout_s)
    if place.form == "server":
        try:
            given: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
        except ValueError:
            raise SettingsError(redis_place.EXPECTED) from None  # the cause would quote the URL
        kind = BOUNDED[given.pop("connection_class", redis.Connection)]
        return _client(kind, deadline, {name: value for name, value in given.items() if _wanted(name)})
    login = {"username": place.username or None, "password": place.password or None}
    options = login | _tls(place) | {"db": place.db, "locate": Asking(place, key).locate}
    if place.form == "sentinel":
        options["redis_connect_func"] = _confirm_master
    return _client(BoundedTls if place.tls else Bounded, deadline, options)


def _client(kind: type[Within], deadline: Deadline, options: Mapping[str, Any]) -> redis.Redis:
    pool = redis.ConnectionPool(
        connection_class=kind, max_connections=1, retry=Retry(NoBackoff(), 0), decode_responses=True, protocol=2,
        legacy_responses=True, health_check_interval=0, driver_info=None, deadline=deadline, **options,
    )  # fmt: skip
    return redis.Redis.from_pool(pool)


def _wanted(option: str) -> bool:
    """Where to go and as whom; how long to wait and how often to try is not the URL's to say."""
    return option in ("host", "port", "path", "db", "username", "password") or option.startswith("ssl_")


class Within(redis.connection.AbstractConnection):
    """Each step waits for what the steps of the same call have left."""

    _sock: Any

    def __init__(self, *, deadline: Deadline, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._deadline = deadline
        self.socket_timeout = self.socket_connect_timeout = deadline.budget_s

    def _left_s(self) -> float:
        left_s = self._deadline.left_s()
        if left_s <= 0:
            raise redis.exceptions.TimeoutError("the budget of the call is spent")
        return left_s

    def _connect(self) -> Any:
        self.socket_connect_timeout = self._left_s()
        opened = super()._connect()  # type: ignore[safe-super,no-untyped-call]
        opened.settimeout(self._left_s())
        return opened

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        left_s = self._left_s()
        if self._sock is not None:
            self._sock.settimeout(left_s)
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if self._sock is not None and "timeout" not in kwargs:
            self._sock.settimeout(max(self._deadline.left_s(), ARRIVED_S))
        return super().read_response(*args, **kwargs)


class Bounded(Within, redis.Connection):
    """Over TCP, to the server that `locate` finds each time the connection opens, or to the one given."""

    def __init__(self, *, locate: Locate | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._locate = locate

    def _connect(self) -> Any:
        if self._locate is not None:
            self.host, self.port = self._locate(time.monotonic() + LOOKUP * self._left_s())
        name = self.host
        try:
            return self._first(NAMES.addresses(name, self._left_s()))
        finally:
            self.host = name  # what a certificate is compared with, and what errors show

    def _first(self, addresses: list[str]) -> Any:
        error: OSError = OSError("a host name without an address")
        for address in addresses:
            self.host = address
            try:
                return super()._connect()
            except OSError as failed:
                error = failed
        raise error


class BoundedTls(redis.SSLConnection, Bounded):
    """The same over TLS."""


class BoundedUnix(Within, redis.UnixDomainSocketConnection):
    """Over a Unix socket."""


BOUNDED: dict[type[Any], Any] = {
    redis.Connection: Bounded,
    redis.SSLConnection: BoundedTls,
    redis.UnixDomainSocketConnection: BoundedUnix,
}


def _confirm_master(connection: Any) -> None:
    """A sentinel that was cut off may name a former master, which answers reads as if nothing had happened."""
    connection.on_connect()
    connection.send_command("ROLE", check_health=False)
    if connection.read_response()[0] != "master":
        raise redis.exceptions.ReadOnlyError("a sentinel named a server that is not the master")


class Asking:
    """Who holds the key now, by the sentinels or by any node of the cluster. One per client."""

    def __init__(self, place: Place, key: str) -> None:
        self._place = place
        self._slot = key_slot(key.encode())
        self._nodes = list(place.nodes)
        self._lock = (
            threading.Lock()
        )  # guards _nodes: a client may be closed by another thread than the one that opens it

    def locate(self, until: float) -> Node:
        """Ask up to TRIES nodes, who share the time until `until`. Raises what redis raises when none of them says it."""
        error: Exception = redis.exceptions.ConnectionError("no time was left to ask")
        for node, timeout_s in self._turns(until):
            try:
                found = (
                    self._master_by(node, timeout_s)
                    if self._place.form == "sentinel"
                    else self._owner_by(node, timeout_s)
                )
            except FAILURES as failed:
                error = failed
                continue
            return found
        raise redis.exceptions.ConnectionError(f"no {self._place.form} node says who the master is: {error}") from error

    def _turns(self, until: float) -> Iterator[tuple[Node, float]]:
        with self._lock:
            nodes = self._nodes[:TRIES]
        for number, node in enumerate(nodes):
            left_s = until - time.monotonic()
            if left_s > 0:
                self._last(node)
                yield node, left_s / (len(nodes) - number)

    def _last(self, node: Node) -> None:
        """It had its turn: whether it answered or not, and it may know no better than to name a former master."""
        with self._lock:
            self._nodes.remove(node)
            self._nodes.append(node)

    def _master_by(self, node: Node, timeout_s: float) -> Node:
        options = self._place.options
        login = options.get("sentinel_username"), options.get("sentinel_password")
        client = self._client(node, timeout_s, *login)
        try:
            found: Any = client.sentinel_get_master_addr_by_name(self._place.master)
        finally:
            client.close()
        if not found:
            raise redis.exceptions.ConnectionError(f"a sentinel knows no master {self._place.master}")
        return str(found[0]), int(found[1])

    def _owner_by(self, node: Node, timeout_s: float) -> Node:
        login = self._place.username or None, self._place.password or None
        client: Any = self._client(node, timeout_s, *login)
        try:
            spans = client.execute_command("CLUSTER SLOTS")
            owners = {(int(s[0]), int(s[1])): (str(s[2][0] or node[0]), int(s[2][1])) for s in spans}
        except (TypeError, ValueError, IndexError):
            raise redis.exceptions.InvalidResponse("a reply to CLUSTER SLOTS of an unknown shape") from None
        finally:
            client.close()
        with self._lock:
            new = [each for each in dict.fromkeys(owners.values()) if each not in self._nodes]
            self._nodes += new[: max(0, LEARNED - len(self._nodes))]
        for (first, last), owner in owners.items():
            if first <= self._slot <= last:
                return owner
        raise redis.exceptions.ConnectionError("no node of the cluster holds this fleet's slot")

    def _client(self, node: Node, timeout_s: float, username: str | None, password: str | None) -> redis.Redis:
        options = {"host": node[0], "port": node[1], "username": username, "password": password}
        return _client(BoundedTls if self._place.tls else Bounded, Deadline(timeout_s), options | _tls(self._place))


def _tls(place: Place) -> dict[str, Any]:
    return {"ssl_ca_certs": place.options["ssl_ca_certs"]} if place.tls and "ssl_ca_certs" in place.options else {}
