"""Torn or corrupt: what a power cut explains is cut, everything else is refused and left as it is.

Every case is a log on a simulated disk with something done to its bytes.
"""

from collections.abc import Callable
from pathlib import Path

import attrs
import msgpack
import pytest

from tests.storage.support import (
    DIRECTORY,
    ENOUGH_MEMORY,
    N1,
    Image,
    append,
    bootstrap,
    commands,
    entry,
    identity,
    keep_up,
    make_store,
    open_store,
    recover,
    save,
    vote,
)
from trio_raft._errors import DirectoryMismatch, IncompatibleVersion, LogCorrupt
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import EntryKind, LogIndex, Term, make_entry
from trio_raft._storage import format as log_format
from trio_raft._storage.format import SECTOR_BYTES
from trio_raft._storage.segments import segment_path
from trio_raft._storage.wal import MARGIN_BYTES
from trio_raft.abc import Append, JournalItem, SaveBootstrap, StoreIdentity
from trio_raft.testing._disk import SimDisk

FIRST = segment_path(DIRECTORY, 1)
SECOND = segment_path(DIRECTORY, 2)
THIRD = segment_path(DIRECTORY, 3)


@attrs.frozen
class Log:
    """A log and what it amounts to."""

    disk: SimDisk
    image: Image
    ends: tuple[int, ...]
    """Where the first batch of the last segment begins, and where each of its batches ends."""


def write_log(*batches: list[JournalItem], segment_bytes: int = 4096, longest_batch: int | None = None) -> Log:
    disk = SimDisk()
    store = open_store(disk, segment_bytes=segment_bytes, longest_batch=longest_batch)
    image = Image()
    ends = [SECTOR_BYTES]
    for batch in batches:
        save(store, *batch)
        image = image.after(batch)
        active = store._active
        if active.segment.number > len(disk.paths()):
            ends.clear()
        ends.append(active.end)
    store.close()
    return Log(disk, image, tuple(ends))


def small_log() -> Log:
    """One segment: description, vote, three small batches."""
    return write_log([vote(1, N1)], [commands(1, 2, term=1)], [commands(3, 4, term=1)], [commands(5, 6, term=1)])


