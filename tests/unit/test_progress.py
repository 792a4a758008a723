"""Progress of one account: order, hold, dedupe, watermark after acknowledgement, gaps, overflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fleet.core.errors import LeaseLost
from fleet.core.events import Balance, Fill, Order, Position
from fleet.core.model import AccountSpec
from fleet.core.recovery import Snapshot, Watermark
from fleet.runtime.metrics import Metrics
from workers.progress import Progress
from workers.publish import Headers

SPEC = AccountSpec("a1", "u1", "binance", "usdm", "main", False, 1, 1_000)


class FakePublisher:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.headers: list[Headers] = []
        self.acks: list[Callable[[], None] | None] = []
        self.refusals: list[Callable[[str], None] | None] = []
        self.valid: list[Callable[[], bool]] = []
        self.room = 1_000

    def offer(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: Headers,
        acked: Callable[[], None] | None = None,
        refused: Callable[[str], None] | None = None,
        valid: Callable[[], bool] = lambda: True,
    ) -> bool:
        if len(self.records) >= self.room:
            return False
        self.records.append({"topic": topic, **json.loads(value)})
        self.headers.append(headers)
        self.acks.append(acked)
        self.refusals.append(refused)
        self.valid.append(valid)
        return True

    def ack(self, index: int) -> None:
        call = self.acks[index]
        assert call is not None
        call()

    def ack_all(self) -> None:
        """Those that were not acknowledged yet."""
        for index, call in enumerate(self.acks):
            self.acks[index] = None
            if call is not None:
                call()

    def ids(self) -> list[str]:
        return [r["id"] for r in self.records if r["type"] in ("fill", "order")]


class Lease:
    open = True

    def valid(self) -> bool:
        return self.open


def progress(mark: Watermark | None = None) -> tuple[Progress, FakePublisher, Lease]:
    publisher, lease = FakePublisher(), Lease()
    made = Progress(SPEC, mark or Watermark(proven_ms=1_000), 7, "host:0", "inc1", publisher, lease, Metrics())  # type: ignore[arg-type]
    return made, publisher, lease


def fill(n: int, *, source: str = "stream", qty: str = "1", side: str = "buy") -> Fill:
    return Fill(
        id=f"fill{n}", exchange="binance", market="usdm", symbol="BTCUSDT", ts_event=2_000 + n, ts_recv=2_001 + n,
        source=source, account_id="a1", trade_id=str(n), order_id="9", client_order_id="c", side=side, position_side="both",
        price="100", qty=qty, fee="0.1", fee_asset="USDT", liquidity="taker", realized_pnl="0",
    )  # type: ignore[arg-type]  # fmt: skip


def test_live_events_are_published_once_with_token_headers() -> None:
    made, publisher, _ = progress()
    made.live([fill(1), fill(1), fill(2)])
    made.live([fill(2)])
    assert publisher.ids() == ["fill1", "fill2"]
    assert publisher.headers[0] == [("token", b"%020d" % 7), ("shard", b"host:0"), ("incarnation", b"inc1")]


def wallet(available: str | None, *, source: str = "stream") -> Balance:
    return Balance(
        id=f"wallet:{available}", exchange="okx", market="unified", symbol="", ts_event=2_000, ts_recv=2_001, source=source,
        account_id="a1", asset="USDT", wallet="10", available=available,
    )  # type: ignore[arg-type]  # fmt: skip


def test_a_balance_that_is_again_what_it_was_is_told_again() -> None:
    """An order froze a part and was cancelled; the exchange stamps neither. Or the message without `available` came last."""
    made, publisher, _ = progress()
    for available in ("10", "7", "7", "10", "10", None, "10"):
        made.live([wallet(available)])
    assert [record["available"] for record in publisher.records] == ["10", "7", "10", None, "10"]
    assert len({record["id"] for record in publisher.records}) == 5
    assert made.recovered([wallet("7", source="rest")]) == [], "REST may be old"


def state(kind: str, amount: str, at_ms: int, *, read_ms: int = 0) -> Balance | Position:
    """A wallet or position of the socket, or of a read at `read_ms`."""
    source = "rest" if read_ms else "stream"
    common: dict[str, Any] = {
        "id": f"{kind}:{at_ms}:{amount}", "exchange": "binance", "market": "usdm", "ts_event": at_ms, "ts_recv": read_ms or at_ms,
        "source": source, "account_id": "a1",
    }  # fmt: skip
    if kind == "wallet":
        return Balance(symbol="", asset="USDT", wallet=amount, available=None, **common)
    sides = {"position_side": "both", "entry_price": "1", "unrealized_pnl": "0", "margin_mode": "cross"}
    return Position(symbol="BTCUSDT", qty=amount, **sides, **common)


def stored(publisher: FakePublisher) -> str:
    """What the sink keeps of one state: the latest, and of one instant the socket's word."""
    told = [(r["ts_event"], r["source"] == "stream", n, r) for n, r in enumerate(publisher.records)]
    record = max(told, key=lambda row: row[:3])[3]
    return str(record.get("wallet") or record["qty"])


