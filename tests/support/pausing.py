"""A node that stops as a process does on SIGSTOP, and goes on: its timers, streams and disk stand still together.

As in a real process that is continued, timers that ran out meanwhile are found first, before what has arrived is read.
"""

import weakref
from collections.abc import Sequence

import attrs
import trio

from trio_raft._environment import Environment
from trio_raft.abc import Transport
from trio_raft.testing._environment import VirtualClock, VirtualLanes


class _Gate:
    """Whoever passes while it is closed waits until it opens."""

    def __init__(self) -> None:
        self.closed = False
        self._lot = trio.lowlevel.ParkingLot()

    async def passed(self) -> None:
        while self.closed:
            await self._lot.park()

    def open(self) -> None:
        self.closed = False
        self._lot.unpark_all()


class PausableClock(VirtualClock):
    """Virtual time whose alarms are held while the node is paused; the time itself goes on."""

    def __init__(self) -> None:
        self.gate = _Gate()
        self._deadlines: weakref.WeakKeyDictionary[trio.CancelScope, float] = weakref.WeakKeyDictionary()

    async def sleep(self, seconds: float) -> None:
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)
        await self.gate.passed()

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return self.move_on_at(self.now() + seconds)

    def move_on_at(self, deadline: float) -> trio.CancelScope:
        scope = trio.CancelScope()
        self.set_deadline(scope, deadline)
        return scope

    def set_deadline(self, scope: trio.CancelScope, deadline: float) -> None:
        self._deadlines[scope] = deadline
        scope.deadline = float("inf") if self.gate.closed else deadline

    def hold(self) -> None:
        """No alarm rings until ``release``."""
        self.gate.closed = True
        for scope in list(self._deadlines):
            scope.deadline = float("inf")

    def release(self) -> None:
        """All alarms that were due ring now."""
        for scope, deadline in list(self._deadlines.items()):
            scope.deadline = deadline
        self.gate.open()


class PausableProcess:
    """The seams of one node, stopped and continued together.  Give the node ``environment`` and ``transport``."""

    def __init__(self, environment: Environment, transport: Transport) -> None:
        self._clock = PausableClock()
        lanes = environment.run_blocking
        assert isinstance(lanes, VirtualLanes)
        self._lanes = lanes
        self._gate = _Gate()
        self.environment = attrs.evolve(environment, clock=self._clock)
        self.transport: Transport = _GatedTransport(transport, self._gate)

    def pause(self) -> None:
        """SIGSTOP."""
        self._gate.closed = True
        self._clock.hold()
        self._lanes.stall()

    async def resume(self) -> None:
        """SIGCONT."""
        self._clock.release()
        # The expired timers run first, as Trio's loop has it.
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        self._gate.open()
        self._lanes.resume()


@attrs.frozen
class _GatedTransport(Transport):
    inner: Transport
    gate: _Gate

    async def dial(self, address: str) -> trio.abc.Stream:
        await self.gate.passed()
        stream = await self.inner.dial(address)
        await self.gate.passed()
        return _GatedStream(stream, self.gate)

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        return [_GatedListener(listener, self.gate) for listener in await self.inner.listen(address)]


class _GatedListener(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self, inner: trio.abc.Listener[trio.abc.Stream], gate: _Gate) -> None:
        self._inner = inner
        self._gate = gate

    async def accept(self) -> trio.abc.Stream:
        stream = await self._inner.accept()
        await self._gate.passed()
        return _GatedStream(stream, self._gate)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _GatedStream(trio.abc.Stream):
    def __init__(self, inner: trio.abc.Stream, gate: _Gate) -> None:
        self._inner = inner
        self._gate = gate

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._gate.passed()
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._inner.receive_some(max_bytes)
        await self._gate.passed()
        return data

    async def aclose(self) -> None:
        await self._inner.aclose()
