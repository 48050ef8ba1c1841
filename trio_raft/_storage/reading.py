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
from bisect import bisect_left, bisect_right
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
    decode_alike,
    decode_entries_between,
    entries_in_term,
    place_of,
    record_size,
)
from trio_raft._storage.entry_map import EntryMap
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

_ONE_BY_ONE = 64
"""So many are looked at one by one before the next are taken for alike again."""


@attrs.frozen(eq=False)
class ReadPlan:
    """Contiguous entries to read."""

    first: LogIndex
    offsets: "array[int]"
    segments: Sequence[tuple[int, int]]
    """Where among the offsets each segment begins, and its number; never empty."""
    term_runs: Sequence[tuple[LogIndex, Term]]
    """Which term each entry has to have."""
    max_bytes: int
    """Stop before an entry that would take the bytes after the first one above this."""

    @property
    def first_segment(self) -> int:
        """The oldest segment that is read from; entries stand in the order of their places."""
        return self.segments[0][1]


def plan_entries(entries: EntryMap, first: LogIndex, last: LogIndex, *, max_bytes: int) -> ReadPlan:
    """Raises AssertionError if one of these entries is not on disk."""
    base, on_disk = entries.base.index, entries.last_index
    if not base < first <= last <= on_disk:
        raise AssertionError(f"entries {first} to {last} were asked for, {base + 1} to {on_disk} are on disk")
    # No more can fit, and slicing less is cheaper.
    last = LogIndex(min(last, first + max_bytes // RECORD_HEADER_BYTES))
    offsets, segments = entries.locations.between(first - base - 1, last - base)
    return ReadPlan(first, offsets, segments, entries.runs_between(first, last), max_bytes)


def read_entries(plan: ReadPlan, files: Files, directory: Path) -> list[Entry]:
    """At least the first entry of the plan.  Raises LogCorrupt, StorageError."""
    records = read_records(plan, files, directory)
    entries: list[Entry] = []
    ends = [first for first, _ in plan.term_runs[1:]] + [LogIndex(plan.first + len(records))]
    for (_, term), end in zip(plan.term_runs, ends, strict=True):
        first = LogIndex(plan.first + len(entries))
        entries += entries_in_term(records[len(entries) : end - plan.first], first, term)
    return entries


def read_records(plan: ReadPlan, files: Files, directory: Path) -> list[bytes]:
    """Those of at least the first entry of the plan.  Raises LogCorrupt, StorageError."""
    records: list[bytes] = []
    room = plan.max_bytes
    reader = _Reader(plan, files, directory)
    try:
        while len(records) < len(plan.offsets):
            found = reader.records(len(records))
            # The first entry of the plan counts for nothing.
            room += 0 if records else len(found[0])
            room -= sum(map(len, found))
            if room < 0:
                while room < 0:
                    room += len(found.pop())
                return records + found
            records += found
    finally:
        reader.close()
    return records


class _Reader:
    """One segment at a time, in chunks."""

    def __init__(self, plan: ReadPlan, files: Files, directory: Path) -> None:
        self._plan = plan
        self._files = files
        self._directory = directory
        self._number = 0
        self._path = directory
        self._descriptor: int | None = None
        self._segments = list(reversed(plan.segments))
        """The one in force last."""
        self._runs = list(reversed(plan.term_runs))
        """Likewise."""

    def records(self, place: int) -> list[bytes]:
        """Those of one chunk, from this place of the plan on: at least one.  Raises LogCorrupt, StorageError."""
        offsets, start = self._plan.offsets, self._plan.offsets[place]
        number, end = self._segment_at(place)
        if number != self._number:
            self._turn_to(number)
        # A plan's entries that stand in one segment stand in order there.
        behind = bisect_left(offsets, start + min(CHUNK_BYTES, self._plan.max_bytes), place + 1, end)
        last = offsets[behind - 1] - start
        # The last record ends before the next one begins.
        known = offsets[behind] if behind < end else start + last
        records: list[bytes] = []
        try:
            chunk = self._chunk(start, last, max(known - start, last + LEAST_BYTES))
            while place < behind:
                found = self._decode(chunk, start, place, behind)
                records += found
                place += len(found)
        except BadRecord as error:
            where = start + error.offset
            index = LogIndex(self._plan.first + bisect_left(offsets, where, place, end))
            raise LogCorrupt(self._path, offset=where, index=index, problem=error.reason) from error
        return records

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

    def _decode(self, chunk: bytes, start: int, place: int, behind: int) -> list[bytes]:
        """The next of these records, at least one; the chunk begins at ``start``.  Raises BadRecord.

        Nearly all stand one behind the other and are alike, and those are taken together: to apply a long log again
        means to read all of it.  Whatever is amiss with them is found when they are looked at one by one.
        """
        offsets, index = self._plan.offsets, LogIndex(self._plan.first + place)
        term, next_run = self._term_at(index)
        run_end = _end_of_run(offsets, place, min(behind, place + next_run - index))
        if run_end - place > 1:
            at, stride = offsets[place] - start, offsets[place + 1] - offsets[place]
            records = decode_alike(chunk[at : at + (run_end - place) * stride])
            if records and len(records) == run_end - place and place_of(records[0]) == (index, term):
                return records
        within = [offset - start for offset in offsets[place : min(run_end, place + _ONE_BY_ONE)]]
        return self._decode_each(chunk, within, index, term)

    def _decode_each(self, chunk: bytes, offsets: Sequence[int], index: LogIndex, term: Term) -> list[bytes]:
        """The records at these places.  Nearly all are commands; whatever seems amiss is looked at more closely."""
        records: list[bytes] = []
        unpack, checksum = _RECORD.unpack_from, zlib.crc32
        for due, offset in enumerate(offsets, start=index):
            crc, length, found, term_found, number = unpack(chunk, offset)
            record = chunk[offset : offset + RECORD_HEADER_BYTES + length + (-length & 7)]
            sound = checksum(record[_CHECKSUM_BYTES:]) == crc
            if not sound or found != due or term_found != term or number != _PLAIN_COMMAND:
                record = self._decode_one(chunk, offset, LogIndex(due), term)
            records.append(record)
        return records

    def _decode_one(self, chunk: bytes, offset: int, index: LogIndex, term: Term) -> bytes:
        [entry] = decode_entries_between(chunk, offset, offset + 1)
        if entry.index != index or entry.term != term:
            raise BadRecord(f"{entry} stands in the place of one of term {term}", offset=offset)
        return entry.record

    def _segment_at(self, place: int) -> tuple[int, int]:
        """The number of the segment in which that entry stands, and the place from which on it is another one."""
        segments = self._segments
        while len(segments) > 1 and segments[-2][0] <= place:
            segments.pop()
        return segments[-1][1], segments[-2][0] if len(segments) > 1 else len(self._plan.offsets)

    def _term_at(self, index: LogIndex) -> tuple[Term, LogIndex]:
        """The term that the entry has to have, and the index from which on it is another one."""
        runs = self._runs
        while len(runs) > 1 and runs[-2][0] <= index:
            runs.pop()
        return runs[-1][1], runs[-2][0] if len(runs) > 1 else LogIndex(self._plan.first + len(self._plan.offsets))


def _end_of_run(offsets: "array[int]", place: int, behind: int) -> int:
    """Behind the last one that stands where it would if all from this place on were of one size.

    All are in one segment.  Found by bisection, since behind the end of a batch everything stands farther on.  Where
    sizes differ that may be wrong, and whoever takes the records for alike finds out.
    """
    if place + 1 >= behind:
        return behind
    stride = offsets[place + 1] - offsets[place]
    due = offsets[place] - place * stride
    if offsets[behind - 1] - (behind - 1) * stride == due:
        return behind
    return bisect_right(range(behind), due, lo=place + 1, key=lambda at: offsets[at] - at * stride)