@pytest.mark.parametrize("kind", ["wallet", "position"])
@pytest.mark.parametrize(
    "wrong", ["old copy told as later", "second change of a millisecond", "a clock that ran ahead"]
)
def test_a_state_told_wrongly_is_told_again_once_rest_cannot_be_that_old(kind: str, wrong: str) -> None:
    made, publisher, _ = progress()
    truth_ms, told_ms = 5_000, 5_000
    if wrong == "second change of a millisecond":
        made.live([state(kind, "7", truth_ms)])  # the socket lost the change to 8
    else:
        told_ms = 5_001 if wrong == "old copy told as later" else 65_000
        made.live([state(kind, "8", truth_ms)])
        late = state(kind, "7", told_ms, read_ms=told_ms)
        made.recovered([late]) if wrong == "old copy told as later" else made.live(
            [msgspec.structs.replace(late, source="stream")]
        )
    publisher.ack_all()
    assert stored(publisher) == "7"
    made.prove(Snapshot(told_ms + 1, {}, {}), told_ms)
    made.recovered([state(kind, "8", truth_ms, read_ms=told_ms + 60_000)])
    if truth_ms < told_ms:
        assert stored(publisher) == "7", "REST may be that old: what the socket told would be overwritten"
    for ago_s in (100, 200):
        publisher.ack_all()
        made.recovered([state(kind, "8", truth_ms, read_ms=told_ms + ago_s * 1000)])
        assert stored(publisher) == "8"
    assert len([r for r in publisher.records if r["ts_event"] > told_ms]) == 1, "once"
    made.live([state(kind, "9", told_ms + 300_000)])
    assert stored(publisher) == "9"


def test_recovered_events_are_merged_in_order_with_the_held_live_ones_and_only_the_missing() -> None:
    made, publisher, _ = progress()
    made.live([fill(1)])
    made.hold()
    made.live([fill(4), fill(3)])
    assert publisher.ids() == ["fill1"]
    found = made.recovered([fill(2, source="rest"), fill(1, source="rest"), fill(3, source="rest")])
    assert [f.id for f in found] == ["fill2"]  # the socket told 3 as well
    assert publisher.ids() == ["fill1", "fill2", "fill3", "fill4"]
    assert not made.holding


