"""Registry of exchange folders. In: nothing but the folders beside this file. Out: their `Exchange` values. Used by every process.

Adding an exchange = adding a folder that exports `EXCHANGE`; nothing here is edited.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping

from fleet.core.errors import FleetError, SettingsError
from fleet.core.exchange import Exchange, Hosts


@functools.cache
def exchanges() -> dict[str, Exchange]:
    """Every exchange folder's EXCHANGE by its name, in order of name."""
    found: dict[str, Exchange] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if module.ispkg:
            venue = importlib.import_module(f"{__name__}.{module.name}").EXCHANGE
            found[venue.name] = venue
    return found


def check_names(setting: str, names: Iterable[str]) -> None:
    """Raises SettingsError for a venue that does not exist: what is said of it would hold for nobody."""
    for name in names:
        if name not in exchanges():
            raise SettingsError(f"{setting}: unknown venue {name!r}; known: {', '.join(exchanges())}")


def for_account(exchange: str, market: str) -> Exchange:
    """The adapter of an `exchange_accounts` row. Raises FleetError if no folder serves that pair."""
    for venue in exchanges().values():
        if (venue.exchange, venue.market) == (exchange, market):
            return venue
    raise FleetError(f"no exchange adapter for {exchange} {market}; known: {', '.join(exchanges())}")


def hosts(exchange: Exchange, is_testnet: bool, endpoints: Mapping[str, str]) -> Hosts:
    """Roots to use: the environment's documented ones, each replaced by its FLEET_* setting in `endpoints` where given.

    An override holds for testnet accounts too: it stands for a proxy or a simulator in front of everything.
    """
    documented = exchange.testnet_hosts if is_testnet else exchange.hosts
    roots = {"rest": documented.rest, "ws": documented.ws, **documented.extra}
    for part, setting in exchange.host_settings.items():
        if endpoints.get(setting):
            roots[part] = endpoints[setting].rstrip("/")
    return Hosts(rest=roots.pop("rest"), ws=roots.pop("ws"), extra=roots)
