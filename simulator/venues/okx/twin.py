"""OKX v5, simulated: ties engine, market feed, sockets and REST together. In: calls of the Venue protocol; out: what the exchange
would do. Runs on the simulator's event loop.
"""

from __future__ import annotations

import itertools
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from simulator.account import Account
from simulator.clock import Clock
from simulator.delivery import Delivery
from simulator.engine import Engine
from simulator.http1 import Request, Response
from simulator.hub import Hub
from simulator.listener import Listener
from simulator.records import Change, Fill, Order
from simulator.replay import Capture
from simulator.stream_socket import StreamSocket
from simulator.user_rows import UserRows
from simulator.venue import Endpoint, OrderTicket, Refused
from simulator.venues.okx.control import Control
from simulator.venues.okx.feed import Feed
from simulator.venues.okx.messages import MODES
from simulator.venues.okx.recorded import Recorded
from simulator.venues.okx.rest import Rest
from simulator.venues.okx.rules import OkxSettings, Windows
from simulator.venues.okx.symbols import instrument, product
from simulator.venues.okx.topics import PATHS, PRIVATE
from simulator.venues.okx.user_stream import UserStream
from simulator.world import World

START_BALANCE = Decimal("1000000")
LOAD_SYMBOLS = ("BTC-USDT-SWAP", "ETH-USDT-SWAP", "SOL-USDT-SWAP", "XRP-USDT-SWAP", "BTC-USDT", "ETH-USDT")
SWEEP_MS = 100
DIAL_WINDOW_MS = 1000