def test_the_end_of_a_forgotten_order_is_told_where_the_socket_told_none() -> None:
    def state(n: int, status: str, source: str = "rest") -> Order:
        return Order(
            id=f"order{n}{status}{source}", exchange="binance", market="usdm", symbol="BTCUSDT", ts_event=3_000 + n, ts_recv=0,
            source=source, account_id="a1", order_id=str(n), client_order_id="", side="buy", position_side="both",  # type: ignore[arg-type]
            order_type="limit", time_in_force="gtc", status=status, price="1", stop_price="0", qty="1", filled_qty="0",  # type: ignore[arg-type]
            avg_price="0", reduce_only=False,
        )  # fmt: skip

    mark = Watermark(proven_ms=1_000)
    for n in (1, 2):
        mark.advance(state(n, "new"))
    made, publisher, _ = progress(mark)
    made.hold()
    made.live([state(2, "canceled", "stream")])
    found = made.recovered(
        [], [state(n, "canceled") for n in (1, 2, 3)]
    )  # 3 ended, and Kafka has that, since the question
    assert [event.id for event in found] == ["order1canceledrest"]
    assert publisher.ids() == ["order1canceledrest", "order2canceledstream"]


def test_an_event_that_kafka_never_takes_is_an_unrecoverable_gap_and_holds_nothing_up() -> None:
    made, publisher, _ = progress()
    made.live([fill(1), fill(2)])
    made.prove(Snapshot(at_ms=5_000, positions={}, wallets={}), 4_000)
    refuse = publisher.refusals[0]
    assert refuse is not None
    refuse("too large")
    opened, closed = publisher.records[2:]
    assert (opened["event"], closed["event"]) == ("gap_opened", "gap_closed")
    assert closed["data"]["recoverable"] is False and "fill1 refused by Kafka: too large" in closed["data"]["reason"]
    publisher.ack(1)
    assert made.mark.proven_ms == 4_000 and not made.flushed()
    publisher.ack(2)
    publisher.ack(3)
    assert made.flushed()
    made.open_gap(6_000, "cut")
    made.live([fill(3)])
    refuse = publisher.refusals[-1]
    assert refuse is not None
    refuse("too large")
    made.taken_over(7_000)
    (gap,) = made.close_gaps(9_000)
    assert publisher.records[-1]["data"]["recoverable"] is False


def test_nothing_is_published_past_the_lease() -> None:
    made, publisher, lease = progress()
    lease.open = False
    with pytest.raises(LeaseLost):
        made.live([fill(1)])
    assert publisher.records == []


def test_the_watermark_moves_only_when_everything_before_is_acknowledged() -> None:
    made, publisher, _ = progress()
    made.live([fill(1), fill(2)])
    now = Snapshot(at_ms=5_000, positions={"BTCUSDT|both": "2"}, wallets={"USDT": "99.8"})
    made.prove(now, 4_000)
    publisher.ack(1)
    assert made.mark.proven_ms == 1_000 and made.mark.base is None
    publisher.ack(0)
    assert made.mark.proven_ms == 4_000 and made.mark.base == now
    made.live([fill(4_000, qty="0.5", side="sell")])
    assert not made.mark.explains(Snapshot(6_000, {"BTCUSDT|both": "1.5"}, {"USDT": "99.7"}))
    publisher.ack(2)
    assert made.mark.explains(Snapshot(6_000, {"BTCUSDT|both": "1.5"}, {"USDT": "99.7"}))
    assert not made.mark.explains(Snapshot(6_000, {"BTCUSDT|both": "1"}, {"USDT": "99.7"}))


def test_a_full_buffer_leaves_everything_after_it_to_a_read_back() -> None:
    made, publisher, _ = progress()
    publisher.room = 2
    made.live([fill(1), fill(2), fill(3)])
    made.live([fill(4)])
    assert made.overflowed and publisher.ids() == ["fill1", "fill2"]
    publisher.room = 100
    made.live([fill(5)])  # still overflowed: order would break
    assert made.recovered([fill(6, source="rest")]) is None, "a read that proves nothing"
    assert publisher.ids() == ["fill1", "fill2"]
    made.resume()
    made.live([fill(6)])
    made.recovered([fill(n, source="rest") for n in (3, 4, 5)])
    assert publisher.ids() == ["fill1", "fill2", "fill3", "fill4", "fill5", "fill6"]


