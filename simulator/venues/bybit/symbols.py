"""The symbols this simulated venue lists, by category. In: nothing; out: Specs. BTCUSDT and others exist on both, as they do at
the real one; inside the engine a spot symbol has its category in front.
"""

from __future__ import annotations

from simulator.market import Spec

SPOT = "spot/"
_LINEAR = """
BTCUSDT 2 3 86700
ETHUSDT 2 2 3120
SOLUSDT 3 1 181
XRPUSDT 4 0 2.41
DOGEUSDT 5 0 0.212
BNBUSDT 2 2 852
ADAUSDT 4 0 0.73
LINKUSDT 3 1 17.6
AVAXUSDT 3 1 24.1
LTCUSDT 2 1 104
SUIUSDT 4 0 2.61
PIPPINUSDT 5 0 0.0246
BTCPERP 2 3 86710
"""
_SPOT = """
BTCUSDT 2 6 86690
ETHUSDT 2 5 3119
SOLUSDT 2 3 181
XRPUSDT 4 2 2.41
DOGEUSDT 5 1 0.212
BNBUSDT 1 4 852
ADAUSDT 4 2 0.73
LTCUSDT 2 5 104
"""


def _specs(table: str) -> list[Spec]:
    rows = [line.split() for line in table.split("\n") if line]
    return [Spec(name, *_coins(name), int(pd), int(qd), float(price)) for name, pd, qd, price in rows]


def _coins(name: str) -> tuple[str, str]:
    return (name[:-4], "USDC") if name.endswith("PERP") else (name[:-4], "USDT")


def specs() -> dict[str, list[Spec]]:
    """By category: symbol, price decimals, quantity decimals, rough price."""
    return {"linear": _specs(_LINEAR), "spot": _specs(_SPOT)}


def engine_symbol(category: str, symbol: str) -> str:
    """The engine knows a symbol once: BTCUSDT is the perpetual, spot/BTCUSDT the pair."""
    return SPOT + symbol if category == "spot" else symbol


def category_of(engine_name: str) -> str:
    return "spot" if engine_name.startswith(SPOT) else "linear"


def wire_symbol(engine_name: str) -> str:
    return engine_name.removeprefix(SPOT)
