"""What the tests of simulated clusters share: how to run one, and state machines."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import trio_raft
from trio_raft.testing import run

P = ParamSpec("P")


def simulated(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an asynchronous test on virtual time, in an order that a fixed seed decides."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run(functools.partial(test, *args, **kwargs), seed=0)

    return wrapper


class Counter(trio_raft.StateMachine[int, int]):
    """Adds up its commands; refuses zero."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        if entry.command == 0:
            raise trio_raft.Rejected("zero changes nothing")
        self.total += entry.command
        return self.total


def total(counter: Counter) -> int:
    """For ``read``."""
    return counter.total
