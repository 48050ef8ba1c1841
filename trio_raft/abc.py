"""What a user may supply: a state machine, a log store, a snapshot store, a transport.

The contracts stand in the docstrings.  ``StateMachine`` is the one that every program writes; the others have
implementations in this package: ``trio_raft.FileLogStore``, ``trio_raft.FileSnapshotStore``,
``trio_raft.TCPTransport``, and in memory ``trio_raft.MemoryLogStore``, ``trio_raft.MemorySnapshotStore``.
"""

import abc
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import trio

from trio_raft._journal_items import Append, Compact, JournalItem, SaveBootstrap, SaveSnapshot, SaveVote
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._stored import SnapshotConfiguration, SnapshotMeta, SnapshotPoint, SnapshotsFound, StoredSnapshot

__all__ = [
    "Append",
    "Committed",
    "Compact",
    "JournalItem",
    "LogStore",
    "Recovered",
    "SaveBootstrap",
    "SaveSnapshot",
    "SaveVote",
    "SavedState",
    "SnapshotConfiguration",
    "SnapshotMeta",
    "SnapshotPoint",
    "SnapshotReader",
    "SnapshotReceiver",
    "SnapshotStore",
    "SnapshotWriter",
    "SnapshotsFound",
    "StateMachine",
    "StoreIdentity",
    "StoredSnapshot",
    "Transport",
]

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")
PlanT = TypeVar("PlanT")
ReadPlanT = TypeVar("ReadPlanT")
UpkeepT = TypeVar("UpkeepT")


# ------------------------------------------------------------------------------------------- state machine


@attrs.define(eq=False)
class Committed(Generic[CommandT]):
    """A command at its place in the log: what ``StateMachine.apply`` gets."""

    index: LogIndex
    """Grows with every call; no-op and configuration entries leave gaps."""
    term: Term
    command: CommandT


@attrs.frozen
class SavedState:
    """A state as ``StateMachine.snapshot`` gave it: what ``StateMachine.restore`` gets.  Iterate over its pieces, once.

    The pieces come in order; where one ends and the next begins means nothing.
    """

    index: LogIndex
    """Of the last entry that was applied to it."""
    term: Term
    version: int
    """``state_version`` of the class that made it."""
    pieces: Iterator[bytes]

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces


class StateMachine(abc.ABC, Generic[CommandT, ResultT]):
    """The replicated state: the same committed commands, in the same order, on every server (paper section 2).

    Subclass with the two types, ``class Counter(StateMachine[Add, int])``.  ``bytes`` commands are passed through as
    they are; attrs classes, primitives, and unions of attrs classes (tagged with the class's name) go through a
    strict converter.  Where the types cannot be read from the class statement, set ``command_type``.
    """

    command_type: ClassVar[Any] = None
    """The type of commands, where it cannot be read from ``StateMachine[CommandT, ResultT]``."""

    state_version: ClassVar[int] = 1
    """Of the format that ``snapshot`` writes; raise it when the format changes.  A snapshot of a later version than the
    class's is refused by IncompatibleVersion; ``restore`` sees which version it gets."""

    @abc.abstractmethod
    def apply(self, entry: Committed[CommandT]) -> ResultT:
        """Apply one committed command and return the result for whoever proposed it.

        Must depend on nothing but the state and the entry: no clock, no randomness, no set order.  It runs on the
        event loop and must be quick; a call that blocks is reported by the event ``LoopBlocked``.  Raise
        ``trio_raft.Rejected`` to refuse a command: that is a result.  Any other exception stops the node, since an
        entry is never skipped.
        """

    def snapshot(self) -> Iterable[bytes]:
        """Capture the state, quickly, and return its bytes in pieces (paper section 7).

        Called on the event loop between two commands, so that the capture is of one moment; the returned iterable is
        gone through in a thread, beside commands that are applied meanwhile, so it must hold a copy, or something that
        later commands do not change.  Define it together with ``restore``; with neither, the log is never cut.
        """
        raise TypeError(f"{type(self).__name__} defines no snapshot")

    def restore(self, state: SavedState) -> None:  # noqa: ARG002
        """Replace the whole state by a captured one.

        Called in a thread, and nothing else touches the machine until it returns; it may take long.  An exception
        stops the node.
        """
        raise TypeError(f"{type(self).__name__} defines no restore")

    def applied_index(self) -> LogIndex | None:
        """For a machine that keeps its state on a disk of its own: the last entry that this state reflects, durably.

        Asked once, when the node starts: entries up to there are not applied again, and a state from before the log
        begins is replaced by the newest snapshot.  None, the default: the state is in memory, and is rebuilt.
        """
        return None


