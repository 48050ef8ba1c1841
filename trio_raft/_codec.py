"""Frames: how a message becomes bytes, and the one door through which bytes become a message.

A frame is a fixed header, a header and a body.  The fixed header, 32 bytes, little-endian::

    magic 4 bytes · version u8 · type u8 · flags u16 · group u32 · request id u64 · header length u32
    body length u32 · crc32 u32

The checksum covers the 28 bytes before it and the header.  Flags and group are reserved: zero, and anything else is
refused.  The header is a msgpack map of the message's fields by name.  The body is empty, but for
two: the entries of an AppendEntries are its records as they stand in the log file (``_records.py``), each with a
checksum of its own; the data of an InstallSnapshot are a piece of the snapshot's file, which has checksums, too.

Evolution: unknown keys of a header are ignored, missing ones take the field's default; a frame of an unknown type is
told apart from a bad frame, so that it can be answered by ``Unsupported``.  The version counts this framing; Hello
and HelloReply are framed as version 1 for ever, so that servers of different versions can refuse each other in words.

House rule: whatever a peer sends, the only exception that leaves this module is ProtocolError, and nothing is
allocated because a length says so: a length is compared with its limit first, and the buffer grows only by bytes
that have arrived.

Reading order: ``encode_frame``, ``FrameDecoder``, the table of types, then the checks.
"""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

import attrs
import msgpack
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from trio_raft._errors import ProtocolError
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapReply,
    BootstrapStatement,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    Unsupported,
)
from trio_raft._records import ENTRY_KINDS, BadRecord, Entry, EntryKind, decode_entries, follow
from trio_raft._strict import Numbers, require, strict_converter

PROTOCOL_VERSION = 1
MAGIC = b"\xabRft"
"""Starts with a byte that is no text in any encoding: a browser or a shell at the wrong port is known at once."""

FRAME_HEADER_BYTES = 32
MAX_HEADER_BYTES = 64 << 10
"""Bytes; a header holds ids and numbers, never data."""

_MAX_HEADER_ITEMS = 4096
# msgpack makes room for as many items as an array claims to have; nested claims would multiply.

_LARGE_BODY = 32 << 10
"""Bytes; a frame with such a body is gathered in parts."""

_MOST_WANTED = 1 << 20
_SMALL_PART = 4 << 10
"""Bytes; smaller parts are put together at once."""

_BEFORE_CHECKSUM = struct.Struct("<4sBBHIQII")
_FIXED = struct.Struct("<4sBBHIQIII")
_CHECKSUM = struct.Struct("<I")


@attrs.frozen
class Frame:
    """One message as it arrived."""

    request_id: int
    """Chosen by the requester; a reply repeats it."""
    message: Message
    size: int
    """Bytes on the wire."""


@attrs.frozen
class UnknownFrame:
    """A sound frame whose type this version does not know."""

    request_id: int
    message_type: int
    size: int


@attrs.frozen
class EncodedMessage:
    """What is the same in every frame that carries this message."""

    message_type: int
    header: bytes
    body: Sequence[bytes]
    """In pieces, which are the body one after the other."""
    body_length: int


def encode_frame(message: Message, *, request_id: int) -> bytes:
    """The bytes of one frame.  Raises ValueError as ``encode_message`` does."""
    return frame_of(encode_message(message), request_id=request_id)


def encode_message(message: Message) -> EncodedMessage:
    """Encode once what several frames may carry.

    Raises ValueError if the message's header is larger than any peer would take.
    """
    message_type, unstructure = _ENCODERS[type(message)]
    header = msgpack.packb(unstructure(message))
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"the header of {type(message).__name__} takes {len(header)} of {MAX_HEADER_BYTES} bytes")
    body: Sequence[bytes] = ()
    if type(message) is AppendEntries:
        body = [entry.record for entry in message.entries]
    elif type(message) is InstallSnapshot:
        body = (message.data,)
    return EncodedMessage(message_type, header, body, sum(map(len, body)))


def frame_of(message: EncodedMessage, *, request_id: int) -> bytes:
    """The bytes of one frame that carries this message."""
    header = message.header
    fixed = _BEFORE_CHECKSUM.pack(
        MAGIC, PROTOCOL_VERSION, message.message_type, 0, 0, request_id, len(header), message.body_length
    )
    checksum = zlib.crc32(header, zlib.crc32(fixed))
    return b"".join([fixed, _CHECKSUM.pack(checksum), header, *message.body])


