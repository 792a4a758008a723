"""Read-back of a Binance Spot account against an account kept in memory that answers by the documented rules: nothing missing,
nothing twice, and no more calls than needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import AccountEvent, Balance, Fill, Order
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Recovered, Verdict
from fleet.core.model import AccountSpec
from fleet.core.recovery import Booking, Watermark
from fleet.exchanges.binance_spot import pages, parse, recover_orders, rows, wire
from fleet.exchanges.binance_spot.recover import recover
from tests.unit.test_recovery import resting

NOW = 1_790_000_000_000
DAY = 86_400_000
SPEC = AccountSpec("acc", "u", "binance", "spot", "l", False, 1, NOW - 10 * DAY)
FEE = Decimal("0.001")
ASSETS = {"BTCUSDT": ("BTC", "USDT"), "ETHUSDT": ("ETH", "USDT"), "ETHBTC": ("ETH", "BTC"), "XYZABC": ("XYZ", "ABC")}


@pytest.fixture(autouse=True)
def not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """No symbol counts as in use, so that each test's weight is that of what it is about."""
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", -1)


def test_an_order_that_came_and_went_without_a_fill_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", 60_000)
    mark = Watermark(proven_ms=NOW - 1000, symbols={"BTCUSDT": NOW - 2000, "ETHUSDT": NOW - 70_000})
    dialogue, asked = recover(SPEC, mark, NOW), []
    account = {"balances": [], "updateTime": NOW - 5000}
    call = next(dialogue)
    with pytest.raises(StopIteration):
        while True:
            asked.append(f"{call.path.rpartition('/')[2]} {dict(call.params).get('symbol', '')}".strip())
            call = dialogue.send(HttpReply(200, {}, msgspec.json.encode(account if len(asked) == 1 else [])))
    assert asked == ["account", "allOrders BTCUSDT"]


def refused(code: str = "-1121") -> ExchangeRefused:
    return ExchangeRefused("call", Verdict(Outcome.PERMANENT, code))


def test_orders_that_cannot_be_asked_for_are_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", 60_000)
    dialogue = recover(SPEC, Watermark(proven_ms=NOW - 1000, symbols={"BTCUSDT": NOW - 2000}), NOW)
    next(dialogue)
    call = dialogue.send(HttpReply(200, {}, msgspec.json.encode({"balances": [], "updateTime": NOW - 5000})))
    assert call.path.endswith("allOrders")
    with pytest.raises(StopIteration) as end:
        dialogue.throw(refused())
    assert end.value.value.unrecoverable == "orders of BTCUSDT: permanent(-1121)"


def test_an_order_that_came_and_went_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", 60_000)
    exchange = Exchange()
    number = exchange.order("BTCUSDT", "BUY", "1", "100", NOW - 500, "CANCELED")
    dialogue = recover(SPEC, Watermark(proven_ms=NOW - 1000, symbols={"BTCUSDT": NOW - 2000}), NOW)
    next(dialogue)
    dialogue.send(HttpReply(200, {}, msgspec.json.encode({"balances": [], "updateTime": NOW - 5000})))
    with pytest.raises(StopIteration) as end:
        dialogue.send(HttpReply(200, {}, msgspec.json.encode([exchange.orders[number]])))
    (order,) = end.value.value.events
    assert isinstance(order, Order) and (order.order_id, order.status) == (str(number), "canceled")


