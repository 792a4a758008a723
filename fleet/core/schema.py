"""JSON Schema of every record on Kafka, generated from fleet/core/events.py. `python -m fleet.core.schema > docs/schema.json`.

Record types are told apart by `type`; fields that are not listed may be added by later versions of `v` 1 and must be ignored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.core.events import (
    AccountEvent,
    Balance,
    Depth,
    Fill,
    Kline,
    Liquidation,
    MarkPrice,
    Order,
    Position,
    StreamEvent,
    Ticker,
    Trade,
)
from fleet.core.names import TOPIC_OF_TYPE

RECORDS = (
    Order,
    Fill,
    Position,
    Balance,
    AccountEvent,
    Trade,
    Kline,
    Ticker,
    Depth,
    Liquidation,
    MarkPrice,
    StreamEvent,
)


def generate() -> dict[str, Any]:
    """One document: `oneOf` over the record types, each a definition with the topic it travels in."""
    _, definitions = msgspec.json.schema_components(RECORDS, ref_template="#/$defs/{name}")
    for record in RECORDS:
        definition = definitions[record.__name__]
        definition["x-topic"] = TOPIC_OF_TYPE[str(record.__struct_config__.tag)]
        definition["description"] = " ".join(str(definition.get("description", "")).split())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Streamfleet records",
        "description": "Value of a Kafka record: one of these as UTF-8 JSON; market topics carry one or more, a line each.",
        "discriminator": {"propertyName": "type"},
        "oneOf": [{"$ref": f"#/$defs/{record.__name__}"} for record in RECORDS],
        "$defs": definitions,
    }


def text() -> str:
    """docs/schema.json, byte for byte."""
    return msgspec.json.format(msgspec.json.encode(generate(), order="sorted"), indent=2).decode() + "\n"


if __name__ == "__main__":
    print(text(), end="")
