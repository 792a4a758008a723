"""The symbols this simulated venue lists. In: nothing; out: Specs. Several quote assets, so that names do not tell the legs."""

from __future__ import annotations

from simulator.market import Spec

_ROWS = """
BTC USDT 2 5 84000
ETH USDT 2 4 3100
SOL USDT 2 3 180
BNB USDT 2 3 850
XRP USDT 4 1 2.4
DOGE USDT 5 0 0.21
ADA USDT 4 1 0.72
LINK USDT 2 2 17.5
LTC USDT 2 3 104
TRX USDT 4 1 0.31
ETH BTC 5 4 0.0369
BNB BTC 6 3 0.01012
BNB ETH 4 3 0.274
BTC USDC 2 5 84000
ETH USDC 2 4 3100
BTC FDUSD 2 5 84000
"""


def specs() -> list[Spec]:
    """All of them: symbol, price decimals, quantity decimals, rough price."""
    rows = [line.split() for line in _ROWS.split("\n") if line]
    return [
        Spec(base + quote, base, quote, int(pd), int(qd), float(price), _notional(quote))
        for base, quote, pd, qd, price in rows
    ]


def _notional(quote: str) -> float:
    """About 2000 dollars."""
    return {"BTC": 0.024, "ETH": 0.65}.get(quote, 2000.0)
