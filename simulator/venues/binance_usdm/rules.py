"""Limits, weights and error texts of Binance USDⓈ-M. In: an address and a weight; out: how much is used, or a
refusal.

Sources: the sheet's sections 2.1, 2.2 (weight by UTC minute and address; 429, then 418 growing from 2 minutes to 3
days) and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.venue import SocketSettings

MAX_BAN_S = 3 * 86_400


@dataclass
class UsdmSettings(SocketSettings):
    """Numbers of the sheet; every one can be changed by `PATCH /settings` to speed a test up."""

    weight_limit: int = 2400
    ban_after: int = 20  # refused calls in one minute before the address is banned
    ban_s: float = 120.0
    orders_per_10s: int = 300
    orders_per_min: int = 1200
    listen_key_ttl_s: float = 3600.0
    messages_per_s: float = 10.0
    messages_burst: float = 15.0  # measured: 15 back to back survive
    streams_per_connection: int = 1024
    events_required: int = 0  # 1 = a private URL without `events=` gets listenKeyExpired at once (field report in 1.1)
    liquidation_interval_s: float = 4.0  # mean time between liquidations of one subscribed symbol


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


@dataclass(slots=True)
class _Address:
    minute: int = 0
    used: int = 0
    refused: int = 0
    bans: int = 0
    banned_until_ms: int = 0


class WeightLimiter:
    """Weight used per address in the current UTC minute."""

    def __init__(self, settings: UsdmSettings) -> None:
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
        address = self._addresses.setdefault(ip, _Address())
        minute = now_ms // 60_000
        if address.minute != minute:
            address.minute, address.used, address.refused = minute, 0, 0
        address.used += weight
        if address.used <= self._settings.weight_limit:
            return
        address.refused += 1
        if address.refused > self._settings.ban_after:
            address.bans += 1
            address.refused = 0
            ban_s = min(MAX_BAN_S, self._settings.ban_s * 2 ** (address.bans - 1))
            address.banned_until_ms = now_ms + int(ban_s * 1000)
            raise banned(ip, address.banned_until_ms, now_ms)
        raise ApiError(
            429, -1003,
            f"Too many requests; current limit of IP({ip}) is {self._settings.weight_limit} requests per minute. "
            "Please use the websocket for live updates to avoid polling the API.",
            retry_after_s=60 - now_ms // 1000 % 60,
        )  # fmt: skip


def banned(ip: str, until_ms: int, now_ms: int) -> ApiError:
    """418: the address is banned until `until_ms`; the time is in the text as well as in Retry-After."""
    wait_s = max(1, (until_ms - now_ms + 999) // 1000)
    advice = "Please use the websocket for live updates to avoid bans."
    return ApiError(418, -1003, f"Way too many requests; IP({ip}) banned until {until_ms}. {advice}", wait_s)
