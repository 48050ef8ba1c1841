"""Sending a snapshot to a follower that needs what the log no longer holds (paper section 7).

The replicate task falls back to this when the log begins above what the follower needs next (R9), and goes on from the
log afterwards.  A transfer has a connection of its own, so that no heartbeat and no other follower ever waits behind
it (W4), and several followers may be served at once.  It begins with a question, to which the answer is an offset:
a receiver that has part of these very bytes is sent the rest.  Several pieces are on their way at a time; each answer
says how far the receiver is, and must come in time (``request_timeout``), so a transfer lasts as long as it makes
progress, and no longer.  When all was sent, questions ask until it is installed.

House rules: those of ``_replication.py``; and the snapshot's own file, if it is damaged, is this node's trouble, not
the follower's.
"""

from collections import deque
from pathlib import Path

import attrs

from trio_raft._config import Snapshots
from trio_raft._environment import Lane
from trio_raft._errors import ProtocolError, SnapshotCorrupt, StorageError
from trio_raft._follower import Follower, Offer
from trio_raft._messages import InstallSnapshot, InstallSnapshotReply, Message, Purpose, SnapshotStatus
from trio_raft._peers import dial_peer
from trio_raft._records import Term
from trio_raft._rules import install_snapshot
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotFailed, SnapshotSending
from trio_raft._snapshots import Transfer
from trio_raft._transport import Channel, ChannelBroken
from trio_raft.abc import SnapshotReader

IN_FLIGHT = 4
"""So many pieces may be sent and not answered yet; or more, if they are small, up to about so many times
``chunk_bytes``, or what a frame of the peer takes."""

PIECES_A_SECOND = 512
"""Where a rate is set.  A large piece keeps an event loop busy for milliseconds, at both ends, and writes wait for
that: with pieces of 1 MiB their p99 was half as long again as with such of 128 KiB, at whatever rate."""

SMALL_PIECE = 64 << 10
"""Bytes; not for smaller ones, unless a low rate asks for them."""

SIGNS_OF_LIFE = 4
"""Pieces a second, at least, however low the rate (R14)."""


async def send_snapshot(server: Server, follower: Follower) -> None:
    """Bring a follower up by the newest snapshot; returns once it is installed, or the leadership is over.

    Raises ChannelBroken, HandshakeRefused, ProtocolError and BadReply, after which the caller may try again and goes
    on where this ended; StorageError and SnapshotCorrupt, if this node's own snapshot cannot be read.
    """
    if not await _wait_for_its_time(server, follower):
        return
    offer, reader = await _open(server, follower)
    try:
        follower.progress.become_snapshot(offer.snapshot.point.index)
        channel = await dial_peer(server, follower.id, Purpose.SNAPSHOT)
        try:
            await _Sending(server, follower, offer, reader).run(channel)
        finally:
            await channel.drop()
    finally:
        server.snapshots.sending.pop(follower.id, None)
        follower.progress.become_probe()
        reader.close()


async def _wait_for_its_time(server: Server, follower: Follower) -> bool:
    """Once it refused several, later and later, before anything is pinned for it; False once the leadership is over.

    Looks again now and then: a new connection to it, and so a new process, makes an end of the pause.
    """
    term, clock = server.state.current_term, server.environment.clock
    while server.leads(term):
        left = follower.offer_not_before - clock.now()
        if left <= 0:
            return True
        await clock.sleep(min(left, server.config.timeouts.retry_backoff_cap))
    return False


async def _open(server: Server, follower: Follower) -> tuple[Offer, SnapshotReader]:
    """The snapshot that was last offered, while there is something to go on with; else the newest."""
    snapshots, offer = server.snapshots, follower.offer
    if offer is not None and offer.snapshot.point.index < server.state.log.base_index:
        offer = None
    while True:
        if offer is None:
            if snapshots.newest is None:
                raise AssertionError(f"the log begins at {server.state.log.first_index}, but there is no snapshot")
            offer = Offer(snapshots.newest)
        # In the step in which it was chosen: the log could be cut behind it while the file is being opened.
        snapshots.pin(follower.id, offer.snapshot.point.index)
        try:
            reader = await snapshots.work.read(offer.snapshot)
        except StorageError:
            if offer.snapshot is snapshots.newest:
                raise
            # It made room for newer ones.
            offer = None
        else:
            follower.offer = offer
            return offer, reader


