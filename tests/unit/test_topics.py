"""The topics that `fleet migrate` asks for, on clusters that no test starts."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.runtime import kafka_io


@pytest.mark.parametrize(
    ("brokers", "replicas", "configs"), [(1, 1, {}), (2, 2, {}), (5, 3, {"min.insync.replicas": "2"})]
)
def test_what_kafka_acknowledged_is_on_two_brokers_where_there_are_three(
    brokers: int, replicas: int, configs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """acks=all means all that are in sync: of Kafka's default, at least one."""
    asked: dict[str, Any] = {}

    class Admin:
        def __init__(self, **_: Any) -> None: ...
        def list_topics(self) -> list[str]:
            return ["user.fills"]

        def describe_cluster(self) -> dict[str, Any]:
            return {"brokers": [{}] * brokers}

        def create_topics(self, wanted: dict[str, Any], **_: Any) -> dict[str, Any]:
            asked.update(wanted)
            return {"topics": [{"name": name, "error_code": 0} for name in wanted]}

        def wait_for_topics(self, *_: Any, **__: Any) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr(kafka_io, "KafkaAdminClient", Admin)
    made = kafka_io.create_topics("h:1", 4)
    assert "user.orders" in made and "user.fills" not in made
    assert set(asked) == set(made)
    assert all(
        topic == {"num_partitions": 4, "replication_factor": replicas, "configs": configs} for topic in asked.values()
    )
