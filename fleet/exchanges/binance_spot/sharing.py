"""Binance Spot: many accounts on one socket of the WebSocket API (sheet: exchanges/binance.md sections 2.1, 4.3), as data.

Each account subscribes by a signed request of its own; its events then carry the subscription's id.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.sharing import Route, Sharing

NOBODY = Route(nobody=True)
BARRED = (-2035, -2042)  # the account is subscribed here already, by whomever; the socket has given out all its ids


class _Frame(msgspec.Struct):
    id: Any = None
    channel: int | None = msgspec.field(name="subscriptionId", default=None)
    result: Any = None
    error: Any = None
    event: Any = None


def route(frame: bytes) -> Route:
    """An event goes to its subscription, a reply to who asked, `serverShutdown` to everybody. An error without id ("key revoked
    mid-session", section 4.3) names nobody: the account whose key it is finds out by its own read-backs. Who is subscribed already
    would hear nothing: the events carry the id of a subscription that is not his."""
    try:
        row = decoding.decode(frame, _Frame)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NOBODY
    if row.channel is not None:
        return Route(channel=str(row.channel))
    if row.id is not None:
        channel = row.result.get("subscriptionId") if isinstance(row.result, dict) else None
        barred = isinstance(row.error, dict) and row.error.get("code") in BARRED
        return Route(key=str(row.id), channel="" if channel is None else str(channel), barred=barred)
    return Route() if row.event is not None else NOBODY


def key_of(frame: bytes) -> str:
    return str(decoding.decode(frame, _Frame).id)


def leave(channel: str, key: str) -> bytes:
    params = {"subscriptionId": int(channel)}
    return msgspec.json.encode({"id": key, "method": "userDataStream.unsubscribe", "params": params})


# 1000 active subscriptions a connection, 5 inbound messages a second with pings and pongs: one request each 500 ms is what was
# seen to be safe (250 ms was not).
SHARING = Sharing(most=1000, send_interval_s=0.5, route=route, key_of=key_of, leave=leave)