class FrameDecoder:
    """Splits the bytes of one connection into frames, however they are cut up on the way (sans-IO).

    After a ProtocolError the connection is of no use: where the next frame begins is not known.
    """

    def __init__(self, *, peer: str, max_body: int) -> None:
        self.peer = peer
        """Named in errors; the handshake replaces an address by an id."""
        self.max_body = max_body
        """Bytes; the largest body accepted.  Zero until the handshake is done."""
        self._buffer = bytearray()
        self._start = 0
        self._large: _LargeFrame | None = None
        """While one is incomplete, everything that arrives is its body's."""

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that arrived."""
        if self._large is not None:
            data = self._large.take(data)
            if not data:
                return
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    @property
    def mid_frame(self) -> bool:
        """Whether bytes are held that do not make a frame yet; asked after ``next_frame`` returned None."""
        return self._large is not None or len(self._buffer) > self._start

    @property
    def wanted(self) -> int:
        """Bytes that are best received next, as they end where a large frame does; 0 if none has begun."""
        return min(self._large.missing, _MOST_WANTED) if self._large is not None else 0

    def next_frame(self) -> Frame | UnknownFrame | None:
        """The next whole frame, or None if more bytes are needed.  Raises ProtocolError."""
        if self._large is not None:
            return self._end_large(self._large)
        buffer, start = self._buffer, self._start
        held = len(buffer) - start
        if held < FRAME_HEADER_BYTES:
            if held and not MAGIC.startswith(buffer[start : start + len(MAGIC)]):
                self._refuse("this is not the start of a frame")
            return None
        fixed = _FIXED.unpack_from(buffer, start)
        self._check_limits(fixed)
        _, _, message_type, _, _, request_id, header_length, body_length, checksum = fixed
        size = FRAME_HEADER_BYTES + header_length + body_length
        if held < size and (body_length < _LARGE_BODY or held < size - body_length):
            return None
        body_start = start + FRAME_HEADER_BYTES + header_length
        covered = bytes(buffer[start:body_start])
        header = covered[FRAME_HEADER_BYTES:]
        if zlib.crc32(header, zlib.crc32(covered[: _BEFORE_CHECKSUM.size])) != checksum:
            self._refuse("the checksum of a frame's header does not match its bytes")
        if held < size:
            self._large = _LargeFrame(request_id, message_type, header, size, size - held, [buffer[body_start:]])
            self._start = len(buffer)
            return None
        if body_length:
            # A slice of the buffer itself would be one more copy.
            with memoryview(buffer) as view:
                body = bytes(view[body_start : start + size])
        else:
            body = b""
        self._start = start + size
        return self._decode(request_id, message_type, header, body, size)

    def _end_large(self, large: "_LargeFrame") -> Frame | UnknownFrame | None:
        if large.missing:
            return None
        self._large = None
        return self._decode(large.request_id, large.message_type, large.header, b"".join(large.parts), large.size)

    def _decode(
        self, request_id: int, message_type: int, header: bytes, body: bytes, size: int
    ) -> Frame | UnknownFrame:
        decoder = _DECODERS.get(message_type)
        if decoder is None:
            return UnknownFrame(request_id, message_type, size)
        return Frame(request_id, self._message(decoder, header, body), size)

    def _check_limits(self, fixed: tuple[Any, ...]) -> None:
        magic, version, _, flags, group, _, header_length, body_length, _ = fixed
        if magic != MAGIC:
            self._refuse("this is not the start of a frame")
        if version != PROTOCOL_VERSION:
            self._refuse(f"a frame of version {version}; this server speaks version {PROTOCOL_VERSION}")
        if flags or group:
            self._refuse(f"a frame with reserved flags {flags:#x} or group {group}")
        if header_length > MAX_HEADER_BYTES:
            self._refuse(f"a frame header of {header_length} bytes; {MAX_HEADER_BYTES} are allowed")
        if body_length > self.max_body:
            self._refuse(f"a frame body of {body_length} bytes; {self.max_body} are allowed")

    def _message(self, decoder: "_Decoder", header: bytes, body: bytes) -> Message:
        name = decoder.message_class.__name__
        try:
            fields = msgpack.unpackb(header, max_array_len=_MAX_HEADER_ITEMS, max_map_len=_MAX_HEADER_ITEMS)
            require(fields, dict)
            return decoder.decode(cast("dict[str, Any]", fields), body)
        except BadRecord as error:
            self._refuse(f"the entries of {name} are malformed: {error}")
        except Exception as error:
            # Everything: msgpack and cattrs have a dozen ways to say that these bytes are not such a message.
            self._refuse(f"{name} is malformed: {type(error).__name__}: {error}")

    def _refuse(self, reason: str) -> NoReturn:
        raise ProtocolError(self.peer, reason)


@attrs.define
class _LargeFrame:
    """A frame of which the header is known and sound, and the body arrives.

    What arrives is kept as it is until it is joined, once: in one growing buffer it would be copied twice and more.
    """

    request_id: int
    message_type: int
    header: bytes
    size: int
    missing: int
    """Bytes of the body that have not arrived."""
    parts: list[bytes | bytearray]

    def take(self, data: bytes | bytearray) -> bytes | bytearray:
        """Keep what is part of the body; returns what follows it."""
        rest = data[self.missing :]
        part = data[: self.missing]
        self.missing -= len(part)
        last = self.parts[-1]
        # Whoever sends byte by byte must not make as many objects.
        if len(last) < _SMALL_PART and isinstance(last, bytearray):
            last += part
        else:
            self.parts.append(part if len(part) >= _SMALL_PART else bytearray(part))
        return rest


# ------------------------------------------------------------------------------------------------- types

MESSAGE_TYPES: Mapping[int, type[Message]] = {
    1: Hello,
    2: HelloReply,
    3: RequestVote,
    4: RequestVoteReply,
    5: AppendEntries,
    6: AppendEntriesReply,
    7: Heartbeat,
    8: HeartbeatReply,
    9: BootstrapStatement,
    10: BootstrapReply,
    11: InstallSnapshot,
    12: InstallSnapshotReply,
    255: Unsupported,
}
"""The type byte of a frame.  A number that was released is never given to another message."""


@attrs.frozen
class _Decoder:
    message_class: type[Message]
    decode: Callable[[dict[str, Any], bytes], Message]


# Nothing on the wire is negative, and 2^63 - 1 is what other languages' signed integers hold.
_CONVERTER = strict_converter(Numbers(lowest=0, highest=(1 << 63) - 1, finite=True), detailed=False)
_CONVERTER.register_unstructure_hook(
    AppendEntries, make_dict_unstructure_fn(AppendEntries, _CONVERTER, entries=override(omit=True))
)
_CONVERTER.register_structure_hook(
    AppendEntries,
    make_dict_structure_fn(AppendEntries, _CONVERTER, entries=override(struct_hook=lambda entries, _: entries)),
)
# A field that came later: without it the bytes are those that version 1 has always had.
_CONVERTER.register_unstructure_hook(
    HelloReply, make_dict_unstructure_fn(HelloReply, _CONVERTER, role=override(omit_if_default=True))
)
_CONVERTER.register_unstructure_hook(
    InstallSnapshot, make_dict_unstructure_fn(InstallSnapshot, _CONVERTER, data=override(omit=True))
)


def _decode_plain(message_class: type[Message]) -> _Decoder:
    structure = _CONVERTER.get_structure_hook(message_class)

    def decode(fields: dict[str, Any], body: bytes) -> Message:
        if body:
            raise ValueError(f"it has a body of {len(body)} bytes and should have none")
        return cast("Message", structure(fields, message_class))

    return _Decoder(message_class, decode)


def _decode_append_entries() -> _Decoder:
    structure = _CONVERTER.get_structure_hook(AppendEntries)

    def decode(fields: dict[str, Any], body: bytes) -> Message:
        # Always set, so that a header which names entries cannot bring any.
        fields["entries"] = entries = decode_entries(body)
        request = cast("AppendEntries", structure(fields, AppendEntries))
        _check_entries(request, entries)
        return request

    return _Decoder(AppendEntries, decode)


def _decode_install_snapshot() -> _Decoder:
    structure = _CONVERTER.get_structure_hook(InstallSnapshot)

    def decode(fields: dict[str, Any], body: bytes) -> Message:
        # Always set, as above.
        fields["data"] = body
        request = cast("InstallSnapshot", structure(fields, InstallSnapshot))
        if request.offset + len(body) > request.total:
            raise ValueError(f"{len(body)} bytes at {request.offset} of a snapshot of {request.total}")
        return request

    return _Decoder(InstallSnapshot, decode)


_WITH_BODY = {AppendEntries: _decode_append_entries, InstallSnapshot: _decode_install_snapshot}

_ENCODERS = {
    message_class: (number, _CONVERTER.get_unstructure_hook(message_class))
    for number, message_class in MESSAGE_TYPES.items()
}
_DECODERS = {
    number: _WITH_BODY[message_class]() if message_class in _WITH_BODY else _decode_plain(message_class)
    for number, message_class in MESSAGE_TYPES.items()
}


def _check_entries(request: AppendEntries, entries: list[Entry]) -> None:
    """Entries must follow ``prev_log_index`` without a gap, in terms that never fall and were reached by the leader."""
    expected, term = request.prev_log_index + 1, request.prev_log_term
    if not follow(entries, request.prev_log_index, term):
        for entry in entries:
            if entry.index != expected:
                raise ValueError(f"entry {entry.index} stands where entry {expected} should")
            if entry.term < term:
                raise ValueError(f"entry {entry.index} of term {entry.term} follows one of term {term}")
            expected += 1
            term = entry.term
    # Equal ones are counted without hashing: that of an enum's member costs more than all the rest.
    if [entry.kind for entry in entries].count(EntryKind.COMMAND) < len(entries):
        for entry in entries:
            if entry.kind not in ENTRY_KINDS:
                raise ValueError(f"entry {entry.index} is a {entry.kind.name}, which belongs into log files only")
    if entries:
        term = entries[-1].term
    if term > request.term:
        raise ValueError(f"it holds or follows an entry of term {term}, above the leader's term {request.term}")
