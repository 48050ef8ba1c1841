"""Replication to one follower, during one leadership.

``replicate_to`` is one nursery per follower.  In it two tasks, supervised apart, so that trouble with the log never
silences the heartbeat:

* ``_replicate`` owns the replication connection.  In *probe* mode it sends one request at a time and reads the answer
  itself, until one succeeds: then leader and follower agree up to there.  Now a *pipeline* opens: a nursery of a
  sender and a decoder that borrow the connection and keep several requests in flight.  The pipeline never repairs
  anything.  On any doubt (a rejection, an answer out of order, silence, a broken connection) it ends, the connection
  is dropped, and the probe dials anew and starts over from ``match_index + 1``.
  Where the log no longer holds what the follower needs, the newest snapshot is sent first (``_sending.py``).
* the heartbeat (``_heartbeat.py``) owns the control connection: no disk and no batch stands before it.

Stopping needs nothing here: leaving the leadership, or removing the server, cancels the nursery.

House rules: a leader's term is a constant, captured when the leadership began.  After every await ask ``_leads()``;
contact is dated by when the answered request was *sent*.

Reading order: ``replicate_to``, ``_replicate``, ``_probe``, ``_pipeline`` (sender, decoder).
"""

from collections.abc import Awaitable, Callable

import trio

from trio_raft._codec import EncodedMessage, encode_message, frame_of
from trio_raft._environment import draw_interval, sleep_until_due
from trio_raft._errors import (
    LogCorrupt,
    ProtocolError,
    SnapshotCorrupt,
    StateMachineError,
    StorageError,
    error_text,
    leaves,
)
from trio_raft._events import PeerLostData, ReplicationRestarted
from trio_raft._follower import Follower
from trio_raft._heartbeat import Heart
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    Message,
    Purpose,
)
from trio_raft._peers import dial_peer
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._rules import append_entries, install_snapshot
from trio_raft._rules.append_entries import BadReply, Outcome, ReadFirst
from trio_raft._rules.progress import InFlight, Mode, ReplyMismatch
from trio_raft._sending import send_snapshot
from trio_raft._server import Server
from trio_raft._transport import Channel, ChannelBroken, unanswered


async def replicate_to(server: Server, follower: Follower) -> None:
    """Everything that a leader does for one follower; runs until it is cancelled or the leadership is over."""
    replication = _Replication(server, follower)
    async with trio.open_nursery() as nursery:
        heart = Heart(server, follower, on_process=replication.end_pipeline_to_another_process)
        for task, name in ((replication.replicate, "replicate"), (heart.run, "heartbeat")):
            nursery.start_soon(replication.supervise, task, name, name=f"{name}[{follower.id}]")