@dataclass
class Exchange:
    """One account at the exchange. `lag` hides that many of the latest trades from the account call (once)."""

    wallets: dict[str, Decimal] = field(default_factory=lambda: {"USDT": Decimal(100_000), "BTC": Decimal(2)})
    locked: dict[str, Decimal] = field(default_factory=dict)
    trades: list[dict[str, Any]] = field(default_factory=list)
    allocations: list[dict[str, Any]] = field(default_factory=list)
    orders: dict[int, dict[str, Any]] = field(default_factory=dict)
    updated_ms: int = NOW - 9 * DAY
    gone: str = "-2013"  # what it says of an order that it does not know
    stale: list[bytes] = field(default_factory=list)  # replies of the account call to give first
    refuse: set[str] = field(default_factory=set)  # "path" or "path symbol" to refuse
    calls: list[HttpCall] = field(default_factory=list)

    def order(self, symbol: str, side: str, qty: str, price: str, at_ms: int, status: str = "NEW") -> int:
        number = len(self.orders) + 1
        self.orders[number] = {
            "symbol": symbol, "orderId": number, "clientOrderId": f"mine-{number}", "price": price, "origQty": qty,
            "executedQty": "0", "cummulativeQuoteQty": "0", "status": status, "timeInForce": "GTC", "type": "LIMIT", "side": side,
            "stopPrice": "0", "time": at_ms, "updateTime": at_ms,
        }  # fmt: skip
        base, quote = ASSETS[symbol]
        asset, amount = (quote, Decimal(qty) * Decimal(price)) if side == "BUY" else (base, Decimal(qty))
        if status == "NEW":
            self.locked[asset] = self.locked.get(asset, Decimal(0)) + amount
        self.updated_ms = max(self.updated_ms, at_ms)
        return number

    def end(self, number: int, status: str, at_ms: int) -> None:
        row = self.orders[number]
        base, quote = ASSETS[row["symbol"]]
        left = Decimal(row["origQty"])
        asset, amount = (quote, left * Decimal(row["price"])) if row["side"] == "BUY" else (base, left)
        self.locked[asset] -= amount
        row |= {"status": status, "updateTime": at_ms}
        self.updated_ms = max(self.updated_ms, at_ms)

    def trade(self, symbol: str, side: str, qty: str, price: str, at_ms: int) -> dict[str, Any]:
        """A market order filled at once; the fee is taken from what was got."""
        number = self.order(symbol, side, qty, price, at_ms - 1, "FILLED")
        cost = Decimal(qty) * Decimal(price)
        self.orders[number] |= {"executedQty": qty, "cummulativeQuoteQty": str(cost), "updateTime": at_ms}
        base, quote = ASSETS[symbol]
        got, gave = (base, quote) if side == "BUY" else (quote, base)
        amount, paid = (Decimal(qty), cost) if side == "BUY" else (cost, Decimal(qty))
        row = {
            "symbol": symbol, "id": len(self.trades), "orderId": number, "price": price, "qty": qty,
            "commission": str(amount * FEE), "commissionAsset": got, "time": at_ms, "isBuyer": side == "BUY", "isMaker": False,
        }  # fmt: skip
        self.trades.append(row)
        self.wallets[got] = self.wallets.get(got, Decimal(0)) + amount * (1 - FEE)
        self.wallets[gave] = self.wallets.get(gave, Decimal(0)) - paid
        self.updated_ms = max(self.updated_ms, at_ms)
        return row

    def routed(self, symbol: str, side: str, qty: str, price: str, at_ms: int) -> dict[str, Any]:
        """The same, by smart order routing: told as an allocation, whose numbers are not those of trades."""
        row = self.trade(symbol, side, qty, price, at_ms)
        self.trades.remove(row)
        self.orders[row["orderId"]]["usedSor"] = True
        del row["id"]
        row |= {"allocationId": len(self.allocations), "allocationType": "SOR", "isAllocator": False}
        self.allocations.append(row)
        return row

    # ── REST ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def account(self) -> bytes:
        rows = [
            {"asset": a, "free": str(w - self.locked.get(a, 0)), "locked": str(self.locked.get(a, 0))}
            for a, w in self.wallets.items()
            if w
        ]
        return msgspec.json.encode({"balances": rows, "updateTime": self.updated_ms})

    def answer(self, call: HttpCall) -> bytes:
        self.calls.append(call)
        where = dict(call.params)
        symbol = where.get("symbol", "")
        if {call.path, f"{call.path} {symbol}"} & self.refuse:
            raise refused()
        name = call.path.rpartition("/")[2]
        if name == "time":
            return msgspec.json.encode({"serverTime": NOW + 1})
        if name == "account":
            return self.stale.pop(0) if self.stale else self.account()
        if symbol and symbol not in ASSETS:
            raise refused()
        if name == "openOrders":
            return msgspec.json.encode(
                [o for o in self.orders.values() if o["status"] == "NEW" and symbol in ("", o["symbol"])]
            )
        if name == "order":
            order = self.orders.get(int(where["orderId"]))
            if order is None:
                raise refused(self.gone)
            return msgspec.json.encode(order)
        if name == "myAllocations":
            first, since_ms = int(where.get("fromAllocationId", 0)), int(where.get("startTime", 0))
            given = [r for r in self.allocations if r["symbol"] == symbol]
            given = [r for r in given if r["allocationId"] >= first and r["time"] >= since_ms]
            return msgspec.json.encode(given[: int(where["limit"])])
        rows, ident = (self.trades, "id") if name == "myTrades" else (list(self.orders.values()), "orderId")
        return msgspec.json.encode(self._page([r for r in rows if r["symbol"] == symbol], where, ident))

    @staticmethod
    def _page(rows: list[dict[str, Any]], where: dict[str, str], ident: str) -> list[dict[str, Any]]:
        limit, first = int(where["limit"]), where.get("fromId", where.get("orderId"))
        if first is not None:
            assert "startTime" not in where
            return [r for r in rows if r[ident] >= int(first)][:limit]
        if "startTime" in where:
            start, end = int(where["startTime"]), int(where.get("endTime", int(where["startTime"]) + DAY))
            assert end - start <= DAY
            return [r for r in rows if start <= r["time"] <= end][:limit]
        return rows[-limit:]

    def read(self, mark: Watermark, now_ms: int = NOW) -> Recovered:
        """One read-back; what it found is taken into the watermark."""
        self.calls.clear()
        found = self._drive(mark, now_ms)
        for event in found.events:
            mark.advance(event)
        mark.prove(found.snapshot, now_ms)
        return found

    def _drive(self, mark: Watermark, now_ms: int) -> Recovered:
        dialogue = recover(SPEC, mark, now_ms)
        try:
            call = next(dialogue)
            while True:
                try:
                    reply = HttpReply(200, {}, self.answer(call), now_ms)
                except ExchangeRefused as error:
                    call = dialogue.throw(error)
                else:
                    call = dialogue.send(reply)
        except StopIteration as end:
            found: Recovered = end.value
            return found

    @property
    def weight(self) -> int:
        return sum(call.weight for call in self.calls)

    def paths(self) -> list[str]:
        return [f"{c.path.rpartition('/')[2]} {dict(c.params).get('symbol', '')}".strip() for c in self.calls]


def proven(exchange: Exchange, at_ms: int = NOW - 3_600_000) -> Watermark:
    mark = Watermark(proven_ms=at_ms)
    exchange.read(mark, at_ms)
    return mark


def fills(found: Recovered) -> list[tuple[str, str]]:
    return [(e.symbol, e.trade_id) for e in found.events if isinstance(e, Fill)]


# ── A quiet account ──────────────────────────────────────────────────────────────────────────────────────────────
def test_quiet_account_costs_one_call() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    assert exchange.paths() == ["account"]  # first-ever read: nothing changed since the account is ours
    assert exchange.read(mark).events == [] and exchange.weight == 20


def test_quiet_account_with_resting_orders_costs_one_call_more() -> None:
    exchange = Exchange()
    exchange.order("BTCUSDT", "BUY", "0.1", "80000", NOW - 2 * DAY)
    mark = proven(exchange)
    assert exchange.paths()[:2] == ["account", "openOrders"]  # all symbols: none is known yet
    assert exchange.read(mark).events == [] and exchange.paths() == ["account", "openOrders BTCUSDT"]


def test_fills_that_the_stream_told_explain_the_wallets() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000.01", NOW - 1000)
    told = Exchange(
        wallets=dict(exchange.wallets), trades=exchange.trades, orders=exchange.orders, updated_ms=NOW - 1000
    )
    for event in told.read(Watermark(proven_ms=NOW - 2000, symbols={"BTCUSDT": 1})).events:
        mark.advance(event)  # as the socket would have
    assert exchange.read(mark).events == [] and exchange.weight == 20


