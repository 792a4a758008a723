"""Opening one private socket: permit, ticket, handshake, opening dialogue. Runs in the account's thread.

In: the venue's facts and an account's credentials. Out: a `PrivateSocket` that delivers, and what it said meanwhile; or
ConnectionFailed, DialRefused, ExchangeRefused. The gauge of live connections moves here and nowhere else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from fleet.core.errors import ConnectionFailed, DialRefused, ExchangeRefused
from fleet.core.exchange import Exchange, Outcome, Reply, Step, UserItem
from fleet.core.model import AccountSpec, Credentials
from fleet.runtime.metrics import Metrics
from workers.reach import Turn
from workers.rest import VenueRest

OPENING_TIMEOUT_S = 10.0
LOOK_S = 0.2  # an opening that waits for a reply looks this often at what else there is to do


class Wire(Protocol):
    """What a private stream asks of its connection (workers.connection.Connection, or a place on a shared socket)."""

    @property
    def last_rx(self) -> float: ...
    def read(self, timeout_s: float) -> list[bytes]: ...
    def send(self, payload: bytes) -> None: ...
    def send_fresh(self, make: Callable[[], bytes]) -> None: ...
    def ping(self, payload: bytes = b"") -> None: ...
    def abort(self) -> None: ...
    def close(self, code: int = 1000) -> None: ...


Connect = Callable[[VenueRest, str, str, Callable[[], bool]], Wire]
"""REST door of the venue, URL, account id (chooses the source address), given up when true -> an open connection."""


class PrivateSocket:
    """A connection that finished its opening. `subscribed_ms`: exchange time from which it delivers."""

    def __init__(self, connection: Wire, ticket: str, subscribed_ms: int) -> None:
        self.connection, self.ticket, self.subscribed_ms = connection, ticket, subscribed_ms
        self.opened_s = time.monotonic()
        self.pinged_s = connection.last_rx  # no ping is under way
        self.early: list[UserItem] = []  # what it said during the opening
        self.spare: set[str] = set()  # keys of the steps that it can do without
        self.rotate_s = math.inf  # to be replaced from then on: one of these was refused


class Dialler:
    """Opens and closes the sockets of one account. `shared`: they are places on sockets that carry other accounts too; permits
    and the gauge of live connections are then the business of who opens those (workers.userdata)."""

    def __init__(
        self,
        spec: AccountSpec,
        credentials: Credentials,
        rest: VenueRest,
        connect: Connect,
        user_url: Callable[[Exchange, bool, str], str],
        metrics: Metrics,
        stopped: Callable[[], bool],
        *,
        shared: bool = False,
    ) -> None:
        self._shared = shared
        self._spec, self._credentials, self._rest = spec, credentials, rest
        self._connect, self._user_url, self._metrics, self._stopped = connect, user_url, metrics, stopped
        self._opening: Wire | None = None
        self._turn = Turn()
        self._entered = False

    def permit(self, urgency: int = 0) -> None:
        """Wait until the exchange is there, and for the fleet's permission to dial; higher `urgency` first."""
        if self._shared:
            return
        self._turn = Turn()
        self._rest.reach.enter(urgency, self._stopped, self._turn)
        self._entered = True
        try:
            self._rest.dial_permit(self._stopped)
        except ConnectionFailed:
            self._leave(None)
            raise

    def permit_now(self) -> bool:
        """That permission if it is to be had at once, for a stream that has a socket to read meanwhile. Who opens a shared one
        waits for it in `open`: not even asked while the exchange lets nobody dial."""
        return self._rest.dial_now(0.0 if self._shared else 1.0)

    def _leave(self, answered: bool | None) -> None:
        if self._entered:
            self._entered = False
            self._rest.reach.leave(self._spec.id, answered)

    def open(
        self, phase: Callable[[str], None], *, patient: bool = True, beside: Callable[[], None] = lambda: None
    ) -> PrivateSocket:
        """Dial; `phase` hears which step of the opening is under way; `beside` is called several times a second meanwhile, but not
        while the ticket is asked for. Not `patient`: raises NoPermit where there is no weight for the ticket at once."""
        exchange = self._rest.exchange
        connection, ticket = self._reach(patient, beside)
        self._metrics.dials(exchange.name, "ok").inc()
        self._count(1)
        self._opening = connection
        try:
            socket = PrivateSocket(connection, ticket, self._rest.now_ms())
            for number, step in enumerate(exchange.opening(self._credentials, self._rest.now_ms())):
                phase(step.phase)
                if not step.vital:
                    socket.spare.add(step.key)
                socket.early += self._ask(connection, step, number, beside)
            socket.subscribed_ms = self._rest.now_ms()  # an opening may take long: what came before is the read-back's
        except BaseException:
            self.close(connection)
            raise
        finally:
            self._opening = None
        return socket

    def _reach(self, patient: bool, beside: Callable[[], None]) -> tuple[Wire, str]:
        """Ticket and handshake. A refusal is an answer, but for those of a server that has no exchange behind it."""
        exchange, ticket = self._rest.exchange, ""
        answered: bool | None = None
        dialled = False

        def given_up() -> bool:
            beside()
            return self._stopped()

        try:
            if exchange.ticket is not None and exchange.ticket_of is not None:
                reply = self._rest.call(
                    exchange.ticket, self._credentials, self._stopped, patient=patient, place=self._rest.crowd.place
                )
                ticket = exchange.ticket_of(reply)
            url = self._user_url(exchange, self._spec.is_testnet, ticket)
            dialled = True
            connection = self._connect(self._rest, url, self._spec.id, given_up)
            answered = True
        except ExchangeRefused as error:
            answered = getattr(error.verdict, "outcome", None) is not Outcome.TRANSIENT
            raise
        except ConnectionFailed as error:
            answered = isinstance(error, DialRefused) and error.status < 500
            if dialled:
                self._metrics.dials(exchange.name, label(error)).inc()
            raise
        finally:
            self._leave(None if self._stopped() else answered)
        return connection, ticket

    def _ask(self, connection: Wire, step: Step, number: int, beside: Callable[[], None]) -> list[UserItem]:
        """Send one step, signed at the time it goes out, and wait for its reply; whatever else comes meanwhile is returned."""
        at_ms, asked_s = self._rest.now_ms(), time.monotonic()

        def signed() -> bytes:
            now_ms = at_ms + round((time.monotonic() - asked_s) * 1000)
            return self._rest.exchange.opening(self._credentials, now_ms)[number].frame

        connection.send_fresh(signed)
        others: list[UserItem] = []
        deadline_s = time.monotonic() + OPENING_TIMEOUT_S
        while time.monotonic() < deadline_s:
            answered = False
            beside()
            for frame in connection.read(LOOK_S):
                for item in self._rest.exchange.parse_user(frame, self._spec.id, int(time.time() * 1000)):
                    if isinstance(item, Reply) and item.key == step.key:
                        if not step.vital and item.verdict.outcome is Outcome.PERMANENT:
                            others.append(item)  # for the stream to tell
                        elif item.verdict.outcome is not Outcome.OK:
                            raise ExchangeRefused(step.phase, item.verdict)
                        answered = True
                    else:
                        others.append(item)
            if answered:
                return others
            if self._stopped():
                raise ConnectionFailed("stopped")
        raise ConnectionFailed(f"no answer while {step.phase}")

    def abort(self) -> None:
        """End an opening that is under way, or the wait for it, once `stopped()` is true; from any thread."""
        self._turn.woken.set()
        connection = self._opening
        if connection is not None:
            connection.abort()

    def close(self, connection: Wire) -> None:
        connection.close()
        self._count(-1)

    def _count(self, sockets: int) -> None:
        if not self._shared:
            self._metrics.userdata_connections(self._rest.exchange.exchange).inc(sockets)


def label(error: ConnectionFailed) -> str:
    """A short, bounded reason for metrics and gaps."""
    words = error.reason.lower()
    for known in ("silent", "refused", "timed out", "reset", "closed", "given up", "protocol", "tls"):
        if known in words:
            return known.replace(" ", "_")
    return "connection"
