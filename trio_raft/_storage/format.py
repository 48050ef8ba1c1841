"""What the bytes of a log file mean.

A log file, a *segment*, has a fixed length and begins as nothing but zeros.  It is filled with *batches*, each
written and synced as one.  A batch starts on a sector boundary, and its header lies within its first sector::

    magic 4s · length u32 · number u64 · records u32 · zero sectors u32 · checksum u32 · header checksum u32
    then the records, one after the other (``_records.py``), then zeros up to the next sector boundary

``length`` counts header and records, not the zeros behind them.  ``number`` grows by one from batch to batch, on
across segments.  ``zero sectors`` counts the batch's sectors that are legitimately all zero: after a power cut,
sectors that were not written are zero too, and this is how the two are told apart.  ``checksum`` is the CRC-32 of
the records.  The header checksum is salted with a nonce of the segment, so that a command which happens to contain
a piece of a log file cannot pass for a batch.

The first batch of a segment has a magic of its own, is salted with the segment's number (its nonce stands inside
it), and holds a *description* in place of records: u32 format version, u32 zero, then a msgpack map.  Magic, header
and version keep their places in every format version to come, so that an old program can name what it cannot read.

House rule: bytes in, values out; nothing here touches a file.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs
import msgpack

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import BadRecord, Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft.abc import SaveBootstrap, SaveSnapshot, SaveVote, SnapshotPoint, StoreIdentity

FORMAT_VERSION = 1
"""What this package writes, and the newest that it reads."""

SECTOR_BYTES = 512
"""A disk writes a sector whole or not at all."""

BATCH_HEADER_BYTES = 32

MAX_DESCRIPTION_BYTES = 64 << 10
"""Bytes of the first batch of a segment, header included; hundreds of members fit."""

NO_VOTE = SaveVote(Term(0), None)
"""What a new server starts with (paper Figure 2)."""

_BATCH = struct.Struct("<4sIQIIII")
_HEADER_CHECKSUM = struct.Struct("<I")
_CHECKED_BYTES = BATCH_HEADER_BYTES - _HEADER_CHECKSUM.size
_VERSION = struct.Struct("<II")
_BATCH_MAGIC = b"tRba"
_DESCRIPTION_MAGIC = b"tRsg"
_ZERO_SECTOR = bytes(SECTOR_BYTES)
_PLACE_FOR_HEADER = bytes(BATCH_HEADER_BYTES)
_PAGE_BYTES = 64 << 10
_ZERO_PAGE = bytes(_PAGE_BYTES)


def sectors_up(size: int) -> int:
    """Round bytes up to whole sectors."""
    return (size + SECTOR_BYTES - 1) & -SECTOR_BYTES


def used_bytes(data: bytes) -> int:
    """Up to the last byte that is not zero; without a copy of a whole segment."""
    for start in reversed(range(0, len(data), _PAGE_BYTES)):
        page = data[start : start + _PAGE_BYTES]
        # Compared first, which takes a tenth: what was only prepared is all zeros.
        if page != _ZERO_PAGE[: len(page)]:
            return start + len(page.rstrip(b"\0"))
    return 0


# ---------------------------------------------------------------------------------------------- batches


@attrs.frozen
class BatchHeader:
    """A header whose own checksum was right."""

    length: int
    number: int
    records: int
    zero_sectors: int
    checksum: int


def encode_batch(records: Sequence[bytes], *, number: int, salt: bytes) -> bytearray:
    """A batch of records, whole sectors long."""
    return _encode(_BATCH_MAGIC, records, len(records), number=number, salt=salt)


def _encode(magic: bytes, parts: Sequence[bytes], records: int, *, number: int, salt: bytes) -> bytearray:
    batch = bytearray().join((_PLACE_FOR_HEADER, *parts))
    length = len(batch)
    batch.extend(bytes(-length % SECTOR_BYTES))
    checksum = zlib.crc32(memoryview(batch)[BATCH_HEADER_BYTES:length])
    zeros = count_zero_sectors(batch, start=SECTOR_BYTES, end=len(batch))
    header = _BATCH.pack(magic, length, number, records, zeros, checksum, 0)[:_CHECKED_BYTES]
    batch[:BATCH_HEADER_BYTES] = header + _HEADER_CHECKSUM.pack(zlib.crc32(salt + header))
    return batch


def decode_batch_header(buffer: bytes, offset: int, *, salt: bytes) -> BatchHeader | None:
    """The header of a batch at ``offset``, or None if there is no valid one."""
    return _decode_header(_BATCH_MAGIC, buffer, offset, salt)


def decode_description_header(buffer: bytes, *, segment_number: int) -> BatchHeader | None:
    """The header of a segment's first batch, or None if there is no valid one."""
    return _decode_header(_DESCRIPTION_MAGIC, buffer, 0, _salt_of_number(segment_number))


