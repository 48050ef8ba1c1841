"""A network in memory, on virtual time, with the faults that real ones have.

``MemoryNetwork`` hands out one ``Transport`` per node.  What is sent arrives after the delay of its directed link;
links can be cut, connections reset, dials refused.  There are no background tasks: a byte knows when it is due, and
whoever receives sleeps until then on the run's clock (a ``MockClock`` jumps there).

A cut behaves as with TCP: what was sent waits and arrives after ``heal``; until then the sender notices nothing until
the buffer is full, the receiver hears nothing, not even that the other side closed, and dials hang.  (A stream that
lost some bytes and delivered the next ones would be a fault that no real network has.)  One simplification: a link
cut in one direction keeps delivering in the other without needing acknowledgements.

House rule: the same calls in the same order give the same run: lists in order of making, no sets, no real time.
"""

import errno
import math
import operator
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from trio_raft.abc import Transport

DEFAULT_DELAY = 0.0005
"""Seconds from one node to another, one way."""

BUFFER_BYTES = 256 << 10
"""Bytes sent but not yet received, per direction; then a sender waits."""

BACKLOG = 64
"""Connections that a listener has not yet accepted; further ones are refused."""


class MemoryNetwork:
    """Nodes, the links between them, and what is wrong with those."""

    def __init__(self, *, delay: float = DEFAULT_DELAY, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._default_delay = delay
        self._buffer_bytes = buffer_bytes
        self._delays: dict[tuple[str, str], float] = {}
        self._cuts: dict[tuple[str, str], None] = {}
        self._refusing: dict[str, None] = {}
        self._listeners: dict[str, MemoryListener] = {}
        self._owners: dict[str, str] = {}
        """Address → the node that listened there last: packets to a dead node take the same road."""
        self._pipes: list[_Pipe] = []
        self._healed = trio.lowlevel.ParkingLot()

    def transport(self, node_id: str) -> Transport:
        """The network as that node sees it."""
        return _MemoryTransport(self, node_id)

    def set_delay(self, source: str, target: str, seconds: float) -> None:
        """How long bytes take from one node to another, from now on."""
        self._delays[source, target] = seconds

    def cut(self, source: str, target: str) -> None:
        """Nothing arrives any more that ``source`` sends to ``target``; the other direction works on."""
        self._cuts[source, target] = None

    def heal(self) -> None:
        """Undo all cuts and refusals; what was held up is delivered."""
        healed = list(self._cuts)
        self._cuts.clear()
        self._refusing.clear()
        for pipe in self._pipes:
            if (pipe.source, pipe.target) in healed:
                pipe.resend()
            # The other direction too: its sender may now learn that the receiver has closed.
            pipe.wake()
        self._healed.unpark_all()

    def reset(self, first: str, second: str) -> None:
        """All connections between two nodes break now, on both sides; what was on its way is lost."""
        for pipe in list(self._pipes):
            if (pipe.source, pipe.target) in ((first, second), (second, first)):
                pipe.break_now()

    def refuse(self, node_id: str) -> None:
        """Dials to that node fail at once until ``heal``, as if nobody listened."""
        self._refusing[node_id] = None

    def delay(self, source: str, target: str) -> float:
        """Seconds from one node to another, one way."""
        return self._delays.get((source, target), self._default_delay)

    def is_cut(self, source: str, target: str) -> bool:
        """Whether what ``source`` sends is kept from ``target``."""
        return (source, target) in self._cuts

    @property
    def open_connections(self) -> int:
        """Connections with an end that nobody has closed yet; after a test, what it forgot."""
        return (len(self._pipes) + 1) // 2

    async def dial(self, source: str, address: str) -> trio.abc.Stream:
        """A round trip, then a connection; hangs while either direction is cut, as TCP does."""
        await trio.lowlevel.checkpoint()
        while True:
            target = self._owners.get(address, address)
            if self.is_cut(source, target) or self.is_cut(target, source):
                await self._healed.park()
                continue
            await trio.sleep(self.delay(source, target) + self.delay(target, source))
            if not self.is_cut(source, target) and not self.is_cut(target, source):
                break
        listener = self._listeners.get(address)
        if listener is None or listener.node_id in self._refusing or not listener.has_room():
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED), address)
        there, back = self._pipe(source, listener.node_id), self._pipe(listener.node_id, source)
        listener.offer(MemoryStream(outgoing=back, incoming=there))
        return MemoryStream(outgoing=there, incoming=back)

    def _pipe(self, source: str, target: str) -> "_Pipe":
        pipe = _Pipe(self, source, target, self._buffer_bytes)
        self._pipes.append(pipe)
        return pipe

    def listen(self, node_id: str, address: str) -> "MemoryListener":
        """Listen as ``node_id``.  Raises OSError if the address is taken."""
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), address)
        listener = self._listeners[address] = MemoryListener(node_id, forget=partial(self._listeners.pop, address))
        self._owners[address] = node_id
        return listener

    def forget(self, pipe: "_Pipe") -> None:
        """That direction of a connection is over.  Idempotent."""
        if pipe in self._pipes:
            self._pipes.remove(pipe)


