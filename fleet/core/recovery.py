"""How far an account is proven complete, and what a snapshot of it proves. Pure; carried by workers/stream.py.

A *watermark* says: everything before `proven_ms` has reached Kafka. It is advanced only by events whose Kafka record was
acknowledged, and it survives the worker (table stream_watermarks): whoever owns the account next starts from it, so a
crash, a Kafka outage or a move is only a longer gap.

The *proof* is bookkeeping: position and wallet at the last proof, plus what the fills since then explain, must equal the
snapshot that REST gives now. If they do, no fill is missing and nothing more has to be read (a quiet account costs one
cheap call). If they do not, everything since `proven_ms` is re-read. A wallet can also change for reasons other than fills:
where an event says by how much (`Balance.change`, `TRANSFER`: funding, transfers) that is booked too; where nothing says so, the
read-back is only fuller than needed, never emptier. Where a fill moves no position but two wallets (spot: the base asset
against the quote asset), the venue tells `explains` by `legs` which two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from decimal import Decimal
from typing import Literal

import msgspec

from fleet.core.events import AccountEvent, Balance, Fill, Order, Position, Side, UserRecord

TERMINAL = frozenset({"filled", "canceled", "rejected", "expired"})
FEES_APART = {
    "binance": "BNB"
}  # what an exchange takes fees in where the account wishes so; the profit is in another asset then
TRANSFER = "balanceUpdate"  # Binance Spot tells what was put in or taken out beside the balance that it led to
AMOUNT = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
MAX_OPEN_ORDERS = 5000
MAX_RECENT = 200
NEAR_MS = 10_000  # of a snapshot: it may have been taken before a fill of that time, or after
STAMP_MS = 100  # a fill and the change of position that it made are stamped alike, but for so much
SETTLED_MS = 90_000  # REST is not so old that it would not tell of a change that long ago; ...
TIE_MS = 250  # ... and what it tells of a millisecond is all of it so soon, but for its clock
KEPT = 50  # of them outlive a proof: fills of orders that a full read will list again
Legs = Callable[[str], tuple[str, str] | None]
"""Key of a position ("SYMBOL|side") -> (base, quote) where its fills are settled in kind, None where they make a position."""


Scope = Literal["full", "proof", "fills", "orders"]
"""How much a read-back asks for. `full`: everything that may have been missed. `fills`: whether fills are, and these; a full read
follows. `proof`: whether anything is, as cheaply as the venue allows, by an account's snapshot and orders known as open; what that
leaves unexplained is read in full (most audits). `orders`: orders that came and went without a trace in a snapshot, where a full
read left them unasked (`Recovered.unasked`); it proves nothing, and its snapshot says nothing."""


def position_key(symbol: str, side: str, mode_key: str = "") -> str:
    """Of a position: "SYMBOL|side", and "SYMBOL|side|mode" where the margin mode tells positions apart (`Position.mode_key`)."""
    return f"{symbol}|{side}|{mode_key}" if mode_key else f"{symbol}|{side}"


def order_key(symbol: str, order_id: str) -> str:
    """Of an order: "SYMBOL|order id". Binance counts the orders of each symbol apart, so an id alone may name two."""
    return f"{symbol}|{order_id}"


def symbol_of(key: str) -> str:
    """The symbol of a position's or an order's key."""
    return key.partition("|")[0]


def side_of(key: str) -> str:
    """The "SYMBOL|side" of a position's key: that much fills tell, which name no margin mode."""
    return "|".join(key.split("|")[:2])


class Snapshot(msgspec.Struct, frozen=True):
    """What the exchange says an account holds: `positions` as `position_key` names them -> signed qty (flat ones absent), `wallets`
    asset -> wallet balance (zero ones absent), both plain decimal strings; `at_ms` exchange time just before it was asked for,
    `until_ms` that of its last call, where known; `shown_ms` that of the latest change that it shows, where
    the venue says so: the copy that was asked may be old."""

    at_ms: int
    positions: dict[str, str]
    wallets: dict[str, str]
    closed_orders: tuple[str, ...] = ()  # keys of orders once known as open that ended, or that the exchange forgot
    until_ms: int = 0
    shown_ms: int = 0