def _decode_header(magic: bytes, buffer: bytes, offset: int, salt: bytes) -> BatchHeader | None:
    if not buffer.startswith(magic, offset) or len(buffer) - offset < BATCH_HEADER_BYTES:
        return None
    header = buffer[offset : offset + _CHECKED_BYTES]
    _, length, number, records, zeros, checksum, header_checksum = _BATCH.unpack_from(buffer, offset)
    if zlib.crc32(salt + header) != header_checksum or length < BATCH_HEADER_BYTES:
        return None
    return BatchHeader(length, number, records, zeros, checksum)


def is_whole(header: BatchHeader, buffer: bytes, offset: int) -> bool:
    """Are the records those that the header was made for, and is there nothing but zeros behind them?"""
    end = offset + header.length
    records = memoryview(buffer)[offset + BATCH_HEADER_BYTES : end]
    if len(records) != header.length - BATCH_HEADER_BYTES or zlib.crc32(records) != header.checksum:
        return False
    return not buffer[end : offset + sectors_up(header.length)].strip(b"\0")


def count_zero_sectors(buffer: bytes | bytearray, *, start: int, end: int) -> int:
    """How many sectors between two sector boundaries are all zero.

    Searching for a long run of zeros beats looking at every sector: most batches have none.
    """
    count = 0
    at = buffer.find(_ZERO_SECTOR, start, end)
    while at >= 0:
        at = sectors_up(at)
        while at < end and buffer.startswith(_ZERO_SECTOR, at):
            count += 1
            at += SECTOR_BYTES
        at = buffer.find(_ZERO_SECTOR, at, end)
    return count


# ------------------------------------------------------------------------------ records of the log alone


def vote_record(vote: SaveVote) -> bytes:
    """Term and vote in one checksummed record: both are there, or neither."""
    data = msgpack.packb(vote.voted_for)
    return make_entry(index=LogIndex(0), term=vote.term, kind=EntryKind.VOTE, data=data).record


def vote_of(entry: Entry) -> SaveVote:
    """Raises BadRecord if the record is none that ``vote_record`` makes."""
    voted_for = _unpack(entry.data)
    if voted_for is not None and not isinstance(voted_for, str):
        raise BadRecord("a vote for something that is no server", offset=0)
    return SaveVote(entry.term, None if voted_for is None else ServerId(voted_for))


def bootstrap_record(bootstrap: SaveBootstrap) -> bytes:
    """The members' incarnations, and whether all of them confirmed the map."""
    data = msgpack.packb(_bootstrap_to_plain(bootstrap))
    return make_entry(index=LogIndex(0), term=Term(0), kind=EntryKind.BOOTSTRAP, data=data).record


def bootstrap_of(entry: Entry) -> SaveBootstrap:
    """Raises BadRecord if the record is none that ``bootstrap_record`` makes."""
    bootstrap = _bootstrap_from_plain(_unpack(entry.data))
    if bootstrap is None:
        raise BadRecord("a bootstrap record without a map", offset=0)
    return bootstrap


def marker_record(marker: SaveSnapshot) -> bytes:
    """Index and term stand where an entry has them; the data says what became of the log."""
    point = marker.point
    data = msgpack.packb(marker.keep)
    return make_entry(index=point.index, term=point.term, kind=EntryKind.SNAPSHOT_MARKER, data=data).record


def marker_of(entry: Entry) -> SaveSnapshot:
    """Raises BadRecord if the record is none that ``marker_record`` makes."""
    keep = _unpack(entry.data)
    if not isinstance(keep, bool) or not entry.index:
        raise BadRecord("a snapshot marker that makes no sense", offset=0)
    return SaveSnapshot(SnapshotPoint(entry.index, entry.term), keep)


def item_of(entry: Entry) -> Entry | SaveVote | SaveBootstrap | SaveSnapshot:
    """What a record of a log file says: an entry of the log, or one of the things that only the file knows.

    Raises BadRecord.
    """
    match entry.kind:
        case EntryKind.VOTE:
            return vote_of(entry)
        case EntryKind.BOOTSTRAP:
            return bootstrap_of(entry)
        case EntryKind.SNAPSHOT_MARKER:
            return marker_of(entry)
        case _:
            return entry


