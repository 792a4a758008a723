"""REST of Bybit: routing, limits, keys and signatures. In: a request; out: a reply with the real status and code (sheet 3.3, 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator import keys
from simulator.engine import Account
from simulator.http1 import BadRequest, Request, Response
from simulator.venues.bybit.messages import encode
from simulator.venues.bybit.rest_account import AccountCalls
from simulator.venues.bybit.rest_market import MarketCalls
from simulator.venues.bybit.rules import AddressLimit, ApiError, Rolling, bad_parameter
from simulator.venues.bybit.trading import TradingCalls

if TYPE_CHECKING:
    from simulator.venues.bybit.twin import Bybit

Params = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One authenticated call: who, with what, and how far REST is behind the engine for it."""

    account: Account
    params: Params
    lag_ms: int
    now_ms: int

    def text(self, name: str, default: str = "") -> str:
        value = self.params.get(name)
        return default if value is None else str(value)


class Rest:
    """All endpoints of the venue."""

    def __init__(self, venue: Bybit) -> None:
        self._venue = venue
        market, accounts = MarketCalls(venue), AccountCalls(venue)
        self.trading = TradingCalls(venue)
        self._addresses = AddressLimit(venue.settings)
        self._users = Rolling(1000)
        self._public: dict[str, Callable[[Params], Any]] = {
            "/v5/market/time": market.time, "/v5/market/kline": market.kline, "/v5/market/recent-trade": market.recent_trade,
            "/v5/market/orderbook": market.orderbook, "/v5/market/tickers": market.tickers,
            "/v5/market/instruments-info": market.instruments,
        }  # fmt: skip
        self._signed: dict[tuple[str, str], Callable[[Call], Any]] = {
            ("GET", "/v5/user/query-api"): accounts.query_api, ("GET", "/v5/account/info"): accounts.info,
            ("GET", "/v5/account/wallet-balance"): accounts.wallet, ("GET", "/v5/position/list"): accounts.positions,
            ("GET", "/v5/execution/list"): accounts.executions, ("GET", "/v5/order/realtime"): accounts.open_orders,
            ("GET", "/v5/order/history"): accounts.order_history,
            ("GET", "/v5/account/transaction-log"): accounts.transactions,
            ("GET", "/v5/account/fee-rate"): accounts.fee_rate, ("GET", "/v5/asset/coin/query-info"): accounts.coins,
            ("POST", "/v5/order/create"): self.trading.create, ("POST", "/v5/order/cancel"): self.trading.cancel,
            ("POST", "/v5/order/amend"): self.trading.amend, ("POST", "/v5/order/cancel-all"): self.trading.cancel_all,
        }  # fmt: skip

    def answer(self, request: Request) -> Response:
        """Answer one call. Never raises for what a client can send."""
        venue = self._venue
        headers: dict[str, str] = {}
        now_ms = venue.clock.now_ms()
        venue.world.calls.weight(venue.exchange, venue.market, request.ip, 1, now_ms)
        if not self._addresses.spend(request.ip, now_ms):
            return Response(403, b"403, access too frequent", content_type="text/plain")
        try:
            result = self._perform(request, now_ms, headers)
            body = {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": now_ms}
            status = 200
        except ApiError as error:
            body, status = refusal(error.code, error.msg, now_ms), error.status
        headers["Date"] = venue.world.http_date()
        return Response(status, encode(body), headers, content_type="application/json; charset=utf-8")

    def _perform(self, request: Request, now_ms: int, headers: dict[str, str]) -> Any:
        public = self._public.get(request.path)
        if public is not None and request.method == "GET":
            return public(dict(request.params()))
        run = self._signed.get((request.method, request.path))
        if run is None:
            raise ApiError(10017, "Route not found.", 404)
        account = self._account(request, now_ms)
        self._spend(account, request.path, now_ms, headers)
        params = self._params(request)
        venue = self._venue
        return run(Call(account, params, venue.world.faults.lag_ms(venue, request.path, account.api_key), now_ms))

    @staticmethod
    def _params(request: Request) -> Params:
        if request.method == "GET":
            return dict(request.params())
        try:
            return request.json()
        except BadRequest as error:
            raise bad_parameter("params error: not JSON") from error

    def _spend(self, account: Account, path: str, now_ms: int, headers: dict[str, str]) -> None:
        """Per user and endpoint, rolling second."""
        settings = self._venue.settings
        limit = settings.probes_per_s if path.endswith("query-api") else settings.calls_per_s
        used = self._users.add(f"{account.uid}{path}", now_ms)
        headers["X-Bapi-Limit"], headers["X-Bapi-Limit-Status"] = str(limit), str(max(0, limit - used))
        headers["X-Bapi-Limit-Reset-Timestamp"] = str(now_ms + 1000)
        if used > limit:
            raise ApiError(10006, "Too many visits!")

    def _account(self, request: Request, now_ms: int) -> Account:
        """Whose key it is, and that it signed. Raises 10001, 10002, 10003, 10004, 10005, 10010."""
        header = request.headers.get
        api_key, stamp, proof = header("x-bapi-api-key", ""), header("x-bapi-timestamp", ""), header("x-bapi-sign", "")
        window = header("x-bapi-recv-window", "5000")
        if not api_key or not proof:
            raise ApiError(10001, "empty value: apiTimestamp[] apiKey[] apiSignature[]")
        account = self._venue.accounts.get(api_key)
        if account is None or account.state == "invalid":
            raise ApiError(10003, "API key is invalid.")
        if not stamp.isdigit() or not window.isdigit():
            raise bad_parameter("params error: timestamp or recv_window")
        if not now_ms - int(window) <= int(stamp) < now_ms + 1000:
            raise ApiError(
                10002,
                "invalid request, please check your server timestamp or recv_window param. "
                f"req_timestamp[{stamp}],server_timestamp[{now_ms}],recv_window[{window}]",
            )
        payload = stamp + api_key + window + (request.query if request.method == "GET" else request.body.decode())
        if not keys.signed(account.secret, payload.encode(), proof):
            raise ApiError(10004, f"error sign! origin_string[{payload}]")
        if account.state == "ip_banned":
            raise ApiError(10010, "Unmatched IP, please check your API key's bound IP addresses.")
        if account.state == "no_permission" and not request.path.endswith("query-api"):
            raise ApiError(10005, "Permission denied, please check your API key permissions.")
        return account


def refusal(code: int, msg: str, now_ms: int) -> dict[str, Any]:
    """The envelope of an error."""
    return {"retCode": code, "retMsg": msg, "result": {}, "retExtInfo": {}, "time": now_ms}
