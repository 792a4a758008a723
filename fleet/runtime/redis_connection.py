"""The one door to redis-py: `connect` returns a client of one connection to the server that holds this fleet's keys.

In: FLEET_REDIS_URL (`redis_place`), the budget of a call, a key. Out: a `redis.Redis` that never retries. Used by
`redis_store`, in every process.

All keys of a fleet share one hash tag, so in a cluster too there is exactly one server to talk to, and Sentinel and Cluster are
one thing: who is it now? That is asked each time a connection opens; after any error the connection is closed, so the next
call asks again. redis-py's RedisCluster and SentinelConnectionPool are not used: both try one node after the other with a full
timeout each, and RedisCluster follows 16 redirections and refreshes its topology inside a call; neither can keep a call within a
budget that a worker's lease counts on. Here looking up, opening and the first command share the budget of one call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from fleet.core.errors import SettingsError
from fleet.runtime import redis_place
from fleet.runtime.redis_place import Node, Place

__all__ = ["FAILURES", "NoScriptError", "connect"]

FAILURES = (RedisError, OSError)  # whatever a call can raise
LOOKUP = 0.6  # of the budget: the rest is left to open the connection and to run the command
TRIES = 3  # nodes that are asked within one call; the next call begins with another one
LEARNED = 16  # cluster nodes that are remembered beside those of the URL

Locate = Callable[[float], Node]


def connect(url: str, timeout_s: float, key: str) -> redis.Redis:
    """A client of one connection for the server that holds `key`. RESP2: no HELLO, one round trip less on each reconnect.

    Nothing is opened yet. Raises SettingsError where the URL is not understood.
    """
    place = redis_place.parse(url)
    once: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "protocol": 2,
        "legacy_responses": True,
        "health_check_interval": 0,
        "driver_info": None,
    }
    if place.form == "server":
        try:
            client: redis.Redis = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, max_connections=1, **once
            )
        except ValueError:
            raise SettingsError(redis_place.EXPECTED) from None  # the cause would quote the URL
        return client
    ask = Asking(place, key, once)
    pool = redis.ConnectionPool(
        connection_class=LocatedTls if place.tls else Located,
        max_connections=1,
        locate=ask.locate,
        budget_s=timeout_s,
        socket_timeout=timeout_s,
        redis_connect_func=_confirm_master if place.form == "sentinel" else None,
        db=place.db,
        username=place.username or None,
        password=place.password or None,
        **_tls(place),
        **once,
    )
    return redis.Redis(connection_pool=pool)


class Located(redis.Connection):
    """A connection that looks up its server each time it opens, all within the budget of one call."""

    _sock: Any

    def __init__(self, *, locate: Locate, budget_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._locate, self._budget_s = locate, budget_s
        self._until = 0.0  # the call that opened the connection must be over by then

    def _connect(self) -> Any:
        now = time.monotonic()
        self._until = now + self._budget_s
        self.host, self.port = self._locate(now + LOOKUP * self._budget_s)
        self._limit()
        opened = super()._connect()  # type: ignore[no-untyped-call]
        self._limit()
        opened.settimeout(self.socket_timeout)
        return opened

    def _limit(self) -> None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise redis.exceptions.TimeoutError("the budget of the call is spent")
        self.socket_timeout = self.socket_connect_timeout = left_s

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._until and time.monotonic() > self._until and self._sock is not None:
            self._until = 0.0
            self.socket_timeout = self._budget_s
            self._sock.settimeout(self._budget_s)
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]


class LocatedTls(Located, redis.SSLConnection):
    """The same over TLS."""


def _confirm_master(connection: Any) -> None:
    """A sentinel that was cut off may name a former master, which answers reads as if nothing had happened."""
    connection.on_connect()
    connection.send_command("ROLE", check_health=False)
    if connection.read_response()[0] != "master":
        raise redis.exceptions.ReadOnlyError("a sentinel named a server that is not the master")


class Asking:
    """Who holds the key now, by the sentinels or by any node of the cluster. One per client."""

    def __init__(self, place: Place, key: str, once: dict[str, Any]) -> None:
        self._place, self._once = place, once
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
                self._last(node)
                continue
            return found
        raise redis.exceptions.ConnectionError(f"no {self._place.form} node says who the master is: {error}") from error

    def _turns(self, until: float) -> Iterator[tuple[Node, float]]:
        with self._lock:
            nodes = self._nodes[:TRIES]
        for number, node in enumerate(nodes):
            left_s = until - time.monotonic()
            if left_s > 0:
                yield node, left_s / (len(nodes) - number)

    def _last(self, node: Node) -> None:
        """It did not know: the others come first from now on."""
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
        each_s = timeout_s / 2  # to connect, to answer
        return redis.Redis(
            host=node[0],
            port=node[1],
            username=username,
            password=password,
            socket_timeout=each_s,
            socket_connect_timeout=each_s,
            max_connections=1,
            ssl=self._place.tls,
            **_tls(self._place),
            **self._once,
        )


def _tls(place: Place) -> dict[str, Any]:
    return {"ssl_ca_certs": place.options["ssl_ca_certs"]} if place.tls and "ssl_ca_certs" in place.options else {}
