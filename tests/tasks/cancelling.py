"""A cancel at every await: run a coroutine again and again, cancelled at its first, second, … suspension.

``for cut in every_cut():`` gives one ``Cut`` after the other, until one was too late: the coroutine ended by
itself. Whatever a cancel may leave behind is for the body to check.
"""

import types
from collections.abc import Awaitable, Generator, Iterator
from functools import partial
from typing import Any, TypeVar

import trio

T = TypeVar("T")

MOST_CUTS = 2000
"""A coroutine that suspends more often than this is no subject for this tool."""


class Cut:
    """Cancels what it runs at its ``number``-th suspension, counted from 1."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.was_made = False
        """Did the coroutine get that far?"""
        self._suspensions = 0

    async def run(self, awaitable: Awaitable[T]) -> T | None:
        """The coroutine's value, or None if it was cancelled."""
        with trio.CancelScope() as scope:
            return await self._stepped(awaitable, scope)
        return None

    @types.coroutine
    def _stepped(self, awaitable: Awaitable[T], scope: trio.CancelScope) -> Generator[Any, Any, T]:
        """Pass every suspension on to Trio, and cancel before the one that is asked for."""
        inner = awaitable.__await__()
        resume = partial(inner.send, None)
        while True:
            try:
                trap = resume()
            except StopIteration as stop:
                value: T = stop.value
                return value
            self._suspensions += 1
            if self._suspensions == self.number:
                self.was_made = True
                scope.cancel()
            try:
                resume = partial(inner.send, (yield trap))
            except BaseException as error:
                resume = partial(inner.throw, error)


def every_cut() -> Iterator[Cut]:
    """Cuts at the first, second, … suspension; the last one given was not made."""
    for number in range(1, MOST_CUTS):
        cut = Cut(number)
        yield cut
        if not cut.was_made:
            return
    raise AssertionError(f"still suspended after {MOST_CUTS} times")
