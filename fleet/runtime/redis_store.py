"""What the fleet asks of Redis, all of it as one class.

In: ids, values of `fleet.core.model`. Out: typed replies, or StoreUnavailable. One RedisStore per thread role: one connection, a
budget of 0.5 s a call, looking up the server included, and no retries of the client's own (a timed-out call may have run; every
script may run twice). Used by coordinator, workers, console and CLI; who asks what is in `redis_worker`, `redis_leader`,
`redis_operator` and, for all, `redis_reads`.
"""

from __future__ import annotations

from fleet.runtime.budget import Budget
from fleet.runtime.redis_calls import BATCH, SCRIPTS, SHAS
from fleet.runtime.redis_connection import connect
from fleet.runtime.redis_leader import Change, LeaderCalls, NotLeader
from fleet.runtime.redis_operator import BucketCalls, OperatorCalls
from fleet.runtime.redis_poke import Poke
from fleet.runtime.redis_reads import Observation, OwnPart, Reads, check_rebuilt
from fleet.runtime.redis_worker import Beat, View, WorkerCalls

__all__ = [
    "BATCH", "SCRIPTS", "SHAS", "Beat", "Budget", "Change", "NotLeader", "Observation", "OwnPart", "Poke", "RedisStore", "View",
    "check_rebuilt", "connect",
]  # fmt: skip


class RedisStore(WorkerCalls, LeaderCalls, OperatorCalls, BucketCalls, Reads):
    """One connection to one fleet's keys. Belongs to one thread."""
