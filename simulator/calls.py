"""Who called what: counts of REST calls and handshakes, dials and weight per minute and address. In: one note per
call; out: `/calls`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

KEEP_MINUTES = 24 * 60


class Calls:
    """Counters only: bounded by the number of paths, and by KEEP_MINUTES for the per-minute tables."""

    def __init__(self) -> None:
        self._rest: Counter[tuple[str, str, str, str, int]] = Counter()
        self._handshakes: Counter[tuple[str, str, str, int]] = Counter()
        self._dials: Counter[tuple[int, str, str, str]] = Counter()
        self._weight: Counter[tuple[int, str, str, str]] = Counter()

    def rest(self, exchange: str, market: str, method: str, path: str, status: int) -> None:
        """One REST call was answered (status 0: dropped without an answer)."""
        self._rest[exchange, market, method, path, status] += 1

    def handshake(self, exchange: str, market: str, path: str, status: int, ip: str, now_ms: int) -> None:
        """One WebSocket handshake was answered: 101 or a refusal."""
        self._handshakes[exchange, market, path, status] += 1
        self._dials[now_ms // 60_000, exchange, market, ip] += 1
        self._trim(self._dials, now_ms)

    def weight(self, exchange: str, market: str, ip: str, amount: int, now_ms: int) -> None:
        """`amount` of request weight was spent by `ip`."""
        self._weight[now_ms // 60_000, exchange, market, ip] += amount
        self._trim(self._weight, now_ms)

    @staticmethod
    def _trim(table: Counter[tuple[int, str, str, str]], now_ms: int) -> None:
        if len(table) > 4 * KEEP_MINUTES:
            oldest = now_ms // 60_000 - KEEP_MINUTES
            for key in [key for key in table if key[0] < oldest]:
                del table[key]

    def as_json(self) -> dict[str, Any]:
        """The whole of `/calls`."""
        return {
            "rest": [
                {"exchange": e, "market": m, "method": method, "path": path, "status": status, "count": n}
                for (e, m, method, path, status), n in sorted(self._rest.items())
            ],
            "handshakes": [
                {"exchange": e, "market": m, "path": path, "status": status, "count": n}
                for (e, m, path, status), n in sorted(self._handshakes.items())
            ],
            "dials_per_minute": self._per_minute(self._dials, "dials"),
            "weight_per_minute": self._per_minute(self._weight, "weight"),
        }

    @staticmethod
    def _per_minute(table: Counter[tuple[int, str, str, str]], what: str) -> list[dict[str, Any]]:
        return [
            {"minute": minute * 60_000, "exchange": e, "market": m, "ip": ip, what: n}
            for (minute, e, m, ip), n in sorted(table.items())
        ]
