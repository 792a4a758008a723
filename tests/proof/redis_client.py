"""What fleet/runtime/redis_calls.py talks to instead of a redis.Redis: the model of the server, over the virtual network.

In: the calls RedisStore makes (scripts, a few reads, pipelines). Out: their replies, or redis-py's own errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import redis

from fleet.core.errors import StoreUnavailable
from fleet.core.names import Keys
from fleet.runtime import redis_store
from tests.proof import network
from tests.proof.network import Refusal, Server, Silence
from tests.proof.redis_db import SCRIPTS, Db, Value
from tests.proof.virtual import Process, Task, VirtualTime, World

NAMES = {sha: name for name, sha in redis_store.SHAS.items()}


class RedisServer(Server):
    """One Redis: data, loaded scripts, subscribers, and copies that a stale replica would hold."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "redis")
        self.wall = 0.0
        self.db = Db(lambda: (VirtualTime.EPOCH + world.now + self.wall) * 1000)
        self.db.publish = self._publish
        self.scripts: set[str] = set()
        self.lost_data = False
        self.written: Callable[[str, str, str | None], None] = lambda script, leader, holder: None
        self.subscribers: dict[str, list[FakePoke]] = {}
        self.copies: list[tuple[float, tuple[dict[str, Value], dict[str, float]]]] = []

    def keep_copy(self) -> None:
        self.copies.append((self.world.now, self.db.copy()))

    def fail_over(self, copied_at: float) -> float:
        """The newest copy that is not younger than `copied_at` takes over; returns its instant."""
        when, copy = next((c for c in reversed(self.copies) if c[0] <= copied_at), self.copies[0])
        self.db.restore(copy)
        self.db.order += 1  # it is another process
        self.lost_data = True
        self.scripts.clear()
        self.db.expires = {key: until for key, until in self.db.expires.items() if key in self.db.data}
        return when

    def flush(self) -> None:
        self.lost_data = True
        self.db.flush()

    def script(self, name: str, keys: list[str], argv: list[str]) -> list[str]:
        reply = SCRIPTS[name](self.db, keys, argv)
        if name in ("apply", "fence_worker", "rebuild", "complete", "forget") and reply[0] == "OK":
            self.written(name, argv[0], self.db.get(keys[0]))
        return reply

    def _publish(self, channel: str) -> None:
        for poke in self.subscribers.get(channel, ()):
            poke.deliver()


class Pool:
    def disconnect(self) -> None: ...


class FakeRedis:
    """The client of one thread."""

    connection_pool = Pool()

    def __init__(self, server: RedisServer, timeout_s: float) -> None:
        self._server, self._timeout_s = server, timeout_s

    def _call(self, execute: Callable[[], Any], name: str = "") -> Any:
        try:
            return self._server.call(execute, self._timeout_s, name)
        except Silence as error:
            raise redis.exceptions.TimeoutError("Timeout reading from socket") from error
        except Refusal as error:
            raise redis.exceptions.ConnectionError("Connection refused") from error

    def evalsha(self, sha: str, n: int, *args: Any) -> Any:
        def execute() -> list[str]:
            if sha not in self._server.scripts:
                raise redis.exceptions.NoScriptError("NOSCRIPT")
            return self._server.script(NAMES[sha], list(args[:n]), [str(a) for a in args[n:]])

        return self._call(execute, NAMES[sha])

    def eval(self, text: str, n: int, *args: Any) -> Any:
        name = next(name for name, script in redis_store.SCRIPTS.items() if script == text)

        def execute() -> list[str]:
            self._server.scripts.add(redis_store.SHAS[name])
            return self._server.script(name, list(args[:n]), [str(a) for a in args[n:]])

        return self._call(execute)

    def get(self, key: str) -> Any:
        return self._call(lambda: self._server.db.get(key))

    def hget(self, key: str, field: str) -> Any:
        return self._call(lambda: self._server.db.hget(key, field))

    def hgetall(self, key: str) -> Any:
        return self._call(lambda: dict(self._server.db.hash(key)))

    def hscan(self, key: str, cursor: int, count: int) -> Any:
        return self._call(lambda: self._server.db.hscan(key, cursor, count))

    def hexists(self, key: str, field: str) -> Any:
        return self._call(lambda: self._server.db.hget(key, field) is not None)

    def hset(self, key: str, field: str, value: str) -> Any:
        return self._call(lambda: self._server.db.hset(key, field, value))

    def hdel(self, key: str, field: str) -> Any:
        return self._call(lambda: self._server.db.hdel(key, field))

    def pexpire(self, key: str, ms: int) -> Any:
        return self._call(lambda: self._server.db.pexpire(key, ms))

    def publish(self, channel: str, message: str) -> Any:
        return self._call(lambda: self._server.db.publish(channel))

    def pipeline(self, transaction: bool) -> FakePipeline:
        return FakePipeline(self)

    def close(self) -> None: ...


