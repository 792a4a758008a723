"""Many accounts on one private socket: each gets a connection of its own to look at, all of them are carried by one.

In: dials of account threads. Out: `SharedConnection`, with the methods of `Connection`, so that the stream's flow does not know.
One reader thread a socket does everything on it (TLS objects belong to one thread): it hands each frame to the account it
concerns, and sends what the accounts want sent, paced for all of them together. What happens to one account (a refused key, a
slow reader, an end) stays with it; only the death of the socket concerns all.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from fleet.core.errors import ConnectionFailed
from fleet.core.sharing import Sharing
from fleet.runtime.logs import get
from workers.connection import Connection

TURN_S = 0.05  # the reader looks this often for frames to send
PING_APART_S = 2.0  # pings asked for by many accounts are one
LOOK_S = 1.0  # who waits for another account's dial looks this often whether it is to stop
QUIET_S = 9.0  # silence is answered by a ping after 5 s: nobody joins a socket of which nothing came for this long
MAX_WAITING = 10_000  # frames one account may leave unread before it is cut off, alone


class SharedConnection:
    """One account's view of a shared socket. `read`, `send`, `ping` and `close` by its own thread, `abort` by any."""

    def __init__(self, carrier: _Carrier, account_id: str, cancelled: Callable[[], bool]) -> None:
        self.account_id = account_id
        self.channel = ""
        self._carrier, self._cancelled = carrier, cancelled
        self._frames: queue.SimpleQueue[bytes | ConnectionFailed] = queue.SimpleQueue()
        self._failure: ConnectionFailed | None = None

    @property
    def last_rx(self) -> float:
        return self._carrier.last_rx

    def read(self, timeout_s: float) -> list[bytes]:
        """Frames for this account, [] after `timeout_s`. Raises ConnectionFailed once the socket is dead or this was aborted."""
        if self._failure is not None:
            raise self._failure
        frames: list[bytes] = []
        wait_s: float | None = timeout_s
        while True:
            try:
                item = self._frames.get(timeout=wait_s) if wait_s else self._frames.get_nowait()
            except queue.Empty:
                return frames
            if isinstance(item, ConnectionFailed):
                self._failure = item
                if frames:
                    return frames
                raise item
            frames.append(item)
            wait_s = None

    def send(self, payload: bytes) -> None:
        """Send one frame in its turn; may wait for the turns of many neighbours."""
        self.send_fresh(lambda: payload)

    def send_fresh(self, make: Callable[[], bytes]) -> None:
        """Send one frame in its turn, made then: what was signed before the wait would be too old."""
        self._carrier.send(self, make, self._cancelled)

    def ping(self, payload: bytes = b"") -> None:
        self._carrier.ping()

    def abort(self) -> None:
        self._frames.put(ConnectionFailed("aborted"))

    def close(self, code: int = 1000) -> None:
        """Leave the socket; the last one closes it."""
        self._carrier.leave(self)

    def deliver(self, item: bytes | ConnectionFailed) -> None:
        """For the carrier."""
        if isinstance(item, bytes) and self._frames.qsize() >= MAX_WAITING:
            item = ConnectionFailed("reads too slowly")
        self._frames.put(item)


class _Turn:
    """A frame waiting for its turn."""

    def __init__(self, sender: SharedConnection | None, make: Callable[[], bytes]) -> None:
        self.sender, self.make = sender, make
        self.done = threading.Event()


