"""One batch on its way to the disk: what is decided on the event loop, and what a thread makes of it.

``measure`` and ``WritePlan`` are the loop's side: which items, and where they go.  ``write_batch`` is the thread's:
it joins the records, counts zero sectors, computes checksums, writes and syncs, all from the plan alone.

A plan of nothing but ``Compact`` items writes nothing: what they give up is given up when the plan is done.

House rule: one write and one sync; where the batch is the first of a segment, one more of each before it.
"""

from collections.abc import Sequence

import attrs

from trio_raft._records import Entry, LogIndex, Term
from trio_raft._storage.entry_map import EntryMap, Placement, place
from trio_raft._storage.files import Files, storage_errors
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    Description,
    bootstrap_record,
    encode_batch,
    marker_record,
    sectors_up,
    vote_record,
)
from trio_raft._storage.segments import Segment
from trio_raft.abc import Append, Compact, JournalItem, SaveBootstrap, SaveSnapshot, SaveVote

PlannedItem = tuple[Entry, ...] | SaveVote | SaveBootstrap | SaveSnapshot | Compact
"""An item of the journal as nobody changes it any more."""


@attrs.define
class Active:
    """The segment that is being written, as the loop knows it."""

    segment: Segment
    description: Description
    end: int
    """Where the next batch goes."""

    def has_room(self, size: int) -> bool:
        """For a batch of so many bytes?"""
        return size <= self.description.longest_batch and self.end + size <= self.segment.length


@attrs.define(eq=False)
class WritePlan:
    """One batch and where it goes.  Nothing in it changes, but for ``placements``, which the thread fills."""

    items: tuple[PlannedItem, ...]
    size: int
    """Bytes, whole sectors; 0: there is nothing to write."""
    number: int
    """Of the batch; of the one before it if there is nothing to write."""
    segment: Segment
    description: Description
    """Of the segment."""
    offset: int
    first_batch: bytearray | None = None
    """The description's bytes, where the segment is new: to be written and synced before the batch."""
    retired: Segment | None = None
    """The segment that was active until now, where the segment is new; to be closed afterwards."""
    placements: list[Placement] | None = None
    """Where the entries went, one for each item that is entries."""


def measure(batch: Sequence[JournalItem], entries: EntryMap) -> tuple[tuple[PlannedItem, ...], int]:
    """The items to plan with, and the bytes that their batch takes: 0 if none of them leaves a record.

    Raises AssertionError if they do not fit the log as it will be then: what the disk holds must be readable.
    """
    items: list[PlannedItem] = []
    size = 0
    ahead = _Ahead(entries)
    for item in batch:
        match item:
            case Append():
                ahead.append(item.entries)
                items.append(tuple(item.entries))
                size += item.size
            case SaveSnapshot():
                ahead.take_in(item)
                items.append(item)
                size += len(marker_record(item))
            case SaveVote():
                items.append(item)
                size += len(vote_record(item))
            case SaveBootstrap():
                items.append(item)
                size += len(bootstrap_record(item))
            case Compact():
                items.append(item)
    return tuple(items), sectors_up(BATCH_HEADER_BYTES + size) if size else 0


class _Ahead:
    """The log as it will be after the items of a batch that were looked at so far."""

    def __init__(self, entries: EntryMap) -> None:
        self._on_disk = entries
        self._base = entries.base.index
        self._last = entries.last_index
        self._new: list[Sequence[Entry] | SaveSnapshot] = []
        """What the batch put on top, in order."""

    def append(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        if not self._base < first <= self._last + 1:
            raise AssertionError(f"entry {first} does not continue a log that ends at {self._last}")
        self._last = entries[-1].index
        self._new.append(entries)

    def take_in(self, marker: SaveSnapshot) -> None:
        point = marker.point
        if marker.keep and self._term_at(point.index) != point.term:
            raise AssertionError(f"there is no entry {point.index} of term {point.term} to keep what follows it")
        self._base = point.index
        if not marker.keep:
            self._last = point.index
            self._new.append(marker)

    def _term_at(self, index: LogIndex) -> Term | None:
        if not self._base <= index <= self._last:
            return None
        for item in reversed(self._new):
            if isinstance(item, SaveSnapshot):
                return item.point.term
            if item[0].index <= index:
                return item[index - item[0].index].term
        return self._on_disk.term_at(index)


def write_batch(plan: WritePlan, files: Files) -> None:
    """Make the plan durable.  Raises StorageError, after which nobody knows what the disk holds."""
    records, placements = _lay_out(plan)
    if records:
        batch = encode_batch(records, number=plan.number, salt=plan.description.nonce)
        if len(batch) != plan.size:
            raise AssertionError(f"a batch planned with {plan.size} bytes came to {len(batch)}")
        descriptor = plan.segment.descriptor
        with storage_errors(plan.segment.path, "writing"):
            if plan.first_batch:
                files.write(descriptor, plan.first_batch, offset=0)
                files.sync(descriptor)
            files.write(descriptor, batch, offset=plan.offset)
            files.sync(descriptor)
    plan.placements = placements


def _lay_out(plan: WritePlan) -> tuple[list[bytes], list[Placement]]:
    """All records in order, and where the entries among them go."""
    records: list[bytes] = []
    placements: list[Placement] = []
    offset = plan.offset + BATCH_HEADER_BYTES
    for item in plan.items:
        if isinstance(item, tuple):
            entry_records = [entry.record for entry in item]
            placement, offset = place(item, entry_records, segment=plan.segment.number, offset=offset)
            placements.append(placement)
            records += entry_records
        elif not isinstance(item, Compact):
            record = _record(item)
            records.append(record)
            offset += len(record)
    return records, placements


def _record(item: SaveVote | SaveBootstrap | SaveSnapshot) -> bytes:
    match item:
        case SaveVote():
            return vote_record(item)
        case SaveBootstrap():
            return bootstrap_record(item)
        case SaveSnapshot():
            return marker_record(item)