# ── Missing fills ────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_fill_of_a_known_symbol_is_found_by_its_two_assets() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    for symbol in ("BTCUSDT", "ETHBTC"):
        mark.symbols[symbol] = NOW - DAY
    exchange.trade("BTCUSDT", "SELL", "0.5", "84000", NOW - 1000)
    found = exchange.read(mark)
    assert fills(found) == [("BTCUSDT", "0")] and found.unrecoverable == ""
    assert exchange.paths() == ["account", "myTrades BTCUSDT", "order BTCUSDT"] and exchange.weight == 44
    (order,) = [e for e in found.events if isinstance(e, Order)]
    assert (order.status, order.avg_price, order.client_order_id) == ("filled", "84000", "mine-1")
    assert {e.asset: e.ts_event for e in found.events if isinstance(e, Balance)} == {
        "BTC": NOW - 1000 + 1,
        "USDT": NOW - 1000 + 1,
    }
    assert exchange.read(mark).events == [] and exchange.weight == 20


def test_a_round_trip_that_cost_nothing_is_found_by_its_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FEE", Decimal(0))
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", 60_000)
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW - 5000
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 2000)
    exchange.trade("BTCUSDT", "SELL", "0.5", "84000", NOW - 1000)
    found = exchange.read(mark)
    assert fills(found) == [("BTCUSDT", "0"), ("BTCUSDT", "1")]
    assert exchange.paths() == ["account", "allOrders BTCUSDT", "myTrades BTCUSDT"]


def test_fills_of_symbols_that_never_traded_before_are_guessed() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 5000)
    exchange.trade("ETHUSDT", "BUY", "3", "3000", NOW - 4000)
    exchange.trade("ETHBTC", "SELL", "1", "0.04", NOW - 3000)
    found = exchange.read(mark)
    assert sorted(fills(found)) == [("BTCUSDT", "0"), ("ETHBTC", "2"), ("ETHUSDT", "1")]
    assert found.unrecoverable == "" and exchange.read(mark).events == []


def test_a_symbol_that_is_listed_no_more_loses_nothing_where_the_account_is_explained() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols = {"OLDUSDT": NOW - 300, "BTCUSDT": NOW - 400}
    exchange.wallets["OLD"] = Decimal(7)
    exchange.read(mark, NOW - 2000)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 600)
    exchange.trade("BTCUSDT", "SELL", "0.5", "84100", NOW - 500)
    exchange.wallets["BTC"] = Decimal(mark.wallets["BTC"])  # the fee as in BNB: only one leg shows it
    exchange.trades[0] |= {"commission": "0"}
    found = exchange.read(mark)
    assert "myTrades OLDUSDT" in exchange.paths() and fills(found) == [("BTCUSDT", "0"), ("BTCUSDT", "1")]
    assert (found.explained, found.unrecoverable) == (True, "")


def test_fills_between_quote_assets_of_the_future() -> None:
    """No name tells their legs: every known symbol is read."""
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["XYZABC"] = NOW - DAY
    exchange.wallets["ABC"] = Decimal(50)
    exchange.read(mark, NOW - 2000)
    exchange.trade("XYZABC", "BUY", "10", "2", NOW - 1000)
    assert fills(exchange.read(mark)) == [("XYZABC", "0")]


def test_a_deposit_makes_the_read_fuller_but_tells_no_fill() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols = {"BTCUSDT": NOW - 1000, "ETHBTC": NOW - DAY}
    exchange.wallets["USDT"] += 5
    exchange.updated_ms = NOW - 500
    found = exchange.read(mark)
    assert [type(e).__name__ for e in found.events] == ["Balance"] and found.events[0].ts_event == NOW - 500 + 1
    assert exchange.paths() == ["account", "myTrades BTCUSDT", "myTrades ETHBTC"]
    exchange.read(mark)
    assert exchange.weight == 20  # the new base has it


def moved(asset: str, amount: Any, at_ms: int) -> AccountEvent:
    event = {"e": "balanceUpdate", "E": at_ms + 1, "a": asset, "d": amount, "T": at_ms}
    frame = msgspec.json.encode({"subscriptionId": 0, "event": event})
    return parse.parse_user(frame, "acc", at_ms)[0]  # type: ignore[return-value]


def test_a_transfer_in_and_another_out_that_the_socket_told_are_no_untold_fill() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW - DAY
    exchange.wallets["USDT"] -= 500
    exchange.wallets["BTC"] += 1
    exchange.updated_ms = NOW - 500
    assert exchange._drive(mark, NOW).untold_ms == NOW - 500  # nobody told: it may have been a fill
    mark.advance(moved("USDT", "-500.00000000", NOW - 600))
    mark.advance(moved("BTC", "1.00000000", NOW - 500))
    for junk in (None, 5, "", "NaN", "1e999999"):
        mark.advance(moved("BTC", junk, NOW - 400))
    exchange.calls.clear()
    found = exchange._drive(mark, NOW)
    assert (found.untold_ms, found.explained, exchange.weight) == (0, True, 20)


def test_a_wallet_that_changed_twice_in_a_millisecond_is_told_as_newer_than_what_the_socket_told_of_the_first() -> None:
    """A market order is placed and filled at once, and the second push of the wallet was dropped: at equal times a sink takes the
    socket's word."""
    exchange = Exchange()
    mark = proven(exchange)
    exchange.updated_ms = NOW - 1000  # the next audit finds nothing: this one has told it
    state = wire.BalanceRow("USDT", "90000", "10000")
    mark.advance(parse.balance(state, NOW - 1000, "acc", NOW, "stream"))
    (told,) = exchange.read(mark).events
    assert isinstance(told, Balance) and (told.available, told.ts_event) == ("100000", NOW - 1000 + 1)
    assert f":{NOW - 1000}:" in told.id, "as the socket would have called it"


