"""Connections between servers, both ends: dialling a peer, and serving one that dialled us.

Each served connection is for one purpose.  On a replication connection a *reader* turns frames into answers at once
and puts them into a bounded queue, and a *replier* waits for the disk and sends, in order: while one request's entries
are being synced the next ones are read and join the next write.  A serial loop would bring one request per sync,
whatever the leader's window.  On a control connection a heartbeat is answered on the spot and may overtake a vote that
waits for the disk.

House rule: whatever a peer sends can close its own connection, never the node.  A failure of this server's own
storage is not the peer's fault and is not caught here.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count

import attrs
import trio

from trio_raft._codec import Frame, encode_frame
from trio_raft._errors import HandshakeRefused, ProtocolError, leaves
from trio_raft._events import BadInput, PeerRefused
from trio_raft._messages import (
    AppendEntries,
    BootstrapStatement,
    Heartbeat,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    Purpose,
    RequestVote,
    ServerId,
)
from trio_raft._rules import append_entries, install_snapshot
from trio_raft._server import Server
from trio_raft._transport import Channel, ChannelBroken, accept, dial

QUEUED_REPLIES = 64
"""Answers that may wait for the disk on one connection; a peer that sends more has to wait."""

PIECES_READ_AHEAD = 1
"""Of a snapshot, while one is being written: to receive and decode one takes about as long as to check and write it."""

CONNECTIONS_PER_PURPOSE = 2
"""Of one peer.  It uses one; the other may be the one before, whose end is still under way.  Any older one is half
open: its peer is gone without a word, nothing will ever arrive on it, and no deadline would end it."""

FRAMES_PER_TURN = 64
"""Requests that a control connection may have answered before others have their turn: those that arrived together are
read and answered without waiting."""


async def dial_peer(server: Server, peer: ServerId, purpose: Purpose) -> Channel:
    """A new connection to a peer, past the handshake.  Raises ChannelBroken, HandshakeRefused, ProtocolError."""
    address = server.config.members.get(peer)
    if address is None:
        raise ChannelBroken(peer, "the configuration's members name no address for it")
    try:
        channel = await dial(
            server.transport,
            address,
            server.handshake,
            receiver=peer,
            purpose=purpose,
            environment=server.environment,
            timeouts=server.config.timeouts,
        )
    except HandshakeRefused as error:
        server.events.publish_refusal(PeerRefused(peer, error.code, error.reason))
        raise
    server.first_start.meet(channel.peer, channel.peer_boot_id)
    return channel


IsConnected = Callable[[ServerId, str], bool]
"""Is a connection for control open from this peer's process, of that boot id?"""

Disconnected = Callable[[ServerId, str, IsConnected], Awaitable[None]]
"""Told that a connection from a peer's process, of that boot id, has ended, and none for control is left
(``_leader_loss.py``)."""

SnapshotAnswer = Callable[[InstallSnapshot], Awaitable[InstallSnapshotReply]]
"""Carries one message of a snapshot transfer out, and gives the reply (``_receiving.py``)."""


