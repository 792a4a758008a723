"""Binance USDⓈ-M Futures: the facts of this venue as one `EXCHANGE` (sheet: exchanges/binance.md)."""

from __future__ import annotations

from fleet.core.book import Rules
from fleet.core.exchange import Exchange, Market
from fleet.exchanges.binance_usdm import history, limits, parse, recover, session, subscribe

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
    market_data=Market(
        kinds=subscribe.KINDS,
        topics=subscribe.topics,
        url=subscribe.url,
        subscribe=subscribe.subscribe,
        parse=parse.parse_market,
        topic_of=subscribe.topic_of,
        liveness=limits.LIVENESS,
        book=Rules(link="previous", covers=True, snapshots="rest"),
        snapshot=subscribe.snapshot,
        parse_snapshot=parse.parse_snapshot,
        trade_history=history.TRADES,
        candle_history=history.CANDLES,
    ),
    ticket=session.TICKET,
    ticket_of=session.ticket_of,
    books_positions=lambda symbol: True,
    renewal=session.RENEWAL,
    key_kinds=("hmac", "ed25519", "rsa"),
    extra_codes=session.CODE_TEXTS,
)

__all__ = ["EXCHANGE"]
