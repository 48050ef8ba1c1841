"""Taking snapshots of this server's own state (paper section 7): by entries, by bytes, by time, or because asked.

The state is captured on the event loop between two commands, so that it is of one moment, and quickly.  Then threads
go through the capture and write it, a piece at a time, beside commands that are applied meanwhile.  Once the file is
whole, synced, and has its name, the log may be cut (``_snapshots.py``).

One snapshot is taken at a time.  Whoever asks while one is under way shares it if it was captured after the question;
nobody waits for a task: ``take`` waits for state, and when the last who asked is cancelled, the work is given up.

This task also cuts the log in steps where much is to go.

House rule: a snapshot that fails harms nothing.  The old one stays, the half-written file is removed, an event says
why, and the next attempt comes later and later.  A failure is what the store or the state machine raise; what this
package gets wrong itself ends the node, here as everywhere.
"""

from collections.abc import Iterator
from typing import Any

import attrs
import trio

from trio_raft._environment import Lane
from trio_raft._errors import RaftError, RaftInternalError, SnapshotUnavailable, error_text
from trio_raft._events import LoopBlocked
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotFailed
from trio_raft._snapshot_work import why_it_failed
from trio_raft.abc import (
    SnapshotConfiguration,
    SnapshotMeta,
    SnapshotPoint,
    SnapshotWriter,
    StateMachine,
    StoredSnapshot,
)

STEP_BYTES = 1 << 20
"""Bytes of state that a thread writes before another piece of work in its lane gets its turn."""

LONGEST_PAUSE = 60.0
"""Seconds between two attempts of which the first failed."""

_END = bytes(bytearray(b"the end"))
"""Stands for the end of the pieces, by identity: no machine can yield this very object."""


@attrs.define(eq=False)
class _Question:
    """Somebody wants a snapshot of a state that is at least as new as this moment."""

    answer: StoredSnapshot | SnapshotUnavailable | None = None


