"""``log inspect`` and ``log verify``: what they report, and what they refuse; nothing is ever changed."""

from pathlib import Path

import pytest

from tests.storage.support import commands, keep_up, save
from tests.tools.support import (
    FILES,
    MEMBERS,
    N2,
    SEGMENT_BYTES,
    add_snapshot,
    change,
    contents,
    flip,
    make_directory,
    owner,
    point,
    simple_directory,
    start_of,
    with_node,
)
from trio_raft import recovery
from trio_raft._errors import ConfigurationError, DirectoryInUse, IncompatibleVersion, LogCorrupt, SnapshotCorrupt
from trio_raft._records import RECORD_HEADER_BYTES, LogIndex
from trio_raft._storage import format as log_format
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    SECTOR_BYTES,
    decode_batch_header,
    decode_description,
    decode_description_header,
    encode_batch,
)
from trio_raft._storage.segments import segment_path
from trio_raft._storage.wal import FileLogStore
from trio_raft.abc import Compact, SaveSnapshot


def compacted_directory(directory: Path) -> Path:
    """Entries 1 to 100 in five segments, a snapshot up to 50, and the segments below 41 gone."""
    batches = [[commands(first, first + 9, term=1, data=b"x" * 100)] for first in range(1, 100, 10)]
    make_directory(directory, start_of(1), *batches)
    add_snapshot(directory, 50, 1)
    store = FileLogStore(directory, segment_bytes=SEGMENT_BYTES, files=FILES)
    store.open(owner(), memory_bytes=0, snapshot=point(50, 1))
    save(store, Compact(LogIndex(40)))
    keep_up(store)
    store.close()
    return directory


# ------------------------------------------------------------------------------------ what is reported


def test_inspect_says_what_a_log_amounts_to(tmp_path: Path) -> None:
    """The report names owner, term, vote, entries, terms, members and files."""
    directory = simple_directory(tmp_path / "n1")
    report = recovery.inspect_log(directory)
    assert (report.cluster_id, report.node_id, report.incarnation) == ("old", "n1", "aa")
    assert (report.term, report.voted_for) == (2, N2)
    assert (report.base, report.last, report.terms) == (point(0, 0), point(9, 2), ((1, 1), (7, 2)))
    assert (report.members, report.members_confirmed) == (MEMBERS, True)
    assert (report.snapshot, report.superseded, report.torn_tail, report.markers) == (None, False, None, ())
    [segment] = report.segments
    assert (segment.number, segment.file, segment.batches) == (1, segment_path(directory, 1).name, 4)
    assert (segment.first_index, segment.last_index, segment.size) == (1, 9, SEGMENT_BYTES)
    assert segment.used == 5 * SECTOR_BYTES
    assert report.unused == (segment_path(directory, 2).name, segment_path(directory, 3).name)
    assert report.records_checked is None


def test_inspect_of_a_log_that_was_cut(tmp_path: Path) -> None:
    """A log whose oldest files are gone is reported from where it counts, beside the snapshot that covers the rest."""
    report = recovery.inspect_log(compacted_directory(tmp_path / "n1"))
    assert (report.base, report.last, report.snapshot) == (point(41, 1), point(100, 1), point(50, 1))
    assert [(each.number, each.first_index, each.last_index) for each in report.segments] == [
        (3, 42, 60),
        (4, 61, 80),
        (5, 81, 100),
    ]


def test_inspect_names_markers_and_what_they_replaced(tmp_path: Path) -> None:
    """A marker is reported with its place; the entries that it replaced do not count."""
    directory = make_directory(tmp_path / "n1", start_of(1), [commands(1, 3, term=1)])
    add_snapshot(directory, 7, 2)
    store = FileLogStore(directory, segment_bytes=SEGMENT_BYTES, files=FILES)
    store.open(owner(), memory_bytes=0, snapshot=point(7, 2))
    save(store, SaveSnapshot(point(7, 2), keep=False), commands(8, 9, term=2))
    store.close()
    report = recovery.inspect_log(directory)
    [marker] = report.markers
    assert (marker.file, marker.index, marker.term, marker.keep) == (segment_path(directory, 1).name, 7, 2, False)
    assert marker.offset == 3 * SECTOR_BYTES + BATCH_HEADER_BYTES
    assert (report.base, report.last, report.superseded) == (point(7, 2), point(9, 2), False)


def test_inspect_of_a_log_that_a_snapshot_supersedes(tmp_path: Path) -> None:
    """Where a crash came before the marker, the snapshot counts and the log does not, as at a start (N1)."""
    directory = make_directory(tmp_path / "n1", start_of(1), [commands(1, 3, term=1)])
    add_snapshot(directory, 7, 2)
    report = recovery.inspect_log(directory)
    assert (report.superseded, report.base, report.last) == (True, point(7, 2), point(7, 2))
    assert [each.first_index for each in report.segments] == [None]


def test_inspect_names_a_torn_tail_and_leaves_it(tmp_path: Path) -> None:
    """What a crash left of a last write is reported, and not cut."""
    directory = make_directory(tmp_path / "n1", start_of(1), [commands(1, 1, term=1, data=b"\1" * 1000)])
    path = segment_path(directory, 1)
    start = 2 * SECTOR_BYTES
    change(path, start, bytes(SECTOR_BYTES))
    before = contents(directory)
    report = recovery.inspect_log(directory, verify=True)
    assert report.torn_tail is not None
    assert (report.torn_tail.file, report.torn_tail.offset) == (path.name, start)
    assert (report.last, report.records_checked) == (point(0, 0), 2)
    assert contents(directory) == before


def test_verify_counts_the_records(tmp_path: Path) -> None:
    """Every record is checked: the map, two votes, nine entries."""
    assert recovery.inspect_log(simple_directory(tmp_path / "n1"), verify=True).records_checked == 12


