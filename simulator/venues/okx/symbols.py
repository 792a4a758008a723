"""The instruments this simulated venue lists. In: nothing; out: Specs and what the instruments call says of each.

Contracts are one unit of the base currency each (`ctVal` 1), so that quantities and money agree without a multiplier. The last
rows are those of the recorded capture; its coin-margined ones are kept as linear.
"""

from __future__ import annotations

from decimal import Decimal

from simulator.market import Spec
from simulator.records import Instrument

_ROWS = """
BTC-USDT-SWAP 1 3 84000
ETH-USDT-SWAP 2 3 3100
SOL-USDT-SWAP 2 2 180
XRP-USDT-SWAP 4 0 2.4
DOGE-USDT-SWAP 5 0 0.21
LTC-USDT-SWAP 2 2 104
BNB-USDT-SWAP 1 2 850
ADA-USDT-SWAP 4 0 0.72
BTC-USDT 1 5 84000
ETH-USDT 2 4 3100
SOL-USDT 2 3 180
XRP-USDT 4 1 2.4
BTC-USDT-270326 1 3 85200
BTC-USD-220527 1 0 30200
UNI-USD-SWAP 3 0 5.6
"""


def specs() -> list[Spec]:
    """All of them: symbol, price decimals, quantity decimals, rough price."""
    rows = [line.split() for line in _ROWS.split("\n") if line]
    return [
        Spec(name, name.split("-")[0], name.split("-")[1], int(pd), int(qd), float(price))
        for name, pd, qd, price in rows
    ]


def product(symbol: str) -> str:
    """instType of an instId."""
    parts = symbol.split("-")
    return "SPOT" if len(parts) == 2 else "SWAP" if parts[2] == "SWAP" else "FUTURES"


def instrument(spec: Spec) -> Instrument:
    kind = "spot" if product(spec.symbol) == "SPOT" else "linear"
    tick, step = Decimal(1).scaleb(-spec.price_decimals), Decimal(1).scaleb(-spec.qty_decimals)
    return Instrument(spec.symbol, spec.base, spec.quote, tick, step, kind=kind)  # type: ignore[arg-type]


def listing(spec: Spec) -> dict[str, str]:
    """A row of /public/instruments."""
    kind = product(spec.symbol)
    tick, step = f"{Decimal(1).scaleb(-spec.price_decimals):f}", f"{Decimal(1).scaleb(-spec.qty_decimals):f}"
    derivative = kind != "SPOT"
    return {
        "instType": kind, "instId": spec.symbol, "uly": f"{spec.base}-{spec.quote}" if derivative else "",
        "instFamily": f"{spec.base}-{spec.quote}" if derivative else "", "category": "1",
        "baseCcy": "" if derivative else spec.base,
        "quoteCcy": "" if derivative else spec.quote, "settleCcy": spec.quote if derivative else "",
        "ctVal": "1" if derivative else "", "ctMult": "1" if derivative else "", "ctValCcy": spec.base if derivative else "",
        "optType": "", "stk": "", "listTime": "1606468572000", "expTime": "1806048000000" if kind == "FUTURES" else "",
        "lever": "50" if derivative else "10", "tickSz": tick, "lotSz": step, "minSz": step,
        "ctType": "linear" if derivative else "", "alias": "next_quarter" if kind == "FUTURES" else "", "state": "live",
        "maxLmtSz": "100000000", "maxMktSz": "1000000", "maxTwapSz": "100000000", "maxIcebergSz": "100000000",
        "maxTriggerSz": "100000000", "maxStopSz": "1000000", "maxLmtAmt": "20000000", "maxMktAmt": "1000000", "ruleType": "normal",
        "instIdCode": "1",
    }  # fmt: skip