class Booking(msgspec.Struct, frozen=True, array_like=True):
    """What one event since the base changed: `key` of a position ("" for funding or a transfer) by `qty`, `asset` by `amount`.
    `cost`: signed price × quantity of a fill, what a buyer settled in kind gave; `trade`: which fill ("trade id/order id"), for
    a venue that reads only what it does not know; `settled` by `profit`: realised profit in another asset than the fee's."""

    ts: int
    key: str
    qty: str
    asset: str
    amount: str
    cost: str = "0"
    trade: str = ""
    settled: str = ""
    profit: str = "0"

    def undone(self) -> Booking:
        """What takes it back."""
        names = ("qty", "amount", "cost", "profit")
        return msgspec.structs.replace(self, **{name: str(-Decimal(getattr(self, name))) for name in names})


class Resting(msgspec.Struct, frozen=True, array_like=True):
    """What an open order's last event told, but for its id, symbol and status. Kept because an exchange forgets orders that ended
    unfilled: what it does not tell any more is then said in these terms."""

    exchange: str
    market: str
    client_order_id: str
    side: Side
    position_side: str
    order_type: str
    time_in_force: str
    price: str
    stop_price: str
    qty: str
    filled_qty: str
    avg_price: str
    reduce_only: bool


_RESTING = Resting.__struct_fields__


