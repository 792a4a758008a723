"""A canary: one account's key and secret appear nowhere but in the keyring's ciphertext and the process that dials."""

from __future__ import annotations

import gzip
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from fleet.core.model import Credentials
from fleet.core.names import TOPIC_STREAMS, USER_TOPICS
from fleet.runtime.kafka_io import Consumer
from tests.support.fleet import Fleet, eventually, fresh_env
from tests.support.services import SharedServices

pytestmark = pytest.mark.system

CANARY = Credentials("CANARYKEY" + "a1" * 20, "CANARYSECRET" + "b2" * 20)
WRONG = Credentials("CANARYBADKEY" + "c3" * 20, "CANARYBADSECRET" + "d4" * 20)
CANARIES = (CANARY.api_key, CANARY.secret, WRONG.api_key, WRONG.secret)


@pytest.fixture(scope="module")
def fleet(services: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that has streamed the canary, reconnected it, failed with wrong credentials and read back."""
    directory = tmp_path_factory.mktemp("secrets")
    with fresh_env(services, directory) as env:
        with Fleet(env | {"FLEET_LOG_LEVEL": "debug"}, directory, workers=1) as fleet:
            fleet.control.add_account("binance", "usdm", CANARY)
            fleet.add_account(CANARY)
            fleet.add_account(WRONG)  # the exchange does not know this one
            fleet.wait_live(1)
            fleet.control.load(50.0, 2.0)
            fleet.control.fault({"kind": "rest_error", "status": 503, "code": -1001, "count": 2})
            fleet.control.fault({"kind": "cut", "count": 1, "api_key": CANARY.api_key})
            eventually(lambda: sockets_ever(fleet) > 1, 20.0, "a second socket")
            fleet.wait_live(1)
            yield fleet


def sockets_ever(fleet: Fleet) -> int:
    return sum(1 for c in fleet.control.connections() if c.get("api_key") == CANARY.api_key)


def assert_clean(text: str, where: str) -> None:
    for canary in CANARIES:
        assert canary not in text, f"a canary is in {where}"


def listen_keys(fleet: Fleet) -> set[str]:
    """Listen keys, where the simulator's list of sockets shows them."""
    return set(re.findall(r"[A-Za-z0-9]{64}", str([c.get("path") for c in fleet.control.connections()]))) - set(
        CANARIES
    )


def test_logs(fleet: Fleet) -> None:
    text = fleet.log_text()
    assert "User Data WebSocket connected" in text
    assert_clean(text, "a log")
    for key in listen_keys(fleet):
        assert key not in text, "a listen key is in a log"
    assert "signature=" not in text and "X-MBX-APIKEY" not in text


def test_redis(fleet: Fleet) -> None:
    client = redis.Redis.from_url(fleet.env["FLEET_REDIS_URL"], decode_responses=True)
    names = list(client.scan_iter(match=f"*{fleet.env['FLEET_NAME']}*"))
    assert names
    for name in names:
        kind = client.type(name)
        value = {"hash": client.hgetall, "set": client.smembers, "string": client.get}[str(kind)](name)
        assert_clean(f"{name!r} {value!r}", f"Redis: {name!r}")
        for key in listen_keys(fleet):
            assert key not in str(value), "a listen key is in Redis"
    client.close()


def test_kafka(fleet: Fleet) -> None:
    accounts = {account.encode() for account in fleet.credentials}
    consumer = Consumer(fleet.env["FLEET_KAFKA_BOOTSTRAP"], None, (*USER_TOPICS, TOPIC_STREAMS))
    ours = 0
    while records := consumer.poll(2.0, 5000):
        for record in records:
            ours += record.key in accounts
            assert_clean(f"{record.key!r} {record.value!r} {record.headers}", f"Kafka: {record.topic}")
    consumer.close()
    assert ours


def test_argv_and_environment_of_every_process(fleet: Fleet) -> None:
    seen = 0
    for pid in [fleet.processes.pid, *fleet.processes.processes()]:
        process = psutil.Process(pid)
        assert_clean(" ".join(process.cmdline()), f"argv of {pid}")
        assert_clean(str(process.environ()), f"the environment of {pid}")
        seen += 1
    assert seen >= 6


def test_metrics(fleet: Fleet) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{fleet.settings.console_port}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    assert "prometheus_userdata_connections" in text
    assert_clean(text, "a metric")


def test_postgres_holds_ciphertext_only(fleet: Fleet) -> None:
    for table in ("exchange_accounts", "outbox", "stream_watermarks", "account_events", "dead_letter"):
        rows = fleet.pg.fetch(f"SELECT * FROM {table}")
        assert_clean(str(rows), f"table {table}")


def test_files_of_the_fleet(fleet: Fleet) -> None:
    seen = 0
    for directory, below, names in os.walk(fleet.directory):  # of a living fleet: files come and go
        below[:] = [
            name for name in below if name != "clickhouse"
        ]  # market data alone, and its files live for milliseconds
        for path in (Path(directory, name) for name in names if name != "simulator.log"):
            if path.is_file() and (data := read_if_there(path)) is not None:
                text = gzip.decompress(data) if path.suffix == ".gz" else data
                assert_clean(text.decode("utf-8", "replace"), str(path))
                seen += 1
    assert seen >= 5, "the logs of the processes at least"


def read_if_there(path: Path) -> bytes | None:
    """What a file holds; None of one that was removed since it was listed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
