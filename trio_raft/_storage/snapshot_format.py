"""What the bytes of a snapshot mean, on disk and on the wire alike.

Little-endian throughout::

    header    magic 4s · format version u32 · length u32 · checksum u32 · a msgpack map of ``length`` bytes
    pieces    checksum u32 · length u32 · number u64 · kind u8 · flags u8 · reserved u16, u32 (zero) · data
    footer    magic 4s · checksum u32 · bytes of the whole file u64

The map says whose snapshot it is and of what: cluster id, index, term, the configuration with its own index and its
incarnations, the machine's state version.  A piece of kind *state* holds up to 1 MiB of the state, and all of them,
in order, are the state; where one ends means nothing.  *Sessions* have a number reserved.  The last piece, of kind
*end*, holds the totals: bytes of state u64 · pieces of state u64 · SHA-256 of everything before this piece 32s.

Every checksum is a CRC-32 of what it can cover: of the header's other fields and the map; of a piece's other fields
and its data; of the footer's other fields.  Pieces are numbered from 0, the end included.  Unknown kinds, flags and
keys, and reserved bytes that are not zero, are refused, never skipped.  Magic, header fields and version keep their
places in every format version to come, so that an old program can name what it cannot read.

The digest by which a snapshot is known elsewhere is the SHA-256 of the whole file, footer included.  SHA-256, because
processors have instructions for it: with them it is twice as fast as BLAKE2.

House rule: bytes in, values out; nothing here touches a file.  ``snapshot_parsing`` is the way back.
"""

import enum
import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgpack

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft.abc import SnapshotConfiguration, SnapshotMeta, SnapshotPoint

SNAPSHOT_VERSION = 1
"""What this package writes, and the newest that it reads."""

PIECE_BYTES = 1 << 20
"""Most bytes of data in a piece, and of state in each but the last: one piece is what a reader has to hold."""

MAX_META_BYTES = 64 << 10
"""Of the header's map; hundreds of members fit."""

HEADER = struct.Struct("<4sIII")
PIECE = struct.Struct("<IIQBBHI")
TOTALS = struct.Struct("<QQ32s")
FOOTER = struct.Struct("<4sIQ")
HEADER_MAGIC = b"tRsn"
FOOTER_MAGIC = b"tRse"

# How many members msgpack may be asked to make room for, before it has seen them.
_MAX_ITEMS = 4096

_HEADER_BEFORE_CHECKSUM = struct.Struct("<4sII")
_SIZE = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_PLACE_FOR_FIELDS = bytes(PIECE.size)


class PieceKind(enum.IntEnum):
    """What a piece holds.  The numbers are the format: never reuse one."""

    STATE = 1
    """Bytes of the machine's state."""

    SESSIONS = 2
    """Reserved for the clients' sessions; this version refuses it."""

    END = 255
    """Totals; only the footer follows."""


class BadSnapshot(Exception):
    """Bytes that are no snapshot.  ``offset`` is where what is wrong begins."""

    def __init__(self, problem: str, *, offset: int) -> None:
        super().__init__(f"{problem} (at byte {offset})")
        self.problem = problem
        self.offset = offset


