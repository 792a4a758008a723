"""Read-back of one Binance USDⓈ-M account after a gap: a pure dialogue of REST calls and replies (`RecoveryPlan`).

In: the account, its watermark (moved back by the caller's margin), exchange time. Out: what was missed, with the stream's ids.
Driven by workers/readback.py. Sources: exchanges/binance.md sections 5.2, 7.2, 7.3.

Weight is the scarce thing when a crowd of accounts reconnects, so each step is taken only if the one before proved too little:
1. The account (5). If what we know explains its positions and wallets, no fill is missing.
2. Else trades (5) of the symbols whose position is unexplained or that traded since the base; then of the other known ones.
   Bookings (30) name the symbols that traded and that nobody knew. The account again if it does not fit the trades (REST lags).
3. Orders since the watermark, of all symbols (5), where the account was active within the hour or fills were missed; a proof
   asks only in the latter case. The orders of the missed fills that are older (1 each). A read of fills ends here.
4. Open orders (1 a symbol) where some are known as open; where step 3 did not tell all, also where the account hints at some.
   Each order (1) that was known as open and is not any more. A proof looks at three symbols, and at others next time.
5. Conditional orders (1 a symbol), of which the matching engine knows nothing until they trigger.
6. Entry prices (5) if positions changed.
What step 3 did not tell, and conditional orders, are asked for after the gap has closed, by a read of orders: 5, and 5 for each of
the three symbols used last; and those that rest in any symbol ever used (1 each, at most 40). Not found: orders that came and went
unfilled more than three days ago, conditional ones that did in other symbols.
"""

from __future__ import annotations

from decimal import Decimal

from fleet.core.exchange import Recovered, RecoveryPlan
from fleet.core.model import AccountSpec
from fleet.core.recovery import Snapshot, Watermark, forgotten_orders, missed
from fleet.core.replies import decode
from fleet.exchanges.binance_usdm import recover_events, recover_fills, recover_orders, rows, wire
from fleet.exchanges.binance_usdm.findings import Dialogue, Findings
from fleet.exchanges.binance_usdm.limits import LIMITS, WINDOW_MS
from fleet.exchanges.binance_usdm.session import CLOCK, clock_ms

SKEW_MS = 1000  # between the clock of our database and the exchange's
ASKED_SYMBOLS = 5  # symbols last used, asked for orders that came and went where no one call tells those of all


def recover(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Yields calls, is sent OK replies. Raises ConnectionFailed for a reply that is not what the sheet says (try again later)."""
    if mark.scope == "orders":
        return (yield from _came_and_went(account, mark, now_ms))
    first, snapshot = yield from _account(now_ms)
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    found = Findings(account.id, mark, now_ms, max(mark.proven_ms, oldest_ms), first, snapshot)
    since_ms = max(mark.proven_ms, account.created_at_ms - SKEW_MS)  # a first-ever read: since the account is ours
    explained = _untouched(first, since_ms) if mark.base is None else mark.explains(snapshot)
    if not explained:
        if mark.proven_ms < oldest_ms:
            found.lost.append(f"history before {oldest_ms} ms is not kept by the exchange")
        yield from recover_fills.missing_trades(found)
        if mark.base is not None and not found.explains():  # it lagged, moved on meanwhile, or left something out
            at_ms = clock_ms((yield CLOCK))
            found.account, found.snapshot = yield from _account(at_ms)
    if mark.scope == "full" or (mark.scope == "proof" and not explained):
        yield from recover_orders.recent_orders(found)
    yield from recover_orders.orders_of_fills(found)
    if mark.scope != "fills":
        yield from recover_orders.open_orders(found)
        yield from recover_orders.conditional_orders(found)
        yield from recover_fills.trades_of(found, recover_orders.traded_unseen(found) - found.read)
        yield from recover_orders.orders_of_fills(found)
    changes = yield from recover_events.changes(found)
    history = recover_events.history(found)
    closed = (*found.closed, *sorted(found.forgotten))
    snapshot = Snapshot(found.snapshot.at_ms, found.snapshot.positions, found.snapshot.wallets, closed)
    explained = explained or found.explains()
    found.lost += [] if explained else found.unlisted
    untold_ms = 0 if found.lost else recover_fills.untold_ms(found, history, account.created_at_ms, explained=explained)
    canceled, untold = forgotten_orders(mark, found.forgotten, history, account.id, now_ms)
    lost = "; ".join([*found.lost, *untold])
    events = missed(history + changes, set())
    return Recovered(events, snapshot, lost, explained, mark.scope == "full", untold_ms, canceled)


def _came_and_went(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Orders that ended since `proven_ms`, by one call for all symbols; where that does not tell all, of the symbols it named and
    the last used ones. And the fills of those whose fills are not known, with their orders; and conditional orders. Unfilled ones
    are told for three days, so it looks no further back than one call reaches."""
    since_ms = min(max(mark.proven_ms, now_ms - WINDOW_MS), now_ms)
    found = Findings(
        account.id, mark, now_ms, since_ms, wire.AccountRow(assets=[], positions=[]), Snapshot(now_ms, {}, {})
    )
    if not (yield from recover_orders.every_order(found)):
        yield from recover_orders.orders_of(
            found, {symbol for symbol, _ in found.orders} | found.recent_symbols(ASKED_SYMBOLS)
        )
    yield from recover_fills.trades_of(found, recover_orders.traded_unseen(found))
    yield from recover_orders.orders_of_fills(found)
    yield from recover_orders.past_conditional_orders(found)
    yield from recover_orders.resting_conditional_orders(found)
    return Recovered(
        missed(recover_events.history(found), set()), found.snapshot, "; ".join([*found.lost, *found.unlisted])
    )


def _account(at_ms: int) -> Dialogue[tuple[wire.AccountRow, Snapshot]]:
    reply = yield rows.ACCOUNT
    account = decode(reply, wire.AccountRow, "account")
    positions = {rows.key_of(p): p.qty for p in account.positions if Decimal(p.qty)}
    wallets = {a.asset: a.wallet for a in account.assets if Decimal(a.wallet)}
    return account, Snapshot(reply.at_ms or at_ms, positions, wallets)


def _untouched(account: wire.AccountRow, since_ms: int) -> bool:
    """A first-ever read: nothing can have happened since then if nothing is held and no wallet changed since."""
    held = any(Decimal(p.qty) or p.update_ms > since_ms for p in account.positions)
    return not held and all(a.update_ms <= since_ms for a in account.assets)
