"""The one seam for time, chance and blocking work.

Nothing else in the package may ask what time it is, sleep, set a deadline, draw a random number or start a
thread; ``tests/test_layering.py`` enforces it.  So a simulation can give every node its own drifting clock, its own
seeded generator and a disk in virtual time, and still run the code that ships.

Production passes Trio's own functions through; blocking work has threads of its own (``_lanes.py``).
"""

import datetime
import enum
import random
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, TypeVarTuple

import attrs
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Lane(enum.Enum):
    """What a piece of blocking work is for; pieces in different lanes never wait for each other."""

    JOURNAL = "journal"
    """Writes and syncs of the log, in order."""

    READ = "read"
    """Reads of old entries."""

    PREPARE = "prepare"
    """Zero-filling of segments ahead of the writer, removal of those behind a snapshot, and other upkeep."""

    SNAPSHOT = "snapshot"
    """Writing snapshots, taken or received."""

    TRANSFER = "transfer"
    """Reading snapshots for followers."""

    RESTORE = "restore"
    """The state machine's own restore: it may take long, and nothing else waits for it."""


class Clock(Protocol):
    """One node's idea of time, in seconds; ``now`` never goes back."""

    def now(self) -> float:
        """Seconds on a monotonic clock with an arbitrary origin."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend for that long.  A checkpoint even for zero."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Suspend until ``now() >= deadline``.  A checkpoint even if that has passed."""
        ...

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        """A cancel scope that expires after that long."""
        ...

    def move_on_at(self, deadline: float) -> trio.CancelScope:
        """A cancel scope that expires when ``now() >= deadline``."""
        ...

    def set_deadline(self, scope: trio.CancelScope, deadline: float) -> None:
        """Move the deadline of a scope that this clock made."""
        ...

    def stopwatch(self) -> float:
        """Seconds on a cheap counter for measuring calls that block the loop.

        It runs while the loop is blocked, unlike a virtual clock; a simulation returns ``now()`` to stay
        deterministic.
        """
        ...


class RunBlocking(Protocol):
    """Run a synchronous function off the loop and return what it returns."""

    async def __call__(self, lane: Lane, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Call ``function(*args)``; within a lane one at a time, in order of arrival.

        Cancelled: the function may not have started, may still run, or may have finished.
        """
        ...


class TrioClock:
    """Trio's clock, whatever the run was started with (a ``MockClock`` in tests)."""

    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return trio.move_on_after(seconds)

    def move_on_at(self, deadline: float) -> trio.CancelScope:
        return trio.move_on_at(deadline)

    def set_deadline(self, scope: trio.CancelScope, deadline: float) -> None:
        scope.deadline = deadline

    # The function itself: it is asked once for each entry that is applied.
    stopwatch = staticmethod(time.perf_counter)


@attrs.frozen
class Environment:
    """Everything a node takes from the world besides its files and its streams."""

    clock: Clock
    random: random.Random
    run_blocking: RunBlocking
    observe: Callable[[Any], None] = lambda _: None
    """Called with each ``Server`` that is built on this, before anything of it runs: where a simulation hangs its
    invariants."""


def seeded_by_the_system() -> random.Random:
    """A generator of its own for each node: two nodes of one process do not draw the same numbers (E9)."""
    return random.Random()


def date_and_time() -> str:
    """Now, in UTC, for people to read; nothing is decided by it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def draw_interval(environment: Environment, shortest: float) -> float:
    """Seconds drawn evenly from [shortest, 2 × shortest), so that nodes do not act in step (paper 5.2)."""
    return shortest * (1.0 + environment.random.random())


def draw_below(environment: Environment, longest: float) -> float:
    """Seconds drawn evenly from [0, longest)."""
    return longest * environment.random.random()


async def sleep_until_due(clock: Clock, deadline: Callable[[], float], *, interval: float) -> None:
    """Sleep until a deadline that others keep moving has passed, and prove that it was silence that let it pass.

    A cancel scope's deadline would be the wrong timer: after a process was stopped and continued, Trio expires
    deadlines before it reads the sockets in which the heartbeats wait.  So this looks again whenever it wakes; and an
    alarm that rings more than half an ``interval`` late proves a pause: then it waits one more interval, in which what
    has arrived is read, and looks again, once, however late that rings.
    """
    looked_again = False
    while True:
        due = deadline()
        if clock.now() < due:
            looked_again = False
            await clock.sleep_until(due)
        elif looked_again or clock.now() - due <= interval / 2:
            return
        else:
            looked_again = True
            await clock.sleep(interval)
