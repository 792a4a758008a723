"""JSON and plain values into typed ones, from any thread. The only place where msgspec learns a type.

msgspec (0.22) publishes what it learns of a Struct before that is complete: two threads that meet a type for the first time can
crash the process (null pointer in `StructInfo_Convert`'s half-filled table). So types are learnt under one lock, once each.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_learning = threading.Lock()


@overload
def decoder(shape: type[T]) -> msgspec.json.Decoder[T]: ...
@overload
def decoder(shape: Any) -> msgspec.json.Decoder[Any]: ...  # a union, or what else is no class
def decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    """The decoder of a type: a Struct, or anything msgspec knows that is made of such. One for all who ask."""
    known = _decoders.get(shape)
    if known is None:
        with _learning:
            known = _decoders.setdefault(shape, msgspec.json.Decoder(shape))
    return known


def decode(data: bytes | str | msgspec.Raw, shape: type[T]) -> T:
    """Raises msgspec.MsgspecError (UnicodeDecodeError, RecursionError) for what is not JSON of that shape."""
    return decoder(shape).decode(data)


@overload
def convert(value: Any, shape: type[T]) -> T: ...
@overload
def convert(value: Any, shape: Any) -> Any: ...
def convert(value: Any, shape: Any) -> Any:
    """A value of plain types. Raises msgspec.ValidationError if it does not fit."""
    decoder(shape)
    return msgspec.convert(value, shape)
