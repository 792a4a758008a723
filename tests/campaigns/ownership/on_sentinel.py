"""The row of a failover by Sentinel. In: a rig, left alone; out: a Finding from a rig of its own, whose Redis has a replica and
three sentinels and is reached as redis+sentinel://."""

from __future__ import annotations

import time

from fleet.services import Services
from fleet.services.redis import command
from fleet.services.redis_forms import Replicated, wait_until
from tests.campaigns.ownership.on_stores import rebuilt
from tests.campaigns.ownership.rig import Rig, wait_for
from tests.campaigns.ownership.table import row
from tests.campaigns.ownership.trial import Finding, Trial

ACCOUNTS = 12
DOWN_AFTER_MS = 3000  # a replica without its master for ten times as long is no candidate any more


@row
def sentinel_failover(rig: Rig, hold_s: float) -> Finding:
    """The master dies when its replica has not heard of it since before every account of a worker moved away: the next master
    has older data. No move, no dial, rebuilt from Postgres (R10)."""
    directory = rig.directory / "sentinel"
    with (
        Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services,
        Replicated(directory / "redis", DOWN_AFTER_MS) as redis,
        Rig(directory, services, accounts=ACCOUNTS, settings={"FLEET_REDIS_URL": redis.url}) as own,
    ):
        host = Trial(own, "sentinel_failover").victim()
        slot = host.slots()[0]
        master, replica = redis.servers
        assert command(replica.port, "CONFIG", "SET", "masteruser", "nobody").startswith(b"+OK")
        assert command(replica.port, "CONFIG", "SET", "masterauth", "wrong").startswith(b"+OK")
        command(master.port, "CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: b"master_link_status:down" in command(replica.port, "INFO", "replication"), "still linked")
        own.store.set_drain(slot, True)
        wait_for(lambda: not any(o.slot == slot for o in own.owners().values()), 20.0)
        own.store.set_drain(slot, False)
        trial = Trial(own, "sentinel_failover")
        rebuilds = _rebuilds(own)
        trial.begin()
        began = time.monotonic()
        master.kill()
        wait_until(lambda: b"role:master" in command(replica.port, "INFO", "replication"), "no failover", 60.0)
        failover_s = time.monotonic() - began
        noticed = wait_for(lambda: _rebuilds(own) > rebuilds, 40.0)
        rebuilt_s = time.monotonic() - began
        finding = rebuilt(own, trial)
        finding.more |= {"failover_s": round(failover_s, 1), "rebuilt_after_s": round(rebuilt_s, 1)}
        if not noticed:
            finding.blame("nobody noticed that the data are older")
        return finding


def _rebuilds(rig: Rig) -> int:
    return sum(host.log_text().count("rebuild: done") for host in rig.hosts.values())
