"""What snapshots do to the log on disk: what is given up and when, who still reads it, where the next start begins."""

import errno
import gc
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.support import (
    DIRECTORY,
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
    point,
    recover,
    save,
    vote,
)
from trio_raft._errors import DirectoryMismatch, LogCorrupt, StorageError, StorageFull
from trio_raft._records import Entry, EntryKind, LogIndex
from trio_raft._storage.files import OsFiles
from trio_raft._storage.recovery import after_last_gap, scan
from trio_raft._storage.segments import segment_numbers, segment_path
from trio_raft._storage.wal import FileLogStore
from trio_raft.abc import Compact, JournalItem, SaveSnapshot, SnapshotPoint
from trio_raft.testing._disk import SimDisk

LONG = b"\x01" * 2900
"""Of these, one command fits into a segment."""

SIX = point(6, 1)
"""The last entry of ``long_log``."""


def long_log(disk: SimDisk) -> FileLogStore:
    """Six entries of term 1 in as many segments, and all upkeep done."""
    store = open_store(disk)
    save(store, vote(1, N1), bootstrap(done=True))
    for index in range(1, 7):
        save(store, commands(index, index, term=1, data=LONG))
    keep_up(store)
    return store


def read(store: FileLogStore, first: int, last: int) -> list[Entry]:
    return store.execute_read(store.plan_read(LogIndex(first), LogIndex(last), max_bytes=1 << 20))


def compact(up_to: int) -> Compact:
    return Compact(LogIndex(up_to))


def numbers(disk: SimDisk) -> list[int]:
    return segment_numbers(disk, DIRECTORY)


# ------------------------------------------------------------------------------------ giving up


def test_compact_writes_nothing() -> None:
    """A batch of nothing but ``Compact`` needs neither a write nor a sync, and the batch after it follows the last."""
    disk = SimDisk()
    store = long_log(disk)
    before = list(disk.operations)
    save(store, compact(3), compact(4))
    assert disk.operations == before
    save(store, commands(7, 7, term=1), compact(5))
    store.close()
    assert recover(disk, snapshot=SIX).last_index == 7


def test_compact_takes_effect_in_its_turn() -> None:
    """Nothing is given up before ``done``; then the files go as upkeep, the oldest first, each durably (S6)."""
    disk = SimDisk()
    store = long_log(disk)
    plan = store.plan([compact(4)])
    assert plan is not None
    assert store.plan_upkeep() is None
    store.execute(plan)
    assert (store.plan_upkeep(), len(read(store, 1, 6))) == (None, 6)
    store.done(plan)
    before = len(disk.operations)
    keep_up(store)
    names = [segment_path(DIRECTORY, number).name for number in range(1, 5)]
    assert disk.operations[before::2] == [f"remove {name}" for name in names]
    assert disk.operations[before + 1 :: 2] == ["sync_directory data"] * 4


@pytest.mark.parametrize(("up_to", "oldest"), [(0, 1), (1, 2), (4, 5), (5, 6), (6, 6), (99, 6)])
def test_compact_removes_whole_segments_below_the_active(up_to: int, oldest: int) -> None:
    """A segment goes when all its entries may, and the active one never does."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, compact(up_to))
    keep_up(store)
    assert numbers(disk) == list(range(oldest, 9))
    assert [each.index for each in read(store, oldest, 6)] == list(range(oldest, 7))
    with pytest.raises(AssertionError, match=f"{oldest} to 6 are on disk"):
        read(store, oldest - 1, 6)


def test_compact_keeps_a_segment_with_one_entry_above() -> None:
    """Entries above the one that is given stay, and those that stand in their segment with them."""
    disk = SimDisk()
    store = open_store(disk)
    for first in (1, 4, 7):
        save(store, commands(first, first + 2, term=1, data=LONG[:900]))
    save(store, compact(5))
    keep_up(store)
    assert numbers(disk)[0] == 2
    assert [each.index for each in read(store, 4, 9)] == [4, 5, 6, 7, 8, 9]


def test_compact_counts_the_entries_that_are_left() -> None:
    """Entries that were superseded keep no segment alive, whatever their index."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, commands(3, 3, term=2, data=LONG))
    save(store, compact(2))
    keep_up(store)
    assert numbers(disk)[0] == 7
    assert read(store, 3, 3) == [entry(3, 2, LONG)]
    store.close()
    assert Image.of(recover(disk, snapshot=point(3, 2))).base == point(3, 2)


