"""Limits and refusals of OKX. In: who asks for what; out: leave, or a refusal with the real status, code and text.

Sources: the sheet's sections 1.3, 2, 3.2, 3.3, 6.2. Everything that differs between clients' reports is a setting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from simulator.venue import SocketSettings

WINDOW_MS = 2000


@dataclass
class OkxSettings(SocketSettings):
    """Numbers of the sheet; every one can be changed by `PATCH /settings` to speed a test up."""

    ping_interval_s: float = 0.0  # the server sends no protocol pings
    lifetime_s: float = 10 * 365 * 86_400.0  # none documented
    max_message_bytes: int = 64 * 1024  # a larger request closes the socket with 1009
    dials_per_s: int = 3  # a fourth one within a second: 429 (what really happens is not documented)
    idle_s: float = 30.0  # nothing pushed and no ping for this long: close 4004
    requests_per_hour: int = 480  # subscribe, unsubscribe and login requests of one socket
    connections_per_channel: int = 30  # of one account and private channel
    arguments_per_connection: int = 1000  # then close 4009; the real number is not documented
    login_window_s: float = 30.0
    close_failed_logins: int = 0  # 1 = a failed login also closes the socket with 4001
    echo_id: int = 1  # 0 = acknowledgements of before 2025-05, without the request's id
    page_rows: int = 0  # above 0: snapshots of account and positions come in pages of so many rows
    periodic_s: float = 5.0  # full pushes of account and positions, where the subscription did not ask for none
    upgrade_close_s: float = 60.0  # from notice 64008 to the close
    liquidation_interval_s: float = 4.0  # mean time between liquidations of one subscribed product
    rest_limits: int = 1  # 0 = REST calls are not limited


class ApiError(Exception):
    """A refusal: the venue's code and text, and the HTTP status it comes with."""

    def __init__(self, code: int, msg: str, status: int = 400) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.status = status


class SocketError(Exception):
    """An error event; `close` ends the socket after it."""

    def __init__(self, code: int, msg: str, close: int = 0) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.close = close


def empty(name: str) -> ApiError:
    return ApiError(50014, f"Parameter {name} can not be empty.")


def wrong(name: str) -> ApiError:
    return ApiError(51000, f"Parameter {name} error")


def no_instrument() -> ApiError:
    return ApiError(51001, "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")


class Windows:
    """Calls of the last two seconds by whom and what."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], deque[int]] = {}

    def take(self, who: str, what: str, limit: int, now_ms: int, window_ms: int = WINDOW_MS) -> bool:
        """Count one call; False past `limit` in the window."""
        calls = self._calls.setdefault((who, what), deque())
        while calls and calls[0] <= now_ms - window_ms:
            calls.popleft()
        if len(calls) >= limit:
            return False
        calls.append(now_ms)
        return True