@attrs.frozen
class _MemoryTransport(Transport):
    network: MemoryNetwork
    node_id: str

    async def dial(self, address: str) -> trio.abc.Stream:
        return await self.network.dial(self.node_id, address)

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        await trio.lowlevel.checkpoint()
        return [self.network.listen(self.node_id, address)]


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Connections that were dialled and not yet accepted, oldest first."""

    def __init__(self, node_id: str, *, forget: Callable[[], object]) -> None:
        self.node_id = node_id
        self._forget = forget
        self._waiting: deque[MemoryStream] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False

    def has_room(self) -> bool:
        """Whether another dial may succeed."""
        return len(self._waiting) < BACKLOG

    def offer(self, stream: "MemoryStream") -> None:
        """A peer connected."""
        self._waiting.append(stream)
        self._lot.unpark()

    async def accept(self) -> trio.abc.Stream:
        """The oldest connection not yet accepted."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._closed:
                raise trio.ClosedResourceError
            await self._lot.park()
        return self._waiting.popleft()

    async def aclose(self) -> None:
        """Stop listening; connections not yet accepted are reset."""
        if not self._closed:
            self._closed = True
            self._forget()
            for stream in self._waiting:
                stream.break_now()
            self._waiting.clear()
            self._lot.unpark_all()
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class _Piece:
    due: float
    """When it arrives, on the run's clock."""
    data: bytes
    """Empty: the sender closed."""


class _Pipe:
    """One direction of a connection: pieces on their way, in order, each with the time at which it is due."""

    def __init__(self, network: MemoryNetwork, source: str, target: str, capacity: int) -> None:
        self.source = source
        self.target = target
        self._network = network
        self._capacity = capacity
        self._pieces: deque[_Piece] = deque()
        self._held = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._broken = False
        self._sender_closed = False
        self._receiver_closed = False
        self._sending = False
        self._receiving = False

    async def send(self, data: bytes) -> None:
        """Put all of it on its way, waiting for room as needed."""
        await self._enter_send()
        try:
            offset = 0
            while offset < len(data):
                await self._wait_room()
                piece = data[offset : offset + self._capacity - self._held]
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

    async def receive(self, max_bytes: int) -> bytes:
        """What has arrived, waiting for the first byte; empty once the sender's close has arrived."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while not self._has_arrived():
                await self._wait_arrival()
            return self._take(max_bytes)
        finally:
            self._receiving = False

    def close_sender(self) -> None:
        """No more will be sent; the receiver learns it after everything else."""
        if not self._sender_closed:
            self._sender_closed = True
            self._put(b"")
            self._forget_if_over()

    def close_receiver(self) -> None:
        """Nobody will receive any more; the sender learns it when it sends, unless a cut stands between."""
        self._receiver_closed = True
        self._changed.unpark_all()
        self._forget_if_over()

    def break_now(self) -> None:
        """Both ends fail from now on."""
        self._broken = True
        self._pieces.clear()
        self._network.forget(self)
        self._changed.unpark_all()

    def resend(self) -> None:
        """The cut is over: what it held up leaves now."""
        earliest = self._due()
        for piece in self._pieces:
            piece.due = max(piece.due, earliest)

    def wake(self) -> None:
        """Whoever waits here looks again."""
        self._changed.unpark_all()

    def _forget_if_over(self) -> None:
        if self._sender_closed and self._receiver_closed:
            self._network.forget(self)

    async def _enter_send(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
        except BaseException:
            self._sending = False
            raise

    def _check_sendable(self) -> None:
        if self._sender_closed:
            raise trio.ClosedResourceError("this end was closed")
        if self._broken:
            raise trio.BrokenResourceError("connection reset")
        # The news of the close travels against the direction of the data.
        if self._receiver_closed and not self._is_cut() and not self._network.is_cut(self.target, self.source):
            raise trio.BrokenResourceError("the other end was closed")

    async def _wait_room(self) -> None:
        while self._held >= self._capacity:
            await self._changed.park()
            self._check_sendable()

    def _put(self, data: bytes) -> None:
        # Never before an earlier piece: a link that became faster must not reorder the stream.
        due = max(self._due(), self._pieces[-1].due if self._pieces else 0.0)
        self._pieces.append(_Piece(due, data))
        self._held += len(data)
        self._changed.unpark_all()

    def _due(self) -> float:
        return trio.current_time() + self._network.delay(self.source, self.target)

    def _has_arrived(self) -> bool:
        if self._receiver_closed:
            raise trio.ClosedResourceError("this end was closed")
        if self._broken:
            raise trio.BrokenResourceError("connection reset")
        return bool(self._pieces) and not self._is_cut() and self._pieces[0].due <= trio.current_time()

    async def _wait_arrival(self) -> None:
        due = self._pieces[0].due if self._pieces and not self._is_cut() else math.inf
        with trio.move_on_at(due):
            await self._changed.park()

    def _take(self, max_bytes: int) -> bytes:
        """All that is due, up to the bound; the mark of the sender's close stays in its place."""
        taken: list[bytes] = []
        room, now = max_bytes, trio.current_time()
        while room and self._pieces and self._pieces[0].data and self._pieces[0].due <= now:
            piece = self._pieces[0]
            taken.append(piece.data[:room])
            room -= len(taken[-1])
            piece.data = piece.data[len(taken[-1]) :]
            if not piece.data:
                self._pieces.popleft()
        data = b"".join(taken)
        self._held -= len(data)
        self._changed.unpark_all()
        return data

    def _is_cut(self) -> bool:
        return self._network.is_cut(self.source, self.target)


class MemoryStream(trio.abc.Stream):
    """One end of a connection."""

    def __init__(self, *, outgoing: _Pipe, incoming: _Pipe) -> None:
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
        """Reset the connection: both ends fail from now on."""
        self._outgoing.break_now()
        self._incoming.break_now()
