"""What stands in a directory of segments: the state it amounts to, where the log ends, and whether it is sound.

Batch n + 1 is written only after the sync of batch n returned, so a crash can harm the last batch alone.  What a
power cut does to it: some of its sectors were written, others still hold the zeros that they were prepared with.
Everything else is damage, and a node that starts on a damaged log may forget what it promised.  So the first bad
batch is a *torn tail* only if its header's sector is all zero, or if its header is valid and more of its sectors
are zero than the header says; and if nothing behind it contradicts that:

* no valid header of a later batch, neither in this segment nor in a later one,
* no byte but zeros beyond the longest batch that can have been written there.

Otherwise ``LogCorrupt`` names the place.  Nor does a sector of zeros end the log, until all the rest is seen to be
zero.  A segment's first batch, its description, is judged by the same rules; a segment whose description was torn
holds nothing else, and is thrown away like one that was prepared and never used.

The log may begin with a later segment than the first: older ones were removed.  Then that segment's description says
where the log went on, and what was in force.  Entries in it may still go below that, if they removed older ones.

House rule: nothing here writes.  ``scan`` reads everything and judges; only then may ``repair`` change files.
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import attrs

from trio_raft._errors import DirectoryMismatch, IncompatibleVersion, LogCorrupt
from trio_raft._records import (
    RECORD_HEADER_BYTES,
    BadRecord,
    Entry,
    EntryKind,
    LogIndex,
    Term,
    decode_entries,
)
from trio_raft._storage.entry_map import DurableState, place
from trio_raft._storage.files import Files, storage_errors
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    FORMAT_VERSION,
    MAX_DESCRIPTION_BYTES,
    SECTOR_BYTES,
    BatchHeader,
    Description,
    NewerFormat,
    blank_description,
    count_zero_sectors,
    decode_batch_header,
    decode_description,
    decode_description_header,
    encode_description,
    is_whole,
    item_of,
    sectors_up,
    used_bytes,
)
from trio_raft._storage.found import Found, FoundMarker, FoundSegment, Torn
from trio_raft._storage.locations import MAX_SEGMENT_BYTES
from trio_raft._storage.segments import segment_path
from trio_raft.abc import SaveBootstrap, SaveSnapshot, SaveVote, SnapshotPoint, StoreIdentity

_RECORD = struct.Struct("<4xIQQH")
_PLAIN_COMMAND = int(EntryKind.COMMAND)
"""Kind and flags of a command without flags, read as one number."""

_LOT = 256
"""Commands of one length that are looked at together; where that fails, so many as ``_SINGLES`` are one by one."""

_SINGLES = 64

_SAME_BYTES = (*range(4, 8), *range(16, 26))
"""Where, in the headers of such commands, the length, the term, the kind and the flags stand."""

_INDEX_BYTES = range(8, 16)


def after_last_gap(numbers: Sequence[int]) -> int:
    """How many of these ascending numbers stand before the last gap; 0 without one, wherever they begin."""
    return max((place for place in range(1, len(numbers)) if numbers[place] != numbers[place - 1] + 1), default=0)


def scan(
    files: Files, directory: Path, numbers: Sequence[int], identity: StoreIdentity | None, *, memory_bytes: int
) -> Found:
    """Read and judge these segments, one at a time; ``numbers`` ascend, and may begin above 1.

    ``identity``: whose log this has to be; None: whoever's.  Raises LogCorrupt, IncompatibleVersion,
    DirectoryMismatch, StorageError.
    """
    scanner = _Scanner(directory, identity, memory_bytes)
    for expected, number in enumerate(numbers, start=numbers[0] if numbers else 1):
        path = segment_path(directory, number)
        if number != expected:
            scanner.refuse(expected, 0, f"the file is missing, while {path.name} is there")
        with storage_errors(path, "reading"):
            descriptor = files.open(path, write=False)
            try:
                size = min(files.size(descriptor), MAX_SEGMENT_BYTES)
                data = files.read(descriptor, size=size, offset=0)
            finally:
                files.close(descriptor)
        scanner.segment(number, data)
        del data  # before the next one is read
    return scanner.found


class _Scanner:
    """Walks the batches in order and keeps what they say."""

    def __init__(self, directory: Path, identity: StoreIdentity | None, memory_bytes: int) -> None:
        self._directory = directory
        self._identity = identity
        self._memory_bytes = memory_bytes
        self._recent_bytes = 0
        self._unused_length = 0
        self.found = Found(DurableState())

    def refuse(self, number: int, offset: int, problem: str) -> NoReturn:
        """The log is corrupt here."""
        index = self.found.state.entries.last_index + 1
        raise LogCorrupt(segment_path(self._directory, number), offset=offset, index=index, problem=problem)

    # --------------------------------------------------------------------------------------- segments

    def segment(self, number: int, data: bytes) -> None:
        """The next segment."""
        found = self.found
        used = used_bytes(data)
        if used and (found.torn or found.unused):
            at = found.torn or Torn(found.unused[0], 0, 0)
            name = segment_path(self._directory, number).name
            self.refuse(at.number, at.offset, f"a batch is missing here, but the log goes on in {name}")
        header = decode_description_header(data, segment_number=number)
        if found.active is None and not found.unused and number > 1:
            if header is None or not is_whole(header, data, 0):
                self.refuse(number, 0, "the log has to begin here, and there is no description that says how")
            found.state.batch_number = header.number - 1
        if not used:
            self._unused(number, len(data))
        elif header and header.number == found.state.batch_number + 1 and is_whole(header, data, 0):
            found.active = self._description(number, data, header)
            self._batches(found.active, data, used, sectors_up(header.length))
            path = segment_path(self._directory, number)
            last = found.state.batch_number
            found.segments.append(FoundSegment(found.active, path, header.number, last, found.end))
        else:
            self._bad_batch(number, data, used, 0, header, longest=self._longest_description(number))
            self._unused(number, len(data))

    def _unused(self, number: int, length: int) -> None:
        # One segment is prepared completely before the next is created: only the newest may be short.
        if self.found.unused and length > self._unused_length:
            self.refuse(self.found.unused[-1], self._unused_length, "the file was shortened")
        self._unused_length = length
        self.found.unused.append(number)

    def _description(self, number: int, data: bytes, header: BatchHeader) -> Description:
        """What the first batch says; it must be what the batches before it amount to."""
        path = segment_path(self._directory, number)
        try:
            found = decode_description(data, header)
        except NewerFormat as error:
            raise IncompatibleVersion(str(path), found=error.version, supported=FORMAT_VERSION) from error
        except BadRecord as error:
            self.refuse(number, 0, error.reason)
        if self._identity is None:
            self._identity = StoreIdentity(found.cluster_id, found.node_id, found.incarnation)
        for field in ("cluster_id", "node_id"):
            owner, expected = getattr(found, field), getattr(self._identity, field)
            if owner != expected:
                raise DirectoryMismatch(self._directory, field, found=owner, expected=expected)
        if len(data) != found.segment_bytes:
            self.refuse(number, len(data), f"the file has {len(data)} bytes instead of {found.segment_bytes}")
        self._take_over(found)
        due = self._due_description(number, like=found)
        if found != due:
            self.refuse(number, 0, f"its description is {found}, but the log before it amounts to {due}")
        return found

    def _take_over(self, description: Description) -> None:
        """What only the description knows, since older segments are gone."""
        state, base = self.found.state, description.first_index - 1
        configuration = description.configuration_index
        if self.found.active is None and description.segment_number > 1:
            state.vote, state.bootstrap = description.vote, description.bootstrap
            state.entries.begin_at(SnapshotPoint(LogIndex(base), Term(0)), configuration=configuration)
            self.found.base_is_known = False
        elif state.entries.configuration_index <= state.entries.base.index >= configuration:
            state.entries.configuration_below = configuration

    def _due_description(self, number: int, *, like: Description) -> Description:
        before = self.found.active
        incarnation = before.incarnation if before else like.incarnation
        return attrs.evolve(self.found.state.describe(like), segment_number=number, incarnation=incarnation)

    def _longest_description(self, number: int) -> int:
        """Bytes that a description written here can have taken at most."""
        if self._identity is None:
            return MAX_DESCRIPTION_BYTES
        blank = blank_description(self._identity, segment_bytes=MAX_SEGMENT_BYTES)
        return len(encode_description(self._due_description(number, like=blank), number=0))

    # --------------------------------------------------------------------------------------- batches

    def _batches(self, description: Description, data: bytes, used: int, offset: int) -> None:
        """The batches behind a description that ends at ``offset``; ``used`` is where only zeros follow."""
        found, number = self.found, description.segment_number
        start = 0
        while True:
            found.state.batch_number += 1
            found.end = offset
            if used <= offset:
                found.last_batch = data[start:offset]
                return
            header = decode_batch_header(data, offset, salt=description.nonce)
            due = found.state.batch_number + 1
            if header is None or header.number != due or not is_whole(header, data, offset):
                found.last_batch = data[start:offset]
                self._no_later_batch(description, data, used, offset)
                self._bad_batch(number, data, used, offset, header, longest=description.longest_batch)
                return
            self._records(number, data, offset, header)
            start, offset = offset, offset + sectors_up(header.length)

    def _no_later_batch(self, description: Description, data: bytes, used: int, offset: int) -> None:
        due = self.found.state.batch_number + 1
        for at in range(offset + SECTOR_BYTES, used, SECTOR_BYTES):
            later = decode_batch_header(data, at, salt=description.nonce)
            if later and later.number > due:
                problem = f"batch {due} is damaged, but batch {later.number} follows at byte {at}"
                self.refuse(description.segment_number, offset, problem)

    def _bad_batch(
        self, number: int, data: bytes, used: int, offset: int, header: BatchHeader | None, *, longest: int
    ) -> None:
        """Torn, or corrupt?  Returns if it was torn."""
        due = self.found.state.batch_number + 1
        if header is not None:
            longest = sectors_up(header.length)
            end = offset + longest
            if header.number != due or end > len(data):
                problem = f"batch {header.number} of {header.length} bytes, where batch {due} belongs"
                self.refuse(number, offset, problem)
            if count_zero_sectors(data, start=offset, end=end) <= header.zero_sectors:
                self.refuse(number, offset, f"the records of batch {due} do not match their checksum")
        elif data[offset : offset + SECTOR_BYTES].strip(b"\0"):
            self.refuse(number, offset, f"there is something other than batch {due}, which belongs here")
        if used > offset + longest:
            self.refuse(number, offset, f"batch {due} is missing, but at byte {used - 1} there is something")
        self.found.torn = Torn(number, offset, used - offset)

    # --------------------------------------------------------------------------------------- records

    def _records(self, number: int, data: bytes, offset: int, header: BatchHeader) -> None:
        """Take in the records of a batch that is whole.

        Nearly all are commands, each following the one before it, and those take the short way: a large log has to
        be read within seconds.  Where they are of one length, there is a shorter one.  Their own checksums are not
        needed here, where the batch's was right.
        """
        entries = self.found.state.entries
        offsets, unpack = entries.locations.offsets_in(number), _RECORD.unpack_from
        at, end, count = offset + BATCH_HEADER_BYTES, offset + header.length, 0
        next_index, last_term = entries.last_index + 1, entries.run_term
        singles_until = 0
        while end - at >= RECORD_HEADER_BYTES:
            if count >= singles_until:
                size = _size_in_lot(data, at, end, index=next_index, term=last_term)
                if size:
                    offsets.extend(range(at, at + _LOT * size, size))
                    at, count, next_index = at + _LOT * size, count + _LOT, next_index + _LOT
                    continue
                singles_until = count + _SINGLES
            length, index, term, kind_and_flags = unpack(data, at)
            behind = at + RECORD_HEADER_BYTES + length + (-length & 7)
            if index == next_index and term == last_term and kind_and_flags == _PLAIN_COMMAND:
                offsets.append(at)
                next_index += 1
            else:
                self._record(number, at, data[at:behind])
                next_index, last_term = entries.last_index + 1, entries.run_term
            at = behind
            count += 1
        if at != end or count != header.records:
            self.refuse(number, offset, f"{count} records, not {header.records}, end {end - at} bytes early")
        self._remember(number, offset + BATCH_HEADER_BYTES, data[offset + BATCH_HEADER_BYTES : end])

    def _record(self, number: int, offset: int, record: bytes) -> None:
        """Any record."""
        state = self.found.state
        try:
            [entry] = decode_entries(record)
            match item_of(entry):
                case Entry():
                    self._make_way(entry.index)
                    placement, _ = place([entry], [record], segment=number, offset=offset)
                    state.entries.add(placement)
                case SaveVote() as vote:
                    if vote.term < state.vote.term:
                        raise ValueError(f"the term falls from {state.vote.term} to {vote.term}")
                    state.vote = vote
                case SaveBootstrap() as bootstrap:
                    state.bootstrap = bootstrap
                case SaveSnapshot() as marker:
                    path = segment_path(self._directory, number)
                    self.found.markers.append(FoundMarker(path, offset, marker))
                    self._take_in(marker)
        except BadRecord as error:
            self.refuse(number, offset, error.reason)
        except ValueError as error:
            self.refuse(number, offset, str(error))

    def _make_way(self, index: LogIndex) -> None:
        """The log may begin with a segment in which an entry removed some of the segments before it."""
        found, base = self.found, self.found.state.entries.base
        if not found.base_is_known and 1 <= index <= base.index:
            found.state.entries.begin_at(SnapshotPoint(LogIndex(index - 1), Term(0)))

    def _take_in(self, marker: SaveSnapshot) -> None:
        found, entries, point = self.found, self.found.state.entries, marker.point
        if marker.keep and not found.base_is_known and point.index <= entries.base.index:
            # It kept entries of segments that were removed since.
            return
        entries.take_in(marker)
        found.base_is_known = True

    def _remember(self, number: int, offset: int, records: bytes) -> None:
        recent = self.found.recent
        recent.append((segment_path(self._directory, number), offset, records))
        self._recent_bytes += len(records)
        while recent and self._recent_bytes - len(recent[0][2]) >= self._memory_bytes:
            self._recent_bytes -= len(recent.popleft()[2])


def _size_in_lot(data: bytes, at: int, end: int, *, index: int, term: Term | None) -> int:
    """The size of the record there, if a lot of plain commands like it begin with it, and of this index on; else 0.

    Byte by byte of their headers, each of all of them at once: that takes a fraction of what looking at one after the
    other does.
    """
    length, first_index, first_term, kind_and_flags = _RECORD.unpack_from(data, at)
    size: int = RECORD_HEADER_BYTES + length + (-length & 7)
    stop = at + _LOT * size
    if first_index != index or first_term != term or kind_and_flags != _PLAIN_COMMAND or stop > end:
        return 0
    if _RECORD.unpack_from(data, stop - size) != (length, index + _LOT - 1, term, kind_and_flags):
        return 0
    for byte in _SAME_BYTES:
        if data[at + byte : stop : size] != data[at + byte : at + byte + 1] * _LOT:
            return 0
    indexes = array("Q", range(index, index + _LOT))
    if sys.byteorder == "big":
        indexes.byteswap()
    due = indexes.tobytes()
    if any(data[at + byte : stop : size] != due[byte - _INDEX_BYTES[0] :: 8] for byte in _INDEX_BYTES):
        return 0
    return size