class _Carrier:
    """One physical socket and its reader thread."""

    def __init__(
        self,
        sharing: Sharing,
        connection: Connection,
        emptied: Callable[[_Carrier], None],
        closed: Callable[[], None],
    ) -> None:
        self._sharing, self._connection, self._emptied, self._closed = sharing, connection, emptied, closed
        self._lock = threading.Lock()  # guards members, _asked, _channels, _barred, retiring
        self.members: set[SharedConnection] = set()
        self.retiring = False  # no new members: the venue said goodbye, or it is dead
        self._asked: dict[str, SharedConnection] = {}
        self._channels: dict[str, SharedConnection] = {}
        self._barred: set[str] = set()  # accounts that the venue does not subscribe on this socket
        self._turns: queue.SimpleQueue[_Turn] = queue.SimpleQueue()
        self._sent_s = self._pinged_s = 0.0
        self._ping_asked = False
        self._closing = threading.Event()
        self._number = 0
        threading.Thread(target=self._run, name="shared-socket").start()

    @property
    def last_rx(self) -> float:
        return self._connection.last_rx

    # ── account threads ──────────────────────────────────────────────────────────────────────────────────────────
    def join(self, member: SharedConnection) -> bool:
        """False if the socket takes nobody any more, is silent (who left it for that must not come back), is full,
        carries the account already (a rotation wants another one), or was refused to it by the venue."""
        with self._lock:
            self.retiring = self.retiring or time.monotonic() - self.last_rx > QUIET_S
            known = any(other.account_id == member.account_id for other in self.members)
            barred = member.account_id in self._barred
            if self.retiring or known or barred or len(self.members) >= self._sharing.most:
                return False
            self.members.add(member)
            return True

    def send(self, member: SharedConnection, make: Callable[[], bytes], cancelled: Callable[[], bool]) -> None:
        turn = _Turn(member, make)
        self._turns.put(turn)
        while not turn.done.wait(0.2):
            if cancelled() or self._closing.is_set():
                raise ConnectionFailed("closed while waiting for a turn to send")

    def ping(self) -> None:
        self._ping_asked = True

    def leave(self, member: SharedConnection) -> None:
        with self._lock:
            self.members.discard(member)
            self._asked = {key: other for key, other in self._asked.items() if other is not member}
            if self._channels.get(member.channel) is member:
                del self._channels[member.channel]
                self._unsubscribe(member.channel)
            last = not self.members
            self.retiring = self.retiring or last
        if last:
            self._emptied(self)
            self._closing.set()

    def _unsubscribe(self, channel: str) -> None:
        """For who holds the lock."""
        self._number += 1
        goodbye = self._sharing.leave(channel, f"leave-{self._number}")
        self._turns.put(_Turn(None, lambda: goodbye))

    # ── the reader thread ────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                for frame in self._connection.read(TURN_S):
                    self._hand_out(frame)
                self._write(time.monotonic())
        except ConnectionFailed as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # every account on this socket waits for this thread: say that it is gone
            get("shared_socket").exception("shared socket failed", action="bug")
            self._fail(ConnectionFailed(type(error).__name__))
        finally:
            self._closing.set()
            self._emptied(self)
            self._connection.close()
            self._closed()

    def _hand_out(self, frame: bytes) -> None:
        route = self._sharing.route(frame)
        with self._lock:
            if route.nobody:
                return
            if route.key or route.channel:
                member = self._asked.pop(route.key, None) if route.key else self._channels.get(route.channel)
                if member is not None and route.barred:
                    self._barred.add(member.account_id)
                if route.key and route.channel:
                    self._subscribed(member, route.channel)
                receivers = [member] if member is not None else []
            else:
                receivers = list(self.members)
                self.retiring = True  # what concerns everybody is the venue's goodbye
        for member in receivers:
            member.deliver(frame)

    def _subscribed(self, member: SharedConnection | None, channel: str) -> None:
        """None: who asked has left meanwhile, and were it to come back, the venue would refuse a second subscription."""
        if member is None:
            self._unsubscribe(channel)
            return
        member.channel = channel
        self._channels[channel] = member

    def _write(self, now_s: float) -> None:
        if self._ping_asked and now_s - self._pinged_s >= PING_APART_S:
            self._ping_asked, self._pinged_s = False, now_s
            self._connection.ping()
        if now_s - self._sent_s < self._sharing.send_interval_s:
            return
        try:
            turn = self._turns.get_nowait()
        except queue.Empty:
            return
        with self._lock:
            due = turn.sender is None or turn.sender in self.members
            payload = turn.make() if due else b""
            if due and turn.sender is not None:
                self._asked[self._sharing.key_of(payload)] = turn.sender
        if due:
            self._connection.send(payload)
            self._sent_s = now_s
        turn.done.set()

    def _fail(self, error: ConnectionFailed) -> None:
        with self._lock:
            self.retiring = True
            members = list(self.members)
        for member in members:
            member.deliver(error)


class SharedSockets:
    """The shared sockets of one worker, by URL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._carriers: dict[str, list[_Carrier]] = {}
        self._dialling: dict[str, threading.Lock] = {}  # held while dialling there: a crowd does not dial once each

    def open(
        self,
        url: str,
        account_id: str,
        sharing: Sharing,
        dial: Callable[[], Connection],
        closed: Callable[[], None],
        cancelled: Callable[[], bool],
    ) -> SharedConnection:
        """A place on a socket to `url`: on one that has room, else on a new one, of which `closed` tells the end. Raises what
        `dial` raises, which may wait long; ConnectionFailed if cancelled while another account dials."""
        with self._lock:
            dialling = self._dialling.setdefault(url, threading.Lock())
        member = self._join(url, account_id, cancelled)
        if member is not None:
            return member
        while not dialling.acquire(timeout=LOOK_S):
            if cancelled():
                raise ConnectionFailed("cancelled while another account dials")
        try:
            member = self._join(url, account_id, cancelled)
            if member is not None:
                return member
            connection = dial()
            with self._lock:
                carrier = _Carrier(sharing, connection, lambda gone: self._forget(url, gone), closed)
                self._carriers.setdefault(url, []).append(carrier)
                member = SharedConnection(carrier, account_id, cancelled)
                if not carrier.join(member):
                    raise ConnectionFailed("closed at once")
            return member
        finally:
            dialling.release()

    def _join(self, url: str, account_id: str, cancelled: Callable[[], bool]) -> SharedConnection | None:
        """A place on a socket that is open; None = there is none."""
        with self._lock:
            carriers = list(self._carriers.get(url, ()))
        for carrier in carriers:
            member = SharedConnection(carrier, account_id, cancelled)
            if carrier.join(member):
                return member
        return None

    def _forget(self, url: str, carrier: _Carrier) -> None:
        with self._lock:
            carriers = self._carriers.get(url, [])
            if carrier in carriers:
                carriers.remove(carrier)
