"""Feed committed entries to the state machine, in order, and give the results to whoever waits; restore it first
where the log no longer reaches back to it.

House rules: an entry is applied once it is committed *and* durable on this server; none is ever skipped; whatever the
machine raises besides ``Rejected`` ends the node, with the index and the term.  A batch is bounded, and after each the
loop gets its turn, so that a long replay delays no heartbeat.  One call that blocks the loop by itself is measured and
reported by name: nobody else can say where the time went.  A restore may take long and runs in a thread; until it is
done nothing else touches the machine, so this one task owns all that changes it (N3).
"""

import inspect
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

import trio

from trio_raft._environment import Lane
from trio_raft._errors import (
    ConfigurationError,
    IncompatibleVersion,
    RaftInternalError,
    Rejected,
    SnapshotCorrupt,
    StateMachineError,
    StorageError,
    error_text,
)
from trio_raft._events import LoopBlocked
from trio_raft._records import KIND_AT, EntryKind, LogIndex, Term, data_of, place_of
from trio_raft._server import Server
from trio_raft._snapshot_events import StateRestored
from trio_raft._tickets import Ticket
from trio_raft._values import ValueCodec
from trio_raft.abc import Committed, SavedState, SnapshotStore, StateMachine, StoredSnapshot

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")

TURN_SECONDS = 0.005
"""A batch ends early when its calls have taken this long together."""

READ_AHEAD_BATCHES = 4
"""Read back from the log store at a time; with four times as many a long replay takes as long."""

_COMMAND = int(EntryKind.COMMAND)


class Applier(Generic[CommandT, ResultT]):
    """The one task that touches the state machine."""

    def __init__(self, server: Server, machine: StateMachine[CommandT, ResultT], codec: ValueCodec[CommandT]) -> None:
        self._server = server
        self._machine = machine
        self._decode = None if codec.is_plain else codec.decode
        self._stopwatch = server.environment.clock.stopwatch
        self._read_back: list[bytes] = []
        """Records that had left memory, some of which may not be applied yet."""
        self._read_back_first = LogIndex(0)

    async def run(self) -> None:
        """Apply for ever.

        Raises StateMachineError when the machine fails, and SnapshotCorrupt, IncompatibleVersion and StorageError when
        a snapshot cannot be restored.
        """
        server, snapshots = self._server, self._server.snapshots
        while True:
            while not snapshots.restore_due and server.state.last_applied >= server.applicable_index:
                await server.apply_lot.park()
            if snapshots.restore_due:
                await self._restore()
                continue
            records, term = await self._next_batch()
            # A snapshot may have been installed while old entries were read: then they are not needed any more.
            if not snapshots.restore_due:
                self._apply_batch(records, term)
            if server.state.last_applied < server.applicable_index:
                # The loop gets its turn; with nothing more to do, it gets it above.
                await trio.lowlevel.checkpoint()

    async def _restore(self) -> None:
        """Restore the newest snapshot.  A newer one may be installed meanwhile: then its turn comes next."""
        server, snapshot = self._server, self._server.snapshots.newest
        if snapshot is None:
            raise RaftInternalError(f"the state is to be restored up to {server.snapshots.restore_index} from nothing")
        work, began = server.snapshots.work, server.environment.clock.now()
        try:
            await work.run(Lane.RESTORE, restore_machine, self._machine, work.store, snapshot)
        except (StorageError, SnapshotCorrupt):
            # One that made room for a newer one need not be read any more.
            if server.snapshots.newest is snapshot:
                raise
            return
        server.note_restored(snapshot.point.index)
        server.events.publish(StateRestored(snapshot.point.index, server.environment.clock.now() - began))

    async def _next_batch(self) -> tuple[list[bytes], Term]:
        """The records of the entries to apply next, all of one term: from memory, or read back from the log store."""
        server, limits, log = self._server, self._server.config.limits, self._server.state.log
        first = LogIndex(server.state.last_applied + 1)
        reach = min(server.applicable_index, first - 1 + limits.apply_batch_entries)
        last, term = LogIndex(min(reach, log.end_of_term_at(first))), log.term_at(first)
        records = log.records(first, last, max_bytes=limits.max_batch_bytes)
        if records is not None:
            self._read_back = []
            return records, term
        start = first - self._read_back_first
        if not 0 <= start < len(self._read_back):
            # Several batches at once, since each read costs a thread's turn; what is committed never changes.
            ahead = READ_AHEAD_BATCHES * limits.apply_batch_entries
            end = LogIndex(min(server.applicable_index, server.state.last_applied + ahead))
            self._read_back = await server.journal.read_records_back(first, end, max_bytes=limits.max_batch_bytes)
            self._read_back_first, start = first, 0
        return self._read_back[start : start + last - first + 1], term

    @trio.lowlevel.enable_ki_protection
    def _apply_batch(self, records: list[bytes], term: Term) -> None:
        """Apply the entries that follow the last one that was applied, all of this term."""
        server, stopwatch, tickets = self._server, self._stopwatch, self._server.tickets
        began = before = stopwatch()
        threshold = server.config.timeouts.loop_blocked_threshold
        # One comparison for each entry: below this neither bound is reached.
        shortest = min(threshold, TURN_SECONDS)
        index = applied_before = server.state.last_applied
        _check_places(records, applied_before, term)
        indexes = cast("Sequence[LogIndex]", range(index + 1, index + 1 + len(records)))
        apply, decode = self._machine.apply, self._decode
        for index, record, data in zip(indexes, records, data_of(records), strict=True):
            if record[KIND_AT] == _COMMAND:
                ticket = tickets.get(index) if tickets else None
                if ticket is not None and ticket.term != term:
                    raise RaftInternalError(
                        f"the ticket for index {index} is of term {ticket.term}, the entry of {term}"
                    )
                try:
                    value: Any = data if decode is None else decode(data)
                    result = apply(Committed(index, term, value))
                except Exception as error:
                    self._end_badly(ticket, index, term, error)
                else:
                    if ticket is not None:
                        ticket.resolve(result)
                if ticket is not None:
                    del tickets[index]
                    server.pending_bytes -= len(record)
            now = stopwatch()
            if now - began > shortest:
                if now - before > threshold:
                    server.events.publish(LoopBlocked(f"apply of entry {index}", now - before))
                if now - began > TURN_SECONDS:
                    break
            before = now
        count = index - applied_before
        server.snapshots.note_applied(count, sum(map(len, records[:count])))
        server.note_applied(index)

    def _end_badly(self, ticket: Ticket[Any] | None, index: LogIndex, term: Term, error: Exception) -> None:
        """The machine raised: tell whoever waits.  Raises StateMachineError, unless that is the result."""
        if isinstance(error, Rejected):
            if ticket is not None:
                ticket.fail(error)
            return
        failure = StateMachineError(index=index, term=term, problem=error_text(error))
        failure.__cause__ = error
        if ticket is not None:
            # The proposer learns that too: proposed again, the command would stop the next leader.
            ticket.fail(failure)
            del self._server.tickets[index]
        raise failure from error


