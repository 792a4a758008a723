"""Invariants I1–I6 of ownership.md, judged on what streams publish.

In: every publication, start and end of a stream, every fault. Out: `violations`, and the figures of the run.

I1  never two processes that may publish one account: a second one whose gate is valid is a violation at that very instant,
    whether or not it publishes. Outside the documented windows: one message that had passed the gate when its process was
    paused (Q), and a worker cut off from both stores (R5e), which goes on under its lower token up to isolation_max_s.
I2  tokens of one account never fall, in the order of publication (same windows).
I3  nothing is published past its process' deadline (same first window).
I4  in the end every active account has one producer, no inactive one has any, and the records say so.
I5  a stream ends only for a reason that a person would accept: never for a fault of the control plane.
I6  moves: only what has to move, rebalancing within its pace.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fleet.core import wire
from fleet.core.model import Ownership
from fleet.core.names import Keys
from tests.proof.virtual import Process

if TYPE_CHECKING:
    from tests.proof.fleet import Fleet
    from tests.proof.programs import Stream, WorkerProgram

BACK_S = 8.0  # a question may hang for the witness' 5 s; one beat to ask anew, one to hear
VOLUNTARY = ("rebalance", "drain", "quarantine")


class Judge:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.violations: list[str] = []
        self.highest: dict[str, int] = {}  # account -> highest token published
        self.last: dict[str, float] = {}  # account -> instant of its last publication
        self.gaps: dict[str, float] = {}  # account -> longest silence while it was active, since `measure`
        self.revision_of: dict[int, int] = {}  # token -> revision of the account's row it was given for
        self.moved: set[str] = set()  # accounts moved by choice since `measure`
        self.voluntary: dict[tuple[str, str], float] = {}  # (account, slot) -> when it was revoked to go elsewhere
        self.ends = 0  # of streams, but for voluntary moves
        self.counts: Counter[str] = Counter()
        self.quarantined: set[str] = set()
        self.moves: list[tuple[float, str, str]] = []
        self.rebalanced: list[float] = []
        self.changes = 0  # starts and ends of streams so far
        self.condemned: dict[str, float] = {}  # slot -> when its witness row was to be fenced
        self.measuring_from = 0.0
        self.added_at: dict[str, float] = {}

    def violate(self, rule: str, text: str) -> None:
        line = f"{self.fleet.world.now:.3f} {rule}: {text}"
        self.violations.append(line)
        self.fleet.note(f"VIOLATION {line}")

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────
    def revoked(self, account: str, slot: str, reason: str) -> None:
        """The leader is about to take an account from its owner."""
        if reason in VOLUNTARY:
            self.voluntary[account, slot] = self.fleet.world.now
            self.moved.add(account)
            if reason == "rebalance":
                self.rebalanced.append(self.fleet.world.now)

    def ordered(self, record: Ownership) -> None:
        """The leader is about to give an account to a worker."""
        self.revision_of[record.token] = record.revision

    def heard(self, event: str, fields: dict[str, Any]) -> None:
        if event == "account assigned":
            self.moves.append((self.fleet.world.now, fields["stream"], fields["reason"]))
        elif event == "worker fenced" and fields["reason"] != "silent":
            self.counts["fenced: not released"] += 1
        elif event == "released" and fields.get("given_back"):
            self.counts["given back"] += 1
        elif event.startswith("worker condemned"):
            self.condemned[fields["shard"]] = self.fleet.world.now
        elif event == "account quarantined":
            self.quarantined.add(fields["stream"])

    def written(self, script: str, leader: str, holder: str | None) -> None:
        """A script of the leader wrote something: R12."""
        if leader != holder:
            self.violate("R12", f"{script} of {leader} was carried out while {holder} led")

    def started(self, stream: Stream) -> None:
        self.changes += 1
        self.counts["start"] += 1
        self.fleet.note(f"{stream.worker.slot} starts {stream.account_id} under {stream.token:#x}")

    def published(self, stream: Stream, *, in_flight: bool) -> None:
        now, account, worker = self.fleet.world.now, stream.account_id, stream.worker
        if in_flight:
            self.counts["message in flight"] += 1
            return
        left = worker.deadline_left()
        if left <= 0:
            self.violate("I3", f"{worker.slot} published {account} {-left:.3f} s past its deadline")
        alone_s = self.fleet.world.now + worker.process.boot - worker.heartbeat._lease.answered_at
        if alone_s > self.fleet.settings.isolation_max_s + self.fleet.settings.worker_lease_s + 1.0:
            self.violate("I3", f"{worker.slot} published {account} {alone_s:.1f} s after the last word of a store")
        alone = True
        for other in self.fleet.workers.values():
            if other is not worker and other.process.alive:
                alone = self._only_one(stream, other) and alone
        highest = self.highest.get(account, 0)
        if stream.token < highest:
            if not self._forgiven(worker):
                self.violate("I2", f"{worker.slot} published {account} under {stream.token:#x} after {highest:#x}")
        else:
            self.highest[account] = stream.token
        since = max(self.last.get(account, self.added_at.get(account, now)), self.measuring_from)
        self.gaps[account] = max(self.gaps.get(account, 0.0), now - since)
        self.last[account] = now

    def _only_one(self, stream: Stream, other: WorkerProgram) -> bool:
        """Nobody else holds a stream of this account whose gate is valid now."""
        if not other.ready or other.deadline_left() <= 0:
            return True
        rival = other.shard._streams.get(stream.account_id)
        if rival is None or not rival.may_publish:
            return True
        older = other if rival.token < stream.token else stream.worker
        if self._forgiven(older):
            self.counts["overlap of an isolated worker"] += 1
            return True
        self.violate("I1", f"{stream.account_id}: {stream.worker.slot} and {other.slot} may both publish")
        return False

    def _forgiven(self, worker: WorkerProgram) -> bool:
        """R5 (e): it goes on without both stores. Once it could hear the witness again, it has BACK_S to do so."""
        isolated = worker.isolated() or worker.heartbeat._lease.isolated
        answered = worker.heartbeat._lease.answered_at - worker.process.boot
        for trouble in self.fleet.troubles.get(worker.slot, []):
            if trouble.kind == "pause" and (trouble.end or 0.0) > answered and trouble.length(answered) > 4.0:
                return False  # it was stopped for longer than its lease since a store spoke to it
        return bool(isolated) and self.fleet.postgres.good_for(worker.process) < BACK_S

    def ended(self, stream: Stream, why: str) -> None:
        self.changes += 1
        self.counts[f"end: {why}"] += 1
        worker, account = stream.worker, stream.account_id
        self.fleet.note(f"{worker.slot} ends {account} under {stream.token:#x}: {why}")
        if worker.leaving or worker.stop.is_set():
            return
        if why == "stop" and self.voluntary.get((account, worker.slot), -1e9) > self.fleet.world.now - 60.0:
            return
        self.ends += 1
        if why == "stop" and self._wanted(stream):
            return
        excuse = self._excuse(worker)
        if excuse is None:
            self.violate("I5", f"{worker.slot} ended {account} ({why}) without a reason")
        else:
            self.counts[f"excuse: {excuse}"] += 1

    def _wanted(self, stream: Stream) -> bool:
        """The account is switched off, or was since this stream was ordered, or has newer credentials."""
        row = self.fleet.postgres.tables.accounts.get(stream.account_id)
        return row is None or not row.active or row.revision > self.revision_of.get(stream.token, -1)

    def killed(self, process: Process) -> None:
        self.changes += 1

    def _excuse(self, worker: WorkerProgram) -> str | None:
        """Why this worker may have lost its streams."""
        now, fleet = self.fleet.world.now, self.fleet
        if worker.process.born_at > now - 1.0:
            return "just started"
        troubles = fleet.troubles.get(worker.slot, [])
        condemned = self.condemned.get(worker.slot, -1e9)
        for trouble in troubles:
            length = trouble.length(now)
            if trouble.kind == "pause" and length >= 2.4 and trouble.covers(now, 3.0):
                return "paused"
            if (
                trouble.kind == "pause"
                and length >= 0.4
                and trouble.covers(now, 6.0)
                and self._redis_bad(worker, trouble)
            ):
                return "paused without redis"
            if trouble.kind == "cut redis" and length >= 34.0 and trouble.covers(now, 12.0):
                return "cut off from redis for long"
            if (
                trouble.kind == "cut redis"
                and (not trouble.mass or fleet.redis.lost_data)
                and length >= 4.0
                and trouble.covers(now, 12.0)
                and self._postgres_bad(trouble)
            ):
                return "cut off from redis without a witness"
            if (
                trouble.kind == "cut redis"
                and (not trouble.mass or fleet.redis.lost_data)
                and trouble.covers(condemned, 1.0)
                and now < condemned + 60.0
            ):
                return "condemned while it was cut off"
            if trouble.kind == "stuck" and trouble.covers(now, 15.0):
                return "did not release"
        if now + worker.process.boot - worker.answered_at > fleet.settings.isolation_max_s - 5:
            return "isolated for long"
        return None

    def _redis_bad(self, worker: WorkerProgram, trouble: Any) -> bool:
        return any(
            t.start <= (trouble.end or 1e9) + 5 and (t.end or 1e9) >= trouble.start - 5
            for name in ("redis", worker.slot)
            for t in self.fleet.troubles.get(name, [])
            if name == "redis" or t.kind == "cut redis"
        )

    def _postgres_bad(self, trouble: Any) -> bool:
        names = ["postgres", *self.fleet.workers]
        return any(
            t.start <= (trouble.end or 1e9) + 5 and (t.end or 1e9) >= trouble.start - 5
            for name in names
            for t in self.fleet.troubles.get(name, [])
            if name == "postgres" or t.kind == "cut postgres"
        )

    # ── silences ─────────────────────────────────────────────────────────────────────────────────────────────────
    def measure(self) -> None:
        """From now on the longest silence of each account is of interest."""
        self.measuring_from = self.fleet.world.now
        self.gaps.clear()
        self.moved.clear()

    def longest_gap(self) -> tuple[float, str]:
        stayed = ((gap, account) for account, gap in self.gaps.items() if account not in self.moved)
        return max(stayed, default=(0.0, ""))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────
    def wanted(self) -> set[str]:
        return set(self.fleet.active()) - self.quarantined

    def producers(self) -> dict[str, list[Stream]]:
        found: dict[str, list[Stream]] = {}
        for worker in self.fleet.alive_workers():
            if worker.process.paused or worker.deadline_left() <= 0:
                continue
            for stream in worker.streams():
                if stream.may_publish:
                    found.setdefault(stream.account_id, []).append(stream)
        return found

    def settled(self) -> str:
        """ "" if I4 holds now, else what is missing."""
        producers = self.producers()
        wanted = self.wanted()
        for account in sorted(wanted):
            if len(producers.get(account, ())) != 1:
                return f"{account} has {len(producers.get(account, ()))} producers"
        for account in sorted(producers):
            if account not in wanted:
                return f"{account} is not active and has a producer"
        return self._records(producers)

    def _records(self, producers: dict[str, list[Stream]]) -> str:
        keys = Keys(self.fleet.settings.fleet)
        own = {a: wire.parse_own(text) for a, text in self.fleet.redis.db.hash(keys.own).items()}
        durable = self.fleet.postgres.tables.assignment
        for account, (stream, *_) in producers.items():
            if account not in own:
                return f"{account} streams without a record"
            record = own[account]
            if (record.slot, record.token) != (stream.worker.slot, stream.token):
                runs = f"{stream.worker.slot} runs {stream.token:#x}"
                return f"the record of {account} says {record.slot} {record.token:#x}, {runs}"
            if 0 <= record.revision < self.fleet.postgres.tables.accounts[account].revision:
                return f"{account} runs with older credentials"
            if durable.get(account, ("", "", 0))[2] != record.token:
                return f"the durable copy of {account} is under another token"
        extra = sorted((own.keys() | durable.keys()) - producers.keys())
        return f"a record of {extra[0]} is left" if extra else ""
