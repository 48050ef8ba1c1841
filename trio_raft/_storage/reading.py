"""Reading old entries back from their segments.

A plan holds the places of the entries, taken on the event loop; the reading happens in a thread, with descriptors
of its own.  A place never changes its contents, since segments only grow, and no segment is removed as long as a plan
that reads from it is alive.  So an entry that was superseded after the read was planned comes back as it was
planned, and whoever asked looks at its term again.

House rule: nothing leaves here unchecked: checksum, index and term.
"""

import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import attrs

from trio_raft._errors import LogCorrupt
from trio_raft._records import (
    RECORD_HEADER_BYTES,
    BadRecord,
    Entry,
    EntryKind,
    LogIndex,
    Term,
    decode_entries_at,
    record_size,
)
from trio_raft._storage.entry_map import EntryMap, location_of, split_location
from trio_raft._storage.files import Files, storage_errors
from trio_raft._storage.segments import segment_path

CHUNK_BYTES = 64 << 10
"""Read at a time, and what the last record in it takes beyond."""

LEAST_BYTES = 4 << 10
"""Read for a record whose length is not known yet."""

_RECORD = struct.Struct("<IIQQQ")
_CHECKSUM_BYTES = 4
_PLAIN_COMMAND = int(EntryKind.COMMAND)
"""All that follows the term in the header of a command without flags, read as one number."""


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
    reader = _Reader(plan, files, directory)
    try:
        while len(entries) < len(plan.locations):
            found = reader.entries(len(entries))
            # The first entry of the plan counts for nothing.
            room += 0 if entries else len(found[0].record)
            room -= sum([len(entry.record) for entry in found])
            if room < 0:
                while room < 0:
                    room += len(found.pop().record)
                return entries + found
            entries += found
    finally:
        reader.close()
    return entries


class _Reader:
    """One segment at a time, in chunks."""

    def __init__(self, plan: ReadPlan, files: Files, directory: Path) -> None:
        self._plan = plan
        self._files = files
        self._directory = directory
        self._number = 0
        self._path = directory
        self._descriptor: int | None = None
        self._runs = list(reversed(plan.term_runs))
        _, self._term = self._runs.pop()

    def entries(self, place: int) -> list[Entry]:
        """Those of one chunk, from this place of the plan on: at least one.  Raises LogCorrupt, StorageError."""
        locations, start = self._plan.locations, self._plan.locations[place]
        number, offset = split_location(start)
        if number != self._number:
            self._turn_to(number)
        # A plan's entries that stand in one segment stand in order there.
        end = location_of(number + 1, 0)
        behind = bisect_left(locations, min(start + min(CHUNK_BYTES, self._plan.max_bytes), end), place + 1)
        offsets = [location - start for location in locations[place:behind]]
        # The last record ends before the next one begins.
        known = locations[behind] if behind < len(locations) and locations[behind] < end else start + offsets[-1]
        index = LogIndex(self._plan.first + place)
        try:
            chunk = self._chunk(offset, offsets[-1], max(known - start, offsets[-1] + LEAST_BYTES))
            entries = self._decode(chunk, offsets, index)
        except BadRecord as error:
            index = LogIndex(index + offsets.index(error.offset))
            raise LogCorrupt(self._path, offset=offset + error.offset, index=index, problem=error.reason) from error
        return entries

    def close(self) -> None:
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None

    def _turn_to(self, number: int) -> None:
        self.close()
        self._path, self._number = segment_path(self._directory, number), number
        with storage_errors(self._path, "reading"):
            self._descriptor = self._files.open(self._path, write=False)

    def _chunk(self, offset: int, last: int, size: int) -> bytes:
        """About ``size`` bytes from ``offset`` on, the whole of the record that begins ``last`` further on included.

        Raises BadRecord if the file ends before that.
        """
        chunk = self._read(offset, size)
        if len(chunk) < last + RECORD_HEADER_BYTES:
            raise BadRecord("the file ends before it", offset=last)
        missing = last + record_size(int.from_bytes(chunk[last + 4 : last + 8], "little")) - len(chunk)
        return chunk + self._read(offset + len(chunk), missing) if missing > 0 else chunk

    def _read(self, offset: int, size: int) -> bytes:
        if self._descriptor is None:
            raise AssertionError("no segment is open")
        with storage_errors(self._path, "reading"):
            return self._files.read(self._descriptor, size=size, offset=offset)

    def _decode(self, chunk: bytes, offsets: Sequence[int], index: LogIndex) -> list[Entry]:
        """The entries at these places, which have to be those of these indexes, in their terms.  Raises BadRecord.

        Nearly all are commands of one term, and those take the short way: to apply a long log again means to read all
        of it.  Whatever that finds amiss is looked at by ``_decode_one``.
        """
        entries: list[Entry] = []
        append, unpack, checksum, kind = entries.append, _RECORD.unpack_from, zlib.crc32, EntryKind.COMMAND
        due_term, next_run = self._term, self._runs[-1][0] if self._runs else 0
        for offset in offsets:
            if index == next_run:
                _, self._term = self._runs.pop()
                due_term, next_run = self._term, self._runs[-1][0] if self._runs else 0
            crc, length, found, term, number = unpack(chunk, offset)
            record = chunk[offset : offset + RECORD_HEADER_BYTES + length + (-length & 7)]
            if (
                found != index
                or term != due_term
                or number != _PLAIN_COMMAND
                or checksum(record[_CHECKSUM_BYTES:]) != crc
            ):
                append(self._decode_one(chunk, offset, index))
            else:
                append(Entry(index, term, kind, record))
            index = LogIndex(index + 1)
        return entries

    def _decode_one(self, chunk: bytes, offset: int, index: LogIndex) -> Entry:
        [entry] = decode_entries_at(chunk, [offset])
        if entry.index != index or entry.term != self._term:
            raise BadRecord(f"{entry} stands in the place of one of term {self._term}", offset=offset)
        return entry