def damage(disk: SimDisk, path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(disk.contents(path))
    change(content)
    disk.overwrite(path, bytes(content))


def zero(content: bytearray, start: int, size: int = SECTOR_BYTES) -> None:
    content[start : start + size] = bytes(len(content[start : start + size]))


def check_refused(disk: SimDisk, *, path: Path, offset: int, index: int, match: str) -> None:
    """The log is refused, twice, naming the place, and nothing on the disk is changed."""
    before = {each: disk.contents(each) for each in disk.paths()}
    for _ in range(2):
        with pytest.raises(LogCorrupt, match=match) as caught:
            recover(disk)
        assert (caught.value.path, caught.value.offset, caught.value.index) == (path, offset, index)
    assert {each: disk.contents(each) for each in disk.paths()} == before


def check_cut(disk: SimDisk, image: Image, *, path: Path, size: int) -> None:
    """The tail is cut with a report, and the next start finds nothing to cut."""
    found = recover(disk)
    assert (Image.of(found), found.cut_bytes, found.cut_path) == (image, size, str(path))
    again = recover(disk)
    assert (Image.of(again), again.cut_bytes, again.cut_path) == (image, 0, "")


# ------------------------------------------------------------------------------------ torn


def test_torn_header_sector_lost_is_cut() -> None:
    """A power cut that keeps sectors 3 to 16 of the last batch and loses 1 and 2 does not stop a node (S3)."""
    log = write_log([vote(1, N1)], [commands(1, 1, term=1, data=b"\x01" * 7900)], segment_bytes=16384)
    start, end = log.ends[1:3]
    assert end - start == 16 * SECTOR_BYTES
    used = len(log.disk.contents(FIRST).rstrip(b"\0"))
    damage(log.disk, FIRST, lambda content: zero(content, start, 2 * SECTOR_BYTES))
    check_cut(log.disk, Image(1, N1), path=FIRST, size=used - start)


def test_torn_later_sector_lost_is_cut() -> None:
    """A valid header with more zero sectors behind it than it says is a torn tail (S3)."""
    data = b"\x01" * 600 + bytes(1500) + b"\x01" * 600
    log = write_log([vote(1, N1)], [commands(1, 1, term=1, data=data)])
    start = log.ends[1]
    used = len(log.disk.contents(FIRST).rstrip(b"\0"))
    damage(log.disk, FIRST, lambda content: zero(content, start + SECTOR_BYTES))
    check_cut(log.disk, Image(1, N1), path=FIRST, size=used - start)


def test_torn_zero_sectors_of_a_whole_batch_are_no_loss() -> None:
    """A batch whose own sectors of zeros are zero is whole (S3)."""
    log = write_log([commands(1, 1, term=1, data=bytes(2000) + b"\x01")])
    found = recover(log.disk)
    assert (Image.of(found), found.cut_bytes) == (log.image, 0)


def test_torn_tail_is_zeroed_to_the_end_before_anything_is_appended() -> None:
    """A cut writes zeros up to the end of the segment and syncs them, all before the open returns (S4)."""
    log = write_log([vote(1, N1)], [commands(1, 1, term=1, data=b"\x01" * 2000)])
    start = log.ends[1]
    damage(log.disk, FIRST, lambda content: zero(content, start))
    recover(log.disk)
    assert log.disk.unsynced() == []
    assert log.disk.contents(FIRST)[start:] == bytes(4096 - start)


def test_torn_description_is_thrown_away() -> None:
    """A segment whose description was torn never held anything: it goes, and the log ends before it (S3, S6)."""
    members = SaveBootstrap({ServerId(f"server-{number}"): Incarnation("aa" * 8) for number in range(40)}, True)
    log = write_log([members], [commands(1, 1, term=1, data=b"\x01" * 9000)], segment_bytes=12288)
    store = open_store(log.disk, segment_bytes=12288)
    save(store, commands(2, 2, term=1, data=b"\x02" * 9000))
    store.close()
    sectors = len(log_format.encode_description(store._active.description, number=4)) // SECTOR_BYTES
    assert sectors == 3
    description = log.disk.contents(SECOND)[: sectors * SECTOR_BYTES]
    for lost in range(sectors):
        torn = bytearray(description + bytes(12288 - len(description)))
        zero(torn, lost * SECTOR_BYTES)
        log.disk.overwrite(SECOND, bytes(torn))
        size = len(torn.rstrip(b"\0"))
        found = recover(log.disk, segment_bytes=12288)
        assert (Image.of(found), found.cut_bytes, found.cut_path) == (log.image, size, str(SECOND))
        assert log.disk.paths() == [FIRST]
        assert recover(log.disk, segment_bytes=12288).cut_bytes == 0


def test_corrupt_lost_description_with_a_batch_behind_it_is_refused() -> None:
    """A description of zeros is damage if anything stands behind the place that it took (S3)."""
    log = write_log([commands(1, 1, term=1, data=b"\x01" * 2900)], [commands(2, 2, term=1, data=b"\x02" * 2900)])
    for lost in (SECTOR_BYTES, 5 * SECTOR_BYTES):
        disk = log.disk.after_power_cut(lambda _: True)
        used = len(disk.contents(SECOND).rstrip(b"\0"))
        damage(disk, SECOND, lambda content, lost=lost: zero(content, 0, lost))  # type: ignore[misc]
        check_refused(disk, path=SECOND, offset=0, index=2, match=f"at byte {used - 1} there is something")


# ------------------------------------------------------------------------------------ corrupt


def test_corrupt_zeros_with_a_flipped_bit_are_refused() -> None:
    """A command full of zeros in which one bit flipped is damage, not a torn write (S3)."""
    log = write_log([vote(1, N1)], [commands(1, 1, term=1, data=bytes(2000))])
    start = log.ends[1]

    def flip(content: bytearray) -> None:
        content[start + 1000] ^= 4

    damage(log.disk, FIRST, flip)
    check_refused(log.disk, path=FIRST, offset=start, index=1, match="do not match their checksum")


def test_corrupt_lost_sector_before_a_later_batch_is_refused() -> None:
    """A sector of zeros where a batch began does not end the log if a later batch follows (S3)."""
    log = small_log()
    start = log.ends[2]
    damage(log.disk, FIRST, lambda content: zero(content, start))
    check_refused(log.disk, path=FIRST, offset=start, index=3, match="batch 5 follows at byte 2048")


def test_corrupt_lost_sector_in_an_older_segment_is_refused() -> None:
    """A batch that is missing at the end of a segment is damage if a later segment was begun (S3)."""
    log = write_log([commands(1, 1, term=1, data=b"\x01" * 2900)], [commands(2, 2, term=1, data=b"\x02" * 2900)])
    damage(log.disk, FIRST, lambda content: zero(content, SECTOR_BYTES))
    check_refused(log.disk, path=FIRST, offset=SECTOR_BYTES, index=1, match=f"the log goes on in {SECOND.name}")
    damage(log.disk, FIRST, lambda content: zero(content, SECTOR_BYTES, 4096))
    check_refused(log.disk, path=SECOND, offset=0, index=1, match="batch 3 of .* where batch 2 belongs")


def test_corrupt_header_is_refused() -> None:
    """A damaged header that is not all zero is no torn write, not even at the very end (S3)."""
    log = small_log()
    start = log.ends[3]

    def flip(content: bytearray) -> None:
        content[start + 8] ^= 1

    damage(log.disk, FIRST, flip)
    check_refused(log.disk, path=FIRST, offset=start, index=5, match="something other than batch 5")


def test_corrupt_byte_beyond_the_longest_batch_is_refused() -> None:
    """A byte other than zero further off than the longest batch reaches is damage (S3)."""
    longest = MARGIN_BYTES + 1024
    log = write_log([commands(1, 1, term=1)], segment_bytes=4 * longest, longest_batch=1024)
    end = log.ends[1]

    def put(at: int) -> Callable[[bytearray], None]:
        def change(content: bytearray) -> None:
            content[at] = 1

        return change

    damage(log.disk, FIRST, put(end + longest))
    check_refused(log.disk, path=FIRST, offset=end, index=2, match=f"at byte {end + longest} there is something")
    damage(log.disk, FIRST, lambda content: zero(content, end + longest))
    damage(log.disk, FIRST, put(end + longest - 1))
    check_cut(log.disk, log.image, path=FIRST, size=longest)


def test_corrupt_command_that_contains_a_log_is_no_batch() -> None:
    """A command that contains a piece of a log file does not pass for a batch: headers are salted (S3)."""
    other = SimDisk()
    store = make_store(other)
    store.open(identity(incarnation="other"), memory_bytes=0)
    for index in range(1, 6):
        save(store, commands(index, index, term=1))
    store.close()
    forged = other.contents(FIRST)[2 * SECTOR_BYTES :]
    # Aligned such that the headers inside the command stand on sector boundaries.
    data = b"\x01" * (SECTOR_BYTES - 64) + forged[:2000]
    log = write_log([vote(1, N1)], [commands(1, 1, term=1, data=data)])
    start = log.ends[1]
    content = log.disk.contents(FIRST)
    assert content[start + SECTOR_BYTES : start + SECTOR_BYTES + 4] == b"tRba"
    damage(log.disk, FIRST, lambda content: zero(content, start))
    assert recover(log.disk).cut_bytes > 0


def test_corrupt_segments_share_no_salt() -> None:
    """Each segment of each log salts its headers with a nonce of its own, after a restart too (S3)."""
    nonces: list[bytes] = []
    for incarnation in ("aa", "bb"):
        disk = SimDisk()
        for index, life in enumerate("xyz", start=1):
            store = make_store(disk)
            store.open(identity(incarnation=incarnation + life), memory_bytes=0)
            save(store, commands(2 * index - 1, 2 * index - 1, term=1, data=b"\x01" * 2900))
            nonces.append(store._active.description.nonce)
            save(store, commands(2 * index, 2 * index, term=1, data=b"\x01" * 2900))
            nonces.append(store._active.description.nonce)
            store.close()
    assert len(set(nonces)) == len(nonces)


def rotated_log() -> Log:
    """Three segments, the last two prepared and unused not counted."""
    return write_log(
        [vote(1, N1), bootstrap(done=True)],
        [append(entry(1, 1, b"members", EntryKind.CONFIGURATION)), commands(2, 3, term=1)],
        [commands(4, 4, term=1, data=b"\x01" * 700 + bytes(1100) + b"\x02" * 600)],
        [commands(4, 5, term=2, data=b"\x03" * 300)],
        [vote(3), commands(6, 6, term=2, data=b"\x04" * 2500)],
    )


def test_corrupt_every_single_bit_flip_is_noticed() -> None:
    """A flipped bit is refused wherever it is, but for the zeros behind the log's end, where it is cut (S3)."""
    log = rotated_log()
    assert Image.of(recover(log.disk)) == log.image
    refused = 0
    for path in log.disk.paths():
        intact = log.disk.contents(path)
        for at in range(len(intact)):
            flipped = bytearray(intact)
            flipped[at] ^= 1 << at % 8
            log.disk.overwrite(path, bytes(flipped))
            try:
                found = recover(log.disk.after_power_cut(lambda _: True))
            except (LogCorrupt, IncompatibleVersion, DirectoryMismatch):
                refused += 1
            else:
                assert Image.of(found) == log.image
                assert path == log.disk.paths()[-1]
                assert at >= log.ends[-1]
        log.disk.overwrite(path, intact)
    assert refused >= (len(log.disk.paths()) - 1) * 4096 + log.ends[-1]


# ------------------------------------------------------------------------------------ files


def test_file_shortened_is_refused() -> None:
    """A segment shorter than its description says is damage, wherever it was cut off (S3)."""
    log = rotated_log()
    for path, index in ((FIRST, 1), (SECOND, 5)):
        intact = log.disk.contents(path)
        for length in (4095, 2048, SECTOR_BYTES):
            log.disk.overwrite(path, intact[:length])
            check_refused(log.disk, path=path, offset=length, index=index, match=f"{length} bytes instead of 4096")
        log.disk.overwrite(path, intact)


def test_file_emptied_is_refused_if_later_ones_exist() -> None:
    """A segment that was emptied is noticed by the segments prepared after it (S3)."""
    log = write_log([commands(1, 1, term=1)])
    store = open_store(log.disk)
    keep_up(store)
    store.close()
    log.disk.overwrite(FIRST, b"")
    check_refused(log.disk, path=FIRST, offset=0, index=1, match="shortened")


def test_file_missing_is_refused() -> None:
    """At a gap in the segment numbers the log is corrupt (S6)."""
    log = rotated_log()
    for missing, index in ((FIRST, 1), (SECOND, 5)):
        disk = log.disk.after_power_cut(lambda _: True)
        disk.remove(missing)
        check_refused(disk, path=missing, offset=0, index=index, match="the file is missing")


def test_file_out_of_place_is_refused() -> None:
    """A segment under another segment's name is damage."""
    log = rotated_log()
    log.disk.overwrite(SECOND, log.disk.contents(FIRST))
    check_refused(log.disk, path=SECOND, offset=0, index=5, match="something other than batch")


def test_file_of_an_older_state_is_refused() -> None:
    """A segment that does not continue the log before it is damage, although it is sound by itself."""
    log = rotated_log()
    other = write_log(
        [vote(1, N1), bootstrap(done=True)],
        [append(entry(1, 1, b"members", EntryKind.CONFIGURATION)), commands(2, 3, term=1)],
        [commands(4, 4, term=1, data=b"\x01" * 700 + bytes(1100) + b"\x02" * 500)],
        [commands(5, 6, term=2, data=b"\x03" * 300)],
        [vote(7), commands(6, 6, term=2, data=b"\x04" * 2500)],
    )
    log.disk.overwrite(THIRD, other.disk.contents(THIRD))
    with pytest.raises(LogCorrupt, match="amounts to"):
        recover(log.disk)


def test_file_with_another_name_is_left_alone() -> None:
    """Files that are no segments are none of the log's business."""
    log = small_log()
    stray = DIRECTORY / "log-1.segment"
    log.disk.overwrite(stray, b"notes")
    assert Image.of(recover(log.disk)) == log.image
    assert log.disk.contents(stray) == b"notes"


def test_unused_segments_are_discarded() -> None:
    """Segments that were prepared and not used are removed at the next start, the half prepared one too (S6)."""
    log = small_log()
    store = open_store(log.disk)
    keep_up(store)
    store.close()
    log.disk.overwrite(segment_path(DIRECTORY, 4), bytes(1024))
    assert len(log.disk.paths()) == 4
    assert Image.of(recover(log.disk)) == log.image
    assert log.disk.paths() == [FIRST]


# ------------------------------------------------------------------------------------ whose, and how new


def test_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of a newer format version is refused by name, and nothing is changed."""
    monkeypatch.setattr(log_format, "FORMAT_VERSION", 2)
    log = small_log()
    monkeypatch.undo()
    before = log.disk.contents(FIRST)
    with pytest.raises(IncompatibleVersion, match="format version 2") as caught:
        recover(log.disk)
    assert (caught.value.what, caught.value.found, caught.value.supported) == (str(FIRST), 2, 1)
    assert log.disk.contents(FIRST) == before


@pytest.mark.parametrize(
    ("stranger", "field"),
    [(identity("n2"), "node_id"), (identity(cluster_id="other"), "cluster_id")],
    ids=["node", "cluster"],
)
def test_foreign_directory_is_refused(stranger: StoreIdentity, field: str) -> None:
    """A directory of another node or cluster is refused, and nothing in it is changed."""
    log = small_log()
    before = (log.disk.contents(FIRST), list(log.disk.operations))
    store = make_store(log.disk)
    with pytest.raises(DirectoryMismatch) as caught:
        store.open(stranger, memory_bytes=ENOUGH_MEMORY)
    assert caught.value.field == field
    assert (log.disk.contents(FIRST), log.disk.operations) == (before[0], [*before[1], "make_directory data"])
    assert Image.of(recover(log.disk)) == log.image


# ------------------------------------------------------------------------------------ sound batches that make no sense


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (entry(9, 1).record, "does not continue"),
        (entry(3, 0).record, "lower term"),
        (make_entry(index=LogIndex(0), term=Term(0), kind=EntryKind.VOTE, data=b"\xc0").record, "term falls"),
        (make_entry(index=LogIndex(0), term=Term(5), kind=EntryKind.VOTE, data=b"\x07").record, "no server"),
        (make_entry(index=LogIndex(0), term=Term(5), kind=EntryKind.VOTE, data=b"\xc1").record, "not msgpack"),
        (make_entry(index=LogIndex(0), term=Term(0), kind=EntryKind.BOOTSTRAP, data=b"\x07").record, "no sense"),
        (make_entry(index=LogIndex(0), term=Term(0), kind=EntryKind.BOOTSTRAP, data=b"\xc0").record, "without a map"),
        (
            make_entry(index=LogIndex(2), term=Term(1), kind=EntryKind.SNAPSHOT_MARKER, data=b"\x07").record,
            "marker that makes no sense",
        ),
        (
            make_entry(index=LogIndex(0), term=Term(0), kind=EntryKind.SNAPSHOT_MARKER, data=b"\xc2").record,
            "marker that makes no sense",
        ),
        (
            make_entry(index=LogIndex(2), term=Term(7), kind=EntryKind.SNAPSHOT_MARKER, data=b"\xc3").record,
            "has no entry",
        ),
        (b"\x01" * 32, "which are not there"),
        (b"\x01" * 8, "0 records, not 1"),
    ],
    ids=[
        "gap",
        "lower-term",
        "term",
        "vote",
        "data",
        "bootstrap",
        "no-map",
        "marker",
        "marker-of-0",
        "keep",
        "length",
        "count",
    ],
)
def test_nonsense_in_a_sound_batch_is_refused(record: bytes, problem: str) -> None:
    """A batch with a right checksum whose records make no sense is refused, at the record."""
    log = write_log([vote(1, N1)], [commands(1, 2, term=1)])
    end = log.ends[-1]
    salt = log_format.make_nonce("aa", segment_number=1)
    batch = log_format.encode_batch([record], number=4, salt=salt)

    def put(content: bytearray) -> None:
        content[end : end + len(batch)] = batch

    damage(log.disk, FIRST, put)
    offset = end if len(record) == 8 else end + 32
    check_refused(log.disk, path=FIRST, offset=offset, index=3, match=problem)


@pytest.mark.parametrize("plain", [{}, {"vote": 3, "bootstrap": None}, 7, None])
def test_nonsense_in_a_description_is_refused(plain: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description with a right checksum that lacks its fields is refused."""
    real = msgpack.packb
    forged = real(plain)
    monkeypatch.setattr(msgpack, "packb", lambda value: forged if isinstance(value, dict) else real(value))
    disk = SimDisk()
    open_store(disk).close()
    monkeypatch.undo()
    check_refused(disk, path=FIRST, offset=0, index=1, match="makes no sense")


def test_append_of_the_test_support_measures_records() -> None:
    """The size that the tests announce is that of the records."""
    item = commands(1, 3, term=1)
    assert isinstance(item, Append)
    assert item.size == 3 * len(entry(1, 1).record)
