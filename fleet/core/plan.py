"""Desired × observed → actions. Pure set arithmetic; the leader runs it, `coordinator/dispatch.py` carries it out.

In: active accounts, ownership records, the workers with their standings. Out: what to revoke, drop and assign, and what
stays unplaced and why. Stops come before starts. Nothing here depends on an order or on the past, so a plan may be made
again at any time; on a settled fleet it is empty (R15).

    account            owner                         action
    active             alive, same row               none
    active             slot restarted (R8)           assign to the same slot under a new token
    active, row newer  alive                         assign to the same slot under a new token (the stream restarts)
    active             dead                          assign elsewhere
    active             asked to drain, or too loaded revoke if it is sure of a place elsewhere; once released, it is assigned
                                                     like a new one (R7)
    not active         alive or silent               revoke; once released, nothing
    not active         dead                          drop the record
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec

from fleet.core import placement
from fleet.core.model import AccountSpec, Ownership, venue_name
from fleet.core.observe import Standing
from fleet.core.placement import Orphan, Room, Target, fallback_address
from fleet.core.prospects import Prospects
from fleet.core.wire import REVOKE, RUN

BOUND = "what could move is about to stop, or on probation"
PROBATION = "on probation: its worker died twice while starting it"
HOST = "@"  # before a host's name: its only address, which has no name of its own
ALIVE = (Standing.UP, Standing.LEAVING, Standing.DRAIN)


class Worker(msgspec.Struct, frozen=True):
    """What the plan needs to know of one slot. `addresses` = source addresses it may dial from; () = the system's choice."""

    slot: str
    incarnation: str
    standing: Standing
    host: str
    capacity: int
    addresses: tuple[str, ...] = ()

    @property
    def dials_from(self) -> tuple[str, ...]:
        """What limits are counted by: its addresses, or its host as a whole where the system chooses."""
        return self.addresses or (HOST + self.host,)


class Assign(msgspec.Struct, frozen=True):
    """Give an account to a worker under a new token. `expected` is the record it replaces; `egress_ip` the source address it
    dials from ("" = the worker's choice)."""

    account_id: str
    expected: Ownership | None
    slot: str
    incarnation: str
    revision: int
    reason: str
    egress_ip: str = ""


class Release(msgspec.Struct, frozen=True):
    """Take an account from its owner: ask for it (revoke), or just remove the record where nobody could answer."""

    account_id: str
    expected: Ownership
    revoke: bool
    reason: str


class Plan(msgspec.Struct):
    """Actions of one pass. `revoking` are accounts on the move that their owner, which lives, has not released; `overdue` are
    the owners that had enough time for it: fence them (R7). `staying`: drained slots whose accounts have nowhere to go, and
    why. `uneven`: why load is not evened out though a worker has too much. Both are told once nobody is on the way."""

    releases: list[Release] = []
    assigns: list[Assign] = []
    unplaced: dict[str, str] = {}
    revoking: set[str] = set()
    overdue: dict[str, str] = {}
    in_flight: int = 0
    staying: dict[str, str] = {}
    uneven: str = ""

    @property
    def empty(self) -> bool:
        return not (self.releases or self.assigns or self.overdue)


class Limits(msgspec.Struct, frozen=True):
    """Hard limits and pace. `connections_per_ip` by venue: what one source address may hold. `place` = how many orphans and new
    accounts are placed (None = all): a million take half a minute, and the leader has its lease to renew. `hold` = leave them
    unplaced for now. `stay` = nobody moves who need not: Postgres is away, and a stream that stops could not be loaded
    by its next owner."""

    connections_per_ip: dict[str, int] = {}
    rebalance: int = 0
    place: int | None = None
    hold: str = ""
    stay: bool = False
    overdue: frozenset[str] = (
        frozenset()
    )  # accounts that the leader has seen revoked for too long, by its own clock (R3)


