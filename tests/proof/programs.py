"""The programs of a virtual fleet: the real worker control half, the real coordinator, and streams that only count.

In: a World and its stores. Out: processes that run workers.heartbeat, workers.inbox, workers.shard and coordinator.__main__ as
they are; only their modules' `threading`, `queue`, `time`, `uuid`, logs, metrics and store clients are replaced.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from coordinator import __main__ as coordinator_main
from coordinator import dispatch as dispatch_module
from coordinator import own_reading, rebuild
from coordinator import reconciler as reconciler_module
from coordinator.dispatch import Dispatch
from fleet.core.lifecycle import ENDED
from fleet.core.model import StreamState, StreamStatus
from fleet.core.names import Keys
from fleet.core.wire import RUN
from fleet.runtime import redis_calls, redis_reads, redis_store
from fleet.runtime.settings import Settings
from tests.proof.postgres_db import FakeListener, FakePostgres
from tests.proof.redis_client import FakePoke, FakeRedis
from tests.proof.virtual import Event, Process, VirtualQueue, VirtualThreading, VirtualTime, VirtualUuid, World
from workers import heartbeat as heartbeat_module
from workers import inbox as inbox_module
from workers import shard as shard_module

if TYPE_CHECKING:
    from tests.proof.fleet import Fleet

MODULES = [
    "coordinator.__main__", "coordinator.arrivals", "coordinator.assignments", "coordinator.background", "coordinator.desired",
    "coordinator.dispatch",
    "coordinator.events", "coordinator.lease", "coordinator.notify", "coordinator.observed", "coordinator.own_reading",
    "coordinator.quarantine", "coordinator.rebuild", "coordinator.reconciler", "coordinator.verdicts",
    "fleet.runtime.shutdown", "workers.heartbeat", "workers.inbox", "workers.shard", "workers.witness",
]  # fmt: skip
PUBLISH_EVERY_S = 0.25


class Log:
    """A structlog logger; what it is told is counted, and printed in a verbose run."""

    __slots__ = ("_fleet", "_module")

    def __init__(self, fleet: Fleet, module: str) -> None:
        self._fleet, self._module = fleet, module

    def bind(self, **_: Any) -> Log:
        return self

    def _say(self, event: str, **fields: Any) -> None:
        self._fleet.said(self._module, event, fields)

    debug = info = warning = error = critical = exception = _say


class Nothing:
    """Stands for metrics: every name is a function that returns it again."""

    def __getattr__(self, name: str) -> Nothing:
        return self

    def __call__(self, *_: Any, **__: Any) -> Nothing:
        return self


NOTHING = Nothing()


class NoNotices:
    def run_once(self) -> int:
        return 0

    def close(self) -> None: ...


class FakeProducer:
    def send(
        self, topic: str, key: bytes, value: bytes, headers: Any, done: Callable[[Exception | None], None]
    ) -> None:
        done(None)

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, timeout_s: float) -> None: ...


@contextlib.contextmanager
def installed(fleet: Fleet) -> Iterator[None]:
    """Put the virtual modules in place of the real ones, in the modules under test only."""
    world = fleet.world
    fakes: dict[str, Any] = {
        "threading": VirtualThreading(world), "queue": VirtualQueue(world), "time": VirtualTime(world),
        "uuid": VirtualUuid(world), "get": lambda name: Log(fleet, name),
    }  # fmt: skip
    saved: list[tuple[Any, str, Any]] = []

    def put(module: Any, name: str, value: Any) -> None:
        saved.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    for name in MODULES:
        module = importlib.import_module(name)
        for attribute, fake in fakes.items():
            if hasattr(module, attribute):
                put(module, attribute, fake)
        for thing in vars(module).values():
            init = getattr(thing, "__init__", None)
            if isinstance(thing, type) and isinstance(init, FunctionType) and thing.__module__ == name:
                put(init, "__defaults__", _virtual(init.__defaults__, fakes["time"]))
                if init.__kwdefaults__:
                    new = {k: _virtual((v,), fakes["time"])[0] for k, v in init.__kwdefaults__.items()}  # type: ignore[index]
                    put(init, "__kwdefaults__", new)
    put(redis_reads, "PAGE", 2)  # a few accounts are read by pages as a million are, over some ticks
    put(own_reading, "READ_S", 0.005)
    put(rebuild, "BATCH", 2)
    put(rebuild, "WRITE_S", 0.002)
    put(rebuild, "READ_S", 0.003)
    put(reconciler_module, "PLACE", 5)
    put(dispatch_module, "BATCH", 2)
    put(dispatch_module, "WRITE_S", 0.002)
    put(redis_calls, "connect", lambda url, timeout_s, key, deadline: FakeRedis(fleet.redis, timeout_s))
    put(shard_module, "AccountStream", lambda account, token, worker: Stream(account, token, worker))
    main = coordinator_main
    put(main, "logs", SimpleNamespace(get=lambda name: Log(fleet, name), close=lambda: None))
    put(main, "Metrics", lambda namespace: NOTHING)
    put(main, "NoticeSender", lambda settings, metrics: NoNotices())
    put(main, "Producer", lambda bootstrap, client_id: FakeProducer())
    put(main, "Listener", lambda dsn, channel: FakeListener(fleet.postgres, _here(world)))
    put(main, "Poke", lambda url, keys, slot, timeout_s: FakePoke(fleet.redis, _here(world), keys, slot))
    put(
        main,
        "Postgres",
        lambda dsn, application, statement_timeout_s: FakePostgres(fleet.postgres, statement_timeout_s),
    )
    venue = SimpleNamespace(limits=SimpleNamespace(connections_per_ip=fleet.connections_per_ip))
    put(main, "exchanges", SimpleNamespace(exchanges=lambda: {"binance_usdm": venue}))
    release, apply = Dispatch._release, Dispatch._apply

    def released(self: Any, releases: Any, generation: Any) -> None:
        for r in releases:
            fleet.judge.revoked(r.account_id, r.expected.slot, r.reason)
        release(self, releases, generation)

    def applied(self: Any, generation: Any, changes: Any) -> Any:
        for change in changes:
            if change.new is not None and change.new.state == RUN:
                fleet.judge.ordered(change.new)
        return apply(self, generation, changes)

    put(Dispatch, "_release", released)
    put(Dispatch, "_apply", applied)
    try:
        yield
    finally:
        for module, name, value in reversed(saved):
            setattr(module, name, value)


def _virtual(defaults: tuple[Any, ...] | None, clock: VirtualTime) -> tuple[Any, ...] | None:
    """Defaults of a constructor, with the real monotonic clock replaced."""
    return defaults and tuple(clock.monotonic if value is time.monotonic else value for value in defaults)


def _here(world: World) -> Process:
    assert world.process is not None
    return world.process


class Stream:
    """Stands for workers.stream.AccountStream: dials for a moment, publishes while its gate is valid, ends when told."""

    __slots__ = ("_ended_waiters", "account_id", "began", "lost", "state", "stopping", "token", "worker")

    def __init__(self, account_id: str, token: int, worker: WorkerProgram) -> None:
        self.account_id, self.token, self.worker = account_id, token, worker
        self.state = StreamState.IDLE
        self.stopping = self.lost = False
        self.began = 0.0
        self._ended_waiters: list[Callable[[], None]] = []

    def start(self) -> None:
        self.state = StreamState.CONNECTING
        self.began = self.worker.world.now
        self.worker.fleet.judge.started(self)
        self._dial(self.worker.world.rng.uniform(0.05, 0.25))

    def _dial(self, delay_s: float) -> None:
        worker = self.worker

        def done() -> None:
            if self.state is not StreamState.CONNECTING or not worker.process.alive or self.stopping:
                return
            if worker.process.paused:
                worker.process.on_resume.append(lambda: self._dial(0.05))
            elif not worker.fleet.postgres.usable(worker.process):
                self._dial(1.0)  # the account's row cannot be read yet
            elif self.account_id in worker.fleet.poison:
                worker.fleet.kill(worker.process, "poison account")
            else:
                self.state = StreamState.LIVE

        worker.world.after(delay_s, done)

    def stop(self) -> None:
        if self.stopping and not self.lost:
            return
        self.stopping = True
        if self.state is StreamState.LIVE:
            self.state = StreamState.DRAINING
        rng = self.worker.world.rng
        self.worker.world.after(rng.uniform(0.01, 0.25), self._flushed)

    def _flushed(self) -> None:
        process = self.worker.process
        if not process.alive or self.ended:
            return
        if process.paused:
            process.on_resume.append(self._flushed)
        elif self.account_id in self.worker.fleet.stuck and not self.lost:
            self.worker.world.after(0.5, self._flushed)
        else:
            self._end("stop")

    def revoke(self) -> None:
        """Publishes nothing from now on; its socket is closed when `stop` has come."""
        if not self.lost and not self.ended:
            self.worker.fleet.judge.ended(self, "lost")
        self.lost = True

    def _end(self, why: str) -> None:
        self.state = StreamState.STOPPED
        if not self.lost:
            self.worker.fleet.judge.ended(self, why)
        for waiter in self._ended_waiters:
            waiter()

    def lease_lost(self) -> None:
        if not self.ended:
            self._end("lease")

    def join(self, timeout_s: float) -> bool:
        world = self.worker.world
        if not self.ended:
            task = world.task
            assert task is not None
            turn = task.turn
            self._ended_waiters.append(lambda: world.wake(task, turn, True))
            world.block(timeout_s)
        return self.ended

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def running(self) -> bool:
        return self.state is StreamState.LIVE and not self.lost

    @property
    def may_publish(self) -> bool:
        """Has, or may have, something in its hands that would reach Kafka."""
        return not self.lost and self.state in (StreamState.LIVE, StreamState.DRAINING)

    def status(self) -> StreamStatus:
        return StreamStatus(self.account_id, self.token, self.state, 0, 0, False)


class Publisher:
    def clear(self) -> None: ...


class WorkerProgram:
    """`python -m workers userdata` without sockets: heartbeat, inbox and shard as they are."""

    def __init__(self, fleet: Fleet, process: Process, slot: str, settings: Settings) -> None:
        self.fleet, self.world, self.process, self.slot, self.settings = fleet, fleet.world, process, slot, settings
        self.publisher = Publisher()
        self.in_flight: list[Stream] = []
        self.stop = Event(self.world)
        self.leaving = self.ready = False
        self.answered_at = self.world.now + process.boot  # by its own clock: when a store confirmed its lease last
        process.spawn(self._main, "main")
        process.on_resume.clear()
        self.world.after(self.world.rng.random() * PUBLISH_EVERY_S, self._publish)

    def _main(self) -> None:
        fleet, settings, keys = self.fleet, self.settings, Keys(self.settings.fleet)
        shard_of: Any = shard_module.Shard
        self.shard = shard_of(self)
        self.gate = heartbeat_module.LeaseGate()

        def store() -> redis_store.RedisStore:
            return redis_store.RedisStore("redis://virtual", keys, settings.redis_timeout_s)

        postgres: Any = lambda: FakePostgres(fleet.postgres, 5.0)  # noqa: E731
        poke: Any = lambda: FakePoke(fleet.redis, self.process, keys, self.slot)  # noqa: E731
        self.heartbeat = heartbeat_module.Heartbeat(settings, store, postgres, self.shard, self.slot, gate=self.gate)
        self.inbox = inbox_module.Inbox(store, poke, self.shard, self.slot, self.heartbeat)
        self.ready = True
        self.heartbeat.start()
        self.inbox.start()
        self.stop.wait()
        self.heartbeat.drain()
        self.inbox.stop(2.0)
        self.leaving = True
        self.shard.drain(16.8)
        self.heartbeat.stop(3.0, gone=True)
        fleet.exited(self)

    def deadline_left(self) -> float:
        """Seconds of the right to publish that are left, by this process' own clock."""
        return float(self.gate.deadline) - (self.world.now + self.process.boot) if self.ready else -1.0

    def isolated(self) -> bool:
        """The deadline stands on R5 (e): neither store has confirmed it."""
        lease = self.heartbeat._lease
        return bool(lease.deadline > lease.answered_at + self.settings.worker_lease_s + 1e-6)

    def streams(self) -> list[Stream]:
        return list(self.shard._streams.values()) if self.ready else []

    def _publish(self) -> None:
        if not self.process.alive:
            return
        self.world.after(PUBLISH_EVERY_S, self._publish)
        if not self.process.paused:
            self.publish_now()

    def publish_now(self) -> None:
        """Every stream has something to publish: it asks the gate, as workers.publish does per record."""
        if not self.ready:
            return
        self.answered_at = self.heartbeat._lease.answered_at or self.answered_at
        for stream in self.streams():
            if not stream.may_publish:
                continue
            if self.world.acting(self.process, self.gate.valid):
                self.fleet.judge.published(stream, in_flight=False)
            else:
                stream.lease_lost()

    def pause(self) -> None:
        """SIGSTOP. Some streams are caught between the gate and Kafka: one message each (Q)."""
        rng = self.world.rng
        left = self.deadline_left()
        self.in_flight = [s for s in self.streams() if s.may_publish and left > 0 and rng.random() < 0.3]
        self.process.pause()

    def resume(self) -> None:
        caught, self.in_flight = self.in_flight, []
        if not self.process.paused:
            return
        for stream in caught:
            self.fleet.judge.published(stream, in_flight=True)
        self.process.resume()
        self.process.on_resume.clear()
        for _ in range(4):  # what its sockets received meanwhile is read at once, whatever thread runs first
            self.world.after(self.world.rng.random() * 0.03, self._publish_if_awake)

    def _publish_if_awake(self) -> None:
        if self.process.alive and not self.process.paused:
            self.publish_now()


class CoordinatorProgram:
    """`python -m coordinator`."""

    def __init__(self, fleet: Fleet, process: Process, settings: Settings) -> None:
        self.fleet, self.process, self.settings = fleet, process, settings
        self.stop = Event(fleet.world)
        self.coordinator: Any = None
        process.spawn(self._main, "main")

    def _main(self) -> None:
        self.coordinator = coordinator_main.Coordinator(self.settings)
        self.coordinator.run_until(self.stop)
        self.fleet.exited(self)

    @property
    def leads(self) -> bool:
        return bool(self.coordinator and self.process.alive and self.coordinator.leading.is_set())
