"""Read-back of Binance USDⓈ-M against a small account in memory that answers the calls as the exchange would."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.events import Balance, Fill, Order, Position, UserRecord
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Recovered, Verdict
from fleet.core.model import AccountSpec
from fleet.core.recovery import Snapshot, Watermark
from fleet.exchanges import exchanges
from fleet.exchanges.binance_usdm import findings, recover_fills, recover_orders
from tests.unit.test_recovery import resting

X = exchanges()["binance_usdm"]
SPEC = AccountSpec("acc", "u", "binance", "usdm", "l", False, 1, 0)
DAY = 86_400_000
T0 = 1_790_000_000_000
Refuse = dict[str, int]


def small(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Small pages, or few."""
    for module in (recover_fills, recover_orders):
        for name, value in limits.items():
            monkeypatch.setattr(module, name, value)


class Venue:
    """One account's truth. `trade` makes an order with one fill; replies and stream frames both come from it."""

    def __init__(self, wallet: str = "1000") -> None:
        self.wallets: dict[str, list[Any]] = {"USDT": [Decimal(wallet), T0 - DAY]}
        self.positions: dict[tuple[str, str], list[Any]] = {}
        self.orders: list[dict[str, Any]] = []
        self.trades: list[dict[str, Any]] = []
        self.conditional: list[dict[str, Any]] = []
        self.income: list[dict[str, Any]] = []
        self.calls: list[HttpCall] = []
        self.refuse: Refuse = {}
        self.now_ms = T0
        self.page = 1000

    def order(
        self, symbol: str, side: str, qty: str, at_ms: int, status: str = "NEW", filled: str = "0"
    ) -> dict[str, Any]:
        row = {
            "symbol": symbol,
            "orderId": len(self.orders) + 1,
            "clientOrderId": f"c{len(self.orders) + 1}",
            "side": side,
            "positionSide": "BOTH",
            "type": "LIMIT",
            "timeInForce": "GTC",
            "status": status,
            "price": "10.0",
            "stopPrice": "0",
            "origQty": qty,
            "executedQty": filled,
            "avgPrice": "10.0",
            "reduceOnly": False,
            "time": at_ms,
            "updateTime": at_ms,
        }
        self.orders.append(row)
        return row

    def trade(self, symbol: str, side: str, qty: str, at_ms: int, fee: str = "0.01", pnl: str = "0") -> list[bytes]:
        row = self.order(symbol, side, qty, at_ms, "FILLED", qty)
        return self.fill(row, at_ms, fee, pnl)

    def fill(self, row: dict[str, Any], at_ms: int, fee: str = "0.01", pnl: str = "0") -> list[bytes]:
        symbol, side, qty = row["symbol"], row["side"], row["origQty"]
        row |= {"status": "FILLED", "executedQty": qty, "updateTime": at_ms}
        trade = {
            "symbol": symbol,
            "id": len(self.trades) + 1,
            "orderId": row["orderId"],
            "side": side,
            "positionSide": "BOTH",
            "price": "10.0",
            "qty": qty + ".000" if "." not in qty else qty,
            "commission": fee,
            "commissionAsset": "USDT",
            "realizedPnl": pnl,
            "maker": True,
            "time": at_ms,
        }
        self.trades.append(trade)
        self.income.append({"symbol": symbol, "incomeType": "COMMISSION", "time": at_ms})
        position = self.positions.setdefault((symbol, "BOTH"), [Decimal(0), 0])
        position[0] += Decimal(qty) if side == "BUY" else -Decimal(qty)
        position[1] = at_ms
        self.wallets["USDT"] = [self.wallets["USDT"][0] + Decimal(pnl) - Decimal(fee), at_ms]
        o = {
            "s": symbol,
            "c": row["clientOrderId"],
            "S": side,
            "o": "LIMIT",
            "f": "GTC",
            "q": qty,
            "p": "10.0",
            "ap": "10.0",
            "sp": "0",
            "x": "TRADE",
            "X": "FILLED",
            "i": row["orderId"],
            "l": qty,
            "z": qty,
            "L": "10.0",
            "n": fee,
            "N": "USDT",
            "T": at_ms,
            "t": trade["id"],
            "m": True,
            "R": False,
            "ps": "BOTH",
            "rp": pnl,
        }
        a = {
            "B": [{"a": "USDT", "wb": str(self.wallets["USDT"][0]), "bc": "0"}],
            "P": [{"s": symbol, "pa": str(position[0]), "ep": "10.0", "up": "0", "mt": "cross", "ps": "BOTH"}],
        }
        return [
            json.dumps({"e": "ACCOUNT_UPDATE", "T": at_ms, "E": at_ms, "a": a}).encode(),
            json.dumps({"e": "ORDER_TRADE_UPDATE", "T": at_ms, "E": at_ms, "o": o}).encode(),
        ]

    def answer(self, call: HttpCall) -> Any:
        p: dict[str, Any] = dict(call.params)
        name = call.path.rpartition("/")[2]
        mine = lambda rows: [r for r in rows if p.get("symbol", r["symbol"]) == r["symbol"]]  # noqa: E731
        if name == "account":
            listed = {
                k: v
                for k, v in self.positions.items()
                if v[0] or any(o["symbol"] == k[0] and o["status"] == "NEW" for o in self.orders)
            }
            for o in self.orders:
                if o["status"] == "NEW":
                    listed.setdefault((o["symbol"], "BOTH"), [Decimal(0), 0])
            return {
                "totalOpenOrderInitialMargin": "0",
                "assets": [
                    {"asset": a, "walletBalance": str(w), "availableBalance": str(w), "updateTime": t}
                    for a, (w, t) in self.wallets.items()
                ],
                "positions": [
                    {"symbol": s, "positionSide": side, "positionAmt": str(q), "unrealizedProfit": "0", "updateTime": t}
                    for (s, side), (q, t) in listed.items()
                ],
            }
        if name == "positionRisk":
            return [
                {"symbol": s, "positionSide": d, "entryPrice": "10.0"} for (s, d), (q, _) in self.positions.items() if q
            ]
        if name == "time":
            return {"serverTime": self.now_ms}
        if name == "openOrders":
            return [o for o in mine(self.orders) if o["status"] == "NEW"]
        if name == "openAlgoOrders":
            return [o for o in mine(self.conditional) if o["algoStatus"] == "NEW"]
        if name == "allAlgoOrders":
            first, since = int(p.get("algoId", 0)), int(p.get("startTime", 0))
            rows = [o for o in mine(self.conditional) if o["algoId"] >= first and o["createTime"] >= since]
            return rows[: self.page]
        if name == "algoOrder":
            rows = [o for o in self.conditional if str(o["algoId"]) == p["algoId"]]
            if not rows:
                raise refused(-2013)
            return rows[0]
        if name == "order":
            rows = [o for o in mine(self.orders) if str(o["orderId"]) == p["orderId"]]
            if not rows:
                raise refused(-2013)
            return rows[0]
        if name == "income":
            assert "page" not in p  # taken out on 2026-10-16
            end = int(p.get("endTime", int(p["startTime"]) + 7 * DAY))
            assert end - int(p["startTime"]) <= 7 * DAY
            return [r for r in self.income if int(p["startTime"]) <= r["time"] <= end][: self.page]
        key, stamp, first = ("id", "time", "fromId") if name == "userTrades" else ("orderId", "updateTime", "orderId")
        rows = mine(self.trades if name == "userTrades" else self.orders)
        if first in p:
            assert "startTime" not in p
            return [r for r in rows if r[key] >= int(p[first])][: self.page]
        end = int(p.get("endTime", int(p["startTime"]) + 7 * DAY))
        assert end - int(p["startTime"]) <= 7 * DAY
        return [r for r in rows if int(p["startTime"]) <= r[stamp] <= end][: self.page]

    def read(self, mark: Watermark, now_ms: int | None = None) -> Recovered:
        self.calls = []
        self.now_ms = now_ms or self.now_ms
        plan = X.recover(SPEC, mark, self.now_ms)
        try:
            call = next(plan)
            while True:
                self.calls.append(call)
                assert call.auth == ("none" if call.path.endswith("time") else "signed")
                try:
                    for what in (call.path, f"{call.path} {dict(call.params).get('symbol')}"):
                        if what in self.refuse:
                            raise refused(self.refuse[what])
                    body = json.dumps(self.answer(call)).encode()
                except ExchangeRefused as error:
                    call = plan.throw(error)
                else:
                    call = plan.send(HttpReply(200, {}, body))
        except StopIteration as end:
            found: Recovered = end.value
            return found

    @property
    def weight(self) -> int:
        return sum(call.weight for call in self.calls)

    def paths(self) -> list[str]:
        return [call.path.rpartition("/")[2] for call in self.calls]


