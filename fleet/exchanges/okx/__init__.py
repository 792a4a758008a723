"""OKX v5: the facts of this venue as one `EXCHANGE` (sheet: exchanges/okx.md)."""

from __future__ import annotations

from fleet.core.book import Rules
from fleet.core.exchange import Exchange, Market
from fleet.exchanges.okx import history, limits, parse, recover, session, subscribe

EXCHANGE = Exchange(
    name=limits.NAME,
    exchange=limits.EXCHANGE,
    market=limits.MARKET,
    hosts=limits.HOSTS,
    testnet_hosts=limits.TESTNET_HOSTS,
    host_settings=limits.HOST_SETTINGS,
    limits=limits.LIMITS,
    user_liveness=limits.LIVENESS,
    sign=session.sign,
    classify=session.classify,
    clock=session.CLOCK,
    clock_ms=session.clock_ms,
    probe=session.PROBE,
    user_url=session.user_url,
    opening=session.opening,
    parse_user=parse.parse_user,
    recover=recover.recover,
    books_positions=lambda symbol: (
        subscribe.product_of(symbol) != "SPOT"
    ),  # a margin position may be in either currency
    market_data=Market(
        kinds=subscribe.KINDS,
        examples=("BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USDT"),
        topics=subscribe.topics,
        url=subscribe.url,
        subscribe=subscribe.subscribe,
        parse=parse.parse_market,
        topic_of=subscribe.topic_of,
        liveness=limits.LIVENESS,
        book=Rules(link="previous", covers=True, snapshots="either"),
        snapshot=subscribe.snapshot,
        parse_snapshot=parse.parse_snapshot,
        trade_history=history.TRADES,
        candle_history=history.CANDLES,
    ),
    needs_passphrase=True,
    extra_codes=session.CODE_TEXTS,
)

__all__ = ["EXCHANGE"]
