"""A network in memory, on virtual time, with the faults that real ones have.

``MemoryNetwork`` hands out one ``Transport`` per node.  What is sent arrives after the delay of its directed link
(``_streams``).  What can be wrong, each counted in ``injected``:

* a link: slow at times (``set_latency``), narrow (``set_bandwidth``), clogged (nothing moves for a while, then all),
  cut in one direction; bridges and rings are sets of such cuts;
* a connection: reset, torn (a part of a send arrives, then a reset), half open; a dial can be refused;
* a node: paused (the process stands still, its machine takes what arrives), frozen (no power), its process killed
  (its machine closes all connections).

A cut behaves as with TCP: what was sent waits and arrives after ``heal``; until then the sender notices nothing until
the buffer is full, the receiver hears nothing, not even that the other side closed, and dials hang.  (A stream that
lost some bytes and delivered the next ones would be a fault that no real network has.)  One simplification: a link
cut in one direction keeps delivering in the other without needing acknowledgements.

House rule: the same calls in the same order give the same run: lists in order of making, no sets, no real time.
"""

import errno
import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from trio_raft.abc import Transport
from trio_raft.testing._determinism import Latency
from trio_raft.testing._streams import BUFFER_BYTES, READ_DELAY, Host, Link, MemoryStream, Pipe

DEFAULT_DELAY = 0.0005
"""Seconds from one node to another, one way."""

BACKLOG = 64
"""Connections that a listener has not yet accepted; further ones are refused."""