def refused(code: int) -> ExchangeRefused:
    return ExchangeRefused("call", Verdict(Outcome.PERMANENT, str(code)))


def items(frames: list[bytes]) -> list[UserRecord]:
    return [item for frame in frames for item in X.parse_user(frame, "acc", 1)]  # type: ignore[misc]


def based(venue: Venue, at_ms: int = T0) -> Watermark:
    """A watermark proven by a first read."""
    mark = Watermark(proven_ms=at_ms)
    found = venue.read(mark, at_ms)
    for event in found.events:
        mark.advance(event)
    mark.prove(found.snapshot, at_ms)
    return mark


def ids(events: list[UserRecord], kind: type) -> set[str]:
    return {e.id for e in events if isinstance(e, kind)}


def test_quiet_account_costs_one_cheap_call() -> None:
    venue = Venue()
    mark = based(venue)
    assert venue.weight == 5
    found = venue.read(mark, T0 + DAY)
    assert (venue.weight, found.events, found.unrecoverable) == (5, [], "")
    assert found.snapshot == Snapshot(T0 + DAY, {}, {"USDT": "1000"})


def test_first_read_tells_what_is_held() -> None:
    found = Venue().read(Watermark(proven_ms=T0))
    assert [(e.asset, e.wallet, e.available, e.source) for e in found.events if isinstance(e, Balance)] == [
        ("USDT", "1000", "1000", "rest")
    ]


def test_first_read_with_history_reads_everything() -> None:
    venue = Venue()
    frames = venue.trade("BTCUSDT", "BUY", "2", T0 + 5)
    frames += venue.trade("ETHUSDT", "BUY", "2", T0 + 6) + venue.trade("ETHUSDT", "SELL", "2", T0 + 7)
    found = venue.read(Watermark(proven_ms=T0), T0 + 100)
    for kind in (Fill, Order):
        assert ids(found.events, kind) == ids(items(frames), kind)
    assert [e.id for e in found.events if isinstance(e, Position)] == [
        f"binance:usdm:acc:position:BTCUSDT:both:{T0 + 5}:2"
    ]
    assert "income" not in venue.paths()
    again = venue.read(Watermark(proven_ms=T0 - 10 * DAY), T0 + 100)
    assert "income" in venue.paths() and ids(again.events, Fill) == ids(found.events, Fill)


def test_first_read_where_orders_need_a_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue()
    frames = venue.trade("ETHUSDT", "BUY", "2", T0 + 6) + venue.trade("ETHUSDT", "SELL", "2", T0 + 7)
    answer = venue.answer

    def older(call: HttpCall) -> Any:
        if call.path.endswith("allOrders") and "symbol" not in dict(call.params):
            raise refused(-1102)
        return answer(call)

    monkeypatch.setattr(venue, "answer", older)
    assert ids(venue.read(Watermark(proven_ms=T0), T0 + 100).events, Fill) == ids(items(frames), Fill)
    monkeypatch.setattr(venue, "answer", answer)
    small(monkeypatch, PAGE=2)
    venue.page = 2
    assert ids(venue.read(Watermark(proven_ms=T0), T0 + 100).events, Fill) == ids(items(frames), Fill)
    assert "income" in venue.paths()


def test_first_read_of_an_account_funded_just_before_it_was_added() -> None:
    venue = Venue()
    venue.wallets["USDT"][1] = T0 - 2000
    spec = AccountSpec("acc", "u", "binance", "usdm", "l", False, 1, T0)
    plan = X.recover(spec, Watermark(proven_ms=T0 - 10_000), T0 + 500)
    body = json.dumps(venue.answer(next(plan))).encode()
    with pytest.raises(StopIteration) as end:
        plan.send(HttpReply(200, {}, body))
    assert [type(e) for e in end.value.value.events] == [Balance]


def test_missed_fill_of_a_known_symbol_is_found_with_the_stream_ids() -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    lost = items(venue.trade("BTCUSDT", "SELL", "1", T0 + 20, pnl="5"))
    found = venue.read(mark, T0 + 10_000)
    assert {e.id for e in lost} <= {e.id for e in found.events}
    assert "income" not in venue.paths()
    assert all(e.source == "rest" for e in found.events)
    fill = next(e for e in found.events if e.id == next(iter(ids(lost, Fill))))
    assert isinstance(fill, Fill)
    assert (fill.client_order_id, fill.realized_pnl, fill.liquidity, fill.fee) == ("c2", "5", "maker", "0.01")


def test_explained_by_the_stream_costs_little() -> None:
    venue = Venue()
    mark = based(venue)
    told = items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10))
    for event in told:
        mark.advance(event)
    found = venue.read(mark, T0 + 1000)
    assert (
        ids(found.events, Order) == ids(told, Order) and len(found.events) == 1
    )  # the stream's own id: published once
    assert venue.weight == 11
    assert venue.read(mark, T0 + findings.ACTIVE_MS + 2000).events == [] and venue.weight == 6


@pytest.mark.parametrize("symbol", ["ETHUSDT", "BNBUSDT", "BTCUSDT_260925"])
def test_a_profit_with_its_fee_in_bnb_costs_no_more(symbol: str) -> None:
    """The profit goes to another wallet than the fee comes from: booked as one, no such account was ever explained."""
    venue = Venue()
    venue.wallets["BNB"] = [Decimal(5), T0 - DAY]
    mark = based(venue)
    mark.symbols = {f"S{n}USDT": T0 for n in range(20)}
    for side, pnl in (("BUY", "0"), ("SELL", "7")):
        for frame in venue.trade(symbol, side, "1", T0 + 10, fee="0", pnl=pnl):
            told = json.loads(frame)
            if "o" in told:
                told["o"] |= {"N": "BNB", "n": "0.002"}
                mark.advance(items([json.dumps(told).encode()])[0])
        venue.trades[-1] |= {"commissionAsset": "BNB", "commission": "0.002"}
        venue.wallets["BNB"] = [venue.wallets["BNB"][0] - Decimal("0.002"), T0 + 10]
    mark.scope = "proof"
    assert venue.read(mark, T0 + 100).explained and venue.weight == 5
    venue.trade(symbol, "BUY", "1", T0 + 20)  # and read again, it counts once
    assert venue.read(mark, T0 + 100).explained and "income" not in venue.paths()


def test_a_symbol_that_is_listed_no_more_loses_nothing_where_the_account_is_explained() -> None:
    venue = Venue()
    mark = based(venue)
    mark.symbols = {"BTCUSDT_250926": T0 - 300 * DAY}
    venue.refuse = {"/fapi/v1/userTrades BTCUSDT_250926": -1121}
    venue.trade("NEWUSDT", "BUY", "1", T0 + 10)
    venue.trade("NEWUSDT", "SELL", "1", T0 + 20, pnl="5")
    found = venue.read(mark, T0 + 100)
    assert len(ids(found.events, Fill)) == 2
    assert (found.explained, found.unrecoverable) == (True, "")
    venue.wallets["USDT"][0] += 3  # whatever that was
    found = venue.read(mark, T0 + 100)
    assert (found.explained, found.unrecoverable) == (False, "fills of BTCUSDT_250926: permanent(-1121)")