class FakePipeline:
    """Reads only, in one round trip."""

    def __init__(self, client: FakeRedis) -> None:
        self._client = client
        self._reads: list[Callable[[Db], Any]] = []

    def __enter__(self) -> FakePipeline:
        return self

    def __exit__(self, *_: object) -> None: ...

    def get(self, key: str) -> None:
        self._reads.append(lambda db: db.get(key))

    def pttl(self, key: str) -> None:
        self._reads.append(lambda db: db.pttl(key))

    def time(self) -> None:
        self._reads.append(lambda db: divmod(math.floor(db.now_ms() * 1000), 1_000_000))

    def smembers(self, key: str) -> None:
        self._reads.append(lambda db: db.smembers(key))

    def hgetall(self, key: str) -> None:
        self._reads.append(lambda db: dict(db.hash(key)))

    def hmget(self, key: str, fields: Sequence[str]) -> None:
        self._reads.append(lambda db: [db.hash(key).get(field) for field in fields])

    def hlen(self, key: str) -> None:
        self._reads.append(lambda db: len(db.hash(key)))

    def hscan(self, key: str, cursor: int, count: int) -> None:
        self._reads.append(lambda db: db.hscan(key, cursor, count))

    def execute(self) -> list[Any]:
        reads, self._reads = self._reads, []
        db = self._client._server.db
        return list(self._client._call(lambda: [read(db) for read in reads]))


class FakePoke:
    """fleet.runtime.redis_store.Poke: a subscription that may lose messages and never says so."""

    def __init__(self, server: RedisServer, process: Process, keys: Keys, slot: str) -> None:
        self._server, self._process, self._channel = server, process, keys.channel(slot)
        self._world = server.world
        self._waiting: tuple[Task, int] | None = None
        self._subscribed = self._pending = False

    def wait(self, timeout_s: float) -> bool:
        state = self._server.cut.get(self._process, self._server.state)
        if state == network.REFUSED or (state == network.SILENT and not self._subscribed):
            self.close()
            self._world.block(0.5 if state == network.SILENT else 0.001)
            raise StoreUnavailable("redis: poke")
        if not self._subscribed:
            self._server.subscribers.setdefault(self._channel, []).append(self)
            self._subscribed = True
            return True
        if not self._pending:
            task = self._world.task
            assert task is not None
            self._waiting = (task, task.turn)
            self._world.block(timeout_s)
            self._waiting = None
        pending, self._pending = self._pending, False
        return pending

    def deliver(self) -> None:
        if not self._server.usable(self._process) or self._world.rng.random() < 0.1:
            return
        self._pending = True
        if self._waiting is not None:
            task, turn = self._waiting
            self._world.after(0.001, lambda: self._world.step(task, turn, True))

    def close(self) -> None:
        if self._subscribed:
            self._server.subscribers[self._channel].remove(self)
        self._subscribed = False