class Okx:
    """The venue. Attributes are those of `simulator.venue.Venue`."""

    name = "okx"
    exchange = "okx"
    market = "unified"
    endpoints = (Endpoint("FLEET_OKX_REST_URL", "http", "rest"), Endpoint("FLEET_OKX_WS_URL", "ws", "ws"))

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.settings: OkxSettings = OkxSettings()
        self.listeners: list[Listener] = []
        self.accounts: dict[str, Account] = {}
        self.demo: dict[str, bool] = {}  # api key -> is it one of demo trading? Keys that did not say are good for both
        self.hub = Hub(self, world.ledger, world.faults, lambda form, name, payload: payload)
        now_ms, ids = self.clock.now_ms(), (self.exchange, self.market)
        self.feed = Feed(self.hub, world.random, world.options.seed, world.options.rate, self.settings, now_ms, ids)
        self.engine = Engine(
            {symbol: instrument(market.spec) for symbol, market in self.feed.markets.items()},
            taker_fee=Decimal("0.0005"), maker_fee=Decimal("0.0002"), first_order_id=now_ms * 1_000_000,
        )  # fmt: skip
        self.delivery = Delivery(self, world.ledger, world.faults)
        self.users = UserStream(self.delivery, UserRows(*ids), self.settings, self.clock.now_ms, self.mark)
        self.control = Control(self)
        self.crossing: dict[int, Account] = {}  # resting REST orders that the market may fill
        self._rest = Rest(self)
        self._bills: dict[int, list[tuple[int, Fill]]] = {}
        self._next_bill = now_ms * 1_000_000 + 7
        self._trade_ids = itertools.count(now_ms)  # accounts' fills: the public ones go on without gaps
        self._dials = Windows()
        self._replays: list[Recorded] = []
        self._swept_ms = 0

    # ── REST and sockets ─────────────────────────────────────────────────────────────────────────────────────────
    def rest(self, request: Request, role: str) -> Response:
        return self._rest.answer(request)

    def handshake(self, request: Request, role: str) -> Response | None:
        if request.path not in PATHS:
            return Response(404, b"<html>404 Not Found</html>", content_type="text/html")
        if not self._dials.take(request.ip, "dial", self.settings.dials_per_s, self.clock.now_ms(), DIAL_WINDOW_MS):
            return Response(429, b"", {"Retry-After": "1"}, content_type="text/plain")
        return None

    def key_of(self, request: Request) -> str | None:
        return request.headers.get("ok-access-key")

    def path_group(self, path: str) -> str:
        return path

    def opened(self, socket: StreamSocket) -> None:
        self.control.open(socket)

    def inbound(self, socket: StreamSocket) -> bool:
        return True

    def received(self, socket: StreamSocket, message: bytes, is_text: bool) -> None:
        self.control.received(socket, message)

    def closed(self, socket: StreamSocket) -> None:
        self.control.close(socket)

    def ping_payload(self) -> bytes:
        return b""

    def error(self, status: int, code: int | str, msg: str) -> Response:
        body = msgspec.json.encode({"code": str(code), "data": [], "msg": msg})
        return Response(status, body, {"Date": self.world.http_date()}, content_type="application/json")

    def is_user_path(self, path: str) -> bool:
        return path.startswith((PRIVATE, "/api/v5/account", "/api/v5/trade"))

    # ── market data ──────────────────────────────────────────────────────────────────────────────────────────────
    def tick(self) -> None:
        now_ms = self.clock.now_ms()
        self.feed.tick(now_ms)
        for replay in self._replays:
            replay.tick(now_ms)
        if abs(now_ms - self._swept_ms) >= SWEEP_MS:
            self._swept_ms = now_ms
            self.control.watch([s for s in self.world.sockets.open() if s.venue.name == self.name])
            self.users.tick(self.accounts)
            if self.crossing:
                self._rest.trading.cross()

    def mark(self, symbol: str) -> Decimal:
        market = self.feed.markets[symbol]
        return Decimal(market.price(market.last))

    # ── accounts and orders ──────────────────────────────────────────────────────────────────────────────────────
    def add_account(self, spec: dict[str, Any]) -> Account:
        """A new account with one API key. `balances` {asset: amount} replaces the default wallet, `demo` says whether the key is
        one of demo trading, `hedge_mode` puts it into long/short mode."""
        api_key = spec["api_key"]
        if api_key in self.accounts:
            raise Refused("this api_key exists already")
        account = Account(api_key, spec["secret"], spec.get("passphrase") or "", uid=len(self.accounts) + 1)
        account.hedge_mode = bool(spec.get("hedge_mode", False))
        self.accounts[api_key] = account
        if "demo" in spec:
            self.demo[api_key] = bool(spec["demo"])
        default = {"USDT": str(START_BALANCE), "BTC": "100", "ETH": "1000", "SOL": "10000", "XRP": "1000000"}
        for asset, amount in (spec.get("balances") or default).items():
            self.engine.deposit(account, asset, Decimal(str(amount)), self.clock.now_ms())
        return account

    def bills(self, account: Account) -> list[tuple[int, Fill]]:
        """Fills in order of their bill ids."""
        return self._bills.setdefault(account.uid, [])

    def tell(self, account: Account, change: Change) -> None:
        """Book the fill of a change, if any, and push what changed."""
        if change.fill is not None:
            self._next_bill += 1
            self.bills(account).append((self._next_bill, change.fill))
        self.users.tell(account, change)

    def place(self, ticket: OrderTicket) -> dict[str, Any]:
        account, qty, price = self._checked(ticket)
        kind = ticket.order_type.lower()
        position_side = MODES.get(ticket.position_side.lower(), ticket.position_side.upper())
        change = self.engine.place(
            account, symbol=ticket.symbol, side=ticket.side.upper(), qty=qty, price=Decimal(0) if kind == "market" else price,
            now_ms=self.clock.now_ms(), order_type=kind, client_id=ticket.client_order_id, position_side=position_side,
        )  # fmt: skip
        order = change.order
        assert order is not None
        self.tell(account, change)
        filled = Decimal(ticket.filled_qty) if ticket.filled_qty is not None else qty
        parts = split(filled, ticket.fills, self.engine.instruments[ticket.symbol].step)
        made = [self.execute(account, order.id, price, is_maker=ticket.maker, qty=part) for part in parts]
        return {"order_id": str(order.id), "trade_ids": [str(fill.id) for fill in made]}

    def execute(
        self, account: Account, order_id: int, price: Decimal, *, is_maker: bool, qty: Decimal | None = None
    ) -> Fill:
        """One execution of an open order, of all that is left unless `qty` says less."""
        order = account.order(order_id)
        assert order is not None
        change = self.engine.fill(
            account, order_id, order.qty - order.filled if qty is None else qty, price,
            trade_id=next(self._trade_ids), is_maker=is_maker, now_ms=self.clock.now_ms(),
        )  # fmt: skip
        self.tell(account, change)
        assert change.fill is not None
        return change.fill

    def _checked(self, ticket: OrderTicket) -> tuple[Account, Decimal, Decimal]:
        account = self.accounts.get(ticket.api_key)
        if account is None:
            raise Refused("no such api_key")
        if ticket.symbol not in self.feed.markets:
            raise Refused(f"no such symbol {ticket.symbol!r}")
        if ticket.side.upper() not in ("BUY", "SELL"):
            raise Refused(f"side {ticket.side!r} is not buy or sell")
        try:
            qty, price = Decimal(ticket.qty), Decimal(ticket.price)
        except InvalidOperation as error:
            raise Refused("qty and price must be decimal numbers") from error
        if qty <= 0 or price <= 0 or not 0 <= ticket.fills <= 1000:
            raise Refused("qty and price must be above 0, fills between 0 and 1000")
        return account, qty, price

    def short_of(self, account: Account, symbol: str, side: str, qty: Decimal, price: Decimal) -> bool:
        """Does the account lack the money for a REST order? Derivatives ask for a tenth of the value."""
        unit = self.engine.instruments[symbol]
        spot = product(symbol) == "SPOT"
        name, amount = (unit.base, qty) if spot and side == "SELL" else (unit.quote, qty * price / (1 if spot else 10))
        history = account.assets.get(name)
        return history is None or history.last.wallet - history.last.locked < amount

    def cancel(self, api_key: str, symbol: str, order_id: str) -> None:
        account = self.accounts.get(api_key)
        order = account.order(int(order_id)) if account and order_id.isdigit() else None
        if account is None or order is None or not order.is_open:
            raise Refused("no such open order")
        self.end_order(account, order.id)

    def end_order(self, account: Account, order_id: int) -> Order:
        """Cancel, and say so."""
        self.crossing.pop(order_id, None)
        change = self.engine.end(account, order_id, self.clock.now_ms())
        self.tell(account, change)
        assert change.order is not None
        return change.order

    def deposit(self, api_key: str, asset: str, amount: Decimal, kind: str) -> None:
        account = self.accounts.get(api_key)
        if account is None:
            raise Refused("no such api_key")
        self.tell(account, self.engine.deposit(account, asset, amount, self.clock.now_ms(), kind))

    def events_sent(self) -> int:
        return self.delivery.sent

    def random_ticket(self, account: Account) -> OrderTicket:
        random = self.world.random
        market = self.feed.markets[random.choice(LOAD_SYMBOLS)]
        qty = market.qty(max(3, int(market.typical_qty * random.uniform(0.2, 2))))
        side = random.choice(("buy", "sell"))
        fills = random.choice((0, 1, 1, 1, 2, 3))
        away = 0.8 if side == "buy" else 1.2
        price = market.price(market.last if fills else int(market.last * away))
        return OrderTicket(account.api_key, market.spec.symbol, side, qty, price, fills, maker=random.random() < 0.5)

    def expire_sessions(self, api_key: str | None, limit: int | None) -> int:
        """There is no listen key; what ends a session on purpose is the upgrade notice (64008)."""
        found = [s for key in self.accounts if api_key in (None, key) for s in self.users.sockets(key)]
        for socket in found[:limit]:
            self.control.notice(socket)
        return len(found[:limit])

    # ── replay ───────────────────────────────────────────────────────────────────────────────────────────────────
    def replay(self, capture: Capture) -> bool:
        if not Recorded.is_ours(capture):
            return False
        self._replays.append(Recorded(self, capture))
        return True

    def is_replayed(self, name: str) -> bool:
        return any(replay.takes(name) for replay in self._replays)

    def recorded_book(self, symbol: str, levels: int, now_ms: int) -> dict[str, Any] | None:
        """The recorded order book of a symbol under replay."""
        return next((book for r in self._replays if (book := r.book(symbol, levels, now_ms)) is not None), None)

    def recorded_trades(self, symbol: str) -> list[dict[str, Any]] | None:
        """The recorded trades of a symbol under replay."""
        return next((trades for r in self._replays if (trades := r.trades(symbol)) is not None), None)

    def replays(self) -> list[dict[str, Any]]:
        return [replay.as_json() for replay in self._replays]

    def restart_replays(self, loop: bool | None) -> None:
        for replay in self._replays:
            replay.restart(loop=loop)


def split(qty: Decimal, parts: int, step: Decimal) -> list[Decimal]:
    """`qty` in `parts` quantities on the step grid; fewer where the quantity is too small. Empty for 0 parts."""
    if parts == 0:
        return []
    unit = max(step, (qty / parts) // step * step)
    count = max(1, min(parts, int(qty // unit)))
    return [unit] * (count - 1) + [qty - unit * (count - 1)]