@pytest.mark.parametrize(("known_ms", "hidden"), [(T0 + 60_000, True), (T0 + 2_000, False), (T0 + 100_000, False)])
def test_a_fill_that_rest_hides_is_older_than_the_known_one_that_came_after_it(known_ms: int, hidden: bool) -> None:
    """The position changed last by a known fill: the gap closed, and the snapshot explained the hidden one away for good."""
    venue = Venue()
    mark = based(venue)
    base = mark.base
    assert base is not None
    venue.trade("BTCUSDT", "BUY", "1", T0 + 1_000)
    venue.trades.clear()
    venue.orders.clear()
    venue.income.clear()
    for event in items(venue.trade("BTCUSDT", "BUY", "2", known_ms)):
        mark.advance(event)
    found = venue.read(mark, T0 + 100_000)
    assert (found.explained, found.untold_ms) == (False, base.at_ms + 1 if hidden else 0)


def test_a_profit_in_credits_stays_with_its_fee() -> None:
    """Where futures are settled in credits (BNFCR), profit and fee are both of these, and USDT is only collateral."""
    venue = Venue()
    venue.wallets["BNFCR"] = [Decimal(5), T0 - DAY]
    mark = based(venue)
    before = venue.wallets["USDT"][0]
    for side, pnl in (("BUY", "0"), ("SELL", "7")):
        for frame in venue.trade("ETHUSDT", side, "1", T0 + 10, fee="0", pnl=pnl):
            told = json.loads(frame)
            if "o" in told:
                told["o"] |= {"N": "BNFCR", "n": "0.002"}
                mark.advance(items([json.dumps(told).encode()])[0])
        venue.trades[-1] |= {"commissionAsset": "BNFCR", "commission": "0.002"}
        venue.wallets["BNFCR"][0] += Decimal(pnl) - Decimal("0.002")
    venue.wallets["USDT"][0] = before
    mark.scope = "proof"
    assert venue.read(mark, T0 + 100).explained and venue.weight == 5


def test_an_order_that_came_and_went_without_a_fill_is_found() -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    venue.trade("ETHUSDT", "BUY", "1", T0 + 20)
    unseen = {**venue.orders[-1], "orderId": 77, "status": "CANCELED", "executedQty": "0", "symbol": "XRPUSDT"}
    venue.orders.append(unseen)
    assert "77" in {o.order_id for o in venue.read(mark, T0 + 1000).events if isinstance(o, Order)}
    venue.refuse["/fapi/v1/allOrders"] = -1121  # neither for all symbols nor for one: the rest is read all the same
    assert ids(venue.read(mark, T0 + 1000).events, Fill)


def test_a_round_trip_that_cost_nothing_is_found_by_its_orders() -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    lost = items(
        venue.trade("ETHUSDT", "BUY", "1", T0 + 20, fee="0") + venue.trade("ETHUSDT", "SELL", "1", T0 + 30, fee="0")
    )
    found = venue.read(mark, T0 + 1000)
    assert ids(found.events, Fill) == ids(lost, Fill)
    trades = [dict(call.params)["symbol"] for call in venue.calls if call.path.endswith("userTrades")]
    assert trades == ["ETHUSDT"]  # the fill of the other symbol is known


def test_round_trip_in_a_symbol_nobody_knew_is_found_by_its_orders_or_by_bookings() -> None:
    venue = Venue()
    mark = based(venue)
    lost = items(venue.trade("NEWUSDT", "BUY", "1", T0 + 10) + venue.trade("NEWUSDT", "SELL", "1", T0 + 20, pnl="3"))
    assert ids(venue.read(mark, T0 + 10_000).events, Fill) == ids(lost, Fill)
    assert "income" not in venue.paths(), "30 a page"
    venue.refuse["/fapi/v1/allOrders"] = -1102  # a server before 2026-08-25
    assert ids(venue.read(mark, T0 + 10_000).events, Fill) == ids(lost, Fill) and "income" in venue.paths()
    venue.refuse["/fapi/v1/income"] = -1002
    assert ids(venue.read(mark).events, Fill) == set()


