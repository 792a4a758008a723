"""Binance USDⓈ-M, simulated: ties engine, market feed, listen keys, sockets and REST together. In: calls of the Venue
protocol; out: what the exchange would do. Runs on the simulator's event loop.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from simulator.account import Account
from simulator.clock import Clock
from simulator.delivery import Delivery
from simulator.engine import Engine
from simulator.http1 import Request, Response, reply
from simulator.hub import Hub
from simulator.listener import Listener
from simulator.market import SymbolMarket
from simulator.records import Instrument, Order
from simulator.replay import Capture
from simulator.stream_socket import StreamSocket
from simulator.user_rows import UserRows
from simulator.venue import Endpoint, OrderTicket, Refused
from simulator.venues.binance_usdm import messages
from simulator.venues.binance_usdm.control import Control
from simulator.venues.binance_usdm.feed import Feed
from simulator.venues.binance_usdm.listen_keys import ListenKey, ListenKeys
from simulator.venues.binance_usdm.recorded import Recorded
from simulator.venues.binance_usdm.rest import Rest
from simulator.venues.binance_usdm.rules import UsdmSettings
from simulator.venues.binance_usdm.streams import StreamName
from simulator.venues.binance_usdm.user_stream import UserStream
from simulator.world import World

START_BALANCE = Decimal("1000000")
LOAD_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT")
_GROUP = re.compile(r"(/(?:public|market|private))?/(ws|stream)(?:/.*)?$")


class BinanceUsdm:
    """The venue. Attributes are those of `simulator.venue.Venue`."""

    name = "binance_usdm"
    exchange = "binance"
    market = "usdm"
    endpoints = (
        Endpoint("FLEET_BINANCE_USDM_REST_URL", "http", "rest"),
        Endpoint("FLEET_BINANCE_USDM_WS_URL", "ws", "ws"),
    )

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.settings: UsdmSettings = UsdmSettings()
        self.listeners: list[Listener] = []
        self.accounts: dict[str, Account] = {}
        self.keys = ListenKeys(world.random)
        self.hub = Hub(self, world.ledger, world.faults, messages.wrap)
        self.feed = Feed(
            self.hub,
            world.random,
            world.options.seed,
            world.options.rate,
            self.settings,
            self.clock.now_ms(),
            (self.exchange, self.market),
        )
        self.markets: dict[str, SymbolMarket] = self.feed.markets
        self.engine = Engine(
            {s: _instrument(m) for s, m in self.markets.items()}, taker_fee=Decimal("0.0005"), maker_fee=Decimal("0.0002"),
            first_order_id=self.clock.now_ms() * 1000, by_symbol=True,
        )  # fmt: skip
        self.delivery = Delivery(self, world.ledger, world.faults)
        self.user = UserStream(self.clock, self.markets, self.keys, self.delivery, UserRows(self.exchange, self.market))
        self.control = Control(
            self.settings, self.keys, self.markets, self._start_stream, self._stop_stream, world.faults.subscribed
        )
        self._rest = Rest(self)
        self.crossing: dict[int, tuple[Account, int]] = {}  # resting REST orders that the market may fill, by order id
        self._replays: list[Recorded] = []
        self._swept_ms = 0

    # ── REST and sockets ─────────────────────────────────────────────────────────────────────────────────────────
    def rest(self, request: Request, role: str) -> Response:
        return self._rest.answer(request)

    def handshake(self, request: Request, role: str) -> Response | None:
        if _GROUP.match(request.path):
            return None
        return Response(404, b"<html>404 Not Found</html>", content_type="text/html")

    def key_of(self, request: Request) -> str | None:
        header = request.headers.get("x-mbx-apikey")
        if header is not None:
            return header
        found = re.search(r"listenKey=([A-Za-z0-9]+)|/private/(?:ws|stream)/([A-Za-z0-9]+)", request.target)
        key = self.keys.find(found.group(1) or found.group(2)) if found else None
        return key.account.api_key if key else None

    def path_group(self, path: str) -> str:
        match = _GROUP.match(path)
        return f"{match.group(1) or ''}/{match.group(2)}" if match else path

    def opened(self, socket: StreamSocket) -> None:
        bare = self.control.open(socket)
        if self.settings.events_required:
            for value in bare:
                frame = messages.listen_key_expired(value, self.clock.now_ms())
                socket.send_text(messages.wrap(socket.form, value, frame))
                key = self.keys.find(value)
                if key is not None:
                    key.sockets.pop(socket, None)

    def inbound(self, socket: StreamSocket) -> bool:
        return self.control.inbound(socket)

    def received(self, socket: StreamSocket, message: bytes, is_text: bool) -> None:
        self.control.received(socket, message)

    def closed(self, socket: StreamSocket) -> None:
        self.control.close(socket)

    def ping_payload(self) -> bytes:
        return str(self.clock.now_ms()).encode()

    def error(self, status: int, code: int | str, msg: str) -> Response:
        return reply({"code": int(code), "msg": msg}, status)

    def is_user_path(self, path: str) -> bool:
        return path.startswith("/private") or "listenKey" in path

    # ── market data ──────────────────────────────────────────────────────────────────────────────────────────────
    def tick(self) -> None:
        now_ms = self.clock.now_ms()
        self.feed.tick(now_ms)
        for replay in self._replays:
            replay.tick(now_ms)
        if abs(now_ms - self._swept_ms) >= 100:
            self._swept_ms = now_ms
            for key in self.keys.overdue(now_ms):
                self._expire(key)
            if self.crossing:
                self._rest.trading.cross()

    def _start_stream(self, stream: StreamName, socket: StreamSocket) -> None:
        fresh = self.hub.subscribe(stream.name, stream.path, socket)
        for replay in self._replays:
            if replay.takes(stream.name):
                return
        if fresh:
            self.feed.start(stream, self.clock.now_ms())

    def _stop_stream(self, name: str, socket: StreamSocket) -> None:
        if self.hub.unsubscribe(name, socket):
            self.feed.stop(name)

    # ── accounts and orders ──────────────────────────────────────────────────────────────────────────────────────
    def add_account(self, spec: dict[str, Any]) -> Account:
        """A new account with one API key; `balances` {asset: amount} replaces the default wallet."""
        api_key = spec["api_key"]
        if api_key in self.accounts:
            raise Refused("this api_key exists already")
        account = Account(api_key, spec["secret"], spec.get("passphrase") or "", uid=len(self.accounts) + 1)
        self.accounts[api_key] = account
        balances = spec.get("balances") or {"USDT": str(START_BALANCE)}
        for asset, amount in balances.items():
            self.engine.deposit(account, asset, Decimal(str(amount)), self.clock.now_ms())
        return account

    def place(self, ticket: OrderTicket) -> dict[str, Any]:
        account, qty, price = self._checked(ticket)
        market = self.markets[ticket.symbol]
        side = ticket.side.upper()
        change = self.engine.place(
            account, symbol=ticket.symbol, side=side, qty=qty, price=price if ticket.order_type != "MARKET" else Decimal(0),
            now_ms=self.clock.now_ms(), order_type=ticket.order_type, client_id=ticket.client_order_id,
            position_side=ticket.position_side or "BOTH",
        )  # fmt: skip
        order = change.order
        assert order is not None
        self.user.tell(account, change)
        filled = Decimal(ticket.filled_qty) if ticket.filled_qty is not None else qty
        parts = split(filled, ticket.fills, self.engine.instruments[ticket.symbol].step)
        trade_ids = []
        for part in parts:
            trade_id = market.take_trade_id()
            trade_ids.append(str(trade_id))
            self.user.tell(account, self.engine.fill(
                account, order.id, part, price, trade_id=trade_id, is_maker=ticket.maker, now_ms=self.clock.now_ms()
            ))  # fmt: skip
        return {"order_id": str(order.number), "trade_ids": trade_ids}

    def _checked(self, ticket: OrderTicket) -> tuple[Account, Decimal, Decimal]:
        account = self.accounts.get(ticket.api_key)
        if account is None:
            raise Refused("no such api_key")
        if ticket.symbol not in self.markets:
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

    def cancel(self, api_key: str, symbol: str, order_id: str) -> None:
        account = self.accounts.get(api_key)
        ident = self.engine.order_id(symbol, int(order_id)) if order_id.isdigit() else 0
        order = account.order(ident) if account else None
        if account is None or order is None or not order.is_open:
            raise Refused("no such open order")
        self.end_order(account, order.id)

    def end_order(self, account: Account, order_id: int, status: str = "CANCELED", reason: str = "0") -> Order:
        """Cancel or expire, and say so."""
        self.crossing.pop(order_id, None)
        change = self.engine.end(account, order_id, self.clock.now_ms(), status, reason)
        self.user.tell(account, change, status)
        assert change.order is not None
        return change.order

    def deposit(self, api_key: str, asset: str, amount: Decimal, kind: str) -> None:
        account = self.accounts.get(api_key)
        if account is None:
            raise Refused("no such api_key")
        self.user.tell(account, self.engine.deposit(account, asset, amount, self.clock.now_ms(), kind))

    def events_sent(self) -> int:
        return self.delivery.sent

    def random_ticket(self, account: Account) -> OrderTicket:
        random = self.world.random
        market = self.markets[random.choice(LOAD_SYMBOLS)]
        qty = market.qty(max(3, int(market.typical_qty * random.uniform(0.2, 2))))
        side = random.choice(("buy", "sell"))
        fills = random.choice((0, 1, 1, 1, 2, 3))
        away = 0.8 if side == "buy" else 1.2
        price = market.price(market.last if fills else int(market.last * away))
        return OrderTicket(account.api_key, market.spec.symbol, side, qty, price, fills, maker=random.random() < 0.5)

    # ── listen keys ──────────────────────────────────────────────────────────────────────────────────────────────
    def expire_sessions(self, api_key: str | None, limit: int | None) -> int:
        keys = [key for key in self.keys.all() if api_key is None or self.accounts.get(api_key) is key.account]
        self.world.random.shuffle(keys)
        keys = keys[:limit]
        for key in keys:
            self._expire(key)
        return len(keys)

    def _expire(self, key: ListenKey) -> None:
        now_ms = self.clock.now_ms()
        payload = messages.listen_key_expired(key.value, now_ms)
        self.user.event(key.account, "listenKeyExpired", payload, now_ms)
        self.keys.remove(key)

    # ── replay ───────────────────────────────────────────────────────────────────────────────────────────────────
    def replay(self, capture: Capture) -> bool:
        if not Recorded.is_ours(capture):
            return False
        self._replays.append(Recorded(self, capture))
        return True

    def replays(self) -> list[dict[str, Any]]:
        return [replay.as_json() for replay in self._replays]

    def restart_replays(self, loop: bool | None) -> None:
        for replay in self._replays:
            replay.restart(loop=loop)

    def recorded_depth(self, symbol: str, limit: int) -> bytes | None:
        """The recorded order book of a symbol under replay."""
        for replay in self._replays:
            found = replay.depth(symbol, limit)
            if found is not None:
                return found
        return None


def split(qty: Decimal, parts: int, step: Decimal) -> list[Decimal]:
    """`qty` in `parts` quantities on the step grid; fewer where the quantity is too small. Empty for 0 parts."""
    if parts == 0:
        return []
    unit = max(step, (qty / parts) // step * step)
    count = max(1, min(parts, int(qty // unit)))
    return [unit] * (count - 1) + [qty - unit * (count - 1)]


def _instrument(market: SymbolMarket) -> Instrument:
    spec = market.spec
    return Instrument(
        spec.symbol,
        spec.base,
        spec.quote,
        Decimal(1).scaleb(-spec.price_decimals),
        Decimal(1).scaleb(-spec.qty_decimals),
    )
