"""Reading old entries back from their segments.

A plan holds the places of the entries, taken on the event loop; the reading happens in a thread, with descriptors
of its own.  A place never changes its contents, since segments only grow, and no segment is removed as long as a plan
that reads from it is alive.  So an entry that was superseded after the read was planned comes back as it was
planned, and whoever asked looks at its term again.

House rule: nothing leaves here unchecked: checksum, index and term.
"""

from array import array
from collections.abc import Sequence
from pathlib import Path

import attrs

from trio_raft._errors import LogCorrupt
from trio_raft._records import RECORD_HEADER_BYTES, BadRecord, Entry, LogIndex, Term, decode_entries, record_size
from trio_raft._storage.entry_map import EntryMap, split_location
from trio_raft._storage.files import Files, storage_errors
from trio_raft._storage.segments import segment_path

CHUNK_BYTES = 64 << 10
"""Read at a time; a longer record is read by itself."""


@attrs.frozen(eq=False)
class ReadPlan:
    """Contiguous entries to read."""

    first: LogIndex
    locations: "array[int]"
    term_runs: Sequence[tuple[LogIndex, Term]]
    """Which term each entry has to have."""
    max_bytes: int
    """Stop before an entry that would take the bytes after the first one above this."""

    @property
    def first_segment(self) -> int:
        """The oldest segment that is read from; entries stand in the order of their places."""
        return split_location(self.locations[0])[0]


def plan_entries(entries: EntryMap, first: LogIndex, last: LogIndex, *, max_bytes: int) -> ReadPlan:
    """Raises AssertionError if one of these entries is not on disk."""
    base, on_disk = entries.base.index, entries.last_index
    if not base < first <= last <= on_disk:
        raise AssertionError(f"entries {first} to {last} were asked for, {base + 1} to {on_disk} are on disk")
    # No more can fit, and slicing less is cheaper.
    last = LogIndex(min(last, first + max_bytes // RECORD_HEADER_BYTES))
    locations = entries.locations[first - base - 1 : last - base]
    return ReadPlan(first, locations, entries.runs_between(first, last), max_bytes)


def read_entries(plan: ReadPlan, files: Files, directory: Path) -> list[Entry]:
    """At least the first entry of the plan.  Raises LogCorrupt, StorageError."""
    entries: list[Entry] = []
    room = plan.max_bytes
    reader = _Reader(files, directory)
    runs = list(reversed(plan.term_runs))
    _, term = runs.pop()
    try:
        for index, location in enumerate(plan.locations, start=plan.first):
            if runs and runs[-1][0] == index:
                _, term = runs.pop()
            entry = reader.entry(location, index=LogIndex(index), term=term)
            if entries and (room := room - len(entry.record)) < 0:
                break
            entries.append(entry)
    finally:
        reader.close()
    return entries


class _Reader:
    """One segment at a time, in chunks."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._number = 0
        self._path = directory
        self._descriptor: int | None = None
        self._chunk = b""
        self._start = 0
        """Where the chunk was read from."""

    def entry(self, location: int, *, index: LogIndex, term: Term) -> Entry:
        """The entry that stands there, if it is the one with this index and term.  Raises LogCorrupt, StorageError."""
        number, offset = split_location(location)
        if number != self._number:
            self._turn_to(number)
        header = self._bytes(offset, RECORD_HEADER_BYTES)
        record = self._bytes(offset, record_size(int.from_bytes(header[4:8], "little")))
        try:
            if not record:
                raise BadRecord("the file ends before it", offset=0)
            [entry] = decode_entries(record)
            if entry.index != index or entry.term != term:
                raise BadRecord(f"{entry} stands in the place of one of term {term}", offset=0)
        except BadRecord as error:
            raise LogCorrupt(self._path, offset=offset, index=index, problem=error.reason) from error
        return entry

    def close(self) -> None:
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor, self._chunk = None, b""

    def _turn_to(self, number: int) -> None:
        self.close()
        self._path, self._number = segment_path(self._directory, number), number
        with storage_errors(self._path, "reading"):
            self._descriptor = self._files.open(self._path, write=False)

    def _bytes(self, offset: int, size: int) -> bytes:
        at = offset - self._start
        if not 0 <= at <= len(self._chunk) - size and self._descriptor is not None:
            with storage_errors(self._path, "reading"):
                chunk = self._files.read(self._descriptor, size=max(size, CHUNK_BYTES), offset=offset)
            self._chunk, self._start, at = chunk, offset, 0
        return self._chunk[at : at + size]