def test_an_old_copy_of_a_wallet_is_not_told_as_of_the_trade_that_it_does_not_show() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 20_000)
    exchange.stale = [exchange.account()] * 3
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 10_000)
    told = [e for e in exchange.read(mark).events if isinstance(e, Balance)]
    assert {e.asset for e in told} == {"BTC", "USDT"} and {e.ts_event for e in told} == {NOW - 20_000 + 1}


def test_a_deposit_after_the_last_trade_is_told_as_newer_than_that_trade() -> None:
    """With the trade's own time, the socket's word of that trade would outrank it in Postgres."""
    exchange = Exchange()
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 9000)
    told = exchange._drive(mark, NOW - 8000).events  # by the socket: the watermark has it, the base has not
    for event in told:
        mark.advance(event)
    exchange.wallets["USDT"] += 5
    exchange.updated_ms = NOW - 500
    (balance,) = exchange.read(mark).events
    assert isinstance(balance, Balance) and (balance.asset, balance.ts_event) == ("USDT", NOW - 500 + 1)


def test_a_wallet_of_a_known_fill_is_told_as_newer_than_an_order_that_rests() -> None:
    """The socket died between a fill and its balances. With the time of the order that is read, they would not outrank the
    balances of the fill before."""
    exchange = Exchange()
    exchange.order("BTCUSDT", "BUY", "0.1", "80000", NOW - 2 * DAY)
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 9000)
    (fill,) = [e for e in exchange._drive(mark, NOW - 8000).events if isinstance(e, Fill)]
    mark.advance(fill)
    found = exchange.read(mark)
    assert exchange.paths() == ["account", "openOrders BTCUSDT"]
    assert {e.asset: e.ts_event for e in found.events if isinstance(e, Balance)} == {
        "BTC": NOW - 9000 + 1,
        "USDT": NOW - 9000 + 1,
    }


def test_an_account_that_lags_behind_its_trades_is_asked_again() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW - 500
    exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 900)
    exchange.stale = [exchange.account()]
    exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 800)
    found = exchange.read(mark)
    assert len(fills(found)) == 2
    assert exchange.paths() == ["account", "myTrades BTCUSDT", "time", "account", "order BTCUSDT", "order BTCUSDT"]
    assert mark.wallets["BTC"] == str(exchange.wallets["BTC"])


def test_a_fill_that_the_socket_told_counts_where_rest_does_not_show_it_yet() -> None:
    """An account that lags as much is explained without it and becomes the base: that fill is none of it."""
    exchange = Exchange()
    mark = proven(exchange)
    before = exchange.account()
    row = exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 500)
    mark.advance(rows.fill(msgspec.convert(row, wire.TradeRow), "", "acc", NOW))
    exchange.trades.remove(row)
    exchange.stale = [before, before, before]
    mark.prove(exchange._drive(mark, NOW).snapshot, NOW)
    exchange.trades.append(row)
    exchange.stale = []
    found = exchange._drive(mark, NOW + 5000)
    assert found.explained and fills(found) == []


def test_a_fill_that_rest_hides_is_older_than_the_known_one_that_came_after_it() -> None:
    """The account went on trading after the gap: with the time of that the gap would have closed, the hidden fill lost for good."""
    exchange = Exchange()
    mark = proven(exchange)
    base = mark.base
    assert base is not None
    hidden = exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 9000)
    exchange.trades.remove(hidden)
    exchange.orders[hidden["orderId"]] |= {"executedQty": "0", "status": "NEW"}  # which lags as much
    assert exchange._drive(mark, NOW).untold_ms == NOW - 9000
    for at_ms, untold_ms in (
        (NOW - 500, base.at_ms + 1),
        (NOW + 2, NOW + 2),
    ):  # that one came while the account was asked for
        row = exchange.trade("BTCUSDT", "BUY", "0.1", "84000", at_ms)
        mark.advance(rows.fill(msgspec.convert(row, wire.TradeRow), "", "acc", NOW))
        assert exchange._drive(mark, NOW).untold_ms == untold_ms
    mark.book(Booking(base.at_ms + 5, "BTCUSDT|", "0", "USDT", "-1", "0", "88/88"))  # may be in the base
    exchange.updated_ms = NOW - 500
    assert exchange._drive(mark, NOW).untold_ms == NOW - 500


def test_the_same_for_a_symbol_that_was_guessed() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 900)
    exchange.stale = [exchange.account()]
    exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 800)
    assert len(fills(exchange.read(mark))) == 2
    assert exchange.paths() == ["account", "myTrades BTCUSDT", "time", "account", "order BTCUSDT", "order BTCUSDT"]


def test_an_account_without_any_balance_is_asked_again_before_all_wallets_are_told_as_empty() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    exchange.stale = [msgspec.json.encode({"balances": [], "updateTime": exchange.updated_ms})]
    assert exchange.read(mark).events == [] and exchange.paths() == ["account", "account"]
    exchange.wallets = {}
    assert {e.asset for e in exchange.read(mark).events if isinstance(e, Balance)} == {"USDT", "BTC"}


def test_a_wallet_that_was_emptied_is_told() -> None:
    exchange = Exchange(wallets={"USDT": Decimal(5), "BTC": Decimal(1)})
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "SELL", "1", "84000", NOW - 1000)
    found = exchange.read(mark)
    assert [Decimal(e.wallet) for e in found.events if isinstance(e, Balance) and e.asset == "BTC"] == [0]
    assert "BTC" not in mark.wallets


def test_trades_that_are_booked_are_not_told_again_and_their_orders_not_asked_for() -> None:
    """The symbol is read for one missing fill; what the stream had told of it before is known."""
    exchange = Exchange()
    mark = proven(exchange)
    for n in range(8):
        exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 5000 + n)
    known = Exchange(
        wallets=dict(exchange.wallets), trades=list(exchange.trades), orders=dict(exchange.orders), updated_ms=NOW
    )
    for event in known.read(Watermark(proven_ms=NOW - 6000, symbols={"BTCUSDT": 1})).events:
        mark.advance(event)
    exchange.trade("BTCUSDT", "SELL", "0.1", "84000", NOW - 1000)
    found = exchange.read(mark)
    assert fills(found) == [("BTCUSDT", "8")] and exchange.weight == 44
    assert exchange.paths() == ["account", "myTrades BTCUSDT", "order BTCUSDT"]