class _Replication:
    def __init__(self, server: Server, follower: Follower) -> None:
        self._server = server
        self._clock = server.environment.clock
        self._timeouts = server.config.timeouts
        self._limits = server.config.limits
        self._term: Term = server.state.current_term
        self._follower = follower
        self._progress = follower.progress
        self._pipeline_scope: trio.CancelScope | None = None
        """Of the pipeline that is open."""
        self._sent_at = 0.0
        """When the last request of a pipeline left, in seconds."""
        self._commit_due = False
        """Is the follower to be told the commit index, with entries or without?"""
        self._reminder_lot = trio.lowlevel.ParkingLot()
        """The reminder, while the follower can know everything."""
        self._pinned_until: LogIndex | None = None
        """Until the follower has come so far, the log is kept for it behind the snapshot that it was sent."""
        self._process = ""
        """The boot id of the process at the other end of the replication connection."""

    def _leads(self) -> bool:
        return self._server.leads(self._term)

    async def supervise(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task again if a bug or the peer ended it; trouble with this node's own storage ends the node."""
        pause = self._timeouts.retry_backoff
        while self._leads():
            problem: str | None = None
            try:
                async with trio.open_nursery():
                    await task()
            except* (AssertionError, StorageError, LogCorrupt, SnapshotCorrupt, StateMachineError):
                raise
            except* Exception as group:
                problem = "; ".join(error_text(error) for error in leaves(group))
            if problem is None:
                return
            self._server.events.publish(ReplicationRestarted(self._follower.id, name, problem))
            await self._clock.sleep(pause)
            pause = min(2 * pause, self._timeouts.retry_backoff_cap)

    # ------------------------------------------------------------------------------------ replicate

    async def replicate(self) -> None:
        """Dial, probe, pipeline; again after a pause whenever the connection is lost."""
        try:
            await self._replicate()
        finally:
            self._server.snapshots.unpin(self._follower.id)

    async def _replicate(self) -> None:
        pause = self._timeouts.retry_backoff
        while self._leads():
            # A mere mismatch needs no pause; a peer that cannot be reached, or cannot be counted, does.
            in_doubt_only = False
            try:
                if self._needs_snapshot():
                    await self._bring_up()
                    if not self._leads():
                        return
                channel = await dial_peer(self._server, self._follower.id, Purpose.REPLICATION)
                self._process = channel.peer_boot_id
                try:
                    if await self._probe(channel):
                        pause = self._timeouts.retry_backoff
                        await self._pipeline(channel)
                        in_doubt_only = True
                    else:
                        in_doubt_only = self._needs_snapshot()
                finally:
                    self._progress.become_probe()
                    await channel.drop()
            except* (ChannelBroken, ProtocolError, BadReply, install_snapshot.BadReply, ReplyMismatch):
                self._follower.failures += 1
            if not in_doubt_only or self._progress.lost_data:
                await self._clock.sleep(pause)
                pause = min(2 * pause, self._timeouts.retry_backoff_cap)
                if pause == self._timeouts.retry_backoff_cap:
                    # It has been away for a while: the log is not kept for it any longer.
                    self._server.snapshots.unpin(self._follower.id)

    def _needs_snapshot(self) -> bool:
        """Is the entry before the next one gone from the log, so that no request can be made (R9)?"""
        return self._progress.next_index <= self._server.state.log.base_index

    async def _bring_up(self) -> None:
        """Send a snapshot; what follows it in the log stays there until the follower has caught up with it (N7)."""
        await send_snapshot(self._server, self._follower)
        self._pinned_until = self._server.state.log.last_index

    async def _probe(self, channel: Channel) -> bool:
        """Find where the logs agree, one request at a time; True once a request succeeded."""
        while self._leads() and not self._needs_snapshot():
            # One entry is enough to verify; a mismatch would throw a whole batch away.
            request = await self._make(max_entries=1)
            if request is None:
                return False
            sent_at = self._clock.now()
            reply = await channel.request_within(self._timeouts.request_timeout, request)
            if not self._leads():
                return False
            outcome = self._digest(reply, request, sent_at)
            if outcome is Outcome.ADVANCED:
                return True
            if outcome is not Outcome.REPAIRED:
                return False
        return False

    def _digest(self, reply: Message, request: AppendEntries, sent_at: float) -> Outcome | None:
        """What a probe's answer means; None if it ended the leadership."""
        last = LogIndex(request.prev_log_index + len(request.entries))
        return self._digest_append(reply, prev=request.prev_log_index, last=last, sent_at=sent_at)

    def _digest_append(self, reply: Message, *, prev: LogIndex, last: LogIndex, sent_at: float) -> Outcome | None:
        server, follower, progress = self._server, self._follower, self._progress
        if not isinstance(reply, AppendEntriesReply):
            raise ProtocolError(follower.id, f"answered an AppendEntries with {type(reply).__name__}")
        if reply.term > self._term:
            server.adopt_term(reply.term, follower.id)
            return None
        outcome = append_entries.digest(server.state, progress, prev_log_index=prev, last_index=last, reply=reply)
        if outcome is Outcome.NOT_READY:
            return outcome
        progress.last_append_contact = max(progress.last_append_contact, sent_at)
        follower.note_append_round_trip(self._clock.now() - sent_at)
        if outcome is Outcome.LOST_DATA:
            if server.matches.pop(follower.id, None) is not None:
                server.events.publish(PeerLostData(follower.id, progress.match_index))
        elif outcome is Outcome.ADVANCED and progress.counts_for_quorum:
            server.matches[follower.id] = progress.match_index
            if progress.match_index > server.state.commit_index:
                # What the others have committed already does not change by one more.
                server.advance_commit()
            if self._pinned_until is not None and progress.match_index >= self._pinned_until:
                self._pinned_until = None
                server.snapshots.unpin(follower.id)
        return outcome

    async def _make(self, *, max_entries: int) -> AppendEntries | None:
        """The next request; entries that left memory are read back from the own log first.

        None if the leadership ended meanwhile, or the log was cut above what the follower needs.
        """
        entries: list[Entry] | None = None
        while self._leads() and not self._needs_snapshot():
            request = append_entries.make(
                self._server.state,
                self._progress,
                term=self._term,
                max_entries=max_entries,
                max_bytes=self._limits.max_batch_bytes,
                entries=entries,
            )
            if not isinstance(request, ReadFirst):
                return request
            entries = await self._server.journal.read_back(
                request.first, request.last, max_bytes=self._limits.max_batch_bytes
            )
        return None

    # ------------------------------------------------------------------------------------ pipeline

    async def _pipeline(self, channel: Channel) -> None:
        """Keep several requests in flight; whichever of the two tasks ends first ends the other."""
        self._progress.become_pipeline()
        self._commit_due = False
        with trio.CancelScope() as self._pipeline_scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, channel, nursery, name=f"send[{self._follower.id}]")
                nursery.start_soon(self._watch_replies, name=f"reply watch[{self._follower.id}]")
                nursery.start_soon(self._remind, name=f"reminder[{self._follower.id}]")
                await self._decode(channel)
                nursery.cancel_scope.cancel()
        if self._pipeline_scope.cancelled_caught:
            raise unanswered(self._follower.id, self._timeouts.request_timeout)

    def end_pipeline_to_another_process(self, process: str) -> None:
        """The follower was started anew, and a machine that lost its power has not said so on this connection.

        With nothing to send that would never be noticed, and the follower not learn how far the log is committed.
        """
        if self._pipeline_scope is not None and self._process != process:
            self._pipeline_scope.cancel()

    async def _send(self, channel: Channel, nursery: trio.Nursery) -> None:
        while await self._wait_for_work():
            frames: list[bytes] = []
            while self._progress.mode is Mode.PIPELINE and (not frames or (self._has_work() and self._has_room())):
                made = await self._make_encoded()
                if made is None:
                    break
                frames.append(self._put_in_flight(channel, *made))
            if frames:
                await channel.send_frames(b"".join(frames))
        nursery.cancel_scope.cancel()

    async def _make_encoded(self) -> tuple[AppendEntries, EncodedMessage] | None:
        """The next request and its bytes: those that another follower was just sent, if this one is as far."""
        outgoing = self._follower.outgoing
        if outgoing.place != self._place() or not outgoing.request or not outgoing.encoded:
            request = await self._make(max_entries=self._limits.max_batch_entries)
            if request is None:
                return None
            outgoing.request, outgoing.encoded = request, encode_message(request)
            outgoing.place = self._place()
        return outgoing.request, outgoing.encoded

    def _place(self) -> tuple[LogIndex, LogIndex, LogIndex]:
        state = self._server.state
        return self._progress.next_index, state.log.last_index, state.commit_index

    def _put_in_flight(self, channel: Channel, request: AppendEntries, encoded: EncodedMessage) -> bytes:
        progress, follower = self._progress, self._follower
        request_id = channel.next_request_id()
        frame = frame_of(encoded, request_id=request_id)
        self._sent_at = now = self._clock.now()
        progress.sent(
            InFlight(
                request_id=request_id,
                prev_log_index=request.prev_log_index,
                last_index=LogIndex(request.prev_log_index + len(request.entries)),
                size=len(frame),
                sent_at=now,
            ),
            leader_commit=request.leader_commit,
        )
        self._commit_due = False
        if self._reminder_lot:
            self._reminder_lot.unpark_all()
        follower.entries_sent += len(request.entries)
        follower.bytes_sent += len(frame)
        return frame

    async def _watch_replies(self) -> None:
        """The oldest request in flight must be answered in time; else the pipeline ends.

        One task that looks now and then: a deadline that each request moves costs every batch more than all of this.
        """
        in_flight, clock, patience = self._progress.in_flight, self._clock, self._timeouts.request_timeout

        def due() -> float:
            return (in_flight[0].sent_at if in_flight else clock.now()) + patience

        await sleep_until_due(clock, due, interval=self._timeouts.heartbeat_interval)
        if self._pipeline_scope is not None:
            self._pipeline_scope.cancel()

    async def _remind(self) -> None:
        """Let the follower be told what is committed once nothing was sent to it for a drawn time.

        As with the replies, one task that looks again: requests pass by and set no timer.
        """
        server, progress, clock = self._server, self._progress, self._clock
        while True:
            if progress.told_commit >= server.state.log.last_index:
                # It has everything, and can know that all of it is committed.
                await self._reminder_lot.park()
            silence = draw_interval(server.environment, self._timeouts.commit_timeout)
            await clock.sleep(silence)
            while (due := self._sent_at + silence) > clock.now():
                await clock.sleep_until(due)
            if server.state.commit_index > progress.told_commit:
                self._commit_due = True
                server.wake_replication()

    def _has_work(self) -> bool:
        """Are there entries that were not sent?  A commit index alone waits for its timeout."""
        return self._progress.next_index <= self._server.state.log.last_index

    def _has_room(self) -> bool:
        limits = self._limits
        return self._progress.window_open(requests=limits.pipeline_requests, size=limits.pipeline_bytes)

    async def _wait_for_work(self) -> bool:
        """Park until there is something to send and room for it.

        Proposers that were woken in the same turn of the loop join this request: so there is a turn in any case, that
        of parking or another.  False once the leadership is over, or the follower needs a snapshot.
        """
        parked = False
        while self._leads() and not self._needs_snapshot():
            if not self._has_room():
                parked = True
                await self._follower.window_lot.park()
            elif self._commit_due or self._has_work():
                if parked:
                    return True
                parked = True
                await trio.lowlevel.checkpoint()
            else:
                parked = True
                self._server.replication_waits = True
                await self._server.replication_lot.park()
        return False

    async def _decode(self, channel: Channel) -> None:
        """Read answers; return on any doubt."""
        progress = self._progress
        while True:
            frames = await channel.receive_batch()
            if not self._leads():
                return
            for frame in frames:
                answered = progress.answered(frame.request_id)
                outcome = self._digest_append(
                    frame.message,
                    prev=answered.prev_log_index,
                    last=answered.last_index,
                    sent_at=answered.sent_at,
                )
                if outcome is not Outcome.ADVANCED or not self._leads():
                    return
            if self._follower.window_lot:
                self._follower.window_lot.unpark_all()
