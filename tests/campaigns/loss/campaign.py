"""One campaign: services, simulator and a supervised fleet as in the demo, load, faults, healing, and the judgement.

In: options. Out: a report. Everything runs in the calling thread but the outages of services.
"""

from __future__ import annotations

import time
import urllib.request
from contextlib import ExitStack
from typing import Any

import msgspec

from fleet.core.errors import FleetError, StoreUnavailable
from fleet.core.names import Keys
from fleet.demo.display import Picture
from fleet.demo.options import Options
from fleet.demo.place import METRICS_OFFSET_OF_WORKERS, Place
from fleet.demo.run import Demo, Interrupts
from fleet.demo.supervised import Supervised
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.settings import Settings
from tests.campaigns.loss.faults import Faults, schedule
from tests.campaigns.loss.judge import Books, Verdict, add_position, compare, number, of_ledger
from tests.campaigns.loss.report import Gaps, Report, silences

TICK_S = 0.2
JUDGE_EVERY_S = 3.0
LEDGER_EVERY_S = 20.0
SETTLE_S = 300.0  # gaps close by their weight, and orders that came and went in them are asked for after that, with little of it
AUDITS = 2.5  # dropped events are found within two audit periods

STORED = {
    "fills": "SELECT exchange, market, account_id::text AS account, symbol, trade_id, order_id, price, qty, side, fee FROM fills",
    "orders": "SELECT exchange, market, account_id::text AS account, symbol, order_id, status, filled_qty FROM orders",
    "positions": "SELECT exchange, market, account_id::text AS account, symbol, position_side, qty FROM positions",
    "balances": "SELECT exchange, market, account_id::text AS account, asset, wallet FROM balances",
}
GAPS = "SELECT id, account_id::text AS account, opened_at, closed_at, reason, recovered_events, recoverable FROM stream_gaps"
UNASKED = "SELECT count(*) AS n FROM stream_watermarks WHERE (watermark->>'unasked_ms')::bigint > 0"
INACTIVE = "SELECT count(*) AS n FROM exchange_accounts WHERE NOT is_active"


