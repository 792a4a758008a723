"""Apache Kafka, one broker and controller in one process (KRaft), on Java 17 or newer. Data survives stop and kill."""

from __future__ import annotations

import shutil
from pathlib import Path

from fleet.services.broker import broker_answers
from fleet.services.daemon import Daemon, Progress, ServiceFailed
from fleet.services.kafka_jars import Distribution, find_java
from fleet.services.spawn import free_port

CLUSTER_ID = "c3RyZWFtZmxlZXQtZGVtbw"  # 16 bytes, base64; every cluster here is alone on its port
JAVA_FLAGS = [
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
]
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.segment.bytes": "268435456",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "6000",  # a killed broker is let in again after this; a starved one is not put out
}


class Kafka(Daemon):
    name = "kafka"
    kind = "kafka"

    def __init__(self, directory: Path, progress: Progress | None = None) -> None:
        super().__init__(directory, progress)
        self.java = find_java()
        self.distribution = Distribution()
        self.distribution.check()
        self.controller_port = 0

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def properties(self) -> Path:
        return self.directory / "kafka.properties"

    def prepare(self) -> None:
        self.distribution.ensure(self)
        if not (self.directory / "kafka" / "meta.properties").exists():
            self._format()

    def command(self) -> list[str]:
        self.controller_port = self.controller_port or free_port()
        self._write_properties()
        return [*self._java("kafka.Kafka"), str(self.properties)]

    def ready(self) -> bool:
        return broker_answers(self.port)

    def _write_properties(self) -> None:
        settings = SETTINGS | {
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "log.dirs": str(self.directory / "kafka"),
        }
        self.properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def _java(self, main: str) -> list[str]:
        return [self.java, *JAVA_FLAGS, "-cp", f"{self.distribution.jars}/*", main]

    def _format(self) -> None:
        """An empty, formatted log directory. It holds no port, so the first one is kept and copied: 1 s less a start."""
        kept = self.distribution.formatted
        if not kept.exists():
            self._write_properties()
            tool = [*self._java("kafka.tools.StorageTool"), "format"]
            if self.run([*tool, "--cluster-id", CLUSTER_ID, "--config", str(self.properties)], self.log) != 0:
                raise ServiceFailed(f"Kafka's StorageTool failed: {self._log_tail()}")
            self.distribution.keep_formatted(self.directory / "kafka")
        else:
            shutil.copytree(kept, self.directory / "kafka", dirs_exist_ok=True)
