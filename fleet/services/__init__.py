"""Real services that install and run themselves on one machine: Postgres, Redis, Apache Kafka (or Tansu), the ClickHouse engine.

Comes in: a directory and the services wanted. Goes out: running servers on free loopback ports, and the FLEET_* settings
that point at them. Runs inside whoever needs them: `fleet demo`, the test suite, the benchmarks; never in production.
"""

from fleet.services.daemon import Daemon, Progress, ServiceFailed, ServiceMissing
from fleet.services.kafka import Kafka
from fleet.services.postgres import Postgres
from fleet.services.redis import Redis
from fleet.services.services import SERVICES, Broker, Services
from fleet.services.tansu import Tansu

__all__ = [
    "SERVICES",
    "Broker",
    "Daemon",
    "Kafka",
    "Postgres",
    "Progress",
    "Redis",
    "ServiceFailed",
    "ServiceMissing",
    "Services",
    "Tansu",
]
