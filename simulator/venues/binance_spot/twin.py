"""Binance Spot, simulated: ties engine, market feed, WebSocket API, market sockets and REST together. In: calls of the Venue
protocol; out: what the exchange would do. Runs on the simulator's event loop.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from simulator.account import Account
from simulator.clock import Clock
from simulator.delivery import Delivery
from simulator.engine import Engine
from simulator.frames import encode
from simulator.http1 import Request, Response, reply
from simulator.hub import Hub
from simulator.ledger import Row
from simulator.listener import Listener
from simulator.market import SymbolMarket, Trade
from simulator.records import Change, Fill, Instrument, Order, text
from simulator.replay import Capture
from simulator.stream_socket import StreamSocket
from simulator.venue import Endpoint, OrderTicket, Refused
from simulator.venues.binance_spot import messages
from simulator.venues.binance_spot.control import Control
from simulator.venues.binance_spot.feed import Feed
from simulator.venues.binance_spot.rest import Rest
from simulator.venues.binance_spot.rules import DialLimiter, SpotSettings, WeightLimiter
from simulator.venues.binance_spot.streams import StreamName
from simulator.venues.binance_spot.wsapi import WsApi
from simulator.world import World

DAY_MS = 86_400_000
START = {
    "USDT": "10000000", "BTC": "1000", "ETH": "10000", "BNB": "10000", "SOL": "100000", "XRP": "5000000",
}  # fmt: skip
LOAD_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "ETHBTC")
WSAPI_PATH = re.compile(r"/ws-api/v3/?")
STREAM_PATH = re.compile(r"/(ws|stream)(?:/.*)?")
_encode = msgspec.json.Encoder().encode


class BinanceSpot:
    """The venue. Attributes are those of `simulator.venue.Venue`."""

    name = "binance_spot"
    exchange = "binance"
    market = "spot"
    endpoints = (
        Endpoint("FLEET_BINANCE_SPOT_REST_URL", "http", "rest"),
        Endpoint("FLEET_BINANCE_SPOT_WS_URL", "ws", "ws"),
        Endpoint("FLEET_BINANCE_SPOT_WSAPI_URL", "ws", "wsapi"),
    )

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.settings = SpotSettings()
        self.listeners: list[Listener] = []
        self.accounts: dict[str, Account] = {}
        self.limiter, self._dials = WeightLimiter(self.settings), DialLimiter(self.settings)
        self.hub = Hub(self, world.ledger, world.faults, _wrap)
        ids = (self.exchange, self.market)
        self.feed = Feed(self.hub, world.random, world.options.seed, world.options.rate, self.clock.now_ms(), ids)
        self.markets: dict[str, SymbolMarket] = self.feed.markets
        self.engine = Engine(
            {s: _instrument(m) for s, m in self.markets.items()}, taker_fee=Decimal("0.001"), maker_fee=Decimal("0.001"),
            first_order_id=self.clock.now_ms(), by_symbol=True,
        )  # fmt: skip
        self.delivery = Delivery(self, world.ledger, world.faults)
        self.control = Control(
            self.settings, self.markets, self._start_stream, self._stop_stream, world.faults.subscribed
        )
        self.wsapi = WsApi(self)
        self.api = Rest(self)
        self.crossing: dict[int, Account] = {}  # resting REST orders that the market may fill, by order id
        self._executions = self.clock.now_ms()
        self._effects: list[Callable[[], None]] = []
        self._closing: list[tuple[float, StreamSocket]] = []
        self._swept_ms = 0

    # ── REST and sockets ─────────────────────────────────────────────────────────────────────────────────────────
    def rest(self, request: Request, role: str) -> Response:
        return self.api.answer(request)

    def handshake(self, request: Request, role: str) -> Response | None:
        now_ms = self.clock.now_ms()
        if not (WSAPI_PATH if role == "wsapi" else STREAM_PATH).fullmatch(request.path):
            return Response(404, b"<html>404 Not Found</html>", content_type="text/html")
        wait_s = self._dials.refused(request.ip, now_ms)
        if wait_s:
            refusal = self.error(429, -1034, "Too many connections.")
            refusal.headers["Retry-After"] = str(wait_s)
            return refusal
        if role == "wsapi":
            self.world.calls.weight(self.exchange, self.market, request.ip, 2, now_ms)
        return None

    def key_of(self, request: Request) -> str | None:
        return request.headers.get("x-mbx-apikey")

    def path_group(self, path: str) -> str:
        match = STREAM_PATH.fullmatch(path)
        return f"/{match.group(1)}" if match else path

    def opened(self, socket: StreamSocket) -> None:
        (self.wsapi if socket.role == "wsapi" else self.control).open(socket)

    def inbound(self, socket: StreamSocket) -> bool:
        return socket.role == "wsapi" or self.control.inbound(socket)

    def received(self, socket: StreamSocket, message: bytes, is_text: bool) -> None:
        (self.wsapi if socket.role == "wsapi" else self.control).received(socket, message)

    def closed(self, socket: StreamSocket) -> None:
        (self.wsapi if socket.role == "wsapi" else self.control).close(socket)

    def ping_payload(self) -> bytes:
        return str(self.clock.now_ms()).encode()

    def error(self, status: int, code: int | str, msg: str) -> Response:
        return reply({"code": int(code), "msg": msg}, status)

    def is_user_path(self, path: str) -> bool:
        return path.startswith("/ws-api")

    def spend(self, ip: str, weight: int, now_ms: int) -> None:
        """Count weight, by either door. Raises ApiError 429 or 418."""
        self.world.calls.weight(self.exchange, self.market, ip, weight, now_ms)
        self.limiter.spend(ip, weight, now_ms)

    def weight_state(self, ip: str, now_ms: int) -> dict[str, Any]:
        """The entry of `rateLimits` in a WebSocket API reply."""
        limit, used = self.settings.weight_limit, self.limiter.used(ip, now_ms)
        return {
            "rateLimitType": "REQUEST_WEIGHT",
            "interval": "MINUTE",
            "intervalNum": 1,
            "limit": limit,
            "count": used,
        }

    def later(self, effect: Callable[[], None]) -> None:
        """Do it once the reply to the request under way is out."""
        self._effects.append(effect)

    def take_effects(self) -> list[Callable[[], None]]:
        effects, self._effects = self._effects, []
        return effects

    # ── market data ──────────────────────────────────────────────────────────────────────────────────────────────
    def tick(self) -> None:
        now_ms = self.clock.now_ms()
        self.feed.tick(now_ms)
        if abs(now_ms - self._swept_ms) >= 100:
            self._swept_ms = now_ms
            if self.crossing:
                self.api.trading.cross()
            if self.settings.announce_shutdown:
                self._announce_shutdown(now_ms)
            while self._closing and self._closing[0][0] <= time.monotonic():
                self._closing.pop(0)[1].close(1001, "server shutdown")

    def _announce_shutdown(self, now_ms: int) -> None:
        """serverShutdown in the three forms of the sheet (2.1); the sockets of this moment are closed later."""
        self.settings.announce_shutdown = 0
        event = b'{"e":"serverShutdown","E":%d}' % now_ms
        at_s = time.monotonic() + self.settings.shutdown_lead_s
        for socket in self.world.sockets.open():
            if socket.venue is self:
                wsapi = b'{"event":' + event + b"}"
                socket.send_text(wsapi if socket.role == "wsapi" else _wrap(socket.form, "!serverShutdown", event))
                self._closing.append((at_s, socket))

    def _start_stream(self, stream: StreamName, socket: StreamSocket) -> None:
        if self.hub.subscribe(stream.name, socket.path, socket):
            self.feed.start(stream, self.clock.now_ms())

    def _stop_stream(self, name: str, socket: StreamSocket) -> None:
        if self.hub.unsubscribe(name, socket):
            self.feed.stop(name)

    # ── accounts and orders ──────────────────────────────────────────────────────────────────────────────────────
    def add_account(self, spec: dict[str, Any]) -> Account:
        """A new account with one API key; `balances` {asset: amount} replaces the default wallets, paid in a day ago."""
        api_key = spec["api_key"]
        if api_key in self.accounts:
            raise Refused("this api_key exists already")
        account = Account(api_key, spec["secret"], spec.get("passphrase") or "", uid=len(self.accounts) + 1)
        self.accounts[api_key] = account
        for asset, amount in (spec.get("balances") or START).items():
            self.engine.deposit(account, asset, Decimal(str(amount)), self.clock.now_ms() - DAY_MS)
        return account

    def free(self, account: Account, symbol: str, side: str) -> Decimal:
        """What an order of that side may use."""
        instrument = self.engine.instruments[symbol]
        history = account.assets.get(instrument.quote if side == "BUY" else instrument.base)
        return history.last.wallet - history.last.locked if history else Decimal(0)

    def place(self, ticket: OrderTicket) -> dict[str, Any]:
        account, qty, price = self._checked(ticket)
        change = self.engine.place(
            account, symbol=ticket.symbol, side=ticket.side.upper(), qty=qty, price=price, now_ms=self.clock.now_ms(),
            order_type=ticket.order_type, client_id=ticket.client_order_id, position_side="",
        )  # fmt: skip
        order = change.order
        assert order is not None
        self.tell(account, change)
        filled = Decimal(ticket.filled_qty) if ticket.filled_qty is not None else qty
        parts = split(filled, ticket.fills, self.engine.instruments[ticket.symbol].step)
        trade_ids = [self.execute(account, order.id, part, price, is_maker=ticket.maker) for part in parts]
        return {"order_id": str(order.number), "trade_ids": [str(trade_id) for trade_id in trade_ids]}

    def execute(self, account: Account, order_id: int, qty: Decimal, price: Decimal, *, is_maker: bool) -> int:
        """One execution, told to the stream; → its trade id."""
        order = account.order(order_id)
        assert order is not None
        market, now_ms = self.markets[order.symbol], self.clock.now_ms()
        trade_id = market.take_trade_id()
        change = self.engine.fill(account, order_id, qty, price, trade_id=trade_id, is_maker=is_maker, now_ms=now_ms)
        self.tell(account, change)
        ticks, steps = (round(value.scaleb(digits)) for value, digits in (
            (price, market.spec.price_decimals), (qty, market.spec.qty_decimals)
        ))  # fmt: skip
        sells = (order.side == "SELL") != is_maker  # the taker's side
        public = Trade(market.next_agg_id, ticks, steps, trade_id, trade_id, change.time_ms, sells)
        market.next_agg_id += 1
        self.feed.execution(market, public, now_ms)
        return trade_id

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
        if self.free(account, ticket.symbol, ticket.side.upper()) < (
            qty * price if ticket.side.upper() == "BUY" else qty
        ):
            raise Refused("insufficient balance")
        return account, qty, price

    def cancel(self, api_key: str, symbol: str, order_id: str) -> None:
        account = self.accounts.get(api_key)
        ident = self.engine.order_id(symbol, int(order_id)) if order_id.isdigit() else 0
        order = account.order(ident) if account else None
        if account is None or order is None or not order.is_open:
            raise Refused("no such open order")
        self.end_order(account, order.id, cancel_id=f"cancel{order.id:x}")

    def end_order(self, account: Account, order_id: int, status: str = "CANCELED", *, cancel_id: str = "") -> Order:
        """Cancel or expire, and say so."""
        self.crossing.pop(order_id, None)
        change = self.engine.end(account, order_id, self.clock.now_ms(), status)
        self.tell(account, change, status, cancel_id)
        assert change.order is not None
        return change.order

    def deposit(self, api_key: str, asset: str, amount: Decimal, kind: str = "TRANSFER") -> None:
        account = self.accounts.get(api_key)
        if account is None or kind != "TRANSFER":
            raise Refused("no such api_key" if account is None else "spot knows no funding")
        change = self.engine.deposit(account, asset, amount, self.clock.now_ms())
        row = self.row(account, "account", "", change.time_ms)
        row.event, row.asset = "balanceUpdate", asset
        self.send(account, messages.balance_update(asset, amount, change.time_ms, self.clock.now_ms()), [row])
        self.tell(account, change)

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

    # ── user events ──────────────────────────────────────────────────────────────────────────────────────────────
    def tell(self, account: Account, change: Change, execution: str = "NEW", cancel_id: str = "") -> None:
        """Send what one change means: executionReport, then outboundAccountPosition."""
        event_ms = max(self.clock.now_ms(), change.time_ms)
        order, fill = change.order, change.fill
        if order is not None:
            self._executions += 1
            kind = "TRADE" if fill else execution
            event = messages.execution_report(order, fill, kind, self._executions, cancel_id, event_ms)
            self.send(account, event, self._order_rows(account, order, fill))
        if change.assets:
            event = messages.account_position(change.assets, change.time_ms, event_ms)
            self.send(account, event, self._money_rows(account, change))

    def send(self, account: Account, event: dict[str, Any], rows: list[Row]) -> None:
        """Send one user event to every subscription of the account."""
        payload = _encode(event)
        self.delivery.send(account.api_key, event["e"], lambda: self._targets(account, payload), rows)

    def _targets(self, account: Account, payload: bytes) -> list[tuple[StreamSocket, bytes]]:
        return [
            (socket, encode(b'{"subscriptionId":%d,"event":%s}' % (ident, payload)))
            for socket, ident in self.wsapi.of(account)
        ]

    def row(self, account: Account, kind: str, symbol: str, ts: int) -> Row:
        return Row(0, self.exchange, self.market, account.api_key, kind, symbol, None, None, ts, ())

    def _money_rows(self, account: Account, change: Change) -> list[Row]:
        rows = []
        for asset in change.assets:
            row = self.row(account, "balance", "", change.time_ms)
            row.asset, row.wallet = asset.asset, text(asset.wallet)
            rows.append(row)
        return rows

    def _order_rows(self, account: Account, order: Order, fill: Fill | None) -> list[Row]:
        row = self.row(account, "order", order.symbol, order.updated_ms)
        row.order_id, row.side, row.status = str(order.number), order.side.lower(), order.status.lower()
        row.qty, row.price = text(order.qty), text(order.price)
        if fill is None:
            return [row]
        other = self.row(account, "fill", fill.symbol, fill.time_ms)
        other.order_id, other.trade_id, other.side = str(fill.order_number), str(fill.id), fill.side.lower()
        other.price, other.qty, other.fee, other.asset = (
            text(fill.price),
            text(fill.qty),
            text(fill.fee),
            fill.fee_asset,
        )
        return [row, other]

    def expire_sessions(self, api_key: str | None, limit: int | None = None) -> int:
        """Subscriptions end (there is no listen key): eventStreamTerminated. Counted are accounts that had any."""
        ended = 0
        for key, account in self.accounts.items():
            if api_key in (None, key) and (limit is None or ended < limit):
                ended += self.wsapi.terminate(account) > 0
        return ended

    # ── replay: no capture of this venue ─────────────────────────────────────────────────────────────────────────
    def replay(self, capture: Capture) -> bool:
        return False

    def replays(self) -> list[dict[str, Any]]:
        return []

    def restart_replays(self, loop: bool | None) -> None:
        return


def split(qty: Decimal, parts: int, step: Decimal) -> list[Decimal]:
    """`qty` in `parts` quantities on the step grid; fewer where the quantity is too small. Empty for 0 parts."""
    if parts == 0:
        return []
    unit = max(step, (qty / parts) // step * step)
    count = max(1, min(parts, int(qty // unit)))
    return [unit] * (count - 1) + [qty - unit * (count - 1)]


def _instrument(market: SymbolMarket) -> Instrument:
    spec = market.spec
    tick, step = Decimal(1).scaleb(-spec.price_decimals), Decimal(1).scaleb(-spec.qty_decimals)
    return Instrument(spec.symbol, spec.base, spec.quote, tick, step, "spot")


def _wrap(form: int, name: str, payload: bytes) -> bytes:
    return b'{"stream":"%s","data":%s}' % (name.encode(), payload) if form else payload
