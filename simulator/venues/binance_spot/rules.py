"""Limits, weights and error texts of Binance Spot. In: an address and a weight; out: how much is used, or a refusal.

Sources: the sheet's sections 2.1, 2.2 (weight by UTC minute and address; 429, then 418 growing from 2 minutes to 3 days) and 6.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from simulator.venue import SocketSettings

MAX_BAN_S = 3 * 86_400
DIAL_WINDOW_MS = 300_000
Params = dict[str, str]


@dataclass
class SpotSettings(SocketSettings):
    """Numbers of the sheet; every one can be changed by `PATCH /settings` to speed a test up."""

    ping_interval_s: float = 20.0
    first_ping_s: float = 20.0
    pong_deadline_s: float = 60.0
    weight_limit: int = 6000
    ban_after: int = 20  # refused calls in one minute before the address is banned
    ban_s: float = 120.0
    orders_per_10s: int = 100
    dials_per_5min: int = 300
    messages_per_s: float = 3.0  # documented 5; measured: one each 250 ms is too much, one each 500 ms is not
    messages_burst: float = 5.0
    streams_per_connection: int = 1024
    subscriptions_active: int = 1000  # user data streams of one socket at a time
    subscriptions_in_life: int = 65_535  # and in its life
    announce_shutdown: int = 0  # set to 1: serverShutdown to every socket, which is closed `shutdown_lead_s` later
    shutdown_lead_s: float = 10.0


class ApiError(Exception):
    """A refusal: HTTP status, the venue's code and text, perhaps with Retry-After."""

    def __init__(self, status: int, code: int, msg: str, retry_after_s: int | None = None) -> None:
        super().__init__(msg)
        self.status = status
        self.code = code
        self.msg = msg
        self.retry_after_s = retry_after_s


def mandatory(name: str) -> ApiError:
    return ApiError(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def bad_symbol() -> ApiError:
    return ApiError(400, -1121, "Invalid symbol.")


def bad_combination() -> ApiError:
    return ApiError(400, -1128, "Combination of optional parameters invalid.")


def number(params: Params, name: str, default: int | None = None) -> int | None:
    """An integer parameter. Raises -1100."""
    raw = params.get(name)
    if raw is None or raw == "":
        return default
    if not raw.lstrip("-").isdigit():
        raise ApiError(400, -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(raw)


def limit_of(params: Params, default: int, maximum: int) -> int:
    """The `limit` parameter; more than the maximum is the maximum. Raises -1130."""
    limit = number(params, "limit", default) or 0
    if limit < 1:
        raise ApiError(400, -1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, maximum)


def text_of(value: Any) -> str:
    """A JSON parameter of the WebSocket API as its signature payload spells it."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


@dataclass(slots=True)
class _Address:
    minute: int = 0
    used: int = 0
    refused: int = 0
    bans: int = 0
    banned_until_ms: int = 0


class WeightLimiter:
    """Weight used per address in the current UTC minute."""

    def __init__(self, settings: SpotSettings) -> None:
        self._settings = settings
        self._addresses: dict[str, _Address] = {}

    def used(self, ip: str, now_ms: int) -> int:
        address = self._addresses.get(ip)
        return address.used if address and address.minute == now_ms // 60_000 else 0

    def check_ban(self, ip: str, now_ms: int) -> None:
        """Raises ApiError 418 while the address is banned."""
        address = self._addresses.get(ip)
        if address is not None and now_ms < address.banned_until_ms:
            raise banned(ip, address.banned_until_ms, now_ms)

    def spend(self, ip: str, weight: int, now_ms: int) -> None:
        """Count `weight`. Raises ApiError 429 past the limit, and 418 for an address that goes on regardless."""
        address, settings = self._addresses.setdefault(ip, _Address()), self._settings
        if address.minute != now_ms // 60_000:
            address.minute, address.used, address.refused = now_ms // 60_000, 0, 0
        address.used += weight
        if address.used <= settings.weight_limit:
            return
        address.refused += 1
        if address.refused > settings.ban_after:
            address.bans += 1
            address.refused = 0
            address.banned_until_ms = now_ms + int(min(MAX_BAN_S, settings.ban_s * 2 ** (address.bans - 1)) * 1000)
            raise banned(ip, address.banned_until_ms, now_ms)
        raise ApiError(
            429, -1003, f"Too much request weight used; current limit is {settings.weight_limit} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API.", retry_after_s=60 - now_ms // 1000 % 60,
        )  # fmt: skip


class DialLimiter:
    """Connection attempts per address in any five minutes."""

    def __init__(self, settings: SpotSettings) -> None:
        self._settings = settings
        self._times: dict[str, deque[int]] = {}

    def refused(self, ip: str, now_ms: int) -> int:
        """Count one attempt. 0, or after how many seconds there is room again."""
        times = self._times.setdefault(ip, deque())
        while times and times[0] <= now_ms - DIAL_WINDOW_MS:
            times.popleft()
        if len(times) >= self._settings.dials_per_5min:
            return max(1, (times[0] + DIAL_WINDOW_MS - now_ms + 999) // 1000)
        times.append(now_ms)
        return 0


def banned(ip: str, until_ms: int, now_ms: int) -> ApiError:
    """418: the address is banned until `until_ms`; the time is in the text as well as in Retry-After."""
    wait_s = max(1, (until_ms - now_ms + 999) // 1000)
    return ApiError(418, -1003, f"Way too much request weight used; IP banned until {until_ms}.", wait_s)
