"""Receiving a snapshot from the leader, piece by piece, and installing it (paper section 7, dissertation 5).

A server receives one snapshot at a time, whatever connection brings it.  What has arrived is kept when the connection
or the leadership ends: whoever next offers the same bytes, told by index, term, digest and size, is answered with the
offset from which to go on (N3).  So a transfer always begins with a question, a message without data.

Once the last byte is there, ``run`` finishes it, apart from the connection, which goes on answering that it is being
finished: the file is checked and becomes visible; then, in one synchronous step, the log in memory gives way and a
marker is queued for the log on disk (N8).  From that step on the commit index covers the snapshot, and the next
question is answered INSTALLED as soon as the disk has the marker.

Whose term it is by then does not matter: a snapshot covers what is committed, and that for good.  What does matter is
asked in that very step: that this server follows, how far it has committed (N2), and what its log holds (N1).

House rules: everything that a message says is asked again after each await.  A transfer that fails leaves nothing
behind but its reason; one that nobody needs any more, as the log has caught up, leaves nothing at all.
"""

import trio

from trio_raft._environment import Lane
from trio_raft._errors import RaftError, RaftInternalError
from trio_raft._messages import InstallSnapshot, InstallSnapshotReply, SnapshotStatus
from trio_raft._records import LogIndex, Term
from trio_raft._rules import install_snapshot
from trio_raft._rules.install_snapshot import Verdict
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotFailed, SnapshotReceiving
from trio_raft._snapshot_work import why_it_failed
from trio_raft._snapshots import Transfer
from trio_raft.abc import SnapshotReceiver

_Key = tuple[LogIndex, Term, str, int]