def test_bookings_are_followed_by_time_through_pages_and_weeks(monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue()
    mark = based(venue)
    small(monkeypatch, PAGE=3)
    venue.page = 3
    for n in range(7):
        venue.income.append({"symbol": "", "incomeType": "FUNDING_FEE", "time": T0 + DAY + n // 3})
    for n, symbol in enumerate(("AUSDT", "BUSDT", "CUSDT")):  # each in another week
        venue.trade(symbol, "BUY", "1", T0 + (1 + 7 * n) * DAY + 10)
        venue.trade(symbol, "SELL", "1", T0 + (1 + 7 * n) * DAY + 20, pnl="5")
    found = venue.read(mark, T0 + 20 * DAY)
    assert {e.symbol for e in found.events if isinstance(e, Fill)} == {"AUSDT", "BUSDT", "CUSDT"} and found.explained


def test_more_bookings_in_one_millisecond_than_a_page_holds_do_not_stop_the_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    venue = Venue()
    mark = based(venue)
    small(monkeypatch, PAGE=3)
    venue.page = 3
    for _ in range(9):
        venue.income.append({"symbol": "", "incomeType": "FUNDING_FEE", "time": T0 + 10})
    venue.trade("AUSDT", "BUY", "1", T0 + 20)
    venue.trade("AUSDT", "SELL", "1", T0 + 30, pnl="5")
    assert venue.read(mark, T0 + 100).explained


def test_funding_told_by_the_stream_needs_no_full_read() -> None:
    venue = Venue()
    mark = based(venue)
    venue.wallets["USDT"] = [Decimal("999.5"), T0 + 10]
    a = {"m": "FUNDING_FEE", "B": [{"a": "USDT", "wb": "999.5", "cw": "999.5", "bc": "-0.5"}], "P": []}
    for event in items([json.dumps({"e": "ACCOUNT_UPDATE", "T": T0 + 10, "E": T0 + 10, "a": a}).encode()]):
        mark.advance(event)
    assert venue.read(mark, T0 + 50).events == [] and venue.weight == 5


def test_an_unexplained_wallet_reads_everything_and_tells_the_balance() -> None:
    venue = Venue()
    mark = based(venue)
    venue.wallets["USDT"] = [Decimal("900"), T0 + 10]
    found = venue.read(mark, T0 + 5000)
    assert [(e.asset, e.wallet, e.ts_event) for e in found.events if isinstance(e, Balance)] == [
        ("USDT", "900", T0 + 10)
    ]
    assert venue.weight == 46


def test_a_position_closed_and_opened_again_in_the_gap_is_told_with_its_new_entry_price() -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    venue.trade("BTCUSDT", "SELL", "1", T0 + 20, pnl="5")
    lost = items(venue.trade("BTCUSDT", "BUY", "1", T0 + 30))
    found = venue.read(mark, T0 + 20_000)
    assert ids(found.events, Position) == ids(lost, Position)  # though its quantity is what was known
    assert [e.entry_price for e in found.events if isinstance(e, Position)] == ["10.0"]


def test_fills_of_resting_orders_that_cancel_each_other_out_are_told_with_their_orders() -> None:
    """At one price, without a fee, in a symbol that was quiet for a while: neither wallet nor position tells of them."""
    venue = Venue()
    orders = [venue.order("BTCUSDT", side, "1", T0 - DAY) for side in ("BUY", "SELL")]
    mark = based(venue)
    assert len(mark.orders) == 2
    lost = [event for row in orders for event in items(venue.fill(row, T0 + DAY, fee="0"))]
    found = venue.read(mark, T0 + DAY + 60_000)
    assert ids(found.events, Fill) == ids(lost, Fill) and ids(found.events, Order) == ids(lost, Order)
    assert found.unrecoverable == ""


def test_vanished_wallet_and_position_are_told_as_zero() -> None:
    venue = Venue()
    venue.trade("BTCUSDT", "BUY", "1", T0 + 10)
    mark = based(venue, T0 + 20)
    mark.symbols["BTCUSDT"] = T0 + 10
    closing = items(venue.trade("BTCUSDT", "SELL", "1", T0 + 30))
    del venue.wallets["USDT"]
    found = venue.read(mark, T0 + 20_000)
    flat = [e for e in found.events if isinstance(e, Position)]
    assert [(e.qty, e.id in {c.id for c in closing}) for e in flat] == [("0", True)]
    assert [e.wallet for e in found.events if isinstance(e, Balance)] == ["0"]


def test_a_lagging_account_does_not_close_a_fresh_position() -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    venue.positions.clear()  # the account read lags, the trades do not
    assert [e for e in venue.read(mark, T0 + 100).events if isinstance(e, Position)] == []
    assert "time" in venue.paths()  # the account was asked again
    late = venue.read(mark, T0 + 60_000).events
    assert [e.qty for e in late if isinstance(e, Position)] == ["0"]


def test_open_order_placed_in_the_gap_and_one_that_ended() -> None:
    venue = Venue()
    old = venue.order("BTCUSDT", "BUY", "1", T0 - 50)
    mark = based(venue)
    assert mark.open_orders() == [("BTCUSDT", "1")]
    old |= {"status": "CANCELED", "updateTime": T0 + 40}
    venue.order("ETHUSDT", "BUY", "1", T0 + 30)
    found = venue.read(mark, T0 + 100)
    assert {(e.order_id, e.status) for e in found.events if isinstance(e, Order)} == {("1", "canceled"), ("2", "new")}
    assert found.snapshot.closed_orders == ("BTCUSDT|1",)
    mark.prove(found.snapshot, T0 + 100)
    assert mark.orders == {}


def test_orders_of_two_symbols_that_share_an_id_are_told_apart() -> None:
    """Numbers are unique per symbol only. One of the two ended in the gap, and was found by name."""
    venue = Venue()
    here = venue.order("BTCUSDT", "BUY", "1", T0 - 50)
    there = venue.order("ETHUSDT", "BUY", "1", T0 - 50)
    there["orderId"] = here["orderId"]
    mark = based(venue)
    assert sorted(mark.open_orders()) == [("BTCUSDT", "1"), ("ETHUSDT", "1")]
    there |= {"status": "CANCELED", "updateTime": T0 + 40}
    found = venue.read(mark, T0 + 100)
    assert [(e.symbol, e.order_id, e.status) for e in found.events] == [("ETHUSDT", "1", "canceled")]  # type: ignore[union-attr]
    assert found.snapshot.closed_orders == ("ETHUSDT|1",)
    for event in found.events:
        mark.advance(event)
    mark.prove(found.snapshot, T0 + 100)
    assert mark.open_orders() == [("BTCUSDT", "1")]


def test_an_order_the_exchange_forgot_is_forgotten_once_its_symbol_is_quiet() -> None:
    venue = Venue()
    mark = based(venue)
    mark.orders = resting("BTCUSDT|77")
    mark.symbols = {"BTCUSDT": T0}
    assert venue.read(mark, T0 + 1000).snapshot.closed_orders == ()
    found = venue.read(mark, T0 + 100_000)
    assert found.snapshot.closed_orders == ("BTCUSDT|77",)
    assert [(e.order_id, e.status) for e in found.canceled] == [("77", "canceled")]
    mark.scope = "fills"
    assert venue.read(mark, T0 + 100_000).snapshot.closed_orders == (), "REST may lag: the full read says it"
    mark.scope = "full"
    venue.order("BTCUSDT", "BUY", "1", T0 - 50, "NEW")
    mark.orders = resting("BTCUSDT|1")
    venue.refuse["/fapi/v1/openOrders"] = -1121
    found = venue.read(mark, T0 + 100_000)
    assert found.snapshot.closed_orders == () and "open orders of BTCUSDT: permanent(-1121)" in found.unrecoverable


def test_orders_that_the_exchange_forgot_are_told_as_canceled() -> None:
    venue = Venue()
    row = venue.order("BTCUSDT", "BUY", "1", T0 - 4 * DAY)
    mark = based(venue)
    mark.symbols["BTCUSDT"] = T0
    stop = algo(venue, "BTCUSDT", T0 - 4 * DAY)
    for event in venue.read(mark, T0 + 1).events:
        mark.advance(event)
    name = f"algo-{stop['algoId']}"
    assert set(mark.open_orders()) == {("BTCUSDT", "1"), ("BTCUSDT", name)}
    venue.orders.remove(row)
    venue.conditional.remove(stop)
    found = venue.read(mark, T0 + 100_000)
    assert [(e.order_id, e.client_order_id, e.status, e.ts_event) for e in found.canceled] == [
        ("1", row["clientOrderId"], "canceled", T0 + 100_000),
        (name, stop["clientAlgoId"], "canceled", T0 + 100_000),
    ]
    assert (found.unrecoverable, found.snapshot.closed_orders) == ("", ("BTCUSDT|1", f"BTCUSDT|{name}"))
    venue.refuse["/fapi/v1/order"] = -1121
    found = venue.read(mark, T0 + 100_000)
    assert [e.order_id for e in found.canceled] == [name]
    assert found.unrecoverable == "order 1 of BTCUSDT: permanent(-1121)"


def test_fill_of_an_order_older_than_the_watermark_brings_the_order() -> None:
    venue = Venue()
    old = venue.order("BTCUSDT", "BUY", "1", T0 - 50)
    mark = based(venue)
    venue.fill(old, T0 + 10)
    old["updateTime"] = T0 - 50  # allOrders does not show it
    found = venue.read(mark, T0 + 100)
    assert {e.status for e in found.events if isinstance(e, Order)} == {"filled"}


def test_pages_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue()
    mark = based(venue)
    frames = []
    for n in range(25):
        frames += venue.trade("BTCUSDT", "BUY" if n % 2 else "SELL", "1", T0 + 8 * DAY + n)
    venue.page = 10
    small(monkeypatch, PAGE=10)
    found = venue.read(mark, T0 + 20 * DAY)
    assert ids(found.events, Fill) == ids(items(frames), Fill)
    assert ids(found.events, Order) == ids(items(frames), Order)


def test_pages_that_never_end_are_an_error_and_not_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, MAX_PAGES=3, PAGE=1)
    for endless in ("userTrades", "allOrders", "income"):
        venue = Venue()
        mark = based(venue)
        venue.trade("BTCUSDT", "BUY", "1", T0 + 10)
        answer = venue.answer
        row = {"userTrades": venue.trades[0], "allOrders": venue.orders[0], "income": venue.income[0]}[endless]
        venue.answer = (  # type: ignore[method-assign]
            lambda call, answer=answer, row=row, endless=endless: (  # type: ignore[misc]
                [row]
                if call.path.endswith(endless)
                else []
                if call.path.endswith("userTrades") and endless == "income"
                else answer(call)
            )
        )
        if endless == "income":
            venue.read(mark, T0 + 20)
            assert venue.paths().count("income") == 3
        elif endless == "allOrders":
            monkeypatch.setattr(venue, "page", 1)
            real, calls = venue.answer, {"n": 0}

            def trades_end(call: HttpCall, real: Any = real, calls: Any = calls) -> Any:
                if call.path.endswith("userTrades"):
                    calls["n"] += 1
                    return real(call) if calls["n"] == 1 else []
                return real(call)

            venue.answer = trades_end  # type: ignore[method-assign]
            with pytest.raises(ConnectionFailed, match="orders of BTCUSDT: pages do not end"):
                venue.read(mark, T0 + 20)
        else:
            with pytest.raises(ConnectionFailed, match="trades of BTCUSDT: pages do not end"):
                venue.read(mark, T0 + 20)


def test_history_that_is_gone_is_said() -> None:
    venue = Venue()
    mark = based(venue)
    assert venue.read(mark, T0 + 200 * DAY).unrecoverable == ""
    venue.trade("BTCUSDT", "BUY", "1", T0 + 150 * DAY)
    found = venue.read(mark, T0 + 200 * DAY)
    assert "is not kept by the exchange" in found.unrecoverable
    assert len(ids(found.events, Fill)) == 1


def test_refusals_are_said_and_do_not_stop_the_rest() -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 10)
    venue.refuse = {"/fapi/v3/positionRisk": -1000, "/fapi/v1/allOrders": -1121}
    found = venue.read(mark, T0 + 20)
    assert "orders of BTCUSDT" in found.unrecoverable
    assert [e.entry_price for e in found.events if isinstance(e, Position)] == [""], "not told, and not 0"
    assert len(ids(found.events, Order)) == 1  # asked for alone
    venue.refuse = {"/fapi/v1/userTrades": -1121}
    assert "fills of BTCUSDT: permanent(-1121)" in venue.read(mark, T0 + 20).unrecoverable


def test_an_unknown_status_is_said() -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 10)
    venue.orders[0]["status"] = "SOMETHING"
    found = venue.read(mark, T0 + 20)
    assert "unknown status SOMETHING" in found.unrecoverable and len(ids(found.events, Fill)) == 1


