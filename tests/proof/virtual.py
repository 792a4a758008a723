"""A virtual machine room: processes, threads and clocks that exist only in numbers, so that one seed is one history.

In: the real classes of workers/ and coordinator/, whose `threading`, `queue`, `time` and `uuid` are replaced by the ones here
(`World.installed`). Out: the same run for the same seed. Every thread is a greenlet; it runs until it waits, and only then
does the clock move. A process may be killed (its threads never run again), paused (SIGSTOP: time goes on, its threads do not)
and resumed. Threads of one process interleave at waits, store calls and lock acquisitions.
"""

from __future__ import annotations

import heapq
import itertools
import queue as real_queue
import random
import threading as real_threading
from collections import deque
from collections.abc import Callable
from typing import Any

import greenlet


class Process:
    """One operating-system process. `mono` and `boot` are this machine's clock readings at virtual instant 0."""

    def __init__(self, world: World, name: str, kind: str) -> None:
        self.world, self.name, self.kind = world, name, kind
        self.alive, self.paused = True, False
        self.mono = world.rng.uniform(100.0, 5000.0)
        self.boot = self.mono + world.rng.uniform(0.0, 1000.0)
        self.wall = 0.0  # how far its wall clock is off
        self.parked: list[tuple[Task, int, Any]] = []  # wake-ups that came while it was paused
        self.tasks: list[Task] = []
        self.paused_at = 0.0
        self.born_at = world.now
        self.on_resume: list[Callable[[], None]] = []

    def spawn(self, run: Callable[[], None], name: str = "") -> Task:
        task = Task(self, run, name)
        self.tasks.append(task)
        self.world.wake(task, task.turn, None)
        return task

    def kill(self) -> None:
        self.alive = False
        self.parked.clear()
        self.world.graveyard.append(self)

    def pause(self) -> None:
        self.paused, self.paused_at = True, self.world.now

    def resume(self) -> None:
        if not self.alive or not self.paused:
            return
        self.paused = False
        parked, self.parked = self.parked, []
        self.world.rng.shuffle(parked)
        for action in self.on_resume:
            action()
        for task, turn, value in parked:
            self.world.after(self.world.rng.random() * 0.02, lambda t=task, n=turn, v=value: self.world.step(t, n, v))


class Task:
    """One thread. `turn` counts its waits, so that a wake-up for an earlier wait is ignored."""

    __slots__ = ("done", "let", "name", "process", "turn", "waiters")

    def __init__(self, process: Process, run: Callable[[], None], name: str) -> None:
        self.process, self.name, self.turn, self.done = process, name, 0, False
        self.waiters: list[Callable[[], None]] = []

        def body() -> None:
            try:
                run()
            except greenlet.GreenletExit:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, the thread is dead and the judge hears of it
                process.world.crashed(self, error)
            finally:
                self.done = True
                for waiter in self.waiters:
                    waiter()

        self.let = greenlet.greenlet(body, process.world.hub)


class World:
    """The clock, the queue of events, and whose turn it is."""

    def __init__(self, seed: int) -> None:
        self.seed, self.now = seed, 0.0
        self.rng = random.Random(seed)
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self._n = itertools.count()
        self._ids = itertools.count(1)
        self.task: Task | None = None
        self.process: Process | None = None
        self.graveyard: list[Process] = []
        self.crashes: list[str] = []
        self.events = 0
        self.hub = greenlet.getcurrent()
        self.yields = True  # let other threads in at lock acquisitions, now and then

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────
    def at(self, when: float, run: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (when, next(self._n), run))

    def after(self, delay_s: float, run: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + delay_s, next(self._n), run))

    def run_until(self, end: float) -> None:
        heap, pop = self.heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, run = pop(heap)
            self.events += 1
            run()
        self.now = end

    def acting(self, process: Process, run: Callable[[], Any]) -> Any:
        """Run a piece of a process' code that never waits, from the outside."""
        before, self.process = self.process, process
        try:
            return run()
        finally:
            self.process = before

    def crashed(self, task: Task, error: BaseException) -> None:
        import traceback

        text = "".join(traceback.format_exception(error))
        self.crashes.append(f"{task.process.name}/{task.name}: {text}")

    # ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────
    def block(self, timeout_s: float | None) -> Any:
        """The running thread waits; returns what it was woken with, None on timeout."""
        task = self.task
        assert task is not None, "only a thread may wait"
        turn = task.turn
        if timeout_s is not None:
            heapq.heappush(
                self.heap, (self.now + max(0.0, timeout_s), next(self._n), lambda: self.step(task, turn, None))
            )
        return self.hub.switch()

    def wake(self, task: Task, turn: int, value: Any) -> None:
        heapq.heappush(self.heap, (self.now, next(self._n), lambda: self.step(task, turn, value)))

    def step(self, task: Task, turn: int, value: Any) -> None:
        process = task.process
        if task.turn != turn or not process.alive or task.done:
            return
        if process.paused:
            process.parked.append((task, turn, value))
            return
        task.turn += 1
        self.task, self.process = task, process
        task.let.switch(value) if turn else task.let.switch()
        self.task = self.process = None

    def sleep(self, seconds: float) -> None:
        self.block(seconds)

    def hex(self) -> str:
        return f"{next(self._ids):04x}{self.rng.getrandbits(112):028x}"

    def close(self) -> None:
        """Forget every thread."""
        self.heap.clear()
        for process in self.graveyard:
            process.tasks.clear()
        self.graveyard.clear()


