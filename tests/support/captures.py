"""The recorded exchange traffic of ../shared/captures as bytes and events. Tests that need it skip where it is not there."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from fleet.core.events import Depth
from fleet.core.exchange import HttpReply
from fleet.exchanges import exchanges

PLACES = (Path(__file__).parents[3] / "shared" / "captures", Path("/work/shared/captures"))
DIRECTORY = Path(os.environ.get("FLEET_CAPTURES") or next((p for p in PLACES if p.is_dir()), PLACES[0]))


def received(name: str) -> list[tuple[float, bytes]]:
    """(UNIX seconds, frame) of every frame the recorder received."""
    found = []
    for line in _lines(name):
        stamp, sep, frame = line.partition(": ")
        if sep and re.fullmatch(r"[\d.]+", stamp):
            found.append((float(stamp), frame.strip().encode()))
    return found


def answers(name: str) -> list[tuple[float, str, bytes]]:
    """(UNIX seconds, URL, body) of every REST reply."""
    found = []
    for line in _lines(name):
        match = re.match(r"(\S+) -> ([\d.]+): (.*)", line)
        if match:
            found.append((float(match[2]), match[1], match[3].encode()))
    return found


def binance_depth() -> list[Depth]:
    """Depth updates and REST snapshots of the Binance capture in the order in which they came."""
    market = exchanges()["binance_usdm"].market_data
    assert market.parse_snapshot is not None
    found: list[tuple[float, Depth]] = []
    for at_s, frame in received("binance_usdm.ws.gz"):
        found += [
            (at_s, item) for item in market.parse(frame, "/public", round(at_s * 1000)) if isinstance(item, Depth)
        ]
    for at_s, url, body in answers("binance_usdm.http.gz"):
        symbol = re.search(r"symbol=(\w+)", url)
        assert symbol is not None
        found.append((at_s, market.parse_snapshot(HttpReply(200, {}, body), symbol[1], round(at_s * 1000))))
    return [event for _, event in sorted(found, key=lambda pair: pair[0])]


def _lines(name: str) -> list[str]:
    path = DIRECTORY / name
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is missing (FLEET_CAPTURES names its directory)")
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()
