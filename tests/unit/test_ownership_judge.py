"""The campaign's judge: what it calls a violation, and what it lets pass."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from fleet.core.exchange import Rate
from tests.campaigns.ownership import judge, logbook
from tests.campaigns.ownership.dials import pacing_s
from tests.campaigns.ownership.journal import Line
from tests.campaigns.ownership.traffic import under_two_ids
from tests.support.proxy import Proxy


def line(
    offset: int,
    token: int,
    incarnation: str,
    made_ms: int,
    *,
    topic: str = "user.orders",
    event: str = "",
    slot: str = "h:0",
) -> Line:
    return Line("acc", topic, 0, offset, token, incarnation, slot, made_ms, made_ms + 5, event, "stream")


def test_tokens_that_rise_are_fine_and_one_that_falls_is_not() -> None:
    rising = [line(0, 1, "a", 0), line(1, 1, "a", 10), line(2, 2, "b", 20)]
    assert judge.invariants(rising) == []
    (fall,) = judge.tokens_fall([*rising, line(3, 1, "a", 100)])
    assert fall.startswith("I2 user.orders acc: a")
    announced = line(3, 3, "", 30, topic="fleet.streams", event="moved")
    assert judge.tokens_fall([announced, line(4, 2, "b", 40, topic="fleet.streams", event="connected")]) == []


def test_two_incarnations_at_once_are_seen_and_one_message_is_forgiven() -> None:
    assert judge.overlaps_ms([line(0, 1, "a", 0), line(1, 2, "b", 100), line(2, 1, "a", 130)]) == {}
    assert judge.overlaps_ms([line(0, 1, "a", 0), line(1, 2, "b", 100), line(2, 1, "a", 900)]) == {"acc": 800}


def test_a_worker_that_overslept_its_lease_says_nothing_when_it_wakes() -> None:
    nap = judge.Nap("h:0", 1000, 9000)
    before, held, late = line(0, 1, "a", 900), line(1, 1, "a", 1010), line(2, 1, "a", 9001)
    assert judge.past_deadline([before, held, late], nap) == []  # one had passed the gate
    (found,) = judge.past_deadline([before, held, late, line(3, 1, "a", 9002)], nap)
    assert found.startswith("I3 2 records of a after 8000 ms asleep")
    assert (
        judge.past_deadline([before, late, line(3, 1, "a", 9002)], judge.Nap("h:0", 6000, 9000)) == []
    )  # within its lease
    assert judge.past_deadline([before, line(2, 2, "b", 9001), line(3, 2, "b", 9002)], nap) == []  # its next life


def test_an_account_moves_once_for_a_fault_of_its_owner() -> None:
    stayed = [line(0, 1, "a", 0), line(1, 2, "b", 2000)]
    moved = [*stayed, line(2, 3, "c", 3000, slot="h:1")]
    back = [*moved, line(3, 4, "b", 4000)]
    assert judge.needless_moves(stayed, 1000, {}) == []
    assert judge.needless_moves(moved, 1000, {"acc": 1}) == []
    assert judge.needless_moves(moved, 3500, {}) == []  # that was before
    assert judge.needless_moves(moved, 1000, {}) == ["I6 acc moved 1 times for 0 faults"]
    assert judge.needless_moves(back, 1000, {"acc": 1}) == ["I6 acc moved 2 times for 1 faults"]


def test_what_processes_hold_returns_to_what_it_was() -> None:
    before = {"worker": judge.Usage(2, 40, 60, 150.0)}
    assert judge.not_returned(before, {"worker": judge.Usage(2, 42, 64, 170.0)}) == []
    assert judge.not_returned(before, {}) == ["I8 worker: 0 processes, 2 before"]
    found = judge.not_returned(before, {"worker": judge.Usage(2, 80, 100, 300.0)})
    assert [each.split(": ")[1] for each in found] == [
        "80 threads, 40 before",
        "100 files, 60 before",
        "300 MiB, 150 before",
    ]


def test_a_gap_is_the_longest_time_without_a_socket_that_is_read() -> None:
    old = {"api_key": "k", "opened_at": 0, "closed_at": 5000}
    new = {"api_key": "k", "opened_at": 7000, "closed_at": None}
    assert judge.longest_gap_ms([old, new], 1000, 9000, None) == 2000
    assert judge.longest_gap_ms([old, new], 1000, 9000, 1000) == 6000  # its owner sleeps with the socket open
    assert judge.longest_gap_ms([old], 1000, 9000, None) == 4000
    assert judge.opened_after([old, new], "k", 1000) == [new]


def test_silence_is_counted_from_the_harm_on() -> None:
    lines = [line(0, 1, "a", 800), line(1, 1, "a", 1200), line(2, 1, "a", 3000)]
    assert judge.longest_silence_ms(lines, 1000, 4000) == {"acc": 1800}


def test_a_proxy_cuts_freezes_and_heals() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()[1]) as proxy:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            client.sendall(b"one")
            assert client.recv(16) == b"one"
            proxy.freeze()
            client.settimeout(0.3)
            client.sendall(b"two")
            try:
                raise AssertionError(f"a frozen way delivered {client.recv(16)!r}")
            except TimeoutError:
                proxy.heal()
            client.settimeout(5)
            assert client.recv(16) == b"two"
            proxy.cut()
            try:
                assert client.recv(16) == b""
            except ConnectionResetError:
                pass


def echo(server: socket.socket) -> None:
    """Send back whatever comes on the first connection, until it is closed or cut."""
    server.settimeout(5)
    connection, _ = server.accept()
    connection.settimeout(5)
    with connection, suppress(ConnectionResetError):
        while data := connection.recv(64):
            connection.sendall(data)


def test_pacing_is_what_the_dial_limits_alone_cost() -> None:
    rate, now_s = Rate(burst=10, per_s=2), 100.0
    assert pacing_s([], rate, 10, ["x"], now_s) == 0.0
    assert pacing_s([], rate, 30, ["x"], now_s) == 10.0
    assert pacing_s([], rate, 30, ["x", "y"], now_s) == 2.5
    opened = [{"ip": "x", "opened_at": 99_000} for _ in range(10)]
    assert pacing_s(opened, rate, 10, ["x"], now_s) == pytest.approx(4.0)  # ten are gone, two have come back
    assert pacing_s(opened, rate, 4, ["x", "y"], now_s) == 0.0


def test_the_log_tells_who_moved_and_how_many_at_once() -> None:
    def said(second: int, action: str, stream: str) -> str:
        place = '"shard":"b:0","reason":"drain"'
        return (
            f'{{"time":"2026-11-25T00:00:0{second}.500Z","event":"e","action":"{action}","stream":"{stream}",{place}}}'
        )

    text = [said(1, "release", "x"), said(2, "release", "y"), said(3, "move", "x"), said(4, "move", "y")]
    found = logbook.lines("\n".join(["Traceback", *reversed(text)]), 0, ("release", "move"))
    assert logbook.most_in_flight(found) == 2 and logbook.releases(found) == {"drain": 2}
    same_pass = [said(1, "release", "x"), said(2, "release", "y"), said(2, "move", "x")]
    assert logbook.most_in_flight(logbook.lines("\n".join(same_pass), 0, ("release", "move"))) == 1
    assert logbook.lines("\n".join(text), found[1].at_ms, ("release",)) == [found[1]]
    assert logbook.steps(found, found[0].at_ms - 1000) == {}


def test_a_fill_may_be_told_twice_under_one_id_only() -> None:
    def fill(name: str) -> dict[str, str]:
        return {"account_id": "a", "symbol": "S", "trade_id": "1", "order_id": "2", "id": name}

    assert under_two_ids([fill("x"), fill("x")]) == []
    assert under_two_ids([fill("x"), fill("y")]) == [("a", "S", "1", "2")]
