"""The record: one log entry, encoded once.

The leader encodes an entry when it is proposed.  The same bytes then go into its own log file, onto the wire to
every follower, and from the wire into the followers' log files; only message headers pass through a converter.  An
``Entry`` therefore *is* its record, plus the three numbers that the rules ask for all the time.

Layout, little-endian, 32 bytes of header::

    crc32 u32 · data length u32 · index u64 · term u64 · kind u8 · flags u8 · reserved u16, u32 (zero) · data · padding

The padding is zeros up to a multiple of 8 bytes, on the wire too.  The checksum covers everything after itself.
Unknown kinds, flags and non-zero reserved bytes are refused, never skipped: a reader that skips what it does not know
would apply a different history than the writer.

House rule: this module knows bytes and nothing else.
"""

import enum
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, count, repeat
from typing import Any, NewType, cast

import attrs

Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)

RECORD_HEADER_BYTES = 32
"""Size of a record's fixed part; data and padding follow."""

_AFTER_CHECKSUM = struct.Struct("<IQQBBHI")
_CHECKSUM = struct.Struct("<I")
_NUMBERS = struct.Struct("<IIQQQ")
"""A header whose last fields, from the kind on, are read as one number."""
_PADDING = tuple(bytes(-length % 8) for length in range(8))
KIND_AT = 24
"""Where the kind stands in a record."""
_LENGTH_AT = 4
"""Where the lowest byte of the length stands: it says how much of a record is padding."""


class EntryKind(enum.IntEnum):
    """What a record means.  The numbers are the wire and file format: never reuse one."""

    COMMAND = 1
    """A command for the state machine."""

    NO_OP = 2
    """Opens a leader's term, so that it may commit (paper section 8)."""

    CONFIGURATION = 3
    """A cluster configuration (paper section 6)."""

    VOTE = 16
    """Log file only: the term and the vote given in it."""

    SNAPSHOT_MARKER = 17
    """Log file only: a snapshot replaced the log up to an index."""

    BOOTSTRAP = 18
    """Log file only: the map of member ids to incarnations, and whether all members confirmed it."""


ENTRY_KINDS = frozenset({EntryKind.COMMAND, EntryKind.NO_OP, EntryKind.CONFIGURATION})
"""Kinds that are entries of the replicated log; only these may arrive from a peer."""

_KINDS_BY_NUMBER = {int(kind): kind for kind in EntryKind}
"""By everything that follows the term in a header, as one number: this version knows no flags, and what is reserved is
zero.  Two bits of the flags have a meaning to come: 1 compression, 2 encryption."""


class BadRecord(Exception):
    """Bytes that are not a valid record.

    ``offset`` is where the record starts in the buffer that was read.  Whoever read the bytes translates this into
    the error of its own world: a broken peer on the wire, a damaged file in the log.
    """

    def __init__(self, reason: str, *, offset: int) -> None:
        super().__init__(f"{reason} (at byte {offset})")
        self.reason = reason
        self.offset = offset


