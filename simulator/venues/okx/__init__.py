"""OKX v5, simulated from ../../../shared/exchanges/okx.md. In: a World; out: the venue. Runs in the simulator process."""

from __future__ import annotations

from simulator.venue import Venue
from simulator.venues.okx.twin import Okx
from simulator.world import World


def create(world: World) -> Venue:
    """The venue, not listening yet."""
    return Okx(world)
