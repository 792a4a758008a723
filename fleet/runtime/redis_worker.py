"""What a worker asks of Redis: to be known, to learn what it shall run, to say what it runs and what it stopped.

In: its own view, statuses. Out: whether it still counts, and what is desired of it. Part of `redis_store.RedisStore`; runs in
workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from fleet.core import wire
from fleet.core.model import Desired, StreamStatus, WorkerView, format_token
from fleet.runtime.redis_calls import RedisCalls, Standing, chunks, count_of, flat, standing_of


class Beat(msgspec.Struct, frozen=True):
    """Answer to a heartbeat. Only an OK carries the rest. `former` is the beat that Redis knew before this one; `holder` is the
    life in the record, where one that is not ours is why we are fenced (`generation` is there then, too)."""

    standing: Standing
    generation: wire.Generation | None = None
    version: int = 0
    drain: bool = False
    rotate: str = ""  # id of an operator's wish for new sockets
    former: int = 0
    holder: int = 0


class Registration(msgspec.Struct, frozen=True):
    """Answer to a registration. `life` numbers the lives of a slot upwards. HELD: another process has the slot, under another
    lock; `beat` is its last one."""

    standing: Standing | Literal["HELD"]
    life: int = 0
    beat: str = ""


class View(msgspec.Struct, frozen=True):
    """Answer to a pull: `desired` is None where nothing changed since (generation, version)."""

    standing: Standing
    generation: wire.Generation | None = None
    version: int = 0
    desired: dict[str, Desired] | None = None


class WorkerCalls(RedisCalls):
    """Every call may run twice."""

    def register(
        self,
        view: WorkerView,
        *,
        egress_ips: tuple[str, ...] = (),
        life: int = 0,
        lock: str = "",
        watched: str = "",
    ) -> Registration:
        """`life`: the number that this incarnation has been given; before its first registration the least that it may have
        (Unix milliseconds, so that it rises through losses of data too). `lock` names the slot lock
        that is held; `watched` is the beat of another one's process that has stood for longer than its lease."""
        keys = self.keys
        wire.check_name(view.slot)
        fields = flat(wire.pack_worker(view, egress_ips=egress_ips))
        reply = self._run(
            "register",
            [keys.workers, keys.worker(view.slot), keys.desired(view.slot), keys.report(view.slot)],
            [view.slot, wire.check_name(view.incarnation), view.seq, life, lock, watched, *fields],
        )
        if reply[0] == "HELD":
            return Registration("HELD", beat=reply[1])
        return Registration(standing_of(reply), count_of(reply[1]) if len(reply) > 1 else 0)

    def heartbeat(self, view: WorkerView, *, egress_ips: tuple[str, ...] = ()) -> Beat:
        reply = self._run(
            "heartbeat",
            [self.keys.worker(view.slot), self.keys.gen],
            [view.incarnation, view.seq, *flat(wire.pack_worker(view, egress_ips=egress_ips))],
        )
        standing = standing_of(reply)
        generation = wire.parse_generation(reply[1]) if len(reply) > 1 else None
        if standing != "OK":
            return Beat(standing, generation, holder=count_of(reply[2]) if len(reply) > 2 else 0)
        return Beat(standing, generation, count_of(reply[2]), reply[3] == "1", reply[4], count_of(reply[5]))

    def pull(self, slot: str, incarnation: str, generation: wire.Generation | None, version: int) -> View:
        known = wire.pack_generation(generation) if generation else ""
        reply = self._run(
            "pull",
            [self.keys.worker(slot), self.keys.gen, self.keys.desired(slot), self.keys.own],
            [slot, incarnation, known, version],
        )
        standing = standing_of(reply)
        if standing != "OK":
            return View(standing)
        desired = None
        if reply[3] == "full":
            desired = {account: wire.parse_desired(entry) for account, entry in _pairs(reply[4:])}
        return View(standing, wire.parse_generation(reply[1]), count_of(reply[2]), desired)

    def report(
        self, slot: str, incarnation: str, statuses: Sequence[StreamStatus], removed: Sequence[str] = (), *, full: bool
    ) -> Standing:
        """Upload states in batches; `full` replaces everything reported before."""
        keys = [self.keys.worker(slot), self.keys.report(slot)]
        batches = list(chunks(statuses)) or [[]]
        gone = list(removed)
        for number, chunk in enumerate(batches):
            mode = "full" if full and number == 0 else "delta"
            packed = [value for s in chunk for value in (s.account_id, wire.pack_report(s))]
            standing = standing_of(self._run("report", keys, [incarnation, mode, len(gone), *gone, *packed]))
            if standing != "OK":
                return standing
            gone = []
        return "OK"

    def ack_release(self, slot: str, incarnation: str, stopped: Mapping[str, int]) -> Standing:
        """Second phase of a revoke: `stopped` maps account to the token under which it ran."""
        keys = self.keys
        names = [keys.worker(slot), keys.own, keys.desired(slot), keys.report(slot), keys.version]
        for chunk in chunks(list(stopped.items())):
            packed = [value for account, token in chunk for value in (account, format_token(token))]
            standing = standing_of(self._run("ack_release", names, [slot, incarnation, *packed]))
            if standing != "OK":
                return standing
        return "OK"

    def distrust(self, generation: wire.Generation) -> bool:
        """These data are older than what this worker has seen: True where nobody had said so before."""
        return bool(self._run("distrust", [self.keys.gen], [wire.pack_generation(generation)])[1] == "1")


def _pairs(flat: Sequence[str]) -> Iterable[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)