def test_a_price_that_is_no_number_is_tried_again() -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 10)
    venue.trades[0]["price"] = ""
    with pytest.raises(ConnectionFailed):
        venue.read(mark, T0 + 20)
    venue.trades[0]["price"] = "n/a"
    with pytest.raises(ConnectionFailed):
        venue.read(mark, T0 + 20)


def test_a_page_that_is_not_json_is_tried_again() -> None:
    plan = X.recover(SPEC, Watermark(T0), T0)
    next(plan)
    with pytest.raises(ConnectionFailed, match="account: unreadable reply"):
        plan.send(HttpReply(200, {}, b"<html>"))


def test_the_time_a_call_went_out_is_the_snapshots_time() -> None:
    plan = X.recover(SPEC, Watermark(T0), T0)
    next(plan)
    with pytest.raises(StopIteration) as end:
        plan.send(HttpReply(200, {}, b'{"assets":[],"positions":[]}', T0 + 77))
    assert end.value.value.snapshot.at_ms == T0 + 77


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["AUSDT", "BUSDT", "CUSDT"]), st.sampled_from(["BUY", "SELL"]), st.integers(1, 3),
            st.sampled_from(["0", "1.5", "-2"]), st.booleans(),
        ),
        max_size=25,
    ),
    st.integers(0, 25),
)  # fmt: skip
def test_whatever_the_socket_lost_comes_back(orders: list[tuple[str, str, int, str, bool]], proven_after: int) -> None:
    """Any subset of frames lost, a proof somewhere in between: every fill and final order is told, no id twice."""
    venue = Venue()
    mark = based(venue)
    told: dict[str, UserRecord] = {}
    truth: list[UserRecord] = []
    for n, (symbol, side, qty, pnl, delivered) in enumerate(orders):
        at_ms = T0 + 20_000 * (n + 1)
        events = items(venue.trade(symbol, side, str(qty), at_ms, fee="0.1", pnl=pnl))
        truth += events
        for event in events if delivered else []:
            told[event.id] = event
            mark.advance(event)
        if n == proven_after:
            _catch_up(venue, mark, told, at_ms + 100)
    _catch_up(venue, mark, told, T0 + 20_000 * (len(orders) + 2))
    for kind in (Fill, Order):
        assert ids(truth, kind) <= told.keys()
    assert ids(list(told.values()), Fill) == ids(truth, Fill)
    held = {f"{s}|both": q for (s, _), (q, _) in venue.positions.items() if q}
    assert {k: Decimal(q) for k, q in mark.positions.items()} == held
    assert {e.id for e in venue.read(mark).events} <= told.keys() and venue.weight <= 13


def _catch_up(venue: Venue, mark: Watermark, told: dict[str, UserRecord], now_ms: int) -> None:
    found = venue.read(mark, now_ms)
    assert found.unrecoverable == ""
    for event in found.events:
        if event.id not in told:
            told[event.id] = event
            mark.advance(event)
    mark.prove(found.snapshot, now_ms)


def test_never_proven_and_positions_known_from_the_stream_only() -> None:
    venue = Venue()
    mark = Watermark(proven_ms=T0)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    venue.positions.clear()
    assert [e for e in venue.read(mark, T0 + 100).events if isinstance(e, Position)] == []
    assert [e.qty for e in venue.read(mark, T0 + 9000).events if isinstance(e, Position)] == ["0"]


def test_open_order_that_changed_while_the_list_and_the_history_disagree() -> None:
    """The newer of two answers about one order counts; an order found open again is not closed."""
    venue = Venue()
    mark = based(venue)
    row = venue.order("BTCUSDT", "BUY", "2", T0 + 10)
    mark.orders = resting("BTCUSDT|1")
    venue.trade("BTCUSDT", "BUY", "1", T0 + 20)
    answer, shown = venue.answer, [True]

    def disagree(call: HttpCall) -> Any:
        if call.path.endswith("allOrders"):
            return [row | {"updateTime": T0 + 99}]
        return [] if call.path.endswith("openOrders") and not shown[0] else answer(call)

    venue.answer = disagree  # type: ignore[method-assign]
    for shown[0] in (True, False):
        found = venue.read(mark, T0 + 100)
        assert [e.ts_event for e in found.events if isinstance(e, Order) and e.order_id == "1"] == [T0 + 99]
        assert found.snapshot.closed_orders == ()


def test_trades_before_the_watermark_are_left_out() -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 20)
    answer = venue.answer
    early = venue.trades[0] | {"id": 99, "time": T0 - 5}
    venue.answer = lambda call: [early, *answer(call)] if call.path.endswith("userTrades") else answer(call)  # type: ignore[method-assign]
    assert len(ids(venue.read(mark, T0 + 100).events, Fill)) == 1


def test_only_the_unexplained_symbol_is_read_while_others_traded_too() -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("ETHUSDT", "BUY", "3", T0 + 10, pnl="1")):
        mark.advance(event)
    lost = items(venue.trade("BTCUSDT", "BUY", "1", T0 + 20))
    found = venue.read(mark, T0 + 100)
    assert ids(found.events, Fill) == ids(lost, Fill)
    assert [dict(c.params)["symbol"] for c in venue.calls if c.path.endswith("userTrades")] == ["BTCUSDT"]


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_an_account_that_is_ahead_of_the_trades_says_since_when(side: str) -> None:
    """A new position, and one that was closed, by a fill that neither trades nor orders show yet."""
    venue = Venue()
    if side == "SELL":
        venue.trade("BTCUSDT", "BUY", "1", T0 - 50)
    mark = based(venue)
    venue.trade("BTCUSDT", side, "1", T0 + 20)
    shown, venue.trades, venue.orders = (venue.trades, venue.orders), venue.trades[:-1], venue.orders[:-1]
    found = venue.read(mark, T0 + 100)
    assert (found.explained, found.untold_ms) == (False, T0 + 20)
    venue.trades, venue.orders = shown
    found = venue.read(mark, T0 + 200)
    assert (found.explained, found.untold_ms) == (True, 0) and len(
        [e for e in found.events if isinstance(e, Fill)]
    ) == 1
    venue.wallets["USDT"] = [Decimal(7), T0 + 300]  # funding
    found = venue.read(mark, T0 + 400)
    assert (found.explained, found.untold_ms) == (False, 0)


@pytest.mark.parametrize("shown", [0, 1])
def test_a_position_that_is_flat_before_the_trades_say_so_is_told_as_newer_than_its_last_fill(shown: int) -> None:
    """With the time of that fill the socket's position of the same instant would outrank it in Postgres, for good. REST may not
    even show that one, which the socket told."""
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    closing = items(venue.trade("BTCUSDT", "SELL", "1", T0 + 20))
    venue.trades, venue.orders = venue.trades[:shown], venue.orders[:shown]
    (flat,) = [e for e in venue.read(mark, T0 + 20_000).events if isinstance(e, Position)]
    assert (flat.qty, flat.ts_event) == ("0", T0 + 20) and flat.id in {e.id for e in closing}


