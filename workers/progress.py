"""What of one account has reached Kafka, and which gap is open. Runs in the worker; no socket, no REST.

Three threads meet here: the account's reader (live events), a read-back thread (recovered events) and the publisher's ack
thread (watermark). `_lock` guards every field, and publishing happens under it, so that per-account order is the order in
which events came in: first what a read-back found, then the live frames that were held meanwhile.

A gap is opened at the last instant at which the stream was proven alive and closed after the second read-back. It ends where a
new socket took over: should that one die before the proof, another gap opens, and each closes at its own proof.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.errors import LeaseLost
from fleet.core.events import Balance, Order, StreamEvent, UserRecord
from fleet.core.model import AccountSpec, format_token
from fleet.core.names import HEADER_INCARNATION, HEADER_SHARD, HEADER_TOKEN, TOPIC_OF_TYPE, TOPIC_STREAMS
from fleet.core.recovery import TERMINAL, Scope, Snapshot, Watermark, in_order, missed, order_key
from fleet.core.tally import Tally
from fleet.runtime.metrics import Metrics
from workers.publish import Gate, Publisher

KNOWN_IDS = 20_000
HELD_EVENTS = 20_000
_encode = msgspec.json.Encoder().encode


class Gap(msgspec.Struct):
    """An interval in which events may have been missed. `until_ms`: exchange time at which a socket took over, 0 = none has."""

    id: str
    opened_ms: int
    reason: str
    until_ms: int = 0
    complete_to_ms: int = 0  # the same instant by our clock
    recovered: int = 0
    lost: str = ""  # what of it can never be delivered


class Progress:
    """Publishing side of one account stream under one token."""

    def __init__(
        self,
        spec: AccountSpec,
        mark: Watermark,
        token: int,
        slot: str,
        incarnation: str,
        publisher: Publisher,
        gate: Gate,
        metrics: Metrics,
    ) -> None:
        self.spec, self.mark = spec, mark
        self.gaps: list[Gap] = []  # those that are open, oldest first; only the last one may still go on
        self.full_ms = 0  # exchange time up to which a full read has looked, in this process
        self.dirty = True
        self.overflowed = False
        self.overflowed_ms = 0  # by our clock: all before was taken
        self._revoked = False  # once and for all, by whichever thread
        self.last_event_ms = mark.last_event_ms
        self.last_live_ms = 0  # exchange time of the newest event a socket delivered
        self._key = spec.id.encode()
        self._headers = [
            (HEADER_TOKEN, format_token(token).encode()),
            (HEADER_SHARD, slot.encode()),
            (HEADER_INCARNATION, incarnation.encode()),
        ]
        self._publisher, self._gate, self._metrics = publisher, gate, metrics
        self._lock = (
            threading.RLock()
        )  # guards mark, gaps, _known, _balances, _tally, _held, _owed, overflowed, and the order of offers
        self._owed: deque[bytes] = deque()  # stream events that begin or end a gap and found the buffer full
        self._known: dict[str, None] = {}
        self._balances: dict[str, str] = {}  # asset -> id of what was told of it last
        self._tally = Tally()
        self._held: list[UserRecord] | None = None
        self._sequence = 0
        self._unacked: dict[int, UserRecord] = {}  # by sequence number: offered to Kafka, oldest first
        self._telling = 0  # stream events offered and not acknowledged: the watermark does not wait for them
        self._proof: tuple[int, Snapshot, int] | None = None  # (sequence it waits for, snapshot, proven_ms)
        self._asked: int | None = None  # sequence that an answered question for unasked orders waits for

    # ── live events: the account's reader ────────────────────────────────────────────────────────────────────────
    def hold(self) -> None:
        """From now on live events wait for the read-back."""
        with self._lock:
            if self._held is None:
                self._held = []

    def release(self) -> None:
        """Publish what was held and hold no more."""
        with self._lock:
            held, self._held = self._held, None
            self._publish(held or ())

    @property
    def holding(self) -> bool:
        return self._held is not None

    def live(self, events: list[UserRecord]) -> None:
        """Publish events of the socket, or hold them. Raises LeaseLost past the lease's deadline."""
        with self._lock:
            self.last_live_ms = max(self.last_live_ms, max(event.ts_event for event in events))
            if self._held is not None and len(self._held) < HELD_EVENTS:
                self._held.extend(events)
            else:
                if self._held is not None:
                    self.release()
                self._publish(events)

    def _publish(self, events: Iterable[UserRecord]) -> list[UserRecord]:
        """Offer those not published yet; → those taken. Stops for good at a full buffer."""
        published: list[UserRecord] = []
        for event in events:
            told = event.id
            if told in self._known:
                if not self._is_back(event):
                    continue
                event = msgspec.structs.replace(event, id=f"{told}:{event.ts_recv}:{self._sequence}")
            if not self._may_publish():
                raise LeaseLost(f"account {self.spec.id}: the lease is past its deadline")
            if self.overflowed:
                break
            if not self._offer(event):  # the buffer is full: from here on everything is left to a read-back
                self.overflowed = True
                self.overflowed_ms = max(self.last_event_ms, min(event.ts_event, event.ts_recv))
                break
            if isinstance(event, Balance):
                self._balances[event.asset] = told
            published.append(event)
        return published

    def _is_back(self, event: UserRecord) -> bool:
        """Does the socket tell a balance as it was before the one told last? What an order froze is free again, under the time of
        before; or the message that knows nothing of what is available came last."""
        return isinstance(event, Balance) and event.source == "stream" and self._balances.get(event.asset) != event.id

    def _offer(self, event: UserRecord) -> bool:
        kind = str(event.__struct_config__.tag)
        sequence = self._sequence + 1
        acked, refused = partial(self._acked, event, sequence), partial(self._refused, event, sequence)
        if not self._publisher.offer(
            TOPIC_OF_TYPE[kind], self._key, _encode(event), self._headers, acked, refused, self._counts
        ):
            return False
        self._sequence = sequence
        self._unacked[sequence] = event
        self._known[event.id] = None
        self._tally.take(event)
        if len(self._known) > KNOWN_IDS:
            for old in list(self._known)[: KNOWN_IDS // 2]:
                del self._known[old]
        self.last_event_ms = max(self.last_event_ms, event.ts_recv)
        self._metrics.events(kind).inc()
        return True

    def _acked(self, event: UserRecord, sequence: int) -> None:
        """Runs in the publisher's ack thread: only now may the watermark move."""
        with self._lock:
            self._unacked.pop(sequence, None)
            if not self.mark.has(event):
                self.mark.advance(event)
            self.dirty = True
            self._settle()

    def _refused(self, event: UserRecord, sequence: int, why: str) -> None:
        """Kafka will never take this event (too large): it is lost, holds nothing up, and shows as an unrecoverable gap. Runs in
        the publisher's ack thread."""
        with self._lock:
            self._unacked.pop(sequence, None)
            self.lose(event.ts_recv, "kafka", f"event {event.id} refused by Kafka: {why}")
            self._settle()

    def lose(self, at_ms: int, reason: str, lost: str) -> None:
        """Something of about `at_ms` can never be delivered, `lost` in words: told by the open gap, else by one of its own."""
        with self._lock:
            open_ = self.gap
            gap = open_ or self.open_gap(at_ms, reason)
            gap.lost = f"{gap.lost}; {lost}" if gap.lost else lost
            if open_ is None:
                self._close(gap, "")

    def resume(self) -> None:
        """There is room again after an overflow: hold live events until the read-back has delivered what was dropped."""
        with self._lock:
            self.tell()
            self.overflowed = False
            self._held = []

    # ── read-backs ───────────────────────────────────────────────────────────────────────────────────────────────
    def mark_for_reading(self, margin_ms: int, scope: Scope = "full") -> Watermark:
        """A copy of the watermark to read back from, moved back by the margin (REST's clock and lag), with what is on its way to
        Kafka: what came back to where it was must be told to whoever hears of the way there. A full read also looks at what
        proofs have left out since the one before. Nor is a gap's beginning passed over, which is by our clock: the exchange's,
        as we heard it, may have gone back, and left the watermark in what is to come. A read of orders begins where they are
        unasked."""
        with self._lock:
            copy = decoding.decode(msgspec.json.encode(self.mark), Watermark)
            if scope == "orders":
                copy.scope, copy.proven_ms = scope, copy.unasked_ms
                return copy
            for event in self._unacked.values():
                if not copy.has(event):
                    copy.advance(event)
            since_ms = min(copy.proven_ms, self.full_ms or copy.proven_ms) if scope == "full" else copy.proven_ms
            since_ms = min([since_ms, *(gap.opened_ms for gap in self.gaps)])
        copy.scope, copy.proven_ms, copy.told = scope, max(0, since_ms - margin_ms), self._known
        return copy

    def recovered(self, events: list[UserRecord], canceled: Iterable[Order] = ()) -> list[UserRecord] | None:
        """Publish what a read-back found and this process has not published yet, merged by exchange time with the held live
        events; what both tell is the socket's. `canceled`: ends of orders that the exchange has forgotten; of one whose end the
        socket told since the question, its word is enough. → the found; None where the buffer was full: then this read proves
        nothing, even if there is room again before its reader looks."""
        with self._lock:
            held = self._held or []
            told = {event.id for event in held}
            ends = (event for event in held if isinstance(event, Order) and event.status in TERMINAL)
            open_ = self.mark.orders.keys() - {order_key(end.symbol, end.order_id) for end in ends}
            events = [
                *map(self.mark.outranking, events),
                *(end for end in canceled if order_key(end.symbol, end.order_id) in open_),
            ]
            fresh = [event for event in missed(events, self._known) if event.id not in told]
            found = [event for event in self._publish(in_order([*fresh, *held])) if event.source == "rest"]
            if self.gaps:
                self.gaps[0].recovered += len(found)
            if self.overflowed:
                return None
            self._held = None
            return found

    def prove(self, snapshot: Snapshot, proven_ms: int, scope: Scope = "full") -> None:
        """All before `proven_ms` (exchange time) is read and handed over. The watermark follows Kafka: it moves when every
        record offered so far is acknowledged, whichever partition it went to."""
        with self._lock:
            if scope == "full":
                self.full_ms = min(max(self.full_ms, proven_ms), snapshot.at_ms)
            self._tally.proven(proven_ms)
            self._proof = (self._sequence, snapshot, proven_ms)
            self._settle()

    def _settle(self) -> None:
        oldest = next(iter(self._unacked), math.inf)
        if self._proof is not None and oldest > self._proof[0]:
            _, snapshot, proven_ms = self._proof
            self._proof = None
            self.mark.prove(snapshot, proven_ms)
            self.dirty = True
        if self._asked is not None and oldest > self._asked:
            self._asked, self.mark.unasked_ms = None, 0
            self.dirty = True

    # ── orders that came and went in a gap ───────────────────────────────────────────────────────────────────────
    @property
    def unasked(self) -> bool:
        """Is there a gap in which they were not asked for?"""
        return self.mark.unasked_ms > 0

    def leave_unasked(self, since_ms: int) -> None:
        """A gap is about to close without having asked for them since `since_ms` (exchange time): to be made up for later, by
        whoever owns the account then. Say so before the watermark moves."""
        with self._lock:
            self._asked = None
            self.mark.unasked_ms = max(1, min(since_ms, self.mark.unasked_ms or since_ms))
            self.dirty = True

    def asked(self, events: list[UserRecord]) -> list[UserRecord]:
        """Publish what a read of orders found and this process has not published yet; once Kafka acknowledged it, nothing is
        unasked any more. → the found. A gap that opened meanwhile comes first: it asks anew once it has closed."""
        with self._lock:
            if self.gaps or self.overflowed or self._held is not None:
                return []
            found = self._publish(in_order(missed(events, self._known)))
            if not self.overflowed:
                self._asked = self._sequence
                self._settle()
            return found

    def short(self, quiet_ms: int) -> bool:
        """Has an order told for `quiet_ms` of more than its fills?"""
        with self._lock:
            return self._tally.short(int(time.time() * 1000) - quiet_ms)

    def suspicious(self, quiet_ms: int, books: Callable[[str], bool]) -> bool:
        """Is there a position that the fills do not explain? Only asked of a stream that Kafka has caught up with and that was
        quiet for `quiet_ms`."""
        with self._lock:
            if self._unacked or time.time() * 1000 - self.last_event_ms < quiet_ms:
                return False
            return self.mark.suspicious(books)

    @property
    def traded_ms(self) -> int:
        """Exchange time of the newest order, fill or event of a socket that is known."""
        with self._lock:
            return max(self.last_live_ms, max(self.mark.symbols.values(), default=0))

    @property
    def exposed(self) -> bool:
        """Does the account hold positions or have open orders, as far as is known?"""
        return bool(self.mark.positions or self.mark.orders)

    def flushed(self) -> bool:
        """True once Kafka acknowledged everything offered so far."""
        return not self._unacked and not self._telling

    def watermark_json(self) -> str:
        with self._lock:
            return msgspec.json.encode(self.mark).decode()

    def note_alive(self, at_ms: int = 0) -> None:
        """The stream was alive at `at_ms` (0 = is now) and no gap is open: what a later owner may take as the last proven-alive
        instant."""
        with self._lock:
            self.tell()
            if not self.gaps and not self.overflowed and self.mark.base is not None:
                self.mark.alive_ms = at_ms or int(time.time() * 1000)
                self.dirty = True

    # ── gaps and stream events ───────────────────────────────────────────────────────────────────────────────────
    @property
    def gap(self) -> Gap | None:
        """The newest open gap."""
        gaps = self.gaps
        return gaps[-1] if gaps else None

    def open_gap(self, opened_ms: int, reason: str) -> Gap:
        """Open a gap; one that still goes on goes on (the earliest start counts)."""
        with self._lock:
            latest = self.gap
            if latest is not None and (not latest.until_ms or latest.opened_ms >= opened_ms):
                latest.until_ms = latest.complete_to_ms = 0
                return latest
            gap = Gap(f"{self.spec.id}:{opened_ms}", opened_ms, reason)
            self.gaps = [*self.gaps, gap]
            if len(self.gaps) == 1:
                self._metrics.open_gaps(self.spec.exchange).inc()
            self.event("gap_opened", reason, gap_id=gap.id, opened_ms=opened_ms, reason=reason)
            return gap

    def taken_over(self, subscribed_ms: int) -> None:
        """A socket delivers from `subscribed_ms` (exchange time) on: what is open ends there."""
        with self._lock:
            for gap in self.gaps:
                if not gap.until_ms:
                    gap.until_ms, gap.complete_to_ms = subscribed_ms, int(time.time() * 1000)

    def clock_went_back(self, now_ms: int) -> None:
        """It is `now_ms` at the exchange: what a socket took over later than that by the clock before, it has taken over."""
        with self._lock:
            for gap in self.gaps:
                gap.until_ms = min(gap.until_ms, now_ms)

    def closes(self, settled_ms: int) -> bool:
        """Would a full read by which REST tells everything before `settled_ms` close a gap?"""
        return any(0 < gap.until_ms <= settled_ms for gap in self.gaps)

    def close_gaps(self, settled_ms: int, unrecoverable: str = "") -> list[Gap]:
        """Close the gaps that ended before `settled_ms`. → these."""
        with self._lock:
            closed = [gap for gap in self.gaps if 0 < gap.until_ms <= settled_ms]
            for gap in closed:
                self._close(gap, unrecoverable)
            return closed

    def _close(self, gap: Gap, unrecoverable: str) -> None:
        self.gaps = [other for other in self.gaps if other is not gap]
        unrecoverable = "; ".join(filter(None, (unrecoverable, gap.lost)))
        closed_ms = int(time.time() * 1000)
        if not self.gaps:
            self._metrics.open_gaps(self.spec.exchange).dec()
        self._metrics.gap_seconds(self.spec.exchange).observe((closed_ms - gap.opened_ms) / 1000)
        self.event(
            "gap_closed",
            unrecoverable or gap.reason,
            gap_id=gap.id,
            opened_ms=gap.opened_ms,
            closed_ms=closed_ms,
            complete_to_ms=gap.complete_to_ms or closed_ms,
            reason=unrecoverable or gap.reason,
            recovered_events=gap.recovered,
            recoverable=not unrecoverable,
        )

    def revoke(self) -> None:
        """This token is lost for good: nothing is published any more, even when the process has a lease again (under its next
        incarnation, before this stream's thread has noticed)."""
        self._revoked = True

    def _counts(self) -> bool:
        return not self._revoked

    def _may_publish(self) -> bool:
        return not self._revoked and self._gate.valid()

    def abandon(self) -> None:
        """The stream ends here, and nothing more goes out under its token; whoever owns the account next goes on from the
        watermark."""
        with self._lock:
            self._revoked = True
            if self.gaps:
                self._metrics.open_gaps(self.spec.exchange).dec()
                self.gaps = []

    def event(self, name: str, why: str = "", **data: Any) -> None:
        """Publish a fleet.streams event. A full buffer drops it (the log has it too), but what begins or ends a gap is told once
        there is room: its row would be missing, or open for ever."""
        now_ms = int(time.time() * 1000)
        record = StreamEvent(
            id=f"{self.spec.id}:{name}:{now_ms}",
            exchange=self.spec.exchange,
            market=self.spec.market,
            symbol="",
            ts_event=now_ms,
            ts_recv=now_ms,
            stream=self.spec.id,
            event=name,
            reason=why,
            account_id=self.spec.id,
            data=data,
        )
        with self._lock:
            self._owed.append(_encode(record))
            if not self.tell() and name not in ("gap_opened", "gap_closed"):
                self._owed.pop()

    def tell(self) -> bool:
        """Publish the stream events that found the buffer full, in order; False = it still is, or nothing may be published."""
        with self._lock:
            while self._owed:
                if not self._may_publish() or not self._publisher.offer(
                    TOPIC_STREAMS, self._key, self._owed[0], self._headers, self._told, self._untold, self._counts
                ):
                    return False
                self._owed.popleft()
                self._telling += 1
            return True

    def _told(self) -> None:
        with self._lock:
            self._telling -= 1

    def _untold(self, why: str) -> None:
        self._told()
