"""Reading a snapshot's bytes as they come, in pieces of any size, and finding what is wrong with them.

One parser serves all who read: the receiver feeds it what arrives, the store feeds it a file that it verifies, and a
reader that hands out the state feeds it too, and keeps the pieces.  Memory is bounded: fixed fields are gathered,
data passes through checksum and digest, and at most one piece is kept.

House rules: no length is believed before it is checked; an error names the byte where what is wrong begins, which for
a wrong checksum is the start of what the checksum is for; after an error the parser is of no use.
"""

import hashlib
import zlib
from collections.abc import Callable

from trio_raft._storage.snapshot_format import (
    FOOTER,
    FOOTER_MAGIC,
    HEADER,
    HEADER_MAGIC,
    MAX_META_BYTES,
    PIECE,
    PIECE_BYTES,
    SNAPSHOT_VERSION,
    TOTALS,
    BadSnapshot,
    NewerSnapshot,
    PieceKind,
    decode_meta,
    footer_checksum,
    header_checksum,
)
from trio_raft.abc import SnapshotMeta

_CHECKSUM_BYTES = 4


class SnapshotParser:
    """Feed it bytes in order; ``check_end`` says whether they were a whole snapshot.

    ``keep_state``: ``feed`` returns the pieces of state that became complete.  ``hashed``: compute and check digests;
    without them, each piece is still checked by its own checksum, its number, and the totals.
    """

    def __init__(self, *, keep_state: bool = False, hashed: bool = True) -> None:
        self.meta: SnapshotMeta | None = None
        """Known once the header is complete."""
        self.size = 0
        """Bytes fed, up to the first error."""
        self.state_bytes = 0
        self.pieces = 0
        """Of state, completed."""
        self._keep_state = keep_state
        self._hash = hashlib.sha256() if hashed else None
        self._gathered = bytearray()
        self._wanted = HEADER.size
        self._complete: Callable[[bytes], None] = self._take_header
        self._inside = "the header"
        """Where the parser is, in words."""
        self._version = 0
        self._meta_checksum = 0
        self._start = 0
        """Where the part at hand begins: the header, a piece, the footer."""
        self._left = 0
        """Bytes of state that the piece at hand still lacks."""
        self._piece_checksum = 0
        self._checksum = 0
        self._parts: list[bytes] = []
        self._before_end = b""

    @property
    def digest(self) -> str:
        """Of all bytes fed, hexadecimal.  Only with ``hashed``."""
        if self._hash is None:
            raise AssertionError("this parser computes no digest")
        return self._hash.hexdigest()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The bytes that follow; returns the pieces of state that are complete now, if they are kept.

        Raises BadSnapshot, NewerSnapshot.
        """
        states: list[bytes] = []
        view = memoryview(data)
        while view:
            if self._left:
                part = view[: self._left]
                self._take_state(part, states)
            elif not self._wanted:
                raise BadSnapshot("there are bytes behind its end", offset=self.size)
            else:
                part = view[: self._wanted - len(self._gathered)]
                self._gathered += part
                self.size += len(part)
                if len(self._gathered) == self._wanted:
                    block, self._gathered = bytes(self._gathered), bytearray()
                    self._complete(block)
            view = view[len(part) :]
        return states

    def check_end(self) -> None:
        """Raises BadSnapshot unless the bytes ended with the footer."""
        if self._wanted:
            raise BadSnapshot(f"it ends in the middle of {self._inside}", offset=self.size)

    def _expect(self, wanted: int, complete: Callable[[bytes], None], inside: str) -> None:
        """What comes next."""
        self._wanted, self._complete, self._inside = wanted, complete, inside

    def _digest_block(self, block: bytes | memoryview) -> None:
        if self._hash:
            self._hash.update(block)

    # ------------------------------------------------------------------------- the header

    def _take_header(self, block: bytes) -> None:
        magic, version, length, self._meta_checksum = HEADER.unpack(block)
        if magic != HEADER_MAGIC:
            raise BadSnapshot("it does not begin like a snapshot", offset=0)
        if not 0 < length <= MAX_META_BYTES:
            raise BadSnapshot(f"its header has {length} bytes; up to {MAX_META_BYTES} are allowed", offset=0)
        self._version = version
        self._digest_block(block)
        self._expect(length, self._take_meta, "the header")

    def _take_meta(self, block: bytes) -> None:
        if header_checksum(self._version, block) != self._meta_checksum:
            raise BadSnapshot("the header's checksum is wrong", offset=0)
        if self._version > SNAPSHOT_VERSION:
            raise NewerSnapshot(self._version)
        if self._version < 1:
            raise BadSnapshot(f"format version {self._version} does not exist", offset=0)
        self.meta = decode_meta(block)
        self._digest_block(block)
        self._await_piece()

    # ------------------------------------------------------------------------- pieces

    def _await_piece(self) -> None:
        self._start = self.size
        self._expect(PIECE.size, self._take_piece, f"piece {self.pieces}")

    def _take_piece(self, block: bytes) -> None:
        checksum, length, number, kind, flags, reserved, more_reserved = PIECE.unpack(block)
        if flags or reserved or more_reserved:
            self._refuse("has flags or reserved bytes that are not zero")
        if kind not in (PieceKind.STATE, PieceKind.END):
            self._refuse(f"is of an unknown kind, {kind}")
        if (kind == PieceKind.END and length != TOTALS.size) or not 0 < length <= PIECE_BYTES:
            self._refuse(f"has {length} bytes, which its kind does not allow")
        if number != self.pieces:
            self._refuse(f"has number {number}")
        self._piece_checksum, self._checksum = checksum, zlib.crc32(block[_CHECKSUM_BYTES:])
        if kind == PieceKind.END:
            self._before_end = self._hash.digest() if self._hash else b""
            self._expect(TOTALS.size, self._take_end, "its end")
        else:
            self._left = length
        self._digest_block(block)

    def _take_state(self, part: memoryview, states: list[bytes]) -> None:
        self._left -= len(part)
        self.size += len(part)
        self._checksum = zlib.crc32(part, self._checksum)
        self._digest_block(part)
        self.state_bytes += len(part)
        if self._keep_state:
            self._parts.append(bytes(part))
        if not self._left:
            if self._checksum != self._piece_checksum:
                self._refuse("has a wrong checksum")
            if self._keep_state:
                states.append(b"".join(self._parts) if len(self._parts) > 1 else self._parts[0])
                self._parts.clear()
            self.pieces += 1
            self._await_piece()

    def _take_end(self, block: bytes) -> None:
        if zlib.crc32(block, self._checksum) != self._piece_checksum:
            self._refuse("has a wrong checksum")
        state_bytes, pieces, digest = TOTALS.unpack(block)
        if (state_bytes, pieces) != (self.state_bytes, self.pieces):
            found = f"{self.state_bytes} bytes in {self.pieces} pieces"
            self._refuse(f"speaks of {state_bytes} bytes in {pieces} pieces of state, and there are {found}")
        if self._hash and digest != self._before_end:
            self._refuse("has another digest than what stands before it")
        self._digest_block(block)
        self._start = self.size
        self._expect(FOOTER.size, self._take_footer, "the footer")

    def _take_footer(self, block: bytes) -> None:
        magic, checksum, size = FOOTER.unpack(block)
        if magic != FOOTER_MAGIC or checksum != footer_checksum(size) or size != self.size:
            raise BadSnapshot("the footer is wrong", offset=self._start)
        self._digest_block(block)
        self._expect(0, self._take_footer, "")

    def _refuse(self, problem: str) -> None:
        raise BadSnapshot(f"piece {self.pieces} {problem}", offset=self._start)