class Watermark(msgspec.Struct):
    """State of proof of one account. Mutable; owned by its stream's publishing side. Stored as JSON in stream_watermarks."""

    proven_ms: int
    base: Snapshot | None = None  # None: never proven, the first read-back re-reads everything since proven_ms
    moved: dict[str, str] = {}  # "SYMBOL|side" -> signed qty of the fills since base
    earned: dict[str, str] = {}  # asset -> realized pnl minus fees of the fills since base
    booked: dict[
        str, str
    ] = {}  # asset -> what the balance events since base say came from elsewhere (funding, transfers)
    paid: dict[str, str] = {}  # "SYMBOL|side" -> signed price × quantity of the fills since base
    recent: list[Booking] = []  # the last of those that made up the four above, and a few from before the base
    symbols: dict[str, int] = {}  # symbol -> ts_event of its last order or fill (symbols of interest)
    positions: dict[str, str] = {}  # `position_key` -> last known signed qty, flat ones absent
    wallets: dict[str, str] = {}  # asset -> last known wallet balance, zero ones absent
    available: dict[str, str] = {}  # asset -> what was told last of it as available, zero and untold ones absent
    # `position_key` or asset -> rank of what was told: whoever stores it takes the latest, and of one instant the socket's word.
    ranks: dict[str, int] = {}
    orders: dict[str, Resting] = {}  # `order_key` -> what was told last of an order that is not known to have ended
    last_event_ms: int = 0
    alive_ms: int = 0  # our clock: the stream was last known to be alive and without a gap
    unasked_ms: int = (
        0  # since when orders that came and went were not asked for in a gap, margin included; 0 = nothing unasked
    )
    scope: Scope = "full"  # of a copy that a plan reads back from
    behind: bool = False  # of such a copy: Kafka may have been told more than this, by the life before
    told: dict[str, None] = {}  # of such a copy: ids of the events that this process has told, as far as it remembers

    def advance(self, event: UserRecord) -> None:
        """Take in one event whose record Kafka acknowledged. Call once per event id."""
        self.last_event_ms = max(self.last_event_ms, event.ts_event)
        if isinstance(event, Fill):
            self._fill(event)
        elif isinstance(event, Order):
            self.symbols[event.symbol] = max(self.symbols.get(event.symbol, 0), event.ts_event)
            key = order_key(event.symbol, event.order_id)
            if event.status in TERMINAL:
                self.orders.pop(key, None)
            elif key in self.orders or len(self.orders) < MAX_OPEN_ORDERS:
                self.orders[key] = Resting(*(getattr(event, name) for name in _RESTING))
        elif isinstance(event, Position):
            key = position_key(event.symbol, event.position_side, event.mode_key)
            if self._is_outranked(key, event):
                return
            if Decimal(event.qty or "0") == 0:
                self.positions.pop(key, None)
            else:
                self.positions[key] = event.qty
        elif isinstance(event, Balance):
            self._balance(event)
        elif isinstance(event, AccountEvent) and event.event == TRANSFER:
            self._transfer(event)

    def is_open(self, symbol: str, order_id: str) -> bool:
        """Is it an order that is not known to have ended?"""
        return order_key(symbol, order_id) in self.orders

    def open_orders(self) -> list[tuple[str, str]]:
        """(symbol, order id) of those."""
        return [(symbol, order_id) for symbol, _, order_id in (key.partition("|") for key in self.orders)]

    def _is_outranked(self, key: str, event: Position | Balance) -> bool:
        """Does who stores it keep what he has?"""
        rank = _rank(event)
        if rank < self.ranks.get(key, 0):
            return True
        self.ranks[key] = rank
        return False

    def outranking(self, event: UserRecord) -> UserRecord:
        """`event`, and where REST tells a position or wallet that is not the one stored, which was told as later and long ago: the
        same as later still. Whatever made the other one wrong (an old copy of REST, a clock that ran ahead, the last change of a
        millisecond that the socket lost), it would stay until the next trade."""
        if not isinstance(event, Position | Balance) or event.source != "rest":
            return event
        if isinstance(event, Position):
            key = position_key(event.symbol, event.position_side, event.mode_key)
            same = Decimal(event.qty or "0") == Decimal(self.positions.get(key, "0"))
        else:
            key = event.asset
            same = Decimal(event.wallet or "0") == Decimal(self.wallets.get(key, "0")) and (
                event.available is None or Decimal(event.available or "0") == Decimal(self.available.get(key, "0"))
            )
        stored_ms = self.ranks.get(key, 0) // 2
        settled_ms = TIE_MS if event.ts_event == stored_ms else SETTLED_MS
        if same or _rank(event) > self.ranks.get(key, 0) or event.ts_recv - stored_ms < settled_ms:
            return event
        return msgspec.structs.replace(event, ts_event=stored_ms + 1, id=f"{event.id}:{stored_ms + 1}")

    def _as_told(self, told: dict[str, str], now: dict[str, str]) -> dict[str, str]:
        return {k: v for k, v in now.items() if k not in self.ranks} | {
            k: v for k, v in told.items() if k in self.ranks
        }

    def _balance(self, balance: Balance) -> None:
        if not self._is_outranked(balance.asset, balance):
            self._hold(balance)
        if balance.change and Decimal(balance.change):
            self.book(Booking(balance.ts_event, "", "0", balance.asset, balance.change))

    def _hold(self, balance: Balance) -> None:
        if Decimal(balance.wallet or "0") == 0:
            self.wallets.pop(balance.asset, None)
        else:
            self.wallets[balance.asset] = balance.wallet
        available = balance.available or "0"
        if Decimal(available) == 0:
            self.available.pop(balance.asset, None)
        else:
            self.available[balance.asset] = available

    def _transfer(self, event: AccountEvent) -> None:
        asset, amount = event.data.get("a"), event.data.get("d")
        if isinstance(asset, str) and isinstance(amount, str) and AMOUNT.fullmatch(amount):
            self.book(Booking(event.ts_event, "", "0", asset, amount))

    def _fill(self, fill: Fill) -> None:
        self.symbols[fill.symbol] = max(self.symbols.get(fill.symbol, 0), fill.ts_event)
        signed = fill.qty if fill.side == "buy" else str(-Decimal(fill.qty))
        profit, fee = Decimal(fill.realized_pnl or "0"), Decimal(fill.fee or "0")
        cost = Decimal(signed) * Decimal(fill.price or "0")
        key, trade = _names(fill)
        settled, apart = self._settled_in(fill) if profit else "", Decimal(0)
        if settled:
            profit, apart = apart, profit
        amount = str(profit - fee)
        self.book(Booking(fill.ts_event, key, signed, fill.fee_asset, amount, str(cost), trade, settled, str(apart)))

    def _settled_in(self, fill: Fill) -> str:
        """The asset in which its profit is realised where the fee was taken in another one: the known one that the symbol ends
        with. "" = that of the fee."""
        name = fill.symbol.partition("_")[0]
        if fill.fee_asset != FEES_APART.get(fill.exchange) or name.endswith(fill.fee_asset):
            return ""
        known = self.wallets.keys() | (self.base.wallets.keys() if self.base else set())
        return max((asset for asset in known if name.endswith(asset)), key=len, default="")

    def book(self, booking: Booking) -> None:
        """Add what one event changed; what the base has is only remembered."""
        if self.base is None or booking.ts >= self.base.at_ms:
            if booking.key:
                _add(self.moved, booking.key, Decimal(booking.qty))
                _add(self.paid, booking.key, Decimal(booking.cost))
            _add(self.earned if booking.key else self.booked, booking.asset, Decimal(booking.amount))
            _add(self.earned, booking.settled, Decimal(booking.profit))
        self.recent.append(booking)
        if len(self.recent) > 2 * MAX_RECENT:
            del self.recent[:MAX_RECENT]

    def has(self, event: UserRecord) -> bool:
        """Is it a fill that was booked already, as far back as `recent` reaches? A new process reads again by REST what its former
        life had told; booked twice it would explain another fill of the same size away."""
        if not isinstance(event, Fill) or event.source != "rest":
            return False
        key, trade = _names(event)
        return any(booking.trade == trade and booking.key == key for booking in self.recent)

    @property
    def known_fills(self) -> set[tuple[str, str]]:
        """(symbol, "trade id/order id") of those that were told, as far back as `recent` reaches."""
        return {(symbol_of(booking.key), booking.trade) for booking in self.recent if booking.key}

    def moved_again(self, traded: Iterable[str]) -> set[str]:
        """Keys of positions to tell though they are as they were: Kafka may have heard of another one between, from a life that
        died before it saved that here. `traded`: keys of fills since `proven_ms`."""
        return set(traded) if self.behind else set()

    def moved_unheard(self, events: Iterable[UserRecord]) -> set[str]:
        """`side_of` the positions that fills of `events` moved of which nobody told yet: one that was closed and opened again has
        its quantity, and another entry price."""
        known = self.known_fills
        fills = (_names(event) for event in events if isinstance(event, Fill))
        return {key for key, trade in fills if (symbol_of(key), trade) not in known}

    def spent_again(self, touched: Iterable[str]) -> set[str]:
        """The same of wallets. `touched`: assets of fills that a read told."""
        booked = (booking.asset for booking in self.recent if booking.ts >= self.proven_ms)
        return {*touched, *booked} - {""} if self.behind else set()

    def filled_qty(self, symbol: str, order_id: str) -> Decimal:
        """How much of an order the known fills make up, as far back as `recent` reaches."""
        fills = [b for b in self.recent if symbol_of(b.key) == symbol and b.trade.partition("/")[2] == order_id]
        return sum((abs(Decimal(b.qty)) for b in fills), Decimal(0))

    def without(self, symbols: set[str]) -> Watermark:
        """A copy to try an explanation on: the same base, without what the fills of `symbols` changed since."""
        trial = Watermark(self.proven_ms, self.base)
        trial.moved = {key: qty for key, qty in self.moved.items() if symbol_of(key) not in symbols}
        trial.paid = {key: cost for key, cost in self.paid.items() if symbol_of(key) not in symbols}
        trial.booked = dict(self.booked)
        if not symbols:
            trial.earned = dict(self.earned)
            return trial
        since_ms = self.base.at_ms if self.base is not None else 0
        for booking in self.recent:  # where older ones were cut off, the explanation fails and more is read
            if booking.ts >= since_ms and booking.key and symbol_of(booking.key) not in symbols:
                _add(trial.earned, booking.asset, Decimal(booking.amount))
                _add(trial.earned, booking.settled, Decimal(booking.profit))
        return trial

    def explains(self, now: Snapshot, legs: Legs | None = None) -> bool:
        """True if the fills since the base account for every position and wallet in `now`: no fill is missing."""
        return self.base is not None and not any(self.unexplained(now, legs))

    def unexplained(self, now: Snapshot, legs: Legs | None = None) -> tuple[dict[str, str], dict[str, str]]:
        """By how much positions ("SYMBOL|side") and wallets (asset) in `now` differ from what is known to have happened."""
        base = self.base or Snapshot(0, {}, {})
        moved, wallets = dict(self.moved), dict(self.earned)
        for asset, amount in self.booked.items():
            _add(wallets, asset, Decimal(amount))
        for key, qty in self.moved.items() if legs else ():
            pair = legs(key) if legs else None
            if pair is not None:
                del moved[key]
                _add(wallets, pair[0], Decimal(qty))
                _add(wallets, pair[1], -Decimal(self.paid.get(key, "0")))
        before, after = _by_side(base.positions), _by_side(now.positions)
        return _differences(before, moved, after), _differences(base.wallets, wallets, now.wallets)

    def suspicious(self, books: Callable[[str], bool]) -> bool:
        """True if a position the stream told, of a symbol that `books` positions, is not what the fills since the base led to: a
        fill or a position event was lost while the socket stayed up. Long and short of a symbol are taken together, and cross and
        isolated, because not every venue's fills say which of them they were. Only symbols are compared that both sides know; a
        round trip nobody saw is left to the audit's wallets. Ask once the stream is quiet: the events of one fill come one after
        the other."""
        if self.base is None:
            return False
        left: dict[str, Decimal] = {}
        for sign, positions in ((1, self.positions), (-1, self.base.positions), (-1, self.moved)):
            for key, qty in positions.items():
                symbol = symbol_of(key)
                if symbol in left or positions is not self.moved:
                    left[symbol] = left.get(symbol, Decimal(0)) + sign * Decimal(qty)
        return any(amount and books(symbol) for symbol, amount in left.items())

    def prove(self, now: Snapshot, proven_ms: int) -> None:
        """Everything before `proven_ms` is in Kafka and `now` is what it led to: the new base. Nothing after `now` is proven: a
        watermark beyond it was told by a clock that went back since."""
        self.proven_ms = min(max(self.proven_ms, proven_ms), now.at_ms)
        self.base = now
        later = [
            b for b in self.recent if b.ts >= now.at_ms
        ]  # of events that were acknowledged after the snapshot was taken
        self.recent = [b for b in self.recent if b.ts < now.at_ms][-KEPT:]
        self.moved, self.earned, self.booked, self.paid = {}, {}, {}, {}
        for booking in later:
            self.book(booking)
        # What was told counts, whatever the snapshot says: where they differ still, the next read tells it.
        self.positions = self._as_told(self.positions, now.positions)
        self.wallets = self._as_told(self.wallets, now.wallets)
        for key in now.closed_orders:
            self.orders.pop(key, None)


