"""One batch on its way to the disk: what is decided on the event loop, and what a thread makes of it.

``measure`` and ``WritePlan`` are the loop's side: which items, and where they go.  ``write_batch`` is the thread's:
it joins the records, counts zero sectors, computes checksums, writes and syncs, all from the plan alone.

House rule: one write and one sync; where the batch is the first of a segment, one more of each before it.
"""

from collections.abc import Sequence

import attrs

from trio_raft._records import Entry, LogIndex
from trio_raft._storage.entry_map import Placement, location_of, place
from trio_raft._storage.files import Files, storage_errors
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    Description,
    bootstrap_record,
    encode_batch,
    sectors_up,
    vote_record,
)
from trio_raft._storage.segments import Segment
from trio_raft.abc import Append, JournalItem, SaveBootstrap, SaveVote

PlannedItem = tuple[Entry, ...] | SaveVote | SaveBootstrap
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
    """Bytes, whole sectors."""
    number: int
    """Of the batch."""
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


def measure(batch: Sequence[JournalItem], *, last_index: LogIndex) -> tuple[tuple[PlannedItem, ...], int]:
    """The items to plan with, and the bytes that their batch takes.

    Raises AssertionError if entries leave a gap behind ``last_index``: what the disk holds must be readable.
    """
    items: list[PlannedItem] = []
    size = BATCH_HEADER_BYTES
    for item in batch:
        match item:
            case Append():
                first = item.entries[0].index
                if not 1 <= first <= last_index + 1:
                    raise AssertionError(f"entry {first} does not continue a log that ends at {last_index}")
                last_index = item.entries[-1].index
                items.append(tuple(item.entries))
                size += item.size
            case SaveVote():
                items.append(item)
                size += len(vote_record(item))
            case SaveBootstrap():
                items.append(item)
                size += len(bootstrap_record(item))
    return tuple(items), sectors_up(size)


def write_batch(plan: WritePlan, files: Files) -> None:
    """Make the plan durable.  Raises StorageError, after which nobody knows what the disk holds."""
    records, placements = _lay_out(plan)
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
    location = location_of(plan.segment.number, plan.offset + BATCH_HEADER_BYTES)
    for item in plan.items:
        if isinstance(item, tuple):
            entry_records = [entry.record for entry in item]
            placement, location = place(item, entry_records, location=location)
            placements.append(placement)
            records += entry_records
        else:
            record = vote_record(item) if isinstance(item, SaveVote) else bootstrap_record(item)
            records.append(record)
            location += len(record)
    return records, placements
