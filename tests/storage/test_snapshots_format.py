"""The bytes of a snapshot: golden ones, any way to cut them up, and every way to be damaged."""

import hashlib
import random
import struct
import zlib

import attrs
import msgpack
import pytest

from tests.golden.snapshots import META, STATE, golden_snapshot
from tests.storage.snapshot_support import encoded, meta
from trio_raft._storage import snapshot_format
from trio_raft._storage.snapshot_format import (
    FOOTER,
    HEADER,
    MAX_META_BYTES,
    PIECE,
    PIECE_BYTES,
    TOTALS,
    BadSnapshot,
    NewerSnapshot,
    PieceKind,
)
from trio_raft._storage.snapshot_parsing import SnapshotParser

STATE_LONG = random.Random(0).randbytes(2 * PIECE_BYTES + 100)


def parse(data: bytes) -> SnapshotParser:
    parser = SnapshotParser()
    parser.feed(data)
    parser.check_end()
    return parser


def piece_start(data: bytes) -> int:
    """Where the first piece begins."""
    return HEADER.size + int(HEADER.unpack_from(data)[2])


def with_map(plain: object) -> bytes:
    """A header with any map, correctly sealed."""
    packed = msgpack.packb(plain)
    checksum = snapshot_format.header_checksum(1, packed)
    return HEADER.pack(b"tRsn", 1, len(packed), checksum) + packed


def sealed(kind: int, data: bytes, *, number: int = 0, flags: int = 0, reserved: int = 0) -> bytes:
    """A piece with a right checksum, whatever it says."""
    rest = struct.pack("<IQBBHI", len(data), number, kind, flags, 0, reserved) + data
    return struct.pack("<I", zlib.crc32(rest)) + rest


def test_encode_golden_snapshot() -> None:
    """A snapshot is encoded to the bytes that version 1 has."""
    assert encoded(META, [STATE]) == golden_snapshot()


def test_parse_golden_snapshot() -> None:
    """The bytes of version 1 are read: the header with point, configuration and its index, and the state (N6)."""
    data, parser = golden_snapshot(), SnapshotParser(keep_state=True)
    assert b"".join(parser.feed(data)) == STATE
    parser.check_end()
    assert parser.meta == META
    assert (parser.size, parser.digest) == (len(data), hashlib.sha256(data).hexdigest())


