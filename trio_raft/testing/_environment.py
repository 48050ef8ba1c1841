"""An environment for tests: Trio's clock, a seeded generator, blocking work in virtual time without threads.

Under a ``trio.testing.MockClock`` everything here is deterministic.  Blocking work is called in place,
between two halves of its latency: a cancel in the first half finds nothing done, a cancel in the second
finds everything done and nobody told, as with a real thread that was abandoned.  A worker thread would
count as idleness to the mock clock, and let virtual seconds pass while it works.

House rule: the seed decides, nothing else does.
"""

import random
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from trio_raft._environment import Environment, Lane, TrioClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def test_environment(seed: int, *, latency: float = 0.0002) -> Environment:  # noqa: PT028
    """One node's environment; ``latency`` is that of each piece of blocking work, in seconds.

    ``run_blocking`` is a ``VirtualLanes``; keep a reference to it to stall the disk.
    """
    return Environment(clock=VirtualClock(), random=random.Random(seed), run_blocking=VirtualLanes(latency=latency))


# Its name would make pytest collect it wherever a test module imports it.
test_environment.__dict__["__test__"] = False


class VirtualClock(TrioClock):
    """Trio's clock, with a stopwatch that shows it too: code that runs takes no virtual time."""

    def stopwatch(self) -> float:
        return self.now()


class VirtualLanes:
    """``RunBlocking`` on Trio's clock: no threads, one call at a time in each lane, in order of arrival."""

    def __init__(self, *, latency: float) -> None:
        self.latency = latency
        """Seconds that one call takes; may be changed at any time."""
        self._turns = {lane: trio.StrictFIFOLock() for lane in Lane}
        self._stalled: set[Lane] = set()
        self._resumed = trio.lowlevel.ParkingLot()

    def stall(self, *lanes: Lane) -> None:
        """Let calls in these lanes (all, if none is named) hang until ``resume``, begun or not."""
        self._stalled.update(lanes or Lane)

    def resume(self, *lanes: Lane) -> None:
        """Let these lanes (all, if none is named) go on."""
        self._stalled.difference_update(lanes or Lane)
        self._resumed.unpark_all()

    async def __call__(self, lane: Lane, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        async with self._turns[lane]:
            await self._pass_half(lane)
            value = function(*args)
            await self._pass_half(lane)
            return value

    async def _pass_half(self, lane: Lane) -> None:
        await trio.sleep(self.latency / 2)
        while lane in self._stalled:
            await self._resumed.park()
