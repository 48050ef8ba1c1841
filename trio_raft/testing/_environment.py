"""Environments for tests and simulations: clocks, seeded generators, blocking work in virtual time without threads.

Under a ``trio.testing.MockClock`` everything here is deterministic.  A worker thread would count as idleness to that
clock, and let virtual seconds pass while it works; so blocking work is called in place.

There are two of each, a simple one and one with faults:

* ``VirtualClock`` is Trio's; ``SimulatedClock`` drifts, jumps, and is paused with its node.
* ``VirtualLanes`` call a function between two halves of its latency: a cancel in the first half finds nothing done, a
  cancel in the second finds everything done and nobody told, as with a real thread that was abandoned.
  ``SimulatedLanes`` know their ``SimDisk``: what a call wrote is not durable before its latency has passed.

House rule: the seed decides, nothing else does.
"""

import math
import random
import time
import weakref
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from trio_raft._environment import Environment, Lane, TrioClock
from trio_raft.testing._determinism import Latency
from trio_raft.testing._disk import SimDisk

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DISK_LATENCY = Latency(0.0002)
"""Of one piece of blocking work."""

SCOPES_REMEMBERED = 64
"""A clock looks for scopes that are gone when it remembers so many, or twice as many as were alive last time."""


def test_environment(seed: int, *, latency: float = 0.0002) -> Environment:  # noqa: PT028
    """One node's environment; ``latency`` is that of each piece of blocking work, in seconds.

    ``run_blocking`` is a ``VirtualLanes``; keep a reference to it to stall the disk.
    """
    return Environment(clock=VirtualClock(), random=random.Random(seed), run_blocking=VirtualLanes(latency=latency))


# Its name would make pytest collect it wherever a test module imports it.
test_environment.__dict__["__test__"] = False


def cpu_seconds() -> float:
    """What this process has worked so far: to measure the speed of a simulation, never to decide anything in it."""
    return time.process_time()


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


