"""Which two assets a Binance Spot symbol trades, as far as its name tells. Pure; used by recover.py's bookkeeping.

In: symbols ("BTCUSDT", without a separator) and the assets that an account is known to hold or to have held. Out: (base,
quote). A wrong or missing answer only makes a read-back fuller than needed: the sums do not fit then.
"""

from __future__ import annotations

from collections.abc import Collection

from fleet.core.recovery import Legs, symbol_of

# What symbols end with, the most frequent first, as of this writing; others are told apart by what the account holds.
QUOTES = (
    "USDT", "USDC", "FDUSD", "TRY", "BTC", "ETH", "BNB", "EUR", "BRL", "JPY", "TUSD", "USD1", "BUSD", "USDP", "DAI", "XRP", "TRX",
    "DOGE", "SOL", "PLN", "MXN", "ARS", "ZAR", "UAH", "RON", "CZK", "COP", "IDR", "EURI", "U",
)  # fmt: skip


def legs(held: Collection[str]) -> Legs:
    """The answer for `Watermark.explains`, for an account that knows the assets `held`."""

    def of(key: str) -> tuple[str, str] | None:
        symbol = symbol_of(key)
        pairs = [(symbol[:n], symbol[n:]) for n in range(1, len(symbol))]
        known = [pair for pair in pairs if pair[0] in held and pair[1] in held]
        likely = [pair for pair in known or pairs if pair[1] in QUOTES]
        if len(known) == 1:
            return known[0]
        return max(likely, key=lambda pair: (len(pair[1]), pair)) if likely else None

    return of


def symbols_of(assets: Collection[str], quotes: Collection[str]) -> set[str]:
    """Symbols that may exist between one of `assets` and one of `quotes`."""
    return {base + quote for base in assets for quote in quotes if base != quote and quote in QUOTES}


def rank(symbol: str) -> tuple[int, str]:
    """Sort key: symbols in frequent quote assets first. "ETHBTC" exists, "BTCETH" does not."""
    return next((n for n, quote in enumerate(QUOTES) if symbol.endswith(quote)), len(QUOTES)), symbol
