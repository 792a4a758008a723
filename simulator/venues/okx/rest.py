"""REST of OKX: routing, limits, keys and signatures. In: a request; out: a reply with the real status and code (sheet 3.3, 6)."""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from simulator.account import Account
from simulator.http1 import BadRequest, Request, Response
from simulator.venues.okx.rest_account import AccountCalls
from simulator.venues.okx.rest_market import MarketCalls
from simulator.venues.okx.rest_trade import TradeCalls
from simulator.venues.okx.rules import ApiError, Windows

if TYPE_CHECKING:
    from simulator.venues.okx.twin import Okx

Params = dict[str, str]
ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{3})Z")
WINDOW_MS = 30_000
FAILED = 1  # "all operations failed": the item's sCode says why


@dataclass(frozen=True)
class Call:
    """One authenticated call: who, with what, and how far REST is behind the engine for it."""

    account: Account
    params: Params
    body: Any
    lag_ms: int
    now_ms: int


@dataclass(frozen=True)
class Route:
    """One endpoint; `limit` calls in two seconds, per user or, for public ones, per address."""

    security: Literal["public", "private"]
    limit: int
    run: Callable[..., Any]


class Rest:
    """Answers every REST call of the venue."""

    def __init__(self, venue: Okx) -> None:
        self._venue = venue
        self._windows = Windows()
        self.trading = TradeCalls(venue)
        market, account, trading = MarketCalls(venue), AccountCalls(venue), self.trading
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/public/time"): Route("public", 10, market.time),
            ("GET", "/public/instruments"): Route("public", 20, market.instruments),
            ("GET", "/public/mark-price"): Route("public", 10, market.mark_price),
            ("GET", "/public/funding-rate"): Route("public", 10, market.funding_rate),
            ("GET", "/market/tickers"): Route("public", 20, market.tickers),
            ("GET", "/market/ticker"): Route("public", 20, market.ticker),
            ("GET", "/market/books"): Route("public", 40, market.books),
            ("GET", "/market/candles"): Route("public", 40, market.candles),
            ("GET", "/market/history-candles"): Route("public", 20, market.candles),
            ("GET", "/market/trades"): Route("public", 100, market.trades),
            ("GET", "/market/history-trades"): Route("public", 20, market.trades),
            ("GET", "/system/status"): Route("public", 1, market.status),
            ("GET", "/account/balance"): Route("private", 10, account.balance),
            ("GET", "/account/positions"): Route("private", 10, account.positions),
            ("GET", "/account/config"): Route("private", 5, account.config),
            ("GET", "/account/instruments"): Route("private", 20, account.instruments),
            ("GET", "/account/bills"): Route("private", 10, account.bills),
            ("GET", "/account/bills-archive"): Route("private", 5, account.bills),
            ("GET", "/asset/currencies"): Route("private", 12, account.currencies),
            ("GET", "/asset/balances"): Route("private", 12, account.funding),
            ("GET", "/trade/orders-pending"): Route("private", 60, trading.pending),
            ("GET", "/trade/order"): Route("private", 60, trading.order),
            ("GET", "/trade/orders-history"): Route("private", 40, trading.history),
            ("GET", "/trade/orders-history-archive"): Route("private", 20, trading.archive),
            ("GET", "/trade/fills"): Route("private", 60, trading.fills),
            ("GET", "/trade/fills-history"): Route("private", 10, trading.fills_history),
            ("POST", "/trade/order"): Route("private", 60, trading.place),
            ("POST", "/trade/cancel-order"): Route("private", 60, trading.cancel),
            ("POST", "/trade/amend-order"): Route("private", 60, trading.amend),
            ("POST", "/trade/batch-orders"): Route("private", 300, trading.place),
            ("POST", "/trade/cancel-batch-orders"): Route("private", 300, trading.cancel),
        }  # fmt: skip

    def answer(self, request: Request) -> Response:
        """The reply in the venue's envelope."""
        venue, now_ms = self._venue, self._venue.clock.now_ms()
        venue.world.calls.weight(venue.exchange, venue.market, request.ip, 1, now_ms)
        try:
            data, status, code = self._perform(request, now_ms), 200, "0"
        except ApiError as error:
            return venue.error(error.status, error.code, error.msg)
        if isinstance(data, bytes):
            return Response(200, b'{"code":"0","msg":"","data":' + data + b"}", content_type="application/json")
        msg = ""
        if request.method == "POST" and data and all(row["sCode"] != "0" for row in data):
            code, msg = str(FAILED), "All operations failed"
        body = msgspec.json.encode(
            {"code": code, "data": data, "msg": msg, "inTime": f"{now_ms}000", "outTime": f"{now_ms}100"}
        )
        return Response(status, body, {"Date": venue.world.http_date()}, content_type="application/json")

    def _perform(self, request: Request, now_ms: int) -> Any:
        route = self._routes.get((request.method, request.path.removeprefix("/api/v5")))
        if route is None or not request.path.startswith("/api/v5"):
            raise ApiError(50404, "Invalid request path", 404)
        if route.security == "public":
            self._limit(request.ip, request.path, route, now_ms)
            return route.run(request.params(), now_ms)
        account = self._account(request, now_ms)
        self._limit(str(account.uid), request.path, route, now_ms)
        venue = self._venue
        lag_ms = venue.world.faults.lag_ms(venue, request.path, account.api_key)
        try:
            body = msgspec.json.decode(request.body) if request.body else {}
        except msgspec.DecodeError as error:
            raise BadRequest("not JSON") from error
        return route.run(Call(account, request.params(), body, lag_ms, now_ms))

    def _limit(self, who: str, path: str, route: Route, now_ms: int) -> None:
        if self._venue.settings.rest_limits and not self._windows.take(who, path, route.limit, now_ms):
            raise ApiError(50011, "Too Many Requests", 429)

    def _account(self, request: Request, now_ms: int) -> Account:
        """Whose call it is. Raises the codes of section 3.3."""
        headers = request.headers
        for name, code in (("key", 50103), ("passphrase", 50104), ("sign", 50106), ("timestamp", 50107)):
            if not headers.get(f"ok-access-{name}"):
                raise ApiError(code, f'Request header "OK-ACCESS-{name.upper()}" can\'t be empty.', 401)
        account = self._venue.accounts.get(headers["ok-access-key"])
        if account is None or account.state == "invalid":
            raise ApiError(50119, "API key doesn't exist", 401)
        simulated = headers.get("x-simulated-trading") == "1"
        if self._venue.demo.get(account.api_key, simulated) is not simulated:
            raise ApiError(50101, "APIKey does not match current environment.", 401)
        if account.state == "ip_banned":
            raise ApiError(50110, f"Your IP {request.ip} is not included in your API key's IP whitelist.", 401)
        self._check_signature(request, account, now_ms)
        if account.state == "no_permission":
            raise ApiError(50120, "This API key doesn't have permission to use this function", 401)
        return account

    @staticmethod
    def _check_signature(request: Request, account: Account, now_ms: int) -> None:
        headers, at = request.headers, request.headers["ok-access-timestamp"]
        match = ISO.fullmatch(at)
        if match is None:
            raise ApiError(50112, "Invalid OK-ACCESS-TIMESTAMP", 401)
        *moment, millis = (int(part) for part in match.groups())
        if abs(calendar.timegm(time.struct_time((*moment, 0, 1, 0))) * 1000 + millis - now_ms) > WINDOW_MS:
            raise ApiError(50102, "Timestamp request expired", 401)
        payload = f"{at}{request.method}{request.target}".encode() + request.body
        expected = base64.b64encode(hmac.new(account.secret.encode(), payload, hashlib.sha256).digest()).decode()
        if not hmac.compare_digest(expected, headers["ok-access-sign"]):
            raise ApiError(50113, "Invalid Sign", 401)
        if not hmac.compare_digest(account.passphrase.encode(), headers["ok-access-passphrase"].encode("latin-1")):
            raise ApiError(50105, 'Request header "OK-ACCESS-PASSPHRASE" incorrect.', 401)
