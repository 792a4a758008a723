"""The private stream of Binance USDⓈ-M. In: engine changes and other account events; out: messages on the sockets of
the account's listen key, and their ledger rows (sheet 4.2).
"""

from __future__ import annotations

from decimal import Decimal

from simulator.account import Account
from simulator.clock import Clock
from simulator.delivery import Delivery
from simulator.ledger import Row
from simulator.market import SymbolMarket
from simulator.records import Change, Fill, Order
from simulator.stream_socket import StreamSocket
from simulator.user_rows import UserRows
from simulator.venues.binance_usdm import messages
from simulator.venues.binance_usdm.listen_keys import ListenKeys


class UserStream:
    """Tells accounts what happened."""

    def __init__(
        self, clock: Clock, markets: dict[str, SymbolMarket], keys: ListenKeys, delivery: Delivery, rows: UserRows
    ) -> None:
        self._clock = clock
        self._markets = markets
        self._keys = keys
        self._delivery = delivery
        self.rows = rows

    def tell(self, account: Account, change: Change, execution: str = "NEW") -> None:
        """Send what one change means, in the order the exchange sends it: TRADE_LITE, ACCOUNT_UPDATE, ORDER_TRADE_UPDATE."""
        event_ms = max(self._clock.now_ms(), change.time_ms)
        order, fill = change.order, change.fill
        if fill is not None and order is not None:
            self.send(account, "TRADE_LITE", self._trade_lite(order, fill, event_ms), [])
        if change.assets or change.positions:
            unrealized = {p.symbol + p.side: self.unrealized(p.symbol, p.qty, p.entry) for p in change.positions}
            payload = messages.account_update(change, unrealized, event_ms)
            self.send(account, "ACCOUNT_UPDATE", payload, self.rows.money(account, change))
        if order is not None:
            execution = "AMENDMENT" if change.reason == "AMENDMENT" else "TRADE" if fill else execution
            rows = [self.rows.order(account, order)] + ([self.rows.fill(account, fill)] if fill else [])
            self.send(account, "ORDER_TRADE_UPDATE", messages.order_update(order, fill, execution, event_ms), rows)

    def _trade_lite(self, order: Order, fill: Fill, event_ms: int) -> bytes:
        spec = self._markets[fill.symbol].spec
        price, qty = f".{spec.price_decimals}f", f".{spec.qty_decimals}f"
        numbers = (f"{fill.price:{price}}", f"{fill.qty:{qty}}", f"{order.price:{price}}", f"{order.qty:{qty}}")
        return messages.trade_lite(fill, order, *numbers, event_ms)

    def unrealized(self, symbol: str, qty: Decimal, entry: Decimal) -> Decimal:
        """Unrealised profit at the mark price."""
        return round((self.mark(symbol) - entry) * qty, 8) if qty else Decimal(0)

    def mark(self, symbol: str) -> Decimal:
        """The mark price."""
        market = self._markets[symbol]
        return Decimal(market.price(market.last))

    def event(self, account: Account, name: str, payload: bytes, ts: int, symbol: str = "", status: str = "") -> None:
        """Send an event that is neither order nor money."""
        row = self.rows.event(account, name, ts, symbol)
        if status:
            row.status = status
        self.send(account, name, payload, [row])

    def send(self, account: Account, event: str, payload: bytes, rows: list[Row]) -> None:
        """Send one message to the sockets of the account's listen key."""
        self._delivery.send(account.api_key, event, lambda: self._targets(account, event, payload), rows)

    def _targets(self, account: Account, event: str, payload: bytes) -> list[tuple[StreamSocket, bytes]]:
        key = self._keys.of(account)
        if key is None:
            return []
        return [
            (socket, messages.frame(messages.wrap(socket.form, key.value, payload)))
            for socket, events in key.sockets.items()
            if events is None or event in events
        ]
