"""The demo on one screen: services, simulator, schema, accounts, supervisord, load, chaos, settling, a clean stop, the comparison.

In: options. Out: what a person sees, the report file, the exit code. Run by `fleet demo`, everything in one thread. Ctrl-C
while accounts stream ends the time and goes on to the report; before that, or a second time, it stops everything at once.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import FrameType

from fleet.core.errors import FleetError
from fleet.core.model import Credentials
from fleet.core.names import Keys
from fleet.demo.chaos import Chaos, schedule
from fleet.demo.compare import Comparison
from fleet.demo.display import Display, display
from fleet.demo.options import Options
from fleet.demo.place import REPOSITORY, Place
from fleet.demo.replay import capture_rows, capture_settings
from fleet.demo.report import Report
from fleet.demo.simulated import Control, Simulated
from fleet.demo.supervised import Supervised
from fleet.demo.watch import Watch
from fleet.exchanges import exchanges
from fleet.runtime.account_rows import AccountRows, NewAccount
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.secrets import Keyring, new_ed25519
from fleet.runtime.settings import Settings
from fleet.services import Services

COMMAND_S = 120.0
LIVE_S = 60.0
LIVE_PER_ACCOUNT_S = 1.0  # dialling is paced by the exchange's limits
SETTLE_S = 90.0
KEY_PAIR_EACH = 5  # of a venue that takes them, one account in so many has an Ed25519 key
AUDIT_S, AUDIT_PER_ACCOUNT_S = 20.0, 0.4  # an audit costs about 7 of the 20 weight a second
TICK_S = 0.25
INTERRUPTED = 130


class Interrupts:
    """SIGINT and SIGTERM: the first one ends the streaming time if accounts stream, otherwise the demo; later ones the demo.

    `ending` is set when the streaming time is over. While `deferred`, a signal only sets it: cleaning up is not interrupted.
    """

    def __init__(self) -> None:
        self.ending = threading.Event()
        self.streaming = False
        self.deferred = False

    def install(self) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._received)

    def _received(self, _signum: int, _frame: FrameType | None) -> None:
        if self.deferred or (self.streaming and not self.ending.is_set()):
            self.ending.set()
            return
        self.deferred = True
        raise KeyboardInterrupt


def run(options: Options) -> int:
    """Run the demo; returns the exit code."""
    interrupts = Interrupts()
    interrupts.install()
    screen = display()
    try:
        with ExitStack() as stack:
            try:
                report = Demo(options, screen, interrupts, stack).run()
            finally:
                interrupts.deferred = True  # the stack unwinds undisturbed
    except KeyboardInterrupt:
        screen.close()
        print("stopped; everything is gone")
        return INTERRUPTED
    except FleetError as error:
        screen.close()
        print(f"fleet demo: {' '.join(str(error).split())}")
        return 1
    screen.close()
    return conclude(report, options)


def conclude(report: Report, options: Options) -> int:
    """Write the report and say in a few lines how it went."""
    if options.report:
        report.write(options.report)
    fills = report.fills
    print(
        f"fills: {fills.ledger} at the exchange, {fills.kafka_unique} in Kafka, {fills.postgres} in Postgres, "
        f"{fills.missing} missing"
    )
    for topic, row in report.market.items():
        print(f"{topic}: {row.sent} sent, {row.kafka} in Kafka, {row.clickhouse} in ClickHouse, {row.missing} missing")
    latency = report.latency_ms.event_to_kafka
    print(f"event to Kafka: p50 {latency.p50:.0f} ms, p99 {latency.p99:.0f} ms, max {latency.max:.0f} ms")
    print(
        f"gaps: {report.gaps.opened} opened, {report.gaps.closed} closed; accounts streamed twice: {report.double_streamed}"
    )
    print(f"clean shutdown: {'yes' if report.clean_shutdown else 'NO'}")
    for problem in report.problems:
        print(f"! {problem}")
    return report.exit_code


def fleet_command(command: str, env: dict[str, str]) -> None:
    """`fleet COMMAND` as an operator would run it. A process of its own: the embedded ClickHouse engine must let go again."""
    argv = [sys.executable, "-m", "fleet.cli", command]
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    except subprocess.TimeoutExpired as error:
        raise FleetError(f"fleet {command}: no end within {COMMAND_S:g} s") from error
    if done.returncode:
        raise FleetError(f"fleet {command}: {done.stderr.strip()}")


class Demo:
    """One run. Everything it starts is put on `stack`, which undoes it in reverse order whatever happens."""

    def __init__(self, options: Options, screen: Display, interrupts: Interrupts, stack: ExitStack) -> None:
        self.options = options
        self.screen = screen
        self.interrupts = interrupts
        self.stack = stack

    def run(self) -> Report:
        place = Place()
        self.stack.callback(place.remove)
        if self.options.logs:
            self.stack.callback(place.keep_logs, self.options.logs)
        control, services, env = self.surroundings(place)
        settings = Settings.from_env(env)
        keys = self.accounts(place, control, settings)
        fleet = Supervised(env, place.logs)
        self.stack.callback(fleet.kill)
        watch = self.watch(settings, control, fleet, keys)
        self.until_live(watch, fleet)
        length_s = self.stream(watch, control, fleet)
        self.settle(watch)
        return self.stop_and_compare(watch, fleet, settings, services.kafka.kind, length_s)

    def surroundings(self, place: Place) -> tuple[Control, Services, dict[str, str]]:
        """Simulator and services up, schema and topics made; the environment of the fleet."""
        options = self.options
        self.screen.note(f"directory {place.root}")
        simulator = Simulated(place.root, REPOSITORY, options.venues, seed=options.chaos or 1, replay=options.replay)
        self.stack.callback(simulator.stop)
        services = self.stack.enter_context(Services.start(place.services, progress=self.screen.note))
        control = simulator.ready()
        self.stack.callback(control.close)
        market = capture_settings(options.replay) if options.replay else example_settings(options.venues)
        env = place.env(options.workers, services.env, simulator.endpoints, market, self.patience())
        fleet_command("migrate", env)
        self.screen.note(f"services are up (broker: {services.kafka.kind}); simulated: {', '.join(options.venues)}")
        return control, services, env

    def patience(self) -> dict[str, str]:
        """Under chaos sockets go deaf while their pongs come, which only an audit finds: audit as often as the weight allows."""
        return {} if self.options.chaos is None else {"FLEET_AUDIT_INTERVAL_S": f"{self.audit_s():g}"}

    def audit_s(self) -> float:
        return AUDIT_S + AUDIT_PER_ACCOUNT_S * self.options.accounts

    def accounts(self, place: Place, control: Control, settings: Settings) -> dict[str, str]:
        """A keyring, and the accounts at the simulator and in Postgres; API key → account id."""
        pg = Postgres(settings.postgres_dsn, application="fleet-demo")
        self.stack.callback(pg.close)
        ring = Keyring.create(place.keyring)
        rows = AccountRows(pg)
        keys: dict[str, str] = {}
        known = exchanges()
        for number in range(self.options.accounts):
            venue = known[self.options.venues[number % len(self.options.venues)]]
            turn = number // len(self.options.venues)
            paired = "ed25519" in venue.key_kinds and turn % KEY_PAIR_EACH == 0
            credentials = Credentials(
                api_key=secrets.token_hex(32),
                secret=new_ed25519() if paired else secrets.token_hex(32),
                passphrase=secrets.token_hex(8) if venue.needs_passphrase else None,
            )
            control.add_account(venue.exchange, venue.market, credentials)
            account = NewAccount(f"user-{number:05d}", venue.exchange, venue.market, "demo")
            keys[credentials.api_key] = rows.add(account, credentials, ring)
        self.screen.note(f"{len(keys)} accounts at the exchange and in Postgres")
        return keys

    def watch(self, settings: Settings, control: Control, fleet: Supervised, keys: dict[str, str]) -> Watch:
        store = RedisStore(settings.redis_url, Keys(settings.fleet), timeout_s=2.0)
        self.stack.callback(store.close)
        pg = Postgres(settings.postgres_dsn, application="fleet-demo-watch")
        self.stack.callback(pg.close)
        watch = Watch(settings, control, fleet, store, pg, keys)
        watch.replay = capture_rows(self.options.replay)
        self.stack.callback(watch.close)
        return watch

    def until_live(self, watch: Watch, fleet: Supervised) -> None:
        """Wait for every account. Raises FleetError if supervisord ends, or after the deadline."""
        began = time.monotonic()
        deadline = began + LIVE_S + LIVE_PER_ACCOUNT_S * self.options.accounts
        while watch.live < self.options.accounts:
            if not fleet.running():
                raise FleetError(f"supervisord ended: {fleet.tail()}")
            if time.monotonic() > deadline:
                raise FleetError(
                    f"only {watch.live} of {self.options.accounts} accounts are live after {time.monotonic() - began:.0f} s"
                )
            watch.step()
            self.screen.show(watch.picture(0.0, self.options.seconds))
            time.sleep(TICK_S)
        self.screen.note(f"all {self.options.accounts} accounts are live after {time.monotonic() - began:.1f} s")

    def stream(self, watch: Watch, control: Control, fleet: Supervised) -> float:
        """Load, and chaos if asked for, until the time is over; how long it was, in seconds."""
        options, ending = self.options, self.interrupts.ending
        chaos = Chaos(
            schedule(options.chaos, options.seconds) if options.chaos is not None and options.seconds else [], watch
        )
        if options.rate > 0:
            control.load(options.rate, options.seconds or 86_400.0)
        began = time.monotonic()
        self.interrupts.streaming = True
        while not ending.wait(TICK_S):
            elapsed_s = time.monotonic() - began
            if options.seconds is not None and elapsed_s >= options.seconds:
                break
            for kind in chaos.step(elapsed_s):
                self.screen.note(f"fault: {kind}")
            watch.step()
            self.screen.show(watch.picture(elapsed_s, options.seconds))
        self.interrupts.streaming = False
        ending.clear()
        chaos.end()
        control.load(0.0, 0.0)
        watch.faults = dict(chaos.counts)
        return time.monotonic() - began

    def settle(self, watch: Watch) -> None:
        """Wait until nothing is outstanding: fills in Kafka and Postgres, gaps closed, sinks without lag."""
        self.screen.note("load is off; waiting for what is under way")
        deadline_s = SETTLE_S if self.options.chaos is None else SETTLE_S + 1.5 * self.audit_s()
        if not self.wait(lambda: not watch.outstanding(), watch, deadline_s):
            self.screen.note(f"still outstanding after {deadline_s:.0f} s: {', '.join(watch.outstanding())}")

    def wait(self, condition: Callable[[], bool], watch: Watch, deadline_s: float) -> bool:
        end = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end:
                return False
            watch.step()
            self.screen.show(watch.picture(0.0, 0.0))
            time.sleep(TICK_S)
        return True

    def stop_and_compare(
        self, watch: Watch, fleet: Supervised, settings: Settings, broker: str, length_s: float
    ) -> Report:
        """SIGTERM to supervisord, then ledger against Kafka against Postgres and ClickHouse."""
        options = self.options
        watch.before_stop()
        processes = fleet.usage()
        self.screen.note(f"stopping {len(processes)} processes in order")
        began = time.monotonic()
        problems = fleet.stop()
        self.screen.note(f"stopped in {time.monotonic() - began:.1f} s")
        watch.drain()
        report = Report(
            seconds=round(length_s, 3),
            accounts=options.accounts,
            workers=options.workers,
            exchanges=list(options.venues),
            broker=broker,
            faults=watch.faults,
            replay=watch.replay,
            processes=processes,
            clean_shutdown=not problems,
            problems=problems,
        )
        Comparison(watch, settings).fill(report)
        return report


def example_settings(venues: Iterable[str]) -> dict[str, str]:
    """FLEET_MARKET_SYMBOLS: the well-known symbols of each venue."""
    known = exchanges()
    symbols = [f"{name}:{symbol}" for name in venues for symbol in known[name].market_data.examples]
    return {"FLEET_MARKET_SYMBOLS": ",".join(symbols)}
