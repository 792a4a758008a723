"""A venue that echoes: the partner of Autobahn's fuzzingclient (`python -m simulator --echo-port N`). In: messages;
out: the same messages.

It is served by the same sockets as the exchanges, so what the suite proves of it holds for them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from simulator.account import Account
from simulator.clock import Clock
from simulator.frames import BINARY, TEXT, encode
from simulator.http1 import Request, Response
from simulator.listener import Listener
from simulator.replay import Capture
from simulator.stream_socket import StreamSocket
from simulator.venue import Endpoint, OrderTicket, Refused, SocketSettings


class Echo:
    """No exchange at all: no accounts, no market, no limits."""

    name = "echo"
    exchange = "echo"
    market = "echo"
    endpoints: tuple[Endpoint, ...] = ()

    def __init__(self) -> None:
        self.clock = Clock()
        self.settings = SocketSettings(ping_interval_s=0, max_message_bytes=64 * 1024 * 1024)
        self.listeners: list[Listener] = []
        self.accounts: dict[str, Account] = {}

    def rest(self, request: Request, role: str) -> Response:
        return Response(404, b"only WebSocket here", content_type="text/plain")

    def handshake(self, request: Request, role: str) -> Response | None:
        return None

    def key_of(self, request: Request) -> str | None:
        return None

    def path_group(self, path: str) -> str:
        return "/"

    def opened(self, socket: StreamSocket) -> None:
        """Nothing to read from the URL."""

    def inbound(self, socket: StreamSocket) -> bool:
        return True

    def received(self, socket: StreamSocket, message: bytes, is_text: bool) -> None:
        socket.send(encode(message, TEXT if is_text else BINARY))

    def closed(self, socket: StreamSocket) -> None:
        """Nothing is kept."""

    def ping_payload(self) -> bytes:
        return b""

    def tick(self) -> None:
        """Nothing moves."""

    def events_sent(self) -> int:
        return 0

    def error(self, status: int, code: int | str, msg: str) -> Response:
        return Response(status, msg.encode(), content_type="text/plain")

    def is_user_path(self, path: str) -> bool:
        return False

    def add_account(self, spec: dict[str, Any]) -> Account:
        raise Refused("the echo has no accounts")

    def place(self, ticket: OrderTicket) -> dict[str, Any]:
        raise Refused("the echo has no orders")

    def cancel(self, api_key: str, symbol: str, order_id: str) -> None:
        raise Refused("the echo has no orders")

    def deposit(self, api_key: str, asset: str, amount: Decimal, kind: str) -> None:
        raise Refused("the echo has no accounts")

    def random_ticket(self, account: Account) -> OrderTicket:
        raise Refused("the echo has no orders")

    def expire_sessions(self, api_key: str | None, limit: int | None) -> int:
        return 0

    def replay(self, capture: Capture) -> bool:
        return False

    def replays(self) -> list[dict[str, Any]]:
        return []

    def restart_replays(self, loop: bool | None) -> None:
        """None to restart."""