@pytest.mark.parametrize("lost", range(3))
def test_equal_fills_of_one_millisecond_are_told_apart(lost: int) -> None:
    """A sweep of equal resting orders: same time, price and quantity. Whichever of them the socket lost is found."""
    exchange = Exchange()
    mark = proven(exchange)
    for _ in range(3):
        exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 1000)
    known = Exchange(
        wallets=dict(exchange.wallets), trades=list(exchange.trades), orders=dict(exchange.orders), updated_ms=NOW
    )
    for event in known.read(Watermark(proven_ms=NOW - 6000, symbols={"BTCUSDT": 1})).events:
        if not (isinstance(event, Fill) and event.trade_id == str(lost)):
            mark.advance(event)
    assert ("BTCUSDT", str(lost)) in fills(exchange.read(mark))


# ── Smart order routing ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def in_use(monkeypatch: pytest.MonkeyPatch, not_in_use: None) -> None:
    """Orders of the symbols used last are asked for at once."""
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", 60_000)


def test_a_fill_by_smart_order_routing_is_found_among_the_allocations(in_use: None) -> None:
    exchange = Exchange()
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 2000)
    exchange.routed("BTCUSDT", "SELL", "0.2", "84010", NOW - 1000)
    mark.symbols["BTCUSDT"] = NOW - 5000
    found = exchange.read(mark)
    assert fills(found) == [("BTCUSDT", "0"), ("BTCUSDT", "alloc-0")]
    assert found.explained and not found.untold_ms and found.unrecoverable == ""
    (fill,) = [e for e in found.events if isinstance(e, Fill) and e.trade_id == "alloc-0"]
    assert fill.id == "binance:spot:acc:fill:BTCUSDT:alloc-0:2"
    assert (fill.client_order_id, fill.side, fill.qty, fill.fee_asset) == ("mine-2", "sell", "0.2", "USDT")
    assert exchange.paths()[-1] == "myAllocations BTCUSDT"
    assert exchange.read(mark).events == [] and "myAllocations BTCUSDT" not in exchange.paths(), "it is known now"


def test_known_allocations_still_explain_the_account_when_trades_are_read_again(in_use: None) -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW - 5000
    exchange.routed("BTCUSDT", "SELL", "0.2", "84010", NOW - 2000)
    for event in exchange._drive(mark, NOW).events:
        mark.advance(event)  # as the socket would have
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)
    exchange.routed("BTCUSDT", "BUY", "0.1", "84000", NOW - 900)
    found = exchange.read(mark)
    assert fills(found) == [("BTCUSDT", "0"), ("BTCUSDT", "alloc-1")] and found.explained


def test_allocations_are_asked_for_where_an_order_lacks_fills_even_if_it_does_not_say_why(in_use: None) -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols = {"BTCUSDT": NOW - 5000, "ETHUSDT": NOW - 5000}
    exchange.trade("ETHUSDT", "BUY", "3", "3000", NOW - 2000)
    del exchange.orders[exchange.routed("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)["orderId"]]["usedSor"]
    assert ("BTCUSDT", "alloc-0") in fills(exchange.read(mark))
    assert [path for path in exchange.paths() if "Alloc" in path] == ["myAllocations BTCUSDT"]


@pytest.mark.parametrize("gap_ms", [3_600_000, 5 * DAY])
def test_many_allocations_are_paged(in_use: None, monkeypatch: pytest.MonkeyPatch, gap_ms: int) -> None:
    for module in (pages, rows):
        monkeypatch.setattr(module, "PAGE", 3)
    exchange = Exchange()
    exchange.routed("BTCUSDT", "BUY", "0.01", "84000", NOW - 8 * DAY)
    mark = proven(exchange, NOW - gap_ms)
    mark.symbols["BTCUSDT"] = NOW - 5000
    for n in range(7):
        exchange.routed("BTCUSDT", "BUY", "0.01", "84000", NOW - 1000 + n)
    assert fills(exchange.read(mark)) == [("BTCUSDT", f"alloc-{n}") for n in range(1, 8)]


def test_a_read_of_orders_asks_for_allocations_too_and_tells_what_is_refused() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW - 3_700_000
    exchange.routed("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)
    mark.scope = "orders"
    assert fills(exchange._drive(mark, NOW)) == [("BTCUSDT", "alloc-0")]
    exchange.refuse = {"/api/v3/myAllocations"}
    assert exchange._drive(mark, NOW).unrecoverable == "allocations of BTCUSDT: permanent(-1121)"


# ── First-ever read ──────────────────────────────────────────────────────────────────────────────────────────────
def test_first_read_of_an_account_that_traded_since_it_is_ours() -> None:
    exchange = Exchange()
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 9 * DAY)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)
    found = exchange.read(Watermark(proven_ms=NOW - 10 * DAY))
    assert fills(found) == [("BTCUSDT", "0"), ("BTCUSDT", "1")] and found.unrecoverable == ""


# ── Long gaps and many rows ──────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("gap_ms", [3_600_000, 5 * DAY])
def test_many_fills_are_paged(monkeypatch: pytest.MonkeyPatch, gap_ms: int) -> None:
    monkeypatch.setattr(pages, "PAGE", 10)
    monkeypatch.setattr(rows, "PAGE", 10)
    exchange = Exchange(wallets={"USDT": Decimal(10**7), "BTC": Decimal(2)})
    for n in range(5):
        exchange.trade("BTCUSDT", "BUY", "0.001", "84000", NOW - gap_ms - 5000 + n)
    mark = Watermark(proven_ms=NOW - gap_ms, symbols={"BTCUSDT": NOW - gap_ms})
    exchange.read(mark, NOW - gap_ms)
    for n in range(35):
        exchange.trade("BTCUSDT", "BUY", "0.001", "84000", NOW - gap_ms // 2 + n)
    found = exchange.read(mark)
    assert [int(e.trade_id) for e in found.events if isinstance(e, Fill)] == list(range(5, 40))
    assert len({e.order_id for e in found.events if isinstance(e, Order)}) == 35
    assert exchange.read(mark).events == []


def test_a_trade_with_oneself_at_the_edge_of_a_page_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 3)
    monkeypatch.setattr(rows, "PAGE", 3)
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW
    for side in ("BUY", "BUY", "BUY", "SELL", "SELL"):
        exchange.trade("BTCUSDT", side, "0.1", "84000", NOW - 1000)
    exchange.trades[3]["id"] = exchange.trades[2]["id"]  # two orders of one account met: one trade id for both
    assert len(fills(exchange.read(mark))) == 5


def test_a_long_gap_with_few_fills_costs_no_windows() -> None:
    exchange = Exchange()
    mark = proven(exchange, NOW - 60 * DAY)
    mark.symbols["BTCUSDT"] = 1
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 30 * DAY)
    assert fills(exchange.read(mark)) == [("BTCUSDT", "0")] and exchange.weight == 44


