"""Histories: what happens to a fleet, drawn from a seed.

In: a Fleet and its random numbers. Out: scheduled faults, each with its end, each entered in the record of troubles. `heal`
ends all of them. `KINDS` maps a fault's name to how it is done and to the row of the failure table that it reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleet.core.names import Keys
from tests.proof.fleet import Fleet, Trouble
from tests.proof.network import OPEN, REFUSED, SILENT
from tests.proof.programs import CoordinatorProgram, WorkerProgram
from tests.proof.virtual import Process

Fault = Callable[["Faults"], None]


@dataclass(frozen=True)
class Kind:
    """`row`: row of the failure table. `stops`: False = no stream may end. `gap_s`: longest silence of an account."""

    do: Fault
    row: str
    stops: bool
    gap_s: float
    weight: int = 2


class Faults:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.world, self.rng = fleet, fleet.world, fleet.world.rng
        self.open: list[Callable[[], None]] = []  # ends of what is still going on
        self.alone = False  # nothing else happens in this history
        self.length_s: float | None = None  # None = each fault draws its own
        self.arrived_s = 0.0  # when the last write that a paused leader had sent arrives: no healing takes it back

    def _for(self, low: float, high: float) -> float:
        return self.length_s if self.length_s is not None else self.rng.uniform(low, high)

    def _until(self, seconds: float, end: Callable[[], None]) -> None:
        done = False

        def once() -> None:
            nonlocal done
            if not done:
                done = True
                end()

        self.open.append(once)
        self.world.after(seconds, once)

    def heal(self) -> None:
        ends, self.open = self.open, []
        for end in ends:
            end()

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _worker(self) -> WorkerProgram | None:
        workers = [w for w in self.fleet.alive_workers() if not w.process.paused and w.slot in self.fleet.wanted]
        return self.rng.choice(workers) if workers else None

    def kill_worker(self) -> None:
        if worker := self._worker():
            self.fleet.kill(worker.process, "SIGKILL", restart_s=self.rng.uniform(0.3, 1.0))

    def lose_host(self) -> None:
        worker = self._worker()
        if worker is None or len(self.fleet.alive_workers()) < 2:
            return
        slot = worker.slot
        self.fleet.wanted.discard(slot)
        self.fleet.kill(worker.process, "its host is gone", restart_s=None)
        self._until(self._for(15.0, 60.0), lambda: self.fleet.want(slot))

    def _pause(self, worker: WorkerProgram, seconds: float) -> None:
        trouble = self.fleet.trouble(worker.slot, "pause")
        self.fleet.note(f"{worker.slot} SIGSTOP for {seconds:.2f} s")
        worker.pause()

        def wake() -> None:
            trouble.end = self.world.now
            self.fleet.note(f"{worker.slot} SIGCONT")
            if worker.process.alive:
                worker.resume()

        self._until(seconds, wake)

    def pause_worker(self) -> None:
        if worker := self._worker():
            self._pause(worker, self._for(4.5, 25.0))

    def pause_worker_briefly(self) -> None:
        if worker := self._worker():
            self._pause(worker, self._for(0.3, 2.2))

    def _when(self, process: Process, name: str, then: Callable[[], float]) -> None:
        """Do something at the very call `name` of a process: the worst moment. `then` says how long the request is held up."""
        redis = self.fleet.redis

        def intercept(caller: Process, called: str) -> float:
            if caller is not process or called != name:
                return 0.0
            redis.intercept = None
            return then()

        redis.intercept = intercept

    def pause_worker_amid_a_beat(self) -> None:
        """SIGSTOP between the send of a heartbeat and its reply, which waits until the process wakes."""
        worker = self._worker()
        if worker is None:
            return
        seconds = self._for(8.0, 25.0)

        def now() -> float:
            if not worker.process.paused:
                self._pause(worker, seconds)
            return 0.0

        self._when(worker.process, "heartbeat", now)

    def pause_worker_cut_off(self) -> None:
        """SIGSTOP past the lease, and nobody to ask after SIGCONT."""
        if worker := self._worker():
            self._cut(worker, ("redis", "postgres"), self._for(16.0, 30.0))
            self._pause(worker, self._for(8.0, 14.0))

    def pause_leader_amid_a_write(self) -> None:
        """SIGSTOP of the leader while a change is on its way, which arrives when somebody else leads."""
        leader = self._leader()
        if leader is None:
            return

        def now() -> float:
            if not leader.process.paused:
                leader.process.pause()
                self.fleet.note(f"leader {leader.process.name} SIGSTOP amid a write")
                self._until(seconds, leader.process.resume)
            self.arrived_s = self.world.now + seconds - 0.5
            return seconds - 0.5

        seconds = self._for(7.5, 15.0)
        self._when(leader.process, "apply", now)
        self.add_account()

    def pause_every_worker(self) -> None:
        """The host of all of them stood still: the mass guard's case."""
        seconds = self._for(6.0, 20.0)
        for worker in self.fleet.alive_workers():
            if not worker.process.paused:
                self._pause(worker, seconds + self.rng.uniform(0.0, 0.3))

    def remove_worker(self) -> None:
        worker = self._worker()
        if worker is not None and len(self.fleet.alive_workers()) > 1:
            slot = worker.slot
            self.fleet.note(f"{slot} removed")
            self.fleet.terminate(slot, come_back=False)
            self._until(self._for(20.0, 60.0), lambda: self.fleet.want(slot))

    def restart_worker(self) -> None:
        if worker := self._worker():
            self.fleet.note(f"{worker.slot} restarted")
            self.fleet.terminate(worker.slot, come_back=True)

    def add_worker(self) -> None:
        n = len(self.fleet.workers)
        self.fleet.want(f"h{n % 2}:{n // 2}")

    def drain_worker(self) -> None:
        """An operator drains a slot: HSET drain, as RedisStore.set_drain does."""
        if (worker := self._worker()) and len(self.fleet.alive_workers()) > 1:
            key, db = Keys(self.fleet.settings.fleet).worker(worker.slot), self.fleet.redis.db
            if db.hget(key, "inc") is not None and self.fleet.redis.state == OPEN:
                self.fleet.note(f"{worker.slot} is to be drained")
                db.hset(key, "drain", "1")
                self._until(self._for(10.0, 40.0), lambda: db.hdel(key, "drain"))

    def stick(self) -> None:
        """A stream that does not end when revoked, for longer than a release may take (R7)."""
        if self.fleet.active():
            account = self.rng.choice(self.fleet.active())
            worker = next((w for w in self.fleet.alive_workers() if account in w.shard._streams), None)
            if worker is None:
                return
            trouble = self.fleet.trouble(worker.slot, "stuck")
            self.fleet.stuck.add(account)
            self._change(account)

            def free() -> None:
                trouble.end = self.world.now
                self.fleet.stuck.discard(account)

            self._until(self._for(32.0, 45.0), free)
            self.world.after(1.0, lambda: self._activate(account))

    # ── coordinators ─────────────────────────────────────────────────────────────────────────────────────────────
    def _leader(self) -> CoordinatorProgram | None:
        leader = self.fleet.leader()
        return leader if leader is not None and not leader.process.paused else None

    def kill_leader(self) -> None:
        if leader := self._leader():
            self._kill_coordinator(leader, self.rng.uniform(0.5, 10.0))

    def _kill_coordinator(self, coordinator: CoordinatorProgram, restart_s: float) -> None:
        n = int(coordinator.process.name[1:])
        self.fleet.kill(coordinator.process, "SIGKILL")
        self.world.after(restart_s, lambda: self.fleet.start_coordinator(n))

    def pause_leader(self) -> None:
        if leader := self._leader():
            leader.process.pause()
            self.fleet.note(f"leader {leader.process.name} SIGSTOP")
            self._until(self._for(1.0, 20.0), leader.process.resume)

    def no_coordinators(self) -> None:
        fleet = self.fleet
        fleet.coordinators_wanted = False
        for coordinator in fleet.coordinators:
            if coordinator is not None:
                fleet.kill(coordinator.process, "all coordinators are down")

        def back() -> None:
            fleet.coordinators_wanted = True
            for n in range(len(fleet.coordinators)):
                fleet.start_coordinator(n)

        self._until(self._for(10.0, 60.0), back)

    # ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _redis_away(self, seconds: float, how: str, then: Callable[[], None] = lambda: None) -> None:
        redis = self.fleet.redis
        if redis.state != OPEN:
            return
        trouble = self.fleet.trouble("redis", how)
        self.fleet.note(f"redis {how} for {seconds:.2f} s")
        redis.set_state(how)

        def back() -> None:
            trouble.end = self.world.now
            then()
            redis.set_state(OPEN)
            self.fleet.note("redis is back")

        self._until(seconds, back)

    def redis_down(self) -> None:
        self._redis_away(self._for(2.0, 60.0), REFUSED)

    def redis_frozen(self) -> None:
        self._redis_away(self._for(1.0, 45.0), SILENT)

    def redis_restarts_empty(self) -> None:
        self._redis_away(
            self._for(1.0, 20.0), REFUSED, lambda: (self.fleet.redis.flush(), self.fleet.redis.scripts.clear())[0]
        )

    def flushall(self) -> None:
        self.fleet.note("FLUSHALL")
        self.fleet.redis.flush()

    def script_flush(self) -> None:
        self.fleet.note("SCRIPT FLUSH")
        self.fleet.redis.scripts.clear()

    def stale_failover(self) -> None:
        redis = self.fleet.redis
        behind_s, away_s = self.rng.uniform(0.1, 2.0), self.rng.uniform(0.5, 4.0)
        copies: list[float] = []

        def keep() -> None:
            redis.keep_copy()
            copies.append(self.world.now)

        def fail() -> None:
            if redis.state != OPEN or not copies:
                return
            self._redis_away(away_s, REFUSED, promote)

        def promote() -> None:
            when = redis.fail_over(copies[-1])
            self.fleet.note(f"failover to a copy of {when:.3f}")

        keep()
        if self.rng.random() < 0.5:  # something is written that the copy does not have
            self.world.after(0.0, self.churn)
        self.world.after(behind_s, fail)

    def slow_network(self) -> None:
        for server in (self.fleet.redis, self.fleet.postgres):
            server.slow = self.rng.uniform(0.05, 0.4)
        self._until(self._for(5.0, 30.0), self._fast_network)

    def _fast_network(self) -> None:
        self.fleet.redis.slow = self.fleet.postgres.slow = 0.0

    def _postgres_away(self, seconds: float, how: str) -> None:
        postgres = self.fleet.postgres
        if postgres.state != OPEN:
            return
        trouble = self.fleet.trouble("postgres", how)
        self.fleet.note(f"postgres {how} for {seconds:.2f} s")
        postgres.set_state(how)
        if how == REFUSED:
            postgres.lose_listeners()

        def back() -> None:
            trouble.end = self.world.now
            postgres.set_state(OPEN)
            self.fleet.note("postgres is back")

        self._until(seconds, back)

    def postgres_down(self) -> None:
        self._postgres_away(self._for(2.0, 60.0), REFUSED)

    def postgres_frozen(self) -> None:
        self._postgres_away(self._for(2.0, 40.0), SILENT)

    def postgres_read_only(self) -> None:
        """It became a standby, or was set so: it can be read, and no worker can beat there. One worker needs to, meanwhile."""
        postgres, seconds = self.fleet.postgres, self._for(5.0, 28.0)
        if postgres.read_only:
            return
        trouble = self.fleet.trouble("postgres", "read-only")
        self.fleet.note(f"postgres is read-only for {seconds:.2f} s")
        postgres.read_only = True

        def back() -> None:
            trouble.end = self.world.now
            postgres.read_only = False
            self.fleet.note("postgres takes writes")

        self._until(seconds, back)
        if worker := self._worker():
            self._cut(worker, ("redis",), seconds)

    def both_down(self) -> None:
        seconds = self._for(3.0, 50.0)
        self._redis_away(seconds, self.rng.choice((REFUSED, SILENT)))
        self._postgres_away(seconds + self.rng.uniform(-2.0, 2.0), self.rng.choice((REFUSED, SILENT)))

    # ── the network of one process ───────────────────────────────────────────────────────────────────────────────
    def _cut(self, worker: WorkerProgram, stores: tuple[str, ...], seconds: float) -> None:
        how = self.rng.choice((REFUSED, SILENT))
        process, marks = worker.process, []
        for name in stores:
            server = self.fleet.redis if name == "redis" else self.fleet.postgres
            server.cut_off(process, how)
            marks.append(self.fleet.trouble(worker.slot, f"cut {name}"))
        self.fleet.note(f"{worker.slot} is cut off ({how}) from {', '.join(stores)} for {seconds:.2f} s")

        def heal() -> None:
            for mark in marks:
                mark.end = self.world.now
            self.fleet.redis.heal(process)
            self.fleet.postgres.heal(process)
            self.fleet.note(f"{worker.slot} is connected again")

        self._until(seconds, heal)

    def cut_every_worker(self) -> None:
        """The network between all workers and the stores is gone, while the leader sees both: the mass guard's case (R11)."""
        workers = [w for w in self.fleet.alive_workers() if not w.process.paused]
        seconds = self._for(8.0, 40.0)
        before = {w.slot: len(self.fleet.troubles.get(w.slot, [])) for w in workers}
        for worker in workers:
            self._cut(worker, ("redis", "postgres"), seconds)
        if self.alone and len(workers) >= 3 and 2 * len(workers) > len(self.fleet.workers):
            for slot, n in before.items():
                for trouble in self.fleet.troubles[slot][n:]:
                    trouble.mass = True

    def cut_worker_redis(self) -> None:
        if worker := self._worker():
            self._cut(worker, ("redis",), self._for(3.0, 25.0))

    def cut_worker_redis_long(self) -> None:
        if worker := self._worker():
            self._cut(worker, ("redis",), self._for(36.0, 60.0))

    def cut_worker_postgres(self) -> None:
        if worker := self._worker():
            self._cut(worker, ("postgres",), self._for(3.0, 40.0))

    def cut_worker_both(self) -> None:
        if worker := self._worker():
            self._cut(worker, ("redis", "postgres"), self._for(3.0, 40.0))

    def cut_leader(self) -> None:
        if leader := self._leader():
            server = self.rng.choice((self.fleet.redis, self.fleet.postgres))
            process = leader.process
            self.fleet.note(f"leader {process.name} is cut off from {server.name}")
            server.cut_off(process, self.rng.choice((REFUSED, SILENT)))
            self._until(self._for(2.0, 30.0), lambda: server.heal(process))

    # ── clocks ───────────────────────────────────────────────────────────────────────────────────────────────────
    def clock_jump(self) -> None:
        """A wall clock is set: forward or back, by seconds or hours. Monotonic clocks do not jump."""
        by = self.rng.choice((-3600.0, -5.0, 5.0, 40.0, 3600.0))
        place = self.rng.randrange(4)
        self.fleet.note(f"clock of {('a worker', 'the leader', 'redis', 'postgres')[place]} jumps by {by:g} s")
        if place == 0 and (worker := self._worker()):
            worker.process.wall += by
        elif place == 1 and (leader := self._leader()):
            leader.process.wall += by
        elif place == 2:
            self.fleet.redis.wall += by
        else:
            self.fleet.postgres.wall += by

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────
    def add_account(self) -> None:
        account = self.fleet.add_account()
        self.fleet.judge.added_at[account] = self.world.now

    def deactivate(self) -> None:
        if active := self.fleet.active():
            self._set(self.rng.choice(active), False)

    def remove_account(self) -> None:
        if active := self.fleet.active():
            account = self.rng.choice(active)
            del self.fleet.postgres.tables.accounts[account]
            self.fleet.changed(account, "removed")

    def _set(self, account: str, active: bool) -> None:
        row = self.fleet.postgres.tables.accounts.get(account)
        if row is not None and row.active != active:
            row.active = active
            row.revision += active
            self.fleet.changed(account, "active" if active else "inactive")

    def _change(self, account: str) -> None:
        self._set(account, False)

    def _activate(self, account: str) -> None:
        self._set(account, True)

    def reactivate(self) -> None:
        if active := self.fleet.active():
            account = self.rng.choice(active)
            self._set(account, False)
            self.world.after(self._for(0.01, 6.0), lambda: self._set(account, True))

    def new_credentials(self) -> None:
        if active := self.fleet.active():
            account = self.rng.choice(active)
            self.fleet.postgres.tables.accounts[account].revision += 1
            self.fleet.changed(account, "has new credentials")

    def churn(self) -> None:
        self.rng.choice(
            (self.add_account, self.deactivate, self.remove_account, self.reactivate, self.new_credentials)
        )()

    def poison_account(self) -> None:
        """An account whose start kills its worker (R13)."""
        account = f"{self.rng.choice('0p')}{self.rng.randrange(10)}"
        self.fleet.poison.add(account)
        from tests.proof.postgres_db import Row

        self.fleet.postgres.tables.accounts.setdefault(account, Row(account))
        self.fleet.changed(account, "added, poison")