def test_orders_that_are_filled_for_more_than_their_trades_say_since_when() -> None:
    """A round trip leaves no position, but its orders tell of it before the trades do."""
    venue = Venue()
    mark = based(venue)
    mark.symbols = {"BTCUSDT": T0}
    venue.trade("BTCUSDT", "BUY", "1", T0 + 20)
    venue.trade("BTCUSDT", "SELL", "1", T0 + 30)
    trades, venue.trades = venue.trades, venue.trades[:1]
    assert venue.read(mark, T0 + 100).untold_ms == T0 + 30
    venue.trades = trades
    assert venue.read(mark, T0 + 200).untold_ms == 0


def test_a_position_of_an_account_that_lags_behind_the_fills_is_not_told() -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 10)  # missed
    stale = [list(venue.positions["BTCUSDT", "BOTH"]), list(venue.wallets["USDT"])]
    fill, *rest = items(venue.trade("BTCUSDT", "BUY", "1", T0 + 20))
    for event in (fill, *rest):
        mark.advance(event)
    assert mark.positions == {"BTCUSDT|both": "2"}
    venue.positions["BTCUSDT", "BOTH"], venue.wallets["USDT"] = stale
    found = venue.read(mark, T0 + 100)
    assert [e for e in found.events if isinstance(e, Position)] == []
    assert len([e for e in found.events if isinstance(e, Fill)]) == 2


# ── Conditional orders ───────────────────────────────────────────────────────────────────────────────────────────
def algo(venue: Venue, symbol: str, at_ms: int, status: str = "NEW") -> dict[str, Any]:
    row = {
        "algoId": 900 + len(venue.conditional),
        "clientAlgoId": "mine",
        "orderType": "STOP_MARKET",
        "symbol": symbol,
        "side": "SELL",
        "positionSide": "BOTH",
        "timeInForce": "GTC",
        "quantity": "1",
        "algoStatus": status,
        "triggerPrice": "9.5",
        "price": "0",
        "reduceOnly": True,
        "createTime": at_ms,
        "updateTime": at_ms,
    }
    venue.conditional.append(row)
    return row


def algo_frame(row: dict[str, Any]) -> bytes:
    names = {
        "clientAlgoId": "caid", "algoId": "aid", "orderType": "o", "symbol": "s", "side": "S", "positionSide": "ps",
        "timeInForce": "f", "quantity": "q", "algoStatus": "X", "triggerPrice": "tp", "price": "p", "reduceOnly": "R",
    }  # fmt: skip
    at_ms = row["updateTime"]
    o = {short: row[name] for name, short in names.items()}
    return json.dumps({"e": "ALGO_UPDATE", "T": at_ms, "E": at_ms, "o": o}).encode()


def test_a_conditional_order_is_an_order_with_one_id_from_socket_and_rest() -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    row = algo(venue, "BTCUSDT", T0 + 20)
    told = [e for e in items([algo_frame(row)]) if isinstance(e, Order)]
    found = [e for e in venue.read(mark, T0 + 100).events if isinstance(e, Order) and e.order_id.startswith("algo-")]
    assert [(e.order_id, e.status, e.order_type, e.stop_price, e.source) for e in found] == [
        ("algo-900", "new", "stop_market", "9.5", "rest")
    ]
    assert [e.id for e in found] == [e.id for e in told]
    for event in told:
        mark.advance(event)
    assert ("BTCUSDT", "algo-900") in mark.open_orders()
    row |= {"algoStatus": "CANCELED", "updateTime": T0 + 50}
    mark.scope = "proof"  # even a proof tells what became of it
    found2 = venue.read(mark, T0 + 200)
    ended = [e for e in found2.events if isinstance(e, Order)]
    assert [(e.order_id, e.status) for e in ended] == [("algo-900", "canceled")]
    assert [e.id for e in ended] == [e.id for e in items([algo_frame(row)]) if isinstance(e, Order)]
    assert found2.snapshot.closed_orders == ("BTCUSDT|algo-900",)


def test_conditional_orders_of_an_older_server_of_an_unknown_status_and_forgotten_ones() -> None:
    venue = Venue()
    mark = based(venue)
    mark.orders, mark.symbols = resting("BTCUSDT|algo-900"), {"BTCUSDT": T0}
    assert venue.read(mark, T0 + 1000).snapshot.closed_orders == ()
    assert venue.read(mark, T0 + 100_000).snapshot.closed_orders == ("BTCUSDT|algo-900",)
    venue.refuse = {"/fapi/v1/openAlgoOrders": -1000}
    assert venue.read(mark, T0 + 100_000).snapshot.closed_orders == ()
    venue.refuse = {}
    row = algo(venue, "BTCUSDT", T0 + 20, "SOMETHING")
    assert "unknown status SOMETHING" in venue.read(mark, T0 + 100).unrecoverable
    assert [type(e).__name__ for e in items([algo_frame(row)])] == ["AccountEvent"]


@pytest.mark.parametrize("absent", [True, False])
def test_a_conditional_order_that_closes_the_position_names_no_quantity(absent: bool) -> None:
    venue = Venue()
    mark = based(venue)
    row = algo(venue, "BTCUSDT", T0 + 20)
    row |= {"quantity": None, "timeInForce": None, "clientAlgoId": None, "positionSide": None, "price": None}
    told = [e for e in items([algo_frame(row)]) if isinstance(e, Order)]
    if absent:
        del row["quantity"]
    mark.advance(told[0])
    mark.base = None  # so that all is told again
    (found,) = [e for e in venue.read(mark, T0 + 100).events if isinstance(e, Order)]
    assert (found.id, found.qty, found.price, found.position_side) == (told[0].id, "0", "0", "both")


def test_a_symbol_that_is_listed_no_more_does_not_hide_the_conditional_orders_of_others() -> None:
    venue = Venue()
    mark = based(venue)
    gone, ended = algo(venue, "AAAUSDT", T0 + 10), algo(venue, "BTCUSDT", T0 + 10)
    for event in items([algo_frame(gone), algo_frame(ended)]):
        mark.advance(event)
    for row in (gone, ended):
        row |= {"algoStatus": "EXPIRED", "updateTime": T0 + 50}
    came_and_went = algo(venue, "BTCUSDT", T0 + 60, "CANCELED")
    venue.refuse = {"/fapi/v1/openAlgoOrders AAAUSDT": -1121, "/fapi/v1/allAlgoOrders AAAUSDT": -1121}
    found = venue.read(mark, T0 + 100)
    told = {(e.order_id, e.status) for e in found.events if isinstance(e, Order)}
    assert told == {(f"algo-{row['algoId']}", "expired") for row in (gone, ended)}
    mark.scope = "orders"
    mark.symbols = {"AAAUSDT": T0 + 90, "BTCUSDT": T0 + 80}
    found = venue.read(mark, T0 + 100)
    assert f"algo-{came_and_went['algoId']}" in {e.order_id for e in found.events if isinstance(e, Order)}


def test_a_conditional_order_of_coin_margined_futures_is_not_ours() -> None:
    row = algo(Venue(), "BTCUSD_PERP", T0)
    frame = json.loads(algo_frame(row))
    assert items([json.dumps(frame | {"st": 2}).encode()]) == []
    assert len(items([json.dumps(frame | {"st": 1}).encode()])) == 2


