"""The one task that makes state durable.

Rules change memory at once and queue what must survive a crash here, in order; the queue hands out *positions*.
Whoever promises something that rests on a change first awaits ``wait_durable(position)``.  The task takes everything
that is queued, up to a byte bound, and stores it with one write and one sync: group commit falls out of the design,
and the leader's disk works beside replication instead of before it (dissertation 10.2.1).

House rules:

* Order is never changed and nothing is dropped from the queue, not even entries that were superseded while they
  waited: then a reply that leaves late promises exactly what it would have promised in time.
* ``durable_index`` speaks of the entries *in memory*.  Every queued ``Append`` carries a mark, the last index that it
  will make durable.  A truncation lowers the marks of all that is queued or in hand, so that the completion of an older
  write never counts for newer entries at the same index.
* A failed write is never repeated: after it nobody knows what the disk holds.  ``run`` raises and the node ends;
  ``wait_durable`` itself never raises, it just does not return.

Reading order: the queue (``append`` …), ``run``, then the watchdog and the upkeep that run beside it.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from trio_raft._config import Limits, Timeouts
from trio_raft._environment import Environment, Lane, sleep_until_due
from trio_raft._errors import StorageError, StorageFull
from trio_raft._events import DiskFull, DiskHasRoom, DiskRecovered, DiskStalled, Event
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, LogIndex, Term
from trio_raft.abc import (
    Append,
    Compact,
    JournalItem,
    LogStore,
    SaveBootstrap,
    SaveSnapshot,
    SaveVote,
    SnapshotPoint,
)

T = TypeVar("T")

SMALL_ITEM_BYTES = 1024
"""What a vote or a member map counts for in the byte bound of a batch: more than either takes."""


@attrs.define
class JournalStatistics:
    """Counts since the start."""

    batches: int = 0
    """Writes, each with one sync."""
    entries: int = 0
    bytes: int = 0
    last_write_seconds: float = 0.0
    longest_write_seconds: float = 0.0


class Journal:
    """An ordered queue in front of a ``LogStore``."""

    def __init__(
        self,
        store: LogStore[object, object, object],
        environment: Environment,
        *,
        timeouts: Timeouts,
        limits: Limits,
        publish: Callable[[Event], None],
        last_index: LogIndex,
    ) -> None:
        self._store = store
        self._environment = environment
        self._timeouts = timeouts
        self._batch_bytes = limits.journal_batch_bytes
        self._publish = publish
        self._queue: deque[JournalItem] = deque()
        self._in_hand: Sequence[JournalItem] = ()
        self._open: Append | None = None
        self._last_queued_index = last_index
        self._write_began: float | None = None
        self._reads = 0
        self._reads_began: dict[int, float] = {}
        """Of the reads in hand, oldest first."""
        self._stall_reported = False
        self._closing = False
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._upkeep_due = trio.lowlevel.ParkingLot()
        self._durable = trio.lowlevel.ParkingLot()
        self.position = 0
        """Of the item queued last."""
        self.durable_position = 0
        self.durable_index = last_index
        """The highest index whose entry in memory, by index and term, is on disk."""
        self.full: StorageFull | None = None
        """Why there is no room for further log space; None while there is."""
        self.statistics = JournalStatistics()
        self.on_durable: Callable[[], None] = _nothing
        """Called in the very step in which a write was found durable."""
        self.on_trouble: Callable[[str], None] = _nothing_of
        """Called once when a write stalls or the disk is full, with the reason."""

    # ------------------------------------------------------------------------------------ the queue

    @trio.lowlevel.enable_ki_protection
    def append(self, entry: Entry) -> None:
        """Queue one entry that follows the last one: the leader's way, once per command."""
        item = self._open
        if item is None or item.size >= self._batch_bytes:
            self._open = item = Append([entry], entry.index, len(entry.record))
            self._enqueue(item)
        else:
            item.entries.append(entry)
            item.durable_mark = entry.index
            item.size += len(entry.record)
        self._last_queued_index = entry.index

    @trio.lowlevel.enable_ki_protection
    def supersede(self, entries: list[Entry]) -> None:
        """Queue entries; the first one removes what stands at and above its index: the follower's way."""
        first = entries[0].index
        if first <= self._last_queued_index:
            self._lower_marks(LogIndex(first - 1))
        last = entries[-1].index
        self._enqueue(Append(entries, last, sum([len(entry.record) for entry in entries])))
        self._open = None
        self._last_queued_index = last

    @trio.lowlevel.enable_ki_protection
    def save_vote(self, term: Term, voted_for: ServerId | None) -> int:
        """Queue the current term and the vote given in it; returns the position."""
        self._open = None
        return self._enqueue(SaveVote(term, voted_for))

    @trio.lowlevel.enable_ki_protection
    def save_bootstrap(self, incarnations: Mapping[ServerId, Incarnation], *, done: bool) -> int:
        """Queue what is known of the members' incarnations; returns the position."""
        self._open = None
        return self._enqueue(SaveBootstrap(dict(incarnations), done))

    @trio.lowlevel.enable_ki_protection
    def save_snapshot(self, point: SnapshotPoint, *, keep: bool) -> int:
        """Queue that a snapshot, durable already, took the place of the log up to ``point``; returns the position.

        What the snapshot covers is durable from now on, whatever of the log is still on its way to the disk.  Without
        ``keep`` nothing that was queued before counts for what comes after.
        """
        if not keep:
            self._lower_marks(LogIndex(0))
            self._last_queued_index = point.index
        self.durable_index = max(self.durable_index, point.index)
        self._open = None
        return self._enqueue(SaveSnapshot(point, keep))

    @trio.lowlevel.enable_ki_protection
    def compact(self, up_to: LogIndex) -> int:
        """Queue that entries up to there, which a durable snapshot covers, may go; returns the position."""
        self._open = None
        return self._enqueue(Compact(up_to))

    def _enqueue(self, item: JournalItem) -> int:
        self._queue.append(item)
        self.position += 1
        self._work.unpark_all()
        return self.position

    def _lower_marks(self, highest: LogIndex) -> None:
        """The entries above ``highest`` left memory: no write queued before now makes their successors durable."""
        self.durable_index = min(self.durable_index, highest)
        for items in (self._in_hand, self._queue):
            for item in items:
                if isinstance(item, Append):
                    item.durable_mark = min(item.durable_mark, highest)

    async def wait_durable(self, position: int) -> None:
        """Return once everything queued up to ``position`` is durable.  Never raises; see the house rules.

        Cancelled: the write goes on.
        """
        while self.durable_position < position:
            await self._durable.park()

    async def next_durable(self) -> None:
        """Return after the next write, whatever it wrote.  Never raises, as ``wait_durable``."""
        await self._durable.park()

    def overdue(self, now: float) -> bool:
        """Has a write, or a read of old entries, been in hand for ``disk_stall_timeout``?"""
        # The same sum as the deadline that ``watch`` sleeps until: a difference may round the other way, and the
        # watch would wake again and again without anything ever being overdue.
        began = self._oldest_began()
        return began is not None and now >= began + self._timeouts.disk_stall_timeout

    def _oldest_began(self) -> float | None:
        """When the oldest piece of work began that the disk has not done yet.

        Reads count as writes do: a leader that cannot read back what it has to apply keeps its callers waiting.
        """
        began = next(iter(self._reads_began.values()), None)
        if began is None or (self._write_began is not None and self._write_began < began):
            return self._write_began
        return began

    # ------------------------------------------------------------------------------------ the writer

    async def run(self) -> None:
        """Write until ``close`` was called and the queue is empty.  Raises StorageError when a write fails.

        Cancelled during a write: the thread is abandoned, and what it writes is never taken note of.
        """
        while True:
            if self._queue and self._open is not None:
                # A leader's callers that were woken in the same turn of the loop join this batch.  A follower has
                # queued already what arrived together.  Nor is a turn needed after parking: that was one.
                await trio.lowlevel.checkpoint()
            while not self._queue:
                if self._closing:
                    return
                await self._work.park()
            await self._write(self._take())

    def close(self) -> None:
        """Let ``run`` return once the queue is empty."""
        self._closing = True
        self._work.unpark_all()

    def _take(self) -> list[JournalItem]:
        """Everything queued, up to the byte bound and at least one item."""
        batch: list[JournalItem] = []
        size = 0
        while self._queue:
            item = self._queue[0]
            size += item.size if isinstance(item, Append) else SMALL_ITEM_BYTES
            if batch and size > self._batch_bytes:
                break
            batch.append(self._queue.popleft())
        if not self._queue:
            self._open = None
        return batch

    async def _write(self, batch: list[JournalItem]) -> None:
        clock = self._environment.clock
        self._in_hand = batch
        self._write_began = began = clock.now()
        # A writer that outran the upkeep waits for it; so does one on a full disk.
        while (plan := self._store.plan(batch)) is None:
            self._upkeep_due.unpark_all()
            await self._room.park()
        try:
            await self._environment.run_blocking(Lane.JOURNAL, self._store.execute, plan)
        except OSError as error:
            raise _storage_error("writing", error) from error
        self._store.done(plan)
        self._write_began = None
        self._in_hand = ()
        self._count(batch, clock.now() - began)
        self._note_returned(began)
        self._note_durable(batch)
        # Asked here, once per write: waking a task only to find nothing to do costs more.
        if self._upkeep_due and self._store.plan_upkeep() is not None:
            self._upkeep_due.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def _note_durable(self, batch: list[JournalItem]) -> None:
        for item in batch:
            if isinstance(item, Append) and item.durable_mark > self.durable_index:
                self.durable_index = item.durable_mark
        self.durable_position += len(batch)
        self._durable.unpark_all()
        self.on_durable()

    def _count(self, batch: list[JournalItem], seconds: float) -> None:
        statistics = self.statistics
        statistics.batches += 1
        for item in batch:
            if isinstance(item, Append):
                statistics.entries += len(item.entries)
                statistics.bytes += item.size
        statistics.last_write_seconds = seconds
        statistics.longest_write_seconds = max(statistics.longest_write_seconds, seconds)

    @trio.lowlevel.enable_ki_protection
    def _note_returned(self, began: float) -> None:
        now = self._environment.clock.now()
        if self._stall_reported and not self.overdue(now):
            self._stall_reported = False
            self._publish(DiskRecovered(now - began))

    # ------------------------------------------------------------------------------------ beside it

    async def read_back(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> list[Entry]:
        """Durable entries that left memory: at least ``first``, at most up to ``last`` and about ``max_bytes``.

        Raises LogCorrupt, and StorageError when reading fails: either way this node's own trouble, which ends it.
        """
        return await self._read(self._store.execute_read, first, last, max_bytes)

    async def read_records_back(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> list[bytes]:
        """Their bare records; otherwise as ``read_back``."""
        return await self._read(self._store.execute_read_records, first, last, max_bytes)

    async def _read(self, execute: Callable[[object], T], first: LogIndex, last: LogIndex, max_bytes: int) -> T:
        plan = self._store.plan_read(first, last, max_bytes=max_bytes)
        self._reads += 1
        number = self._reads
        self._reads_began[number] = began = self._environment.clock.now()
        try:
            return await self._environment.run_blocking(Lane.READ, execute, plan)
        except OSError as error:
            raise _storage_error("reading", error) from error
        finally:
            del self._reads_began[number]
            self._note_returned(began)

    async def watch(self) -> None:
        """Report a write or a read that takes longer than ``disk_stall_timeout``, in the moment in which it does.

        The writer, being inside the write, cannot watch itself.
        """
        clock = self._environment.clock
        while True:
            # After a pause of the process the work may have returned long ago, and only wait to be noticed.
            await sleep_until_due(clock, self._stall_due, interval=self._timeouts.heartbeat_interval)
            began = self._oldest_began()
            if not self._stall_reported and began is not None:
                self._stall_reported = True
                self._publish(DiskStalled(clock.now() - began))
                self.on_trouble("the disk of the log is stalled")
            else:
                # Nothing further to report until that work returns.
                await clock.sleep(self._timeouts.disk_stall_timeout)

    def _stall_due(self) -> float:
        """When the work in hand becomes overdue; without any it is always a while until then."""
        began = self._oldest_began()
        return (self._environment.clock.now() if began is None else began) + self._timeouts.disk_stall_timeout

    async def upkeep(self) -> None:
        """Keep room ready ahead of the writer, off its path.

        A full disk is reported and tried again; any other failure raises StorageError.
        """
        while True:
            work = self._store.plan_upkeep()
            if work is None:
                await self._upkeep_due.park()
                continue
            try:
                await self._environment.run_blocking(Lane.PREPARE, self._store.execute_upkeep, work)
            except StorageFull as error:
                self._note_full(error)
                await self._environment.clock.sleep(self._timeouts.retry_backoff_cap)
                continue
            except OSError as error:
                raise _storage_error("preparing", error) from error
            self._store.done_upkeep(work)
            if self.full is not None:
                self.full = None
                self._publish(DiskHasRoom())
            self._room.unpark_all()

    def _note_full(self, error: StorageFull) -> None:
        if self.full is None:
            self.full = error
            self._publish(DiskFull(str(error)))
            self.on_trouble("the disk is full")


def _storage_error(operation: str, error: OSError) -> StorageError:
    return StorageError(Path(error.filename or "the log"), operation, error.strerror or str(error))


def _nothing() -> None:
    """Until a server listens."""


def _nothing_of(_: str) -> None:
    """Until a server listens."""
