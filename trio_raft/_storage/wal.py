"""The log store on disk: a write-ahead log in segments.

One plan becomes one batch: one write, one sync.  The work is divided so that the event loop does little and threads
see nothing that changes:

* ``plan`` decides *where*: batch number, segment, offset.  It adds up sizes and makes no bytes.
* ``execute``, in a thread, makes the bytes, writes and syncs (``writing``).
* ``done``, on the loop again, takes over where each entry went.

When a batch does not fit into what is left of the active segment, the plan *rotates*: the thread first writes and
syncs the description of the next prepared segment, and then the batch.  If none is prepared, there is no plan.
Upkeep prepares segments, a slice at a time (``segments``), and removes those that a snapshot made superfluous
(``old_segments``): what is given up is given up in ``done``, in the order of the journal, and nobody waits for the
files to go.

House rules: the store's state belongs to the loop, and threads get plans; after a failed write or sync nothing is
written again; whoever touches a descriptor is inside the custody.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import attrs

from trio_raft._errors import ConfigurationError, StorageError, StorageFull
from trio_raft._records import Entry, LogIndex
from trio_raft._storage.custody import Custody
from trio_raft._storage.entry_map import DurableState
from trio_raft._storage.files import Files, OsFiles, storage_errors
from trio_raft._storage.format import blank_description, encode_description, make_nonce, sectors_up
from trio_raft._storage.found import Found, recent_entries, settle
from trio_raft._storage.locations import MAX_SEGMENT_BYTES
from trio_raft._storage.old_segments import OldSegments
from trio_raft._storage.reading import ReadPlan, plan_entries, read_entries, read_records
from trio_raft._storage.reconcile import Reconciled
from trio_raft._storage.recovery import after_last_gap, scan
from trio_raft._storage.repair import begin, lock_directory, repair
from trio_raft._storage.segments import (
    SEGMENTS_READY,
    Preparation,
    Removal,
    Segment,
    Upkeep,
    as_segment,
    next_slice,
    run_slice,
    segment_numbers,
    segment_path,
)
from trio_raft._storage.writing import Active, PlannedItem, WritePlan, measure, write_batch
from trio_raft.abc import (
    Compact,
    JournalItem,
    LogStore,
    Recovered,
    SaveBootstrap,
    SaveSnapshot,
    SaveVote,
    SnapshotPoint,
    StoreIdentity,
)

SMOOTHING = 1 / 16
"""Weight of the newest batch in what a batch is said to come to."""

MARGIN_BYTES = 64 << 10
"""Votes, bootstrap maps and the header, in a batch that is otherwise full of entries."""


class FileLogStore(LogStore[WritePlan, ReadPlan, Upkeep]):
    """One server's log in a directory of its own.

    ``segment_bytes`` is the size of each file; a file that exists keeps the size that it was made with.
    ``longest_batch`` bounds the bytes of entries in one write, ``MARGIN_BYTES`` are added for what comes with them;
    None leaves the bound at a segment.  A store is opened once; to open the directory again, make another.  Raises
    ConfigurationError for a segment of no size, or of 4 GiB and more.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        segment_bytes: int,
        longest_batch: int | None = None,
        files: Files | None = None,
    ) -> None:
        if not 0 < segment_bytes < MAX_SEGMENT_BYTES:
            problem = f"must be between 1 and {MAX_SEGMENT_BYTES - 1}, not {segment_bytes}"
            raise ConfigurationError("limits.segment_bytes", problem)
        self._directory = Path(directory).absolute()
        self._segment_bytes = sectors_up(segment_bytes)
        longest_batch = segment_bytes if longest_batch is None else longest_batch + MARGIN_BYTES
        self._longest_batch = min(sectors_up(longest_batch), self._segment_bytes)
        self._files: Files = files or OsFiles()
        self._custody = Custody(self._files, self._directory)
        self._state = DurableState()
        self._old = OldSegments(self._directory, oldest=1)
        self._current: Active | None = None
        self._fresh = ""
        self._ready: deque[Segment] = deque()
        self._preparing: Preparation | None = None
        self._full = False
        self._planned: WritePlan | None = None
        self._batch_bytes = 0.0
        """What a batch comes to: a moving average."""
        self._failed = ""
        """What failed first: the work after which nobody knows what the disk holds."""

    # ------------------------------------------------------------------------- opening and closing

    def open(self, identity: StoreIdentity, *, memory_bytes: int, snapshot: SnapshotPoint | None = None) -> Recovered:
        with self._custody:
            try:
                return self._open(identity, memory_bytes, snapshot)
            except BaseException:
                self._custody.close()
                raise

    def close(self) -> None:
        self._custody.close()

    @property
    def custody(self) -> Custody:
        """Of its files and of the directory's lock."""
        return self._custody

    def _open(self, identity: StoreIdentity, memory_bytes: int, snapshot: SnapshotPoint | None) -> Recovered:
        files, directory = self._files, self._directory
        lock_directory(files, self._custody, directory, needed=self._first_bytes)
        with storage_errors(directory, "listing"):
            numbers = segment_numbers(files, directory)
        # Before a gap nothing counts, if the snapshot covers what is missing: `settle` sees to that.
        behind_gap = numbers[: after_last_gap(numbers)] if snapshot else []
        numbers = numbers[len(behind_gap) :]
        found = scan(files, directory, numbers, identity, memory_bytes=memory_bytes)
        verdict = settle(found, snapshot, directory)
        tail = recent_entries(found, memory_bytes=memory_bytes)
        self._current = self._begin_or_go_on(found, identity, behind_gap)
        self._state = found.state
        self._old = OldSegments(directory, oldest=numbers[0] if numbers else 1)
        self._fresh = identity.new_incarnation
        return self._recovered(found, verdict, tail)

    def _recovered(self, found: Found, verdict: Reconciled, tail: tuple[Entry, ...]) -> Recovered:
        vote, entries, counts = found.state.vote, found.state.entries, not verdict.superseded
        return Recovered(
            incarnation=self._active.description.incarnation,
            term=vote.term,
            voted_for=vote.voted_for,
            bootstrap=found.state.bootstrap,
            base=verdict.base,
            last_index=entries.last_index if counts else verdict.base.index,
            term_runs=entries.term_runs if counts else (),
            tail=tail if counts else (),
            cut_bytes=found.torn.size if found.torn else 0,
            cut_path=str(segment_path(self._directory, found.torn.number)) if found.torn else "",
            superseded=verdict.superseded,
        )

    def _begin_or_go_on(self, found: Found, identity: StoreIdentity, behind_gap: Sequence[int]) -> Active:
        segment = repair(self._files, self._custody, self._directory, found, behind_gap=behind_gap)
        if segment and found.active:
            return Active(segment, found.active, found.end)
        blank = blank_description(identity, segment_bytes=self._segment_bytes)
        description = attrs.evolve(blank, longest_batch=self._longest_batch)
        segment, end = begin(self._files, self._custody, self._directory, description, needed=self._first_bytes)
        found.state.batch_number = 1
        return Active(segment, description, end)

    @property
    def _first_bytes(self) -> int:
        """What a new log takes to begin with: the segment that is written, and those that are ready."""
        return (1 + SEGMENTS_READY) * self._segment_bytes

    @property
    def _active(self) -> Active:
        if self._current is None:
            raise AssertionError("the store was not opened")
        return self._current

    # ------------------------------------------------------------------------- writing

    def plan(self, batch: Sequence[JournalItem]) -> WritePlan | None:
        if self._planned:
            raise AssertionError("the plan before this one was never done")
        items, size = measure(batch, self._state.entries)
        active = self._active
        plan: WritePlan | None
        if active.has_room(size):
            number = self._state.batch_number + (1 if size else 0)
            plan = WritePlan(items, size, number, active.segment, active.description, active.end)
        else:
            plan = self._plan_rotation(active, items, size)
        self._planned = plan
        return plan

    def execute(self, plan: WritePlan) -> None:
        with self._custody:
            self._refuse_after_failure("writing")
            try:
                write_batch(plan, self._files)
            except BaseException:
                self._failed = "writing"
                raise
            if plan.retired:
                self._custody.give_up(plan.retired.descriptor)

    def done(self, plan: WritePlan) -> None:
        if plan is not self._planned or plan.placements is None:
            raise AssertionError("this plan was not executed")
        state = self._state
        placements = iter(plan.placements)
        for item in plan.items:
            match item:
                case SaveVote():
                    state.vote = item
                case SaveBootstrap():
                    state.bootstrap = item
                case SaveSnapshot(point):
                    state.entries.take_in(item)
                    self._old.give_up(state.entries, point.index, active=plan.segment.number)
                case Compact(up_to):
                    self._old.give_up(state.entries, up_to, active=plan.segment.number)
                case _:
                    state.entries.add(next(placements))
        state.batch_number = plan.number
        self._batch_bytes += SMOOTHING * (plan.size - self._batch_bytes)
        if plan.first_batch:
            self._ready.popleft()
        self._current = Active(plan.segment, plan.description, plan.offset + plan.size)
        self._planned = None

    def _plan_rotation(self, active: Active, items: tuple[PlannedItem, ...], size: int) -> WritePlan | None:
        number = active.segment.number + 1
        like = attrs.evolve(
            active.description,
            segment_number=number,
            segment_bytes=self._segment_bytes,
            longest_batch=self._longest_batch,
            nonce=make_nonce(self._fresh, segment_number=number),
        )
        description = self._state.describe(like)
        first_batch = encode_description(description, number=self._state.batch_number + 1)
        if size > self._longest_batch or len(first_batch) + size > self._segment_bytes:
            raise AssertionError(
                f"a batch of {size} bytes does not fit: {self._longest_batch} bytes are the longest announced, "
                f"and {len(first_batch)} of a segment's {self._segment_bytes} bytes go to its description"
            )
        if not self._ready:
            return None
        return WritePlan(
            items,
            size,
            number=self._state.batch_number + 2,
            segment=self._ready[0],
            description=description,
            offset=len(first_batch),
            first_batch=first_batch,
            retired=active.segment,
        )

    def _refuse_after_failure(self, work: str) -> None:
        # Two threads: what failed in one may not have been heard of when the next piece of work begins in the other.
        if self._failed and self._failed != work:
            raise StorageError(self._directory, work, f"{self._failed} has failed just now")
        if self._failed:
            raise AssertionError("a write to this log has failed: nobody knows what the disk holds")

    # ------------------------------------------------------------------------- reading

    def plan_read(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> ReadPlan:
        plan = plan_entries(self._state.entries, first, last, max_bytes=max_bytes)
        self._old.pin(plan)
        return plan

    def execute_read(self, plan: ReadPlan) -> list[Entry]:
        with self._custody:
            return read_entries(plan, self._files, self._directory)

    def execute_read_records(self, plan: ReadPlan) -> list[bytes]:
        with self._custody:
            return read_records(plan, self._files, self._directory)

    # ------------------------------------------------------------------------- upkeep

    def plan_upkeep(self) -> Upkeep | None:
        removal = self._old.next_removal()
        # A writer without a prepared segment waits for one, unless the disk is full: then room has to come first.
        if removal and (self._ready or self._full):
            return removal
        if self._preparing is None and len(self._ready) < SEGMENTS_READY:
            number = self._active.segment.number + len(self._ready) + 1
            path = segment_path(self._directory, number)
            self._preparing = Preparation(path, number, self._segment_bytes, descriptor=None)
        return self._preparing or removal

    def execute_upkeep(self, upkeep: Upkeep) -> None:
        with self._custody:
            self._refuse_after_failure("upkeep")
            try:
                run_slice(upkeep, self._files, self._custody)
            except StorageFull:
                self._full = True
                raise
            except BaseException:
                self._failed = "upkeep"
                raise
            self._full = False

    def done_upkeep(self, upkeep: Upkeep) -> None:
        if isinstance(upkeep, Removal):
            self._old.done(upkeep)
            return
        if upkeep is not self._preparing:
            raise AssertionError("this slice was not planned")
        self._preparing = next_slice(upkeep, batch_bytes=self._batch_bytes)
        if self._preparing is None:
            self._ready.append(as_segment(upkeep))
