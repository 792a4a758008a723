"""The services themselves: they start together, keep their data, come back, and die with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from fleet.services import Daemon, Redis, ServiceFailed, ServiceMissing, Services
from fleet.services.kafka_jars import Distribution, find_java, java_major
from fleet.services.spawn import FIRST_PORT, LAST_PORT, free_port
from tests.support.services import ROOT, SharedServices, missing

pytestmark = pytest.mark.integration
Own = Callable[..., Services]


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def test_all_start_together_within_15_s_and_stop(tmp_path: Path, services: SharedServices) -> None:
    _ = services.kafka  # whatever has to be downloaded is there now
    took_s: list[float] = []
    while not took_s or (min(took_s) >= 15 and len(took_s) < 3):  # a machine busy with other tests gets another try
        began = time.monotonic()
        with Services.start(tmp_path / str(len(took_s))) as own:
            took_s.append(time.monotonic() - began)
            assert set(own.env) == {
                "FLEET_POSTGRES_DSN", "FLEET_REDIS_URL", "FLEET_KAFKA_BOOTSTRAP", "FLEET_CLICKHOUSE_DSN",
            }  # fmt: skip
            assert Path(own.env["FLEET_CLICKHOUSE_DSN"]).is_dir()
            pids = [own.postgres.pid, own.redis.pid, own.kafka.pid]
            children = psutil.Process(own.postgres.pid).children()
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert not any(child.is_running() for child in children)
    assert min(took_s) < 15


def test_postgres_keeps_its_data_over_stop_and_kill(own_services: Own) -> None:
    postgres = own_services("postgres").postgres
    with psycopg2.connect(postgres.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
    connection.close()
    port = postgres.port
    for end in (postgres.stop, postgres.kill):
        end()
        assert not postgres.running
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(postgres.dsn)
        postgres.start()
        assert postgres.port == port
        connection = psycopg2.connect(postgres.dsn)
        with connection.cursor() as cursor:
            cursor.execute("SELECT n FROM kept")
            assert cursor.fetchall() == [(1,)]
        connection.close()


def test_a_server_that_is_killed_forks_nobody_while_its_children_are_looked_for(
    own_services: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend forked just then waits for a lock for ever, and no other Postgres starts beside it."""
    postgres, stopped = own_services("postgres").postgres, []
    family = postgres._family

    def looked() -> list[psutil.Process]:
        stopped.append(psutil.Process(postgres.pid).status() == psutil.STATUS_STOPPED)
        return family()

    monkeypatch.setattr(postgres, "_family", looked)
    postgres.kill()
    assert stopped[-1]
    postgres.start()


def test_redis_keeps_its_data_over_stop_and_kill(own_services: Own) -> None:
    server = own_services("redis").redis
    client = redis.Redis.from_url(server.url, decode_responses=True)
    client.set("kept", "1")
    for end in (server.stop, server.kill):
        end()
        server.start()
        assert client.get("kept") == "1"
    client.close()


def test_kafka_keeps_its_topics_over_stop_and_kill(own_services: Own) -> None:
    broker = own_services("kafka").kafka
    if broker.kind != "kafka":
        missing(ServiceMissing("Apache Kafka is not installed; Tansu keeps nothing"))
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    admin.close()
    for end in (broker.stop, broker.kill):
        end()
        broker.start()
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        assert "kept" in admin.list_topics()
        admin.close()


def test_tansu_serves_where_java_is_missing(tmp_path: Path) -> None:
    with Services.start(tmp_path, only=("kafka",), prefer_broker="tansu") as own:
        assert own.kafka.kind == "tansu"
        admin = KafkaAdminClient(bootstrap_servers=own.kafka.bootstrap)
        admin.create_topics([NewTopic("one", num_partitions=1, replication_factor=1)])
        assert "one" in admin.list_topics()
        admin.close()


def test_a_paused_redis_answers_nothing_until_it_is_resumed(own_services: Own) -> None:
    server = own_services("redis").redis
    client = redis.Redis.from_url(server.url, socket_timeout=0.3, retry=None)
    client.ping()
    server.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    server.resume()
    assert client.ping()
    client.close()


