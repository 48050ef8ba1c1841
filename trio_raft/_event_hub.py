"""Where a node's parts publish events, and where readers subscribe.

``EventHub.publish`` never waits and never fails: each reader has a bounded buffer that drops its oldest event and
counts it.

House rule: no other module writes to a logger.
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from trio_raft._events import Event, LoopBlocked, PeerRefused
from trio_raft._messages import ServerId


class EventReceiver:
    """One reader's view: iterate with ``async for``; ends when the node is closed."""

    def __init__(self, capacity: int) -> None:
        self._buffer: deque[Event] = deque(maxlen=capacity)
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False
        self.dropped = 0
        """Events that were lost because this reader was slow."""

    def __aiter__(self) -> "EventReceiver":
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self) -> Event:
        """The next event.  Raises ``trio.EndOfChannel`` once the node is closed and all were read.

        Cancelled: no event is lost.
        """
        await trio.lowlevel.checkpoint()
        while not self._buffer:
            if self._closed:
                raise trio.EndOfChannel
            await self._lot.park()
        return self._buffer.popleft()

    def receive_nowait(self) -> Event:
        """The next event, or ``trio.WouldBlock``, or ``trio.EndOfChannel`` as ``receive``."""
        if self._buffer:
            return self._buffer.popleft()
        raise trio.EndOfChannel if self._closed else trio.WouldBlock

    def _put(self, event: Event) -> None:
        if len(self._buffer) == self._buffer.maxlen:
            self.dropped += 1
        self._buffer.append(event)
        self._lot.unpark_all()

    def _close(self) -> None:
        self._closed = True
        self._lot.unpark_all()


KEPT_FINDINGS = 16
"""Of what recovery found, for the first reader, the first ones: a torn tail is told before what snapshots are ignored,
of which a directory may be full.  The others are only logged."""

REMEMBERED_REFUSALS = 64
"""Refusals that are remembered; strangers may invent any number of names."""


class EventHub:
    """Where a node's parts publish, and where readers subscribe."""

    def __init__(self, node_id: ServerId, *, stopwatch: Callable[[], float], blocked_threshold: float) -> None:
        self._node_id = node_id
        self._stopwatch = stopwatch
        self._blocked_threshold = blocked_threshold
        # A list, not a set: the order in which readers wake must not depend on addresses.
        self._receivers: list[EventReceiver] = []
        self._refusals: dict[PeerRefused, None] = {}
        self._findings: deque[Event] = deque()
        """Of recovery; nobody can read before it is over."""
        self._closed = False

    def publish_refusal(self, refusal: PeerRefused) -> None:
        """Report a refused connection once, not at every attempt to connect.

        Each direction is remembered by itself: the two sides of one disagreement word it differently, and take turns.
        """
        if refusal not in self._refusals:
            if len(self._refusals) >= REMEMBERED_REFUSALS:
                self._refusals.clear()
            self._refusals[refusal] = None
            self.publish(refusal)

    def publish_finding(self, event: Event) -> None:
        """Log what recovery found, and keep it for the first reader."""
        self.publish(event)
        if len(self._findings) < KEPT_FINDINGS:
            self._findings.append(event)

    def publish(self, event: Event) -> None:
        """Log the event and hand it to every reader.  Never waits; a log handler that blocks is itself reported."""
        started = self._stopwatch()
        try:
            logging.getLogger(event.logger).log(event.level, "%s: %s", self._node_id, event)
        except Exception:
            # A handler's own bug must not leave a step of the node half done; logging reports its failures like this.
            if logging.raiseExceptions:
                traceback.print_exc()
        blocked = self._stopwatch() - started
        for receiver in self._receivers:
            receiver._put(event)  # noqa: SLF001  # the two classes are one mechanism
        if blocked > self._blocked_threshold:
            # Straight to the readers: logging it would go through the very handler that is slow.
            for receiver in self._receivers:
                receiver._put(LoopBlocked(f"a log handler of {event.logger}", blocked))  # noqa: SLF001

    @contextmanager
    def subscribe(self, capacity: int) -> Iterator[EventReceiver]:
        """A reader of all events from now on; the first one gets what recovery found, before them."""
        receiver = EventReceiver(capacity)
        while self._findings:
            receiver._put(self._findings.popleft())  # noqa: SLF001
        if self._closed:
            receiver._close()  # noqa: SLF001
        self._receivers.append(receiver)
        try:
            yield receiver
        finally:
            self._receivers.remove(receiver)
            receiver._close()  # noqa: SLF001

    def close(self) -> None:
        """No more events: readers end after what they still hold."""
        self._closed = True
        for receiver in self._receivers:
            receiver._close()  # noqa: SLF001
