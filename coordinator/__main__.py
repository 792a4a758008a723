"""`python -m coordinator`: the control path's process. Several may run; one leads.

In: settings. Out: exit code 0 stopped as asked, 1 failed, 2 wrong settings (one line on standard error says which).
Threads: the reconciler in the main thread; accounts, notifications, arrivals, durable assignments, moves and notices beside it.
"""

from __future__ import annotations

import sys
import threading
import time

from coordinator.arrivals import Arrivals
from coordinator.assignments import Assignments
from coordinator.desired import Desired
from coordinator.dispatch import Dispatch
from coordinator.events import Moves
from coordinator.lease import Leadership
from coordinator.notices import NoticeSender
from coordinator.notify import Notifications
from coordinator.observed import Observed
from coordinator.reconciler import Reconciler
from fleet import exchanges
from fleet.core.errors import FleetError, SettingsError
from fleet.core.names import ARRIVALS, NOTIFY_CHANNEL, Keys
from fleet.core.observe import Timing
from fleet.runtime import logs
from fleet.runtime.kafka_io import Producer
from fleet.runtime.metrics import Metrics, port_of
from fleet.runtime.postgres import Listener, Postgres
from fleet.runtime.redis_store import Poke, RedisStore
from fleet.runtime.settings import Settings
from fleet.runtime.shutdown import Checklist, die_with_parent, install_stop

SHUTDOWN_S = 8.0  # inside supervisord's 10
NOTICE_TICK_S = 1.0
STATEMENT_S = 3.0


def run(settings: Settings) -> int:
    """Coordinate until SIGTERM."""
    settings.need("postgres_dsn")
    exchanges.check_names("FLEET_CONNECTIONS_PER_IP", settings.connection_limits())
    stop = install_stop()
    die_with_parent()
    logs.configure(settings, "coordinator")
    try:
        return Coordinator(settings).run_until(stop)
    finally:
        logs.close()


class Coordinator:
    """The process's parts, in the order they start."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = logs.get("coordinator")
        self.metrics = Metrics(settings.metrics_namespace)
        self.leading = threading.Event()
        self.wake = threading.Event()
        self.halt = threading.Event()
        venues = exchanges.exchanges()
        timing = Timing(dead_after_s=settings.dead_after_s, witness_lease_s=settings.worker_lease_s)
        store = RedisStore(settings.redis_url, Keys(settings.fleet), settings.redis_timeout_s)
        self.desired = Desired(
            lambda: self._postgres("desired"), venues.keys(), settings.reconcile_interval_s, self.metrics, self.wake.set
        )
        self.notifications = Notifications(
            lambda: Listener(settings.postgres_dsn, NOTIFY_CHANNEL), self.desired.changed
        )
        self.arrivals = Arrivals(
            lambda: Poke(settings.redis_url, Keys(settings.fleet), ARRIVALS, settings.redis_timeout_s), self.wake.set
        )
        self.assignments = Assignments(lambda: self._postgres("assignments"), self.wake.set)
        self.moves = Moves(lambda: Producer(settings.kafka_bootstrap, "coordinator"), self.metrics)
        leadership = Leadership(store, self._postgres("lease"), settings.leader_lease_s)
        observed = Observed(store, timing)
        dispatch = Dispatch(store, leadership, observed, self.assignments, self.moves, self.metrics, _now_ms)
        self.reconciler = Reconciler(
            settings,
            timing,
            store,
            leadership,
            self.desired,
            observed,
            self.assignments,
            dispatch,
            self.moves,
            self.metrics,
            {name: venue.limits.connections_per_ip for name, venue in venues.items()} | settings.connection_limits(),
            self.leading,
            self.wake,
        )
        self.sender = NoticeSender(settings, metrics=self.metrics)  # used by the notices thread alone
        self.notices = threading.Thread(target=self._send_notices, name="notices", daemon=True)

    def run_until(self, stop: threading.Event) -> int:
        close_metrics = self.metrics.serve(port_of(self.settings.metrics_base_port, "coordinator"))
        self.assignments.start()
        self.desired.start()
        self.notifications.start()
        self.arrivals.start()
        self.moves.start()
        self.notices.start()
        self.log.info("coordinator started", action="start")
        waker = threading.Thread(target=self._wake_on, args=(stop,), name="stop", daemon=True)
        waker.start()
        self.reconciler.run(stop, self._sound)
        if not stop.is_set():
            self.log.error("a thread of the coordinator died: starting over", action="stop")
        failed = self._shut_down()
        close_metrics()
        self.log.info("coordinator stopped", action="stop", failed=failed)
        return 1 if failed or not stop.is_set() else 0

    def _shut_down(self) -> list[str]:
        self.halt.set()
        steps = Checklist()
        steps.add("notifications", lambda left_s: self.notifications.stop(min(2.0, left_s)))
        steps.add("arrivals", lambda left_s: self.arrivals.stop(min(2.0, left_s)))
        steps.add("desired", lambda left_s: self.desired.stop(min(2.0, left_s)))
        steps.add("moves", lambda left_s: self.moves.stop(min(2.0, left_s)))
        steps.add("assignments", lambda left_s: self.assignments.stop(min(3.0, left_s)))
        return steps.run(SHUTDOWN_S, self.log)

    def _sound(self) -> bool:
        parts = (self.assignments, self.desired, self.notifications, self.arrivals, self.moves)
        return all(part.alive() for part in parts) and self.notices.is_alive()

    def _wake_on(self, stop: threading.Event) -> None:
        stop.wait()
        self.wake.set()

    def _send_notices(self) -> None:
        """Only the leader sends; rows are locked in Postgres besides, so that two leaders for a moment do no harm."""
        waiting = False
        while not self.halt.wait(NOTICE_TICK_S):
            if self.leading.is_set():
                try:
                    self.sender.run_once()
                    waiting = False
                except FleetError as error:
                    if not waiting:
                        self.log.warning("notices wait", action="notice", error=str(error))
                    waiting = True
        self.sender.close()

    def _postgres(self, role: str) -> Postgres:
        return Postgres(
            self.settings.postgres_dsn, application=f"fleet coordinator {role}", statement_timeout_s=STATEMENT_S
        )


def _now_ms() -> int:
    return int(time.time() * 1000)


def main() -> None:
    try:
        sys.exit(run(Settings.from_env()))
    except SettingsError as error:
        print(f"coordinator: {error}", file=sys.stderr)
        sys.exit(2)
    except FleetError as error:
        print(f"coordinator: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