def test_a_gap_beyond_what_is_read_says_so() -> None:
    exchange = Exchange()
    mark = proven(exchange, NOW - 200 * DAY)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)
    found = exchange.read(mark)
    assert fills(found) == [("BTCUSDT", "0")] and "is not read" in found.unrecoverable


def test_pages_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pages, rows):
        monkeypatch.setattr(module, "PAGE", 1)
    monkeypatch.setattr(pages, "MAX_PAGES", 2)
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW
    for n in range(5):
        exchange.trade("BTCUSDT", "BUY", "0.1", "84000", NOW - 1000 + n)
    with pytest.raises(ConnectionFailed, match="do not end"):
        exchange.read(mark)


# ── Orders ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_order_that_ended_in_the_gap_is_asked_for() -> None:
    exchange = Exchange()
    number = exchange.order("BTCUSDT", "BUY", "0.1", "80000", NOW - 2 * DAY)
    mark = proven(exchange)
    assert mark.open_orders() == [("BTCUSDT", str(number))]
    exchange.end(number, "CANCELED", NOW - 1000)
    found = exchange.read(mark)
    assert [(e.order_id, e.status, e.source) for e in found.events if isinstance(e, Order)] == [
        (str(number), "canceled", "rest")
    ]
    assert exchange.paths() == ["account", "order BTCUSDT"] and mark.orders == {}  # nothing is locked: none can be open


def test_many_orders_that_ended_cost_a_page_and_not_one_call_each() -> None:
    exchange = Exchange()
    numbers = [exchange.order("BTCUSDT", "BUY", "0.001", "80000", NOW - 2 * DAY + n) for n in range(40)]
    mark = proven(exchange)
    for number in numbers[:-1]:
        exchange.end(number, "CANCELED", NOW - 1000)
    found = exchange.read(mark)
    assert {e.order_id for e in found.events if isinstance(e, Order)} == {str(n) for n in numbers[:-1]}
    assert exchange.paths() == ["account", "openOrders BTCUSDT", "allOrders BTCUSDT"] and exchange.weight == 46
    assert mark.open_orders() == [("BTCUSDT", str(numbers[-1]))]


def test_a_new_order_of_an_unknown_symbol_shows_by_what_is_locked() -> None:
    exchange = Exchange()
    exchange.order("BTCUSDT", "BUY", "0.1", "80000", NOW - 2 * DAY)
    mark = proven(exchange)
    other = exchange.order("ETHUSDT", "BUY", "1", "2000", NOW - 1000)
    found = exchange.read(mark)
    assert [e.order_id for e in found.events if isinstance(e, Order)] == [str(other)]
    assert exchange.paths() == ["account", "openOrders BTCUSDT", "openOrders"] and exchange.weight == 106


def test_an_order_with_a_symbol_of_unknown_legs_costs_the_big_call() -> None:
    exchange = Exchange(wallets={"Q": Decimal(5)})
    exchange.order("XYZABC", "BUY", "1", "2", NOW - 2 * DAY)
    exchange.locked = {"Q": Decimal(1)}
    mark = proven(exchange)
    exchange.read(mark)
    assert exchange.paths() == ["account", "openOrders XYZABC", "openOrders"]


def test_an_order_that_the_exchange_forgot_is_not_kept_as_open() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    mark.orders = resting("BTCUSDT|77")
    mark.symbols["BTCUSDT"] = NOW - 1000
    exchange.read(mark)
    assert mark.open_orders() == [("BTCUSDT", "77")]  # perhaps REST does not show it yet
    mark.symbols["BTCUSDT"] = NOW - DAY
    found = exchange.read(mark)
    assert mark.orders == {}
    assert found.unrecoverable == "order 77 of BTCUSDT: permanent(-2013)"  # no order that was open ends like that


def test_an_order_that_the_exchange_archived_is_told_as_canceled() -> None:
    exchange = Exchange(gone="-2026")
    mark = proven(exchange)
    number = exchange.order("BTCUSDT", "BUY", "1", "100", NOW - 100 * DAY, "NEW")
    event = rows.order(msgspec.convert(exchange.orders[number], wire.OrderRow), "acc", NOW)
    assert event is not None
    mark.advance(event)
    del exchange.orders[number]
    found = exchange.read(mark)
    assert [(e.order_id, e.status, e.ts_event) for e in found.canceled] == [(str(number), "canceled", NOW)]
    assert (found.unrecoverable, mark.orders) == ("", {})


def test_the_order_of_a_fill_may_be_older_than_the_gap() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    trade = exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)
    exchange.orders[trade["orderId"]]["time"] = NOW - 3 * DAY
    found = exchange.read(mark)
    assert {e.client_order_id for e in found.events if isinstance(e, Fill)} == {"mine-1"}
    assert exchange.paths()[-1] == "order BTCUSDT"


