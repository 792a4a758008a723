"""What a client says on a stream socket: the URL's streams and keys, and SUBSCRIBE & co. In: paths and messages; out:
subscriptions and replies (sheet 1.1, 1.4, 2.1).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from simulator.venues.binance_usdm.listen_keys import Filter, ListenKey, ListenKeys
from simulator.venues.binance_usdm.rules import UsdmSettings
from simulator.venues.binance_usdm.streams import StreamName, understand

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
ROUTES = ("/public", "/market", "/private")


@dataclass(slots=True)
class Session:
    """State of one socket: which route it is on, its listen keys, and its budget of inbound messages."""

    route: str  # /public, /market, /private, or "" for the retired unrouted paths (public data only)
    budget: float
    refilled: float
    keys: list[ListenKey] = field(default_factory=list)


class ControlError(Exception):
    """An error reply; `fatal` closes the socket with 1008 after it."""

    def __init__(self, body: dict[str, Any], fatal: str = "") -> None:
        super().__init__(str(body))
        self.body = body
        self.fatal = fatal


class Control:
    """The dialogue of all stream sockets of the venue. `start(stream, socket)` and `stop(name, socket)` change the hub."""

    def __init__(
        self,
        settings: UsdmSettings,
        keys: ListenKeys,
        symbols: dict[str, Any],
        start: Callable[[StreamName, StreamSocket], None],
        stop: Callable[[str, StreamSocket], None],
        changed: Callable[[StreamSocket], None],
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._symbols = symbols
        self._start = start
        self._stop = stop
        self._changed = changed

    def open(self, socket: StreamSocket) -> list[str]:
        """Read the URL. Returns listen keys that were opened without `events=`, for the strict setting."""
        route = next((r for r in ROUTES if socket.path == r or socket.path.startswith(r + "/")), "")
        rest = socket.path[len(route) :]
        socket.session = Session(route, self._settings.messages_burst, time.monotonic())
        socket.form = 1 if rest.startswith("/stream") else 0
        pairs = parse_qsl(socket.query, keep_blank_values=True)
        names = [name for name in rest.removeprefix("/ws").split("/") if name] if rest.startswith("/ws") else []
        for key, value in pairs:
            if key == "streams":
                names.extend(name for name in value.split("/") if name)
        bare = []
        for i, (key, value) in enumerate(pairs):
            if key == "listenKey":
                following = pairs[i + 1] if i + 1 < len(pairs) else ("", "")
                events = (
                    following[1]
                    if following[0] == "events"
                    else dict(pairs).get("events", "")
                    if _single(pairs)
                    else ""
                )
                self._attach(socket, value, frozenset(events.split("/")) if events else None)
                if not events:
                    bare.append(value)
        for name in names:
            self._subscribe(socket, name)
        return bare

    def inbound(self, socket: StreamSocket) -> bool:
        """Count one inbound frame; False (and a close) past the limit."""
        session: Session = socket.session
        now = time.monotonic()
        session.budget = min(
            self._settings.messages_burst, session.budget + (now - session.refilled) * self._settings.messages_per_s
        )
        session.refilled = now
        if session.budget < 1:
            socket.close(1008, "Too many requests")
            return False
        session.budget -= 1
        return True

    def received(self, socket: StreamSocket, message: bytes) -> None:
        """One JSON message; the reply goes out before any data it causes."""
        ident: Any = None
        try:
            request = _decode(message)
            ident = _ident(request)
            result = self._perform(socket, request)
        except ControlError as error:
            body = error.body if ident is None else {**error.body, "id": ident}
            socket.send_text(msgspec.json.encode(body))
            if error.fatal:
                socket.close(1008, error.fatal)
            return
        socket.send_text(msgspec.json.encode({"result": result, "id": ident}))

    def close(self, socket: StreamSocket) -> None:
        """Forget the socket."""
        for name in list(socket.subscriptions):
            self._stop(name, socket)
        if socket.session is not None:
            for key in socket.session.keys:
                key.sockets.pop(socket, None)

    # ── methods ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _perform(self, socket: StreamSocket, request: dict[str, Any]) -> Any:
        method, params = request.get("method"), request.get("params", [])
        if method is None:
            raise ControlError({"code": 2, "msg": "Invalid request: missing field `method`"})
        if method not in METHODS:
            known = ", ".join(f"`{name}`" for name in METHODS)
            raise ControlError(
                {"code": 2, "msg": f"Invalid request: unknown variant {method}, expected one of {known}"}
            )
        if not isinstance(params, list):
            raise ControlError({"code": 2, "msg": "Invalid request: params must be an array"})
        if method == "LIST_SUBSCRIPTIONS":
            return list(socket.subscriptions)
        if method.endswith("PROPERTY"):
            return self._property(socket, method, params)
        if not all(isinstance(name, str) for name in params):
            raise ControlError({"code": 2, "msg": "Invalid request: params must be strings"})
        for name in params:
            if method == "SUBSCRIBE":
                self._subscribe(socket, name)
            else:
                self._unsubscribe(socket, name)
        return None

    @staticmethod
    def _property(socket: StreamSocket, method: str, params: list[Any]) -> Any:
        if len(params) > (2 if method == "SET_PROPERTY" else 1) or not params:
            raise ControlError({"code": 2, "msg": "Invalid request: wrong number of parameters"})
        if params[0] != "combined":
            raise ControlError({"code": 0, "msg": "Unknown property"})
        if method == "GET_PROPERTY":
            return socket.form == 1
        if len(params) < 2 or not isinstance(params[1], bool):
            raise ControlError({"code": 1, "msg": "Invalid value type: expected Boolean"})
        socket.form = int(params[1])
        return None

    def _subscribe(self, socket: StreamSocket, name: str) -> None:
        if name in socket.subscriptions:
            return
        if len(socket.subscriptions) >= self._settings.streams_per_connection:
            raise ControlError({"error": {"code": 4, "msg": "Too many subscriptions"}}, fatal="Invalid request")
        value, _, event = name.partition("@")
        if socket.session.route == "/private":
            self._attach(socket, value, frozenset((event,)) if event else None, name)
            return
        socket.subscriptions[name] = None
        stream = understand(name, self._symbols)
        if stream is not None and stream.path == (socket.session.route or "/public"):
            self._start(stream, socket)
        self._changed(socket)

    def _unsubscribe(self, socket: StreamSocket, name: str) -> None:
        if socket.subscriptions.pop(name, 0) is None:
            self._stop(name, socket)
        key = self._keys.find(name.partition("@")[0])
        if key is not None:
            key.sockets.pop(socket, None)

    def _attach(self, socket: StreamSocket, value: str, events: Filter, name: str = "") -> None:
        """Put a socket on a listen key; an invented one upgrades like any other and stays silent."""
        socket.subscriptions[name or value] = None
        key = self._keys.find(value)
        if key is None:
            return
        known = key.sockets.get(socket, frozenset())
        key.sockets[socket] = None if events is None or known is None else events | known
        if key not in socket.session.keys:
            socket.session.keys.append(key)
        if key.account.api_key not in socket.api_keys:
            socket.api_keys.append(key.account.api_key)
        self._changed(socket)


def _single(pairs: list[tuple[str, str]]) -> bool:
    return sum(key == "listenKey" for key, _ in pairs) == 1


def _decode(message: bytes) -> dict[str, Any]:
    try:
        request = json.loads(message)
    except ValueError as error:
        raise ControlError({"code": 3, "msg": f"Invalid JSON: {error}"}) from error
    if not isinstance(request, dict):
        raise ControlError({"code": 2, "msg": "Invalid request: an object is expected"})
    return request


def _ident(request: dict[str, Any]) -> Any:
    """The request's id: an integer or a string of at most 36 characters, or nothing."""
    ident = request.get("id")
    if ident is None or (isinstance(ident, int) and not isinstance(ident, bool) and ident >= 0):
        return ident
    if isinstance(ident, str) and len(ident) <= 36:
        return ident
    raise ControlError({"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"})