# ------------------------------------------------------------------------------------------- log store


@attrs.frozen
class StoreIdentity:
    """Whose log this is; a store that belongs to another node or cluster refuses to open."""

    cluster_id: str
    node_id: ServerId
    new_incarnation: Incarnation
    """Used only if the store is empty; made durable before ``open`` returns."""


@attrs.frozen
class Recovered:
    """What ``LogStore.open`` found."""

    incarnation: Incarnation
    term: Term
    voted_for: ServerId | None
    bootstrap: SaveBootstrap | None
    """None in a new directory."""
    base: SnapshotPoint
    """The place just below the first entry of the log; (0, 0) where nothing was ever cut.  An index that the snapshot
    covers, whose term is known."""
    last_index: LogIndex
    """``base.index`` if there are no entries."""
    term_runs: tuple[tuple[LogIndex, Term], ...]
    """(first index of the run, its term), ascending: the terms of all entries above ``base``."""
    tail: tuple[Entry, ...]
    """The most recent entries, up to ``memory_bytes``; they end at ``last_index``."""
    cut_bytes: int
    """Bytes of a torn last write that were cut; 0 after a clean end."""
    cut_path: str
    """The file that was cut, for the event."""
    superseded: bool = False
    """The snapshot replaces all of the log that was found (it conflicts at its last index, or ends before it, N1): log
    and base are as after ``SaveSnapshot(point, keep=False)``, and that is the first item that the caller queues."""


