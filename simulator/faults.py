"""The faults in force. In: `POST /faults` bodies; out: effects on sockets now, and answers to "what befalls this
event, call or handshake?". Used in the simulator process, on its event loop.
"""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import TYPE_CHECKING, Any

from simulator.fault import (
    ATTACHED_ALWAYS,
    ATTACHED_NOW,
    EVENT_KINDS,
    GARBAGE,
    GARBAGE_BYTES,
    KINDS,
    PROXY_PAGE,
    SCOPE,
    Action,
    Fault,
)
from simulator.frames import encode
from simulator.http1 import BadRequest, Response

if TYPE_CHECKING:
    from simulator.sockets import Sockets
    from simulator.stream_socket import StreamSocket
    from simulator.venue import Venue

__all__ = ("Fault", "Faults")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


class Faults:
    """The faults in force."""

    def __init__(self, sockets: Sockets, venues: dict[str, Venue], random: Random) -> None:
        self._random = random
        self._sockets = sockets
        self._venues = venues
        self._active: dict[int, Fault] = {}
        self._next_id = 0
        self.on_events = False  # is any drop_event, duplicate_event or reorder in force? Read per published frame.
        self.counts: dict[str, int] = {}

    # ── control ──────────────────────────────────────────────────────────────────────────────────────────────────
    def add(self, spec: dict[str, Any]) -> Fault:
        """Put a fault in force. Raises BadRequest for an unknown kind or a malformed field."""
        fault = self._parse(spec)
        self._active[fault.id] = fault
        self.counts[fault.kind] = self.counts.get(fault.kind, 0) + 1
        seconds = spec.get("seconds")
        if seconds is not None:
            fault.timer = asyncio.get_running_loop().call_later(float(seconds), self.end, fault.id)
        self._begin(fault)
        self._refresh()
        return fault

    def _parse(self, spec: dict[str, Any]) -> Fault:
        kind = spec.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise BadRequest(f"unknown kind {kind!r}; known: {', '.join(sorted(KINDS))}")
        texts = {name: spec.get(name) for name in ("exchange", "market", "api_key", "path", "stream")}
        for name, value in texts.items():
            if value is not None and not isinstance(value, str):
                raise BadRequest(f"{name}: a string is expected")
        count = spec.get("count")
        if count is not None and (not isinstance(count, int) or count < 1):
            raise BadRequest("count: a whole number above 0 is expected")
        seconds = spec.get("seconds")
        if seconds is not None and (not _is_number(seconds) or seconds < 0):
            raise BadRequest("seconds: a number is expected")
        for name in ("status", "ms", "bytes_per_s", *(("code",) if kind == "close" else ())):
            if name in spec and not _is_number(spec[name]):  # told here: what it befalls later could not be answered
                raise BadRequest(f"{name}: a number is expected")
        self._next_id += 1
        params = {name: value for name, value in spec.items() if name not in SCOPE}
        return Fault(
            self._next_id,
            kind,
            texts["exchange"],
            texts["market"],
            texts["api_key"],
            texts["path"],
            texts["stream"],
            count,
            params,
        )

    def _begin(self, fault: Fault) -> None:
        kind = fault.kind
        if kind in ("cut", "close", "garbage"):
            self._strike(fault)
        elif kind in ATTACHED_NOW or kind in ATTACHED_ALWAYS:
            for socket in self._some(fault) if kind in ATTACHED_NOW else self._in_scope(fault):
                self._attach(fault, socket)
        elif kind == "maintenance":
            for socket in self._in_scope(fault):
                socket.close(1001, "maintenance")
        elif kind == "expire_listen_key":
            for venue in self._venues_of(fault):
                fault.hits += venue.expire_sessions(
                    fault.api_key, None if fault.left is None else fault.left - fault.hits
                )
            self._over_at_once(fault)
        elif kind == "clock_skew":
            self._set_skew()
        elif kind == "refuse":
            self._set_refusing()

    def _strike(self, fault: Fault) -> None:
        """Cut, close or send garbage now; `count` limits the sockets, or the garbage frames over all of them."""
        sockets = self._some(fault)
        if fault.kind == "garbage" and fault.left is not None and sockets:
            sockets = [sockets[i % len(sockets)] for i in range(fault.left)]
        for socket in sockets:
            fault.hits += 1
            if fault.kind == "cut":
                socket.abort()
            elif fault.kind == "close":
                socket.close(int(fault.params.get("code", 1001)), str(fault.params.get("reason", "")))
            else:
                default = encode(GARBAGE[(fault.id + fault.hits) % len(GARBAGE)])
                socket.send_raw(GARBAGE_BYTES.get(fault.params.get("form", ""), default))
        if not (fault.kind == "garbage" and fault.path):  # with a path it may be meant for REST calls to come
            self._over_at_once(fault)

    def _over_at_once(self, fault: Fault) -> None:
        if fault.timer is None:
            self.end(fault.id)

    def _some(self, fault: Fault) -> list[StreamSocket]:
        """The open sockets in scope, in random order; at most `count` of them."""
        sockets = self._in_scope(fault)
        self._random.shuffle(sockets)
        return sockets[: fault.left]

    def _in_scope(self, fault: Fault) -> list[StreamSocket]:
        return [socket for socket in self._sockets.open() if fault.hits_socket(socket)]

    def _venues_of(self, fault: Fault) -> list[Venue]:
        return [venue for venue in self._venues.values() if fault.at(venue)]

    def _attach(self, fault: Fault, socket: StreamSocket) -> None:
        socket.impaired.append(fault)
        fault.sockets.append(socket)
        if fault.kind in ATTACHED_NOW:
            fault.hits += 1

    def end(self, ident: int) -> bool:
        """Take a fault out of force; False when it is not there."""
        fault = self._active.pop(ident, None)
        if fault is None:
            return False
        fault.active = False
        if fault.timer is not None:
            fault.timer.cancel()
        for socket in fault.sockets:
            if fault in socket.impaired:
                socket.impaired.remove(fault)
        fault.sockets.clear()
        if fault.kind == "clock_skew":
            self._set_skew()
        elif fault.kind == "refuse":
            self._set_refusing()
        self._refresh()
        return True

    def _refresh(self) -> None:
        self.on_events = any(fault.kind in EVENT_KINDS for fault in self._active.values())

    def _set_skew(self) -> None:
        for venue in self._venues.values():
            skews = [f for f in self._active.values() if f.kind == "clock_skew" and f.at(venue)]
            venue.clock.skew_ms = sum(int(f.params.get("ms", 0)) for f in skews)
            for fault in skews:
                fault.hits += 1

    def _set_refusing(self) -> None:
        """A refuse without count or path closes the listening sockets; with one it resets accepted connections (see `refuses`)."""
        for venue in self._venues.values():
            for listener in venue.listeners:
                listener.set_refusing(
                    any(
                        f.kind == "refuse"
                        and f.at(venue)
                        and f.left is None
                        and f.path is None
                        and f.params.get("role") in (None, listener.role)
                        for f in self._active.values()
                    )
                )

    def as_json(self) -> list[dict[str, Any]]:
        """The faults in force."""
        return [
            {"id": f.id, "kind": f.kind, "exchange": f.exchange, "market": f.market, "api_key": f.api_key, "path": f.path,
             "stream": f.stream, "left": f.left, "hits": f.hits, **f.params}
            for f in self._active.values()
        ]  # fmt: skip

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────
    def socket_opened(self, socket: StreamSocket) -> None:
        """Attach the faults that also take later sockets."""
        for fault in self._active.values():
            if fault.kind in ATTACHED_ALWAYS and fault.hits_socket(socket):
                self._attach(fault, socket)

    def subscribed(self, socket: StreamSocket) -> None:
        """A socket's subscriptions or owner changed: faults that name a stream or a key may now concern it."""
        if not self._active:
            return
        for fault in self._active.values():
            if fault.kind in ATTACHED_ALWAYS and fault not in socket.impaired and fault.hits_socket(socket):
                self._attach(fault, socket)

    def _first(
        self, kinds: tuple[str, ...], venue: Venue, path: str, api_key: str | None, need_path: tuple[str, ...] = ()
    ) -> Fault | None:
        for fault in tuple(self._active.values()):
            if fault.kind not in kinds or not fault.at(venue) or not fault.names_path(path):
                continue
            if fault.api_key is not None and fault.api_key != api_key:
                continue
            if fault.kind in need_path and fault.path is None:
                continue
            return fault
        return None

    def _used(self, fault: Fault) -> None:
        fault.take()
        if fault.left == 0:
            self.end(fault.id)

    def refuses(self, venue: Venue, path: str, api_key: str | None) -> bool:
        """Is this connection to be reset before an answer?"""
        if not self._active:
            return False
        fault = self._first(("refuse",), venue, path, api_key)
        if fault is None:
            return False
        self._used(fault)
        return True

    def handshake(self, venue: Venue, path: str, api_key: str | None) -> Response | None:
        """The refusal of a WebSocket handshake, if one is due."""
        if not self._active:
            return None
        fault = self._first(("reject", "maintenance"), venue, path, api_key)
        if fault is None:
            return None
        self._used(fault)
        return self._refusal(fault, venue)

    def call(self, venue: Venue, path: str, api_key: str | None) -> Response | None:
        """The faulty answer to a REST call, if one is due."""
        if not self._active:
            return None
        fault = self._first(
            ("rest_error", "reject", "garbage", "maintenance"), venue, path, api_key, need_path=("reject", "garbage")
        )
        if fault is None:
            return None
        self._used(fault)
        if fault.kind == "garbage":
            return Response(200, PROXY_PAGE % 200, content_type="text/html")
        return self._refusal(fault, venue)

    @staticmethod
    def _refusal(fault: Fault, venue: Venue) -> Response:
        status = int(fault.params.get("status", 503 if fault.kind in ("reject", "maintenance") else 500))
        headers: dict[str, str] = {}
        if "retry_after" in fault.params:
            headers["Retry-After"] = str(fault.params["retry_after"])
        if "code" in fault.params:
            response = venue.error(status, fault.params["code"], str(fault.params.get("msg", "simulated fault")))
            response.headers.update(headers)
            return response
        return Response(status, PROXY_PAGE % status, headers, content_type="text/html")

    def call_delay_s(self, venue: Venue, path: str, api_key: str | None) -> float:
        """How long the answer to a REST call is held back (`slow`, with `ms`, default 2000)."""
        if not self._active:
            return 0.0
        fault = self._first(("slow",), venue, path, api_key)
        if fault is None:
            return 0.0
        self._used(fault)
        return float(fault.params.get("ms", 2000)) / 1000

    def lag_ms(self, venue: Venue, path: str, api_key: str | None) -> int:
        """How far REST is behind the engine for this call (`rest_lag`)."""
        if not self._active:
            return 0
        fault = self._first(("rest_lag",), venue, path, api_key)
        if fault is None:
            return 0
        self._used(fault)
        return int(fault.params.get("ms", 1000))

    def user_event(self, venue: Venue, api_key: str, event: str) -> Action:
        """What befalls one user event. Faults that name a stream or a market path are not meant."""
        for fault in tuple(self._active.values()):
            if fault.kind not in EVENT_KINDS or not fault.at(venue) or fault.api_key not in (None, api_key):
                continue
            if fault.stream is not None or (fault.path is not None and not venue.is_user_path(fault.path)):
                continue
            if fault.params.get("event") in (None, event) and fault.left != 0:
                self._used(fault)
                return fault.kind  # type: ignore[return-value]
        return ""

    def market_event(self, venue: Venue, stream: str, path: str) -> Action:
        """What befalls one market frame: only faults that name its stream or its path."""
        for fault in tuple(self._active.values()):
            if fault.kind not in EVENT_KINDS or not fault.at(venue) or (fault.stream is None and fault.path is None):
                continue
            if fault.api_key is None and fault.names_stream(stream) and fault.names_path(path) and fault.left != 0:
                self._used(fault)
                return fault.kind  # type: ignore[return-value]
        return ""