@attrs.frozen
class _InFlight:
    request_id: int
    start: int
    end: int
    """Behind its last byte."""
    sent_at: float


class _Sending:
    """One transfer."""

    def __init__(self, server: Server, follower: Follower, offer: Offer, reader: SnapshotReader) -> None:
        self._server = server
        self._clock = server.environment.clock
        self._timeouts = server.config.timeouts
        self._term: Term = server.state.current_term
        self._follower = follower
        self._offer = offer
        self._snapshot = offer.snapshot
        self._reader = reader
        self._id = f"{server.environment.random.getrandbits(64):016x}"
        self._in_flight: deque[_InFlight] = deque()
        self._offset = 0
        """Where the next piece begins."""
        self._not_before = 0.0
        """When the next piece may leave, at the rate that is allowed."""

    async def run(self, channel: Channel) -> None:
        """Ask, send, ask until it is installed."""
        reply = await self._ask(channel)
        if reply is None or reply.status is SnapshotStatus.INSTALLED:
            return
        if reply.status is SnapshotStatus.WANTED:
            self._offset = reply.offset
            self._transfer(done=reply.offset)
            if not await self._send_all(channel):
                # Installed already, by what another connection brought; or the leadership is over.
                return
        while (reply := await self._ask(channel)) is not None and reply.status is not SnapshotStatus.INSTALLED:
            if reply.status is SnapshotStatus.WANTED:
                raise ChannelBroken(self._follower.id, f"lost the snapshot's bytes from {reply.offset} on")
            await self._clock.sleep(self._timeouts.heartbeat_interval)
        self._publish()

    # ------------------------------------------------------------------------------------ sending

    async def _send_all(self, channel: Channel) -> bool:
        """Everything from the offset on; False if there is nothing more to do."""
        total = self._snapshot.size
        self._publish()
        while self._offset < total or self._in_flight:
            if self._offset < total and self._has_room(channel):
                await self._send_piece(channel)
            elif not await self._receive(channel):
                return False
            if not self._server.leads(self._term):
                return False
        return True

    def _has_room(self, channel: Channel) -> bool:
        """May another piece leave before one is answered?"""
        if len(self._in_flight) < IN_FLIGHT:
            return True
        settings = self._server.snapshots.settings
        # No more than large pieces would be: each answer is as old as what is in flight takes on its way (R14).
        most = IN_FLIGHT * min(settings.chunk_bytes, channel.max_frame_body)
        if settings.bytes_per_second:
            # Answers are read when there is no room: they must not lie about for longer than a sign of life may take.
            most = min(most, settings.bytes_per_second // SIGNS_OF_LIFE)
        return self._offset - self._in_flight[0].start < most

    async def _send_piece(self, channel: Channel) -> None:
        settings = self._server.snapshots.settings
        size = min(piece_bytes(settings), channel.max_frame_body, self._snapshot.size - self._offset)
        work = self._server.snapshots.work
        data = await work.run(Lane.TRANSFER, self._reader.read, self._offset, size)
        if len(data) != size:
            raise SnapshotCorrupt(Path(self._snapshot.name), offset=self._offset + len(data), problem="the file ends")
        if settings.bytes_per_second:
            now = self._clock.now()
            if self._not_before > now:
                await self._clock.sleep_until(self._not_before)
            self._not_before = max(now, self._not_before) + len(data) / settings.bytes_per_second
        if not self._server.leads(self._term):
            return
        request, start = self._request(self._offset, data), self._offset
        self._offset += len(data)
        request_id = channel.next_request_id()
        self._in_flight.append(_InFlight(request_id, start, self._offset, self._clock.now()))
        await channel.send(request, request_id=request_id)

    async def _receive(self, channel: Channel) -> bool:
        """The answer to the oldest piece in flight; False if there is nothing more to do."""
        frame = await channel.receive_within(self._timeouts.request_timeout)
        sent = self._in_flight.popleft()
        if frame.request_id != sent.request_id:
            raise ProtocolError(channel.peer, f"answered piece {frame.request_id} instead of {sent.request_id}")
        reply = await self._digest(frame.message, sent.sent_at)
        if reply is None or reply.status is SnapshotStatus.INSTALLED:
            return False
        if reply.status is SnapshotStatus.WANTED and reply.offset != sent.end:
            raise ChannelBroken(self._follower.id, f"wants the snapshot from byte {reply.offset}, not from {sent.end}")
        transfer = self._server.snapshots.sending.get(self._follower.id)
        if transfer is not None:
            transfer.done = sent.end
            if transfer.report_due(self._clock.now()):
                self._publish()
        return True

    # ------------------------------------------------------------------------------------ asking

    async def _ask(self, channel: Channel) -> InstallSnapshotReply | None:
        """How far is it?  None once the leadership is over."""
        if not self._server.leads(self._term):
            return None
        sent_at = self._clock.now()
        message = await channel.request_within(self._timeouts.request_timeout, self._request(0, b""))
        return await self._digest(message, sent_at)

    def _request(self, offset: int, data: bytes) -> InstallSnapshot:
        snapshot = self._snapshot
        return InstallSnapshot(
            term=self._term,
            leader=self._server.node_id,
            transfer=self._id,
            last_included_index=snapshot.point.index,
            last_included_term=snapshot.point.term,
            digest=snapshot.digest,
            total=snapshot.size,
            offset=offset,
            data=data,
        )

    async def _digest(self, message: Message, sent_at: float) -> InstallSnapshotReply | None:
        """Learn from an answer; None if it ended the leadership, or came after its end."""
        server, follower = self._server, self._follower
        if not isinstance(message, InstallSnapshotReply):
            raise ProtocolError(follower.id, f"answered an InstallSnapshot with {type(message).__name__}")
        if not server.leads(self._term):
            return None
        if message.term > self._term:
            server.adopt_term(message.term, follower.id)
            return None
        index, total = self._snapshot.point.index, self._snapshot.size
        install_snapshot.digest(server.state, follower.progress, index=index, total=total, reply=message)
        if message.status is SnapshotStatus.REFUSED:
            await self._refused(message.reason)
        patience = self._timeouts.replication_stall_timeout
        if self._offer.is_progress(message, self._clock.now(), patience=patience):
            follower.progress.last_append_contact = max(follower.progress.last_append_contact, sent_at)
        if message.status is SnapshotStatus.INSTALLED:
            follower.forgive()
        if message.status is SnapshotStatus.INSTALLED and follower.progress.counts_for_quorum:
            server.matches[follower.id] = follower.progress.match_index
            server.advance_commit()
        return message

    async def _refused(self, reason: str) -> None:
        """Raises ChannelBroken, or SnapshotCorrupt if the file is damaged here: this node cannot go on with it."""
        if self._follower.ready:
            self._follower.note_refusal(self._clock.now(), pause=self._timeouts.retry_backoff_cap)
        if reason != self._offer.refusal:
            self._offer.refusal = reason
            self._server.events.publish(SnapshotFailed(f"{self._follower.id} refused it: {reason}"))
        if self._offset == self._snapshot.size:
            work = self._server.snapshots.work
            await work.run(Lane.TRANSFER, _read_through, self._reader)
        raise ChannelBroken(self._follower.id, f"refused the snapshot: {reason}")

    # ------------------------------------------------------------------------------------ showing

    def _transfer(self, *, done: int) -> None:
        self._server.snapshots.sending[self._follower.id] = Transfer(
            self._snapshot.point.index, total=self._snapshot.size, done=done, began=self._clock.now()
        )

    def _publish(self) -> None:
        transfer, now = self._server.snapshots.sending.get(self._follower.id), self._clock.now()
        if transfer is not None:
            rate, left = transfer.bytes_per_second(now), transfer.seconds_left(now)
            self._server.events.publish(
                SnapshotSending(self._follower.id, transfer.index, transfer.done, transfer.total, rate, left)
            )


def piece_bytes(settings: Snapshots) -> int:
    """The longest piece to send at once."""
    rate = settings.bytes_per_second
    if not rate:
        return settings.chunk_bytes
    alive = max(rate // SIGNS_OF_LIFE, 1)
    return min(settings.chunk_bytes, max(rate // PIECES_A_SECOND, min(SMALL_PIECE, alive)))


def _read_through(reader: SnapshotReader) -> None:
    """In a thread: raise SnapshotCorrupt if the stored file is damaged."""
    for _ in reader.state():
        pass
