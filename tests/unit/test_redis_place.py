"""FLEET_REDIS_URL in its three forms, and what is checked at start where a failover may lose writes."""

from __future__ import annotations

import pytest

from fleet.core.errors import SettingsError
from fleet.runtime.redact import redact
from fleet.runtime.redis_place import Place, parse
from fleet.runtime.settings import Settings

PASSWORD = "canary-in-the-url"


def test_three_forms() -> None:
    assert parse("redis://h:1/0") == Place("server")
    assert parse("rediss://:x@h:1/0") == Place("server", tls=True)
    sentinel = parse("redis+sentinel://me:p%40ss@h1:26379,h2,[::1]:5/prime/3?sentinel_password=q")
    assert (sentinel.nodes, sentinel.master, sentinel.db) == ((("h1", 26379), ("h2", 26379), ("::1", 5)), "prime", 3)
    assert (sentinel.username, sentinel.password, sentinel.options) == ("me", "p@ss", {"sentinel_password": "q"})
    cluster = parse("rediss+cluster://:x@h1:7000,h2:7001?ssl_ca_certs=/ca.pem")
    assert (
        cluster.tls and cluster.replicated and cluster.nodes == (("h1", 7000), ("h2", 7001)) and cluster.password == "x"
    )


@pytest.mark.parametrize(
    "rest",
    ["http://:{}@h:1", "redis+sentinel://:{}@h:1", "redis+sentinel://:{}@h:1/m/x", "redis+cluster://:{}@h:1/2",
     "redis+cluster://:{}@h:port", "redis+cluster://:{}@", "redis+other://:{}@h", "redis+cluster://:{}@h?x={}",
     "redis+cluster://:{}@h?ssl_ca_certs", "redis+sentinel://:{}@[h/m"],
)  # fmt: skip
def test_a_wrong_url_is_refused_without_being_quoted(rest: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"FLEET_REDIS_URL": rest.replace("{}", PASSWORD)})
    assert PASSWORD not in str(refused.value) and "FLEET_REDIS_URL" in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_passwords_do_not_show_in_what_is_printed() -> None:
    url = f"redis+sentinel://me:{PASSWORD}@h1:1,h2:2/m/0?sentinel_password={PASSWORD}"
    assert PASSWORD not in repr(parse(url)) and PASSWORD not in redact(url)


def test_a_failover_that_is_faster_than_the_leases_of_the_lost_master_is_refused() -> None:
    env = {"FLEET_REDIS_MAX_LAG_S": "10"}
    Settings.from_env(env)  # one server never fails over
    with pytest.raises(SettingsError, match="FLEET_REDIS_FAILOVER_S .* must be at least .* = 16"):
        Settings.from_env(env | {"FLEET_REDIS_URL": "redis+sentinel://h:1/m"})
    with pytest.raises(SettingsError, match="FLEET_REDIS_MAX_LAG_S"):
        Settings.from_env(env | {"FLEET_REDIS_URL": "redis+cluster://h:1"})
    Settings.from_env(env | {"FLEET_REDIS_URL": "redis+sentinel://h:1/m", "FLEET_REDIS_FAILOVER_S": "9"})
