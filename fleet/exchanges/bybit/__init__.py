"""Bybit v5, unified account: the facts of this venue as one `EXCHANGE` (sheet: exchanges/bybit.md)."""

from __future__ import annotations

from fleet.core.book import Rules
from fleet.core.exchange import Exchange, Market
from fleet.exchanges.bybit import history, limits, parse, recover, session, subscribe

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
        True
    ),  # not on spot, whose fills may have the same symbol: then an audit finds nothing
    market_data=Market(
        kinds=subscribe.KINDS,
        topics=subscribe.topics,
        url=subscribe.url,
        subscribe=subscribe.subscribe,
        parse=parse.parse_market,
        topic_of=subscribe.topic_of,
        liveness=limits.LIVENESS,
        book=Rules(link="next", covers=False, snapshots="stream"),
        markets=subscribe.CATEGORIES,
        comes_with=subscribe.COMES_WITH,
        again=subscribe.again,
        changes=subscribe.changes,
        trade_history=history.TRADES,
        candle_history=history.CANDLES,
        examples=subscribe.EXAMPLES,
    ),
    key_kinds=("hmac", "rsa"),
    extra_codes=session.CODE_TEXTS,
)

__all__ = ["EXCHANGE"]
