"""Signed REST calls of account streams: permit, clock, signature, verdict. Runs in worker threads, never in a socket reader
that has frames to read.

One `VenueRest` per venue, environment and egress address; it owns the connection pool and the clock offset. In: HttpCall and
credentials. Out: an OK reply, or ExchangeRefused with the verdict, or ConnectionFailed. Weight permits come from the fleet's
shared budget; a 429, 418 or ban stops every process of the fleet on this address for as long as the exchange said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import msgspec

from fleet.core.errors import ConnectionFailed, ExchangeRefused, FleetError, NoPermit
from fleet.core.exchange import Exchange, HttpCall, HttpReply, HttpRequest, Outcome, Rate, Verdict
from fleet.core.model import Credentials
from fleet.runtime.http import Http
from fleet.runtime.metrics import Metrics
from workers.reach import Crowd, Reach

CLOCK_AGE_S = 1800.0
CLOCK_RETRY_S = 30.0
RESERVED_SHARE = 0.15  # of the weight, for tickets, renewals and probes
PROBE_SHARE = 0.05  # of the weight, for proofs that an account's socket told everything
RATE_WAIT_S = 60.0  # where a 429 does not say how long
MAX_PERMIT_POLL_S = 5.0
MAX_WEIGHT_DIGITS = 9  # more is no weight


class Permits(Protocol):
    """What of the fleet's budget is used here (fleet.runtime.redis_store.Budget)."""

    def take(
        self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0
    ) -> float: ...
    def block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None: ...
    def observed(self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, sent_s: float) -> None: ...


