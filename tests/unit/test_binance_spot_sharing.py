"""Many spot accounts on one socket: whom a frame concerns."""

from __future__ import annotations

import json

import pytest

from fleet.core.model import Credentials
from fleet.core.sharing import Route
from fleet.exchanges.binance_spot import EXCHANGE
from fleet.exchanges.binance_spot.sharing import NOBODY, SHARING


@pytest.mark.parametrize(
    ("frame", "whom"),
    [
        (b'{"subscriptionId":7,"event":{"e":"executionReport"}}', Route(channel="7")),
        (b'{"subscriptionId":0,"event":{}}', Route(channel="0")),
        (b'{"id":"acc","status":200,"result":{"subscriptionId":0}}', Route(key="acc", channel="0")),
        (b'{"id":"acc","status":200,"result":{}}', Route(key="acc")),
        (b'{"id":3,"status":400,"error":{"code":-2015}}', Route(key="3")),
        (b'{"id":"acc","status":400,"error":{"code":-2035}}', Route(key="acc", barred=True)),
        (b'{"id":"acc","status":400,"error":{"code":-2042}}', Route(key="acc", barred=True)),
        (b'{"event":{"e":"serverShutdown","E":1}}', Route()),
        (b'{"status":401,"error":{"code":-2015}}', NOBODY),
        (b"{}", NOBODY),
        (b"<html>", NOBODY),
        (b'{"id":"\xff"}', NOBODY),
        (b'{"subscriptionId":"x"}', NOBODY),
    ],
)
def test_whom_a_frame_concerns(frame: bytes, whom: Route) -> None:
    assert SHARING.route(frame) == whom


def test_each_account_asks_by_a_key_and_leaves_by_its_channel() -> None:
    (step,) = EXCHANGE.opening(Credentials("key", "secret"), 1)
    assert SHARING.key_of(step.frame) == step.key
    assert json.loads(SHARING.leave("7", "bye-1")) == {
        "id": "bye-1",
        "method": "userDataStream.unsubscribe",
        "params": {"subscriptionId": 7},
    }
    assert EXCHANGE.sharing is SHARING and SHARING.most == 1000