def test_an_order_status_of_the_future_is_told_as_lost() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    trade = exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)
    exchange.orders[trade["orderId"]]["status"] = "PARKED"
    assert "unknown status PARKED" in exchange.read(mark).unrecoverable


# ── Refusals and odd replies ─────────────────────────────────────────────────────────────────────────────────────
def test_refused_calls_are_told_and_do_not_end_the_read_back() -> None:
    exchange = Exchange()
    exchange.order("BTCUSDT", "BUY", "0.1", "80000", NOW - 2 * DAY)
    mark = proven(exchange)
    exchange.trade("BTCUSDT", "BUY", "0.5", "84000", NOW - 1000)
    exchange.refuse = {"/api/v3/openOrders BTCUSDT", "/api/v3/myTrades BTCUSDT"}
    found = exchange.read(mark, NOW - 700)
    assert "open orders of BTCUSDT" in found.unrecoverable and "fills of BTCUSDT" in found.unrecoverable

    for n in range(6):  # so many that all orders of the symbol are asked for
        exchange.trade("BTCUSDT", "BUY", "0.01", "84000", NOW - 500 + n)
    exchange.refuse = {"/api/v3/allOrders"}
    found = exchange.read(mark)
    assert "orders of BTCUSDT" in found.unrecoverable
    assert [e.client_order_id for e in found.events if isinstance(e, Fill)] == [f"mine-{n}" for n in range(3, 9)]


def test_an_unreadable_reply_is_tried_again_later() -> None:
    dialogue = recover(SPEC, Watermark(proven_ms=NOW), NOW)
    next(dialogue)
    with pytest.raises(ConnectionFailed):
        dialogue.send(HttpReply(200, {}, b"<html>"))


# ── Fills alone, and proofs ──────────────────────────────────────────────────────────────────────────────────────
def test_a_read_of_fills_and_a_proof_look_at_little() -> None:
    exchange = Exchange()
    for symbol, price in (("BTCUSDT", "80000"), ("ETHUSDT", "3000")):
        exchange.order(symbol, "BUY", "0.1", price, NOW - 2 * DAY)
    mark = proven(exchange)
    mark.scope = "fills"
    assert exchange.read(mark).events == [] and exchange.paths() == ["account"]
    mark.scope = "proof"
    looked = {exchange.read(mark, NOW + minute * 60_000).events == [] and exchange.paths()[1] for minute in range(2)}
    assert looked == {"openOrders BTCUSDT", "openOrders ETHUSDT"} and exchange.weight == 26, (
        "another symbol each minute"
    )
    exchange.refuse = {"/api/v3/openOrders ETHUSDT", "/api/v3/openOrders BTCUSDT"}
    assert "open orders of" in exchange.read(mark).unrecoverable
    exchange.refuse = set()
    mark.orders = {}
    assert (
        exchange.read(mark).events == [] and exchange.weight == 20
    )  # something is locked, and an audit in four asks for what


@pytest.mark.parametrize("minute", [0, 1])
def test_a_proof_finds_the_end_of_an_order_that_the_socket_dropped_by_what_is_locked(minute: int) -> None:
    """Of whichever symbol: the wallets are as they were, and the next full audit may be an hour away."""
    exchange = Exchange()
    numbers = [exchange.order(symbol, "BUY", "0.1", "3000", NOW - 2 * DAY) for symbol in ("BTCUSDT", "ETHUSDT")]
    numbers.append(exchange.order("ETHBTC", "SELL", "0", "1", NOW - 2 * DAY))
    mark = proven(exchange)
    mark.scope = "proof"
    exchange.end(numbers[1], "CANCELED", NOW - 1000)
    found = exchange.read(mark, NOW + minute * 60_000)
    assert [(e.order_id, e.status) for e in found.events if isinstance(e, Order)] == [(str(numbers[1]), "canceled")]


def test_a_proof_finds_an_order_that_was_placed_in_a_known_symbol_by_what_it_locks() -> None:
    exchange = Exchange()
    for symbol in ("BTCUSDT", "ETHUSDT"):
        exchange.order(symbol, "BUY", "0.1", "3000", NOW - 2 * DAY)
    mark = proven(exchange)
    mark.scope = "proof"
    placed = {exchange.order(symbol, "BUY", "0.1", "2999", NOW - 1000) for symbol in ("BTCUSDT", "ETHUSDT")}
    assert {int(e.order_id) for e in exchange.read(mark).events if isinstance(e, Order)} == placed


def test_a_proof_tells_an_amended_order_also_where_an_old_copy_hid_that_from_the_proof_before() -> None:
    exchange = Exchange()
    number = exchange.order("BTCUSDT", "BUY", "0.1", "3000", NOW - 2 * DAY)
    mark = proven(exchange, NOW - 30_000)
    mark.scope = "proof"
    exchange.orders[number] |= {"origQty": "0.04", "updateTime": NOW - 60_000}
    exchange.locked["USDT"] = Decimal(120)
    told = [(e.order_id, e.qty) for e in exchange.read(mark).events if isinstance(e, Order)]
    assert told == [(str(number), "0.04")] and exchange.read(mark).events == []


# ── Orders that came and went ────────────────────────────────────────────────────────────────────────────────────
def test_orders_of_a_symbol_used_an_hour_ago_are_left_unasked_and_told_by_a_read_of_orders() -> None:
    exchange = Exchange()
    mark = proven(exchange)
    exchange.order("ETHUSDT", "SELL", "1", "100", NOW - 5 * 3_600_000, "CANCELED")  # before the gap
    number = exchange.order("ETHUSDT", "SELL", "1", "100", NOW - 500, "CANCELED")
    mark.proven_ms, mark.symbols = NOW - 1000, {"ETHUSDT": NOW - 3_700_000, "BTCUSDT": NOW - DAY}
    found = exchange._drive(mark, NOW)
    assert found.events == [] and found.unasked
    for scope in ("fills", "proof"):
        mark.scope = scope
        assert not exchange._drive(mark, NOW).unasked
    mark.scope = "orders"
    exchange.calls.clear()
    found = exchange._drive(mark, NOW)
    assert [(e.order_id, e.status, e.source) for e in found.events if isinstance(e, Order)] == [
        (str(number), "canceled", "rest")
    ]
    assert (
        exchange.paths() == ["allOrders BTCUSDT", "allOrders ETHUSDT"] and exchange.weight == 40 and not found.unasked
    )