class VenueRest:
    """REST of one venue from one egress address. Thread-safe."""

    def __init__(
        self,
        exchange: Exchange,
        is_testnet: bool,
        http: Http,
        permits: Permits,
        egress_ip: str,
        metrics: Metrics,
        stop: threading.Event,
        crowd: Crowd | None = None,
        workers: int = 1,
    ) -> None:
        """`crowd`: of all dials of this process, where others dial beside this venue. `workers`: so many share the address."""
        self.exchange, self.is_testnet, self.http = exchange, is_testnet, http
        self.reach, self.crowd = Reach(), crowd or Crowd()
        self._permits, self._egress_ip, self._metrics, self._stop = permits, egress_ip, metrics, stop
        # budgets are by host: a test network has its own, unless a setting puts one host in front of everything
        testnet = http.root_url == exchange.testnet_hosts.rest != exchange.hosts.rest
        self._host = f"{exchange.name}-testnet" if testnet else exchange.name
        limits = exchange.limits
        self._probe_lock = threading.Lock()  # guards _probe_from_s
        self._probe_from_s, self._probe_each_s = (
            0.0,
            workers * limits.proof_weight / (PROBE_SHARE * limits.weight.per_s),
        )
        self._clock_lock = threading.Lock()  # guards _offset_ms and _synced_s: one thread asks for the time
        self._offset_ms = round(time.time() * 1000 - _boot_ms())  # until the exchange has told its time: this machine's
        self._synced_s = -CLOCK_AGE_S

    def now_ms(self) -> int:
        """The exchange's clock as far as known; asks for it when the offset is old. Never raises. Counted from the boot clock: what
        is proven is proven up to an instant of the exchange, and this machine's wall clock may be set at any time."""
        if time.monotonic() - self._synced_s > CLOCK_AGE_S:
            with self._clock_lock:
                if time.monotonic() - self._synced_s > CLOCK_AGE_S:
                    self._sync()
        return int(_boot_ms()) + self._offset_ms

    def resync(self) -> None:
        """Ask the exchange for its time again (a call was refused for its timestamp)."""
        with self._clock_lock:
            self._sync()

    def _sync(self) -> None:
        """One question for the time. An answer that is none leaves the offset as it is, for half a minute."""
        self._synced_s = time.monotonic() - CLOCK_AGE_S + CLOCK_RETRY_S
        if self._permits.take("weight", self._host, self._egress_ip, 0.0, self.exchange.limits.weight) > 0.0:
            return  # it wants to be left alone
        before_ms = _boot_ms()
        try:
            reply = self._exchange_of(self.exchange.clock, None)
            verdict = self.exchange.classify(reply)
            if verdict.outcome is Outcome.RATE:
                self._permits.block("weight", self._host, self._egress_ip, verdict.wait_s or RATE_WAIT_S)
            if verdict.outcome is not Outcome.OK:
                return
            server_ms = self.exchange.clock_ms(reply)
        except (FleetError, ValueError, LookupError):
            return
        self._offset_ms = round(server_ms - (before_ms + _boot_ms()) / 2)
        self._synced_s = time.monotonic()

    def call(
        self,
        call: HttpCall,
        credentials: Credentials | None,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        reserved_share: float = RESERVED_SHARE,
        patient: bool = True,
        place: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> HttpReply:
        """Carry out one call. Waits for its weight permit as long as needed, or, not `patient`, raises NoPermit; then for its
        `place`. Raises ExchangeRefused (with the verdict) or ConnectionFailed. A clock refusal is resynchronised and retried once;
        a rate refusal blocks the whole fleet first."""
        for attempt in (0, 1):
            self._permit(
                "weight",
                float(call.weight),
                self.exchange.limits.weight,
                cancelled,
                self._reserve(call, reserved_share),
                patient,
            )
            with place():
                asked_ms = self.now_ms()
                reply = msgspec.structs.replace(self._exchange_of(call, credentials), at_ms=asked_ms)
            verdict = self.exchange.classify(reply)
            self._metrics.rest_calls(self.exchange.name, str(reply.status)).inc()
            if verdict.outcome is Outcome.OK:
                return reply
            if verdict.outcome is Outcome.RATE:
                self._permits.block("weight", self._host, self._egress_ip, verdict.wait_s or RATE_WAIT_S)
            if verdict.outcome is Outcome.CLOCK and attempt == 0:
                self.resync()
                continue
            raise ExchangeRefused(f"{call.method} {call.path}", verdict)
        raise ExchangeRefused(f"{call.method} {call.path}", Verdict(Outcome.CLOCK))

    def dial_permit(self, cancelled: Callable[[], bool]) -> None:
        """Wait for the right to open one socket."""
        self._permit("dial", 1.0, self.exchange.limits.dial, cancelled)

    def dial_now(self, sockets: float = 1.0) -> bool:
        """The right to open one socket, if it is to be had without waiting. 0 sockets: may anybody open one?"""
        permits, rate = self._permits, self.exchange.limits.dial
        return not self._stop.is_set() and permits.take("dial", self._host, self._egress_ip, sockets, rate) <= 0.0

    def block_dials(self, seconds: float) -> None:
        self._permits.block("dial", self._host, self._egress_ip, seconds)

    def may_prove(self, *, due: bool) -> bool:
        """May one more account be asked about, though nothing hints at a loss? Not faster than PROBE_SHARE of the weight allows, of
        which each worker has an equal part; who is `due` always may, and the next ones wait for it."""
        with self._probe_lock:
            now_s = time.monotonic()
            if not due and now_s < self._probe_from_s:
                return False
            self._probe_from_s = max(now_s, self._probe_from_s) + self._probe_each_s
            return True

    def _reserve(self, call: HttpCall, share: float) -> float:
        """Read-backs leave weight for what keeps streams alive: a crowd of them must not hold up the tickets of the next crowd."""
        venue = self.exchange
        vital = (
            call == venue.ticket or call == venue.probe or (venue.renewal is not None and call == venue.renewal.call)
        )
        return 0.0 if vital else venue.limits.weight.burst * share

    def _permit(
        self,
        kind: str,
        amount: float,
        rate: Rate,
        cancelled: Callable[[], bool],
        reserve: float = 0.0,
        patient: bool = True,
    ) -> None:
        while True:
            if self._stop.is_set() or cancelled():
                raise ConnectionFailed("cancelled while waiting for a permit")
            wait_s = self._permits.take(kind, self._host, self._egress_ip, amount, rate, reserve)
            if wait_s <= 0.0:
                return
            if not patient:
                raise NoPermit(f"no {kind} for {wait_s:.0f} s")
            self._stop.wait(min(wait_s, MAX_PERMIT_POLL_S))

    def _exchange_of(self, call: HttpCall, credentials: Credentials | None) -> HttpReply:
        if credentials is None:
            query = "&".join(f"{k}={v}" for k, v in call.params)
            return self._send(HttpRequest(call.method, call.path + ("?" + query if query else ""), ()))
        signed_at = self.now_ms() if call.auth == "signed" else 0
        return self._send(self.exchange.sign(call, credentials, signed_at, self.is_testnet))

    def _send(self, request: HttpRequest) -> HttpReply:
        """One request; what its reply tells of the weight used, by whomever, goes to the budget."""
        sent_s, rate = time.monotonic(), self.exchange.limits.weight
        reply = self.http.send(request)
        if not rate.used_header:
            return reply
        told = reply.headers.get(rate.used_header)
        if told is None:  # something between us and the exchange keeps it from us: nothing to wait for
            if reply.status == 200:
                self._permits.observed("weight", self._host, self._egress_ip, 0.0, rate, sent_s)
        elif told.isascii() and told.isdigit() and len(told) <= MAX_WEIGHT_DIGITS:
            self._metrics.weight_used(self.exchange.name).set(int(told))
            self._permits.observed("weight", self._host, self._egress_ip, float(told), rate, sent_s)
        return reply


def _boot_ms() -> float:
    """Milliseconds since this machine started, suspension included: nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
