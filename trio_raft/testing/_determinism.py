"""One seed decides everything: the run, the scheduler, and how chance is divided.

Virtual time alone does not repeat a run.  Trio draws the order in which the tasks of one turn run, from a generator
that nobody seeds, and before that the order follows from addresses in memory.  Its own tests have a switch that sorts
the tasks first; ``run`` turns it on and seeds the generator, both for this one run.  The switch is private to Trio, and
this is the only place in the package that knows of it: a release of Trio that changes it is met with
``DeterminismUnavailable``, never with runs that merely look repeatable.

What else it takes, and what the rest of the kit keeps to: every draw comes from a generator made by ``divide``, so that
one part that draws more often does not shift all others; no set is iterated, no ``id()`` or hash is compared, no clock
of the machine is read where something is decided.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, TypeVarTuple

import attrs
import trio
import trio.testing
from trio._core import _run as scheduler

Random = random.Random
"""What ``divide`` makes; modules that draw from one need not import the module that would let them make their own."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"
_GENERATOR = "_r"

TAIL_SHAPE = 1.1
"""Of the Pareto distribution of slow cases: close to 1, so that very slow ones do happen."""


class DeterminismUnavailable(RuntimeError):
    """This release of Trio has no scheduler that can be made to repeat itself, as far as this module knows."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Trio {trio.__version__} {what}, so a seed would not repeat a run. Use Trio 0.35, which is known to, "
            f"or teach trio_raft/testing/_determinism.py how this one orders its tasks"
        )


def run(
    async_function: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    seed: int | str,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """``trio.run`` on virtual time, in an order that ``seed`` decides; returns what the function returns.

    Time jumps whenever every task waits, unless a ``clock`` of your own says otherwise.  Raises DeterminismUnavailable
    before anything has run, and otherwise what the function raises.
    """
    generator = _generator()
    clock = clock or trio.testing.MockClock(autojump_threshold=0)
    state, switch = generator.getstate(), getattr(scheduler, _SWITCH)
    generator.seed(f"scheduler/{seed}")
    setattr(scheduler, _SWITCH, True)
    try:
        return trio.run(async_function, *args, clock=clock, instruments=instruments)
    finally:
        setattr(scheduler, _SWITCH, switch)
        generator.setstate(state)


def _generator() -> random.Random:
    """The scheduler's generator, once everything is found where it is expected."""
    generator = getattr(scheduler, _GENERATOR, None)
    if not isinstance(generator, random.Random):
        raise DeterminismUnavailable(f"keeps no generator in trio._core._run.{_GENERATOR}")
    loop = getattr(scheduler, "unrolled_run", None)
    used = loop.__code__.co_names if loop is not None else ()
    if not isinstance(getattr(scheduler, _SWITCH, None), bool) or _SWITCH not in used or _GENERATOR not in used:
        raise DeterminismUnavailable(f"does not ask trio._core._run.{_SWITCH} before it orders its tasks")
    return generator


def divide(seed: int | str, *purpose: object) -> random.Random:
    """A generator of its own for each purpose: ``divide(7, "disk", "n1")``.  Equal arguments draw equally."""
    # A string is hashed by the generator itself, the same in every process.
    return random.Random("/".join([str(seed), *map(str, purpose)]))


@attrs.frozen
class Latency:
    """How long something takes, in seconds: mostly about ``typical``, now and then very much longer."""

    typical: float
    jitter: float = 0.0
    """From [typical × (1 - jitter), typical × (1 + jitter)), evenly."""
    tail: float = 0.0
    """The share of slow cases, 0 to 1."""
    longest: float = 0.0
    """What no slow case exceeds."""

    def draw(self, generator: random.Random) -> float:
        """Draw once; nothing is drawn where there is no choice."""
        if not self.jitter and not self.tail:
            return self.typical
        chance = generator.random()
        if chance < self.tail:
            return min(2.0 * self.typical * math.pow(1.0 - chance / self.tail, -1.0 / TAIL_SHAPE), self.longest)
        even = (chance - self.tail) / (1.0 - self.tail)
        return self.typical * (1.0 + self.jitter * (2.0 * even - 1.0))

    def is_slow(self, seconds: float) -> bool:
        """Was this one drawn from the tail?"""
        return seconds > self.typical * (1.0 + self.jitter)
