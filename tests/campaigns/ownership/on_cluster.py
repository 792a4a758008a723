"""The row of a failover in a Redis cluster. In: a rig, left alone; out: a Finding from a rig of its own, whose Redis is three
masters with a replica each and is reached as redis+cluster://."""

from __future__ import annotations

import time

from fleet.services import Services
from fleet.services.redis import command
from fleet.services.redis_forms import Cluster, wait_until
from tests.campaigns.ownership.rig import Rig
from tests.campaigns.ownership.table import row
from tests.campaigns.ownership.trial import Finding, Trial

ACCOUNTS = 12


@row
def cluster_failover(rig: Rig, hold_s: float) -> Finding:
    """kill −9 of the master that keeps the fleet's slot; its replica takes over. No move, no dial (I5, I6)."""
    directory = rig.directory / "cluster"
    with (
        Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services,
        Cluster(directory / "redis", replicas=True) as redis,
        Rig(directory, services, accounts=ACCOUNTS, settings={"FLEET_REDIS_URL": redis.url}) as own,
    ):
        master = redis.keeper_of(own.keys.own)
        replica = redis.replica_of(master)
        trial = Trial(own, "cluster_failover")
        trial.begin()
        began = time.monotonic()
        master.kill()
        wait_until(lambda: b"role:master" in command(replica.port, "INFO", "replication"), "no failover", 60.0)
        failover_s = time.monotonic() - began
        trial.healed()
        finding = trial.end()
        finding.more |= {"failover_s": round(failover_s, 1)}
        return finding