def test_a_gap_keeps_its_earliest_start_and_counts_what_came_back() -> None:
    made, publisher, _ = progress()
    made.open_gap(1_500, "closed")
    made.open_gap(1_900, "silent")
    made.recovered([fill(1, source="rest")])
    assert made.close_gaps(9_000) == [], "no socket has taken over"
    made.taken_over(2_500)
    assert made.close_gaps(2_499) == [] and not made.closes(2_499) and made.closes(2_500)
    (closed,) = made.close_gaps(2_500)
    assert closed.opened_ms == 1_500 and closed.recovered == 1
    opened, gap_closed = (r for r in publisher.records if r["type"] == "stream")
    assert (opened["event"], gap_closed["event"]) == ("gap_opened", "gap_closed")
    assert opened["data"]["gap_id"] == gap_closed["data"]["gap_id"]
    assert gap_closed["data"]["recovered_events"] == 1 and gap_closed["data"]["recoverable"] is True
    assert made.gap is None and made.close_gaps(9_000) == []


def test_orders_are_symbols_of_interest_until_they_end() -> None:
    made, publisher, _ = progress()
    order = Order(
        id="o1", exchange="binance", market="usdm", symbol="ETHUSDT", ts_event=3_000, ts_recv=3_001, account_id="a1",
        order_id="77", client_order_id="c", side="buy", position_side="both", order_type="limit", time_in_force="gtc",
        status="new", price="1", stop_price="0", qty="1", filled_qty="0", avg_price="0", reduce_only=False,
    )  # fmt: skip
    made.live([order])
    publisher.ack(0)
    assert made.mark.open_orders() == [("ETHUSDT", "77")] and made.mark.symbols == {"ETHUSDT": 3_000}
    assert json.loads(made.watermark_json())["orders"].keys() == {"ETHUSDT|77"}


def test_a_revoked_token_publishes_nothing_though_the_process_has_a_lease_again() -> None:
    """A fenced worker registers anew within milliseconds; the threads of its former life may wake later than that."""
    made, publisher, lease = progress()
    made.revoke()
    assert lease.valid()
    with pytest.raises(LeaseLost):
        made.live([fill(1)])
    made.event("connected")
    assert publisher.records == []


def test_what_was_offered_counts_no_more_once_the_token_is_revoked() -> None:
    made, publisher, _ = progress()
    made.live([fill(1)])
    made.event("connected")
    assert [valid() for valid in publisher.valid] == [True, True]
    made.revoke()
    assert [valid() for valid in publisher.valid] == [False, False]


def test_a_gap_that_begins_or_ends_with_a_full_buffer_is_told_once_there_is_room() -> None:
    made, publisher, _ = progress()
    made.live([fill(1)])
    publisher.room = 1
    made.live([fill(2)])
    made.open_gap(1_500, "kafka")
    made.event("connected")
    assert [r["event"] for r in publisher.records if r["type"] == "stream"] == []
    publisher.room = 2
    made.resume()
    assert [r["event"] for r in publisher.records if r["type"] == "stream"] == ["gap_opened"]
    made.taken_over(1_800)
    made.close_gaps(1_800)
    publisher.room = 100
    made.note_alive()
    made.event("connected")
    made.note_alive()
    assert [r["event"] for r in publisher.records if r["type"] == "stream"] == ["gap_opened", "gap_closed", "connected"]


def test_a_socket_that_dies_before_the_proof_opens_another_gap() -> None:
    made, publisher, _ = progress()
    made.open_gap(1_500, "cut")
    made.taken_over(2_000)
    made.open_gap(4_000, "cut")
    made.taken_over(5_000)
    made.open_gap(4_000, "silent")  # the next one never told anything: its gap goes on
    assert [g.opened_ms for g in made.gaps] == [1_500, 4_000] and made.gaps[-1].until_ms == 0
    assert [g.opened_ms for g in made.close_gaps(3_000)] == [1_500]
    assert (
        made.gap is not None
        and publisher.records[-1]["data"]["complete_to_ms"] <= publisher.records[-1]["data"]["closed_ms"]
    )
    made.taken_over(6_000)
    assert [g.opened_ms for g in made.close_gaps(6_000)] == [4_000]
    events = [(r["event"], r["data"]["opened_ms"]) for r in publisher.records if r["type"] == "stream"]
    assert events == [("gap_opened", 1_500), ("gap_opened", 4_000), ("gap_closed", 1_500), ("gap_closed", 4_000)]