class SnapshotService:
    """The receiving side of one node."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._snapshots = server.snapshots
        self._work = server.snapshots.work
        self._clock = server.environment.clock
        self._lock = trio.Lock()
        """Whoever holds it writes: a connection, or ``run``."""
        self._key: _Key | None = None
        """Of the snapshot that is being received: index, term, digest, size."""
        self._transfer = ""
        """Which attempt to send it counts: the one that asked last."""
        self._receiver: SnapshotReceiver | None = None
        self._finishing_since: float | None = None
        self._problem = ""
        """Why the snapshot with this key could not be finished; told once, to whoever sent it."""
        self._complete = trio.lowlevel.ParkingLot()
        """Where ``run`` waits."""

    # ------------------------------------------------------------------------------------ answering

    async def answer(self, request: InstallSnapshot) -> InstallSnapshotReply:
        """The reply to one message, once it has been carried out.

        Raises BadRequest for what no leader sends.
        """
        server = self._server
        if not server.ready or not self._snapshots.supported:
            why = "defines no restore in its state machine" if server.ready else "may not acknowledge yet"
            return self._reply(SnapshotStatus.REFUSED, reason=f"{server.node_id} {why}")
        if request.term < server.state.current_term:
            return self._reply(SnapshotStatus.REFUSED, reason="the sender's term is over")
        server.accept_leader(request.term, request.leader)
        if install_snapshot.accept(server.state, request) is Verdict.ALREADY:
            return await self._already(request)
        key = (request.last_included_index, request.last_included_term, request.digest, request.total)
        if not request.data:
            self._transfer = request.transfer
            if self._problem and key == self._key:
                return self._refuse_once()
        if self._finishing_since is not None:
            return self._finishing(key)
        async with self._lock:
            return await self._take(request, key)

    async def _already(self, request: InstallSnapshot) -> InstallSnapshotReply:
        """Acknowledge what this server holds anyway (N2); it vouches for it, so the disk must have it (S1)."""
        server, journal = self._server, self._server.journal
        behind = journal.durable_index < request.last_included_index
        position = journal.position if behind else self._snapshots.marker_position
        await journal.wait_durable(max(position, server.vote_position))
        return self._reply(SnapshotStatus.INSTALLED, offset=request.total)

    async def _take(self, request: InstallSnapshot, key: _Key) -> InstallSnapshotReply:
        """Ask everything again, now that it is this message's turn; then write its data, if they are due."""
        if self._server.state.current_term != request.term:
            return self._reply(SnapshotStatus.WANTED, offset=self._offset(key))
        if self._finishing_since is not None:
            return self._finishing(key)
        if request.transfer != self._transfer:
            return self._reply(SnapshotStatus.REFUSED, reason="another transfer has begun since")
        if key != self._key:
            if request.data:
                return self._reply(SnapshotStatus.WANTED)
            await self._begin(request, key)
        receiver = self._receiver
        if receiver is None:
            return self._reply(SnapshotStatus.REFUSED, reason=self._problem)
        if request.data and request.offset == receiver.received:
            if not await self._write(receiver, request.data, key):
                return self._reply(SnapshotStatus.REFUSED, reason=self._problem)
            self._report(request)
        if receiver.received == request.total:
            self._finishing_since = self._clock.now()
            self._complete.unpark_all()
            return self._finishing(key)
        return self._reply(SnapshotStatus.WANTED, offset=receiver.received)

    def _reply(self, status: SnapshotStatus, *, offset: int = 0, reason: str = "") -> InstallSnapshotReply:
        return InstallSnapshotReply(self._server.state.current_term, status, offset, reason)

    def _offset(self, key: _Key) -> int:
        return self._receiver.received if self._receiver is not None and key == self._key else 0

    def _finishing(self, key: _Key) -> InstallSnapshotReply:
        """It is being made durable: that counts as a sign of life, but not for longer than a disk may take (R14)."""
        since, patience = self._finishing_since, self._server.config.timeouts.replication_stall_timeout
        if key != self._key:
            return self._reply(SnapshotStatus.REFUSED, reason="another snapshot is being installed")
        if since is not None and self._clock.now() - since >= patience:
            return self._reply(SnapshotStatus.REFUSED, reason="making the snapshot durable takes too long")
        return self._reply(SnapshotStatus.FINISHING, offset=key[-1])

    def _refuse_once(self) -> InstallSnapshotReply:
        problem, self._problem, self._key = self._problem, "", None
        return self._reply(SnapshotStatus.REFUSED, reason=problem)

    # ------------------------------------------------------------------------------------ writing

    async def _begin(self, request: InstallSnapshot, key: _Key) -> None:
        """Another snapshot than the one before: what had arrived of that goes."""
        await self._drop_receiver()
        try:
            receiver = await self._work.receive(size=request.total, digest=request.digest)
        except RaftInternalError:
            raise
        except RaftError as error:
            self._fail(key, error)
            return
        self._receiver, self._key, self._problem = receiver, key, ""
        self._snapshots.receiving = Transfer(
            request.last_included_index, total=request.total, done=0, began=self._clock.now()
        )
        self._complete.unpark_all()
        self._publish(request)

    async def _write(self, receiver: SnapshotReceiver, data: bytes, key: _Key) -> bool:
        try:
            await self._work.run(Lane.SNAPSHOT, receiver.write, data)
        except RaftInternalError:
            raise
        except RaftError as error:
            await self._drop_receiver()
            self._fail(key, error)
            return False
        except BaseException:
            # Cancelled in the middle of a write: what is there cannot be told, so it is given up.
            self.give_up()
            raise
        return True

    async def _drop_receiver(self) -> None:
        self.give_up()
        await self._work.clean_up()

    def give_up(self) -> None:
        """Let go of what has arrived so far, if anything; ``SnapshotWork.clean_up`` removes it."""
        receiver, self._receiver, self._key = self._receiver, None, None
        self._snapshots.receiving = None
        if receiver is not None:
            self._work.give_up(receiver)

    def _fail(self, key: _Key, error: BaseException) -> None:
        self._key, self._problem = key, why_it_failed(error)
        self._server.events.publish(SnapshotFailed(self._problem))

    def _report(self, request: InstallSnapshot) -> None:
        transfer = self._snapshots.receiving
        if transfer is not None and self._receiver is not None:
            transfer.done = self._receiver.received
            if transfer.report_due(self._clock.now()) or transfer.done == transfer.total:
                self._publish(request)

    def _publish(self, request: InstallSnapshot) -> None:
        transfer, now = self._snapshots.receiving, self._clock.now()
        if transfer is not None:
            rate, left = transfer.bytes_per_second(now), transfer.seconds_left(now)
            self._server.events.publish(
                SnapshotReceiving(request.leader, transfer.index, transfer.done, transfer.total, rate, left)
            )

    # ------------------------------------------------------------------------------------ installing

    async def run(self) -> None:
        """Finish and install what has arrived whole, for ever.

        Raises AssertionError if a snapshot contradicts what is committed here: State Machine Safety is broken.
        """
        while True:
            while self._finishing_since is None:
                await self._wait()
            async with self._lock:
                await self._finish()

    async def _wait(self) -> None:
        """Park until a snapshot is whole; if it takes long, look whether it is needed still."""
        patience = self._server.config.timeouts.replication_stall_timeout
        with self._clock.move_on_after(float("inf") if self._receiver is None else patience):
            await self._complete.park()
        if self._is_superfluous():
            async with self._lock:
                # Nobody sends more of it: whoever asks is told that all of it is here already.
                if self._is_superfluous():
                    await self._drop_receiver()

    def _is_superfluous(self) -> bool:
        return self._finishing_since is None and self._is_covered()

    def _is_covered(self) -> bool:
        """Has the log caught up with what is being received?"""
        return self._key is not None and self._key[0] <= self._server.state.commit_index

    async def _finish(self) -> None:
        receiver, key, snapshots = self._receiver, self._key, self._snapshots
        if receiver is None or key is None:
            raise AssertionError("a snapshot is complete that nobody received")
        try:
            if self._is_covered():
                await self._drop_receiver()
                return
            snapshots.is_finishing = True
            stored = await self._work.run(Lane.SNAPSHOT, receiver.finish)
            # The log of a candidate or a leader must not change under it.  A leader commits what this covers.
            while self._server.state.role is not Role.FOLLOWER and not self._is_covered():
                await self._server.change_lot.park()
            snapshots.install(stored)
            self._receiver, self._key, snapshots.receiving = None, None, None
        except RaftInternalError:
            raise
        except RaftError as error:
            await self._drop_receiver()
            self._fail(key, error)
        finally:
            snapshots.is_finishing = False
            self._finishing_since = None
        await self._free_the_log()
        await snapshots.retain()

    async def _free_the_log(self) -> None:
        """What was in memory and is in the log no more: a slice in each turn of the loop (K1)."""
        while self._server.state.log.let_go():
            await trio.lowlevel.checkpoint()
