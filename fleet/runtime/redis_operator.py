"""What operators ask of a fleet through Redis, and the buckets that all its processes share.

In: wishes; an amount and a rate. Out: whether anybody is there to fulfil them; 0.0 or how long to wait. Part of
`redis_store.RedisStore`; runs in the CLI and the console, the buckets in workers and market data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.core import wire
from fleet.core.exchange import Rate
from fleet.runtime.redis_calls import RedisCalls

WISH_S = 600  # an operator's wish that nobody fulfils is forgotten


class OperatorCalls(RedisCalls):
    """A wish is a field or a key that whoever fulfils it reads in its own time."""

    def set_drain(self, slot: str, drain: bool) -> bool:
        """Ask for a worker to be emptied (or no longer). False where no such worker is registered."""
        key = self.keys.worker(slot)
        if not self._call(self._client.hexists, key, "inc"):
            return False
        if drain:
            self._call(self._client.hset, key, "drain", "1")
        else:
            self._call(self._client.hdel, key, "drain")
        return True

    def ask_rotation(self, slot: str, wish: str) -> None:
        """Ask a worker to replace all its sockets. `wish`: a new id, by which its progress is known (WorkerView.rotation)."""
        self._call(self._client.hset, self.keys.worker(slot), "rotate", wire.check_name(wish))

    def ask_rebalance(self) -> None:
        """Ask the leader to even out the load now, and not slowly; it withdraws the wish when nothing is left to do."""
        self._call(self._client.setex, self.keys.rebalance, WISH_S, "1")

    def withdraw_rebalance(self) -> None:
        self._call(self._client.delete, self.keys.rebalance)

    def budgets(self) -> list[dict[str, Any]]:
        """The shared buckets: `[{kind, exchange, egress_ip, tokens, burst, per_s, blocked_s}]`, refilled to now."""
        prefix = self.keys.prefix + "budget:"
        seconds, micros = self._call(self._client.time)
        now, names, cursor = seconds + micros / 1e6, list[str](), -1
        while cursor:  # each step a call: how many there are depends on whatever else this Redis holds
            cursor, found = self._call(self._client.scan, max(cursor, 0), _escape(prefix) + "*", 500)
            names += found
        return [_bucket_row(n[len(prefix) :], self._call(self._client.hgetall, n), now) for n in sorted(set(names))]


class BucketCalls(RedisCalls):
    """Token buckets and sliding windows, by Redis' clock."""

    def bucket_take(
        self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0
    ) -> float:
        """Take from the shared bucket, leaving `reserve` in it: 0.0 = granted, else seconds until it is worth asking again."""
        key = self.keys.budget(kind, exchange, egress_ip)
        args = [amount, rate.burst, rate.per_s, 0, rate.window_s, reserve]
        return int(self._run("sliding_take" if rate.sliding else "bucket_take", [key], args)[0]) / 1000

    def bucket_block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        """Nobody takes from this bucket for `seconds`; a shorter block never shortens a longer one."""
        self._run("bucket_take", [self.keys.budget(kind, exchange, egress_ip)], [0, 1, 1, seconds, 0])


def _escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _bucket_row(name: str, fields: Mapping[str, str], now: float) -> dict[str, Any]:
    exchange, _, rest = name.partition(":")
    egress_ip, kind = (rest[: -len(":weight")], "weight") if rest.endswith(":weight") else (rest, "dial")
    burst, per_s = float(fields.get("burst", 0)), float(fields.get("per_s", 0))
    if "window" in fields:  # sliding: what the last window's parts left
        oldest = now // (float(fields["window"]) / 60) - 60
        tokens = burst - sum(float(n) for part, n in fields.items() if part[1:].isdigit() and int(part[1:]) >= oldest)
    else:
        tokens = min(burst, float(fields.get("tokens", burst)) + max(0.0, now - float(fields.get("at", now))) * per_s)
    blocked_s = max(0.0, float(fields.get("blocked_until", 0)) - now)
    return {
        "kind": kind, "exchange": exchange, "egress_ip": egress_ip, "tokens": round(tokens, 3),
        "burst": burst, "per_s": per_s, "blocked_s": round(blocked_s, 3),
    }  # fmt: skip
