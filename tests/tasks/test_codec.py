"""Frames: golden bytes, round trips, every way to be malformed, and every way to be cut up.

``raw_frame`` builds frames that no honest peer sends, with a checksum that fits, so that each test reaches the check
that it is about.
"""

import itertools
import math
import struct
import tracemalloc
import zlib
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgpack
import pytest

from tests.golden.frames import MESSAGES, REQUEST_ID, golden
from trio_raft._codec import (
    FRAME_HEADER_BYTES,
    MAGIC,
    MAX_HEADER_BYTES,
    MESSAGE_TYPES,
    Frame,
    FrameDecoder,
    UnknownFrame,
    encode_frame,
)
from trio_raft._errors import ProtocolError
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapStatement,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Incarnation,
    InstallSnapshot,
    InstallSnapshotReply,
    LogIndex,
    Message,
    Rejection,
    RequestVote,
    ServerId,
    SnapshotStatus,
    Term,
)
from trio_raft._records import Entry, EntryKind, make_entry

TYPE_NUMBERS = {message_class: number for number, message_class in MESSAGE_TYPES.items()}

HEARTBEAT: dict[str, Any] = {"term": 3, "leader": "n1", "round": 0}
HEARTBEAT_REPLY: dict[str, Any] = {"term": 3, "round": 0, "ready": True, "lease_promise": 0.0}
APPEND_ENTRIES: dict[str, Any] = {
    "term": 3,
    "leader": "n1",
    "prev_log_index": 5,
    "prev_log_term": 2,
    "leader_commit": 5,
}
REPLY: dict[str, Any] = {"term": 3, "success": True, "match_index": 5, "rejection": ""}


def raw_frame(
    message_type: int,
    header: bytes,
    body: bytes = b"",
    *,
    magic: bytes = MAGIC,
    version: int = 1,
    flags: int = 0,
    group: int = 0,
    request_id: int = 1,
    header_length: int | None = None,
    body_length: int | None = None,
) -> bytes:
    """A frame with whatever is asked for, and the checksum that fits it."""
    fixed = struct.pack(
        "<4sBBHIQII",
        magic,
        version,
        message_type,
        flags,
        group,
        request_id,
        len(header) if header_length is None else header_length,
        len(body) if body_length is None else body_length,
    )
    return fixed + struct.pack("<I", zlib.crc32(fixed + header)) + header + body


def frame_of(message_class: type[Message], fields: object, body: bytes = b"") -> bytes:
    """A frame of that type whose header is any msgpack value."""
    return raw_frame(TYPE_NUMBERS[message_class], msgpack.packb(fields), body)


def decode(data: bytes, *, max_body: int = 1 << 20) -> Frame | UnknownFrame | None:
    """The first frame of these bytes."""
    decoder = FrameDecoder(peer="n2", max_body=max_body)
    decoder.feed(data)
    return decoder.next_frame()


def decode_message(data: bytes) -> Message:
    """The message of a frame that must be sound."""
    frame = decode(data)
    assert isinstance(frame, Frame)
    return frame.message


def drain(decoder: FrameDecoder) -> list[Frame | UnknownFrame]:
    """All whole frames that the decoder holds."""
    frames: list[Frame | UnknownFrame] = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def refusal(data: bytes, *, max_body: int = 1 << 20) -> str:
    """Why these bytes are refused."""
    with pytest.raises(ProtocolError) as caught:
        decode(data, max_body=max_body)
    assert caught.value.peer == "n2"
    return caught.value.reason


def entry(index: int, term: int, kind: EntryKind = EntryKind.COMMAND, data: bytes = b"x") -> Entry:
    return make_entry(index=LogIndex(index), term=Term(term), kind=kind, data=data)


# ------------------------------------------------------------------------------------------------ golden