def test_parse_in_any_parts() -> None:
    """However the bytes are cut up, the same comes out."""
    generator = random.Random(1)
    data = encoded(meta(5), [STATE_LONG])
    for longest in (3, 1000, PIECE_BYTES, 2 * PIECE_BYTES, len(data)):
        parser, states, at = SnapshotParser(keep_state=True), list[bytes](), 0
        while at < len(data):
            # Every byte alone would take a while: short parts only round the places where something begins.
            near = any(abs(at - start) < 60 for start in (0, PIECE_BYTES + 200, 2 * PIECE_BYTES + 200, len(data)))
            length = generator.randint(1, longest if near or longest > 3 else 5000)
            states += parser.feed(data[at : at + length])
            at += length
        parser.check_end()
        assert b"".join(states) == STATE_LONG
        assert max(map(len, states)) == PIECE_BYTES
        assert parser.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("part", [1, 1000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_pieces_do_not_depend_on_how_the_state_came(part: int) -> None:
    """Small parts are gathered and large ones split: the bytes of a snapshot depend on its state alone."""
    state = STATE_LONG if part > 1 else STATE_LONG[:3000]
    parts = [state[start : start + part] for start in range(0, len(state), part)]
    assert encoded(meta(5), parts) == encoded(meta(5), [state])


def test_any_flipped_bit_is_found_where_it_is() -> None:
    """One wrong bit anywhere is found, and the error names the start of what it is in."""
    data = golden_snapshot()
    piece = piece_start(data)
    end, footer = piece + PIECE.size + len(STATE), len(data) - FOOTER.size
    starts = [0, piece, end, footer, len(data)]
    for position in range(len(data)):
        start = max(each for each in starts if each <= position)
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(BadSnapshot) as caught:
                parse(bytes(damaged))
            # Where a length is wrong, the part may seem to go on behind the end of the file.
            assert caught.value.offset in (start, len(data)), (position, bit, str(caught.value))
            if caught.value.offset == len(data):
                assert "ends in the middle of" in caught.value.problem


def test_any_missing_end_is_found() -> None:
    """A snapshot that was cut anywhere is none, and the error names the place of the cut."""
    data = golden_snapshot()
    for length in range(len(data)):
        with pytest.raises(BadSnapshot, match="ends in the middle of") as caught:
            parse(data[:length])
        assert caught.value.offset == length


def test_bytes_behind_the_end_are_refused() -> None:
    """Whatever follows the footer is refused, also when it comes later."""
    data = golden_snapshot()
    parser = parse(data)
    with pytest.raises(BadSnapshot, match="bytes behind its end") as caught:
        parser.feed(b"\0")
    assert caught.value.offset == len(data)
    with pytest.raises(BadSnapshot, match="bytes behind its end"):
        parse(data + data)


def test_newer_version_is_told_from_damage() -> None:
    """A later version's header names its version; the same number by damage is damage."""
    plain = msgpack.packb({"anything": 1})
    checksum = snapshot_format.header_checksum(2, plain)
    with pytest.raises(NewerSnapshot) as caught:
        SnapshotParser().feed(HEADER.pack(b"tRsn", 2, len(plain), checksum) + plain)
    assert caught.value.version == 2
    with pytest.raises(BadSnapshot, match="checksum"):
        SnapshotParser().feed(HEADER.pack(b"tRsn", 2, len(plain), checksum ^ 1) + plain)
    checksum = snapshot_format.header_checksum(0, plain)
    with pytest.raises(BadSnapshot, match="does not exist"):
        SnapshotParser().feed(HEADER.pack(b"tRsn", 0, len(plain), checksum) + plain)


@pytest.mark.parametrize("length", [0, MAX_META_BYTES + 1, (1 << 32) - 1])
def test_header_length_is_checked_before_anything_is_gathered(length: int) -> None:
    """A length beyond the bound is refused with the header, before a byte of the map has come (W1)."""
    with pytest.raises(BadSnapshot, match="are allowed") as caught:
        SnapshotParser().feed(HEADER.pack(b"tRsn", 1, length, 0))
    assert caught.value.offset == 0


@pytest.mark.parametrize(
    ("piece", "problem"),
    [
        (sealed(PieceKind.SESSIONS, b"x"), "unknown kind, 2"),
        (sealed(0, b"x"), "unknown kind, 0"),
        (sealed(PieceKind.STATE, b""), "0 bytes"),
        (sealed(PieceKind.STATE, bytes(PIECE_BYTES + 1))[: PIECE.size], f"{PIECE_BYTES + 1} bytes"),
        (struct.pack("<IIQBBHI", 0, (1 << 32) - 1, 0, 1, 0, 0, 0), "4294967295 bytes"),
        (sealed(PieceKind.STATE, b"x", number=1), "number 1"),
        (sealed(PieceKind.STATE, b"x", flags=1), "flags or reserved"),
        (sealed(PieceKind.STATE, b"x", reserved=1), "flags or reserved"),
        (sealed(PieceKind.END, b"x"), "1 bytes"),
        (sealed(PieceKind.END, TOTALS.pack(1, 0, bytes(32))), "1 bytes in 0 pieces"),
        (sealed(PieceKind.END, TOTALS.pack(0, 0, bytes(32))), "another digest"),
    ],
)
def test_piece_that_makes_no_sense_is_refused(piece: bytes, problem: str) -> None:
    """Unknown kinds, flags, lengths and numbers are refused, however right the checksum is (W1)."""
    header = encoded(meta(5))[: piece_start(encoded(meta(5)))]
    with pytest.raises(BadSnapshot, match=problem) as caught:
        SnapshotParser().feed(header + piece)
    assert caught.value.offset == len(header)


GOOD_MAP = {
    "cluster_id": "demo",
    "index": 5,
    "term": 1,
    "configuration": {"index": 0, "voters": ["n1"], "learners": [], "incarnations": {"n1": "aa"}},
    "state_version": 1,
}


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        GOOD_MAP | {"more": 1},
        GOOD_MAP | {"cluster_id": b"demo"},
        GOOD_MAP | {"index": -1},
        GOOD_MAP | {"term": True},
        GOOD_MAP | {"state_version": "1"},
        GOOD_MAP | {"configuration": None},
        GOOD_MAP | {"configuration": {"index": 0, "voters": "n1", "learners": [], "incarnations": {}}},
        GOOD_MAP | {"configuration": {"index": 0, "voters": [1], "learners": [], "incarnations": {}}},
        GOOD_MAP | {"configuration": {"index": 0, "voters": [], "learners": [], "incarnations": []}},
        GOOD_MAP | {"configuration": {"index": 0, "voters": [], "learners": [], "incarnations": {"n1": 1}}},
    ],
)
def test_header_that_makes_no_sense_is_refused(plain: object) -> None:
    """A map with other fields or other types is refused: nothing is converted, nothing passed over (W5)."""
    with pytest.raises(BadSnapshot, match="makes no sense") as caught:
        SnapshotParser().feed(with_map(plain))
    assert caught.value.offset == HEADER.size


def test_header_that_makes_sense() -> None:
    """The map that the cases above are changed from is accepted."""
    parser = SnapshotParser()
    parser.feed(with_map(GOOD_MAP))
    assert parser.meta
    assert parser.meta.point == meta(5).point


def test_header_too_long_to_be_read_back_is_not_written() -> None:
    """A header beyond the bound is refused by the writer already."""
    too_long = attrs.evolve(META, cluster_id="x" * MAX_META_BYTES)
    with pytest.raises(AssertionError, match="exceeds"):
        encoded(too_long)


def test_parser_without_digest_checks_each_piece() -> None:
    """A reader of the state, which computes no digest, still finds damage before it hands a piece out."""
    data = bytearray(encoded(meta(5), [STATE_LONG]))
    second = piece_start(bytes(data)) + PIECE.size + PIECE_BYTES
    data[second + 1000] ^= 1
    parser = SnapshotParser(keep_state=True, hashed=False)
    assert parser.feed(bytes(data[: second + 1001])) == [STATE_LONG[:PIECE_BYTES]]
    with pytest.raises(BadSnapshot, match="piece 1 has a wrong checksum") as caught:
        parser.feed(bytes(data[second + 1001 :]))
    assert caught.value.offset == second