class PeerService:
    """Serves every inbound connection of one node."""

    def __init__(self, server: Server, answer_snapshot: SnapshotAnswer, on_disconnected: Disconnected) -> None:
        self._server = server
        self._answer_snapshot = answer_snapshot
        self._on_disconnected = on_disconnected
        self._connections = 0
        self._served: dict[tuple[ServerId, Purpose], deque[_Served]] = {}
        """Those past the handshake, oldest first."""

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends; returns normally whatever the peer does."""
        server = self._server
        if self._connections >= server.config.limits.max_connections:
            server.events.publish(
                BadInput("a new peer", f"{self._connections} connections are open, the limit is reached")
            )
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            await self._serve_accepted(stream)
        finally:
            self._connections -= 1

    async def _serve_accepted(self, stream: trio.abc.Stream) -> None:
        channel = await self._shake_hands(stream)
        if channel is None:
            return
        connections = self._served.setdefault((channel.peer, channel.purpose), deque())
        served = _Served(channel)
        for older in connections:
            # What another process opens says nothing about this one.
            older.superseded |= older.boot_id == served.boot_id
        connections.append(served)
        ended = False
        try:
            for older in list(connections)[:-CONNECTIONS_PER_PURPOSE]:
                # Cancelled, not only dropped: its task may wait for a disk that hangs, and never look at it again.
                older.scope.cancel()
                await older.channel.drop()
            with served.scope:
                await self._serve_purpose(channel)
        # except* since these arrive in the group of the connection's nursery.
        except* (ProtocolError, append_entries.BadRequest, install_snapshot.BadRequest) as group:
            problem = "; ".join(str(error) for error in leaves(group))
            self._server.events.publish(BadInput(channel.peer, problem))
        except* ChannelBroken:
            # The usual end: the peer left, or its own side reports the loss.
            ended = True
        finally:
            connections.remove(served)
            if not connections:
                self._served.pop((channel.peer, channel.purpose), None)
            await channel.drop()
        replaced = served.superseded and any(other.boot_id == served.boot_id for other in connections)
        if ended and not replaced and not self._is_connected(channel.peer, served.boot_id):
            await self._on_disconnected(channel.peer, served.boot_id, self._is_connected)

    def _is_connected(self, peer: ServerId, boot_id: str) -> bool:
        """Is the connection open on which this process beats if it leads?

        One that was superseded may be half open for ever.  Any other may be dropped at the least doubt, or be idle and
        half open.
        """
        connections = self._served.get((peer, Purpose.CONTROL), ())
        return any(served.boot_id == boot_id and not served.superseded for served in connections)

    async def _serve_purpose(self, channel: Channel) -> None:
        if channel.purpose is Purpose.REPLICATION:
            await self._serve_replication(channel)
        elif channel.purpose is Purpose.SNAPSHOT:
            await self._serve_snapshot(channel)
        else:
            await self._serve_control(channel)

    async def _shake_hands(self, stream: trio.abc.Stream) -> Channel | None:
        server = self._server
        try:
            channel = await accept(
                stream, server.handshake, environment=server.environment, timeouts=server.config.timeouts
            )
            server.first_start.meet(channel.peer, channel.peer_boot_id)
            return channel
        except HandshakeRefused as error:
            server.events.publish_refusal(PeerRefused(error.peer, error.code, error.reason))
        except ProtocolError as error:
            server.events.publish(BadInput(error.peer, error.reason))
        except ChannelBroken:
            # Somebody looked in and left.
            pass
        return None

    # ------------------------------------------------------------------------------------ replication

    async def _serve_replication(self, channel: Channel) -> None:
        replies = _Replies()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reply, channel, replies, name=f"reply[{channel.peer}]")
            await self._read_requests(channel, replies)

    async def _read_requests(self, channel: Channel, replies: "_Replies") -> None:
        server = self._server
        while True:
            for frame in await channel.receive_batch():
                if not isinstance(frame.message, AppendEntries):
                    raise ProtocolError(channel.peer, f"sent {type(frame.message).__name__} for replication")
                self._check_sender(channel, frame.message.leader)
                reply, position = server.answer_append(frame.message)
                replies.put(_QueuedReply(position, frame.request_id, reply, frame.size))
            # What promises nothing new leaves at once.
            await self._send_ready(channel, replies)
            while len(replies.queue) > QUEUED_REPLIES or replies.request_bytes > server.config.limits.max_frame_body:
                await replies.drained.park()

    async def _reply(self, channel: Channel, replies: "_Replies") -> None:
        """Send each answer once the disk has what it promises.  It looks after each write, and at nothing else."""
        while True:
            # First: a write may have ended before this task began.
            await self._send_ready(channel, replies)
            await self._server.journal.next_durable()

    async def _send_ready(self, channel: Channel, replies: "_Replies") -> None:
        """Send the answers, oldest first, up to one for which the disk is not ready; the others leave together.

        Two tasks call this; the channel lets the one that took its answers first send first.
        """
        journal = self._server.journal
        while ready := replies.take_up_to(journal.durable_position):
            frames = [encode_frame(queued.reply, request_id=queued.request_id) for queued in ready]
            await channel.send_frames(b"".join(frames))

    # ------------------------------------------------------------------------------------ snapshots

    async def _serve_snapshot(self, channel: Channel) -> None:
        """One message at a time: what has been written is what is acknowledged.  The next is read meanwhile."""
        sender, receiver = trio.open_memory_channel[Frame](PIECES_READ_AHEAD)
        async with trio.open_nursery() as nursery:
            reader = _PieceReader(channel, sender)
            nursery.start_soon(reader.run, name=f"read pieces[{channel.peer}]")
            async for frame in receiver:
                if not isinstance(frame.message, InstallSnapshot):
                    raise ProtocolError(channel.peer, f"sent {type(frame.message).__name__} for a snapshot")
                self._check_sender(channel, frame.message.leader)
                await channel.send(await self._answer_snapshot(frame.message), request_id=frame.request_id)
        raise reader.problem

    # ------------------------------------------------------------------------------------ control

    async def _serve_control(self, channel: Channel) -> None:
        """Heartbeats are answered on the spot; a vote waits for its disk beside them."""
        waiting = trio.CapacityLimiter(QUEUED_REPLIES)
        async with trio.open_nursery() as nursery:
            for received in count(1):
                frame = await channel.receive()
                if received % FRAMES_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
                reply, position = self._answer_control(channel, frame.message)
                if position <= self._server.journal.durable_position:
                    await channel.send(reply, request_id=frame.request_id)
                elif waiting.available_tokens == 0:
                    raise ProtocolError(channel.peer, f"has {QUEUED_REPLIES} requests waiting for an answer")
                else:
                    nursery.start_soon(self._reply_later, channel, waiting, position, frame, reply)

    async def _reply_later(
        self, channel: Channel, waiting: trio.CapacityLimiter, position: int, frame: Frame, reply: Message
    ) -> None:
        async with waiting:
            await self._server.journal.wait_durable(position)
            await channel.send(reply, request_id=frame.request_id)

    def _answer_control(self, channel: Channel, request: Message) -> tuple[Message, int]:
        match request:
            case Heartbeat():
                self._check_sender(channel, request.leader)
                return self._server.answer_heartbeat(request), 0
            case RequestVote():
                self._check_sender(channel, request.candidate)
                return self._server.answer_vote(request)
            case BootstrapStatement():
                return self._server.first_start.answer(
                    channel.peer, channel.peer_incarnation, channel.peer_boot_id, request
                )
            case _:
                raise ProtocolError(channel.peer, f"sent {type(request).__name__} for control")

    def _check_sender(self, channel: Channel, named: ServerId) -> None:
        if named != channel.peer:
            raise ProtocolError(channel.peer, f"speaks for {named}")


@attrs.define(eq=False)
class _Served:
    """A connection past the handshake."""

    channel: Channel
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Of the task that serves it."""
    superseded: bool = False
    """The same process has opened another one for the same purpose since."""

    @property
    def boot_id(self) -> str:
        """Of the peer's process."""
        return self.channel.peer_boot_id


