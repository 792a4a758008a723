"""What a client says on a Bybit socket: auth, subscribe, unsubscribe, ping. In: messages; out: replies in the shapes of the sheet
(1.2, 1.4, 2, 3), and changed subscriptions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulator import keys
from simulator.account import Account
from simulator.frames import encode as frame
from simulator.venues.bybit.messages import encode, uuid_of
from simulator.venues.bybit.rules import BybitSettings
from simulator.venues.bybit.topics import clash, is_private, understand

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket
    from simulator.venues.bybit.feed import Feed


@dataclass(slots=True)
class Session:
    """State of one socket: `category` of a public one, "private" or "" (a category without symbols here)."""

    category: str
    conn_id: str
    account: Account | None = None
    topics: set[str] = field(default_factory=set)  # private ones
    active: float = 0.0  # when it last did anything
    frames: int = 0  # sent by then
    idle_s: float = 0.0  # private: `max_active_time`


class Control:
    """The dialogue of all sockets of the venue."""

    def __init__(
        self,
        settings: BybitSettings,
        feed: Feed,
        accounts: dict[str, Account],
        now_ms: Callable[[], int],
        changed: Callable[[StreamSocket], None],
    ) -> None:
        self._settings, self._feed, self._accounts, self._now_ms, self._changed = (
            settings,
            feed,
            accounts,
            now_ms,
            changed,
        )
        self.private: dict[str, dict[StreamSocket, None]] = {}  # by api_key, those that logged in

    def open(self, socket: StreamSocket) -> None:
        session = Session(socket.path.rpartition("/")[2], uuid_of("conn", socket.id, socket.opened_at))
        session.active = time.monotonic()
        session.idle_s = _duration_s(socket.query) or self._settings.idle_private_s
        socket.session = session

    def close(self, socket: StreamSocket) -> None:
        """Forget the socket."""
        session: Session = socket.session
        if session.account is not None:
            self.private.get(session.account.api_key, {}).pop(socket, None)
        elif session.category in ("linear", "spot"):
            for name in list(socket.subscriptions):
                self._feed.stop(session.category, name, socket)

    def idle(self, socket: StreamSocket, now: float) -> bool:
        """Is it time to cut it? (sheet 2; no close frame is sent)"""
        session: Session = socket.session
        if socket.frames_sent != session.frames:
            session.frames, session.active = socket.frames_sent, now
        if session.category == "private":
            return now - session.active > session.idle_s
        return not socket.subscriptions and now - session.active > self._settings.idle_public_s

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────
    def received(self, socket: StreamSocket, message: bytes) -> None:
        """One JSON message; the reply goes out before any data it causes."""
        session: Session = socket.session
        session.active = time.monotonic()
        if self._settings.reply_delay_s > 0:
            asyncio.get_running_loop().call_later(self._settings.reply_delay_s, self._answer, socket, message)
        else:
            self._answer(socket, message)

    def _answer(self, socket: StreamSocket, message: bytes) -> None:
        session: Session = socket.session
        if not socket.is_open:
            return
        try:
            request = json.loads(message)
        except ValueError as error:
            self._reply(socket, "", {}, f"Failed to decode incoming data:{error}")
            return
        if not isinstance(request, dict):
            self._reply(socket, "", {}, "Failed to decode incoming data:not an object")
            return
        op = request.get("op")
        if op == "ping":
            self._pong(socket, request)
        elif op == "auth" and session.category == "private":
            self._auth(socket, request)
        elif op in ("subscribe", "unsubscribe"):
            names = request.get("args")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
                self._reply(socket, op, request, "error:invalid args")
            elif session.category == "private":
                self._private(socket, op, request, names)
            else:
                self._public(socket, op, request, names)
        else:
            self._reply(socket, str(op or ""), request, "error:invalid op")

    def _reply(self, socket: StreamSocket, op: str, request: dict[str, Any], error: str = "") -> None:
        session: Session = socket.session
        said = error or (op if session.category == "spot" else "")
        body = {"success": not error, "ret_msg": said, "conn_id": session.conn_id, "req_id": _req_id(request), "op": op}
        if session.category == "private" and "req_id" not in request:
            del body["req_id"]
        socket.send_text(encode(body))

    def _pong(self, socket: StreamSocket, request: dict[str, Any]) -> None:
        session: Session = socket.session
        if session.category == "private":
            body: dict[str, Any] = {
                "req_id": _req_id(request),
                "op": "pong",
                "args": [str(self._now_ms())],
                "conn_id": session.conn_id,
            }
        elif session.category == "option":
            body = {"args": [str(self._now_ms())], "op": "pong"}
        else:
            body = {
                "success": True,
                "ret_msg": "pong",
                "conn_id": session.conn_id,
                "req_id": _req_id(request),
                "op": "ping",
            }
        socket.send_raw(frame(encode(body)))  # a stalled socket still answers pings

    # ── private ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _auth(self, socket: StreamSocket, request: dict[str, Any]) -> None:
        """A refusal has no code, and says the same of a bad key, a bad signature and a time gone by (3.2)."""
        session: Session = socket.session
        account = self._proven(request.get("args"))
        if account is None:
            body: dict[str, Any] = {"success": False, "ret_msg": "Params Error", "conn_id": session.conn_id}
            if self._settings.login_echoes:
                body |= {"req_id": "", "request": request}
            else:
                body["op"] = "auth"
            socket.send_text(encode(body))
            return
        session.account = account
        socket.api_keys.append(account.api_key)
        self._reply(socket, "auth", request)
        self.private.setdefault(account.api_key, {})[socket] = None
        self._changed(socket)

    def _proven(self, args: Any) -> Account | None:
        if not isinstance(args, list) or len(args) != 3:
            return None
        api_key, expires, proof = (str(arg) for arg in args)
        account = self._accounts.get(api_key)
        if account is None or account.state != "active" or not expires.isdigit() or int(expires) <= self._now_ms():
            return None
        return account if keys.signed(account.secret, f"GET/realtime{expires}".encode(), proof) else None

    def _private(self, socket: StreamSocket, op: str, request: dict[str, Any], names: list[str]) -> None:
        session: Session = socket.session
        if session.account is None:
            self._reply(socket, op, request, f"error:topic:{names[0]} needs auth first")
            return
        unknown = next((name for name in names if not is_private(name) and not name.startswith("dcp.")), "")
        if unknown or clash(names):
            self._reply(socket, op, request, f"error:handler not found,topic:{unknown or names[0]}")
            return
        for name in names:
            if op == "subscribe":
                session.topics.add(name)
                socket.subscriptions[name] = None
            else:
                session.topics.discard(name)
                socket.subscriptions.pop(name, None)
        self._reply(socket, op, request)
        self._changed(socket)

    def listeners(self, api_key: str, topic: str, category: str) -> list[tuple[StreamSocket, str]]:
        """Sockets of an account that subscribed `topic`, and the name under which they did."""
        found = []
        for socket in self.private.get(api_key, ()):
            for name in (topic, f"{topic}.{category}"):
                if name in socket.session.topics:
                    found.append((socket, name))
                    break
        return found

    # ── public ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _public(self, socket: StreamSocket, op: str, request: dict[str, Any], names: list[str]) -> None:
        category = socket.session.category
        symbols = self._feed.symbols(category)
        if category == "spot" and len(names) > self._settings.args_per_request:
            self._reply(socket, op, request, f"args size >{self._settings.args_per_request}")
            return
        if op == "unsubscribe":
            for name in names:
                if socket.subscriptions.pop(name, 0) is None:
                    self._feed.stop(category, name, socket)
            self._reply(socket, op, request)
            return
        topics = [(name, understand(name, category, symbols)) for name in names]
        for name, topic in topics:
            if topic is None:
                self._reply(socket, op, request, f"error:handler not found,topic:{name}")
                return
            if name in socket.subscriptions:
                self._reply(socket, op, request, f"error:already subscribed,topic:{name}")
                return
        if sum(map(len, (*socket.subscriptions, *names))) > self._settings.args_chars:
            self._reply(socket, op, request, f"args length >{self._settings.args_chars}")
            return
        self._reply(socket, op, request)
        for name, topic in topics:
            assert topic is not None
            if name not in socket.subscriptions:
                socket.subscriptions[name] = None
                self._feed.start(category, topic, socket, self._now_ms())
        self._changed(socket)


def _req_id(request: dict[str, Any]) -> str:
    return str(request.get("req_id", ""))


def _duration_s(query: str) -> float:
    """`max_active_time=30s`..`10m` of a private URL, 0 where it is not given."""
    value = query.partition("max_active_time=")[2].partition("&")[0]
    number, unit = value[:-1], value[-1:]
    if not number.isdigit() or unit not in ("s", "m"):
        return 0.0
    seconds = float(number) * (60 if unit == "m" else 1)
    return seconds if 30 <= seconds <= 600 else 0.0
