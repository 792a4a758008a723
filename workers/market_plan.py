"""Which sockets the market-data process opens: topics and limits in, lanes out. Pure.

A lane is one socket's worth of topics of one path (Binance acks a name on the wrong path and then stays silent). One lane per
path while the venue's limit of streams per connection allows; above it the topics are spread evenly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from fleet.core.errors import SettingsError
from fleet.core.exchange import Exchange, Topic

Names = dict[str, list[str]]


class Lane(msgspec.Struct, frozen=True):
    """One socket: its name (the key of its fleet.streams events), path, and topics."""

    name: str
    venue: str
    path: str
    topics: tuple[Topic, ...]


def lanes(venue: Exchange, symbols: Sequence[str], kinds: Sequence[str]) -> list[Lane]:
    """The lanes of one venue, in a stable order: the same settings always give the same lanes."""
    by_path: dict[str, list[Topic]] = {}
    for topic in venue.market_data.topics(symbols, [k for k in kinds if k in venue.market_data.kinds]):
        by_path.setdefault(topic.path, []).append(topic)
    found = []
    for path, topics in by_path.items():
        for number, part in enumerate(spread(topics, venue.limits.streams_per_connection)):
            name = f"{venue.name}:{path.strip('/').replace('/', '.') or 'public'}:{number}"
            found.append(Lane(name, venue.name, path, tuple(part)))
    if len(found) > venue.limits.connections_per_ip:
        raise SettingsError(
            f"FLEET_MARKET_SYMBOLS: {venue.name} needs {len(found)} sockets, the exchange allows {venue.limits.connections_per_ip}"
        )
    return found


def spread(topics: Sequence[Topic], limit: int) -> list[list[Topic]]:
    """As few parts as `limit` allows, equal to within one topic, order kept."""
    parts = -(-len(topics) // limit)
    bounds = [len(topics) * n // parts for n in range(parts + 1)] if parts else []
    return [list(topics[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]


def chunks(topics: Sequence[Topic], size: int) -> list[Sequence[Topic]]:
    """Topics in pieces of one SUBSCRIBE frame each."""
    return [topics[n : n + size] for n in range(0, len(topics), size)]


def plan(venues: dict[str, Exchange], symbols_by_venue: Names, kinds: Iterable[str]) -> list[Lane]:
    """The lanes of all venues. Raises SettingsError for a venue that does not exist."""
    wanted = tuple(kinds)
    found: list[Lane] = []
    for name, symbols in symbols_by_venue.items():
        if name not in venues:
            raise SettingsError(f"FLEET_MARKET_SYMBOLS: unknown venue {name!r}; known: {', '.join(venues)}")
        found += lanes(venues[name], symbols, wanted)
    return found