class LogStore(abc.ABC, Generic[PlanT, ReadPlanT, UpkeepT]):
    """Durable storage of one server's log, term and vote.

    Work is split in three, so that threads never see live state: ``plan`` and ``done`` run on the event loop, in
    order; ``execute`` does synchronous file operations on an immutable plan, in a thread.  A plan whose execution was
    abandoned is never done.  There is one journal, so one plan at a time is in execution; reads and upkeep run beside
    it.
    """

    @abc.abstractmethod
    def open(self, identity: StoreIdentity, *, memory_bytes: int, snapshot: SnapshotPoint | None = None) -> Recovered:
        """Open or create, lock, and recover.  Runs in a thread, once, before anything else.

        ``snapshot`` is the newest durable one; what it covers may be missing.  Raises DirectoryInUse,
        DirectoryMismatch, LogCorrupt (also for entries that are missing and not covered, and for a snapshot without
        any log, since then nobody knows its votes), IncompatibleVersion, ConfigurationError (the directory cannot be
        created or written), StorageError, StorageFull.  Nothing is changed by a refusal.  A torn tail is cut: zeros to
        the end of the segment, synced, before this returns.
        """

    @abc.abstractmethod
    def plan(self, batch: Sequence[JournalItem]) -> PlanT | None:
        """Lay out one write for these items, in order.  None: there is no prepared room yet, ask after upkeep."""

    @abc.abstractmethod
    def execute(self, plan: PlanT) -> None:
        """Write and sync, once each (more only where a new file begins).

        On return everything in the plan is durable.  Any exception means that nobody knows what the disk holds: the
        journal never asks again.
        """

    @abc.abstractmethod
    def done(self, plan: PlanT) -> None:
        """Take note that the plan is durable."""

    @abc.abstractmethod
    def plan_read(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> ReadPlanT:
        """Prepare to read entries ``first`` … ``last``, at least one, and no more than ``max_bytes`` beyond the first.

        Only durable entries may be asked for, and none that a ``Compact`` or ``SaveSnapshot`` gave up before.  They
        stay readable for as long as the plan is referenced.
        """

    @abc.abstractmethod
    def execute_read(self, plan: ReadPlanT) -> list[Entry]:
        """The entries of the plan, each checked against its checksum and its (index, term).

        Raises LogCorrupt and OSError.
        """

    def execute_read_records(self, plan: ReadPlanT) -> list[bytes]:
        """The same, but the bare records: they are enough to apply a long log again, and cost less to make.

        This one asks ``execute_read``; a store that can do it faster overrides it.
        """
        return [entry.record for entry in self.execute_read(plan)]

    @abc.abstractmethod
    def plan_upkeep(self) -> UpkeepT | None:
        """The next slice of work that keeps room ready ahead of the writer, or None if there is enough.

        Asked after each write, and again before the slice is done: the same until then, and cheap.
        """

    @abc.abstractmethod
    def execute_upkeep(self, upkeep: UpkeepT) -> None:
        """Do one slice.  Raises StorageFull when the disk is full: not a failure, it is tried again."""

    @abc.abstractmethod
    def done_upkeep(self, upkeep: UpkeepT) -> None:
        """Take note of the slice."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give up this user's share of files and lock; the last user, perhaps a hung thread, closes them.

        Twice is fine.
        """


# ------------------------------------------------------------------------------------------- snapshot store


class SnapshotWriter(abc.ABC):
    """A snapshot that is being taken.  One thread at a time."""

    @abc.abstractmethod
    def write(self, state: bytes) -> None:
        """The next piece of the state.  Raises StorageFull, StorageError."""

    @abc.abstractmethod
    def finish(self) -> StoredSnapshot:
        """Write the end, sync, and make it visible, durably (S7).  Raises StorageFull, StorageError."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Remove what was written.  After ``finish``, and twice, it does nothing; never raises."""


class SnapshotReceiver(abc.ABC):
    """A snapshot that is being received, byte for byte.  One thread at a time."""

    @property
    @abc.abstractmethod
    def received(self) -> int:
        """Bytes so far."""

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """The bytes that follow; now and then they are synced, so that ``finish`` is quick.

        Raises StorageFull, StorageError.
        """

    @abc.abstractmethod
    def finish(self) -> StoredSnapshot:
        """Check digest and contents, sync, and make it visible, durably (S7).

        Raises SnapshotCorrupt, IncompatibleVersion, DirectoryMismatch (another cluster's), StorageFull, StorageError.
        After that, only ``abort``.
        """

    @abc.abstractmethod
    def abort(self) -> None:
        """Remove what was written.  After ``finish``, and twice, it does nothing; never raises."""


class SnapshotReader(abc.ABC):
    """A stored snapshot that is being read.  It stays readable until ``close``, whatever the store removes."""

    @abc.abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file as they travel; fewer only at its end.  Raises StorageError."""

    @abc.abstractmethod
    def state(self) -> Iterator[bytes]:
        """The state in pieces, each checked.  Raises SnapshotCorrupt, StorageError."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give the file up.  Twice is fine; never raises."""


class SnapshotStore(abc.ABC):
    """Durable storage of one server's snapshots.

    Every method does blocking work and is called in a thread.
    """

    @abc.abstractmethod
    def open(self, identity: StoreIdentity) -> SnapshotsFound:
        """Look for snapshots, newest first by (term, index), until one is whole.  Changes nothing.

        Called before the log is opened, and so before the data directory is locked: what vanishes meanwhile is
        passed over.  ``identity.new_incarnation`` is fresh: what this life writes can be named after it.  Raises
        DirectoryMismatch (another cluster's snapshot), IncompatibleVersion, StorageError.
        """

    @abc.abstractmethod
    def tidy(self) -> None:
        """Remove what was never finished.  Called once the directory is locked.  Raises StorageError."""

    @abc.abstractmethod
    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin to take one.  Raises StorageFull, StorageError."""

    @abc.abstractmethod
    def receive(self, *, size: int, digest: str) -> SnapshotReceiver:
        """Begin to receive one of so many bytes.  Raises StorageFull, StorageError."""

    @abc.abstractmethod
    def read(self, snapshot: StoredSnapshot) -> SnapshotReader:
        """Read a stored one.  Raises StorageError if it is not there any more."""

    @abc.abstractmethod
    def retain(self, keep: int) -> None:
        """Remove all but the newest ``keep`` by (term, index), oldest first.  Raises StorageError."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close; a thread that is still at work closes its own files.  Twice is fine."""


# ------------------------------------------------------------------------------------------- transport


class Transport(abc.ABC):
    """How servers reach each other: any reliable, ordered byte stream will do.

    A stream's class may offer two things more: ``send_nowait(data)``, which sends as much as there is room for without
    waiting and returns how many bytes that was, and ``peer_name``, a text for messages about a peer that is not known
    yet.
    """

    @abc.abstractmethod
    async def dial(self, address: str) -> trio.abc.Stream:
        """Connect.  Raises OSError or ``trio.BrokenResourceError`` if nobody answers; the caller sets the deadline.

        ConnectionRefusedError, by itself or as the ``__cause__`` of an OSError, says that no process listens there, for
        certain: of a leader whose connections ended it proves that nobody need wait for him.
        """

    @abc.abstractmethod
    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        """Bind, and return the listeners.  Raises OSError if the address is taken or not ours."""