@pytest.mark.parametrize("paused", [False, True])
def test_services_die_with_a_parent_that_is_killed(tmp_path: Path, services: SharedServices, paused: bool) -> None:
    _ = services.kafka
    pids = tmp_path / "pids"
    program = (
        "import sys, time; from pathlib import Path; from fleet.services import Services\n"
        f"s = Services.start({str(tmp_path / 'services')!r}); all = [s.postgres, s.redis, s.kafka]\n"
        f"{'[d.pause() for d in all]' if paused else ''}\n"
        f"p = Path({str(pids)!r}); p.with_suffix('.new').write_text(' '.join(str(d.pid) for d in all))\n"
        "p.with_suffix('.new').rename(p); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        until(lambda: pids.exists() or parent.poll() is not None, 90)
        servers = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
        family = servers + [child for server in servers for child in server.children(recursive=True)]
    finally:
        parent.kill()
        parent.wait(10)
    until(lambda: not any(_lives(process) for process in family))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_stops_everything_in_order(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = (  # many short sleeps: a signal that the kernel gives to another thread interrupts no long one of the main thread
        "import faulthandler, signal, time; from pathlib import Path; from fleet.services import Services\n"
        "faulthandler.register(signal.SIGUSR1)\n"
        "with Services.start(only=('postgres', 'redis')) as s:\n"
        f"    Path({str(ready)!r}).write_text(f'{{s.directory}} {{s.redis.pid}} {{s.postgres.pid}}')\n"
        "    while True: time.sleep(0.1)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE)
    until(lambda: ready.exists() and len(ready.read_text().split()) == 3, 60)
    directory, *pids = ready.read_text().split()
    parent.send_signal(signal.SIGINT)
    try:
        said = parent.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        parent.send_signal(signal.SIGUSR1)  # where does it hang?
        threading.Timer(1.0, parent.kill).start()
        pytest.fail(f"still running after Ctrl-C: {parent.communicate(timeout=30)[1].decode()}")
    assert b"KeyboardInterrupt" in said
    assert not Path(directory).exists()
    assert not any(psutil.pid_exists(int(pid)) for pid in pids)


def test_postgres_runs_as_root_below_a_private_directory(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    tmp_path.chmod(0o700)
    with Services.start(tmp_path / "deep" / "down", only=("postgres",)) as own:
        assert psutil.Process(own.postgres.pid).uids().effective != 0


def test_missing_java_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ServiceMissing, match=r"^Apache Kafka: Java is not installed; apt-get install \S+$"):
        find_java()
    with pytest.raises(ServiceMissing, match="Java is not installed"):
        Services.start(tmp_path / "s", only=("kafka",), prefer_broker="kafka")
    said: list[str] = []
    with Services.start(tmp_path / "t", only=("kafka",), progress=said.append) as own:
        assert own.kafka.kind == "tansu"
    assert any("using Tansu" in line for line in said)


def test_missing_maven_is_named_only_while_the_jars_are_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    distribution = Distribution(tmp_path / "cache")
    with pytest.raises(ServiceMissing, match=r"^Apache Kafka: Maven is not installed; apt-get install maven"):
        distribution.check()
    distribution.jars.mkdir(parents=True)
    distribution.check()


def test_a_failed_download_falls_back_to_tansu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "mvn"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho '[ERROR] no route to repository'; exit 1\n")
    broken.chmod(0o755)
    try:
        java = Path(find_java())
    except ServiceMissing as error:
        missing(error)
    (broken.parent / "java").symlink_to(java.resolve())
    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said: list[str] = []
    with Services.start(tmp_path / "s", only=("kafka",), progress=said.append) as own:
        assert own.kafka.kind == "tansu"
    assert any("no route to repository" in line for line in said)
    assert not list((tmp_path / "cache" / "streamfleet").glob("kafka-*"))  # nothing half made is kept


def test_java_versions_are_read(tmp_path: Path) -> None:
    for text, major in (('JAVA_VERSION="17.0.15"', 17), ('JAVA_VERSION="1.8.0_292"', 8), ('JAVA_VERSION="21"', 21)):
        (tmp_path / "release").write_text(text)
        assert java_major(str(tmp_path / "bin" / "java")) == major


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    server = Redis(tmp_path)
    blocker = Redis(tmp_path / "other")
    server.port = blocker.start().port
    with blocker, pytest.raises(ServiceFailed, match="redis ended with 1"):
        server.ready = lambda: False  # type: ignore[method-assign]  # else the blocker's answer counts
        server.start()


def test_close_interrupts_a_start(tmp_path: Path) -> None:
    class Slow(Daemon):
        name = "slow"

        def command(self) -> list[str]:
            return ["/bin/sleep", "600"]

        def ready(self) -> bool:
            self.close()
            return False

    with pytest.raises(ServiceFailed, match="slow ended"):
        Slow(tmp_path).start()


def test_ports_lie_below_the_ephemeral_range() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert FIRST_PORT <= free_port() <= LAST_PORT < lowest
