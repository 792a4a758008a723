"""Account REST of OKX (sheet 6.3): balance, positions, configuration, bills. In: authenticated calls; out: rows, from the same
records the stream was written from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.records import text
from simulator.venues.okx import messages
from simulator.venues.okx.rest_market import instruments, limit_of
from simulator.venues.okx.symbols import product

if TYPE_CHECKING:
    from simulator.venues.okx.rest import Call
    from simulator.venues.okx.twin import Okx


class AccountCalls:
    """The account endpoints."""

    def __init__(self, venue: Okx) -> None:
        self._venue = venue

    def balance(self, call: Call) -> list[dict[str, Any]]:
        wanted = [name for name in call.params.get("ccy", "").split(",") if name]
        assets = [a for a in call.account.view(call.lag_ms, call.now_ms).assets() if a.wallet or a.locked]
        return [messages.account([a for a in assets if not wanted or a.asset in wanted], call.now_ms)]

    def positions(self, call: Call) -> list[dict[str, Any]]:
        kind, wanted = call.params.get("instType", ""), [s for s in call.params.get("instId", "").split(",") if s]
        return [
            self._venue.users.position(call.account, p)
            for p in call.account.view(call.lag_ms, call.now_ms).positions()
            if (p.qty or p.symbol in wanted) and kind in ("", product(p.symbol)) and (not wanted or p.symbol in wanted)
        ]

    def config(self, call: Call) -> list[dict[str, Any]]:
        account = call.account
        return [{
            "acctLv": "2", "acctStpMode": "cancel_maker", "autoLoan": False, "ctIsoMode": "automatic", "enableSpotBorrow": False,
            "greeksType": "PA", "feeType": "0", "ip": "", "type": "0", "kycLv": "3", "label": "simulated", "level": "Lv1",
            "levelTmp": "", "liquidationGear": "-1", "mainUid": str(account.uid), "mgnIsoMode": "automatic", "opAuth": "0",
            "perm": "read_only,trade", "posMode": "long_short_mode" if account.hedge_mode else "net_mode", "roleType": "0",
            "settleCcy": "USDT", "settleCcyList": ["USDT"], "spotOffsetType": "", "spotRoleType": "0", "spotTraderInsts": [],
            "stgyType": "0", "traderInsts": [], "uid": str(account.uid),
        }]  # fmt: skip

    def instruments(self, call: Call) -> list[dict[str, str]]:
        return instruments(self._venue, call.params)

    def bills(self, call: Call) -> list[dict[str, Any]]:
        rows = [
            {"billId": str(row.id), "ts": str(row.time_ms), "ccy": row.asset, "balChg": text(row.amount), "instId": row.symbol,
             "tradeId": str(row.trade_id or ""), "type": "2" if row.symbol else "1", "subType": "1", "sz": text(row.amount)}
            for row in reversed(call.account.view(call.lag_ms, call.now_ms).incomes())
        ]  # fmt: skip
        after = call.params.get("after")
        return [row for row in rows if not after or int(row["billId"]) < int(after)][: limit_of(call.params, 100, 100)]

    def currencies(self, call: Call) -> list[dict[str, Any]]:
        names = {i.base for i in self._venue.engine.instruments.values()} | {"USDT", "USD"}
        return [{
            "ccy": name, "name": name, "chain": f"{name}-Simulated", "canDep": True, "canWd": True, "canInternal": True,
            "minDep": "0.1", "minWd": "0.1", "maxWd": "1000", "minFee": "0.1", "maxFee": "0.2", "fee": "0.1", "mainNet": True,
            "wdTickSz": "8", "logoLink": "", "needTag": False, "minDepArrivalConfirm": "1", "minWdUnlockConfirm": "1",
            "depQuotaFixed": "", "usedDepQuotaFixed": "", "depQuoteDailyLayer2": "", "burningFeeRate": "", "ctAddr": "",
            "minFeeForCtAddr": "", "maxFeeForCtAddr": "", "wdQuota": "100000", "usedWdQuota": "0",
        } for name in sorted(names)]  # fmt: skip

    def funding(self, call: Call) -> list[dict[str, Any]]:
        """The funding account is empty: everything is in trading."""
        return []
