"""One fuzzed parser. In: the bytes atheris makes. Out: nothing, or an exception where a promise of `parse` is broken:
it never raises, never swallows a frame, keeps numbers as strings, and all its events fit the schema and can be booked.

Runs in a process of its own, which libFuzzer ends: `python -m tests.fuzz.target VENUE PARSER CORPUS [libFuzzer options]`.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any, get_args

import atheris

with atheris.instrument_imports(include=["fleet.core", "fleet.exchanges"]):
    from fleet.core import schema
    from fleet.core.events import Event, MarketRecord, Record, UserRecord
    from fleet.core.exchange import Control, Exchange
    from fleet.core.recovery import Watermark
    from fleet.exchanges import exchanges

import jsonschema
import msgspec

from tests.contract.samples import samples_of
from tests.contract.test_exchanges import DECIMALS, ODD

EACH = 8  # the slow checks are made for one input in so many, chosen by its bytes
VALIDATOR = jsonschema.Draft202012Validator(schema.generate())
KNOWN = tuple({*get_args(Record), *get_args(Control)})


def check(venue: Exchange, frame: bytes, items: list[Any], again: Callable[[], list[Any]] | None) -> None:
    """Raises AssertionError for an item that breaks a promise. `again` parses a second time."""
    assert items or readable(frame), "a broken frame vanished instead of being counted"
    mark = Watermark(proven_ms=0)
    for item in items:
        assert isinstance(item, KNOWN), type(item)
        if not isinstance(item, Event):
            continue
        text = msgspec.json.encode(item)
        assert msgspec.json.decode(text, type=Record) == item
        for name in DECIMALS:
            value = getattr(item, name, None)
            assert value is None or isinstance(value, str), (name, value)
        if isinstance(item, get_args(UserRecord)):
            mark.advance(item)
        if isinstance(item, get_args(MarketRecord)):
            venue.market_data.topic_of(item)
        if again is not None:
            VALIDATOR.validate(json.loads(text))
    if again is not None:
        assert [repr(item) for item in again()] == [repr(item) for item in items], "parsing keeps state"


def readable(frame: bytes) -> bool:
    """Is it a JSON object or array? A message that is may rightly hold nothing for us (another product's, an empty page).
    Fields that are not ours may hold any bytes: they are not looked at."""
    try:
        return isinstance(msgspec.json.decode(frame.decode("utf-8", "replace")), (dict, list))
    except (msgspec.MsgspecError, RecursionError):
        return False


class Mutator:
    """Half of the inputs are mutated as bytes by libFuzzer, half as JSON: a value replaced by an odd one or by another frame's,
    a key dropped, a row repeated."""

    def __init__(self, frames: list[bytes]) -> None:
        self._values: list[Any] = list(ODD)
        for frame in frames:
            try:
                self._values += [value for _, _, value in _spots(json.loads(frame))]
            except ValueError:
                continue

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        try:
            root = json.loads(data)
        except (ValueError, RecursionError):
            return bytes(atheris.Mutate(data, max_size))
        spots = _spots(root)
        for _ in range(dice.randint(1, 3) if spots else 0):
            node, key, value = dice.choice(spots)
            action = dice.random()
            if action < 0.75:
                node[key] = dice.choice(self._values)
            elif isinstance(node, dict):
                node.pop(key, None)
            else:
                node.append(value)
        try:
            made = json.dumps(root, separators=(",", ":"), ensure_ascii=dice.random() < 0.5).encode()
        except (ValueError, RecursionError):  # a surrogate, or a value put into itself
            return data[:max_size]
        return made if len(made) <= max_size else data[:max_size]


def _spots(root: Any) -> list[tuple[Any, Any, Any]]:
    """(container, key, value) of every value, not deeper than 20."""
    found: list[tuple[Any, Any, Any]] = []

    def collect(node: Any, depth: int) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            found.append((node, key, node[key]))
            if depth < 20:
                collect(node[key], depth + 1)

    collect(root, 0)
    return found


def main() -> None:
    name, parser, corpus, *options = sys.argv[1:]
    venue, samples = exchanges()[name], samples_of(name)
    paths = sorted({sample.path for sample in samples.market} | {""})
    parse_user, parse_market = venue.parse_user, venue.market_data.parse

    def one_input(data: bytes) -> None:
        at = zlib.crc32(data)

        def parse() -> list[Any]:
            return parse_user(data, "acc", 5) if parser == "user" else parse_market(data, paths[at % len(paths)], 5)

        check(venue, data, parse(), parse if at % EACH == 0 else None)

    frames = [sample.frame for sample in (samples.user if parser == "user" else samples.market)]
    atheris.Setup([sys.argv[0], corpus, *options], one_input, custom_mutator=Mutator(frames))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