@pytest.mark.parametrize("name", MESSAGES)
def test_encode_golden_frame(name: str) -> None:
    """Encoding a message gives the bytes that version 1 has always given."""
    assert encode_frame(MESSAGES[name], request_id=REQUEST_ID) == golden(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_decode_golden_frame(name: str) -> None:
    """Decoding the bytes of version 1 gives the message that was encoded, its request id and its size."""
    data = golden(name)
    frame = decode(data)
    assert isinstance(frame, Frame)
    expected = MESSAGES[name]
    if isinstance(expected, AppendEntries):
        assert isinstance(frame.message, AppendEntries)
        assert list(frame.message.entries) == list(expected.entries)
        assert frame.message.prev_log_index == expected.prev_log_index
        assert frame.message.leader_commit == expected.leader_commit
    else:
        assert frame.message == expected
    assert (frame.request_id, frame.size) == (REQUEST_ID, len(data))


def test_golden_frames_cover_every_type() -> None:
    """There is a golden frame for each type that version 1 knows, each under its own number."""
    assert {type(message) for message in MESSAGES.values()} == set(MESSAGE_TYPES.values())
    numbers = {type(message): golden(name)[5] for name, message in MESSAGES.items()}
    assert numbers == TYPE_NUMBERS


# ------------------------------------------------------------------------------------------- round trips

numbers = st.integers(0, (1 << 63) - 1)
ids = st.text(max_size=20)
plain_messages = st.one_of(
    st.builds(
        RequestVote,
        term=numbers,
        candidate=ids,
        last_log_index=numbers,
        last_log_term=numbers,
        pre_vote=st.booleans(),
    ),
    st.builds(
        AppendEntriesReply,
        term=numbers,
        success=st.booleans(),
        match_index=numbers,
        rejection=st.sampled_from(Rejection),
        conflict_index=numbers,
        conflict_term=numbers,
    ),
    st.builds(
        HeartbeatReply,
        term=numbers,
        round=numbers,
        ready=st.booleans(),
        lease_promise=st.floats(allow_nan=False, allow_infinity=False),
    ),
    st.builds(
        InstallSnapshotReply,
        term=numbers,
        status=st.sampled_from(SnapshotStatus),
        offset=numbers,
        reason=ids,
    ),
    st.builds(
        BootstrapStatement,
        incarnations=st.dictionaries(ids, ids, max_size=5),
        done=st.booleans(),
    ),
)


@st.composite
def append_entries(draw: st.DrawFn) -> AppendEntries:
    """A request that an honest leader could send."""
    prev_index = draw(st.integers(0, 1 << 40))
    terms = sorted(draw(st.lists(st.integers(0, 1 << 40), min_size=2, max_size=8)))
    entries = [
        entry(
            prev_index + offset,
            term,
            draw(st.sampled_from([EntryKind.COMMAND, EntryKind.NO_OP, EntryKind.CONFIGURATION])),
            draw(st.binary(max_size=40)),
        )
        for offset, term in enumerate(terms[1:-1], start=1)
    ]
    return AppendEntries(
        term=Term(terms[-1]),
        leader=ServerId(draw(ids)),
        prev_log_index=LogIndex(prev_index),
        prev_log_term=Term(terms[0]),
        leader_commit=LogIndex(draw(numbers)),
        entries=entries,
    )


@st.composite
def install_snapshots(draw: st.DrawFn) -> InstallSnapshot:
    """A piece that an honest leader could send, or a question."""
    data = draw(st.binary(max_size=100))
    offset = draw(st.integers(0, 1 << 40))
    return InstallSnapshot(
        term=Term(draw(numbers)),
        leader=ServerId(draw(ids)),
        transfer=draw(ids),
        last_included_index=LogIndex(draw(numbers)),
        last_included_term=Term(draw(numbers)),
        digest=draw(ids),
        total=offset + len(data) + draw(st.integers(0, 1 << 40)),
        offset=offset,
        data=data,
    )


any_message = st.one_of(plain_messages, append_entries(), install_snapshots())


@hypothesis.given(message=any_message, request_id=st.integers(0, (1 << 64) - 1))
def test_round_trip_any_message(message: Message, request_id: int) -> None:
    """What is encoded is what is decoded, for any message that a server can make."""
    data = encode_frame(message, request_id=request_id)
    assert decode(data) == Frame(request_id, message, len(data))


@hypothesis.given(
    messages=st.lists(any_message, min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
)
def test_decoder_any_cuts(messages: list[Message], cuts: list[int]) -> None:
    """However a stream of frames is cut up, the same messages come out in the same order (W1)."""
    stream = b"".join(encode_frame(message, request_id=number) for number, message in enumerate(messages))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = FrameDecoder(peer="n2", max_body=1 << 20)
    found: list[Message] = []
    for start, end in itertools.pairwise(edges):
        decoder.feed(stream[start:end])
        while (frame := decoder.next_frame()) is not None:
            assert isinstance(frame, Frame)
            assert frame.request_id == len(found)
            found.append(frame.message)
    assert found == messages
    assert not decoder.mid_frame


@pytest.mark.parametrize("step", [1 << 20, 65536, 5000, 4096, 100])
def test_decoder_large_frames_in_steps(step: int) -> None:
    """Large bodies are gathered apart: what comes out is what went in, however it was cut up, and in order (W1)."""
    pieces = [decode_message(piece(bytes([number]) * size, total=1 << 30)) for number, size in enumerate(LARGE_SIZES)]
    stream = b"".join(encode_frame(message, request_id=number) for number, message in enumerate(pieces))
    decoder = FrameDecoder(peer="n2", max_body=1 << 20)
    found: list[Frame | UnknownFrame] = []
    for start in range(0, len(stream), step):
        decoder.feed(stream[start : start + step])
        found += drain(decoder)
    assert [(each.request_id, each.message) for each in found if isinstance(each, Frame)] == list(enumerate(pieces))
    assert not decoder.mid_frame


def test_decoder_wants_the_rest_of_a_large_frame() -> None:
    """While a large body arrives the decoder says how much of it is lacking, and no more at a time than a mebibyte."""
    data = piece(bytes(3 << 20), total=1 << 30)
    decoder = FrameDecoder(peer="n2", max_body=4 << 20)
    assert decoder.wanted == 0
    decoder.feed(data[:1000])
    assert decoder.next_frame() is None
    assert decoder.mid_frame
    assert decoder.wanted == 1 << 20
    decoder.feed(data[1000:-10])
    assert decoder.next_frame() is None
    assert decoder.wanted == 10
    decoder.feed(data[-10:])
    assert len(drain(decoder)) == 1
    assert decoder.wanted == 0


def test_decoder_damaged_header_of_a_large_frame() -> None:
    """It is refused before the body arrives: nothing is gathered for a header that may be anything (W1)."""
    data = bytearray(piece(bytes(100_000), total=1 << 30)[:1000])
    data[40] ^= 1
    assert "checksum of a frame's header" in refusal(bytes(data), max_body=1 << 20)


def test_decoder_every_split_point() -> None:
    """Two frames cut at any one place: nothing comes before it is whole, and the held part is reported (W1)."""
    first, second = golden("append_entries"), golden("heartbeat")
    stream = first + second
    for cut in range(len(stream) + 1):
        decoder = FrameDecoder(peer="n2", max_body=1 << 20)
        decoder.feed(stream[:cut])
        before = drain(decoder)
        assert len(before) == (cut >= len(first)) + (cut >= len(stream))
        assert decoder.mid_frame == (cut not in (0, len(first), len(stream)))
        decoder.feed(stream[cut:])
        after = drain(decoder)
        assert [frame.size for frame in before + after] == [len(first), len(second)]
        assert not decoder.mid_frame


def test_decoder_byte_by_byte() -> None:
    """A frame that arrives one byte at a time is decoded at its last byte."""
    data = golden("append_entries")
    decoder = FrameDecoder(peer="n2", max_body=1 << 20)
    for position in range(len(data) - 1):
        decoder.feed(data[position : position + 1])
        assert decoder.next_frame() is None
    decoder.feed(data[-1:])
    assert decoder.next_frame() is not None


# ------------------------------------------------------------------------------------- the fixed header


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\n", b"\xabRfT", b"\x16\x03\x01\x02\x00", b"\x00" * 40])
def test_decoder_bad_magic(data: bytes) -> None:
    """Bytes that cannot begin a frame are refused at once, before a whole fixed header is there (W1)."""
    assert refusal(data) == "this is not the start of a frame"


@pytest.mark.parametrize("version", [0, 2, 255])
def test_decoder_other_version(version: int) -> None:
    """A frame of another version is refused, and the refusal names both versions (W2)."""
    data = raw_frame(7, msgpack.packb(HEARTBEAT), version=version)
    assert refusal(data) == f"a frame of version {version}; this server speaks version 1"


@pytest.mark.parametrize(("flags", "group"), [(1, 0), (0x8000, 0), (0, 1)])
def test_decoder_reserved_bits(flags: int, group: int) -> None:
    """Reserved flags and groups are refused, never skipped (W1)."""
    data = raw_frame(7, msgpack.packb(HEARTBEAT), flags=flags, group=group)
    assert "reserved" in refusal(data)


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, (1 << 32) - 1])
def test_decoder_header_too_long(length: int) -> None:
    """A header that claims more than the limit is refused from the fixed header alone (W1)."""
    data = raw_frame(7, b"", header_length=length)
    assert refusal(data) == f"a frame header of {length} bytes; {MAX_HEADER_BYTES} are allowed"