def test_five_symbols_are_asked_and_where_these_were_asked_at_once_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange = Exchange()
    mark = proven(exchange)
    assert not exchange._drive(mark, NOW).unasked, "no symbol is known: there is nobody to ask"
    mark.symbols = {"BTCUSDT": NOW - 100, "ETHUSDT": NOW - 200}
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", 60_000)
    assert not exchange._drive(mark, NOW).unasked
    mark.symbols |= {f"OLD{n}USDT": n for n in range(9)}
    assert exchange._drive(mark, NOW).unasked
    mark.scope = "orders"
    exchange.calls.clear()
    found = exchange._drive(mark, NOW)
    assert exchange.paths() == [f"allOrders {s}" for s in ("BTCUSDT", "ETHUSDT", "OLD6USDT", "OLD7USDT", "OLD8USDT")]
    assert "orders of OLD6USDT: permanent(-1121)" in found.unrecoverable, "it is not listed any more"


def test_a_round_trip_without_a_trace_is_told_by_a_read_of_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.unit.test_binance_spot_recover as here

    monkeypatch.setattr(here, "FEE", Decimal(0))
    exchange = Exchange()
    mark = proven(exchange)
    mark.proven_ms, mark.symbols = NOW - 1000, {"BTCUSDT": NOW - 3_700_000}
    exchange.trade("BTCUSDT", "BUY", "1", "100", NOW - 500)
    exchange.trade("BTCUSDT", "SELL", "1", "100", NOW - 400)
    assert fills(exchange._drive(mark, NOW)) == []
    mark.scope = "orders"
    assert fills(exchange._drive(mark, NOW)) == [("BTCUSDT", "0"), ("BTCUSDT", "1")]


def test_an_order_that_is_ahead_of_its_trades_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover_orders, "ACTIVE_MS", 2 * DAY)
    exchange = Exchange()
    mark = proven(exchange)
    mark.symbols["BTCUSDT"] = NOW - DAY
    trade = exchange.trade("BTCUSDT", "SELL", "0.5", "84000", NOW - 1000)
    exchange.trades.remove(trade)
    behind = exchange.read(mark)
    assert (behind.explained, fills(behind), behind.untold_ms) == (False, [], NOW - 1000)
    exchange.trades.append(trade)
    assert exchange.read(mark).untold_ms == 0


# ── What is free of a wallet ─────────────────────────────────────────────────────────────────────────────────────
def test_orders_that_were_placed_or_ended_unfilled_in_the_gap_change_what_is_free_of_a_wallet() -> None:
    exchange = Exchange()
    number = exchange.order("BTCUSDT", "BUY", "0.5", "80000", NOW - 2 * DAY)
    mark = proven(exchange)
    exchange.end(number, "CANCELED", NOW - 60_000)
    exchange.order("BTCUSDT", "SELL", "1.5", "90000", NOW - 30_000)
    found = exchange.read(mark)
    balances = {e.asset: e for e in found.events if isinstance(e, Balance)}
    assert {asset: (b.wallet, b.available) for asset, b in balances.items()} == {
        "USDT": ("100000.0", "100000.0"), "BTC": ("2.0", "0.5"),
    }  # fmt: skip
    assert exchange.read(mark).events == []


def test_fills_of_resting_orders_that_cancel_each_other_out_are_told_with_their_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import tests.unit.test_binance_spot_recover as here

    monkeypatch.setattr(here, "FEE", Decimal(0))
    exchange = Exchange()
    first = proven(exchange)
    resting_ones = [exchange.order("BTCUSDT", side, "1", "100", NOW - 2 * DAY) for side in ("BUY", "SELL")]
    for event in exchange._drive(first, NOW).events:
        first.advance(event)
    mark = proven(exchange)
    for number in resting_ones:  # filled at one price, without a fee: the wallets are as they were
        exchange.end(number, "FILLED", NOW - 500)
        exchange.orders[number] |= {"executedQty": "1", "cummulativeQuoteQty": "100"}
        exchange.trades.append({
            "symbol": "BTCUSDT", "id": number, "orderId": number, "price": "100", "qty": "1", "commission": "0",
            "commissionAsset": "USDT", "time": NOW - 500, "isBuyer": number == resting_ones[0], "isMaker": True,
        })  # fmt: skip
    found = exchange.read(mark)
    assert [(e.order_id, e.status) for e in found.events if isinstance(e, Order)] == [("1", "filled"), ("2", "filled")]
    assert fills(found) == [("BTCUSDT", "1"), ("BTCUSDT", "2")]


def test_a_read_of_orders_does_not_tell_fills_of_other_orders_again() -> None:
    """It does not know their names, and who keeps the last record of a fill would lose it."""
    exchange = Exchange()
    mark = proven(exchange)
    mark.proven_ms, mark.symbols = NOW - 1000, {"BTCUSDT": NOW - 3_700_000}
    older = exchange.trade("BTCUSDT", "BUY", "1", "100", NOW - 900)
    exchange.orders[older["orderId"]]["time"] = (
        NOW - DAY
    )  # told by the stream, so long ago that the watermark forgot it
    exchange.trade("BTCUSDT", "BUY", "1", "100", NOW - 500)
    mark.scope = "orders"
    told = [e for e in exchange._drive(mark, NOW).events if isinstance(e, Fill)]
    assert [(e.trade_id, e.client_order_id) for e in told] == [("1", "mine-2")]