class SimulatedClock:
    """One node's idea of time in a simulation: it may run fast or slow, jump ahead, and be paused.

    ``now()`` is ``offset + rate × Trio's time``.  While the node is paused its time goes on, as behind SIGSTOP, but no
    timer rings; what ran out meanwhile rings on ``resume``, late.  Scopes that are alive are remembered, weakly, since
    a jump and a pause move their deadlines.
    """

    def __init__(self, *, rate: float = 1.0, offset: float = 0.0) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"a clock's rate must be positive, not {rate!r}")
        self._rate = rate
        self._offset = offset
        self._scopes: list[weakref.ref[trio.CancelScope]] = []
        self._forget_at = SCOPES_REMEMBERED
        self._held: dict[trio.CancelScope, float] = {}
        self._resumed = trio.lowlevel.ParkingLot()
        self.paused = False
        """No timer rings."""
        self.disturbed_at = -math.inf
        """When, on itself, it jumped or went on after a pause, last: from then on timers ring in time again."""

    def now(self) -> float:
        return self._offset + self._rate * trio.current_time()

    def stopwatch(self) -> float:
        return self.now()

    async def sleep(self, seconds: float) -> None:
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, deadline: float) -> None:
        with self.move_on_at(deadline):
            await trio.sleep_forever()
        while self.paused:
            await self._resumed.park()

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return self.move_on_at(self.now() + seconds)

    def move_on_at(self, deadline: float) -> trio.CancelScope:
        if self.paused:
            scope = trio.CancelScope()
            self._held[scope] = deadline
        else:
            scope = trio.CancelScope(deadline=self._moment(deadline))
            self._remember(scope)
        return scope

    def set_deadline(self, scope: trio.CancelScope, deadline: float) -> None:
        if self.paused:
            self._held[scope] = deadline
        else:
            scope.deadline = self._moment(deadline)
            self._remember(scope)

    def jump(self, seconds: float) -> None:
        """The clock is set ahead by that much: what is due by then rings now."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back, not by {seconds!r} s either")
        due = [(scope, self._offset + self._rate * scope.deadline) for scope in self._live()]
        self._offset += seconds
        self.disturbed_at = self.now()
        for scope, deadline in due:
            scope.deadline = self._moment(deadline)

    def pause(self) -> None:
        """The node stops: no timer rings until ``resume``.  Idempotent."""
        if not self.paused:
            self.paused = True
            for scope in self._live():
                self._held[scope] = self._offset + self._rate * scope.deadline
                scope.deadline = math.inf

    def resume(self) -> None:
        """The node goes on: every timer that ran out meanwhile rings now.  Idempotent."""
        if self.paused:
            self.paused = False
            self.disturbed_at = self.now()
            held, self._held = self._held, {}
            self._scopes.clear()
            for scope, deadline in held.items():
                self.set_deadline(scope, deadline)
            self._resumed.unpark_all()

    def _moment(self, deadline: float) -> float:
        """Trio's time at which ``now()`` has reached the deadline.

        Never a trifle earlier: who looks at the clock when the alarm rings, and sleeps again because it is not yet
        time, would do so for ever.
        """
        if math.isinf(deadline):
            return deadline
        moment = (deadline - self._offset) / self._rate
        while self._offset + self._rate * moment < deadline:
            moment += max(math.ulp(deadline), math.ulp(moment))
        return moment

    def _remember(self, scope: trio.CancelScope) -> None:
        self._scopes.append(weakref.ref(scope))
        if len(self._scopes) >= self._forget_at:
            self._forget_at = max(SCOPES_REMEMBERED, 2 * len(self._live()))

    def _live(self) -> list[trio.CancelScope]:
        """The scopes that still exist, each once; all others are forgotten."""
        live = dict.fromkeys(scope for reference in self._scopes if (scope := reference()) is not None)
        self._scopes = [weakref.ref(scope) for scope in live]
        return list(live)


class SimulatedLanes:
    """``RunBlocking`` on a ``SimDisk``, in virtual time: one call at a time in each lane, in order of arrival.

    The function runs at once, with its syncs staged; then its latency passes; then the syncs take effect and the
    caller is told.  So a crash finds calls in the middle of their work, and a cancel abandons one.
    One of these serves one life of a node.
    """

    def __init__(self, disk: SimDisk, *, generator: random.Random, latency: Latency = DISK_LATENCY) -> None:
        self.disk = disk
        self.latency = latency
        """Of each call; may be exchanged at any time."""
        self._random = generator
        self._turns = {lane: trio.StrictFIFOLock() for lane in Lane}
        self._stalled_until = dict.fromkeys(Lane, -math.inf)
        self._changed = trio.lowlevel.ParkingLot()
        self._frozen = False
        self.paused = False
        """No call begins, and none is completed."""

    def stall(self, seconds: float, *lanes: Lane) -> None:
        """Let calls in these lanes (all, if none is named) hang for so long, begun or not; infinity: until ``mend``."""
        for lane in lanes or Lane:
            self._stalled_until[lane] = max(self._stalled_until[lane], trio.current_time() + seconds)
        self._count("stall")

    def mend(self) -> None:
        """No lane is stalled any more."""
        self._stalled_until = dict.fromkeys(Lane, -math.inf)
        self._changed.unpark_all()

    def pause(self) -> None:
        """The node stops."""
        self.paused = True

    def resume(self) -> None:
        """The node goes on."""
        self.paused = False
        self._changed.unpark_all()

    def freeze(self) -> None:
        """The power is off, or the process dead: no call begins or returns any more, until it is cancelled."""
        self._frozen = True

    async def __call__(self, lane: Lane, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        turn = self._turns[lane]
        try:
            turn.acquire_nowait()
        except trio.WouldBlock:
            await turn.acquire()
        try:
            await self._wait_passable(lane)
            answers: list[T] = []
            failure: Exception | None = None
            with self.disk.staging() as call:
                try:
                    answers.append(function(*args))
                except Exception as error:
                    # A failure takes its time too, and what was synced before it is durable.
                    failure = error
            await trio.sleep(self._draw_latency())
            await self._wait_passable(lane)
            call.complete()
            if failure is not None:
                raise failure
            return answers[0]
        finally:
            turn.release()

    def _draw_latency(self) -> float:
        seconds = self.latency.draw(self._random)
        if self.latency.is_slow(seconds):
            self._count("slow disk")
        return seconds

    async def _wait_passable(self, lane: Lane) -> None:
        while True:
            if self._frozen or self.paused:
                await self._changed.park()
            elif self._stalled_until[lane] > trio.current_time():
                with trio.move_on_at(self._stalled_until[lane]):
                    await self._changed.park()
            else:
                return

    def _count(self, kind: str) -> None:
        self.disk.injected[kind] = self.disk.injected.get(kind, 0) + 1
