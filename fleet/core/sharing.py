"""How several accounts share one private socket, as data. Pure; carried by workers/shared_socket.py.

A venue that lets one socket carry many accounts numbers their subscriptions: a *channel*. An account learns its channel from
the reply to its own request, whose key only it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec


class Route(msgspec.Struct, frozen=True):
    """Whom one frame concerns: the asker of request `key`, the account on `channel`, or, if both are empty, everybody on the
    socket. A reply that has both tells the asker its channel. `nobody`: an error that names no request; it says nothing about
    the neighbours, so no account may be blamed for it. `barred`: this socket will not take the asker, another one may."""

    key: str = ""
    channel: str = ""
    nobody: bool = False
    barred: bool = False


@dataclass(frozen=True)
class Sharing:
    """`most`: accounts on one socket, the venue's cap. `send_interval_s`: between two frames of ours, for all of them together."""

    most: int
    send_interval_s: float
    route: Callable[[bytes], Route]
    key_of: Callable[[bytes], str]  # a frame of ours -> the key its reply will have
    leave: Callable[[str, str], bytes]  # channel, key -> frame that ends the subscription