def test_compact_frees_the_memory_of_the_places() -> None:
    """What is known of an entry that was given up goes: four bytes for each that is left, and no more."""
    store = open_store(SimDisk(), segment_bytes=1 << 15)
    for first in range(1, 5001, 50):
        save(store, commands(first, first + 49, term=1 + first // 1000))
        save(store, compact(first))
        locations = store._state.entries.locations
        assert len(locations) <= 1000
        assert sys.getsizeof(locations._offsets) < 4 * 1500
    assert store._state.entries.term_runs == ((LogIndex(store._state.entries.base.index + 1), 5),)


def test_compact_below_a_rotation_in_the_same_batch() -> None:
    """The segment that a batch begins is the active one for its ``Compact``; the one before it may go."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, commands(7, 7, term=1, data=LONG), compact(6))
    keep_up(store)
    assert numbers(disk)[0] == 7
    store.close()
    found = recover(disk, snapshot=SIX)
    assert (found.base, found.last_index, found.tail) == (SIX, 7, (entry(7, 1, LONG),))


# ------------------------------------------------------------------------------------ readers


def test_read_pins_its_segments() -> None:
    """What a plan reads stays until nobody holds the plan; removal is then looked at again, and goes on."""
    disk = SimDisk()
    store = long_log(disk)
    plan = store.plan_read(LogIndex(3), LogIndex(5), max_bytes=1 << 20)
    save(store, compact(6))
    keep_up(store)
    assert (numbers(disk)[0], store.plan_upkeep()) == (3, None)
    assert [each.index for each in store.execute_read(plan)] == [3, 4, 5]
    del plan
    gc.collect()
    keep_up(store)
    assert numbers(disk)[0] == 6


def test_read_of_later_segments_pins_nothing() -> None:
    """A reader of entries that stay stands in nobody's way."""
    disk = SimDisk()
    store = long_log(disk)
    plan = store.plan_read(LogIndex(5), LogIndex(6), max_bytes=1 << 20)
    save(store, compact(4))
    keep_up(store)
    assert numbers(disk)[0] == 5
    assert len(store.execute_read(plan)) == 2


# ------------------------------------------------------------------------------------ upkeep


def test_upkeep_prepares_before_it_removes() -> None:
    """While no segment is ready, room for the writer comes first; then what is superfluous goes."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, commands(7, 7, term=1, data=LONG))
    save(store, commands(8, 8, term=1, data=LONG), compact(4))
    before = len(disk.operations)
    keep_up(store)
    kinds = [operation.split()[0] for operation in disk.operations[before:]]
    assert kinds.index("remove") > kinds.index("create")
    assert kinds.index("remove") < len(kinds) - kinds[::-1].index("create")
    assert numbers(disk) == [5, 6, 7, 8, 9, 10]


def test_upkeep_on_a_full_disk_removes_first() -> None:
    """On a full disk a writer without room gets it from the segments that may go (S2)."""
    disk = SimDisk(capacity=8 * 4096 + 2048)
    store = long_log(disk)
    save(store, commands(7, 7, term=1, data=LONG))
    save(store, commands(8, 8, term=1, data=LONG))
    save(store, compact(4))
    with pytest.raises(StorageFull):
        keep_up(store)
    keep_up(store)
    assert numbers(disk) == [5, 6, 7, 8, 9, 10]
    save(store, commands(9, 9, term=1, data=LONG))


@pytest.mark.parametrize("operation", ["remove", "sync_directory"])
def test_removal_without_room_is_tried_again(operation: str) -> None:
    """A file system that needs room even for a removal is no failure: the same slice goes on later (S2)."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, compact(2))
    disk.fail(operation, errno.ENOSPC)
    with pytest.raises(StorageFull):
        keep_up(store)
    keep_up(store)
    assert numbers(disk)[0] == 3
    # A removal whose sync has failed may still be undone by a power cut: then its number stands before a gap.
    for after in (disk.after_power_cut(lambda _: False), disk.after_power_cut(lambda _: True)):
        found = make_store(after).open(identity(), memory_bytes=0, snapshot=point(2, 1))
        assert (found.base, found.last_index) == (point(2, 1), 6)


@pytest.mark.parametrize("operation", ["remove", "sync_directory"])
def test_removal_failure_poisons_the_store(operation: str) -> None:
    """A removal that fails ends all writing, as any failed operation does (S2)."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, compact(2))
    disk.fail(operation, errno.EIO)
    with pytest.raises(StorageError, match="removing"):
        keep_up(store)
    plan = store.plan([vote(2)])
    assert plan is not None
    with pytest.raises(StorageError, match="upkeep has failed just now"):
        store.execute(plan)


def test_removal_that_was_not_done_is_a_bug() -> None:
    """A slice is taken note of once it was executed, and once."""
    store = long_log(SimDisk())
    save(store, compact(2))
    removal = store.plan_upkeep()
    assert removal is not None
    with pytest.raises(AssertionError, match="not planned, or not done"):
        store.done_upkeep(removal)
    assert store.plan_upkeep() is removal


def test_removal_on_a_real_disk(tmp_path: Path) -> None:
    """The same on real files: the names are gone, and the log begins where the snapshot covers it (S6)."""
    files, directory = OsFiles(), tmp_path / "data"
    store = open_store(files, directory=directory)
    for index in range(1, 5):
        save(store, commands(index, index, term=1, data=LONG))
    save(store, compact(2))
    keep_up(store)
    store.close()
    assert segment_numbers(files, directory)[0] == 3
    found = recover(files, directory=directory, snapshot=point(3, 1))
    assert (found.base, [each.index for each in found.tail]) == (point(3, 1), [4])


# ------------------------------------------------------------------------------------ markers


def test_discard_begins_anew_behind_the_snapshot() -> None:
    """A snapshot that discards leaves nothing of the log, whatever its length; the next entry follows it (N1)."""
    for at in (point(3, 2), point(6, 4), point(100, 2)):
        disk = SimDisk()
        store = long_log(disk)
        marker, new = SaveSnapshot(at, keep=False), commands(at.index + 1, at.index + 2, term=4)
        if at.index == 100:
            save(store, marker)
            save(store, new)
        else:
            save(store, marker, new)
        keep_up(store)
        assert numbers(disk)[0] == 6
        with pytest.raises(AssertionError, match="are on disk"):
            read(store, at.index, at.index)
        assert [each.index for each in read(store, at.index + 1, at.index + 2)] == [at.index + 1, at.index + 2]
        store.close()
        found = recover(disk, snapshot=at)
        assert (found.base, found.last_index, found.superseded) == (at, at.index + 2, False)
        assert (found.term_runs, found.tail) == (((at.index + 1, 4),), tuple(new.entries))


def test_discard_of_a_longer_log_leaves_nothing_in_memory() -> None:
    """Entries above the snapshot that replaced the log do not come back as its tail (N1)."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 6, term=1))
    save(store, SaveSnapshot(point(3, 2), keep=False))
    store.close()
    found = recover(disk, snapshot=point(3, 2))
    assert (found.base, found.last_index, found.term_runs, found.tail) == (point(3, 2), 3, (), ())


def test_discard_makes_the_base_of_a_shortened_log_known() -> None:
    """Behind a marker the log begins right above the snapshot, also where older segments are gone (N1)."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, compact(5))
    keep_up(store)
    save(store, SaveSnapshot(point(9, 2), keep=False), commands(10, 12, term=2))
    store.close()
    assert numbers(disk)[0] == 6
    found = recover(disk, snapshot=point(11, 2))
    assert (found.base, found.last_index, found.term_runs) == (point(9, 2), 12, ((10, 2),))


def test_keep_leaves_what_follows() -> None:
    """A snapshot that keeps gives up the entries up to its own, and leaves those behind it (N1)."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, SaveSnapshot(point(4, 1), keep=True), commands(7, 7, term=2))
    keep_up(store)
    assert numbers(disk)[0] == 5
    store.close()
    found = recover(disk, snapshot=point(4, 1))
    assert (found.base, found.last_index, found.term_runs) == (point(4, 1), 7, ((5, 1), (7, 2)))


def test_keep_within_its_batch() -> None:
    """Whether there is an equal entry is asked of the log as the items before it in the batch leave it (N1)."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 3, term=1))
    with pytest.raises(AssertionError, match="no entry 3 of term 1"):
        store.plan([commands(3, 3, term=2), SaveSnapshot(point(3, 1), keep=True)])
    with pytest.raises(AssertionError, match="no entry 3 of term 1"):
        store.plan([commands(2, 2, term=2), SaveSnapshot(point(3, 1), keep=True)])
    with pytest.raises(AssertionError, match="no entry 4 of term 1"):
        store.plan([SaveSnapshot(point(5, 1), keep=False), SaveSnapshot(point(4, 1), keep=True)])
    with pytest.raises(AssertionError, match="entry 3 does not continue"):
        store.plan([SaveSnapshot(point(3, 1), keep=True), commands(3, 3, term=2)])
    save(store, commands(3, 5, term=2), SaveSnapshot(point(4, 2), keep=True), commands(6, 6, term=2))
    save(store, SaveSnapshot(point(9, 3), keep=False), SaveSnapshot(point(9, 3), keep=True), commands(10, 10, term=3))
    store.close()
    found = recover(disk, snapshot=point(9, 3))
    assert (found.base, found.tail) == (point(9, 3), (entry(10, 3),))


def test_append_at_or_below_a_snapshot_is_refused() -> None:
    """Entries that would remove what a snapshot covers are refused before anything is written."""
    store = long_log(SimDisk())
    save(store, SaveSnapshot(point(4, 1), keep=True))
    batches: list[list[JournalItem]] = [
        [commands(4, 4, term=2)],
        [SaveSnapshot(point(9, 2), keep=False), commands(9, 9, term=2)],
    ]
    for batch in batches:
        with pytest.raises(AssertionError, match="does not continue"):
            store.plan(batch)
    assert store.plan([commands(5, 5, term=2)]) is not None


# ------------------------------------------------------------------------------------ the next start


@pytest.mark.parametrize("snapshot", [point(4, 2), point(9, 1), point(6, 3)])
def test_open_beside_a_snapshot_that_replaces_the_log(snapshot: SnapshotPoint) -> None:
    """A log that conflicts with the newest snapshot, or ends before it, counts for nothing but its vote; the marker
    that says so goes first, over a rotation too (N1, N8).
    """
    disk = SimDisk()
    long_log(disk).close()
    for _ in range(2):
        found = recover(disk, snapshot=snapshot)
        assert (found.superseded, found.base, found.last_index) == (True, snapshot, snapshot.index)
        assert (found.term_runs, found.tail, found.voted_for) == ((), (), "n1")
    store = open_store(disk, snapshot=snapshot)
    new = commands(snapshot.index + 1, snapshot.index + 1, term=5, data=LONG[:2500])
    save(store, SaveSnapshot(snapshot, keep=False), vote(5), new)
    keep_up(store)
    assert numbers(disk)[0] == 7
    store.close()
    found = recover(disk, snapshot=snapshot)
    assert (found.superseded, found.base, found.tail) == (False, snapshot, tuple(new.entries))


def test_open_tells_votes_and_members_of_removed_segments() -> None:
    """What was in force when a segment began is known from it, once the segments before it are gone (S6)."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, compact(5))
    keep_up(store)
    store.close()
    found = recover(disk, snapshot=SIX)
    assert (found.term, found.voted_for, found.bootstrap, found.incarnation) == (1, "n1", bootstrap(done=True), "aa")
    assert (found.base, found.last_index, found.tail) == (SIX, 6, ())
    with pytest.raises(DirectoryMismatch):
        make_store(disk).open(identity("n2"), memory_bytes=0, snapshot=SIX)


@pytest.mark.parametrize("snapshot", [None, point(2, 1), point(3, 1)])
def test_open_without_a_snapshot_that_covers_what_is_missing(snapshot: SnapshotPoint | None) -> None:
    """Entries that are missing and that no snapshot covers: the log is corrupt, and nothing is changed (S6, N4)."""
    disk = SimDisk()
    store = long_log(disk)
    save(store, compact(4))
    keep_up(store)
    store.close()
    before = list(disk.operations)
    missing = 1 + (snapshot.index if snapshot else 0)
    with pytest.raises(LogCorrupt, match=f"entries {missing} to 4 are missing") as caught:
        recover(disk, snapshot=snapshot)
    assert (caught.value.path, caught.value.offset, caught.value.index) == (segment_path(DIRECTORY, 4), 0, missing)
    assert disk.operations == [*before, "make_directory data"]
    assert recover(disk, snapshot=point(4, 1)).base == point(4, 1)


def test_open_behind_a_marker_without_its_snapshot() -> None:
    """A log that a snapshot replaced is nothing without it, or beside an older one (N4)."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 3, term=1))
    save(store, SaveSnapshot(point(9, 1), keep=False), commands(10, 10, term=1))
    store.close()
    for snapshot in (None, point(2, 1), point(8, 1)):
        with pytest.raises(LogCorrupt, match="a snapshot took the log's place here") as caught:
            recover(disk, snapshot=snapshot)
        assert (caught.value.path, caught.value.index) == (
            segment_path(DIRECTORY, 1),
            1 + (snapshot or point(0, 0)).index,
        )
    assert recover(disk, snapshot=point(10, 1)).base == point(9, 1)


def test_open_of_a_snapshot_without_a_log() -> None:
    """A snapshot without a log refuses to start, since its votes are unknown, and no log is begun (S8)."""
    for disk in (SimDisk(), SimDisk()):
        with pytest.raises(LogCorrupt, match="a snapshot without a log: its votes are unknown") as caught:
            recover(disk, snapshot=point(7, 2))
        assert (caught.value.path, caught.value.index) == (DIRECTORY, 7)
        assert disk.operations == ["make_directory data"]
    disk.overwrite(segment_path(DIRECTORY, 1), bytes(4096))
    with pytest.raises(LogCorrupt, match="votes are unknown"):
        recover(disk, snapshot=point(7, 2))
    assert disk.contents(segment_path(DIRECTORY, 1)) == bytes(4096)


@pytest.mark.parametrize(("missing", "snapshot", "base"), [((3,), point(4, 1), 4), ((2, 4), point(5, 1), 5)])
def test_open_at_a_gap_that_is_covered(missing: tuple[int, ...], snapshot: SnapshotPoint, base: int) -> None:
    """At a gap in the numbers everything before it is dropped if the snapshot covers it (S6)."""
    disk = SimDisk()
    long_log(disk).close()
    for number in missing:
        disk.remove(segment_path(DIRECTORY, number))
    for _ in range(2):
        found = recover(disk, snapshot=snapshot)
        assert (found.base, found.last_index, found.voted_for) == (point(base, 1), 6, "n1")
        assert numbers(disk) == list(range(max(missing) + 1, 7))


def test_open_at_a_gap_that_is_not_covered() -> None:
    """At a gap that the snapshot does not cover the log is corrupt, and everything stays (S6, N4)."""
    for snapshot, match in ((None, "the file is missing"), (point(2, 1), "entries 3 to 4 are missing")):
        disk = SimDisk()
        long_log(disk).close()
        disk.remove(segment_path(DIRECTORY, 4))
        before = numbers(disk)
        with pytest.raises(LogCorrupt, match=match) as caught:
            recover(disk, snapshot=snapshot)
        assert caught.value.path == segment_path(DIRECTORY, 4)
        assert numbers(disk) == before


def test_open_needs_the_description_of_the_first_segment() -> None:
    """Where older segments are gone, a first one without a sound description is damage, torn or not (S3)."""
    for first in (bytes(512), b"\x01" * 512, None):
        disk = SimDisk()
        store = long_log(disk)
        save(store, compact(4))
        keep_up(store)
        store.close()
        path = segment_path(DIRECTORY, 5)
        content = disk.contents(path)
        disk.overwrite(path, bytes(len(content)) if first is None else first + content[512:])
        with pytest.raises(LogCorrupt, match="no description") as caught:
            recover(disk, snapshot=SIX)
        assert (caught.value.path, caught.value.offset) == (path, 0)


def test_after_last_gap_counts_what_stands_before_it() -> None:
    """Where the numbers begin is no gap."""
    for given_numbers, expected in (([], 0), ([1, 2, 3], 0), ([5, 6], 0), ([1, 3, 4], 1), ([2, 3, 5, 7, 8], 3)):
        assert after_last_gap(given_numbers) == expected


# ------------------------------------------------------------------------------------ inspectors


def test_scan_reports_what_is_there_and_changes_nothing() -> None:
    """Whoever looks into a directory learns its segments, markers and base, of whichever node it is."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 1, term=1, data=LONG))
    save(store, commands(2, 2, term=1, data=LONG))
    save(store, SaveSnapshot(point(2, 1), keep=True), vote(2), commands(3, 4, term=2, data=LONG[:1000]))
    save(store, compact(2))
    keep_up(store)
    store.close()
    before = list(disk.operations)
    found = scan(disk, DIRECTORY, numbers(disk), None, memory_bytes=0)
    assert disk.operations == before
    assert [each.description.segment_number for each in found.segments] == [3]
    segment = found.segments[0]
    assert (segment.first_batch, segment.last_batch, segment.end) == (5, 6, 512 + 2560)
    assert segment.path == segment_path(DIRECTORY, 3)
    assert (found.active, found.torn, found.unused) == (segment.description, None, [4, 5])
    assert [(each.path, each.offset, each.marker) for each in found.markers] == [
        (segment.path, 512 + 32, SaveSnapshot(point(2, 1), keep=True))
    ]
    assert found.state.vote == vote(2)
    assert (found.state.entries.base.index, found.base_is_known) == (2, False)
    assert found.state.entries.entries_in(3) == (3, 4)


# ------------------------------------------------------------------------------------ against a list

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "append",
                "append",
                "supersede",
                "vote",
                "members",
                "compact",
                "keep",
                "discard",
                "reopen",
                "read",
                "release",
            ]
        ),
        st.integers(1, 6),
        st.integers(0, 900),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=40,
)