@attrs.define(eq=False)
class _PieceReader:
    """Reads a snapshot connection ahead of whoever writes.

    Its end is that of the channel, and comes after everything that was read: a write in hand is not cancelled by the
    peer's leaving, since what a write cut off midway has left cannot be told, and all that had arrived would go.
    """

    channel: Channel
    sender: trio.MemorySendChannel[Frame]
    problem: Exception = attrs.field(factory=lambda: AssertionError("still being read"))
    """Why there is no more to read."""

    async def run(self) -> None:
        with self.sender:
            try:
                while True:
                    await self.sender.send(await self.channel.receive())
            except (ChannelBroken, ProtocolError) as error:
                self.problem = error


@attrs.frozen
class _QueuedReply:
    position: int
    """Of the journal: when it may leave."""
    request_id: int
    reply: Message
    request_bytes: int
    """Size of the request, whose entries are in memory until they are durable."""


@attrs.define(eq=False)
class _Replies:
    """The queue between the reader and the replier of one connection, bounded by the reader."""

    queue: deque[_QueuedReply] = attrs.field(factory=deque[_QueuedReply])
    request_bytes: int = 0
    drained: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def put(self, reply: _QueuedReply) -> None:
        self.queue.append(reply)
        self.request_bytes += reply.request_bytes

    def take_up_to(self, position: int) -> list[_QueuedReply]:
        """The oldest ones, as far as they wait for nothing behind that position of the journal."""
        taken: list[_QueuedReply] = []
        while self.queue and self.queue[0].position <= position:
            taken.append(self.queue.popleft())
            self.request_bytes -= taken[-1].request_bytes
        if taken:
            self.drained.unpark_all()
        return taken
