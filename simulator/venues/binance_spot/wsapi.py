"""The WebSocket API of Binance Spot: requests by JSON, and the user data of any number of accounts on one socket. In: messages;
out: replies and subscriptions (sheet 4.3, 5.1, 6).

A request is served by the REST route of the same meaning; only its authentication is of its own. The twin's accounts have HMAC
keys, so `session.logon` (Ed25519 only) is refused for them as the exchange refuses it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from simulator.account import Account
from simulator.venues.binance_spot.rules import ApiError, mandatory, text_of

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket
    from simulator.venues.binance_spot.twin import BinanceSpot

METHODS = {
    "ping": ("GET", "/api/v3/ping"), "time": ("GET", "/api/v3/time"), "exchangeInfo": ("GET", "/api/v3/exchangeInfo"),
    "depth": ("GET", "/api/v3/depth"), "klines": ("GET", "/api/v3/klines"), "trades.recent": ("GET", "/api/v3/trades"),
    "ticker.24hr": ("GET", "/api/v3/ticker/24hr"), "ticker.price": ("GET", "/api/v3/ticker/price"),
    "ticker.book": ("GET", "/api/v3/ticker/bookTicker"), "order.place": ("POST", "/api/v3/order"),
    "order.test": ("POST", "/api/v3/order/test"), "order.status": ("GET", "/api/v3/order"),
    "order.cancel": ("DELETE", "/api/v3/order"), "openOrders.status": ("GET", "/api/v3/openOrders"),
    "openOrders.cancelAll": ("DELETE", "/api/v3/openOrders"), "account.status": ("GET", "/api/v3/account"),
    "account.rateLimits.orders": ("GET", "/api/v3/rateLimit/order"), "allOrders": ("GET", "/api/v3/allOrders"),
    "myTrades": ("GET", "/api/v3/myTrades"),
}  # fmt: skip
GONE = ("userDataStream.start", "userDataStream.ping", "userDataStream.stop")


@dataclass(slots=True)
class Session:
    """State of one socket: the accounts subscribed on it by subscription id."""

    subscriptions: dict[int, Account] = field(default_factory=dict)
    next_id: int = 0


class WsApi:
    """The requests of all WebSocket API sockets of the venue."""

    def __init__(self, venue: BinanceSpot) -> None:
        self._venue = venue
        self._by_key: dict[str, dict[tuple[StreamSocket, int], None]] = {}  # api_key -> its live subscriptions

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────
    def open(self, socket: StreamSocket) -> None:
        socket.session = Session()

    def close(self, socket: StreamSocket) -> None:
        """Forget the socket and what was subscribed on it."""
        for ident in list(socket.session.subscriptions):
            self._drop(socket, ident)

    def of(self, account: Account) -> list[tuple[StreamSocket, int]]:
        """Where the events of an account go: sockets and the subscription's id on each."""
        return list(self._by_key.get(account.api_key, ()))

    def terminate(self, account: Account) -> int:
        """End every subscription of an account, and say so on its socket. Returns how many there were."""
        found = self.of(account)
        for socket, ident in found:
            self._end(socket, ident)
        return len(found)

    def _end(self, socket: StreamSocket, ident: int) -> None:
        event = {"e": "eventStreamTerminated", "E": self._venue.clock.now_ms()}
        socket.send_text(msgspec.json.encode({"subscriptionId": ident, "event": event}))
        self._drop(socket, ident)

    def _drop(self, socket: StreamSocket, ident: int) -> None:
        account = socket.session.subscriptions.pop(ident)
        del self._by_key[account.api_key][socket, ident]
        socket.subscriptions.pop(f"userData:{ident}", None)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────
    def received(self, socket: StreamSocket, message: bytes) -> None:
        """One request, one reply; events that the request causes come after it."""
        now_ms, ident = self._venue.clock.now_ms(), None
        try:
            request = self._decode(message)
            ident = request.get("id")
            params = {name: text_of(value) for name, value in (request.get("params") or {}).items()}
            self._venue.limiter.check_ban(socket.ip, now_ms)
            result = self._perform(socket, str(request.get("method")), params, now_ms)
        except ApiError as error:
            body: dict[str, Any] = {"code": error.code, "msg": error.msg}
            if error.retry_after_s is not None:
                body["data"] = {"serverTime": now_ms, "retryAfter": now_ms + error.retry_after_s * 1000}
            reply: dict[str, Any] = {"id": ident, "status": error.status, "error": body}
        else:
            reply = {"id": ident, "status": 200, "result": result}
        reply["rateLimits"] = [self._venue.weight_state(socket.ip, now_ms)]
        socket.send_text(msgspec.json.encode(reply))
        for effect in self._venue.take_effects():
            effect()

    @staticmethod
    def _decode(message: bytes) -> dict[str, Any]:
        try:
            request = json.loads(message)
        except ValueError as error:
            raise ApiError(400, -1000, f"Invalid JSON: {error}") from error
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            raise ApiError(400, -1000, "Invalid request: missing field `method`")
        if not isinstance(request.get("params") or {}, dict):
            raise ApiError(400, -1000, "Invalid request: params must be an object")
        return request

    def _perform(self, socket: StreamSocket, method: str, params: dict[str, str], now_ms: int) -> Any:
        route = METHODS.get(method)
        if route is not None:
            account = self._account if params.get("signature") else None
            return self._venue.api.serve(*route, params, socket.ip, now_ms, account)
        self._venue.spend(socket.ip, 2, now_ms)
        if method in GONE:
            raise ApiError(410, -1000, "This method is no longer available; use userDataStream.subscribe.")
        if method == "userDataStream.subscribe.signature":
            return {"subscriptionId": self._subscribe(socket, self._account(params, now_ms))}
        if method == "userDataStream.unsubscribe":
            return self._unsubscribe(socket, params)
        if method == "session.subscriptions":
            return [{"subscriptionId": ident} for ident in socket.session.subscriptions]
        if method == "session.logon":
            self._account(params, now_ms)
            raise ApiError(400, -4056, "HMAC_SHA256 API key is not supported for this method.")
        if method in ("session.status", "session.logout"):
            return {
                "apiKey": None, "authorizedSince": None, "connectedSince": socket.opened_at, "returnRateLimits": True,
                "serverTime": now_ms, "userDataStream": False,
            }  # fmt: skip
        if method == "userDataStream.subscribe":
            raise ApiError(401, -1002, "The session is not authenticated; use session.logon.")
        raise ApiError(400, -1000, f"Unknown method {method}")

    def _subscribe(self, socket: StreamSocket, account: Account) -> int:
        session, settings = socket.session, self._venue.settings
        if any(known is account for known in session.subscriptions.values()):
            raise ApiError(400, -2035, "User Data Stream subscription already active.")
        if (
            len(session.subscriptions) >= settings.subscriptions_active
            or session.next_id >= settings.subscriptions_in_life
        ):
            raise ApiError(400, -2042, "Subscription id limit reached.")
        ident: int = session.next_id
        session.next_id += 1

        def begin() -> None:
            if not socket.is_open:
                return
            session.subscriptions[ident] = account
            self._by_key.setdefault(account.api_key, {})[socket, ident] = None
            socket.subscriptions[f"userData:{ident}"] = None
            if account.api_key not in socket.api_keys:
                socket.api_keys.append(account.api_key)
            self._venue.world.faults.subscribed(socket)

        begin()
        return ident

    def _unsubscribe(self, socket: StreamSocket, params: dict[str, str]) -> dict[str, Any]:
        chosen = params.get("subscriptionId")
        idents = list(socket.session.subscriptions)
        if chosen is not None:
            idents = [ident for ident in idents if str(ident) == chosen]
            if not idents:
                raise ApiError(400, -2036, "User Data Stream subscription not active.")
        for ident in idents:
            self._venue.later(lambda ident=ident: self._end(socket, ident))  # type: ignore[misc]
        return {}

    def _account(self, params: dict[str, str], now_ms: int) -> Account:
        """Whose signed request it is. The payload of the signature: all parameters but it, in order of name."""
        if not params.get("apiKey"):
            raise mandatory("apiKey")
        account = self._venue.api.account_of(params["apiKey"], "ws", now_ms)
        self._venue.api.check_time(params, now_ms)
        payload = "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")
        expected = hmac.new(account.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), params.get("signature", "").lower().encode()):
            raise ApiError(400, -1022, "Signature for this request is not valid.")
        return account