def _rank(event: Position | Balance) -> int:
    """As the sink of Postgres ranks them (sql/sinks.sql)."""
    return 2 * event.ts_event + (event.source == "stream")


def _names(fill: Fill) -> tuple[str, str]:
    """`key` and `trade` of its booking."""
    return position_key(fill.symbol, fill.position_side), f"{fill.trade_id}/{fill.order_id}"


def _add(sums: dict[str, str], key: str, amount: Decimal) -> None:
    if amount:
        sums[key] = str(Decimal(sums.get(key, "0")) + amount)


def _by_side(positions: dict[str, str]) -> dict[str, str]:
    """Summed over margin modes."""
    sums: dict[str, str] = {}
    for key, qty in positions.items():
        _add(sums, side_of(key), Decimal(qty))
    return sums


def _differences(base: dict[str, str], change: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """now - (base + change), where that is not 0."""
    left: dict[str, str] = {}
    for key in base.keys() | change.keys() | now.keys():
        amount = Decimal(now.get(key, "0")) - Decimal(base.get(key, "0")) - Decimal(change.get(key, "0"))
        if amount:
            left[key] = str(amount)
    return left


def missed(events: list[UserRecord], known: Container[str]) -> list[UserRecord]:
    """Those of `events` whose ids are not in `known`, in order."""
    return in_order([e for e in events if e.id not in known])


def in_order(events: list[UserRecord]) -> list[UserRecord]:
    """By exchange time, orders after their fills at equal times; otherwise as they come."""
    rank = {"Fill": 0, "Order": 1, "Position": 2, "Balance": 3}
    return sorted(events, key=lambda e: (e.ts_event, rank.get(type(e).__name__, 4)))


def forgotten_orders(
    mark: Watermark, forgotten: Iterable[str], events: Iterable[UserRecord], account_id: str, now_ms: int
) -> tuple[list[Order], list[str]]:
    """How orders ended that were known as open and of which the exchange knows nothing any more (`forgotten`, their keys), by what
    is remembered of them; and, as text, those of which that cannot be said. `events`: what the read told.

    An exchange forgets orders that ended unfilled long before those with a fill. So where no fill came since the last state of
    the order, it was cancelled (or expired: nobody can tell). One with such a fill is older than any history. The id has no
    time: one order is forgotten once, however often that is read."""
    filled = {order_key(event.symbol, event.order_id) for event in events if isinstance(event, Fill)}
    canceled, untold = [], []
    for key in sorted(set(forgotten)):
        known, (symbol, _, order_id) = mark.orders[key], key.partition("|")
        if key in filled or mark.filled_qty(symbol, order_id) > Decimal(known.filled_qty or "0"):
            untold.append(f"order {order_id} of {symbol}: ended, the exchange does not tell how")
            continue
        ident = f"{known.exchange}:{known.market}:{account_id}:order:{symbol}:{order_id}:canceled:forgotten"
        canceled.append(Order(
            id=ident, symbol=symbol, ts_event=now_ms, ts_recv=now_ms, source="rest", account_id=account_id, order_id=order_id,
            status="canceled", **msgspec.structs.asdict(known),
        ))  # fmt: skip
    return canceled, untold


def untold_fills_ms(
    mark: Watermark, events: list[UserRecord], placed_ms: dict[str, int], since_ms: int, born_ms: int
) -> int:
    """Exchange time of the first order that was filled for more than its fills make up: REST tells some fills later than orders.
    0 = none such. `events`: a read of everything since `since_ms`; `placed_ms`: order's key -> when placed. Judged are orders
    placed since then, and where no older fill of the account is forgotten, those placed since `born_ms`, when it became ours."""
    whole = mark.base is not None and len(mark.recent) < KEPT
    told = {(symbol_of(b.key), b.trade): abs(Decimal(b.qty)) for b in mark.recent if b.key}
    told |= {(fill.symbol, _names(fill)[1]): Decimal(fill.qty) for fill in events if isinstance(fill, Fill)}
    filled: dict[str, Decimal] = {}
    for (symbol, trade), qty in told.items():
        key = order_key(symbol, trade.partition("/")[2])
        filled[key] = filled.get(key, Decimal(0)) + qty
    orders = [(order_key(e.symbol, e.order_id), e) for e in events if isinstance(e, Order) and e.ts_event >= since_ms]
    times = [
        order.ts_event
        for key, order in orders
        if placed_ms.get(key, 0) >= (born_ms if whole else since_ms)
        and Decimal(order.filled_qty or "0") > filled.get(key, Decimal(0))
    ]
    return min(times, default=0)


def hidden_fills_ms(
    mark: Watermark,
    events: list[UserRecord],
    now: Snapshot,
    changed_ms: dict[str, int],
    judged: Callable[[str, str], bool],
) -> int:
    """Since when a position has moved by more, or less, than the known fills: REST tells some fills later than positions. 0 = none.

    `events`: a read of everything since the base. `changed_ms`: symbol -> when its position changed last. `judged`: do only fills
    move the position of this symbol, and does one of this order? ("" = of any.) Long and short are taken together, and margin
    modes. Where the last change was a known fill's, the hidden one came before it, as early as after the base. A snapshot is not
    taken in one moment, its calls may wait for weight or for the end of a ban: not judged is a symbol with a known fill near the
    base or while it was taken, nor one that moved since `now` was asked for."""
    if mark.base is None:
        return 0
    base_ms, until_ms = mark.base.at_ms, max(mark.base.at_ms, mark.base.until_ms)
    before, after = _by_symbol(mark.base.positions), _by_symbol(now.positions)
    fills = [event for event in events if isinstance(event, Fill)]
    known = {
        _names(fill): (fill.ts_event, fill.qty if fill.side == "buy" else str(-Decimal(fill.qty))) for fill in fills
    }
    known |= {(booking.key, booking.trade): (booking.ts, booking.qty) for booking in mark.recent if booking.key}
    moved: dict[str, str] = {}
    latest: dict[str, int] = {}
    near = set[str]()
    for (key, trade), (at_ms, qty) in known.items():
        symbol = symbol_of(key)
        if judged(symbol, trade.partition("/")[2]):
            if base_ms - NEAR_MS < at_ms < until_ms + NEAR_MS or at_ms >= now.at_ms:
                near.add(symbol)
            if at_ms >= base_ms:
                _add(moved, symbol, Decimal(qty))
                latest[symbol] = max(latest.get(symbol, 0), at_ms)
    odd = differing(before, after) & _differences(before, moved, after).keys()
    times = [
        base_ms + 1 if 0 <= at_ms - latest.get(symbol, 0) < STAMP_MS else max(base_ms + 1, at_ms)
        for symbol, at_ms in ((symbol, changed_ms.get(symbol, 0)) for symbol in odd - near if judged(symbol, ""))
        if at_ms < now.at_ms
    ]
    return min(times, default=0)


def _by_symbol(positions: dict[str, str]) -> dict[str, str]:
    sums: dict[str, str] = {}
    for key, qty in positions.items():
        _add(sums, symbol_of(key), Decimal(qty))
    return sums


def differing(known: dict[str, str], now: dict[str, str]) -> set[str]:
    """Keys whose amounts differ; an absent one is 0."""
    return {key for key in known.keys() | now.keys() if Decimal(known.get(key, "0")) != Decimal(now.get(key, "0"))}
