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

House rule: nothing here writes.  ``scan`` reads everything and judges; only then may ``repair`` change files.
"""

import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import attrs

from trio_raft._errors import DirectoryMismatch, IncompatibleVersion, LogCorrupt
from trio_raft._records import (
    ENTRY_KINDS,
    RECORD_HEADER_BYTES,
    BadRecord,
    Entry,
    EntryKind,
    decode_entries,
)
from trio_raft._storage.entry_map import MAX_SEGMENT_BYTES, DurableState, location_of, place
from trio_raft._storage.files import Files, storage_errors
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    FORMAT_VERSION,
    SECTOR_BYTES,
    BatchHeader,
    Description,
    NewerFormat,
    blank_description,
    bootstrap_of,
    count_zero_sectors,
    decode_batch_header,
    decode_description,
    decode_description_header,
    encode_description,
    is_whole,
    sectors_up,
    vote_of,
)
from trio_raft._storage.segments import segment_path
from trio_raft.abc import StoreIdentity

_RECORD = struct.Struct("<4xIQQH")
_PLAIN_COMMAND = int(EntryKind.COMMAND)
"""Kind and flags of a command without flags, read as one number."""


@attrs.frozen
class Torn:
    """The remains of a write that a crash interrupted."""

    number: int
    """Of the segment."""
    offset: int
    size: int
    """Bytes up to the last one that is not zero."""


@attrs.define
class Found:
    """What a scan found."""

    state: DurableState
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


def scan(files: Files, directory: Path, numbers: Sequence[int], identity: StoreIdentity, *, memory_bytes: int) -> Found:
    """Read and judge all segments; ``numbers`` ascend.

    Raises LogCorrupt, IncompatibleVersion, DirectoryMismatch, StorageError.
    """
    scanner = _Scanner(directory, identity, memory_bytes)
    for expected, number in enumerate(numbers, start=1):
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
    return scanner.found


def recent_entries(found: Found, *, memory_bytes: int) -> tuple[Entry, ...]:
    """The newest entries that fit into so many bytes, each checked against its own checksum.  Raises LogCorrupt."""
    entries: deque[Entry] = deque()
    size = 0
    for path, offset, records in found.recent:
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
        while size > memory_bytes:
            size -= len(entries.popleft().record)
    return tuple(entries)


class _Scanner:
    """Walks the batches in order and keeps what they say."""

    def __init__(self, directory: Path, identity: StoreIdentity, memory_bytes: int) -> None:
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
        used = len(data.rstrip(b"\0"))
        if used and (found.torn or found.unused):
            at = found.torn or Torn(found.unused[0], 0, 0)
            name = segment_path(self._directory, number).name
            self.refuse(at.number, at.offset, f"a batch is missing here, but the log goes on in {name}")
        if not used:
            self._unused(number, len(data))
            return
        header = decode_description_header(data, segment_number=number)
        if header and header.number == found.state.batch_number + 1 and is_whole(header, data, 0):
            found.active = self._description(number, data, header)
            self._batches(found.active, data, used, sectors_up(header.length))
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
        for field in ("cluster_id", "node_id"):
            owner, expected = getattr(found, field), getattr(self._identity, field)
            if owner != expected:
                raise DirectoryMismatch(self._directory, field, found=owner, expected=expected)
        if len(data) != found.segment_bytes:
            self.refuse(number, len(data), f"the file has {len(data)} bytes instead of {found.segment_bytes}")
        due = self._due_description(number, like=found)
        if found != due:
            self.refuse(number, 0, f"its description is {found}, but the log before it amounts to {due}")
        return found

    def _due_description(self, number: int, *, like: Description) -> Description:
        before = self.found.active
        incarnation = before.incarnation if before else like.incarnation
        return attrs.evolve(self.found.state.describe(like), segment_number=number, incarnation=incarnation)

    def _longest_description(self, number: int) -> int:
        """Bytes that a description written here can have taken at most."""
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
        be read within seconds.  Their own checksums are not needed here, where the batch's was right.
        """
        entries = self.found.state.entries
        add, unpack, base = entries.locations.append, _RECORD.unpack_from, location_of(number, 0)
        at, end, count = offset + BATCH_HEADER_BYTES, offset + header.length, 0
        next_index, last_term = entries.last_index + 1, entries.last_term
        while end - at >= RECORD_HEADER_BYTES:
            length, index, term, kind_and_flags = unpack(data, at)
            behind = at + RECORD_HEADER_BYTES + length + (-length & 7)
            if index == next_index and term == last_term and kind_and_flags == _PLAIN_COMMAND:
                add(base + at)
                next_index += 1
            else:
                self._record(number, at, data[at:behind])
                next_index, last_term = entries.last_index + 1, entries.last_term
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
            if entry.kind in ENTRY_KINDS:
                placement, _ = place([entry], [record], location=location_of(number, offset))
                state.entries.add(placement)
            elif entry.kind is EntryKind.VOTE:
                vote = vote_of(entry)
                if vote.term < state.vote.term:
                    raise ValueError(f"the term falls from {state.vote.term} to {vote.term}")
                state.vote = vote
            elif entry.kind is EntryKind.BOOTSTRAP:
                state.bootstrap = bootstrap_of(entry)
            else:
                raise ValueError(f"a record of kind {entry.kind.name}, which this version does not write")
        except BadRecord as error:
            self.refuse(number, offset, error.reason)
        except ValueError as error:
            self.refuse(number, offset, str(error))

    def _remember(self, number: int, offset: int, records: bytes) -> None:
        recent = self.found.recent
        recent.append((segment_path(self._directory, number), offset, records))
        self._recent_bytes += len(records)
        while recent and self._recent_bytes - len(recent[0][2]) >= self._memory_bytes:
            self._recent_bytes -= len(recent.popleft()[2])
