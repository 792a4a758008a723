"""The WebSocket API of Binance Spot: requests by JSON, and the user data of any number of accounts on one socket. In: messages;
out: replies and subscriptions (sheet 4.3, 5.1, 6).

A request is served by the REST route of the same meaning; only its authentication is of its own: signed, or without a
signature on a socket that an Ed25519 key logged on (`session.logon` refuses keys of another kind).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from simulator import keys
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
    """State of one socket: the accounts subscribed on it by subscription id, and who is logged on since when."""

    subscriptions: dict[int, Account] = field(default_factory=dict)
    account: Account | None = None
    since_ms: int | None = None
    logon_subscription: int | None = None  # made without a signature: it ends with the session
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
        session: Session = socket.session
        route = METHODS.get(method)
        if route is not None:
            account = self._account if params.get("signature") else None
            if account is None and session.account is not None:
                account = lambda params, now_ms: self._logged_on(session, params, now_ms)  # noqa: E731
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
            who = self._account(params, now_ms)
            if keys.kind(who.secret) != "ed25519":
                raise ApiError(400, -4056, "HMAC_SHA256 API key is not supported for this method.")
            session.account, session.since_ms = who, now_ms
            return self._status(socket, now_ms)
        if method == "session.logout":
            ident = session.logon_subscription
            if ident in session.subscriptions:
                self._venue.later(lambda: self._end(socket, ident))
            session.account = session.since_ms = session.logon_subscription = None
            return self._status(socket, now_ms)
        if method == "session.status":
            return self._status(socket, now_ms)
        if method == "userDataStream.subscribe":
            if session.account is None:
                raise ApiError(401, -1002, "The session is not authenticated; use session.logon.")
            self._venue.api.account_of(session.account.api_key, "ws", now_ms)
            session.logon_subscription = self._subscribe(socket, session.account)
            return {"subscriptionId": session.logon_subscription}
        raise ApiError(400, -1000, f"Unknown method {method}")

    @staticmethod
    def _status(socket: StreamSocket, now_ms: int) -> dict[str, Any]:
        session: Session = socket.session
        return {
            "apiKey": session.account.api_key if session.account else None, "authorizedSince": session.since_ms,
            "connectedSince": socket.opened_at, "returnRateLimits": True, "serverTime": now_ms,
            "userDataStream": session.logon_subscription in session.subscriptions,
        }  # fmt: skip

    def _logged_on(self, session: Session, params: dict[str, str], now_ms: int) -> Account:
        """Whose request without a signature it is. Raises -2015 once the key is revoked."""
        assert session.account is not None
        self._venue.api.check_time(params, now_ms)
        return self._venue.api.account_of(session.account.api_key, "ws", now_ms)

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
        if not keys.signed(account.secret, payload.encode(), params.get("signature", "")):
            raise ApiError(400, -1022, "Signature for this request is not valid.")
        return account
