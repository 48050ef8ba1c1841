"""The streams of the network in memory: one pipe for each direction of a connection.

A ``Pipe`` holds pieces on their way, in order, each with the time at which it arrives.  There are no background tasks:
whoever receives sleeps until the first piece is due, and whatever changes that (a new piece, a cut, the end of one, a
pause) moves the receiver's deadline.  A ``Link`` is the road from one host to another, which all pipes between them
share, with everything that is wrong with it; a ``Host`` is the machine at its end.

A connection can end in these ways: closed (the other end learns it after everything that was sent); broken, on both
sides at once; and *half open*: one end is gone and has not said so, since its machine lost power or its word was lost.
The other end then learns nothing until it sends something that arrives where nobody knows the connection: a reset
comes back.

A send arrives in one piece mostly, and in several where the link is narrow, or as unsteady as its latency's tail says:
whoever reads frames from a stream must not rely on their edges.

House rule: the same calls in the same order give the same run; what is drawn comes from the network's generator.
"""

import math
import operator
from collections import deque
from collections.abc import Callable
from random import Random

import attrs
import trio

from trio_raft.testing._determinism import Latency

SEGMENT_BYTES = 1460
"""A narrow link carries so much at a time: what it carries arrives bit by bit."""

BUFFER_BYTES = 256 << 10
"""Bytes sent but not yet received, per direction; then a sender waits."""

READ_DELAY = 0.00001
"""Seconds after the end of a pause until what has arrived can be read: a process that is continued finds its timers
first."""


@attrs.define(eq=False)
class Host:
    """A node's machine, as the network sees it."""

    name: str
    paused: bool = False
    """The process stands still; the machine goes on taking what arrives."""
    frozen: bool = False
    """No power: nothing leaves, nothing is taken, and nobody is told."""
    reads_from: float = 0.0
    """When the process reads again after a pause."""
    changed: trio.lowlevel.ParkingLot = attrs.Factory(trio.lowlevel.ParkingLot)


@attrs.define(eq=False)
class Link:
    """The road from one host to another."""

    source: Host
    target: Host
    latency: Latency
    random: Random
    count: Callable[[str], None]
    """Takes note of a fault that happened."""
    bandwidth: float = math.inf
    """Bytes per second."""
    cut: bool = False
    clogged_until: float = 0.0
    tears: int = 0
    """So many further sends are torn: a part arrives, and then the connection is reset."""
    free_at: float = 0.0

    def draw(self) -> float:
        """Seconds that something small takes."""
        seconds = self.latency.draw(self.random)
        if self.latency.is_slow(seconds):
            self.count("slow delivery")
        return seconds

    def arrival(self, size: int) -> float:
        """When something of so many bytes that is sent now will arrive."""
        leaves = trio.current_time()
        if self.bandwidth != math.inf:
            leaves = self.free_at = max(leaves, self.free_at) + size / self.bandwidth
        return leaves + self.draw()

    def portion(self, size: int) -> int:
        """How much of so many bytes arrives together: a stream knows nothing of frames, and may part them anywhere."""
        if self.bandwidth != math.inf:
            return min(size, SEGMENT_BYTES)
        # Once for each slow delivery: where everything takes its typical time, nothing is parted either.
        if size > 1 and self.latency.tail and self.random.random() < self.latency.tail:
            self.count("parted send")
            return self.random.randrange(1, size)
        return size

    def opens(self) -> float:
        """From when on what has arrived can be read; infinity: nobody knows."""
        if self.cut or self.target.paused or self.target.frozen:
            return math.inf
        return max(self.clogged_until, self.target.reads_from)


@attrs.define(eq=False)
class _Piece:
    due: float
    """When it arrives, on the run's clock."""
    data: bytes | None
    """Empty: the sender closed.  None: a reset."""


