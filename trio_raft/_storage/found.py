"""What recovery found in a directory of segments, and what of it counts beside the newest snapshot.

``Found`` is filled by ``recovery.scan``.  Inspectors stop there; a store goes on with ``settle``, which compares it
with the snapshot (``reconcile``), and ``recent_entries``.

House rule: nothing here touches a file.
"""

from collections import deque
from pathlib import Path

import attrs

from trio_raft._errors import LogCorrupt
from trio_raft._records import ENTRY_KINDS, BadRecord, Entry, EntryKind, decode_entries
from trio_raft._storage.entry_map import DurableState
from trio_raft._storage.format import Description, marker_of
from trio_raft._storage.reconcile import NotCovered, Reconciled, reconcile
from trio_raft._storage.segments import segment_path
from trio_raft.abc import SaveSnapshot, SnapshotPoint


@attrs.frozen
class Torn:
    """The remains of a write that a crash interrupted."""

    number: int
    """Of the segment."""
    offset: int
    size: int
    """Bytes up to the last one that is not zero."""


@attrs.frozen
class FoundSegment:
    """A segment that holds a part of the log."""

    description: Description
    path: Path
    first_batch: int
    """Number of the description, which is the first."""
    last_batch: int
    end: int
    """Bytes used: behind the last whole batch; whatever is torn stands there."""


@attrs.frozen
class FoundMarker:
    """A snapshot took the log's place."""

    path: Path
    offset: int
    marker: SaveSnapshot


@attrs.define
class Found:
    """What a scan found."""

    state: DurableState
    base_is_known: bool = True
    """Is the term of the log's base known?  Not if the log begins with what an older segment left off."""
    segments: list[FoundSegment] = attrs.Factory(list[FoundSegment])
    """Oldest first; which entries of the log stand in each, ``state.entries.entries_in`` knows."""
    markers: list[FoundMarker] = attrs.Factory(list[FoundMarker])
    active: Description | None = None
    """Of the segment that the log ends in; None in a directory where nothing was ever promised."""
    end: int = 0
    """Where the next batch goes in that segment."""
    last_batch: bytes = b""
    """Its last batch, which ends there."""
    torn: Torn | None = None
    unused: list[int] = attrs.Factory(list[int])
    """Numbers of the segments that hold nothing."""
    recent: deque[tuple[Path, int, bytes]] = attrs.Factory(deque[tuple[Path, int, bytes]])
    """(file, offset, records) of the last batches, at least as many bytes as memory is to hold."""


def settle(found: Found, snapshot: SnapshotPoint | None, directory: Path) -> Reconciled:
    """Compare what was found with the newest durable snapshot, and let the log begin where it counts from.

    A log that the snapshot supersedes stays in ``found`` as it is on disk, until a marker says so there.  Raises
    LogCorrupt.
    """
    entries = found.state.entries
    if found.active is None and snapshot is not None:
        problem = "a snapshot without a log: its votes are unknown"
        raise LogCorrupt(directory, offset=0, index=snapshot.index, problem=problem)
    try:
        verdict = reconcile(
            snapshot,
            base=entries.base,
            base_is_known=found.base_is_known,
            term_at=entries.term_at,
        )
    except NotCovered as error:
        raise _missing(found, error, directory) from error
    if not verdict.superseded:
        entries.begin_above(verdict.base)
    return verdict


def _missing(found: Found, error: NotCovered, directory: Path) -> LogCorrupt:
    if found.base_is_known:
        last = found.markers[-1]
        problem = f"a snapshot took the log's place here; {error}"
        return LogCorrupt(last.path, offset=last.offset, index=error.first, problem=problem)
    oldest = found.segments[0]
    problem = f"the file is missing, while {oldest.path.name} is there; {error}"
    path = segment_path(directory, oldest.description.segment_number - 1)
    return LogCorrupt(path, offset=0, index=error.first, problem=problem)


def recent_entries(found: Found, *, memory_bytes: int) -> tuple[Entry, ...]:
    """The newest entries that fit into so many bytes, each checked against its own checksum.  Raises LogCorrupt.

    To be asked once: batches are let go as they are decoded.
    """
    entries: deque[Entry] = deque()
    size = 0
    while found.recent:
        path, offset, records = found.recent.popleft()
        try:
            decoded = decode_entries(records)
        except BadRecord as error:
            index = found.state.entries.last_index
            raise LogCorrupt(path, offset=offset + error.offset, index=index, problem=error.reason) from error
        for entry in decoded:
            if entry.kind in ENTRY_KINDS:
                while entries and entries[-1].index >= entry.index:
                    size -= len(entries.pop().record)
                entries.append(entry)
                size += len(entry.record)
            elif entry.kind is EntryKind.SNAPSHOT_MARKER and not marker_of(entry).keep:
                entries.clear()
                size = 0
        while size > memory_bytes:
            size -= len(entries.popleft().record)
    while entries and entries[0].index <= found.state.entries.base.index:
        entries.popleft()
    return tuple(entries)