def plan(
    accounts: Mapping[str, AccountSpec] | None,
    own: Mapping[str, Ownership],
    workers: Mapping[str, Worker],
    limits: Limits = Limits(),  # noqa: B008 (a frozen value)
    quarantined: frozenset[str] = frozenset(),
    waiting: frozenset[str] = frozenset(),
) -> Plan:
    """One pass. `accounts` None = Postgres was never read: everything owned counts as active, nothing is new.
    `quarantined` accounts count as inactive, `waiting` ones are started later (R13)."""
    result = Plan()
    draft = _Draft(accounts, workers, limits, quarantined, waiting, result)
    draft.settle(own)
    if accounts is not None:
        draft.orphans.update((account_id, None) for account_id in accounts.keys() - own.keys() - quarantined)
    draft.place()
    if limits.stay or limits.hold:  # who is released now would wait for its next owner
        return result
    draft.drain()
    if not result.assigns and not result.in_flight and limits.rebalance > 0:
        draft.rebalance(own)
    return result


class _Draft:
    """Working state of one pass."""

    def __init__(
        self,
        accounts: Mapping[str, AccountSpec] | None,
        workers: Mapping[str, Worker],
        limits: Limits,
        quarantined: frozenset[str],
        waiting: frozenset[str],
        result: Plan,
    ) -> None:
        self.accounts, self.workers, self.limits = accounts, workers, limits
        self.quarantined, self.waiting, self.result = quarantined, waiting, result
        self.orphans: dict[str, Ownership | None] = {}
        self.draining: list[tuple[str, Ownership]] = []
        self.under_way: list[tuple[str, Ownership]] = []  # revoked, and not released yet
        self.used = dict.fromkeys(workers, 0)
        self.healthy = {
            w.slot: w.incarnation for w in workers.values() if w.standing in (Standing.UP, Standing.LEAVING)
        }
        self.named = self._counted()
        self.by_kind: dict[tuple[str, str, str, str], int] = {}  # (slot, address, exchange, market) of slots in `named`
        self.returning: list[
            tuple[str, Ownership]
        ] = []  # to start again on the same slot, from the same address if it may

    def settle(self, own: Mapping[str, Ownership]) -> None:
        """Pass over every record. The settled case is a few operations, because it is met a million times; the rest is
        sorted by `look_at`."""
        spec_of = (self.accounts or {}).get
        incarnation_of, used, quarantined = self.healthy.get, self.used, self.quarantined
        named_of = self.named.get
        for account_id, record in own.items():
            spec = spec_of(account_id)
            slot = record.slot
            if (
                spec is not None
                and incarnation_of(slot) == record.incarnation
                and record.state == RUN
                and (spec.revision == record.revision or record.revision < 0)
                and not (quarantined and account_id in quarantined)
            ):
                used[slot] += 1
                named = named_of(slot)
                if named is not None:
                    ip = record.egress_ip
                    if named and not ip:
                        ip = fallback_address(account_id, self.workers[slot].addresses)
                    kind = (slot, ip, spec.exchange, spec.market)
                    self.by_kind[kind] = self.by_kind.get(kind, 0) + 1
            else:
                self.look_at(account_id, record, spec)

    def look_at(self, account_id: str, record: Ownership, spec: AccountSpec | None) -> None:
        """Sort one record that is not simply settled into its case."""
        wanted = (self.accounts is None or spec is not None) and account_id not in self.quarantined
        if wanted and self.healthy.get(record.slot) == record.incarnation and record.state == RUN:
            self._count(account_id, record, spec)
            if spec is not None and self.workers[record.slot].standing is Standing.UP:  # a leaving one starts nothing
                self._assign(account_id, record, record.slot, "credentials", record.egress_ip)
            return
        self._unsettled(account_id, record, spec, wanted)

    def _unsettled(self, account_id: str, record: Ownership, spec: AccountSpec | None, wanted: bool) -> None:
        worker = self.workers.get(record.slot)
        standing = worker.standing if worker else Standing.DEAD
        if worker and record.incarnation == worker.incarnation and standing is not Standing.DEAD:
            self._with_owner(account_id, record, wanted, standing)
        elif not wanted:
            self._release(account_id, record, revoke=False, reason="inactive")
        elif worker and standing in (Standing.UP, Standing.LEAVING):
            # another incarnation of the slot is registered: it holds the slot's lock, the former one is dead (R8)
            if account_id in self.waiting:
                self.result.unplaced[account_id] = PROBATION
            elif standing is Standing.UP:
                self._come_back(account_id, record, worker)
            else:
                self._hold_place(account_id, record, spec)
        elif standing not in (Standing.SILENT, Standing.RESTING):
            self.orphans[account_id] = record
        else:
            self._hold_place(account_id, record, spec)

    def _come_back(self, account_id: str, record: Ownership, worker: Worker) -> None:
        self.used[worker.slot] += 1
        if worker.slot in self.named or record.egress_ip:
            self.returning.append((account_id, record))
        else:
            self._assign(account_id, record, worker.slot, "restart", "")

    def _with_owner(self, account_id: str, record: Ownership, wanted: bool, standing: Standing) -> None:
        """The owner is, or may be, alive: the connection counts until it is released."""
        self._count(account_id, record, self.accounts.get(account_id) if self.accounts is not None else None)
        if record.state == REVOKE:
            if wanted:
                self.result.in_flight += 1
                self.under_way.append((account_id, record))
                if standing in ALIVE:
                    self.result.revoking.add(account_id)
                    if account_id in self.limits.overdue:
                        self.result.overdue[record.slot] = record.incarnation
        elif not wanted:
            reason = "quarantine" if account_id in self.quarantined else "inactive"
            self._release(account_id, record, revoke=True, reason=reason)
        elif standing is Standing.DRAIN:
            self.draining.append((account_id, record))

    def drain(self) -> None:
        """Empty the slots that an operator drains, a few at a time. Who has nowhere to go stays and streams, also with new
        credentials."""
        if not self.draining:
            return
        prospects = self._prospects("another worker")
        refused: dict[tuple[str, str], str] = {}  # (venue, address) -> why
        stay: dict[str, set[str]] = {}
        for account_id, record in sorted(self.draining):
            kind = (self._venue(account_id), self._address(account_id, record))
            if self.result.in_flight < placement.IN_FLIGHT and kind not in refused:
                if prospects.fit(*kind):
                    prospects.promise(*kind)
                    self._release(account_id, record, revoke=True, reason="drain")
                    self.result.in_flight += 1
                    continue
                refused[kind] = prospects.why_not(*kind)
            stay.setdefault(record.slot, set()).add(refused.get(kind, ""))
            spec = self.accounts.get(account_id) if self.accounts is not None else None
            if spec is not None and 0 <= record.revision != spec.revision:
                self._assign(account_id, record, record.slot, "credentials", record.egress_ip)
        if not (self.result.in_flight or self.result.assigns):
            self.result.staying = {slot: "; ".join(sorted(reasons)) for slot, reasons in stay.items()}

    def place(self) -> None:
        if not (self.orphans or self.returning):
            return
        room = self.room
        for account_id, record in sorted(self.returning, key=self._who_keeps_first):
            worker = self.workers[record.slot]
            address = room.take(worker.dials_from, Orphan(account_id, self._venue(account_id)), record.egress_ip)
            if address is None:
                self.used[worker.slot] -= 1
                self.orphans[account_id] = record
            else:
                self._assign(account_id, record, worker.slot, "restart", address)
        unplaced = self.result.unplaced
        if self.limits.hold:
            unplaced.update(dict.fromkeys(self.orphans, self.limits.hold))
            return
        unplaced.update(dict.fromkeys(self.orphans.keys() & self.waiting, PROBATION))
        orphans = [Orphan(a, self._venue(a)) for a in self.orphans if a not in self.waiting]
        placed, left = placement.place(orphans, self._targets(), room, self.limits.place)
        unplaced.update(left)
        for account_id, spot in placed.items():
            former = self.orphans[account_id]
            self.used[spot.slot] += 1
            self._assign(account_id, former, spot.slot, "new" if former is None else "dead", spot.address)

    def _who_keeps_first(self, row: tuple[str, Ownership]) -> tuple[bool, str]:
        return row[1].egress_ip not in self.workers[row[1].slot].addresses, row[0]

    def rebalance(self, own: Mapping[str, Ownership]) -> None:
        """Revoke from workers past their share who is sure of a place below the mean; the most loaded worker gives first."""
        targets = {target.slot: target for target in self._targets() if target.capacity > 0}
        many = placement.surplus(targets.values())
        if not many:
            return
        bound = self.result.unplaced.keys() | {r.account_id for r in self.result.releases}
        there: dict[str, list[str]] = {slot: [] for slot in many}
        for account_id, record in own.items():
            if record.slot in there and record.state == RUN and account_id not in bound:
                there[record.slot].append(account_id)
        prospects = self._prospects("a worker below the mean")
        refused: dict[
            tuple[str, str], str
        ] = {}  # (venue, address) -> why; what a more loaded worker may not give, none may
        allowed = left = min(self.limits.rebalance, placement.IN_FLIGHT)
        for slot, n in many.items():
            given, most = 0, min(n, left)
            for account_id in there[slot]:
                if given == most:
                    break
                kind = (self._venue(account_id), self._address(account_id, own[account_id]))
                if kind in refused:
                    continue
                seats = placement.seats_to_even_out(targets[slot], given, targets.values())
                if prospects.fit(*kind, seats):
                    prospects.promise(*kind)
                    self._release(account_id, own[account_id], revoke=True, reason="rebalance")
                    given += 1
                else:
                    refused[kind] = prospects.why_not(*kind, seats)
            left -= given
        if left == allowed:
            self.result.uneven = "; ".join(sorted(set(refused.values()))) or BOUND

    def _prospects(self, whose: str) -> Prospects:
        """Of accounts that this plan does not move: whoever it places is counted, whoever waits or is under way comes first."""
        unplaced = self.result.unplaced.keys()
        prospects = Prospects(self._targets(), self.room, {self._venue(a) for a in unplaced - self.waiting}, whose)
        for account_id in unplaced & self.waiting:
            prospects.promise(self._venue(account_id), "")
        for account_id, record in self.under_way:
            prospects.promise(self._venue(account_id), self._address(account_id, record))
        return prospects

    def _targets(self) -> list[Target]:
        return [
            Target(w.slot, w.incarnation, w.dials_from, w.capacity, self.used[w.slot], float(self.used[w.slot]))
            for w in self.workers.values()
            if w.standing is Standing.UP
        ]

    def _counted(self) -> dict[str, bool]:
        """The slots whose connections are counted by address, and whether their addresses have names: where there is one to
        choose, or where the workers of an address could hold more than a venue allows it."""
        capacity: dict[str, int] = {}
        for worker in self.workers.values():
            for address in worker.dials_from:
                capacity[address] = capacity.get(address, 0) + worker.capacity
        least = min(self.limits.connections_per_ip.values(), default=0) if self.accounts is not None else 0
        tight = {address for address, n in capacity.items() if self.limits.connections_per_ip and n > least}
        return {
            worker.slot: bool(worker.addresses)
            for worker in self.workers.values()
            if len(worker.addresses) > 1 or not tight.isdisjoint(worker.dials_from)
        }

    @cached_property
    def room(self) -> Room:
        """Made of what `settle` has counted, then kept up to date."""
        held: dict[tuple[str, str], int] = {}
        for (slot, ip, exchange, market), n in self.by_kind.items():
            pair = (ip or HOST + self.workers[slot].host, venue_name(exchange, market))
            held[pair] = held.get(pair, 0) + n
        return Room(self.limits.connections_per_ip if self.accounts is not None else {}, held)

    def _venue(self, account_id: str) -> str:
        spec = self.accounts.get(account_id) if self.accounts is not None else None
        return spec.venue if spec else ""

    def _count(self, account_id: str, record: Ownership, spec: AccountSpec | None) -> None:
        self.used[record.slot] += 1
        self._hold_place(account_id, record, spec)

    def _hold_place(self, account_id: str, record: Ownership, spec: AccountSpec | None) -> None:
        """Count it at its address only: there it is, or there it will be again."""
        if spec is None or record.slot not in self.named:
            return
        address = self._address(account_id, record)
        kind = (record.slot, "" if address.startswith(HOST) else address, spec.exchange, spec.market)
        self.by_kind[kind] = self.by_kind.get(kind, 0) + 1

    def _address(self, account_id: str, record: Ownership) -> str:
        """What its connection counts at: its record's address, else the one it must have chosen."""
        worker = self.workers[record.slot]
        return record.egress_ip or fallback_address(account_id, worker.addresses) or HOST + worker.host

    def _assign(self, account_id: str, former: Ownership | None, slot: str, reason: str, address: str) -> None:
        spec = self.accounts.get(account_id) if self.accounts is not None else None
        revision = spec.revision if spec else (former.revision if former else -1)
        incarnation = self.workers[slot].incarnation
        egress_ip = "" if address.startswith(HOST) else address
        self.result.assigns.append(Assign(account_id, former, slot, incarnation, revision, reason, egress_ip))

    def _release(self, account_id: str, record: Ownership, *, revoke: bool, reason: str) -> None:
        self.result.releases.append(Release(account_id, record, revoke, reason))