def test_conditional_orders_that_came_and_went_are_told_by_a_read_of_orders() -> None:
    venue = Venue()
    mark = based(venue)
    mark.symbols = {f"S{n}USDT": T0 - n for n in range(9)}
    canceled = algo(venue, "S1USDT", T0 + 20, "CANCELED")
    algo(venue, "S1USDT", T0 - 20, "CANCELED")  # before the gap
    algo(venue, "S8USDT", T0 + 20, "CANCELED")  # not among the symbols used last, and no order says so
    rests = algo(venue, "S7USDT", T0 + 20, "NEW")  # neither, but it is there still
    triggered = algo(venue, "NEWUSDT", T0 + 20, "FINISHED")
    venue.trade("NEWUSDT", "SELL", "1", T0 + 30)  # what it triggered
    full = venue.read(mark, T0 + 100)
    assert full.unasked and not [e for e in full.events if isinstance(e, Order) and e.order_id.startswith("algo-")]
    mark.scope = "orders"
    found = venue.read(mark, T0 + 200)
    told = [e for e in found.events if isinstance(e, Order) and e.order_id.startswith("algo-")]
    assert sorted((e.symbol, e.order_id, e.status) for e in told) == [
        ("NEWUSDT", f"algo-{triggered['algoId']}", "expired"),
        ("S1USDT", f"algo-{canceled['algoId']}", "canceled"),
        ("S7USDT", f"algo-{rests['algoId']}", "new"),
    ]
    frames = [algo_frame(canceled), algo_frame(rests), algo_frame(triggered)]
    assert {e.id for e in told} == {e.id for e in items(frames) if isinstance(e, Order)}
    asked = [dict(c.params)["symbol"] for c in venue.calls if c.path.endswith("allAlgoOrders")]
    assert asked == ["NEWUSDT", "S0USDT", "S1USDT"] and not found.unasked
    for event in found.events:
        mark.advance(event)
    mark.symbols |= {f"T{n}USDT": 0 for n in range(40)}
    algo(venue, "T5USDT", T0 + 150, "NEW")
    (one,) = [
        e
        for e in venue.read(mark, T0 + 200).events
        if isinstance(e, Order) and e.status == "new" and not mark.is_open(e.symbol, e.order_id)
    ]
    assert one.symbol == "T5USDT" and venue.calls[-1].weight == 40, "one call for all costs as much as 40"
    venue.refuse = {"/fapi/v1/allAlgoOrders": -1000}  # a server before 2025-12-09
    assert venue.read(mark, T0 + 200).unrecoverable == "" and venue.paths().count("allAlgoOrders") == 1


def test_pages_of_conditional_orders_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue()
    mark = based(venue)
    mark.symbols, mark.scope = {"BTCUSDT": T0}, "orders"
    small(monkeypatch, PAGE=3)
    venue.page = 3
    rows = [algo(venue, "BTCUSDT", T0 + 20, "CANCELED") for _ in range(7)]
    told = [e.order_id for e in venue.read(mark, T0 + 200).events if isinstance(e, Order)]
    assert sorted(told) == sorted(f"algo-{row['algoId']}" for row in rows)
    small(monkeypatch, MAX_PAGES=2)
    with pytest.raises(ConnectionFailed, match="conditional orders of BTCUSDT: pages do not end"):
        venue.read(mark, T0 + 200)


def test_a_trade_with_oneself_at_the_edge_of_a_page_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue()
    mark = based(venue)
    small(monkeypatch, PAGE=3)
    venue.page = 3
    for side in ("BUY", "BUY", "BUY", "SELL", "SELL"):
        venue.trade("BTCUSDT", side, "1", T0 + 10)
    venue.trades[3]["id"] = venue.trades[2]["id"]  # two orders of one account met: one trade id for both
    found = venue.read(mark, T0 + 100)
    assert len([e for e in found.events if isinstance(e, Fill)]) == 5


# ── Proofs: what a second look and an audit cost ─────────────────────────────────────────────────────────────────
def test_a_proof_asks_for_no_history_unless_something_is_unexplained() -> None:
    venue = Venue()
    mark = based(venue)
    for n, symbol in enumerate(("AUSDT", "BUSDT", "CUSDT", "DUSDT", "EUSDT")):
        for event in items(venue.trade(symbol, "BUY", "1", T0 + n)):
            mark.advance(event)
        row = venue.order(symbol, "SELL", "1", T0 + 10 + n)
        mark.orders |= resting(f"{symbol}|{row['orderId']}")
    mark.scope = "proof"
    looked = set()
    for minute in range(4):
        found = venue.read(mark, T0 + 60_000 * (minute + 1))
        assert venue.weight == 8 and venue.paths() == ["account", *["openOrders"] * 3], "three symbols a minute"
        looked |= {dict(c.params)["symbol"] for c in venue.calls if c.path.endswith("openOrders")}
        assert found.snapshot.closed_orders == ()
    assert len(looked) == 5
    lost = items(venue.trade("AUSDT", "SELL", "1", T0 + 300_000, pnl="1"))
    found = venue.read(mark, T0 + 300_500)
    assert {e.id for e in lost} <= {e.id for e in found.events} and "allOrders" in venue.paths()


def test_a_proof_tells_an_order_that_rests_though_nobody_knew_of_it() -> None:
    venue = Venue()
    mark = based(venue)
    mark.scope = "proof"
    venue.order("ETHUSDT", "BUY", "1", T0 - 50)
    found = venue.read(mark, T0 + DAY)
    assert [(e.order_id, e.status) for e in found.events if isinstance(e, Order)] == [("1", "new")]
    assert venue.weight == 6


def test_many_orders_that_ended_cost_a_page_and_not_one_call_each() -> None:
    venue = Venue()
    for n in range(20):
        venue.order("BTCUSDT", "BUY", "1", T0 - 50 + n)
    mark = based(venue)
    for row in venue.orders:
        row |= {"status": "CANCELED", "updateTime": T0 + 40}
    found = venue.read(mark, T0 + DAY)
    assert len(ids(found.events, Order)) == 20 and len(found.snapshot.closed_orders) == 20
    assert venue.weight == 11
    venue.refuse = {"/fapi/v1/allOrders": -1121}
    assert len(venue.read(mark, T0 + DAY).snapshot.closed_orders) == 20


def test_a_read_of_fills_brings_their_orders_and_asks_for_nothing_else() -> None:
    venue = Venue()
    mark = based(venue)
    row = venue.order("BTCUSDT", "SELL", "1", T0 - 50)
    mark.orders, mark.scope = resting(f"BTCUSDT|{row['orderId']}"), "fills"
    assert venue.read(mark, T0 + 100).events == [] and venue.paths() == ["account"]
    lost = items(venue.trade("ETHUSDT", "BUY", "1", T0 + 200))
    found = venue.read(mark, T0 + 10_000)
    assert ids(found.events, Fill) == ids(lost, Fill) and ids(found.events, Order) == ids(lost, Order)
    assert "allOrders" not in venue.paths() and "openOrders" not in venue.paths() and found.explained


def test_a_snapshot_ahead_of_its_trades_is_not_explained() -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 200)
    late, venue.trades = venue.trades, []
    assert not venue.read(mark, T0 + 300).explained
    venue.trades = late
    assert venue.read(mark, T0 + 300).explained


def test_margin_of_open_orders_hints_at_every_listed_symbol() -> None:
    """A proof of an account that knows of no open order, whose account says that there are some."""
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    answer = venue.answer

    def margined(call: HttpCall) -> Any:
        return answer(call) | {"totalOpenOrderInitialMargin": "5"} if call.path.endswith("account") else answer(call)

    venue.answer = margined  # type: ignore[method-assign]
    mark.scope = "proof"
    venue.order("BTCUSDT", "SELL", "1", T0 + 20)
    found = venue.read(mark, T0 + 100)
    assert [e.status for e in found.events if isinstance(e, Order)] == ["new"] and venue.paths() == [
        "account",
        "openOrders",
    ]


# ── Orders that came and went ────────────────────────────────────────────────────────────────────────────────────
def test_a_quiet_account_s_orders_are_left_unasked_and_told_by_a_read_of_orders() -> None:
    venue = Venue()
    mark = based(venue)
    mark.symbols = {"BTCUSDT": T0 - 3_700_000}
    row = venue.order("SOLUSDT", "BUY", "1", T0 + 50, "CANCELED")  # nobody ever used it here
    venue.order("SOLUSDT", "BUY", "1", T0 - 50, "EXPIRED")  # before the gap
    found = venue.read(mark, T0 + 100)
    assert found.events == [] and found.unasked and venue.weight == 5
    for scope in ("fills", "proof"):
        mark.scope = scope
        assert not venue.read(mark, T0 + 100).unasked, "a full read follows, or an audit is no gap"
    mark.scope = "orders"
    found = venue.read(mark, T0 + 200)
    assert [(e.order_id, e.status, e.source) for e in found.events if isinstance(e, Order)] == [
        (str(row["orderId"]), "canceled", "rest")
    ]
    conditional = ["allAlgoOrders", "allAlgoOrders", "openAlgoOrders"]
    assert venue.paths() == ["allOrders", *conditional] and venue.weight == 16 and not found.unasked