# ── what stands for the modules ──────────────────────────────────────────────────────────────────────────────────
class Event:
    def __init__(self, world: World) -> None:
        self._world, self._set = world, False
        self._waiters: list[tuple[Task, int]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, []
        for task, turn in waiters:
            self._world.wake(task, turn, True)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set and (timeout is None or timeout > 0):
            task = self._world.task
            assert task is not None
            self._waiters.append((task, task.turn))
            self._world.block(timeout)
        return self._set


class Lock:
    def __init__(self, world: World) -> None:
        self._world, self._held = world, False
        self._waiters: deque[tuple[Task, int]] = deque()

    def acquire(self) -> bool:
        world = self._world
        if world.task is not None and world.yields and world.rng.random() < 0.05:
            world.block(world.rng.random() * 0.005)
        while self._held:
            task = world.task
            assert task is not None, "a lock is held, and nobody waits outside threads"
            self._waiters.append((task, task.turn))
            world.block(None)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        if self._waiters:
            task, turn = self._waiters.popleft()
            self._world.wake(task, turn, True)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    def __init__(self, world: World) -> None:
        self._world, self._lock = world, Lock(world)
        self._waiters: list[tuple[Task, int]] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        task = self._world.task
        assert task is not None
        self._waiters.append((task, task.turn))
        self._lock.release()
        woken = self._world.block(timeout)
        self._lock.acquire()
        return bool(woken)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        end = None if timeout is None else self._world.now + timeout
        while not predicate():
            left = None if end is None else end - self._world.now
            if left is not None and left <= 0:
                return predicate()
            self.wait(left)
        return True

    def notify(self, n: int = 1) -> None:
        for task, turn in self._waiters:  # spurious wake-ups are allowed
            self._world.wake(task, turn, True)
        self._waiters.clear()

    notify_all = notify


class Thread:
    def __init__(
        self, group: None = None, target: Any = None, name: str = "", args: tuple[Any, ...] = (), daemon: bool = False,
        *, world: World,
    ) -> None:  # fmt: skip
        self._world, self.name = world, name
        self._run = lambda: target(*args)
        assert world.process is not None
        self._process = world.process
        self._task: Task | None = None

    def start(self) -> None:
        self._task = self._process.spawn(self._run, self.name)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done

    def join(self, timeout: float | None = None) -> None:
        me = self._world.task
        if self._task is None or self._task.done:
            return
        assert me is not None
        turn = me.turn
        self._task.waiters.append(lambda: self._world.wake(me, turn, True))
        self._world.block(timeout)


class Queue:
    """queue.Queue and queue.SimpleQueue."""

    def __init__(self, world: World, maxsize: int = 0) -> None:
        self._world, self._max = world, maxsize
        self._items: deque[Any] = deque()
        self._waiters: list[tuple[Task, int]] = []

    def put_nowait(self, item: Any) -> None:
        if self._max and len(self._items) >= self._max:
            raise real_queue.Full
        self._items.append(item)
        waiters, self._waiters = self._waiters, []
        for task, turn in waiters:
            self._world.wake(task, turn, True)

    put = put_nowait

    def get(self, timeout: float | None = None) -> Any:
        while not self._items:
            task = self._world.task
            assert task is not None
            self._waiters.append((task, task.turn))
            if self._world.block(timeout) is None and not self._items:
                raise real_queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise real_queue.Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class VirtualThreading:
    """Stands for the module `threading`."""

    TIMEOUT_MAX = real_threading.TIMEOUT_MAX

    def __init__(self, world: World) -> None:
        self._world = world

    def Event(self) -> Event:  # noqa: N802 - the module's own name
        return Event(self._world)

    def Lock(self) -> Lock:  # noqa: N802
        return Lock(self._world)

    def Condition(self, lock: object = None) -> Condition:  # noqa: N802
        return Condition(self._world)

    def Thread(self, *args: Any, **kwargs: Any) -> Thread:  # noqa: N802
        return Thread(*args, world=self._world, **kwargs)

    def stack_size(self, size: int = 0) -> int:
        return size


class VirtualQueue:
    """Stands for the module `queue`."""

    Full, Empty = real_queue.Full, real_queue.Empty

    def __init__(self, world: World) -> None:
        self._world = world

    def Queue(self, maxsize: int = 0) -> Queue:  # noqa: N802
        return Queue(self._world, maxsize)

    def SimpleQueue(self) -> Queue:  # noqa: N802
        return Queue(self._world)

    def __getattr__(self, name: str) -> Any:  # annotations such as queue.Queue[...] are never evaluated here
        raise AttributeError(name)


class VirtualTime:
    """Stands for the module `time`: each process reads the clocks of its own machine."""

    CLOCK_BOOTTIME = 7
    EPOCH = 1_800_000_000.0

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        return self._world.now + self._here().mono

    def time(self) -> float:
        return self._world.now + self.EPOCH + self._here().wall

    def clock_gettime(self, clock: int) -> float:
        assert clock == self.CLOCK_BOOTTIME
        return self._world.now + self._here().boot

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)

    def _here(self) -> Process:
        process = self._world.process
        assert process is not None
        return process


class _Id:
    def __init__(self, text: str) -> None:
        self.hex = text


class VirtualUuid:
    """Stands for the module `uuid`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def uuid4(self) -> _Id:
        return _Id(self._world.hex())
