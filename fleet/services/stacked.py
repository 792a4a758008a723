"""Several parts as one context manager: what was started before one of them failed is stopped, the last one first.

In: a `form` that starts parts and puts on `_stack` how each is stopped. Out: the object itself. Used by services and tests.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self


class Stacked:
    """Subclasses have `form`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def form(self) -> None:
        raise NotImplementedError