NEVER = 1e9
KINDS: dict[str, Kind] = {
    "kill -9, restarted": Kind(Faults.kill_worker, "kill -9 of a worker, restarted", True, 3.0, 4),
    "host gone": Kind(Faults.lose_host, "worker's host gone", True, 10.0, 3),
    "SIGSTOP past the lease": Kind(Faults.pause_worker, "SIGSTOP past the lease", True, 10.0, 3),
    "SIGSTOP amid a heartbeat": Kind(Faults.pause_worker_amid_a_beat, "SIGSTOP past the lease", True, 10.0, 1),
    "SIGSTOP while cut off": Kind(Faults.pause_worker_cut_off, "SIGSTOP past the lease", True, 10.0, 1),
    "SIGSTOP for a moment": Kind(Faults.pause_worker_briefly, "SIGSTOP for a moment", False, 3.0),
    "every worker stopped": Kind(Faults.pause_every_worker, "mass", True, NEVER, 1),
    "worker removed": Kind(Faults.remove_worker, "worker removed", True, 6.0),
    "worker restarted": Kind(Faults.restart_worker, "worker restarted", True, 3.0),
    "worker added": Kind(Faults.add_worker, "worker added", True, 3.0),
    "worker drained": Kind(Faults.drain_worker, "worker drained", True, 3.0),
    "release withheld": Kind(Faults.stick, "release withheld", True, NEVER, 1),
    "leader killed": Kind(Faults.kill_leader, "leader killed or paused", False, 1.0),
    "leader paused": Kind(Faults.pause_leader, "leader killed or paused", False, 1.0),
    "leader paused amid a write": Kind(Faults.pause_leader_amid_a_write, "leader killed or paused", False, NEVER, 1),
    "all coordinators down": Kind(Faults.no_coordinators, "all coordinators down", False, 1.0),
    "redis down": Kind(Faults.redis_down, "redis down", False, 1.0),
    "redis frozen": Kind(Faults.redis_frozen, "redis down", False, 1.0),
    "redis restarted empty": Kind(Faults.redis_restarts_empty, "FLUSHALL", False, 1.0),
    "FLUSHALL": Kind(Faults.flushall, "FLUSHALL", False, 1.0),
    "SCRIPT FLUSH": Kind(Faults.script_flush, "SCRIPT FLUSH", False, 1.0, 1),
    "stale failover": Kind(Faults.stale_failover, "stale failover", True, NEVER, 3),
    "slow network": Kind(Faults.slow_network, "slow network", False, 1.0),
    "postgres down": Kind(Faults.postgres_down, "postgres down", False, 1.0),
    "postgres frozen": Kind(Faults.postgres_frozen, "postgres down", False, 1.0),
    "postgres read-only": Kind(Faults.postgres_read_only, "postgres read-only", False, 1.0, 1),
    "both down": Kind(Faults.both_down, "redis and postgres down", False, 1.0),
    "worker cut off from redis": Kind(Faults.cut_worker_redis, "worker cut off from redis", False, 1.0),
    "worker cut off from redis for long": Kind(Faults.cut_worker_redis_long, "moved without overlap", True, 12.0),
    "worker cut off from postgres": Kind(Faults.cut_worker_postgres, "worker cut off from postgres", False, 1.0, 1),
    "worker cut off from both": Kind(Faults.cut_worker_both, "worker cut off from both", True, NEVER),
    "every worker cut off": Kind(Faults.cut_every_worker, "mass partition", True, NEVER, 1),
    "leader cut off": Kind(Faults.cut_leader, "leader cut off", False, 1.0),
    "clock jump": Kind(Faults.clock_jump, "clock jump", False, 1.0),
    "account added": Kind(Faults.add_account, "account inserted", False, 1.5, 1),
    "account deactivated": Kind(Faults.deactivate, "account deactivated", True, 1.0, 1),
    "account removed": Kind(Faults.remove_account, "account removed", True, 1.0, 1),
    "account off and on": Kind(Faults.reactivate, "account off and on", True, NEVER),
    "new credentials": Kind(Faults.new_credentials, "new credentials", True, 3.0),
    "poison account": Kind(Faults.poison_account, "poison account", True, NEVER, 1),
}
__all__ = ["KINDS", "Faults", "Kind", "Trouble"]
