"""A worker's lease on the right to publish: rules R4, R5, R6 of ownership.md as functions of (state, message, time). Pure.

In: answers of Redis (`ok`, `fenced`, `unknown`, none) and of the witness in Postgres, each with the instant *before* its
question was sent. Out: the deadline up to which streams may publish, and what the worker must do. Times are seconds of
CLOCK_BOOTTIME, which goes on while the machine sleeps. `workers/heartbeat.py` carries the answers in and the orders out.

    (a) ok        → deadline = before + L
    (b) fenced, or the deadline has passed → stop everything, new incarnation, register empty
    (c) unknown   → data loss: keep streaming, register again, upload what runs; obey nothing until the generation is rebuilt
    (d) no answer → from deadline − 2H renew through the witness in Postgres
    (e) neither   → extend while gap-free, up to isolation_max_s after the last answer of either; a Redis that is back may be
                    an older copy that has forgotten the verdict on us, so the witness is asked as well until it answers
A step between two observations of the clock that is longer than GAP_S means "I was paused": nothing but a fresh answer
(one asked for after the pause) extends the deadline from then on.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from fleet.core.model import Desired

GAP_S = 1.5
ISOLATE_AT = 1.25  # heartbeats before the deadline: later than the witness' answer, and two beats before it is too late


class Answer(enum.StrEnum):
    OK = "ok"
    FENCED = "fenced"
    UNKNOWN = "unknown"
    NONE = "none"  # down, LOADING, READONLY, NOREPLICAS, OOM, timeout: nothing is known


class Order(enum.StrEnum):
    """What the worker has to do after an answer."""

    NOTHING = "nothing"
    ABORT = "abort"  # stop everything, new incarnation, register empty
    REGISTER = "register"  # same incarnation, upload what runs
    ASK_WITNESS = "ask_witness"


class Times(msgspec.Struct, frozen=True):
    """Seconds: heartbeat H, lease L (the witness lease is as long), and how long streams go on without both stores."""

    heartbeat_s: float = 1.0
    lease_s: float = 4.0
    isolation_max_s: float = 300.0
    gap_s: float = GAP_S


class Lease(msgspec.Struct, frozen=True):
    """State of one incarnation's lease. `deadline` 0 = never held. `paused` = since the last pause nothing fresh was heard."""

    deadline: float = 0.0
    seen_at: float = 0.0
    resumed_at: float = 0.0  # end of the last pause: an answer to a question from before it extends nothing by itself
    paused: bool = False
    answered_at: float = 0.0  # last usable answer of either store
    isolated: bool = False  # it stood on (e), and the witness has not been heard since


def fresh(now: float) -> Lease:
    """The lease of a new incarnation: nothing held yet."""
    return Lease(seen_at=now)


def observe(lease: Lease, now: float, times: Times) -> Lease:
    """The lease thread looked at the clock. Called around every call that may block, so that a slow store is not a pause."""
    if now - lease.seen_at > times.gap_s:
        return msgspec.structs.replace(lease, seen_at=now, resumed_at=now, paused=True)
    return msgspec.structs.replace(lease, seen_at=now)


def answered(lease: Lease, asked_at: float, now: float, answer: Answer, times: Times) -> tuple[Lease, Order]:
    """Redis' answer to the heartbeat sent at `asked_at` (the instant before the send)."""
    if answer is Answer.FENCED or lapsed(lease, now):
        return lease, Order.ABORT
    if answer is Answer.NONE:
        return _unanswered(lease, asked_at, now, times)
    if answer is Answer.UNKNOWN:
        return _extended(lease, asked_at, times), Order.REGISTER
    return _extended(lease, asked_at, times), Order.ASK_WITNESS if lease.isolated else Order.NOTHING


def lapsed(lease: Lease, now: float) -> bool:
    """The deadline passed unrenewed: streams have begun to stop, and somebody else may own them by now. That ends the
    incarnation, whatever any store says later; the next one registers empty and is given its accounts under new tokens."""
    return lease.deadline > 0 and now >= lease.deadline


def witnessed(lease: Lease, asked_at: float, answer: Answer, times: Times) -> tuple[Lease, Order]:
    """The witness' answer; UNKNOWN does not occur (writing the row creates it)."""
    if answer is Answer.FENCED:
        return lease, Order.ABORT
    if answer is Answer.OK and lease.deadline > 0:
        return msgspec.structs.replace(_extended(lease, asked_at, times), isolated=False), Order.NOTHING
    return lease, Order.NOTHING


def _extended(lease: Lease, asked_at: float, times: Times) -> Lease:
    clear = asked_at >= lease.resumed_at
    return msgspec.structs.replace(
        lease,
        deadline=max(lease.deadline, asked_at + times.lease_s),
        paused=lease.paused and not clear,
        answered_at=max(lease.answered_at, asked_at),
    )


def _unanswered(lease: Lease, asked_at: float, now: float, times: Times) -> tuple[Lease, Order]:
    """R5 (d) and (e). Only a lease that Redis once granted is prolonged without it."""
    if not lease.deadline or now < lease.deadline - 2 * times.heartbeat_s:
        return lease, Order.NOTHING
    if lease.paused or asked_at - lease.answered_at > times.isolation_max_s:
        return lease, Order.ASK_WITNESS
    if now < lease.deadline - ISOLATE_AT * times.heartbeat_s:  # the witness may answer first
        return lease, Order.ASK_WITNESS
    return msgspec.structs.replace(lease, deadline=asked_at + times.lease_s, isolated=True), Order.ASK_WITNESS


def pause_s(lease: Lease, now: float, times: Times) -> float:
    """How long to wait before the next beat: half a heartbeat when the deadline is near, so that a witness asked at
    deadline − 2H is heard, and isolation decided, well before it."""
    near = lease.deadline > 0 and lease.deadline - now <= 2.5 * times.heartbeat_s
    return times.heartbeat_s / 2 if near else times.heartbeat_s


def obey(
    current: Mapping[str, Desired], seen: Mapping[str, int], view: Mapping[str, Desired], *, rebuilt: bool
) -> dict[str, Desired]:
    """R2, R5 (c) and R6: what the worker does about a pulled view.

    `current` is what it does now, `seen` the highest token it has met per account. A view of a generation that is not
    rebuilt changes nothing. An entry under a lower token than the one met is older information: what runs goes on.
    An account missing from a rebuilt view stops.
    """
    if not rebuilt:
        return dict(current)
    wanted: dict[str, Desired] = {}
    for account, wish in view.items():
        if wish.token >= seen.get(account, 0):
            wanted[account] = wish
        elif account in current:
            wanted[account] = current[account]
    return wanted
