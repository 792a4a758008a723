"""Limits and refusals of Bybit. In: an address or a user, and the time; out: how much is left, or a refusal.

Sources: the sheet's sections 1.3 (dials, arguments), 2 (idle cuts), 3.3 (codes), 6.2 (600 calls per 5 s and address, then HTTP 403;
50 calls a second per user and endpoint, then 10006).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from simulator.venue import SocketSettings


@dataclass
class BybitSettings(SocketSettings):
    """Numbers of the sheet; every one can be changed by `PATCH /settings` to speed a test up."""

    ping_interval_s: float = 0.0  # the server sends no protocol pings
    lifetime_s: float = 30 * 86_400.0  # none is documented
    calls_per_5s: int = 600
    ban_s: float = 600.0
    calls_per_s: int = 50  # per user and endpoint
    probes_per_s: int = 10  # query-api
    dials_per_5min: int = 500
    args_per_request: int = 10  # spot
    args_chars: int = 21_000  # per public connection
    idle_private_s: float = 600.0
    idle_public_s: float = 61.0  # of a socket without subscriptions (observed, not documented)
    resend_best_s: float = 3.0
    reply_delay_s: float = 0.0  # a network's worth of time between a request and its answer
    login_echoes: int = 0  # 1 = a refused login takes the second shape, which echoes the request
    liquidation_interval_s: float = 4.0  # mean time between liquidations of one subscribed symbol


class ApiError(Exception):
    """A refusal: code and text, by default with HTTP 200."""

    def __init__(self, code: int, msg: str, status: int = 200) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.status = status


def bad_parameter(text: str) -> ApiError:
    return ApiError(10001, text)


class Rolling:
    """Events of each key within a rolling window."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._times: dict[str, deque[int]] = {}

    def add(self, key: str, now_ms: int) -> int:
        """Count one; returns how many there are in the window, this one included."""
        times = self._times.setdefault(key, deque())
        times.append(now_ms)
        while times and not now_ms - self._window_ms < times[0] <= now_ms:
            times.popleft()
        return len(times)


class AddressLimit:
    """Calls per address; one over the limit is answered with 403 until `ban_s` are over."""

    def __init__(self, settings: BybitSettings) -> None:
        self._settings = settings
        self._rolling = Rolling(5000)
        self._banned_until_ms: dict[str, int] = {}

    def spend(self, ip: str, now_ms: int) -> bool:
        """False: refused."""
        until_ms = self._banned_until_ms.get(ip, 0)
        if now_ms < until_ms <= now_ms + int(self._settings.ban_s * 1000):
            return False
        if self._rolling.add(ip, now_ms) > self._settings.calls_per_5s:
            self._banned_until_ms[ip] = now_ms + int(self._settings.ban_s * 1000)
            return False
        return True
