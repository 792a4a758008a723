"""REST of Binance USDⓈ-M: routing, weights, bans, keys and signatures. In: a request; out: a reply with the real
status and code (sheet 2.2, 2.3, 5.1, 6).
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
from simulator.venues.binance_usdm.algo import AlgoCalls
from simulator.venues.binance_usdm.orders import OrderCalls
from simulator.venues.binance_usdm.rest_account import AccountCalls
from simulator.venues.binance_usdm.rest_config import ConfigCalls
from simulator.venues.binance_usdm.rest_market import MarketCalls
from simulator.venues.binance_usdm.rules import ApiError, WeightLimiter, banned, mandatory
from simulator.venues.binance_usdm.trading import TradingCalls

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.twin import BinanceUsdm

Params = dict[str, str]
Weight = int | Callable[[Params], int]
KEY_FORM = re.compile(r"[A-Za-z0-9]{64}")
SIGNATURE = re.compile(r"(?:^|&)signature=([^&]*)")


@dataclass(frozen=True)
class Call:
    """One authenticated call: who, with what, and how far REST is behind the engine for it."""

    account: Account
    params: Params
    lag_ms: int
    now_ms: int


@dataclass(frozen=True)
class Route:
    """One endpoint. `security`: none, key (USER_STREAM: header only) or signed."""

    security: Literal["none", "key", "signed"]
    weight: Weight
    run: Callable[..., Any]


def _by(name: str, one: int, all_: int) -> Callable[[Params], int]:
    return lambda params: one if params.get(name) else all_


def _depth_weight(params: Params) -> int:
    limit = params.get("limit")
    if not limit:
        return 1  # measured: 1 although 500 levels come back
    return {"5": 2, "10": 2, "20": 2, "50": 2, "100": 5, "500": 10}.get(limit, 20)


def _kline_weight(params: Params) -> int:
    limit = int(params.get("limit") or 500) if (params.get("limit") or "500").isdigit() else 500
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


class Rest:
    """Answers every REST call of the venue."""

    def __init__(self, venue: BinanceUsdm) -> None:
        self._venue = venue
        self.limiter = WeightLimiter(venue.settings)
        orders, algo, config = OrderCalls(venue), AlgoCalls(venue), ConfigCalls(venue)
        self.trading = trading = TradingCalls(venue, orders)
        market, account = MarketCalls(venue), AccountCalls(venue)
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/fapi/v1/ping"): Route("none", 1, lambda params: {}),
            ("GET", "/fapi/v1/time"): Route("none", 1, market.time),
            ("GET", "/fapi/v1/exchangeInfo"): Route("none", 1, market.exchange_info),
            ("GET", "/fapi/v1/depth"): Route("none", _depth_weight, market.depth),
            ("GET", "/fapi/v1/klines"): Route("none", _kline_weight, market.klines),
            ("GET", "/fapi/v1/aggTrades"): Route("none", 20, market.agg_trades),
            ("GET", "/fapi/v1/trades"): Route("none", 5, market.trades),
            ("GET", "/fapi/v1/fundingRate"): Route("none", 0, market.funding_rate),
            ("GET", "/fapi/v1/premiumIndex"): Route("none", _by("symbol", 1, 10), market.premium_index),
            ("GET", "/fapi/v1/ticker/24hr"): Route("none", _by("symbol", 1, 40), market.ticker_24h),
            ("GET", "/fapi/v1/ticker/price"): Route("none", _by("symbol", 1, 2), market.ticker_price),
            ("GET", "/fapi/v2/ticker/price"): Route("none", _by("symbol", 1, 2), market.ticker_price),
            ("GET", "/fapi/v1/ticker/bookTicker"): Route("none", _by("symbol", 2, 5), market.book_ticker),
            ("POST", "/fapi/v1/listenKey"): Route("key", 1, account.create_listen_key),
            ("PUT", "/fapi/v1/listenKey"): Route("key", 1, account.extend_listen_key),
            ("DELETE", "/fapi/v1/listenKey"): Route("key", 1, account.delete_listen_key),
            ("GET", "/fapi/v3/account"): Route("signed", 5, account.account_v3),
            ("GET", "/fapi/v2/account"): Route("signed", 5, account.account_v2),
            ("GET", "/fapi/v3/balance"): Route("signed", 5, account.balance),
            ("GET", "/fapi/v2/balance"): Route("signed", 5, account.balance),
            ("GET", "/fapi/v3/positionRisk"): Route("signed", 5, account.position_risk_v3),
            ("GET", "/fapi/v2/positionRisk"): Route("signed", 5, account.position_risk_v2),
            ("GET", "/fapi/v1/accountConfig"): Route("signed", 5, config.account_config),
            ("GET", "/fapi/v1/symbolConfig"): Route("signed", 5, config.symbol_config),
            ("GET", "/fapi/v1/positionSide/dual"): Route("signed", 30, config.position_mode),
            ("POST", "/fapi/v1/positionSide/dual"): Route("signed", 1, config.change_position_mode),
            ("GET", "/fapi/v1/multiAssetsMargin"): Route("signed", 30, config.multi_assets),
            ("POST", "/fapi/v1/marginType"): Route("signed", 1, config.change_margin_type),
            ("GET", "/fapi/v1/leverageBracket"): Route("signed", 1, config.leverage_bracket),
            ("GET", "/fapi/v1/commissionRate"): Route("signed", 20, config.commission_rate),
            ("POST", "/fapi/v1/leverage"): Route("signed", 1, config.change_leverage),
            ("GET", "/fapi/v1/income"): Route("signed", 30, config.income),
            ("GET", "/fapi/v1/rateLimit/order"): Route("signed", 1, orders.order_limits),
            ("GET", "/fapi/v1/forceOrders"): Route("signed", _by("symbol", 20, 50), orders.force_orders),
            ("GET", "/fapi/v1/openOrders"): Route("signed", _by("symbol", 1, 40), orders.open_orders),
            ("GET", "/fapi/v1/openOrder"): Route("signed", 1, orders.open_order),
            ("GET", "/fapi/v1/allOrders"): Route("signed", 5, orders.all_orders),
            ("GET", "/fapi/v1/order"): Route("signed", 1, orders.order),
            ("GET", "/fapi/v1/userTrades"): Route("signed", 5, orders.user_trades),
            ("POST", "/fapi/v1/order"): Route("signed", 1, trading.new_order),
            ("PUT", "/fapi/v1/order"): Route("signed", 1, trading.amend_order),
            ("DELETE", "/fapi/v1/order"): Route("signed", 1, trading.cancel_order),
            ("DELETE", "/fapi/v1/allOpenOrders"): Route("signed", 1, trading.cancel_all),
            ("POST", "/fapi/v1/algoOrder"): Route("signed", 1, algo.new),
            ("DELETE", "/fapi/v1/algoOrder"): Route("signed", 1, algo.cancel),
            ("GET", "/fapi/v1/algoOrder"): Route("signed", 1, algo.one),
            ("GET", "/fapi/v1/openAlgoOrders"): Route("signed", _by("symbol", 1, 40), algo.open),
            ("GET", "/fapi/v1/allAlgoOrders"): Route("signed", 5, algo.all),
        }

    def answer(self, request: Request) -> Response:
        """The reply, with the used weight in its headers."""
        venue, now_ms = self._venue, self._venue.clock.now_ms()
        headers: dict[str, str] = {}
        try:
            self.limiter.check_ban(request.ip, now_ms)
            value: Any = self._perform(request, now_ms, headers)
            status = 200
        except ApiError as error:
            value, status = {"code": error.code, "msg": error.msg}, error.status
            if error.retry_after_s is not None:
                headers["Retry-After"] = str(error.retry_after_s)
        used = str(self.limiter.used(request.ip, now_ms))
        headers["X-MBX-USED-WEIGHT-1M"] = headers["X-MBX-USED-WEIGHT"] = used
        headers["Date"] = venue.world.http_date()
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        return Response(status, body, headers, content_type="application/json")

    def _perform(self, request: Request, now_ms: int, headers: dict[str, str]) -> Any:
        route = self._routes.get((request.method, request.path))
        if route is None:
            self._spend(request, 1, now_ms)
            raise ApiError(404, -5000, f"Path {request.path}, Method {request.method} is invalid")
        params = request.params()
        self._spend(request, route.weight if isinstance(route.weight, int) else route.weight(params), now_ms)
        if route.security == "none":
            return route.run(params)
        account = self._account(request, now_ms)
        if route.security == "key":
            return route.run(Call(account, params, 0, now_ms))
        self._check_signature(request, params, account, now_ms)
        venue = self._venue
        lag_ms = venue.world.faults.lag_ms(venue, request.path, account.api_key)
        if request.path == "/fapi/v1/order" and request.method != "GET":
            headers.update(self.trading.count_order(account, now_ms))
        return route.run(Call(account, params, lag_ms, now_ms))

    def _spend(self, request: Request, weight: int, now_ms: int) -> None:
        venue = self._venue
        venue.world.calls.weight(venue.exchange, venue.market, request.ip, weight, now_ms)
        self.limiter.spend(request.ip, weight, now_ms)

    def _account(self, request: Request, now_ms: int) -> Account:
        """Whose key it is. Raises -2014, -2015, or -1003 for a key whose address is banned."""
        api_key = request.headers.get("x-mbx-apikey", "")
        account = self._venue.accounts.get(api_key)
        if account is None and not KEY_FORM.fullmatch(api_key):
            raise ApiError(401, -2014, "API-key format invalid.")
        if account is None or account.state in ("invalid", "no_permission"):
            raise ApiError(401, -2015, f"Invalid API-key, IP, or permissions for action, request ip: {request.ip}")
        if account.state == "ip_banned":
            raise banned(request.ip, now_ms + int(self._venue.settings.ban_s * 1000), now_ms)
        return account

    @staticmethod
    def _check_signature(request: Request, params: Params, account: Account, now_ms: int) -> None:
        """Raises -1102, -1130, -1021 or -1022."""
        if not params.get("timestamp"):
            raise mandatory("timestamp")
        if not params.get("signature"):
            raise mandatory("signature")
        try:
            timestamp, window = int(params["timestamp"]), float(params.get("recvWindow") or 5000)
        except ValueError as error:
            raise ApiError(
                400, -1100, "Illegal characters found in parameter 'timestamp'; legal range is '^[0-9]{1,20}$'."
            ) from error
        if not 0 < window <= 60000:
            raise ApiError(400, -1131, "recvWindow must be less than 60000.")
        if timestamp >= now_ms + 1000:
            raise ApiError(400, -1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now_ms - timestamp > window:
            raise ApiError(400, -1021, "Timestamp for this request is outside of the recvWindow.")
        body = request.body.decode("utf-8", "replace")
        payload = SIGNATURE.sub("", request.query) + SIGNATURE.sub("", body)
        if not keys.signed(account.secret, payload.lstrip("&").encode(), params["signature"]):
            raise ApiError(400, -1022, "Signature for this request is not valid.")