def test_a_full_read_looks_at_what_proofs_left_out() -> None:
    made, _, _ = progress()
    made.prove(Snapshot(5_000, {}, {}), 4_000)
    made.prove(Snapshot(61_000, {}, {}), 60_000, "proof")
    assert made.mark_for_reading(1_000, "proof").proven_ms == 59_000
    assert made.mark_for_reading(1_000).proven_ms == 3_000
    made.prove(Snapshot(62_000, {}, {}), 61_000)
    assert (made.mark_for_reading(0).proven_ms, made.mark_for_reading(0, "proof").scope) == (61_000, "proof")


def test_a_read_back_begins_at_the_gap_though_the_exchange_s_clock_went_back() -> None:
    """A watermark of a clock that was a minute fast lies ahead of what happens next: fills of the gap are before it."""
    made, _, _ = progress(Watermark(proven_ms=60_000))
    assert made.mark_for_reading(1_000, "proof").proven_ms == 59_000
    made.open_gap(5_000, "closed")
    assert [made.mark_for_reading(1_000, scope).proven_ms for scope in ("proof", "full")] == [4_000, 4_000]
    made.taken_over(66_000)
    assert not made.closes(10_000)
    made.clock_went_back(6_000)
    assert made.closes(10_000)


# ── Orders that came and went in a gap ───────────────────────────────────────────────────────────────────────────
def test_what_is_unasked_outlives_the_worker_until_kafka_has_what_was_found() -> None:
    made, publisher, _ = progress()
    assert not made.unasked and msgspec.json.decode(b'{"proven_ms":5}', type=Watermark).unasked_ms == 0
    made.leave_unasked(4_000)
    made.leave_unasked(9_000)  # of a later gap: the earlier one is not answered by that
    made, publisher, _ = progress(msgspec.json.decode(made.watermark_json(), type=Watermark))
    mark = made.mark_for_reading(1_000, "orders")
    assert (mark.proven_ms, mark.scope) == (4_000, "orders"), "its margin is in it already"
    made.live([fill(1)])
    assert [event.id for event in made.asked([fill(1, source="rest"), fill(2, source="rest")])] == ["fill2"]
    assert publisher.ids() == ["fill1", "fill2"] and made.unasked
    publisher.ack(1)
    assert made.unasked, "the record before it is on its way still"
    publisher.ack(0)
    assert not made.unasked and made.mark.proven_ms == 1_000 and made.mark.base is None, "it proves nothing"


def test_a_gap_that_closed_unasked_meanwhile_is_not_answered() -> None:
    made, publisher, _ = progress()
    made.leave_unasked(4_000)
    made.asked([fill(1, source="rest")])
    made.leave_unasked(8_000)
    publisher.ack(0)
    assert made.mark.unasked_ms == 4_000
    assert made.asked([]) == [] and not made.unasked


def test_a_read_of_orders_gives_way_to_a_gap() -> None:
    made, publisher, _ = progress()
    made.leave_unasked(4_000)
    made.open_gap(5_000, "cut")
    assert made.asked([fill(1, source="rest")]) == [] and publisher.ids() == [] and made.unasked
    made.taken_over(6_000)
    made.close_gaps(7_000)
    made.hold()
    assert made.asked([fill(1, source="rest")]) == [] and made.holding and made.unasked
    made.release()
    publisher.room = 0
    assert made.asked([fill(1, source="rest")]) == [] and made.overflowed and made.unasked
