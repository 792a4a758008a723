"""What a client says on a socket: ping, login, subscribe, unsubscribe. In: messages; out: replies, subscriptions, closes
(sheet 1.2, 1.3, 2, 3).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulator.account import Account
from simulator.venues.okx import messages
from simulator.venues.okx.rules import SocketError
from simulator.venues.okx.topics import (
    BUSINESS,
    BUSINESS_PRIVATE,
    INST_TYPES,
    PRIVATE,
    PRIVATE_CHANNELS,
    PUBLIC,
    Topic,
    refused,
    understand,
)

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket
    from simulator.venues.okx.twin import Okx

HOUR_S = 3600.0


@dataclass(slots=True)
class Session:
    """State of one socket. `alive_s`: when something was last pushed to it, or it last asked with a ping."""

    conn_id: str
    alive_s: float
    account: Account | None = None
    requests: deque[float] = field(default_factory=deque)
    topics: dict[str, Topic] = field(default_factory=dict)
    frames: int = 0
    close_at_s: float = 0.0


class Control:
    """The dialogue of all sockets of the venue."""

    def __init__(self, venue: Okx) -> None:
        self._venue = venue
        self._settings = venue.settings

    def open(self, socket: StreamSocket) -> None:
        socket.session = Session(f"{socket.id:08x}", time.monotonic())

    def close(self, socket: StreamSocket) -> None:
        """Forget the socket."""
        session: Session | None = socket.session
        if session is None:
            return
        for name in session.topics:
            self._venue.feed.stop(name, socket)
        if session.account is not None:
            self._venue.users.detach(session.account.api_key, socket)

    def watch(self, sockets: list[StreamSocket]) -> None:
        """Close sockets that are idle, whose key was changed, or whose upgrade is due."""
        now_s = time.monotonic()
        for socket in sockets:
            session: Session = socket.session
            if socket.frames_sent != session.frames:
                session.frames, session.alive_s = socket.frames_sent, now_s
            if now_s - session.alive_s > self._settings.idle_s:
                socket.close(4004, "No data received in 30s.")
            elif session.close_at_s and now_s >= session.close_at_s:
                socket.close(1000, "service upgrade")
            elif session.account is not None and session.account.state == "invalid":
                socket.close(4007, "API key is updated or deleted. Please reconnect.")

    def notice(self, socket: StreamSocket) -> None:
        """Tell that the socket will be closed for an upgrade."""
        session: Session = socket.session
        session.close_at_s = time.monotonic() + self._settings.upgrade_close_s
        text = "The connection will soon be closed for a service upgrade. Please reconnect."
        socket.send_text(messages.encode({"event": "notice", "msg": text, "code": "64008", "connId": session.conn_id}))

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────
    def received(self, socket: StreamSocket, message: bytes) -> None:
        session: Session = socket.session
        if message == b"ping":
            session.alive_s = time.monotonic()
            socket.send_control(b"pong")
            return
        ident = ""
        try:
            request = self._decode(message)
            ident = self._ident(request)
            self._perform(socket, session, request, ident)
        except SocketError as error:
            self._error(socket, error, ident)

    def _error(self, socket: StreamSocket, error: SocketError, ident: str) -> None:
        body = {"event": "error", "msg": error.msg, "code": str(error.code), "connId": socket.session.conn_id}
        socket.send_text(messages.encode({"id": ident, **body} if ident else body))
        if error.close:
            socket.close(error.close, error.msg)

    @staticmethod
    def _decode(message: bytes) -> dict[str, Any]:
        text = message.decode("utf-8", "replace")
        bad = SocketError(60012, f"Invalid request: {text[:200]}")
        try:
            request = json.loads(text)
        except ValueError as error:
            raise bad from error
        if not isinstance(request, dict) or not isinstance(request.get("args"), list):
            raise bad
        if not request["args"] or not all(isinstance(arg, dict) for arg in request["args"]):
            raise SocketError(60013, "Invalid args")
        return request

    @staticmethod
    def _ident(request: dict[str, Any]) -> str:
        ident = request.get("id", "")
        if not isinstance(ident, str) or len(ident) > 32 or (ident and not (ident.isascii() and ident.isalnum())):
            raise SocketError(60033, "Parameter id error")
        return ident

    def _perform(self, socket: StreamSocket, session: Session, request: dict[str, Any], ident: str) -> None:
        op = request.get("op")
        if op not in ("login", "subscribe", "unsubscribe"):
            raise SocketError(60019, f"Invalid op: {op}")
        now_s = time.monotonic()
        while session.requests and session.requests[0] < now_s - HOUR_S:
            session.requests.popleft()
        if len(session.requests) >= self._settings.requests_per_hour:
            raise SocketError(60014, "Requests too frequent")
        session.requests.append(now_s)
        if op == "login":
            self._login(socket, session, request["args"][0])
            return
        for arg in request["args"]:
            try:
                if op == "subscribe":
                    self._subscribe(socket, session, arg, ident)
                else:
                    self._unsubscribe(socket, session, arg, ident)
            except SocketError as error:
                self._error(socket, error, ident)

    # ── login ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _login(self, socket: StreamSocket, session: Session, arg: dict[str, Any]) -> None:
        close = 4001 if self._settings.close_failed_logins else 0
        if session.account is not None:
            raise SocketError(60031, "The WebSocket endpoint does not support multiple or repeated login.")
        for number, name in ((60001, "apiKey"), (60003, "passphrase"), (60004, "timestamp"), (60002, "sign")):
            if not arg.get(name):
                raise SocketError(
                    number, f"{name} can not be empty." if number != 60004 else "Invalid timestamp", close
                )
        account = self._venue.accounts.get(str(arg["apiKey"]))
        if account is None or account.state == "invalid":
            raise SocketError(60032, "API key doesn't exist", close)
        if account.state == "ip_banned":
            raise SocketError(50110, "Your IP is not included in your API key's IP whitelist.", close)
        at = str(arg["timestamp"])
        self._check_time(at, close)
        payload = f"{at}GET/users/self/verify"
        expected = base64.b64encode(
            hmac.new(account.secret.encode(), payload.encode(), hashlib.sha256).digest()
        ).decode()
        if not hmac.compare_digest(expected, str(arg["sign"])):
            raise SocketError(60007, "Invalid sign", close)
        if not hmac.compare_digest(account.passphrase.encode(), str(arg["passphrase"]).encode()):
            raise SocketError(60024, "Wrong passphrase", close)
        session.account = account
        socket.api_keys.append(account.api_key)
        self._venue.users.attach(account, socket)
        self._venue.world.faults.subscribed(socket)
        socket.send_text(messages.encode({"event": "login", "code": "0", "msg": "", "connId": session.conn_id}))

    def _check_time(self, at: str, close: int) -> None:
        try:
            seconds = float(at)
        except ValueError as error:
            raise SocketError(60004, "Invalid timestamp", close) from error
        if abs(self._venue.clock.now_ms() / 1000 - seconds) > self._settings.login_window_s:
            raise SocketError(60006, "Timestamp request expired", close)

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────
    def _subscribe(self, socket: StreamSocket, session: Session, arg: dict[str, Any], ident: str) -> None:
        channel = str(arg.get("channel", ""))
        if channel in PRIVATE_CHANNELS or channel in BUSINESS_PRIVATE or channel == "fills":
            self._subscribe_private(socket, session, channel, arg, ident)
            return
        if socket.path == PRIVATE:
            raise refused(channel, f"instId:{arg.get('instId', '')}")
        topic = understand(arg, socket.path, self._venue.feed.markets)
        if topic.name not in session.topics and len(session.topics) >= self._settings.arguments_per_connection:
            socket.close(4009, "The number of subscribed channels exceeds the limit")
            return
        self._ack(socket, "subscribe", arg, ident)
        if topic.name in session.topics:
            return
        session.topics[topic.name] = topic
        socket.subscriptions[topic.name] = None
        self._venue.world.faults.subscribed(socket)
        self._venue.feed.start(topic, socket, self._venue.clock.now_ms(), replayed=self._venue.is_replayed(topic.name))

    def _subscribe_private(
        self, socket: StreamSocket, session: Session, channel: str, arg: dict[str, Any], ident: str
    ) -> None:
        path = BUSINESS if channel in BUSINESS_PRIVATE else PRIVATE
        if socket.path != path:
            raise (
                refused(channel, "") if socket.path == PUBLIC else SocketError(60018, f"Wrong URL or channel:{channel}")
            )
        if session.account is None:
            raise SocketError(60011, "Please log in")
        if channel == "fills":
            raise SocketError(64003, "Your trading fee tier doesn't meet the requirement to access this channel.")
        if PRIVATE_CHANNELS.get(channel) and arg.get("instType") not in INST_TYPES:
            raise refused(channel, f"instType:{arg.get('instType', '')}")
        name = _name(arg)
        fresh = name not in socket.subscriptions
        socket.subscriptions[name] = None
        self._ack(socket, "subscribe", arg, ident)
        users, account = self._venue.users, session.account
        if not fresh:
            return
        users.subscribe(account, socket, name, arg)
        self._venue.world.faults.subscribed(socket)
        count = users.channel_count(account.api_key, channel)
        over = count > self._settings.connections_per_channel
        event = "channel-conn-count-error" if over else "channel-conn-count"
        shown = min(count, self._settings.connections_per_channel)
        body = {"event": event, "channel": channel, "connCount": str(shown), "connId": session.conn_id}
        socket.send_text(messages.encode(body))
        if over:
            socket.subscriptions.pop(name, None)
            users.unsubscribe(account, socket, name)
        else:
            users.greet(account, socket, name)

    def _unsubscribe(self, socket: StreamSocket, session: Session, arg: dict[str, Any], ident: str) -> None:
        channel = str(arg.get("channel", ""))
        if channel in PRIVATE_CHANNELS:
            socket.subscriptions.pop(_name(arg), None)
            if session.account is not None:
                self._venue.users.unsubscribe(session.account, socket, _name(arg))
        else:
            topic = understand(arg, socket.path, self._venue.feed.markets)
            socket.subscriptions.pop(topic.name, None)
            if session.topics.pop(topic.name, None) is not None:
                self._venue.feed.stop(topic.name, socket)
        self._ack(socket, "unsubscribe", arg, ident)

    def _ack(self, socket: StreamSocket, event: str, arg: dict[str, Any], ident: str) -> None:
        told = {key: value for key, value in arg.items() if key != "extraParams"}
        body: dict[str, Any] = {"event": event, "arg": told, "connId": socket.session.conn_id}
        if ident and self._settings.echo_id:
            body = {"id": ident, **body}
        socket.send_text(messages.encode(body))


def _name(arg: dict[str, Any]) -> str:
    return ":".join(str(arg[key]) for key in ("channel", "instType", "instFamily", "instId", "ccy") if arg.get(key))