@pytest.mark.parametrize("length", [1001, (1 << 32) - 1])
def test_decoder_body_too_long(length: int) -> None:
    """A body that claims more than the limit is refused from the fixed header alone (W1)."""
    data = raw_frame(5, b"", body_length=length)
    assert refusal(data, max_body=1000) == f"a frame body of {length} bytes; 1000 are allowed"


def test_decoder_allocates_what_arrived() -> None:
    """A frame that announces 256 MiB, within the limit, takes no memory before its bytes arrive (W1)."""
    data = raw_frame(5, msgpack.packb(APPEND_ENTRIES), body_length=256 << 20)
    decoder = FrameDecoder(peer="n2", max_body=1 << 30)
    tracemalloc.start()
    try:
        decoder.feed(data)
        assert decoder.next_frame() is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 10


def test_decoder_every_flipped_byte() -> None:
    """No byte of a frame can change unnoticed; a longer announced length leaves it unfinished (W1)."""
    data = golden("heartbeat")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        decoder = FrameDecoder(peer="n2", max_body=1 << 20)
        decoder.feed(bytes(damaged))
        try:
            frame = decoder.next_frame()
        except ProtocolError:
            continue
        assert frame is None, f"byte {position} was changed and the frame accepted"
        assert decoder.mid_frame