def test_a_read_of_orders_without_the_one_call_asks_the_symbols_used_last() -> None:
    venue = Venue()
    mark = based(venue)
    mark.symbols = {f"S{n}USDT": T0 - 4_000_000 - n for n in range(9)}
    mark.scope = "orders"
    venue.page = 1000
    answer = venue.answer

    def older(call: HttpCall) -> Any:
        if call.path.endswith("allOrders") and "symbol" not in dict(call.params):
            raise refused(-1102)
        return answer(call)

    venue.answer = older  # type: ignore[method-assign]
    venue.order("S4USDT", "BUY", "1", T0 + 50, "EXPIRED")
    venue.order("S5USDT", "BUY", "1", T0 + 50, "EXPIRED")
    found = venue.read(mark, T0 + 100)
    assert [e.symbol for e in found.events if isinstance(e, Order)] == ["S4USDT"] and venue.weight == 5 + 25 + 15 + 9
    assert found.unrecoverable == ""
    venue.refuse = {"/fapi/v1/allOrders": -1121}
    assert "orders of S0USDT: permanent(-1121)" in venue.read(mark, T0 + 100).unrecoverable


def test_a_read_of_orders_looks_back_one_call_and_not_into_what_is_to_come() -> None:
    venue = Venue()
    mark = based(venue)
    mark.scope = "orders"
    for proven_ms, since_ms in ((T0 - 30 * DAY, T0 - 7 * DAY + 1), (T0 + DAY, T0)):
        mark.proven_ms = proven_ms
        venue.read(mark, T0)
        (call,) = venue.calls
        assert dict(call.params)["startTime"] == str(since_ms)


def test_a_round_trip_without_a_trace_is_told_by_a_read_of_orders() -> None:
    venue = Venue()
    mark = based(venue)
    lost = [
        *items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10, "0")),
        *items(venue.trade("BTCUSDT", "SELL", "1", T0 + 20, "0")),
    ]
    assert ids(venue.read(mark, T0 + 100).events, Fill) == set()
    mark.scope = "orders"
    found = venue.read(mark, T0 + 200)
    assert ids(found.events, Fill) == ids(lost, Fill) and ids(found.events, Order) == ids(lost, Order)
    for event in found.events:
        mark.advance(event)
    venue.read(mark, T0 + 200)
    assert "userTrades" not in venue.paths(), "known now"


def test_a_read_of_orders_names_the_client_order_of_older_orders_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """allOrders may go by when an order was placed: the sheet does not say."""
    venue = Venue()
    old = venue.order("BTCUSDT", "BUY", "1", T0 - 50_000)
    mark = based(venue)
    mark.proven_ms = T0 + 5
    venue.fill(old, T0 + 10)
    lost = [*items(venue.trade("BTCUSDT", "SELL", "1", T0 + 20))]
    answer = venue.answer

    def by_placing(call: HttpCall) -> Any:
        reply = answer(call)
        since = int(dict(call.params).get("startTime", 0))
        return [r for r in reply if r["time"] >= since] if call.path.endswith("allOrders") else reply

    monkeypatch.setattr(venue, "answer", by_placing)
    mark.scope = "orders"
    fills = [e for e in venue.read(mark, T0 + 200).events if isinstance(e, Fill)]
    assert [e.client_order_id for e in fills] == ["c1", "c2"] and fills[1].id in {e.id for e in lost}


@pytest.mark.parametrize("closing", [False, True])
def test_a_state_told_between_two_fills_of_one_millisecond_is_outranked(closing: bool) -> None:
    """An order that takes several levels has fills of one millisecond. The socket told the position and wallet after the first of
    them and died; of one instant its word outranks REST's in Postgres."""
    venue, at_ms = Venue(), T0 + 10
    mark = based(venue)
    if closing:
        for event in items(venue.trade("BTCUSDT", "BUY", "3", T0 + 5)):
            mark.advance(event)
    side = "SELL" if closing else "BUY"
    told = items(venue.trade("BTCUSDT", side, "1", at_ms))
    for event in told:
        mark.advance(event)
    venue.trade("BTCUSDT", side, "2", at_ms)
    found = venue.read(mark, T0 + 10_000)
    states = [e for e in found.events if isinstance(e, Position | Balance)]
    assert [e.qty if isinstance(e, Position) else e.wallet for e in states] == (
        ["0", "999.97"] if closing else ["3", "999.98"]
    )
    assert [e.ts_event for e in map(mark.outranking, states)] == [at_ms + 1, at_ms + 1]
    for event in map(mark.outranking, found.events):
        mark.advance(event)
    assert not [e for e in venue.read(mark, T0 + 20_000).events if isinstance(e, Position | Balance)]


def test_an_entry_price_that_lags_behind_the_account_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue()
    mark = based(venue)
    for event in items(venue.trade("BTCUSDT", "BUY", "1", T0 + 10)):
        mark.advance(event)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 20)
    answer = venue.answer

    def lagging(call: HttpCall) -> Any:
        reply = answer(call)
        return [row | {"positionAmt": "1"} for row in reply] if call.path.endswith("positionRisk") else reply

    monkeypatch.setattr(venue, "answer", lagging)
    told = [e for e in venue.read(mark, T0 + 10_000).events if isinstance(e, Position)]
    assert [(e.qty, e.entry_price) for e in told] == [("2", "")]


def test_a_missed_fill_names_its_client_order_though_the_call_for_one_order_lags() -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 20)
    venue.refuse = {"/fapi/v1/order": -2013}
    mark.scope = "fills"
    found = venue.read(mark, T0 + 100)
    assert [e.client_order_id for e in found.events if isinstance(e, Fill)] == ["c1"]


def test_a_missed_fill_names_the_client_order_that_the_socket_told_though_no_call_tells_the_order_yet() -> None:
    venue = Venue()
    mark = based(venue)
    row = venue.order("BTCUSDT", "BUY", "1", T0 + 10)
    for key, known in resting("BTCUSDT|1").items():
        mark.orders[key] = msgspec.structs.replace(known, client_order_id="c1")
    venue.fill(row, T0 + 20)
    venue.refuse = {"/fapi/v1/order": -2013, "/fapi/v1/allOrders": -1102}
    mark.scope = "fills"
    found = venue.read(mark, T0 + 100)
    assert [e.client_order_id for e in found.events if isinstance(e, Fill)] == ["c1"]


def test_entry_prices_that_a_reply_leaves_out_are_asked_for_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue()
    mark = based(venue)
    venue.trade("BTCUSDT", "BUY", "1", T0 + 20)
    answer = venue.answer

    def empty_once(call: HttpCall) -> Any:
        first = call.path.endswith("positionRisk") and venue.paths().count("positionRisk") == 1
        return [] if first else answer(call)

    monkeypatch.setattr(venue, "answer", empty_once)
    told = [e for e in venue.read(mark, T0 + 10_000).events if isinstance(e, Position)]
    assert [(e.qty, e.entry_price) for e in told] == [("1", "10.0")]


@pytest.mark.parametrize("newest", [False, True])
def test_more_orders_in_a_gap_than_a_page_holds_whichever_end_the_page_begins_at(
    monkeypatch: pytest.MonkeyPatch, newest: bool
) -> None:
    venue = Venue()
    mark = based(venue)
    mark.symbols = {"BTCUSDT": T0}
    for n in range(25):
        venue.order("BTCUSDT", "BUY", "1", T0 + 100 + n, "CANCELED")
    small(monkeypatch, PAGE=10)
    answer = venue.answer

    def page(call: HttpCall) -> Any:
        reply = answer(call)
        if not call.path.endswith("allOrders"):
            return reply
        return reply[-10:] if newest and "orderId" not in dict(call.params) else reply[:10]

    monkeypatch.setattr(venue, "answer", page)
    found = venue.read(mark, T0 + 10_000)
    assert {e.order_id for e in found.events if isinstance(e, Order)} == {str(n) for n in range(1, 26)}
