"""REST of Binance Spot: routing, weights, bans, keys and signatures. In: a request; out: a reply with the real status and code
(sheet 2.2, 2.3, 5.1, 6). The WebSocket API is served by the same routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from simulator import keys
from simulator.account import Account
from simulator.http1 import Request, Response
from simulator.venues.binance_spot.rest_market import MarketCalls
from simulator.venues.binance_spot.rules import ApiError, Params, banned, mandatory
from simulator.venues.binance_spot.trading import TradingCalls

if TYPE_CHECKING:
    from simulator.venues.binance_spot.twin import BinanceSpot

KEY_FORM = re.compile(r"[A-Za-z0-9]{64}")
SIGNATURE = re.compile(r"(?:^|&)signature=([^&]*)")
Weight = int | Callable[[Params], int]
Authenticate = Callable[[Params, int], Account]


@dataclass(frozen=True)
class Call:
    """One authenticated call: who, with what, and how far REST is behind the engine for it."""

    account: Account
    params: Params
    lag_ms: int
    now_ms: int


@dataclass(frozen=True)
class Route:
    """One endpoint."""

    security: Literal["none", "signed"]
    weight: Weight
    run: Callable[..., Any]


def _by(name: str, one: int, all_: int) -> Callable[[Params], int]:
    return lambda params: one if params.get(name) else all_


def _depth_weight(params: Params) -> int:
    limit = int(params["limit"]) if params.get("limit", "").isdigit() else 100
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


class Rest:
    """Answers every call of the venue."""

    def __init__(self, venue: BinanceSpot) -> None:
        self._venue = venue
        self.trading = TradingCalls(venue)
        market, trading = MarketCalls(venue), self.trading
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/api/v3/ping"): Route("none", 1, lambda params: {}),
            ("GET", "/api/v3/time"): Route("none", 1, market.time),
            ("GET", "/api/v3/exchangeInfo"): Route("none", 20, market.exchange_info),
            ("GET", "/api/v3/depth"): Route("none", _depth_weight, market.depth),
            ("GET", "/api/v3/klines"): Route("none", 2, market.klines),
            ("GET", "/api/v3/trades"): Route("none", 25, market.trades),
            ("GET", "/api/v3/historicalTrades"): Route("none", 25, market.historical_trades),
            ("GET", "/api/v3/aggTrades"): Route("none", 4, market.agg_trades),
            ("GET", "/api/v3/ticker/24hr"): Route("none", _by("symbol", 2, 80), market.ticker_24h),
            ("GET", "/api/v3/ticker/price"): Route("none", _by("symbol", 2, 4), market.ticker_price),
            ("GET", "/api/v3/ticker/bookTicker"): Route("none", _by("symbol", 2, 4), market.book_ticker),
            ("GET", "/api/v3/account"): Route("signed", 20, trading.account),
            ("GET", "/api/v3/account/commission"): Route("signed", 20, trading.commission),
            ("GET", "/api/v3/rateLimit/order"): Route("signed", 40, trading.order_limits),
            ("GET", "/api/v3/openOrders"): Route("signed", _by("symbol", 6, 80), trading.open_orders),
            ("DELETE", "/api/v3/openOrders"): Route("signed", 1, trading.cancel_all),
            ("GET", "/api/v3/allOrders"): Route("signed", 20, trading.all_orders),
            ("GET", "/api/v3/myTrades"): Route("signed", _by("orderId", 5, 20), trading.my_trades),
            ("GET", "/api/v3/myAllocations"): Route("signed", 20, trading.my_allocations),
            ("GET", "/api/v3/order"): Route("signed", 4, trading.order),
            ("POST", "/api/v3/order"): Route("signed", 1, trading.new_order),
            ("POST", "/api/v3/order/test"): Route("signed", 1, trading.test_order),
            ("DELETE", "/api/v3/order"): Route("signed", 1, trading.cancel_order),
        }

    def answer(self, request: Request) -> Response:
        """The reply to a REST call, with the used weight in its headers."""
        venue, now_ms = self._venue, self._venue.clock.now_ms()
        headers: dict[str, str] = {}
        try:
            venue.limiter.check_ban(request.ip, now_ms)
            if request.path.startswith("/api/v3/userDataStream"):
                raise ApiError(410, -1000, "This endpoint is no longer available.")
            value: Any = self.serve(
                request.method, request.path, request.params(), request.ip, now_ms,
                lambda params, now: self._authenticate(request, params, now),
            )  # fmt: skip
            status = 200
        except ApiError as error:
            value, status = {"code": error.code, "msg": error.msg}, error.status
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(error.retry_after_s)
        used = str(venue.limiter.used(request.ip, now_ms))
        headers["X-MBX-USED-WEIGHT-1M"] = headers["X-MBX-USED-WEIGHT"] = used
        headers["Date"] = venue.world.http_date()
        for effect in venue.take_effects():
            effect()
        return Response(status, msgspec.json.encode(value), headers, content_type="application/json;charset=UTF-8")

    def serve(
        self, method: str, path: str, params: Params, ip: str, now_ms: int, authenticate: Authenticate | None
    ) -> Any:
        """The value of one call by either door. Raises ApiError."""
        route = self._routes.get((method, path))
        if route is None:
            self._venue.spend(ip, 1, now_ms)
            raise ApiError(404, -1000, f"Path {path}, Method {method} is invalid")
        self._venue.spend(ip, route.weight if isinstance(route.weight, int) else route.weight(params), now_ms)
        if route.security == "none":
            return route.run(params)
        if authenticate is None:
            raise mandatory("signature")
        account = authenticate(params, now_ms)
        lag_ms = self._venue.world.faults.lag_ms(self._venue, path, account.api_key)
        return route.run(Call(account, params, lag_ms, now_ms))

    def account_of(self, api_key: str, ip: str, now_ms: int) -> Account:
        """Whose key it is. Raises -2014, -2015, or -1003 for a key whose address is banned."""
        account = self._venue.accounts.get(api_key)
        if account is None and not KEY_FORM.fullmatch(api_key):
            raise ApiError(401, -2014, "API-key format invalid.")
        if account is None or account.state in ("invalid", "no_permission"):
            raise ApiError(401, -2015, f"Invalid API-key, IP, or permissions for action, request ip: {ip}")
        if account.state == "ip_banned":
            raise banned(ip, now_ms + int(self._venue.settings.ban_s * 1000), now_ms)
        return account

    def _authenticate(self, request: Request, params: Params, now_ms: int) -> Account:
        """Key by header, signature over exactly what was sent. Raises -1102, -1130, -1021 or -1022."""
        account = self.account_of(request.headers.get("x-mbx-apikey", ""), request.ip, now_ms)
        if not params.get("signature"):
            raise mandatory("signature")
        self.check_time(params, now_ms)
        payload = SIGNATURE.sub("", request.query) + SIGNATURE.sub("", request.body.decode("utf-8", "replace"))
        if not keys.signed(account.secret, payload.lstrip("&").encode(), params["signature"]):
            raise ApiError(400, -1022, "Signature for this request is not valid.")
        return account

    @staticmethod
    def check_time(params: Params, now_ms: int) -> None:
        """Raises -1102, -1100, -1131 or -1021. Timestamps of 16 digits are µs."""
        if not params.get("timestamp"):
            raise mandatory("timestamp")
        try:
            timestamp, window = int(params["timestamp"]), float(params.get("recvWindow") or 5000)
        except ValueError as error:
            raise ApiError(400, -1100, "Illegal characters found in parameter 'timestamp'.") from error
        if not 0 < window <= 60000:
            raise ApiError(400, -1131, "recvWindow must be less than 60000.")
        if timestamp > 10**15:
            timestamp //= 1000
        if timestamp >= now_ms + 1000:
            raise ApiError(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now_ms - timestamp > window:
            raise ApiError(400, -1021, "Timestamp for this request is outside of the recvWindow.")