def test_decoder_after_error_stays_refused() -> None:
    """A connection that sent nonsense once is not trusted again: the same error returns."""
    decoder = FrameDecoder(peer="n2", max_body=1 << 20)
    decoder.feed(b"nonsense" * 10)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            decoder.next_frame()
        decoder.feed(golden("heartbeat"))


def test_decoder_unknown_type() -> None:
    """A sound frame of an unknown type is no error: it comes out by number, and the next frame follows."""
    decoder = FrameDecoder(peer="n2", max_body=1 << 20)
    strange = raw_frame(77, b"anything", b"and a body", request_id=9)
    decoder.feed(strange + golden("heartbeat"))
    assert decoder.next_frame() == UnknownFrame(request_id=9, message_type=77, size=len(strange))
    assert isinstance(decoder.next_frame(), Frame)


# ------------------------------------------------------------------------------------------- the header


@pytest.mark.parametrize("header", [b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb(7), b"\x81\xa4term"])
def test_header_not_a_map(header: bytes) -> None:
    """A header that is not one msgpack map is refused (W5)."""
    assert refusal(raw_frame(7, header)).startswith("Heartbeat is malformed")


def test_header_trailing_bytes() -> None:
    """Nothing may stand behind the map in a header (W5)."""
    assert "ExtraData" in refusal(raw_frame(7, msgpack.packb(HEARTBEAT) + b"\x00"))


def test_header_integer_keys() -> None:
    """Fields have names; a map with other keys is refused (W5)."""
    assert refusal(frame_of(Heartbeat, {1: 2})).startswith("Heartbeat is malformed")


