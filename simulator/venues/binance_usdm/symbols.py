"""The symbols this simulated venue lists. In: nothing; out: Specs. The last four are those of the recorded capture."""

from __future__ import annotations

from simulator.market import Spec

_ROWS = """
BTCUSDT 1 3 84000
ETHUSDT 2 3 3100
SOLUSDT 2 2 180
BNBUSDT 2 2 850
XRPUSDT 4 1 2.4
DOGEUSDT 5 0 0.21
ADAUSDT 4 0 0.72
LINKUSDT 3 2 17.5
AVAXUSDT 3 1 24
LTCUSDT 2 3 104
DOTUSDT 3 1 3.9
TRXUSDT 5 0 0.31
BCHUSDT 2 3 520
NEARUSDT 3 1 2.7
APTUSDT 3 1 4.2
SUIUSDT 4 1 2.6
ATOMUSDT 3 2 4.1
FILUSDT 3 1 2.2
ARBUSDT 4 1 0.38
OPUSDT 4 1 0.65
INJUSDT 3 1 9.3
ETCUSDT 3 2 18
UNIUSDT 3 1 7.4
AAVEUSDT 2 1 230
SUSHIUSDT 4 0 7.61
AKROUSDT 5 0 0.01735
KEEPUSDT 4 0 0.246
CTKUSDT 5 0 1.012
"""


def specs() -> list[Spec]:
    """All of them: symbol, price decimals, quantity decimals, rough price."""
    rows = [line.split() for line in _ROWS.split("\n") if line]
    return [Spec(name, name[:-4], "USDT", int(pd), int(qd), float(price)) for name, pd, qd, price in rows]