class Pipe:
    """One direction of a connection."""

    def __init__(self, link: Link, capacity: int, *, forget: Callable[["Pipe"], None]) -> None:
        self.link = link
        self.twin = self
        """The other direction of the same connection."""
        self._capacity = capacity
        self._forget = forget
        self._pieces: deque[_Piece] = deque()
        self._held = 0
        self._room = trio.lowlevel.ParkingLot()
        self._arrived = trio.lowlevel.ParkingLot()
        self._arrival: trio.CancelScope | None = None
        self._sender_broken = False
        self._receiver_broken = False
        self._sender_closed = False
        self._receiver_closed = False
        self._receiver_gone = False
        """Nobody receives here any more, and the sender was not told."""
        self._sending = False
        self._receiving = False

    # ------------------------------------------------------------------------------------ the sender's end

    async def send(self, data: bytes) -> None:
        """Put all of it on its way, waiting for room as needed."""
        await self._enter_send()
        try:
            offset = 0
            while offset < len(data):
                await self._wait_room()
                piece = data[offset : offset + self._capacity - self._held]
                if self.link.tears:
                    self._tear(piece)
                    return
                piece = piece[: self.link.portion(len(piece))]
                self._put(piece)
                offset += len(piece)
        finally:
            self._sending = False

    async def wait_room(self) -> None:
        """Until something could be sent."""
        await self._enter_send()
        try:
            await self._wait_room()
        finally:
            self._sending = False

    def close_sender(self) -> None:
        """No more will be sent; the receiver learns it after everything else, unless this machine is off."""
        if not self._sender_closed:
            self._sender_closed = True
            if not self._sender_broken:
                self._put(b"")
            self._room.unpark_all()
            self._forget_if_over()

    async def _enter_send(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            while self.link.source.paused:
                await self.link.source.changed.park()
            self._check_sendable()
        except BaseException:
            self._sending = False
            raise

    def _check_sendable(self) -> None:
        if self._sender_closed:
            raise trio.ClosedResourceError("this end was closed")
        if self.twin.has_reset_arrived():
            self.break_both()
        if self._sender_broken:
            raise trio.BrokenResourceError("connection reset")
        # The news of the close travels against the direction of the data.
        if self._receiver_closed and not (self._receiver_gone or self.link.cut or self.twin.link.cut):
            raise trio.BrokenResourceError("the other end was closed")

    async def _wait_room(self) -> None:
        while self._held >= self._capacity:
            await self._room.park()
            self._check_sendable()

    def _put(self, data: bytes | None) -> None:
        link = self.link
        if link.source.frozen:
            return
        if self._receiver_gone and not link.target.frozen:
            # Nobody there knows this connection; a reset itself is not answered.
            if data is not None:
                self.twin.send_reset()
            return
        # One that is faster than the piece before it waits for that: a stream is never reordered.
        self._pieces.append(_Piece(link.arrival(len(data or b"")), data))
        self._held += len(data or b"")
        if len(self._pieces) == 1:
            self.rearm()

    def send_reset(self) -> None:
        """Tell the receiver that the other end knows nothing of this connection."""
        self._put(None)

    def _tear(self, data: bytes) -> None:
        """A part of it arrives, then the connection is reset."""
        self.link.tears -= 1
        self.link.count("torn frame")
        if len(data) > 1:
            self._put(data[: self.link.random.randrange(1, len(data))])
        self._put(None)

    # ------------------------------------------------------------------------------------ the receiver's end

    async def receive(self, max_bytes: int) -> bytes:
        """What has arrived, waiting for the first byte; empty once the sender's close has arrived."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            # To wait is a checkpoint anyway.
            if self._has_arrived():
                await trio.lowlevel.checkpoint()
            while not self._has_arrived():
                with trio.CancelScope(deadline=self._next_due()) as self._arrival:
                    await self._arrived.park()
                self._arrival = None
            return self._take(max_bytes)
        finally:
            self._arrival = None
            self._receiving = False

    def close_receiver(self) -> None:
        """Nobody will receive any more; the sender learns it when it sends, unless a cut stands between.

        If this machine is off, it learns it only when it sends to a machine that is on again.
        """
        self._receiver_closed = True
        self._receiver_gone = self._receiver_gone or self.link.target.frozen
        self._room.unpark_all()
        self._arrived.unpark_all()
        self._forget_if_over()

    def _has_arrived(self) -> bool:
        if self._receiver_closed:
            raise trio.ClosedResourceError("this end was closed")
        if self._receiver_broken:
            raise trio.BrokenResourceError("connection reset")
        return bool(self._pieces) and self._next_due() <= trio.current_time()

    def _next_due(self) -> float:
        return max(self._pieces[0].due, self.link.opens()) if self._pieces else math.inf

    def has_reset_arrived(self) -> bool:
        """Is a reset all that is left to read, and has it arrived?"""
        return bool(self._pieces) and self._pieces[0].data is None and self._next_due() <= trio.current_time()

    def _take(self, max_bytes: int) -> bytes:
        """All that is due, up to the bound; the mark of the sender's close stays in its place."""
        taken: list[bytes] = []
        room, now, pieces = max_bytes, trio.current_time(), self._pieces
        while room and pieces and pieces[0].data and pieces[0].due <= now:
            data = pieces[0].data
            taken.append(data[:room])
            room -= len(taken[-1])
            pieces[0].data = data[len(taken[-1]) :]
            if not pieces[0].data:
                pieces.popleft()
        if not taken and pieces[0].data is None:
            self.break_both()
            raise trio.BrokenResourceError("connection reset")
        self._held -= max_bytes - room
        self._room.unpark_all()
        return b"".join(taken)

    # ------------------------------------------------------------------------------------ what is done to it

    def rearm(self) -> None:
        """Something changed when the first piece can be read: let the receiver wait for that instead."""
        if self._arrival is not None:
            self._arrival.deadline = self._next_due()

    def wake(self) -> None:
        """The road is open again: the sender may now learn that the receiver has closed."""
        self._room.unpark_all()
        self.rearm()

    def resend(self) -> None:
        """The cut is over: what it held up leaves now."""
        earliest = trio.current_time() + self.link.draw()
        for piece in self._pieces:
            piece.due = max(piece.due, earliest)
        self.rearm()

    def break_both(self) -> None:
        """Reset the connection: both ends fail from now on, what is on its way is lost."""
        for pipe in (self, self.twin):
            pipe.break_ends(sender=True, receiver=True)
            self._forget(pipe)

    def lose_receiver(self) -> None:
        """The receiving side forgets the connection, and the sending side does not hear of it: half open."""
        self._receiver_gone = True
        self.break_ends(sender=False, receiver=True)
        self.twin.break_ends(sender=True, receiver=False)

    def answer_late(self) -> None:
        """The receiving machine is on again and finds this for a connection that it does not know."""
        if self._receiver_gone and self._pieces:
            self._pieces.clear()
            self._held = 0
            self._room.unpark_all()
            self.twin.send_reset()

    def break_ends(self, *, sender: bool, receiver: bool) -> None:
        """These ends fail from now on; what is on its way is lost."""
        self._sender_broken = self._sender_broken or sender
        self._receiver_broken = self._receiver_broken or receiver
        self._pieces.clear()
        self._held = 0
        self._room.unpark_all()
        self._arrived.unpark_all()

    def _forget_if_over(self) -> None:
        if self._sender_closed and self._receiver_closed:
            self._forget(self)


class MemoryStream(trio.abc.Stream):
    """One end of a connection."""

    def __init__(self, *, outgoing: Pipe, incoming: Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns when everything is on its way, not when it has arrived."""
        await self._outgoing.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Until there is room in the buffer."""
        await self._outgoing.wait_room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has arrived; empty when the other end has closed."""
        most = BUFFER_BYTES if max_bytes is None else operator.index(max_bytes)
        if most < 1:
            raise ValueError(f"max_bytes must be at least 1, not {most}")
        return await self._incoming.receive(most)

    async def aclose(self) -> None:
        """The peer receives what was sent, then the end; what was not yet received here is lost."""
        self._outgoing.close_sender()
        self._incoming.close_receiver()
        await trio.lowlevel.checkpoint()

    def break_now(self) -> None:
        """Reset the connection: both ends fail from now on; silently, if this machine is off."""
        if self._outgoing.link.source.frozen:
            self._outgoing.close_sender()
            self._incoming.close_receiver()
        else:
            self._outgoing.break_both()