@attrs.define(eq=False, repr=False)
class Entry:
    """One entry of the log.  Treat as immutable; not frozen, because freezing triples the cost of making one."""

    index: LogIndex
    term: Term
    kind: EntryKind
    record: bytes
    """The encoded entry, checksum and padding included."""

    @property
    def data(self) -> bytes:
        """The payload: an encoded command, or empty for a no-op."""
        record = self.record
        return record[RECORD_HEADER_BYTES : len(record) - (-record[_LENGTH_AT] & 7)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and self.record == other.record

    def __hash__(self) -> int:
        return hash(self.record)

    def __repr__(self) -> str:
        return f"Entry(index={self.index}, term={self.term}, {self.kind.name}, {len(self.record)} bytes)"


def make_entry(*, index: LogIndex, term: Term, kind: EntryKind, data: bytes) -> Entry:
    """Encode an entry, the one time that it is encoded."""
    length = len(data)
    body = _AFTER_CHECKSUM.pack(length, index, term, kind, 0, 0, 0) + data + _PADDING[length & 7]
    return Entry(index, term, kind, _CHECKSUM.pack(zlib.crc32(body)) + body)


def entries_of(records: Sequence[bytes]) -> list[Entry]:
    """The entries whose records these are, which nobody needs to check: they were made or checked here before."""
    if not records:
        return []
    _, _, indexes, terms, numbers = zip(*map(_NUMBERS.unpack_from, records), strict=True)
    return list(map(Entry, indexes, terms, map(_KINDS_BY_NUMBER.__getitem__, numbers), records))


def entries_in_term(records: Sequence[bytes], first: LogIndex, term: Term) -> list[Entry]:
    """The same, for less, where it is known that they begin at ``first`` and are all of this term."""
    kinds = [_KINDS_BY_NUMBER[record[KIND_AT]] for record in records]
    return list(
        map(Entry, cast("Sequence[LogIndex]", range(first, first + len(records))), repeat(term), kinds, records)
    )


def data_of(records: Sequence[bytes]) -> list[bytes]:
    """What ``Entry.data`` is of the entry of each record."""
    return [record[RECORD_HEADER_BYTES : len(record) - (-record[_LENGTH_AT] & 7)] for record in records]


def place_of(record: bytes) -> tuple[LogIndex, Term]:
    """The entry's index and term."""
    _, _, index, term, _ = _NUMBERS.unpack_from(record)
    return index, term


def record_size(data_length: int) -> int:
    """Bytes that a record with so many bytes of data takes."""
    return RECORD_HEADER_BYTES + data_length + (-data_length % 8)


def join_records(entries: Sequence[Entry]) -> bytes:
    """The bytes of several entries one after the other, as they stand on the wire and in a batch on disk."""
    return b"".join([entry.record for entry in entries])


def decode_entries(buffer: bytes) -> list[Entry]:
    """Split a buffer that holds whole records, and nothing else, into entries, checking every one.

    Raises BadRecord for a checksum mismatch, a record cut short, an unknown kind or flag, or non-zero reserved bytes.
    """
    records = decode_alike(buffer)
    if records is None:
        return decode_entries_between(buffer, 0, len(buffer))
    _, _, first, term, number = _NUMBERS.unpack_from(buffer)
    return list(map(Entry, count(first), repeat(term), repeat(_KINDS_BY_NUMBER[number]), records))


def follow(entries: Sequence[Entry], index: int, term: int) -> bool:
    """Do they stand right behind that place, without a gap, in terms that never fall?

    Asked for every batch, of entries that almost always do: so it is made of few, large steps.
    """
    if not entries:
        return True
    terms = [entry.term for entry in entries]
    if terms[0] < term or terms != sorted(terms):
        return False
    return [entry.index for entry in entries] == list(range(index + 1, index + 1 + len(entries)))


def decode_entries_between(buffer: bytes, offset: int, stop: int) -> list[Entry]:
    """The entries whose records begin at ``offset``, one behind the other, and before ``stop``, each checked.

    Raises as ``decode_entries`` does.
    """
    entries: list[Entry] = []
    append = entries.append
    unpack, checksum, kind_of = _NUMBERS.unpack_from, zlib.crc32, _KINDS_BY_NUMBER.get
    view, end = memoryview(buffer), len(buffer)
    while offset < stop:
        if end - offset < RECORD_HEADER_BYTES:
            raise BadRecord("the record's header is cut short", offset=offset)
        crc, length, index, term, number = unpack(buffer, offset)
        after = offset + RECORD_HEADER_BYTES + length + (-length & 7)
        if after > end:
            raise BadRecord(f"the record announces {length} bytes of data, which are not there", offset=offset)
        if checksum(view[offset + 4 : after]) != crc:
            raise BadRecord("the record's checksum does not match its bytes", offset=offset)
        kind = kind_of(number)
        if kind is None:
            what = f"kind {number & 0xFF} with flags {number >> 8:#x} is not known to this version"
            raise BadRecord(what, offset=offset)
        append(Entry(index, term, kind, buffer[offset:after]))
        offset = after
    return entries


def decode_alike(buffer: bytes) -> list[bytes] | None:
    """The records in a buffer of nothing but records alike, each checked; None if it is anything else.

    Alike are records of one size, one term and one kind, whose indexes follow each other: what an application often
    writes, and then they come by the thousand.  Each step here is one for all of them, which takes less than half the
    time.  What is amiss where they are not, ``decode_entries_between`` says.
    """
    if len(buffer) < _FEW_ALIKE * RECORD_HEADER_BYTES:
        return None
    _, length, first, _, number = _NUMBERS.unpack_from(buffer)
    size = record_size(length)
    several, rest = divmod(len(buffer), size)
    if rest or several < _FEW_ALIKE or size > _LARGE_ALIKE or number not in _KINDS_BY_NUMBER:
        return None
    if first > _LARGEST_INDEX - several:
        return None
    if not _have_like_headers(buffer, size, length, range(first, first + several)):
        return None
    checksums, covered, records = _splitters(size)
    if list(map(zlib.crc32, covered.split(buffer))) != list(checksums.split(buffer)):
        return None
    return list(records.split(buffer))


_FEW_ALIKE = 32
"""With fewer it is not worth it."""

_LARGE_ALIKE = 4096
"""Nor is it with larger ones: their bytes are copied once more."""

_LARGEST_INDEX = (1 << 64) - 1

_LIKE_BYTES = (*range(5, 8), *range(16, 32))
"""What has to be equal in the headers of records that are alike, but for the lowest byte of the length."""


def _have_like_headers(buffer: bytes, size: int, length: int, indexes: range) -> bool:
    """Byte by byte of the headers, each of all of them at once."""
    if any(buffer[byte::size].count(buffer[byte]) < len(indexes) for byte in _LIKE_BYTES):
        return False
    lengths, longest = buffer[_LENGTH_AT::size], (length & 0xFF) + (-length & 7)
    if min(lengths) < longest - 7 or max(lengths) > longest:
        return False
    numbers = array("Q", indexes)
    if sys.byteorder == "big":
        numbers.byteswap()
    due = numbers.tobytes()
    return all(buffer[8 + byte :: size] == due[byte::8] for byte in range(8))


class _Splitter:
    """Takes the same part out of each of many records of one size, many at a time."""

    def __init__(self, part: str) -> None:
        self._several = struct.Struct("<" + 32 * part)
        self._one = struct.Struct("<" + part)

    def split(self, buffer: bytes) -> Iterator[Any]:
        view, size = memoryview(buffer), self._several.size
        whole = len(buffer) // size * size
        return chain.from_iterable(chain(self._several.iter_unpack(view[:whole]), self._one.iter_unpack(view[whole:])))


@lru_cache(maxsize=64)
def _splitters(size: int) -> tuple[_Splitter, _Splitter, _Splitter]:
    """For the checksums of records of this size, what these cover, and the whole records."""
    return _Splitter(f"I{size - 4}x"), _Splitter(f"4x{size - 4}s"), _Splitter(f"{size}s")
