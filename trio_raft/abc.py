"""What a user may supply: a state machine, a log store, a transport.

The contracts stand in the docstrings.  ``StateMachine`` is the one that every program writes; the other two have
implementations in this package (``trio_raft.FileLogStore``, ``trio_raft.MemoryLogStore``, ``trio_raft.TCPTransport``).
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import attrs
import trio

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, LogIndex, Term

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


class StateMachine(abc.ABC, Generic[CommandT, ResultT]):
    """The replicated state: the same committed commands, in the same order, on every server (paper section 2).

    Subclass with the two types, ``class Counter(StateMachine[Add, int])``.  ``bytes`` commands are passed through as
    they are; attrs classes, primitives, and unions of attrs classes (tagged with the class's name) go through a
    strict converter.  Where the types cannot be read from the class statement, set ``command_type``.
    """

    command_type: ClassVar[Any] = None
    """The type of commands, where it cannot be read from ``StateMachine[CommandT, ResultT]``."""

    @abc.abstractmethod
    def apply(self, entry: Committed[CommandT]) -> ResultT:
        """Apply one committed command and return the result for whoever proposed it.

        Must depend on nothing but the state and the entry: no clock, no randomness, no set order.  It runs on the
        event loop and must be quick; a call that blocks is reported by the event ``LoopBlocked``.  Raise
        ``trio_raft.Rejected`` to refuse a command: that is a result.  Any other exception stops the node, since an
        entry is never skipped.
        """


# ------------------------------------------------------------------------------------------- log store


@attrs.define
class Append:
    """Entries to store.  The first one removes whatever stands at and above its index, on disk as in memory."""

    entries: list[Entry]
    """Contiguous, never empty."""
    durable_mark: LogIndex
    """The journal's: the last index that this item will make durable.  A later truncation lowers it."""
    size: int
    """Bytes of all records."""


@attrs.frozen
class SaveVote:
    """The current term and the vote given in it, one atomic record (paper Figure 2, persistent state)."""

    term: Term
    voted_for: ServerId | None


@attrs.frozen
class SaveBootstrap:
    """What is known of the members' incarnations, and whether all members confirmed it."""

    incarnations: Mapping[ServerId, Incarnation]
    done: bool


JournalItem = Append | SaveVote | SaveBootstrap


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
    last_index: LogIndex
    term_runs: tuple[tuple[LogIndex, Term], ...]
    """(first index of the run, its term), ascending: the terms of all entries."""
    tail: tuple[Entry, ...]
    """The most recent entries, up to ``memory_bytes``; they end at ``last_index``."""
    cut_bytes: int
    """Bytes of a torn last write that were cut; 0 after a clean end."""
    cut_path: str
    """The file that was cut, for the event."""


class LogStore(abc.ABC, Generic[PlanT, ReadPlanT, UpkeepT]):
    """Durable storage of one server's log, term and vote.

    Work is split in three, so that threads never see live state: ``plan`` and ``done`` run on the event loop, in
    order; ``execute`` does synchronous file operations on an immutable plan, in a thread.  A plan whose execution was
    abandoned is never done.  There is one journal, so one plan at a time is in execution; reads and upkeep run beside
    it.
    """

    @abc.abstractmethod
    def open(self, identity: StoreIdentity, *, memory_bytes: int) -> Recovered:
        """Open or create, lock, and recover.  Runs in a thread, once, before anything else.

        Raises DirectoryInUse, DirectoryMismatch, LogCorrupt, IncompatibleVersion, ConfigurationError (the directory
        cannot be created or written), StorageError, StorageFull.  Nothing is changed by a refusal.  A torn tail is
        cut: zeros to the end of the segment, synced, before this returns.
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

        Only durable entries may be asked for.
        """

    @abc.abstractmethod
    def execute_read(self, plan: ReadPlanT) -> list[Entry]:
        """The entries of the plan, each checked against its checksum and its (index, term).

        Raises LogCorrupt and OSError.
        """

    @abc.abstractmethod
    def plan_upkeep(self) -> UpkeepT | None:
        """The next slice of work that keeps room ready ahead of the writer, or None if there is enough."""

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


# ------------------------------------------------------------------------------------------- transport


class Transport(abc.ABC):
    """How servers reach each other: any reliable, ordered byte stream will do."""

    @abc.abstractmethod
    async def dial(self, address: str) -> trio.abc.Stream:
        """Connect.  Raises OSError or ``trio.BrokenResourceError`` if nobody answers; the caller sets the deadline."""

    @abc.abstractmethod
    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        """Bind, and return the listeners.  Raises OSError if the address is taken or not ours."""