class NewerSnapshot(Exception):
    """A snapshot by a later version of this package."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}")
        self.version = version


class SnapshotEncoder:
    """Makes the bytes of one snapshot, in order: ``header``, ``add`` as often as needed, ``end``."""

    def __init__(self, meta: SnapshotMeta) -> None:
        self.meta = meta
        self.size = 0
        """Bytes made so far."""
        self._hash = hashlib.sha256()
        self._pieces = 0
        self._state_bytes = 0
        self._piece = bytearray(_PLACE_FOR_FIELDS)

    @property
    def digest(self) -> str:
        """Of all bytes made so far, hexadecimal."""
        return self._hash.hexdigest()

    def header(self) -> bytes:
        """The first bytes.  Raises AssertionError if they are too long to be read back."""
        plain = msgpack.packb(_meta_to_plain(self.meta))
        if len(plain) > MAX_META_BYTES:
            raise AssertionError(f"a snapshot's header of {len(plain)} bytes exceeds {MAX_META_BYTES}")
        checksum = header_checksum(SNAPSHOT_VERSION, plain)
        header = HEADER.pack(HEADER_MAGIC, SNAPSHOT_VERSION, len(plain), checksum) + plain
        self._count(header)
        return header

    def add(self, state: bytes) -> Iterable[bytearray]:
        """The pieces that these bytes of state fill, if any; the rest waits for more."""
        if len(self._piece) + len(state) < PIECE_BYTES + PIECE.size:
            # A state may come in millions of small parts: these go no other way.
            self._piece += state
            return ()
        return self._fill(state)

    def end(self) -> Iterator[bytes | bytearray]:
        """The bytes that follow all of the state."""
        if len(self._piece) > PIECE.size:
            yield self._take_piece()
        totals = TOTALS.pack(self._state_bytes, self._pieces, self._hash.digest())
        yield self._seal(PieceKind.END, bytearray(_PLACE_FOR_FIELDS + totals))
        size = self.size + FOOTER.size
        footer = FOOTER.pack(FOOTER_MAGIC, footer_checksum(size), size)
        self._count(footer)
        yield footer

    def _fill(self, state: bytes) -> Iterator[bytearray]:
        view = memoryview(state)
        while view:
            room = PIECE_BYTES + PIECE.size - len(self._piece)
            self._piece += view[:room]
            view = view[room:]
            if len(self._piece) == PIECE_BYTES + PIECE.size:
                yield self._take_piece()

    def _take_piece(self) -> bytearray:
        piece, self._piece = self._piece, bytearray(_PLACE_FOR_FIELDS)
        self._seal(PieceKind.STATE, piece)
        self._pieces += 1
        self._state_bytes += len(piece) - PIECE.size
        return piece

    def _seal(self, kind: PieceKind, piece: bytearray) -> bytearray:
        """Fill in the fields in front of the data."""
        PIECE.pack_into(piece, 0, 0, len(piece) - PIECE.size, self._pieces, kind, 0, 0, 0)
        _CHECKSUM.pack_into(piece, 0, zlib.crc32(memoryview(piece)[_CHECKSUM.size :]))
        self._count(piece)
        return piece

    def _count(self, block: bytes | bytearray) -> None:
        self._hash.update(block)
        self.size += len(block)


def header_checksum(version: int, plain: bytes) -> int:
    """Of a header with this map."""
    return zlib.crc32(plain, zlib.crc32(_HEADER_BEFORE_CHECKSUM.pack(HEADER_MAGIC, version, len(plain))))


def footer_checksum(size: int) -> int:
    """Of a footer for a file of so many bytes."""
    return zlib.crc32(_SIZE.pack(size), zlib.crc32(FOOTER_MAGIC))


# ---------------------------------------------------------------------------------------------- the map


def _meta_to_plain(meta: SnapshotMeta) -> Mapping[str, object]:
    configuration = meta.configuration
    return {
        "cluster_id": meta.cluster_id,
        "index": meta.point.index,
        "term": meta.point.term,
        "configuration": {
            "index": configuration.index,
            "voters": list(configuration.voters),
            "learners": list(configuration.learners),
            "incarnations": dict(configuration.incarnations),
        },
        "state_version": meta.state_version,
    }


def decode_meta(plain: bytes) -> SnapshotMeta:
    """What a header's map says.  Raises BadSnapshot if it makes no sense."""
    try:
        fields = msgpack.unpackb(plain, max_array_len=_MAX_ITEMS, max_map_len=_MAX_ITEMS)
        return _meta_from_plain(fields)
    except Exception as error:
        # Everything: msgpack has a dozen ways to say that these bytes are not such a map.
        problem = f"a header that makes no sense: {type(error).__name__}: {error}"
        raise BadSnapshot(problem, offset=HEADER.size) from error


def _meta_from_plain(plain: object) -> SnapshotMeta:
    fields = _fields(plain, "cluster_id", "index", "term", "configuration", "state_version")
    members = _fields(fields["configuration"], "index", "voters", "learners", "incarnations")
    incarnations = cast(Mapping[object, object], members["incarnations"])
    configuration = SnapshotConfiguration(
        index=LogIndex(_number(members["index"])),
        voters=tuple(ServerId(_text(each)) for each in _list(members["voters"])),
        learners=tuple(ServerId(_text(each)) for each in _list(members["learners"])),
        incarnations={ServerId(_text(key)): Incarnation(_text(each)) for key, each in incarnations.items()},
    )
    point = SnapshotPoint(LogIndex(_number(fields["index"])), Term(_number(fields["term"])))
    return SnapshotMeta(_text(fields["cluster_id"]), point, configuration, _number(fields["state_version"]))


def _fields(plain: object, *names: str) -> dict[str, Any]:
    if not isinstance(plain, dict) or set(cast(dict[object, object], plain)) != set(names):
        raise ValueError(f"not a map of exactly {', '.join(names)}")
    return cast(dict[str, Any], plain)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} where a list is expected")
    return cast(list[object], value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text is expected")
    return value


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} where a number of at least 0 is expected")
    return value
