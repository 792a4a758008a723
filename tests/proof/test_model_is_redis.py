"""Layer 2 of the proof: the model of Redis that layer 1 stands on, held against a real Redis.

The state machine of tests/integration/test_redis_scripts.py runs its operations once more, each on both: every reply of every
script and, after every step, every key must be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from fleet.runtime.redis_store import SCRIPTS, SHAS
from tests.integration.test_redis_scripts import Scripts
from tests.proof import redis_db
from tests.proof.redis_db import Db
from tests.support.services import SharedServices

pytestmark = [pytest.mark.integration, pytest.mark.hypothesis]
NAMES = {sha: name for name, sha in SHAS.items()}


class Both:
    """A client that does everything twice: on Redis, and on the model."""

    def __init__(self, client: Any, db: Db) -> None:
        self._client, self.db = client, db

    def evalsha(self, sha: str, n: int, *args: Any) -> Any:
        try:
            reply = self._client.evalsha(sha, n, *args)
        except redis.exceptions.NoScriptError:
            reply = self._client.eval(SCRIPTS[NAMES[sha]], n, *args)
        keys, argv = [str(a) for a in args[:n]], [str(a) for a in args[n:]]
        model = redis_db.SCRIPTS[NAMES[sha]](self.db, keys, argv)
        assert _unordered(NAMES[sha], reply) == _unordered(NAMES[sha], model), f"{NAMES[sha]} {argv}"
        return reply

    def hset(self, key: str, field: str, value: str) -> Any:
        self.db.hset(key, field, value)
        return self._client.hset(key, field, value)

    def hdel(self, key: str, field: str) -> Any:
        self.db.hdel(key, field)
        return self._client.hdel(key, field)

    def delete(self, *keys: str) -> Any:
        self.db.delete(*keys)
        return self._client.delete(*keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _paged(hscan: Any, key: str) -> dict[str, str]:
    """All fields, as readers by pages get them; whether in one page or more is Redis' affair."""
    cursor, found = hscan(key, 0, count=2)
    while cursor:
        cursor, page = hscan(key, cursor, count=2)
        found |= page
    return dict(found)


def _unordered(name: str, reply: Sequence[str]) -> Any:
    """The entries of a view come in no order."""
    if name == "pull" and len(reply) > 4:
        return [*reply[:4], dict(zip(reply[4::2], reply[5::2], strict=True))]
    return list(reply)


def _timeless(value: Any) -> Any:
    """The model's clock stands still: of the time of a beat only that there is one can be the same."""
    return value | {"beat_ms": ""} if isinstance(value, dict) and "beat_ms" in value else value


class ModelIsRedis(Scripts):
    """Scripts, with this model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.db = Db(lambda: 0.0)
        self.store._client = Both(self.store._client, self.db)
        self.raw = Both(self.raw, self.db)  # type: ignore[assignment]

    @invariant()
    def every_key_is_the_same(self) -> None:
        raw: Any = self.raw
        prefix = self.store.keys.prefix
        names = sorted(raw.scan_iter(match=prefix.replace("{", "[{]") + "*"))
        assert names == sorted(self.db.data)
        for name in names:
            kind = raw.type(name)
            found = {"hash": raw.hgetall, "set": raw.smembers, "string": raw.get}[kind](name)
            assert _timeless(found) == _timeless(self.db.data[name]), name
            if kind == "hash":
                assert _paged(raw.hscan, name) == found and _paged(self.db.hscan, name) == self.db.data[name]


def test_the_model_does_what_redis_does(services: SharedServices) -> None:
    machine = type("ModelIsRedisHere", (ModelIsRedis,), {"url": services.redis.url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_every_script_has_a_model() -> None:
    """But for windows, from which no virtual program takes: tests/integration/test_redis_scripts.py proves them, clock windows
    against a model of their own (tests/support/redis_model.py)."""
    assert set(redis_db.SCRIPTS) == set(SCRIPTS) - {"sliding_take", "bucket_observe"}
