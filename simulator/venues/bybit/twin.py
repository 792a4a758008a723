"""Bybit v5, simulated: ties engine, market feed, sockets and REST together. In: calls of the Venue protocol; out: what the
exchange would do. Runs on the simulator's event loop.

Private rows of the ledger have the account's market, `unified`; market rows their category, `linear` or `spot`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from simulator.clock import Clock
from simulator.delivery import Delivery
from simulator.engine import Account, Asset, Change, Engine, Fill, Instrument, Order, Position, text
from simulator.frames import encode as frame
from simulator.http1 import Request, Response, reply
from simulator.hub import Hub
from simulator.ledger import Row
from simulator.listener import Listener
from simulator.replay import Capture
from simulator.sockets import StreamSocket
from simulator.venue import Endpoint, OrderTicket, Refused
from simulator.venues.bybit import messages
from simulator.venues.bybit.control import Control
from simulator.venues.bybit.feed import Feed, Listed
from simulator.venues.bybit.rest import Rest, refusal
from simulator.venues.bybit.rules import BybitSettings, Rolling
from simulator.venues.bybit.symbols import category_of, engine_symbol, wire_symbol
from simulator.world import World

START_BALANCES = {"USDT": "1000000", "USDC": "1000000", "BTC": "10", "ETH": "100", "SOL": "1000"}
LOAD_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "spot/BTCUSDT", "spot/ETHUSDT")
PATHS = ("linear", "spot", "inverse", "option", "spread")
FIVE_MINUTES = 300_000
SWEEP_MS = 100


@dataclass(frozen=True, slots=True)
class Execution:
    """One row of `/v5/execution/list`, encoded once."""

    time_ms: int
    symbol: str
    order_id: str
    kind: str
    row: bytes


class Bybit:
    """The venue. Attributes are those of `simulator.venue.Venue`."""

    name = "bybit"
    exchange = "bybit"
    market = "unified"
    endpoints = (Endpoint("FLEET_BYBIT_REST_URL", "http", "rest"), Endpoint("FLEET_BYBIT_WS_URL", "ws", "ws"))

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.settings: BybitSettings = BybitSettings()
        self.listeners: list[Listener] = []
        self.accounts: dict[str, Account] = {}
        self.created_ms: dict[str, int] = {}  # by api_key
        self.hubs = {category: Hub(self, world.ledger, world.faults, _plain) for category in ("linear", "spot")}
        options = world.options
        self.feed = Feed(
            self.hubs, world.ledger, world.random, options.seed, options.rate, self.settings, self.clock.now_ms()
        )
        self.engine = Engine(
            {engine_symbol(x.category, x.symbol): _instrument(x) for x in self.feed.listed.values()},
            taker_fee=Decimal("0.00055"), maker_fee=Decimal("0.0002"), first_order_id=self.clock.now_ms() * 1000,
        )  # fmt: skip
        self.delivery = Delivery(self, world.ledger, world.faults)
        self.ids = messages.OrderIds()
        self.executions: dict[tuple[str, str], list[Execution]] = {}  # by api_key and category, oldest first
        self.crossing: dict[int, Account] = {}  # resting REST orders that the market may fill, by order id
        self._seqs: dict[str, int] = {}  # cross sequence of a symbol's last trade
        self._fees: dict[int, tuple[Decimal, str]] = {}  # what an order has paid so far
        self.control = Control(self.settings, self.feed, self.accounts, self.clock.now_ms, world.faults.subscribed)
        self._rest = Rest(self)
        self._dials = Rolling(FIVE_MINUTES)
        self._messages = 0
        self._swept_ms = 0

    # ── REST and sockets ─────────────────────────────────────────────────────────────────────────────────────────
    def rest(self, request: Request, role: str) -> Response:
        return self._rest.answer(request)

    def handshake(self, request: Request, role: str) -> Response | None:
        if request.path != "/v5/private" and request.path not in {f"/v5/public/{name}" for name in PATHS}:
            return Response(404, b"404 page not found", content_type="text/plain")
        if self._dials.add(request.ip, self.clock.now_ms()) > self.settings.dials_per_5min:
            return Response(403, b"403, access too frequent", content_type="text/plain")
        return None

    def key_of(self, request: Request) -> str | None:
        return request.headers.get("x-bapi-api-key")

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
        return reply(refusal(int(code), msg, self.clock.now_ms()), status)

    def is_user_path(self, path: str) -> bool:
        return not path.startswith(("/v5/public", "/v5/market"))

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def tick(self) -> None:
        now_ms = self.clock.now_ms()
        self.feed.tick(now_ms)
        if abs(now_ms - self._swept_ms) >= SWEEP_MS:
            self._swept_ms = now_ms
            if self.crossing:
                self._rest.trading.cross()
            now = time.monotonic()
            for socket in self.world.sockets.open():
                if socket.venue is self and self.control.idle(socket, now):
                    socket.abort()

    # ── accounts and orders ──────────────────────────────────────────────────────────────────────────────────────
    def add_account(self, spec: dict[str, Any]) -> Account:
        """A new account with one API key; `balances` {coin: amount} replaces the default wallet."""
        api_key = spec["api_key"]
        if api_key in self.accounts:
            raise Refused("this api_key exists already")
        account = Account(api_key, spec["secret"], spec.get("passphrase") or "", uid=len(self.accounts) + 1)
        self.accounts[api_key] = account
        self.created_ms[api_key] = self.clock.now_ms()
        for coin, amount in (spec.get("balances") or START_BALANCES).items():
            self.engine.deposit(account, coin, Decimal(str(amount)), self.clock.now_ms())
        return account

    def place(self, ticket: OrderTicket) -> dict[str, Any]:
        account, symbol, qty, price = self._checked(ticket)
        change = self.engine.place(
            account, symbol=symbol, side=ticket.side.upper(), qty=qty,
            price=price if ticket.order_type != "MARKET" else Decimal(0), now_ms=self.clock.now_ms(),
            order_type=ticket.order_type, client_id=ticket.client_order_id, position_side=ticket.position_side.upper() or "BOTH",
        )  # fmt: skip
        order = change.order
        assert order is not None
        self.tell(account, change)
        filled = Decimal(ticket.filled_qty) if ticket.filled_qty is not None else qty
        trade_ids = [
            self.execute(account, order, part, price, is_maker=ticket.maker)
            for part in split(filled, ticket.fills, self.engine.instruments[symbol].step)
        ]
        return {"order_id": self.ids.wire(order.id, symbol), "trade_ids": trade_ids}

    def _checked(self, ticket: OrderTicket) -> tuple[Account, str, Decimal, Decimal]:
        account = self.accounts.get(ticket.api_key)
        if account is None:
            raise Refused("no such api_key")
        if ticket.symbol not in self.engine.instruments:
            raise Refused(f"no such symbol {ticket.symbol!r} (a spot one is spot/BTCUSDT)")
        if ticket.side.upper() not in ("BUY", "SELL"):
            raise Refused(f"side {ticket.side!r} is not buy or sell")
        try:
            qty, price = Decimal(ticket.qty), Decimal(ticket.price)
        except InvalidOperation as error:
            raise Refused("qty and price must be decimal numbers") from error
        if qty <= 0 or price <= 0 or not 0 <= ticket.fills <= 1000:
            raise Refused("qty and price must be above 0, fills between 0 and 1000")
        return account, ticket.symbol, qty, price

    def execute(self, account: Account, order: Order, qty: Decimal, price: Decimal, *, is_maker: bool) -> str:
        """One execution, told to everybody; returns its id on the wire."""
        market = self._listed(order.symbol).market
        change = self.engine.fill(
            account,
            order.id,
            qty,
            price,
            trade_id=market.take_trade_id(),
            is_maker=is_maker,
            now_ms=self.clock.now_ms(),
        )
        fill, after = change.fill, change.order
        assert fill is not None
        assert after is not None
        paid, _ = self._fees.get(order.id, (Decimal(0), ""))
        self._fees[order.id] = (paid + fill.fee, fill.fee_asset)
        self._seqs[order.symbol] = self.feed.seq.advance(1)
        self.tell(account, change)
        return messages.execution_id(fill.symbol, fill.id)

    def cancel(self, api_key: str, symbol: str, order_id: str) -> None:
        account = self.accounts.get(api_key)
        order = account.order(self.ids.engine(order_id)) if account else None
        if account is None or order is None or not order.is_open:
            raise Refused("no such open order")
        self.end_order(account, order.id)

    def end_order(self, account: Account, order_id: int) -> None:
        """Cancel, and say so."""
        self.crossing.pop(order_id, None)
        self.tell(account, self.engine.end(account, order_id, self.clock.now_ms()))

    def deposit(self, api_key: str, asset: str, amount: Decimal, kind: str = "TRANSFER") -> None:
        """A funding fee is an execution of its own (5.2), of the first symbol held."""
        account = self.accounts.get(api_key)
        if account is None:
            raise Refused("no such api_key")
        change = self.engine.deposit(account, asset, amount, self.clock.now_ms(), kind)
        if kind == "FUNDING_FEE":
            self._tell_funding(account, change, amount)
        self.tell(account, change)

    def events_sent(self) -> int:
        return self.delivery.sent

    def random_ticket(self, account: Account) -> OrderTicket:
        random = self.world.random
        symbol = random.choice(LOAD_SYMBOLS)
        market = self._listed(symbol).market
        qty = market.qty(max(3, int(market.typical_qty * random.uniform(0.2, 2))))
        side = random.choice(("buy", "sell"))
        fills = random.choice((0, 1, 1, 1, 2, 3))
        away = 0.8 if side == "buy" else 1.2
        price = market.price(market.last if fills else int(market.last * away))
        return OrderTicket(account.api_key, symbol, side, qty, price, fills, maker=random.random() < 0.5)

    # ── what things are worth ────────────────────────────────────────────────────────────────────────────────────
    def _listed(self, symbol: str) -> Listed:
        return self.feed.listed[category_of(symbol), wire_symbol(symbol)]

    def mark(self, symbol: str) -> Decimal:
        listed = self._listed(symbol)
        return Decimal(listed.market.price(listed.mark))

    def best(self, symbol: str, sells: bool) -> Decimal:
        market = self._listed(symbol).market
        return Decimal(market.price(market.book.take_best(sells)))

    def usd(self, coin: str) -> Decimal:
        listed = self.feed.listed.get(("spot", coin + "USDT"))
        return Decimal(listed.market.price(listed.market.last)) if listed else Decimal(int(coin.startswith("USD")))

    def free(self, account: Account, coin: str) -> Decimal:
        history = account.assets.get(coin)
        return history.last.wallet - history.last.locked if history else Decimal(0)

    def seq_of(self, symbol: str) -> int:
        return self._seqs.get(symbol, -1)

    # ── user events ──────────────────────────────────────────────────────────────────────────────────────────────
    def order_row(self, account: Account, order: Order) -> dict[str, Any]:
        """As the socket and REST tell it."""
        fee, coin = self._fees.get(order.id, (Decimal(0), ""))
        return messages.order_row(
            order, self.ids.wire(order.id, order.symbol), fee if order.filled else Decimal(0), coin
        )

    def tell(self, account: Account, change: Change) -> None:
        """Send what one change means: execution, position, order, wallet. A position is repeated at every order (5.3)."""
        order, fill = change.order, change.fill
        category = category_of(order.symbol) if order is not None else ""
        if fill is not None and order is not None:
            self._tell_fill(account, fill, order, category)
        positions = change.positions
        if order is not None and not positions:
            history = account.positions.get((order.symbol, order.position_side))
            positions = [history.last] if history else []
        if positions:
            self._tell_positions(account, positions, category)
        if order is not None:
            row = messages.encode(self.order_row(account, order))
            entry = self.row(account, "order", wire_symbol(order.symbol), order.updated_ms)
            entry.order_id, entry.side, entry.status = (
                self.ids.wire(order.id, order.symbol),
                order.side.lower(),
                order.status.lower(),
            )
            entry.qty, entry.price = text(order.qty), text(order.price)
            self.send(account, "order", category, [row], change.time_ms, [entry])
        if change.assets:
            self._tell_wallet(account, change.assets, change.time_ms)

    def _tell_fill(self, account: Account, fill: Fill, order: Order, category: str) -> None:
        wire_id = self.ids.wire(order.id, order.symbol)
        row = messages.encode(
            messages.execution_row(fill, order, wire_id, self.mark(fill.symbol), self.seq_of(fill.symbol))
        )
        symbol = wire_symbol(fill.symbol)
        self._keep(account, category, Execution(fill.time_ms, symbol, wire_id, "Trade", row))
        entry = self.row(account, "fill", symbol, fill.time_ms)
        entry.order_id, entry.trade_id, entry.side = (
            wire_id,
            messages.execution_id(fill.symbol, fill.id),
            fill.side.lower(),
        )
        entry.price, entry.qty, entry.fee = text(fill.price), text(fill.qty), text(fill.fee)
        self.send(account, "execution", category, [row], fill.time_ms, [entry])

    def _keep(self, account: Account, category: str, execution: Execution) -> None:
        self.executions.setdefault((account.api_key, category), []).append(execution)

    def _tell_funding(self, account: Account, change: Change, amount: Decimal) -> None:
        symbol = next((s for (s, _), h in account.positions.items() if h.last.qty), "BTCUSDT")
        order_id = f"{change.time_ms // 1000}-{symbol}-{account.uid}-Buy"
        row = messages.encode({
            "symbol": symbol, "orderId": order_id, "orderLinkId": "", "side": "Buy", "orderQty": "0", "orderPrice": "0",
            "execId": messages.uuid_of("funding", account.api_key, change.time_ms), "execType": "Funding",
            "execPrice": text(self.mark(symbol)), "execQty": "0", "execValue": "0", "execFee": text(-amount),
            "feeCurrency": "USDT", "feeRate": "0.0001", "execPnl": "0", "isMaker": False, "execTime": str(change.time_ms),
            "leavesQty": "0", "closedSize": "", "seq": self.seq_of(symbol),
        })  # fmt: skip
        self._keep(account, "linear", Execution(change.time_ms, symbol, order_id, "Funding", row))
        entry = self.row(account, "account", symbol, change.time_ms)
        entry.event = "Funding"
        self.send(account, "execution", "linear", [row], change.time_ms, [entry])

    def _tell_positions(self, account: Account, positions: list[Position], category: str) -> None:
        rows, entries = [], []
        for position in positions:
            rows.append(messages.encode(messages.position_row(
                position, self.mark(position.symbol), self.created_ms[account.api_key], "entryPrice", self.seq_of(position.symbol)
            )))  # fmt: skip
            entry = self.row(account, "position", position.symbol, position.updated_ms)
            entry.side, entry.qty, entry.price = position.side, text(position.qty), text(position.entry)
            entries.append(entry)
        self.send(account, "position", category, rows, positions[0].updated_ms, entries)

    def _tell_wallet(self, account: Account, assets: list[Asset], time_ms: int) -> None:
        """Only the coins that changed (5.4, uncertain)."""
        coins = [messages.coin_row(asset, self.usd(asset.asset)) for asset in assets]
        entries = []
        for asset in assets:
            entry = self.row(account, "balance", "", time_ms)
            entry.asset, entry.wallet = asset.asset, text(asset.wallet)
            entries.append(entry)
        self.send(account, "wallet", "", [messages.encode(messages.wallet_row(coins))], time_ms, entries)

    def send(
        self, account: Account, topic: str, category: str, rows: list[bytes], time_ms: int, entries: list[Row]
    ) -> None:
        """Send one user event to the sockets of the account that subscribed it."""
        self._messages += 1
        ident = f"{account.uid}:{topic}:{self._messages:x}"
        created_ms = max(self.clock.now_ms(), time_ms)
        told = [messages.with_category(category, row) for row in rows] if category else rows

        def targets() -> list[tuple[StreamSocket, bytes]]:
            return [
                (socket, frame(messages.private(name, ident, created_ms, told)))
                for socket, name in self.control.listeners(account.api_key, topic, category)
            ]

        self.delivery.send(account.api_key, topic, targets, entries)

    def row(self, account: Account, kind: str, symbol: str, ts: int) -> Row:
        return Row(0, self.exchange, self.market, account.api_key, kind, symbol, None, None, ts, ())

    # ── what this venue does not have ────────────────────────────────────────────────────────────────────────────
    def expire_sessions(self, api_key: str | None, limit: int | None = None) -> int:
        return 0  # a login lasts as long as its socket

    def replay(self, capture: Capture) -> bool:
        return False

    def replays(self) -> list[dict[str, Any]]:
        return []

    def restart_replays(self, loop: bool | None) -> None:
        """There are none."""


def split(qty: Decimal, parts: int, step: Decimal) -> list[Decimal]:
    """`qty` in `parts` quantities on the step grid; fewer where the quantity is too small. Empty for 0 parts."""
    if parts == 0:
        return []
    unit = max(step, (qty / parts) // step * step)
    count = max(1, min(parts, int(qty // unit)))
    return [unit] * (count - 1) + [qty - unit * (count - 1)]


def _instrument(listed: Listed) -> Instrument:
    spec = listed.market.spec
    tick, step = Decimal(1).scaleb(-spec.price_decimals), Decimal(1).scaleb(-spec.qty_decimals)
    name = engine_symbol(listed.category, spec.symbol)
    return Instrument(name, spec.base, spec.quote, tick, step, "spot" if listed.category == "spot" else "linear")


def _plain(form: int, name: str, payload: bytes) -> bytes:
    return payload