class Run:
    """A store beside a list, and the newest snapshot that there would be."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.store = open_store(self.disk)
        self.image = Image()
        self.snapshot: SnapshotPoint | None = None
        self.pinned: list[object] = []

    def step(self, kind: str, count: int, size: int, back: int) -> None:
        image = self.image
        covered = self.snapshot.index if self.snapshot else 0
        index = max(image.last_index - back, covered)
        match kind:
            case "reopen":
                self.reopen()
            case "read":
                first = max(self.store._state.entries.base.index, image.base.index) + 1
                if first <= image.last_index:
                    self.pinned.append(self.store.plan_read(LogIndex(first), LogIndex(first), max_bytes=0))
            case "release":
                self.pinned.clear()
                keep_up(self.store)
            case "compact" if index:
                self.snapshot = point(index, image.term_at(index) or 0)
                self.save([compact(max(index - count, 0))])
            case "keep" if index > image.base.index:
                self.snapshot = point(index, image.term_at(index) or 0)
                self.save([SaveSnapshot(self.snapshot, keep=True)])
            case "discard":
                self.snapshot = point(max(index, 1) + back, (image.term_at(image.last_index) or 1) + 1)
                new = commands(self.snapshot.index + 1, self.snapshot.index + 1, term=self.snapshot.term)
                self.save([SaveSnapshot(self.snapshot, keep=False), *([new] if size % 2 else [])])
            case "vote":
                self.save([vote(image.term + 1, N1 if back % 2 else None)])
            case "append" | "supersede" | "members":
                first = image.last_index + 1 if kind == "append" else index + 1
                term = max(image.term_at(first - 1) or 0, 1) + (kind == "supersede")
                last = EntryKind.CONFIGURATION if kind == "members" else EntryKind.COMMAND
                data = bytes([count]) * min(size, 3000 // count)
                new_entries = [entry(first + n, term, data) for n in range(count - 1)]
                self.save([append(*new_entries, entry(first + count - 1, term, data, last))])
            case _:
                pass  # A cut for which there is no place.

    def save(self, items: list[JournalItem]) -> None:
        save(self.store, *items)
        self.image = self.image.after(items)

    def reopen(self) -> None:
        self.pinned.clear()
        self.store.close()
        self.disk = self.disk.after_power_cut(lambda _: False)
        self.store = open_store(self.disk, snapshot=self.snapshot)

    def check(self) -> None:
        entries = self.store._state.entries
        if entries.base.index < entries.last_index:
            known = self.image.above(entries.base)
            assert tuple(read(self.store, entries.base.index + 1, entries.last_index)) == known.entries
        for _ in range(2):
            self.store.close()
            found = recover(self.disk, snapshot=self.snapshot)
            expected = self.image.above(found.base)
            assert (Image.of(found), found.last_index, found.term_runs, found.superseded) == (
                expected,
                expected.last_index,
                expected.term_runs,
                False,
            )


@settings(max_examples=150)
@given(STEPS)
def test_store_behaves_like_a_list_that_is_cut(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever is stored and given up, in whatever order, the log amounts to what a list does, from its base on,
    before and after a restart (S6, N1).
    """
    run = Run()
    for step in steps:
        run.step(*step)
    run.check()
