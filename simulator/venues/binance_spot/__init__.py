"""Binance Spot, simulated from ../../../shared/exchanges/binance.md. In: a World; out: the venue. Runs in the simulator process."""

from __future__ import annotations

from simulator.venue import Venue
from simulator.venues.binance_spot.twin import BinanceSpot
from simulator.world import World


def create(world: World) -> Venue:
    """The venue, not listening yet."""
    return BinanceSpot(world)
