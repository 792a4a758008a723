"""What a client says on a market stream socket: the URL's streams, and SUBSCRIBE & co. In: paths and messages; out:
subscriptions and replies (sheet 1.2, 1.4, 2.1). The limit of inbound messages counts pings and pongs too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from simulator.venues.binance_spot.rules import SpotSettings
from simulator.venues.binance_spot.streams import StreamName, understand

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")


@dataclass(slots=True)
class Session:
    """State of one market socket: its budget of inbound messages."""

    budget: float
    refilled: float


class ControlError(Exception):
    """An error reply; `fatal` closes the socket with 1008 after it."""

    def __init__(self, body: dict[str, Any], fatal: str = "") -> None:
        super().__init__(str(body))
        self.body = body
        self.fatal = fatal


def invalid(msg: str) -> ControlError:
    return ControlError({"code": 2, "msg": f"Invalid request: {msg}"})


class Control:
    """The dialogue of all market sockets of the venue. `start(stream, socket)` and `stop(name, socket)` change the hub."""

    def __init__(
        self,
        settings: SpotSettings,
        symbols: dict[str, Any],
        start: Callable[[StreamName, StreamSocket], None],
        stop: Callable[[str, StreamSocket], None],
        changed: Callable[[StreamSocket], None],
    ) -> None:
        self._settings, self._symbols = settings, symbols
        self._start, self._stop, self._changed = start, stop, changed

    def open(self, socket: StreamSocket) -> None:
        """Read the URL: raw `/ws[/<name>…]`, combined `/stream[?streams=<name>/…]`."""
        socket.session = Session(self._settings.messages_burst, time.monotonic())
        socket.form = int(socket.path.startswith("/stream"))
        names = socket.path.removeprefix("/ws").split("/") if socket.path.startswith("/ws") else []
        for key, value in parse_qsl(socket.query):
            names += value.split("/") if key == "streams" else []
        for name in filter(None, names):
            self._subscribe(socket, name)

    def inbound(self, socket: StreamSocket) -> bool:
        """Count one inbound frame; False (and a close) past the limit."""
        session, settings, now = socket.session, self._settings, time.monotonic()
        session.budget = min(
            settings.messages_burst, session.budget + (now - session.refilled) * settings.messages_per_s
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
            ident = request.get("id")
            if isinstance(ident, bool | float | list | dict) or (isinstance(ident, str) and len(ident) > 36):
                ident = None
                raise invalid("request ID must be an integer, a string of at most 36 characters or null")
            result = self._perform(socket, request)
        except ControlError as error:
            socket.send_text(msgspec.json.encode(error.body if ident is None else {**error.body, "id": ident}))
            if error.fatal:
                socket.close(1008, error.fatal)
            return
        socket.send_text(msgspec.json.encode({"result": result, "id": ident}))

    def close(self, socket: StreamSocket) -> None:
        """Forget the socket."""
        for name in list(socket.subscriptions):
            self._stop(name, socket)

    def _perform(self, socket: StreamSocket, request: dict[str, Any]) -> Any:
        method, params = request.get("method"), request.get("params", [])
        if method is None:
            raise invalid("missing field `method`")
        if method not in METHODS:
            raise invalid(f"unknown variant {method}, expected one of {', '.join(f'`{name}`' for name in METHODS)}")
        if not isinstance(params, list):
            raise invalid("params must be an array")
        if method == "LIST_SUBSCRIPTIONS":
            return list(socket.subscriptions)
        if method.endswith("PROPERTY"):
            return self._property(socket, method, params)
        if not all(isinstance(name, str) for name in params):
            raise invalid("params must be strings")
        for name in params:
            if method == "SUBSCRIBE":
                self._subscribe(socket, name)
            elif socket.subscriptions.pop(name, 0) is None:
                self._stop(name, socket)
        return None

    @staticmethod
    def _property(socket: StreamSocket, method: str, params: list[Any]) -> Any:
        if len(params) > (2 if method == "SET_PROPERTY" else 1) or not params:
            raise invalid("wrong number of parameters")
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
        socket.subscriptions[name] = None
        stream = understand(name, self._symbols)
        if stream is not None:
            self._start(stream, socket)
        self._changed(socket)


def _decode(message: bytes) -> dict[str, Any]:
    try:
        request = json.loads(message)
    except ValueError as error:
        raise ControlError({"code": 3, "msg": f"Invalid JSON: {error}"}) from error
    if not isinstance(request, dict):
        raise invalid("an object is expected")
    return request
