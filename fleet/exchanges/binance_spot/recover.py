"""Read-back of one Binance Spot account after a gap: a pure dialogue of REST calls and replies (`RecoveryPlan`).

In: the account, its watermark (moved back by the caller's margin), exchange time. Out: what was missed, with the stream's ids.
Driven by workers/readback.py. Sources: exchanges/binance.md sections 5.3, 7.2, 7.3.

Weight is the scarce thing when a crowd of accounts reconnects, so each step is taken only if the one before proved too little:
1. The account (20). If the fills known since the base explain every wallet (base against quote asset, fees), none is missing.
2. Open orders, only where something is locked or an order was known as open: of the known symbols (6 each). What they lock
   must be what the account says is locked; otherwise there are others, and all symbols are asked for (80). A quiet account
   with nothing locked ends after one call.
3. Trades (20) of the symbols whose assets are unexplained; of symbols that nobody knew but whose two assets are; of those that
   traded since the base; of the other known ones. No call tells the trades of all symbols.
4. The account again where it does not fit the trades (REST lags).
5. The orders of the fills that were missed (4 each, 20 for a symbol), and each order (4) that was known as open and is not any
   more. All orders (20) of the three symbols used last, if that was within ten minutes. Trades of symbols where one of these is
   filled for more than the known fills.
6. Allocations (20) of each symbol with an order that is filled for more than all these trades: smart order routing does that.
A proof that finds every wallet explained looks at the open orders of one symbol (another each minute), and of those whose assets
are locked for other amounts than the orders known as open lock, and at no history. A read of fills leaves 2 out, and of 5 all but
the orders of missed fills.
After the gap has closed a read of orders asks for all orders (20) of the five symbols used last, whenever that was. Not found: an
order placed and cancelled unfilled inside the gap in another symbol.
"""

from __future__ import annotations

import msgspec

from fleet.core.exchange import Recovered, RecoveryPlan
from fleet.core.model import AccountSpec
from fleet.core.recovery import Snapshot, Watermark, forgotten_orders, missed
from fleet.exchanges.binance_spot import recover_events, recover_fills, recover_orders, wire
from fleet.exchanges.binance_spot.findings import Findings
from fleet.exchanges.binance_spot.limits import LIMITS

OLD_COPY_MS = 300_000  # how old the account may have been that a read took for the present one
SKEW_MS = 1000  # between the clock of our database and the exchange's
ASKED_SYMBOLS = 5  # once the gap has closed, any account may have placed and cancelled orders without a trace, in these


def recover(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Yields calls, is sent OK replies. Raises ConnectionFailed for a reply that is not what the sheet says (try again later)."""
    if mark.scope == "orders":
        return (yield from _came_and_went(account, mark, now_ms))
    first, snapshot = yield from recover_fills.read_account(now_ms)
    if mark.wallets and not snapshot.wallets:  # all of it gone, or an answer that leaves it out: not believed at once
        first, snapshot = yield from recover_fills.read_account(now_ms)
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    found = Findings(account.id, mark, now_ms, max(mark.proven_ms, oldest_ms), first, snapshot)
    since_ms = max(mark.proven_ms, account.created_at_ms - SKEW_MS)  # a first-ever read: since the account is ours
    complete = 0 < first.update_ms <= since_ms if mark.base is None else found.explains()
    found.frugal = complete and mark.scope == "proof"
    if mark.scope != "fills":
        yield from recover_orders.open_orders(found)
    if not complete:
        if mark.base is not None and mark.base.shown_ms:  # it may be an old copy, of a time that hid fills too
            hidden_ms = max(mark.base.shown_ms + 1, mark.base.at_ms - OLD_COPY_MS)
            found.since_ms = max(min(found.since_ms, hidden_ms), oldest_ms)
        if mark.proven_ms < oldest_ms:
            found.lost.append(f"history before {oldest_ms} ms is not read")
        yield from recover_fills.missing_trades(found)
        yield from recover_orders.orders_of_fills(found)
    if mark.scope != "fills":
        if not found.frugal:
            yield from recover_orders.orders_of(found, recover_orders.in_use(found))
        yield from recover_orders.ended_orders(found)
        yield from recover_fills.trades_of(found, recover_orders.traded_unseen(found) - found.read)
    yield from recover_fills.allocations(found)
    history = recover_events.history(found)
    complete = complete or found.explains()
    found.lost += [] if complete else found.unlisted
    untold_ms = 0 if found.lost else recover_fills.untold_ms(found, history, account.created_at_ms, explained=complete)
    events = missed(history + recover_events.changes(found), set())
    snapshot = msgspec.structs.replace(found.snapshot, closed_orders=tuple(found.closed))
    unasked = mark.scope == "full" and bool(
        recover_orders.used_last(mark, ASKED_SYMBOLS) - recover_orders.in_use(found)
    )
    canceled, untold = forgotten_orders(mark, found.forgotten, history, account.id, now_ms)
    lost = "; ".join([*found.lost, *untold])
    return Recovered(events, snapshot, lost, complete, unasked, untold_ms, canceled)


def _came_and_went(account: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """Orders that ended since `proven_ms` in the symbols used last, and the fills of those whose fills are not known."""
    oldest_ms = now_ms - int(LIMITS.history_s * 1000)
    since_ms = min(max(mark.proven_ms, oldest_ms), now_ms)
    found = Findings(account.id, mark, now_ms, since_ms, wire.AccountRow([]), Snapshot(now_ms, {}, {}))
    yield from recover_orders.orders_of(found, recover_orders.used_last(mark, ASKED_SYMBOLS))
    yield from recover_fills.trades_of(found, recover_orders.traded_unseen(found))
    # Those of other orders were told: again they would come without the client order id.
    found.trades = {key: t for key, t in found.trades.items() if (t.symbol, str(t.order_id)) in found.orders}
    yield from recover_fills.allocations(found)
    return Recovered(
        missed(recover_events.history(found), set()), found.snapshot, "; ".join([*found.lost, *found.unlisted])
    )
