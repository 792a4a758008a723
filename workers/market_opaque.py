"""Trades of a venue whose ids only tell them apart: what a gap lost is found by comparing the recent trades with those known.

In: live trades, answers of `workers.market_reader`. Out: as `workers.market_tracks`, whose sibling this is. What a replaced
socket, a restart or a drop lost is found as far back as the venue's recent trades go. Nothing shows a loss inside a living socket:
each minute the recent trades are compared with those told.
"""

from __future__ import annotations

import random
import time
from typing import Any

from fleet.core.events import MarketRecord, Trade
from fleet.core.exchange import TradeHistory, TradeQuery
from workers.market_reader import Answer
from workers.market_tracks import HOLD_S, MAX_HELD, TRADE_GRACE_S, TRIES, Gap, Mark, Name, Notice

KNOWN = 20_000
AUDIT_S = 60.0  # between comparisons while nothing is known to be missing
QUIET_TRIES = 4  # replies for a symbol of which nothing came live since: nothing proves that REST does not lag


class OpaqueTrack:
    """Trades of one symbol."""

    def __init__(self, name: Name, market: str, history: TradeHistory) -> None:
        self.name, self.market, self.history = name, market, history
        self.gap: Gap | None = None
        self.asked = False
        self.notices: list[Notice] = []
        self._known: dict[str, None] = {}
        self._newest: Mark | None = None
        self._before: Mark | None = None  # the last one told before the gap
        self._came: dict[str, int] = {}  # since the gap opened: id -> ms
        self._audit_at_s = 0.0  # 0 = no trade came yet
        self._auditing = False
        self._short_ms = 0  # where a reply began that did not reach back to `_before`
        self._dropped: list[tuple[str, str]] = []  # to be read again once the gap is closed
        self._lowest: Mark | None = None  # the last one told before those, if that is earlier than `_before`

    def accept(self, event: Any, now_s: float) -> list[MarketRecord]:
        if event.trade_id in self._known:
            return []
        self._remember(event)
        self._audit_at_s = self._audit_at_s or now_s + AUDIT_S * (1 + random.random()) / 2  # symbols at different times
        gap = self.gap
        if gap is None:
            return [event]
        if len(self._came) < 10 * MAX_HELD:
            self._came[event.trade_id] = event.ts_event
        if gap.late:
            return [event]
        gap.held.append(event)
        return self._let_go() if len(gap.held) > MAX_HELD else []

    def settle(self, now_s: float) -> list[MarketRecord]:
        gap = self.gap
        return self._let_go() if gap is not None and not gap.late and now_s >= gap.hold_until_s else []

    def question(self, now_s: float) -> TradeQuery | None:
        gap, before = self.gap, self._before
        if gap is None and self._newest is not None and not self.asked and 0 < self._audit_at_s <= now_s:
            self._audit_at_s = now_s + AUDIT_S
            self.asked = self._auditing = True
            return TradeQuery(self.name.symbol, self.market, self._newest.id)
        if gap is None or before is None or self.asked or now_s < gap.ask_at_s:
            return None
        self.asked = True
        return TradeQuery(self.name.symbol, self.market, before.id, "", gap.pages)

    def answer(self, answer: Answer, now_s: float) -> list[MarketRecord]:
        gap, before = self.gap, self._before
        auditing, self.asked, self._auditing = self._auditing, False, False
        if auditing:
            return self._audit(answer) if gap is None else []
        if gap is None or before is None:
            return []
        if answer.failure:
            if answer.final:
                return self._give_up(answer.failure, before, before.at_ms, now_s)
            gap.failed(now_s)
            return []
        rows = [row for row in answer.rows if isinstance(row, Trade)]
        told = [n for n, row in enumerate(rows) if row.trade_id in self._known and row.trade_id not in self._came]
        anchor = next((n for n, row in enumerate(rows) if row.trade_id == before.id), None)
        begin = max(told, default=-1) if told else anchor
        found = rows[begin + 1 :] if begin is not None else [r for r in rows if r.ts_event >= before.at_ms]
        fresh = [row for row in found if row.trade_id not in self._known]
        for row in fresh:
            self._remember(row)
        gap.recovered += len(fresh)
        gap.stash += fresh
        if begin is None and rows and rows[0].ts_event > before.at_ms:
            self._short_ms = self._short_ms or rows[0].ts_event
        lags = self._lags(rows)
        if lags and gap.tries < (TRIES if self._came else QUIET_TRIES):
            gap.again(now_s)
            return self._let_go() if gap.late else []
        if lags and self._came:
            return self._give_up("not in the exchange's history", before, answer.at_ms, now_s)
        if begin is None or self._short_ms:
            first_ms = self._short_ms or (rows[0].ts_event if rows else answer.at_ms)
            return self._give_up("older than the exchange's recent trades", before, first_ms, now_s)
        return self._close(now_s)

    def disconnected(self, now_s: float) -> None:
        """What comes from now on is not known to follow; the venue is asked when there is a socket again."""
        if self.gap is None and self._newest is not None:
            self._before, self._came = self._newest, {}
            self._begin("disconnected", now_s)
        if self.gap is not None:
            self.gap.ask_at_s = self.gap.hold_until_s = float("inf")

    def reconnected(self, now_s: float) -> None:
        self.disconnected(now_s)
        if self.gap is not None:
            self.gap.ask_at_s, self.gap.tries = now_s + TRADE_GRACE_S, 0
            self.gap.hold_until_s = self.gap.ask_at_s + HOLD_S

    def resume(self, mark: Mark, now_s: float) -> None:
        if self._newest is None or self.gap is not None:
            self._newest = self._newest or mark
            self._before, self._lowest = mark, None
        if self.gap is None:
            self._before = mark
            self._begin("restart", now_s)
        self._came = dict.fromkeys(
            self._known, 0
        )  # all of this life: none of it says that the former one told what is before it

    def reopen(self, first: str, last: str, now_s: float) -> None:
        """These were dropped on the way to Kafka: they are unknown again. An open gap is closed first: its question is another
        one, and events wait in it."""
        ids = list(self._known)
        if first in self._known and last in self._known:
            begin, end = ids.index(first), ids.index(last)
            if self.gap is not None:
                self._dropped.append((first, last))
                lowest = self._lowest or self._before
                if lowest is not None and lowest.id in ids[begin:]:
                    self._lowest = Mark(ids[begin - 1] if begin else "", 0)
                return
            for ident in ids[begin : end + 1]:
                del self._known[ident]
            self._came = dict.fromkeys(ids[end + 1 :], 0)
            self._before = Mark(ids[begin - 1] if begin else "", 0)
            self._begin("kafka", now_s)

    def floor(self, now_s: float) -> Mark | None:
        return (self._lowest or self._before) if self.gap is not None else None

    def finish(self) -> list[MarketRecord]:
        return self._let_go() if self.gap is not None else []

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _remember(self, event: Trade) -> None:
        self._known[event.trade_id] = None
        if len(self._known) > KNOWN:
            for ident in list(self._known)[: KNOWN // 4]:
                del self._known[ident]
        if self._newest is None or event.ts_event >= self._newest.at_ms:
            self._newest = Mark(event.trade_id, event.ts_event)

    def _audit(self, answer: Answer) -> list[MarketRecord]:
        """Trades that lie between two known ones and were not told."""
        rows = [row for row in answer.rows if isinstance(row, Trade)]
        known = [n for n, row in enumerate(rows) if row.trade_id in self._known]
        missed = [row for row in rows[known[0] : known[-1]] if row.trade_id not in self._known] if known else []
        for row in missed:
            self._remember(row)
        if missed:
            data = {"events": len(missed), "since_ms": missed[0].ts_event, "until_ms": missed[-1].ts_event}
            self.notices.append(Notice("backfilled", "audit", data))
        return list(missed)

    def _begin(self, reason: str, now_s: float) -> None:
        self.gap = Gap(reason, now_s + TRADE_GRACE_S, HOLD_S)

    def _lags(self, rows: list[Trade]) -> bool:
        """May REST not yet know what the socket told?"""
        return not any(row.trade_id in self._came for row in rows)

    def _let_go(self) -> list[MarketRecord]:
        gap = self.gap
        assert gap is not None
        gap.late = True
        out = sorted([*gap.stash, *gap.held], key=lambda event: event.ts_event)
        for event in out:  # known in the order in which they go out: what is dropped is told by its first and last
            if isinstance(event, Trade) and self._known.pop(event.trade_id, 0) is None:
                self._known[event.trade_id] = None
        gap.stash, gap.held = [], []
        return out

    def _close(self, now_s: float) -> list[MarketRecord]:
        gap = self.gap
        assert gap is not None
        out = self._let_go()
        self.gap, self._came, self._before, self._short_ms = None, {}, None, 0
        if gap.recovered:
            data = {"events": gap.recovered, "since_ms": gap.since_ms, "until_ms": int(time.time() * 1000)}
            self.notices.append(Notice("backfilled", gap.reason, data))
        dropped, self._dropped, self._lowest = self._dropped, [], None
        for first, last in dropped:
            self.reopen(first, last, now_s)
        return out

    def _give_up(self, reason: str, before: Mark, until_ms: int, now_s: float) -> list[MarketRecord]:
        gap = self.gap
        assert gap is not None
        data = {"events": None, "since_ms": before.at_ms, "until_ms": until_ms, "after": gap.reason}
        self.notices.append(Notice("gap", reason, data))
        return self._close(now_s)