class Notes:
    """Progress on standard output, a line each (fleet.demo.display.Display)."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def note(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)

    def show(self, picture: Picture) -> None:
        return None

    def close(self) -> None:
        return None


class Campaign:
    """One run. Everything it starts is put on `stack`."""

    def __init__(self, options: Options, every_s: float, stack: ExitStack) -> None:
        assert options.chaos is not None and options.seconds is not None
        self.options, self.every_s, self.stack = options, every_s, stack
        self.seed, self.length_s = options.chaos, options.seconds
        self.screen = Notes()
        self.demo = Demo(options, self.screen, Interrupts(), stack)
        self.rows: list[dict[str, Any]] = []

    def run(self) -> Report:
        self.start()
        return self.judge(self.stream())

    def start(self) -> None:
        """Everything up and every account live. Raises FleetError."""
        place = Place()
        self.stack.callback(place.remove)
        if self.options.logs:
            self.stack.callback(place.keep_logs, self.options.logs)
        self.control, self.services, env = self.demo.surroundings(place)
        self.settings = Settings.from_env(env)
        self.keys = self.demo.accounts(place, self.control, self.settings)
        self.fleet = Supervised(env, place.logs)
        self.stack.callback(self.fleet.kill)
        store = RedisStore(self.settings.redis_url, Keys(self.settings.fleet), timeout_s=2.0)
        self.stack.callback(store.close)
        self.view = FleetView(store, self.settings.dead_after_s)
        self.pg = Postgres(self.settings.postgres_dsn, application="loss-campaign", statement_timeout_s=60.0)
        self.stack.callback(self.pg.close)
        if not self.wait(lambda: self.live() == len(self.keys), 90.0 + len(self.keys)):
            raise FleetError(f"only {self.live()} of {len(self.keys)} accounts are live: {self.fleet.tail()}")
        self.screen.note(f"all {len(self.keys)} accounts are live")

    def stream(self) -> Faults:
        """Load for the whole time, faults for most of it."""
        todo = schedule(self.seed, self.length_s, self.every_s)
        faults = Faults(todo, self.control, self.fleet, self.services, list(self.keys))
        self.stack.callback(faults.end)
        self.control.load(self.options.rate, self.length_s)
        began, read_s = time.monotonic(), LEDGER_EVERY_S
        while (elapsed_s := time.monotonic() - began) < self.length_s:
            for kind in faults.step(elapsed_s):
                self.screen.note(f"fault: {kind}")
            if elapsed_s > read_s:
                self.read_ledger()
                read_s = elapsed_s + LEDGER_EVERY_S
            time.sleep(TICK_S)
        faults.end()
        self.control.load(0.0, 0.0)
        return faults

    def judge(self, faults: Faults) -> Report:
        """Wait until nothing is outstanding, no longer than the last audits may take; then the report."""
        began = time.monotonic()
        self.screen.note("faults and load are off; waiting for what is under way")
        deadline_s = SETTLE_S + AUDITS * self.settings.audit_interval_s
        self.wait(lambda: not self.outstanding(), deadline_s, JUDGE_EVERY_S)
        settle_s = time.monotonic() - began
        self.wait(lambda: not self.leftovers(), 15.0)
        problems = faults.problems + self.outstanding() + self.leftovers()
        verdict = self.verdict()
        gaps = self.pg.fetch(GAPS)
        inactive = int(self.pg.fetch(INACTIVE)[0]["n"])
        problems += [f"{inactive} accounts were deactivated"] if inactive else []
        problems += [
            f"gap {g['id']}: unrecoverable without a reason" for g in gaps if not g["recoverable"] and not g["reason"]
        ]
        problems += [f"stop: {what}" for what in self.fleet.stop()]
        return Report(
            seed=self.seed,
            replay=replay_command(self.options, self.every_s),
            seconds=self.length_s,
            exchanges=list(self.options.venues),
            accounts=len(self.keys),
            workers=self.options.workers,
            faults=dict(sorted(faults.counts.items())),
            verdict=verdict,
            gaps=Gaps.of(gaps),
            silence_s=silences(gaps, faults.begun),
            settle_s=round(settle_s, 1),
            problems=problems,
        )

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────
    def live(self) -> int:
        try:
            return len(self.view.live())
        except StoreUnavailable:
            return 0

    def outstanding(self) -> list[str]:
        """What is not as it should be in the end; empty when all is."""
        try:
            waiting = {
                "accounts not live": len(self.keys) - self.live(),
                "gaps open": sum(1 for gap in self.pg.fetch(GAPS) if gap["closed_at"] is None),
            }
            said = [f"{count} {what}" for what, count in waiting.items() if count]
            if not said and (left := self.verdict().outstanding()):
                unasked = int(self.pg.fetch(UNASKED)[0]["n"])
                said = [left, *([f"{unasked} gaps whose unfilled orders are not asked for yet"] if unasked else [])]
            return said
        except StoreUnavailable as error:
            return [str(error)]

    def verdict(self) -> Verdict:
        self.read_ledger()
        return compare(of_ledger(self.rows, self.keys), self.stored())

    def read_ledger(self) -> None:
        """The rows since the last time: a long campaign's are too many for one reply."""
        self.rows += self.control.ledger(self.rows[-1]["seq"] if self.rows else 0, market=False)

    def stored(self) -> Books:
        books = Books()
        rows = {table: self.pg.fetch(sql) for table, sql in STORED.items()}
        for r in rows["fills"]:
            books.fills[*_owner(r), r["symbol"], r["trade_id"], r["order_id"]] = (
                number(r["price"]), number(r["qty"]), r["side"], number(r["fee"]),
            )  # fmt: skip
        for r in rows["orders"]:
            books.orders[*_owner(r), r["symbol"], r["order_id"]] = (r["status"], number(r["filled_qty"]))
        for r in rows["positions"]:
            add_position(books, (*_owner(r), r["symbol"], r["position_side"]), number(r["qty"]))
        for r in rows["balances"]:
            books.balances[*_owner(r), r["asset"]] = (number(r["wallet"]),)
        return books

    def leftovers(self) -> list[str]:
        """Gauges of the workers that do not say what a calm fleet's should."""
        sums: dict[str, float] = {
            "fleet_open_gaps": 0.0,
            "fleet_buffer_bytes": 0.0,
            "prometheus_userdata_connections": 0.0,
        }
        for number_ in range(self.options.workers):
            port = self.settings.metrics_base_port + METRICS_OFFSET_OF_WORKERS + number_
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
                    text = reply.read().decode()
            except OSError as error:
                return [f"metrics of worker {number_}: {error}"]
            for line in text.splitlines():
                name, _, value = line.rpartition(" ")
                if (name := name.partition("{")[0]) in sums:
                    sums[name] += float(value)
        due = {"prometheus_userdata_connections": float(len(self.keys))}
        return [f"{name} is {value:g}" for name, value in sums.items() if value != due.get(name, 0.0)]

    def wait(self, condition: Any, within_s: float, every_s: float = 0.5) -> bool:
        end = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(every_s)
        return True


def _owner(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['exchange']}:{row['market']}", row["account"]


def replay_command(options: Options, every_s: float) -> str:
    """The command that repeats this run."""
    assert options.seconds is not None
    return (
        f"python -m tests.campaigns.loss --seed {options.chaos} --minutes {options.seconds / 60:g}"
        f" --exchanges {','.join(options.venues)} --accounts {options.accounts} --workers {options.workers}"
        f" --rate {options.rate:g} --every {every_s:g}"
    )


def encode(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2)