# ---------------------------------------------------------------------------------------------- descriptions


@attrs.frozen(kw_only=True)
class Description:
    """What the first batch of a segment says: enough to start from here, once older segments are gone."""

    cluster_id: str
    node_id: ServerId
    incarnation: Incarnation
    segment_number: int
    segment_bytes: int
    """The full length of the file; a shorter one is damaged."""
    longest_batch: int
    """Bytes; no batch in this segment is longer."""
    nonce: bytes
    """Salts the headers of the segment's batches."""
    first_index: LogIndex
    """Of the entry that would have been the next when the segment became active.

    The first one in the segment may have a lower index: then it removed entries of older segments."""
    vote: SaveVote
    """In force then."""
    configuration_index: LogIndex
    """Of the last configuration entry that the log was known to hold then; 0: the newest snapshot says which
    configuration was in force, or without one it is the one that the cluster was first made of."""
    bootstrap: SaveBootstrap | None
    """In force then."""


def blank_description(identity: StoreIdentity, *, segment_bytes: int) -> Description:
    """What the first segment of a new log would say."""
    return Description(
        cluster_id=identity.cluster_id,
        node_id=identity.node_id,
        incarnation=identity.new_incarnation,
        segment_number=1,
        segment_bytes=segment_bytes,
        longest_batch=segment_bytes,
        nonce=make_nonce(identity.new_incarnation, segment_number=1),
        first_index=LogIndex(1),
        vote=NO_VOTE,
        configuration_index=LogIndex(0),
        bootstrap=None,
    )


class NewerFormat(Exception):
    """A description by a later version of this package."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}")
        self.version = version


def make_nonce(fresh: str, *, segment_number: int) -> bytes:
    """A nonce that no command can know in advance: ``fresh`` was drawn at random when the store was opened."""
    return hashlib.sha256(f"{fresh}/{segment_number}".encode()).digest()[:16]


def encode_description(description: Description, *, number: int) -> bytearray:
    """The first batch of a segment, whole sectors long.  Raises AssertionError if it is too long to be read back."""
    plain = attrs.asdict(description, recurse=False)
    plain["vote"] = [description.vote.term, description.vote.voted_for]
    plain["bootstrap"] = _bootstrap_to_plain(description.bootstrap)
    parts = [_VERSION.pack(FORMAT_VERSION, 0), msgpack.packb(plain)]
    salt = _salt_of_number(description.segment_number)
    batch = _encode(_DESCRIPTION_MAGIC, parts, 0, number=number, salt=salt)
    if len(batch) > MAX_DESCRIPTION_BYTES:
        raise AssertionError(f"a segment's description of {len(batch)} bytes exceeds {MAX_DESCRIPTION_BYTES}")
    return batch


def decode_description(buffer: bytes, header: BatchHeader) -> Description:
    """The description in a first batch that is whole.  Raises NewerFormat, or BadRecord if it makes no sense."""
    body = buffer[BATCH_HEADER_BYTES : header.length]
    if len(body) < _VERSION.size:
        raise BadRecord("a description without a format version", offset=0)
    version, _ = _VERSION.unpack_from(body)
    if version != FORMAT_VERSION:
        raise NewerFormat(version)
    plain = _unpack(body[_VERSION.size :])
    try:
        fields = dict(cast(Mapping[str, Any], plain))
        fields["vote"] = SaveVote(*fields["vote"])
        fields["bootstrap"] = _bootstrap_from_plain(fields["bootstrap"])
        return Description(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecord(f"a description that makes no sense: {error}", offset=0) from error


def _salt_of_number(segment_number: int) -> bytes:
    return segment_number.to_bytes(8, "little")


def _bootstrap_to_plain(bootstrap: SaveBootstrap | None) -> object:
    return bootstrap and {"incarnations": dict(bootstrap.incarnations), "done": bootstrap.done}


def _bootstrap_from_plain(plain: object) -> SaveBootstrap | None:
    if plain is None:
        return None
    try:
        fields = cast(Mapping[str, Any], plain)
        incarnations = dict(cast(Mapping[ServerId, Incarnation], fields["incarnations"]))
        return SaveBootstrap(incarnations, bool(fields["done"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecord(f"a bootstrap map that makes no sense: {error}", offset=0) from error


def _unpack(data: bytes) -> object:
    try:
        return msgpack.unpackb(data)
    except ValueError as error:
        raise BadRecord(f"data that is not msgpack: {error}", offset=0) from error