class Snapshotter:
    """The one task of a node that takes snapshots."""

    def __init__(self, server: Server, machine: StateMachine[Any, Any]) -> None:
        self._server = server
        self._snapshots = server.snapshots
        self._machine = machine
        self._clock = server.environment.clock
        self._questions: list[_Question] = []
        self._answered_by_this: list[_Question] = []
        """Those whose snapshot is under way."""
        self._scope: trio.CancelScope | None = None
        """Of a snapshot that only they wanted."""

    async def take(self) -> StoredSnapshot:
        """A snapshot of the state as it is now, or newer.

        Raises SnapshotUnavailable, and ``trio.ClosedResourceError`` when the node ends.  Cancelled: if nobody else
        wants it, the half-written file is removed, and the old snapshot stays.
        """
        if not self._snapshots.supported:
            name = type(self._machine).__name__
            raise SnapshotUnavailable(f"{name} defines no snapshot() and restore(); define both")
        question = _Question()
        self._questions.append(question)
        self._snapshots.due_lot.unpark_all()
        try:
            while question.answer is None:
                self._server.check_open()
                await self._server.change_lot.park()
        finally:
            self._forget(question)
        if isinstance(question.answer, SnapshotUnavailable):
            raise SnapshotUnavailable(question.answer.reason) from question.answer
        return question.answer

    @trio.lowlevel.enable_ki_protection
    def _forget(self, question: _Question) -> None:
        for questions in (self._questions, self._answered_by_this):
            if question in questions:
                questions.remove(question)
        if self._scope is not None and not self._answered_by_this:
            self._scope.cancel()

    # ------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Take snapshots when their time has come, for ever."""
        pause = 0.0
        while True:
            await self._wait_until_wanted(pause)
            wanted_anyway = self._snapshots.due or not self._questions
            self._answered_by_this, self._questions = self._questions, []
            outcome: StoredSnapshot | SnapshotUnavailable | None = None
            with trio.CancelScope() as scope:
                self._scope = None if wanted_anyway else scope
                outcome = await self._attempt()
            self._scope = None
            failed = isinstance(outcome, SnapshotUnavailable)
            pause = min(max(2 * pause, 1.0), LONGEST_PAUSE) if failed else 0.0
            self._answer(outcome)
            await self._snapshots.work.clean_up()

    async def _wait_until_wanted(self, pause: float) -> None:
        """Park until somebody asks, or, once ``pause`` is over, until the settings say that it is time.

        Meanwhile cut what is to be cut.  A checkpoint at least.
        """
        await trio.lowlevel.checkpoint()
        snapshots, now = self._snapshots, self._clock.now()
        not_before = now + pause
        interval = snapshots.settings.interval or float("inf")
        due_at = now + interval
        while not self._questions:
            if snapshots.cut_due:
                snapshots.compact()
                await trio.lowlevel.checkpoint()
                continue
            now = self._clock.now()
            by_time = now >= due_at and snapshots.entries_since > 0
            if snapshots.supported and (snapshots.due or by_time):
                if now >= not_before:
                    return
                wake_at = not_before
            else:
                wake_at = due_at if now < due_at else now + interval
            with self._clock.move_on_at(wake_at):
                await snapshots.due_lot.park()

    def _answer(self, outcome: StoredSnapshot | SnapshotUnavailable | None) -> None:
        for question in self._answered_by_this:
            question.answer = outcome
        self._answered_by_this = []
        self._server.change_lot.unpark_all()

    # ------------------------------------------------------------------------------------ one snapshot

    async def _attempt(self) -> StoredSnapshot | SnapshotUnavailable:
        try:
            return await self._take()
        except RaftInternalError:
            raise
        except RaftError as error:
            # A full or failing disk, or the machine's own code: nothing that was there before is touched.
            reason = error.reason if isinstance(error, SnapshotUnavailable) else why_it_failed(error)
            self._server.events.publish(SnapshotFailed(reason))
            unavailable = SnapshotUnavailable(reason)
            unavailable.__cause__ = error
            return unavailable

    async def _take(self) -> StoredSnapshot | SnapshotUnavailable:
        snapshots, server, began = self._snapshots, self._server, self._clock.now()
        while snapshots.restore_due:
            await server.change_lot.park()
        newest, index = snapshots.newest, server.state.last_applied
        if newest is not None and newest.point.index >= index:
            # One that came from the leader: what was counted before it is in it.
            snapshots.entries_since = snapshots.bytes_since = 0
            return newest
        if not index:
            return SnapshotUnavailable("nothing was applied yet")
        meta = self._meta()
        entries, size = snapshots.entries_since, snapshots.bytes_since
        snapshots.entries_since = snapshots.bytes_since = 0
        try:
            stored = await self._write(meta, self._capture())
        except BaseException:
            if snapshots.newest is newest:
                snapshots.entries_since += entries
                snapshots.bytes_since += size
            raise
        snapshots.note_taken(stored, self._clock.now() - began)
        await snapshots.retain()
        return stored

    def _meta(self) -> SnapshotMeta:
        """What the header says.  The configuration is the newest in the log: right while membership cannot change; when
        it can, this has to be the newest one at or below ``last_applied`` (N6)."""
        state, first_start = self._server.state, self._server.first_start
        configuration = state.configuration
        members = {member: first_start.known_incarnation(member) for member in configuration.members}
        return SnapshotMeta(
            cluster_id=self._server.config.cluster_id,
            point=SnapshotPoint(state.last_applied, state.log.term_at(state.last_applied)),
            configuration=SnapshotConfiguration(
                configuration.index,
                configuration.voters,
                configuration.learners,
                {member: incarnation for member, incarnation in members.items() if incarnation is not None},
            ),
            state_version=self._machine.state_version,
        )

    def _capture(self) -> Iterator[bytes]:
        """In the same step as ``_meta``: the two are of one moment.  Raises SnapshotUnavailable."""
        clock, server = self._clock, self._server
        began = clock.stopwatch()
        try:
            return iter(self._machine.snapshot())
        except Exception as error:
            raise SnapshotUnavailable(error_text(error)) from error
        finally:
            blocked = clock.stopwatch() - began
            if blocked > server.config.timeouts.loop_blocked_threshold:
                server.events.publish(LoopBlocked(f"{type(self._machine).__name__}.snapshot", blocked))

    async def _write(self, meta: SnapshotMeta, pieces: Iterator[bytes]) -> StoredSnapshot:
        work = self._snapshots.work
        writer = await work.begin(meta)
        try:
            while await work.run(Lane.SNAPSHOT, _write_some, writer, pieces):
                pass
            return await work.run(Lane.SNAPSHOT, writer.finish)
        except BaseException:
            work.give_up(writer)
            raise


def _write_some(writer: SnapshotWriter, pieces: Iterator[bytes]) -> bool:
    """In a thread: the next pieces, about ``STEP_BYTES`` of them.  Are there more?"""
    size = 0
    while size < STEP_BYTES:
        piece = _next_piece(pieces)
        if piece is _END:
            return False
        writer.write(piece)
        size += len(piece)
    return True


def _next_piece(pieces: Iterator[bytes]) -> bytes:
    """The machine's own code runs here: whatever it raises is its failure, not the store's."""
    try:
        piece = next(pieces, _END)
    except Exception as error:
        raise SnapshotUnavailable(error_text(error)) from error
    if not isinstance(piece, bytes):
        raise SnapshotUnavailable(f"snapshot() gave {type(piece).__name__}, not bytes")
    return piece
