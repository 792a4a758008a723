"""Opening a private socket: from when it delivers, and what it may lack."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.core.errors import ExchangeRefused
from fleet.core.exchange import Reply
from fleet.core.model import AccountSpec, Credentials
from fleet.exchanges import for_account
from fleet.runtime.metrics import Metrics
from workers.dial import Dialler, PrivateSocket

SPEC = AccountSpec("a1", "u1", "bybit", "unified", "main", False, 1, 1_000)
BYBIT = for_account("bybit", "unified")
SLOW_MS = 9_000  # of each answer; the venue's clock moves with it


class Venue:
    """Answers every request, late."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.asked: list[str] = []
        self.last_rx = 0.0

    def now_ms(self) -> int:
        return self.ms

    def send_fresh(self, make: Callable[[], bytes]) -> None:
        self.asked.append(json.loads(make())["op"])

    def read(self, timeout_s: float) -> list[bytes]:
        self.ms += SLOW_MS
        op = self.asked[-1]
        return [json.dumps({"success": True, "ret_msg": "", "op": op, "req_id": op, "conn_id": "x"}).encode()]


def test_a_socket_delivers_from_the_end_of_its_opening_however_long_that_took() -> None:
    """Else the first read-back would pass for the late one, and close the gap over what REST does not tell yet."""
    venue: Any = Venue()
    rest: Any = SimpleNamespace(exchange=BYBIT, now_ms=venue.now_ms)
    dialler = Dialler(
        SPEC, Credentials("key", "secret"), rest, lambda *_: venue, lambda *_: "ws://x", Metrics(), lambda: False
    )
    opened = dialler.open(lambda phase: None)
    assert venue.asked == ["auth", "subscribe"]
    assert opened.subscribed_ms == venue.ms == 1_000_000 + 2 * SLOW_MS


class Okx(Venue):
    """Answers at once; `refused` is a channel and the code that it is refused with."""

    def __init__(self, refused: tuple[str, str]) -> None:
        super().__init__()
        self.refused, self.requests = refused, list[dict[str, Any]]()

    def send_fresh(self, make: Callable[[], bytes]) -> None:
        self.requests.append(json.loads(make()))

    def read(self, timeout_s: float) -> list[bytes]:
        request = self.requests[-1]
        if request["op"] == "login":
            return [b'{"event":"login","code":"0","msg":"","connId":"x"}']
        (arg,) = request["args"]
        channel, code = self.refused
        if arg["channel"] != channel:
            return [json.dumps({"id": request["id"], "event": "subscribe", "arg": arg, "connId": "x"}).encode()]
        return [json.dumps({"id": request["id"], "event": "error", "code": code, "msg": "no", "connId": "x"}).encode()]

    def close(self) -> None: ...


def open_okx(*refused: str) -> PrivateSocket:
    venue: Any = Okx((refused[0], refused[1]))
    rest: Any = SimpleNamespace(exchange=for_account("okx", "unified"), now_ms=venue.now_ms)
    spec = AccountSpec("a1", "u1", "okx", "unified", "main", False, 1, 1_000)
    connect: Any = lambda *_: venue  # noqa: E731
    dialler = Dialler(
        spec, Credentials("key", "secret", "phrase"), rest, connect, lambda *_: "ws://x", Metrics(), lambda: False
    )
    return dialler.open(lambda phase: None)


def test_a_channel_that_tells_no_fill_can_be_done_without() -> None:
    opened = open_okx("balance_and_position", "60018")
    (refusal,) = (item for item in opened.early if isinstance(item, Reply))
    assert refusal.key in opened.spare and refusal.verdict.code == "60018"
    assert opened.spare == {"positions", "account", "balanceandposition"}


@pytest.mark.parametrize(("channel", "code"), [("orders", "60018"), ("positions", "64007")])
def test_fills_cannot_nor_what_may_go_better_next_time(channel: str, code: str) -> None:
    with pytest.raises(ExchangeRefused, match=code):
        open_okx(channel, code)


@pytest.mark.parametrize("shared", [True, False])
def test_a_rotation_does_not_begin_while_the_exchange_lets_nobody_dial(shared: bool) -> None:
    """Its dial would wait for the ban's end, with the old socket unread: its fills would be told only then."""
    asked: list[float] = []
    rest: Any = SimpleNamespace(exchange=BYBIT, dial_now=lambda sockets=1.0: bool(asked.append(sockets)))
    dialler = Dialler(
        SPEC,
        Credentials("key", "secret"),
        rest,
        lambda *_: None,  # type: ignore[arg-type, return-value]
        lambda *_: "ws://x",
        Metrics(),
        lambda: False,
        shared=shared,
    )
    assert not dialler.permit_now()
    assert asked == [0.0 if shared else 1.0]  # the socket that carries them takes its own permit