def test_inspect_of_a_directory_where_nothing_was_promised(tmp_path: Path) -> None:
    """A first segment of zeros belongs to nobody, and holds nothing."""
    directory = tmp_path / "n1"
    directory.mkdir()
    segment_path(directory, 1).write_bytes(bytes(SEGMENT_BYTES))
    report = recovery.inspect_log(directory)
    assert (report.cluster_id, report.last, report.unused) == ("", point(0, 0), (segment_path(directory, 1).name,))


def test_inspect_changes_nothing(tmp_path: Path) -> None:
    """Looking leaves every byte as it was, the lock file's too, and needs no lock file."""
    directory = compacted_directory(tmp_path / "n1")
    before = contents(directory)
    recovery.inspect_log(directory, verify=True)
    assert contents(directory) == before
    (directory / "lock").unlink()
    recovery.inspect_log(directory, verify=True)
    assert sorted(contents(directory)) == sorted(set(before) - {"lock"})


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("verify", [False, True])
def test_damage_is_named_and_nothing_changed(tmp_path: Path, verify: bool) -> None:
    """A damaged batch is refused with file, offset and index, and left as it is (S3)."""
    directory = simple_directory(tmp_path / "n1")
    path = segment_path(directory, 1)
    flip(path, 2 * SECTOR_BYTES + BATCH_HEADER_BYTES + RECORD_HEADER_BYTES)
    before = contents(directory)
    with pytest.raises(LogCorrupt) as caught:
        recovery.inspect_log(directory, verify=verify)
    assert (caught.value.path, caught.value.offset, caught.value.index) == (path, 2 * SECTOR_BYTES, 1)
    assert contents(directory) == before


def test_verify_checks_records_by_themselves(tmp_path: Path) -> None:
    """A record that is wrong inside a whole batch passes a start, and not the verification."""
    directory = simple_directory(tmp_path / "n1")
    path = segment_path(directory, 1)
    at = 2 * SECTOR_BYTES
    wrong = rewrite_second_record(path, at)
    assert recovery.inspect_log(directory).last == point(9, 2)
    before = contents(directory)
    with pytest.raises(LogCorrupt, match="although its batch is whole") as caught:
        recovery.inspect_log(directory, verify=True)
    assert (caught.value.path, caught.value.offset, caught.value.index) == (path, wrong, 2)
    assert contents(directory) == before


def test_verify_reads_older_snapshots(tmp_path: Path) -> None:
    """Those behind the newest whole one are left alone by a start, and read by the verification."""
    directory = simple_directory(tmp_path / "n1")
    older = Path(add_snapshot(directory, 4, 1, b"older").name)
    add_snapshot(directory, 6, 1, b"newer")
    flip(older, older.stat().st_size - 1)
    report = recovery.inspect_log(directory)
    assert (report.damaged_snapshots, report.unread_snapshots) == ((), (older.name,))
    report = recovery.inspect_log(directory, verify=True)
    assert [damage.path for damage in report.damaged_snapshots if isinstance(damage, SnapshotCorrupt)] == [older]
    assert (report.snapshot, report.unread_snapshots) == (point(6, 1), ())


def rewrite_second_record(path: Path, at: int) -> int:
    """Change the second record of the batch there, with the batch's own checksums right; returns its offset."""
    data = path.read_bytes()
    description_header = decode_description_header(data, segment_number=1)
    assert description_header is not None
    salt = decode_description(data, description_header).nonce
    header = decode_batch_header(data, at, salt=salt)
    assert header is not None
    records = bytearray(data[at + BATCH_HEADER_BYTES : at + header.length])
    size = len(records) // header.records
    records[size + RECORD_HEADER_BYTES] ^= 1
    parts = [bytes(records[start : start + size]) for start in range(0, len(records), size)]
    change(path, at, bytes(encode_batch(parts, number=header.number, salt=salt)))
    return at + BATCH_HEADER_BYTES + size


def test_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log by a later version is named as such, with its file."""
    monkeypatch.setattr(log_format, "FORMAT_VERSION", 2)
    directory = simple_directory(tmp_path / "n1")
    monkeypatch.undo()
    before = contents(directory)
    with pytest.raises(IncompatibleVersion, match="format version 2") as caught:
        recovery.inspect_log(directory)
    assert caught.value.what == str(segment_path(directory, 1))
    assert contents(directory) == before


def test_directory_in_use_is_refused(tmp_path: Path) -> None:
    """While a node has the directory open it is not looked into, and the node is not disturbed (S10)."""
    store = with_node(tmp_path / "n1", start_of(1))
    before = contents(tmp_path / "n1")
    with pytest.raises(DirectoryInUse):
        recovery.inspect_log(tmp_path / "n1")
    assert contents(tmp_path / "n1") == before
    save(store, commands(1, 1, term=1))
    store.close()
    assert recovery.inspect_log(tmp_path / "n1").last == point(1, 1)


def test_missing_segment_is_refused(tmp_path: Path) -> None:
    """Files that are gone, and that no snapshot covers, are missed by name (S6)."""
    directory = compacted_directory(tmp_path / "n1")
    for path in directory.glob("*.snapshot"):
        path.unlink()
    with pytest.raises(LogCorrupt, match="is missing") as caught:
        recovery.inspect_log(directory)
    assert caught.value.path == segment_path(directory, 2)


def test_no_log(tmp_path: Path) -> None:
    """What is no directory, or holds no log, is named."""
    (tmp_path / "file").write_bytes(b"")
    for name, problem in (("missing", "does not exist"), ("file", "is not a directory"), (".", "holds no log")):
        with pytest.raises(ConfigurationError, match=problem):
            recovery.inspect_log(tmp_path / name)