def _check_places(records: list[bytes], applied: LogIndex, term: Term) -> None:
    """They have to follow what was applied, one after the other, in this term: whatever the store read back."""
    found = list(map(place_of, records))
    # Compared at once, since they always do.
    if found == list(zip(range(applied + 1, applied + 1 + len(records)), repeat(term), strict=False)):
        return
    for due, (index, found_term) in enumerate(found, start=applied + 1):
        if (index, found_term) != (due, term):
            raise RaftInternalError(
                f"entry {index} of term {found_term} would be applied after {due - 1}, in the place of one of {term}"
            )


def restore_machine(machine: StateMachine[Any, Any], store: SnapshotStore, snapshot: StoredSnapshot) -> None:
    """In a thread: replace the machine's state by a stored one.

    Raises StateMachineError (its ``restore`` raised), IncompatibleVersion (the state is of a later class),
    SnapshotCorrupt, StorageError.
    """
    point, version = snapshot.point, snapshot.meta.state_version
    if version > machine.state_version:
        what = f"the state in {snapshot.name}"
        raise IncompatibleVersion(what, found=version, supported=machine.state_version, code=type(machine).__name__)
    reader = store.read(snapshot)
    try:
        machine.restore(SavedState(point.index, point.term, version, reader.state()))
    except (SnapshotCorrupt, StorageError):
        raise
    except Exception as error:
        raise StateMachineError(
            index=point.index, term=point.term, problem=error_text(error), doing="restoring snapshot"
        ) from error
    finally:
        reader.close()


def defines_snapshots(machine: StateMachine[Any, Any]) -> bool:
    """Can its state be captured and restored?  Raises ConfigurationError if it defines one half of that."""
    cls, base = type(machine), cast("type[StateMachine[Any, Any]]", StateMachine)
    halves = (cls.snapshot is not base.snapshot, cls.restore is not base.restore)
    if any(halves) and not all(halves):
        has, lacks = ("snapshot", "restore") if halves[0] else ("restore", "snapshot")
        raise ConfigurationError(
            "", f"{cls.__name__} defines {has} but not {lacks}: one is of no use without the other"
        )
    return all(halves)


def command_type(machine: StateMachine[Any, Any]) -> Any:
    """The type of a machine's commands: its ``command_type``, or what its class statement names.

    Raises ConfigurationError if neither says it, and if ``apply`` is a coroutine function.
    """
    if inspect.iscoroutinefunction(machine.apply):
        raise ConfigurationError(
            "",
            f"{type(machine).__name__}.apply must be a plain function, not async: it runs in one step of the event "
            f"loop, and must depend on nothing but the state and the command",
        )
    if machine.command_type is not None:
        return machine.command_type
    for cls in type(machine).__mro__:
        for base in cls.__dict__.get("__orig_bases__", ()):
            if get_origin(base) is StateMachine and not isinstance(get_args(base)[0], TypeVar):
                return get_args(base)[0]
    raise ConfigurationError(
        "",
        f"the type of commands cannot be read from class {type(machine).__name__}: derive it from "
        f"trio_raft.StateMachine[Command, Result], or set its command_type",
    )