@pytest.mark.parametrize("marker", [b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_header_nested_claims(marker: bytes) -> None:
    """Nested arrays and maps that claim to be huge take no memory on their word (W1)."""
    tracemalloc.start()
    try:
        reason = refusal(raw_frame(7, marker * (MAX_HEADER_BYTES // len(marker))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reason.startswith("Heartbeat is malformed")
    assert peak < 2 << 20


def test_header_unknown_keys_are_ignored() -> None:
    """A newer peer's additional field does not disturb an older server."""
    data = frame_of(Heartbeat, HEARTBEAT | {"invented_later": [1, {"a": None}]})
    assert decode_message(data) == Heartbeat(Term(3), ServerId("n1"), 0)


def test_header_missing_field_takes_default() -> None:
    """An older peer's header, without a newer field, gets that field's default."""
    assert decode_message(frame_of(HeartbeatReply, {"term": 3, "round": 4})) == HeartbeatReply(Term(3), 4)


def test_header_missing_required_field() -> None:
    """A header without a field that has no default is refused (W5)."""
    assert "leader" in refusal(frame_of(Heartbeat, {"term": 3, "round": 0}))


@pytest.mark.parametrize("value", [-1, 1 << 63, (1 << 64) - 1, True, False, 3.0, "3", b"3", None, [3], {"3": 3}])
def test_header_integer_not_coerced(value: object) -> None:
    """An integer field takes integers from 0 to 2^63 - 1 and nothing that could become one (W5)."""
    assert refusal(frame_of(Heartbeat, HEARTBEAT | {"term": value})).startswith("Heartbeat is malformed")


@pytest.mark.parametrize("value", [0, (1 << 63) - 1])
def test_header_integer_range_ends(value: int) -> None:
    """Both ends of the range of integers are allowed."""
    message = decode_message(frame_of(Heartbeat, HEARTBEAT | {"term": value}))
    assert message == Heartbeat(Term(value), ServerId("n1"), 0)


@pytest.mark.parametrize("value", [5, True, b"n1", 1.5, None, ["n", "1"], {"n": 1}])
def test_header_text_not_coerced(value: object) -> None:
    """A text field takes text and nothing that could become text: an int is no name (W5)."""
    assert refusal(frame_of(Heartbeat, HEARTBEAT | {"leader": value})).startswith("Heartbeat is malformed")


def test_header_text_not_unicode() -> None:
    """Text that is not UTF-8 is refused (W5)."""
    header = msgpack.packb(HEARTBEAT).replace(b"\xa2n1", b"\xa2\xff\xfe")
    assert "UnicodeDecodeError" in refusal(raw_frame(7, header))


@pytest.mark.parametrize("value", [0, 1, "false", "", None, [], 0.0])
def test_header_bool_not_coerced(value: object) -> None:
    """A bool field takes true and false alone: "false" is not True, and neither is 1 (W5)."""
    assert refusal(frame_of(HeartbeatReply, HEARTBEAT_REPLY | {"ready": value})).startswith("HeartbeatReply")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1, True, "1.0", None])
def test_header_float_not_coerced(value: object) -> None:
    """A float field takes finite floats alone: neither NaN, nor infinity, nor an int (W5)."""
    fields = HEARTBEAT_REPLY | {"lease_promise": value}
    assert refusal(frame_of(HeartbeatReply, fields)).startswith("HeartbeatReply is malformed")


@pytest.mark.parametrize("value", ["abc", b"abc", 3, None, {"1": 2}, ["1"], [True], [-1], [1.0], [[1]]])
def test_header_tuple_not_coerced(value: object) -> None:
    """A tuple field takes a list of the right items alone: "abc" is not three of anything (W5)."""
    frame = decode(golden("hello"))
    assert isinstance(frame, Frame)
    fields = msgpack.unpackb(golden("hello")[FRAME_HEADER_BYTES:])
    assert isinstance(fields, dict)
    assert refusal(frame_of(Hello, fields | {"kinds": value})).startswith("Hello is malformed")


@pytest.mark.parametrize("value", ["n1", [["n1", "a"]], 3, None, {"n1": 5}, {"n1": b"a"}, {b"n1": "a"}])
def test_header_mapping_not_coerced(value: object) -> None:
    """A mapping field takes a map of the right keys and values alone (W5)."""
    fields = {"incarnations": value, "done": True}
    assert refusal(frame_of(BootstrapStatement, fields)).startswith("BootstrapStatement is malformed")


@pytest.mark.parametrize("value", ["", "log_mismatch"])
def test_header_enum_values(value: str) -> None:
    """An enum field is carried by its value."""
    message = decode_message(frame_of(AppendEntriesReply, REPLY | {"rejection": value}))
    assert isinstance(message, AppendEntriesReply)
    assert message.rejection is Rejection(value)


@pytest.mark.parametrize("value", ["invented", "NONE", None, 0, False, [], {}])
def test_header_enum_not_coerced(value: object) -> None:
    """An enum field takes its members' values alone (W5)."""
    fields = REPLY | {"rejection": value}
    assert refusal(frame_of(AppendEntriesReply, fields)).startswith("AppendEntriesReply is malformed")


def test_refusal_is_short() -> None:
    """A peer cannot fill the log with one bad frame: its data is quoted in part."""
    data = frame_of(Heartbeat, HEARTBEAT | {"term": "x" * 60_000})
    assert len(refusal(data)) < 200


@hypothesis.given(header=st.binary(max_size=200), body=st.binary(max_size=200), kind=st.sampled_from([*MESSAGE_TYPES]))
def test_decoder_any_bytes(header: bytes, body: bytes, kind: int) -> None:
    """Whatever stands in a frame, it is a message or a ProtocolError, never another exception (W1, W5)."""
    try:
        decode(raw_frame(kind, header, body))
    except ProtocolError as error:
        assert error.peer == "n2"  # noqa: PT017  # either outcome is right


# --------------------------------------------------------------------------------------------- the body


def append_frame(*entries: Entry, **fields: object) -> bytes:
    """AppendEntries after (5, 2) in term 3."""
    body = b"".join(item.record for item in entries)
    return frame_of(AppendEntries, APPEND_ENTRIES | fields, body)


def test_body_where_none_belongs() -> None:
    """Only AppendEntries has a body (W1)."""
    assert "a body of 1 bytes" in refusal(frame_of(Heartbeat, HEARTBEAT, b"x"))


def test_body_entries_are_their_records() -> None:
    """The entries that come out hold the very bytes that came in."""
    sent = [entry(6, 2), entry(7, 3, EntryKind.NO_OP, b"")]
    message = decode_message(append_frame(*sent))
    assert isinstance(message, AppendEntries)
    assert [item.record for item in message.entries] == [item.record for item in sent]


def test_body_header_cannot_bring_entries() -> None:
    """A header that names a field ``entries`` brings none: entries come from the checksummed body alone (W5)."""
    message = decode_message(append_frame(entries=["x"]))
    assert isinstance(message, AppendEntries)
    assert message.entries == []


@pytest.mark.parametrize("indexes", [(5,), (7,), (0,), (6, 6), (6, 8), (6, 7, 9), (7, 6), ((1 << 64) - 1,)])
def test_body_indexes_not_contiguous(indexes: tuple[int, ...]) -> None:
    """Entries that do not follow prev_log_index one by one never reach the rules (R9)."""
    assert "stands where entry" in refusal(append_frame(*(entry(index, 3) for index in indexes)))


@pytest.mark.parametrize("terms", [(1,), (3, 2), (2, 3, 2)])
def test_body_terms_fall(terms: tuple[int, ...]) -> None:
    """Terms along a log never fall, from prev_log_term on (R9)."""
    frame = append_frame(*(entry(index, term) for index, term in enumerate(terms, start=6)))
    assert "follows one of term" in refusal(frame)


@pytest.mark.parametrize("terms", [(4,), (3, 4), ((1 << 64) - 1,)])
def test_body_terms_above_the_leader(terms: tuple[int, ...]) -> None:
    """A leader holds no entry of a term above its own (R9)."""
    frame = append_frame(*(entry(index, term) for index, term in enumerate(terms, start=6)))
    assert "above the leader's term 3" in refusal(frame)


def test_body_prev_term_above_the_leader() -> None:
    """A probe whose previous term is above the leader's is refused too (R9)."""
    assert "above the leader's term 3" in refusal(append_frame(prev_log_term=4))


@pytest.mark.parametrize("kind", [EntryKind.VOTE, EntryKind.SNAPSHOT_MARKER, EntryKind.BOOTSTRAP])
def test_body_log_file_kinds(kind: EntryKind) -> None:
    """Records that belong into log files only are refused from a peer (W1)."""
    assert "belongs into log files only" in refusal(append_frame(entry(6, 3), entry(7, 3, kind)))


def test_body_every_flipped_byte() -> None:
    """Each byte of the entries is covered by a checksum (W1)."""
    data = append_frame(entry(6, 3, data=b"hello"), entry(7, 3))
    body_start = len(data) - len(entry(6, 3, data=b"hello").record) - len(entry(7, 3).record)
    for position in range(body_start, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x80
        assert "AppendEntries" in refusal(bytes(damaged))


@pytest.mark.parametrize("cut", [1, 8, 31, 32, 39])
def test_body_record_cut_short(cut: int) -> None:
    """A body that ends inside a record is refused (W1)."""
    record = entry(6, 3).record
    frame = frame_of(AppendEntries, APPEND_ENTRIES, record[: len(record) - cut])
    assert refusal(frame).startswith("the entries of AppendEntries are malformed") or cut == len(record)


# --------------------------------------------------------------------------------------------- encoding


def test_encode_header_too_large() -> None:
    """A message whose header no peer would take fails where it is made."""
    incarnations = {ServerId(f"n{number}"): Incarnation("a" * 64) for number in range(2000)}
    with pytest.raises(ValueError, match="BootstrapStatement takes"):
        encode_frame(BootstrapStatement(incarnations, done=False), request_id=1)


def test_encode_entries_are_copied_not_encoded() -> None:
    """The frame ends with the entries' own records, byte for byte."""
    entries = [entry(6, 3), entry(7, 3)]
    message = AppendEntries(Term(3), ServerId("n1"), LogIndex(5), Term(2), LogIndex(5), entries)
    records = b"".join(item.record for item in entries)
    assert encode_frame(message, request_id=1).endswith(records)


# ------------------------------------------------------------------------------------------- pieces of snapshots

LARGE_SIZES = [0, 10, 32 << 10, (32 << 10) - 1, 300_000, 1, 70_000]

PIECE: dict[str, Any] = {
    "term": 3,
    "leader": "n1",
    "transfer": "t1",
    "last_included_index": 40,
    "last_included_term": 2,
    "digest": "d1",
    "total": 100,
    "offset": 95,
}


def piece(data: bytes, /, **fields: object) -> bytes:
    """A frame with a piece of a snapshot."""
    return frame_of(InstallSnapshot, {**PIECE, **fields}, data)


def test_piece_up_to_the_last_byte() -> None:
    """A piece may reach the end of the snapshot, and no further (N5, W1)."""
    message = decode_message(piece(b"12345"))
    assert isinstance(message, InstallSnapshot)
    assert (message.offset, message.data) == (95, b"12345")
    assert "6 bytes at 95 of a snapshot of 100" in refusal(piece(b"123456"))


def test_piece_header_cannot_bring_data() -> None:
    """The bytes are the body, whatever the header claims (W1)."""
    message = decode_message(piece(b"12", data=b"no"))
    assert isinstance(message, InstallSnapshot)
    assert message.data == b"12"


def test_piece_status_is_known() -> None:
    """A status that is none is refused, not guessed (W5)."""
    assert "InstallSnapshotReply is malformed" in refusal(
        frame_of(InstallSnapshotReply, {"term": 3, "status": "probably", "offset": 0, "reason": ""})
    )
