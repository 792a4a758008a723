"""What operators ask of a fleet through Redis, and the buckets that all its processes share.

In: wishes; an amount and a rate. Out: whether anybody is there to fulfil them; 0.0 or how long to wait. Part of
`redis_store.RedisStore`; runs in the CLI and the console, the buckets in workers and market data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleet.core import wire
from fleet.core.budget import Taken
from fleet.core.exchange import Rate
from fleet.runtime.redis_calls import RedisCalls

UNKNOWN_PART = (
    1 / 12
)  # of a window, for a bucket that does not know what was spent: what Binance allows beyond our own bursts
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
    ) -> Taken:
        """Take from the shared bucket, leaving `reserve` in it; where it is refused `wait_s` says when it is worth asking again."""
        key = self.keys.budget(kind, exchange, egress_ip)
        args = [amount, rate.burst, rate.per_s, 0, rate.window_s, reserve, _first(rate)]
        return _taken(self._run("sliding_take" if rate.sliding else "bucket_take", [key], args))

    def bucket_observe(
        self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, age_s: float, unknown_since: str
    ) -> Taken:
        """The exchange answered a call sent `age_s` ago with what this address has used. `unknown_since`: what the bucket had
        said by the time that call was sent."""
        key = self.keys.budget(kind, exchange, egress_ip)
        args = [used, rate.burst, rate.window_s, f"{age_s:.6f}", _first(rate), unknown_since]
        return _taken(self._run("bucket_observe", [key], args))

    def bucket_block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        """Nobody takes from this bucket for `seconds`; a shorter block never shortens a longer one."""
        self._run("bucket_take", [self.keys.budget(kind, exchange, egress_ip)], [0, 1, 1, seconds, 0])


def _first(rate: Rate) -> float:
    """What a bucket begins with in the middle of a window of which it knows nothing."""
    return rate.burst * UNKNOWN_PART if rate.used_header and rate.window_s else rate.burst


def _taken(reply: Sequence[str]) -> Taken:
    return Taken(int(reply[0]) / 1000, *((float(reply[1]), reply[2]) if len(reply) > 2 else ()))


def _escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _bucket_row(name: str, fields: Mapping[str, str], now: float) -> dict[str, Any]:
    exchange, _, rest = name.partition(":")
    egress_ip, kind = (rest[: -len(":weight")], "weight") if rest.endswith(":weight") else (rest, "dial")
    burst, per_s = float(fields.get("burst", 0)), float(fields.get("per_s", 0))
    if "window" in fields:  # sliding: what the last window's parts left
        oldest = now // (float(fields["window"]) / 60) - 60
        tokens = burst - sum(float(n) for part, n in fields.items() if part[1:].isdigit() and int(part[1:]) >= oldest)
    elif "clock_window" in fields:
        window_s = float(fields["clock_window"])
        tokens = burst if float(fields["at"]) < now // window_s * window_s else float(fields["tokens"])
    else:
        tokens = min(burst, float(fields.get("tokens", burst)) + max(0.0, now - float(fields.get("at", now))) * per_s)
    blocked_s = max(0.0, float(fields.get("blocked_until", 0)) - now)
    return {
        "kind": kind, "exchange": exchange, "egress_ip": egress_ip, "tokens": round(tokens, 3),
        "burst": burst, "per_s": per_s, "blocked_s": round(blocked_s, 3),
    }  # fmt: skip