class MemoryNetwork:
    """Nodes, the links between them, and what is wrong with those."""

    def __init__(
        self,
        *,
        delay: float = DEFAULT_DELAY,
        buffer_bytes: int = BUFFER_BYTES,
        latency: Latency | None = None,
        generator: random.Random | None = None,
    ) -> None:
        self.injected: dict[str, int] = {}
        """Kind of fault → how often it happened."""
        self._latency = latency or Latency(delay)
        self._random = generator or random.Random(0)
        self._buffer_bytes = buffer_bytes
        self._hosts: dict[str, Host] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._refusing: dict[tuple[str, str], None] = {}
        """(who dials, or empty for everybody; whom)."""
        self._listeners: dict[str, MemoryListener] = {}
        self._owners: dict[str, str] = {}
        """Address → the node that listened there last: packets to a dead node take the same road."""
        self._pipes: dict[Pipe, None] = {}
        self._healed = trio.lowlevel.ParkingLot()

    def transport(self, node_id: str) -> Transport:
        """The network as that node sees it."""
        return _MemoryTransport(self, node_id)

    # ------------------------------------------------------------------------------------ links

    def set_delay(self, source: str, target: str, seconds: float) -> None:
        """How long bytes take from one node to another, from now on."""
        self.set_latency(source, target, Latency(seconds))

    def set_latency(self, source: str, target: str, latency: Latency) -> None:
        """How long bytes take from one node to another, from now on: drawn for each send."""
        self._link(source, target).latency = latency

    def set_bandwidth(self, source: str, target: str, bytes_per_second: float) -> None:
        """How much a link carries, from now on; infinity: any amount."""
        if not bytes_per_second > 0:
            raise ValueError(f"a link of {bytes_per_second!r} bytes per second never delivers: cut it instead")
        self._link(source, target).bandwidth = bytes_per_second

    def cut(self, source: str, target: str) -> None:
        """Nothing arrives any more that ``source`` sends to ``target``; the other direction works on."""
        self._link(source, target).cut = True
        self._count("cut")
        self._rearm(source, target)

    def mend(self, source: str, target: str) -> None:
        """Undo one cut and one clog; what was held up is delivered."""
        link = self._link(source, target)
        was_cut, link.cut, link.clogged_until = link.cut, False, 0.0
        for pipe in list(self._pipes):
            if pipe.link is link and was_cut:
                pipe.resend()
        self._wake()

    def clog(self, source: str, target: str, seconds: float) -> None:
        """Nothing moves from ``source`` to ``target`` for so long; then everything does, at once."""
        link = self._link(source, target)
        link.clogged_until = max(link.clogged_until, trio.current_time() + seconds)
        self._count("clog")
        self._rearm(source, target)

    def heal(self) -> None:
        """Undo all cuts, clogs, refusals, and tears to come; what was held up is delivered."""
        healed = [link for link in self._links.values() if link.cut]
        for link in self._links.values():
            link.cut, link.clogged_until, link.tears = False, 0.0, 0
        self._refusing.clear()
        for pipe in list(self._pipes):
            if pipe.link in healed:
                pipe.resend()
        self._wake()

    def delay(self, source: str, target: str) -> float:
        """Seconds that a link typically takes, one way."""
        return self._link(source, target).latency.typical

    def is_cut(self, source: str, target: str) -> bool:
        """Whether what ``source`` sends is kept from ``target``."""
        return self._link(source, target).cut

    # ------------------------------------------------------------------------------------ connections

    def reset(self, first: str, second: str) -> None:
        """All connections between two nodes break now, on both sides; what was on its way is lost."""
        for pipe in self._between(first, second):
            if pipe in self._pipes:
                pipe.break_both()
                self._count("reset")

    def tear(self, source: str, target: str, *, times: int = 1) -> None:
        """The next ``times`` sends from ``source`` to ``target`` arrive in part only; then their connection breaks."""
        self._link(source, target).tears = times

    def half_open(self, first: str, second: str) -> None:
        """``second`` forgets all connections with ``first``, which does not hear of it until it sends something."""
        for pipe in self._between(first, second):
            if pipe.link.source.name == first:
                pipe.lose_receiver()
                self._count("half open")

    def refuse(self, node_id: str, *, source: str = "") -> None:
        """Dials to that node, or only those of ``source``, fail at once until ``heal``, as if nobody listened."""
        self._refusing[source, node_id] = None

    def refuses(self, source: str, node_id: str) -> bool:
        """Is a dial refused: on request, since nobody listens, or since he accepts nothing and too many wait?"""
        listens = any(each.has_room() for each in self._listeners.values() if each.host.name == node_id)
        return not listens or ("", node_id) in self._refusing or (source, node_id) in self._refusing

    @property
    def open_connections(self) -> int:
        """Connections with an end that nobody has closed yet; after a test, what it forgot."""
        return (len(self._pipes) + 1) // 2

    # ------------------------------------------------------------------------------------ nodes

    def pause(self, node_id: str) -> None:
        """The node's process stands still: it reads, accepts, dials and sends nothing; its machine takes what comes."""
        self._host(node_id).paused = True
        self._count("pause")
        self._wake()

    def resume(self, node_id: str) -> None:
        """The process goes on; it finds its timers first, and a moment later what has arrived."""
        host = self._host(node_id)
        host.paused, host.reads_from = False, trio.current_time() + READ_DELAY
        host.changed.unpark_all()
        self._wake()

    def hang_up(self, node_id: str) -> None:
        """The node's process dies, and its machine goes on: it closes all connections of the process at once.

        What was sent still arrives, and the end after it; what arrives here is answered with a reset, once ``freeze``,
        which keeps back what a dying node still says, and ``thaw`` are over.
        """
        for pipe in list(self._pipes):
            if pipe.link.source.name == node_id:
                pipe.close_sender()
        self._count("hang up")

    def freeze(self, node_id: str) -> None:
        """The node's machine loses its power: nothing leaves it or arrives there, nobody is told, dials to it hang.

        Everything that the node closes afterwards is gone without a word.
        """
        self._host(node_id).frozen = True
        self._count("freeze")
        self._wake()

    def thaw(self, node_id: str) -> None:
        """The machine is on again: it knows no connection, and answers with a reset what arrives for one."""
        self._host(node_id).frozen = False
        for pipe in list(self._pipes):
            if pipe.link.target.name == node_id:
                pipe.answer_late()
        self._wake()

    # ------------------------------------------------------------------------------------ dial and listen

    async def dial(self, source: str, address: str) -> trio.abc.Stream:
        """A round trip, then a connection; hangs while either direction is cut, as TCP does."""
        await trio.lowlevel.checkpoint()
        while True:
            target = self._owners.get(address, address)
            there, back = self._link(source, target), self._link(target, source)
            if _is_passable(there, back):
                await trio.sleep(there.draw() + back.draw())
                # A clog may be mended before its time.
                while (opens := max(there.clogged_until, back.clogged_until)) > trio.current_time():
                    with trio.move_on_at(opens):
                        await self._healed.park()
                if _is_passable(there, back):
                    break
            else:
                await self._healed.park()
        listener = self._listeners.get(address)
        if listener is None or not listener.has_room() or self.refuses(source, target):
            self._count("refused dial")
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED), address)
        outgoing, incoming = self._pipe(there), self._pipe(back)
        outgoing.twin, incoming.twin = incoming, outgoing
        listener.offer(MemoryStream(outgoing=incoming, incoming=outgoing))
        return MemoryStream(outgoing=outgoing, incoming=incoming)

    def listen(self, node_id: str, address: str) -> "MemoryListener":
        """Listen as ``node_id``.  Raises OSError if the address is taken."""
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), address)
        forget = partial(self._listeners.pop, address)
        listener = self._listeners[address] = MemoryListener(self._host(node_id), forget=forget)
        self._owners[address] = node_id
        return listener

    # ------------------------------------------------------------------------------------ inside

    def _host(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = Host(name)
        return self._hosts[name]

    def _link(self, source: str, target: str) -> Link:
        link = self._links.get((source, target))
        if link is None:
            link = Link(self._host(source), self._host(target), self._latency, self._random, self._count)
            self._links[source, target] = link
        return link

    def _pipe(self, link: Link) -> Pipe:
        pipe = Pipe(link, self._buffer_bytes, forget=self._forget)
        self._pipes[pipe] = None
        return pipe

    def _between(self, first: str, second: str) -> list[Pipe]:
        links = (self._link(first, second), self._link(second, first))
        return [pipe for pipe in self._pipes if pipe.link in links]

    def _rearm(self, source: str, target: str) -> None:
        link = self._link(source, target)
        for pipe in self._pipes:
            if pipe.link is link:
                pipe.rearm()

    def _wake(self) -> None:
        """Whoever waits for something looks again."""
        for pipe in self._pipes:
            pipe.wake()
        for listener in self._listeners.values():
            listener.wake()
        self._healed.unpark_all()

    def _forget(self, pipe: Pipe) -> None:
        self._pipes.pop(pipe, None)

    def _count(self, kind: str) -> None:
        self.injected[kind] = self.injected.get(kind, 0) + 1


def _is_passable(there: Link, back: Link) -> bool:
    """Can a handshake be completed over these links now?"""
    hosts = (there.source, there.target)
    return not (there.cut or back.cut or there.source.paused or any(host.frozen for host in hosts))


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

    def __init__(self, host: Host, *, forget: Callable[[], object]) -> None:
        self.host = host
        self._forget = forget
        self._waiting: deque[MemoryStream] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False

    def has_room(self) -> bool:
        """Whether another dial may succeed."""
        return len(self._waiting) < BACKLOG

    def offer(self, stream: MemoryStream) -> None:
        """A peer connected."""
        self._waiting.append(stream)
        self._lot.unpark()

    def wake(self) -> None:
        """The node may have been continued."""
        self._lot.unpark_all()

    async def accept(self) -> trio.abc.Stream:
        """The oldest connection not yet accepted."""
        await trio.lowlevel.checkpoint()
        while not self._waiting or self.host.paused:
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
