"""Private pushes of OKX (sheet 5): who is subscribed to what, snapshots, and what a change of an account means. In: changes of
accounts and subscriptions; out: frames on the accounts' sockets, ledger rows through Delivery.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from simulator.account import Account
from simulator.delivery import Delivery
from simulator.frames import encode as encoded
from simulator.ledger import Row
from simulator.records import Asset, Change, Position, text
from simulator.user_rows import UserRows
from simulator.venues.okx import messages
from simulator.venues.okx.rules import OkxSettings
from simulator.venues.okx.symbols import product

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket

EVENT_TYPES = {"ORDER": "filled", "FUNDING_FEE": "funding_fee", "DEPOSIT": "transferred", "WITHDRAW": "transferred"}


@dataclass(slots=True)
class Subscription:
    """One private argument of one socket."""

    arg: dict[str, Any]
    periodic: bool
    pushed_s: float = field(default_factory=time.monotonic)

    def wants(self, symbol: str) -> bool:
        kind, inst = self.arg.get("instType", "ANY"), self.arg.get("instId", symbol)
        return kind in ("ANY", product(symbol)) and inst == symbol


class UserStream:
    """The private channels of the venue. `mark` prices an instrument, `lever` tells an account's leverage."""

    def __init__(
        self,
        delivery: Delivery,
        rows: UserRows,
        settings: OkxSettings,
        now_ms: Callable[[], int],
        mark: Callable[[str], Decimal],
    ) -> None:
        self._delivery, self._rows, self._settings, self._now_ms, self._mark = delivery, rows, settings, now_ms, mark
        self._sockets: dict[
            str, dict[StreamSocket, dict[str, Subscription]]
        ] = {}  # api key -> socket -> argument -> subscription

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────
    def sockets(self, api_key: str) -> list[StreamSocket]:
        return list(self._sockets.get(api_key, {}))

    def channel_count(self, api_key: str, channel: str) -> int:
        """Sockets of the account that hold the channel: several arguments on one count once."""
        held = self._sockets.get(api_key, {}).values()
        return sum(any(s.arg["channel"] == channel for s in subscriptions.values()) for subscriptions in held)

    def attach(self, account: Account, socket: StreamSocket) -> None:
        """A socket logged in."""
        self._sockets.setdefault(account.api_key, {})[socket] = {}

    def detach(self, api_key: str, socket: StreamSocket) -> None:
        self._sockets.get(api_key, {}).pop(socket, None)

    def subscribe(self, account: Account, socket: StreamSocket, name: str, arg: dict[str, Any]) -> None:
        """Take a private argument; its snapshot goes out with `greet`."""
        extra = str(arg.get("extraParams", ""))
        try:
            periodic = json.loads(extra).get("updateInterval") != "0" if extra else True
        except (ValueError, AttributeError):
            periodic = True
        told = {key: value for key, value in arg.items() if key != "extraParams"}
        self._sockets[account.api_key][socket][name] = Subscription(told, periodic)

    def unsubscribe(self, account: Account, socket: StreamSocket, name: str) -> None:
        self._sockets.get(account.api_key, {}).get(socket, {}).pop(name, None)

    def greet(self, account: Account, socket: StreamSocket, name: str) -> None:
        """The snapshot a new subscription begins with; orders have none."""
        held = self._sockets.get(account.api_key, {}).get(socket, {}).get(name)
        if held is not None:
            for payload in self._snapshot(account, held):
                socket.send_text(payload)

    def tick(self, accounts: dict[str, Account]) -> None:
        """Periodic full pushes of account and positions."""
        now_s = time.monotonic()
        for api_key, sockets in self._sockets.items():
            for socket, held in sockets.items():
                for subscription in held.values():
                    channel = subscription.arg["channel"]
                    if (
                        subscription.periodic
                        and channel in ("account", "positions")
                        and now_s - subscription.pushed_s >= self._settings.periodic_s
                    ):
                        subscription.pushed_s = now_s
                        for payload in self._snapshot(accounts[api_key], subscription):
                            socket.send_text(payload)

    def _snapshot(self, account: Account, held: Subscription) -> list[bytes]:
        channel, view, now_ms = held.arg["channel"], account.view(0, 0), self._now_ms()
        assets = [a for a in view.assets() if a.wallet or a.locked]
        positions = [p for p in view.positions() if p.qty and held.wants(p.symbol)]
        if channel == "account":
            parts = _pages(assets, self._settings.page_rows)
            rows = [[messages.account(part, now_ms)] for part in parts]
        elif channel == "positions":
            parts_p = _pages(positions, self._settings.page_rows)
            rows = [[self.position(account, p) for p in part] for part in parts_p]
        elif channel == "balance_and_position":
            return [self._together(account, held, "snapshot", assets, positions)]
        else:
            return []
        return [
            messages.frame(
                held.arg, account.uid, page, eventType="snapshot", curPage=number, lastPage=number == len(rows)
            )
            for number, page in enumerate(rows, 1)
        ]

    # ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────
    def position(self, account: Account, p: Position) -> dict[str, Any]:
        lever = str(account.leverage.get(p.symbol, 10))
        return messages.position(p, position_id(account, p), self._mark(p.symbol), lever, self._now_ms())

    def _together(
        self,
        account: Account,
        held: Subscription,
        kind: str,
        assets: list[Asset],
        positions: list[Position],
        trade: str = "",
    ) -> bytes:
        row = {
            "pTime": str(self._now_ms()), "eventType": kind,
            "balData": [{"ccy": a.asset, "cashBal": text(a.wallet), "uTime": str(a.updated_ms)} for a in assets],
            "posData": [messages.short_position(p, position_id(account, p)) for p in positions],
            "trades": [{"instId": positions[0].symbol if positions else "", "tradeId": trade}] if trade else [],
        }  # fmt: skip
        return messages.frame(held.arg, account.uid, [row])

    def tell(self, account: Account, change: Change) -> None:
        """Push what one change means: the order with its fill, then wallets and positions."""
        order, fill = change.order, change.fill
        money = self._rows.money(account, change)
        if order is not None:
            lever = str(account.leverage.get(order.symbol, 10))
            row = messages.order(order, fill, lever, streamed=True)
            rows = [self._rows.order(account, order)]
            if fill is not None:
                rows.append(self._rows.fill(account, fill))
            symbol = order.symbol
            self._send(
                account,
                "orders",
                rows,
                lambda s: messages.frame(s.arg, account.uid, [row]) if s.wants(symbol) else None,
            )
        assets, positions = change.assets, change.positions
        kind, trade = EVENT_TYPES.get(change.reason, "transferred"), str(fill.id) if fill else ""
        if fill is not None or order is None:
            self._send(
                account,
                "balance_and_position",
                [],
                lambda s: self._together(account, s, kind, assets, positions, trade),
            )
        if assets:
            body = messages.account(assets, self._now_ms())
            self._send(
                account, "account", [r for r in money if r.type == "balance"],
                lambda s: messages.frame(s.arg, account.uid, [body], eventType="event_update"),
            )  # fmt: skip
        if positions:
            bodies = [(p.symbol, self.position(account, p)) for p in positions]
            self._send(
                account, "positions", [r for r in money if r.type == "position"],
                lambda s: messages.frame(s.arg, account.uid, [b for at, b in bodies if s.wants(at)], eventType="event_update"),
            )  # fmt: skip

    def _send(
        self, account: Account, channel: str, rows: list[Row], make: Callable[[Subscription], bytes | None]
    ) -> None:
        def targets() -> list[tuple[StreamSocket, bytes]]:
            found = []
            for socket, held in self._sockets.get(account.api_key, {}).items():
                for subscription in held.values():
                    payload = make(subscription) if subscription.arg["channel"] == channel else None
                    if payload is not None:
                        found.append((socket, encoded(payload)))
            return found

        self._delivery.send(account.api_key, channel, targets, rows)


def position_id(account: Account, p: Position) -> int:
    """Stable for an account, an instrument and a side."""
    keys = list(account.positions)
    return 325_382_268_437_000_000 + account.uid * 1000 + keys.index((p.symbol, p.side))


def _pages(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)] or [[]] if size else [rows]
