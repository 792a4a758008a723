"""Bybit v5 (unified account), simulated from ../../../shared/exchanges/bybit.md. In: a World; out: the venue. Runs in the
simulator process.
"""

from __future__ import annotations

from simulator.venue import Venue
from simulator.venues.bybit.twin import Bybit
from simulator.world import World


def create(world: World) -> Venue:
    """The venue, not listening yet."""
    return Bybit(world)
