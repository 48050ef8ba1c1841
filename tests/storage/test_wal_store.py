"""What the store promises to the journal: where batches go, what is read back, when it waits, and when it gives up."""

import errno
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.support import (
    DIRECTORY,
    N1,
    N2,
    Image,
    append,
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
from trio_raft._errors import ConfigurationError, LogCorrupt, StorageError, StorageFull
from trio_raft._messages import Incarnation
from trio_raft._records import Entry, EntryKind, LogIndex
from trio_raft._storage.segments import Preparation, segment_path
from trio_raft._storage.wal import MARGIN_BYTES, FileLogStore
from trio_raft.abc import JournalItem, SaveBootstrap
from trio_raft.testing._disk import SimDisk

FIRST = segment_path(DIRECTORY, 1)


def read(store: FileLogStore, first: int, last: int, *, max_bytes: int = 1 << 20) -> list[Entry]:
    return store.execute_read(store.plan_read(LogIndex(first), LogIndex(last), max_bytes=max_bytes))


# ------------------------------------------------------------------------------------ opening


RUN = st.tuples(
    st.integers(1, 14),  # entries
    st.sampled_from([0, 0, 8, 9]),  # bytes of each
    st.integers(0, 1),  # by how much the term grows
    st.integers(0, 6),  # how many entries before them are removed
    st.sampled_from([EntryKind.COMMAND] * 3 + [EntryKind.NO_OP]),
)


@pytest.mark.parametrize(
    "odd",
    [
        {3: entry(3, 1, bytes(16)), 4: entry(4, 1, b"")},
        {3: entry(3, 1, bytes(8), EntryKind.CONFIGURATION)},
        {3: entry(3, 1, bytes(8), EntryKind.NO_OP)},
        {},
    ],
)
def test_open_looks_between_the_first_and_the_last_of_a_lot(
    odd: dict[int, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that only begin and end like a lot of commands of one length, with all of it as long, are none."""
    disk = SimDisk()
    entries = [odd.get(index, entry(index, 1, bytes(8))) for index in range(1, 13)]
    save(open_store(disk), append(*entries))
    disk.kill_process()
    monkeypatch.setattr("trio_raft._storage.recovery._LOT", 6)
    monkeypatch.setattr("trio_raft._storage.recovery._SINGLES", 1)
    store = open_store(disk)
    assert read(store, 1, 12) == entries
    kinds = [each.index for each in entries if each.kind is EntryKind.CONFIGURATION]
    assert store._state.entries.configuration_index == (kinds[-1] if kinds else 0)


@given(runs=st.lists(st.lists(RUN, min_size=1, max_size=4), max_size=6), lot=st.sampled_from([2, 4, 7]))
@settings(deadline=None)
def test_open_finds_every_entry_among_others_alike(
    runs: list[list[tuple[int, int, int, int, EntryKind]]], lot: int
) -> None:
    """Many commands of one length are found at a glance, and whatever stands between them for what it is."""
    disk, image, term = SimDisk(), Image(), 1
    store = open_store(disk, segment_bytes=1 << 13)
    for batch in runs:
        items: list[JournalItem] = []
        for count, length, step, removed, kind in batch:
            term += step
            first = max(len(image.after(items).entries) - removed, 0) + 1
            items.append(append(*(entry(index, term, bytes(length), kind) for index in range(first, first + count))))
        save(store, *items)
        image = image.after(items)
    store.close()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("trio_raft._storage.recovery._LOT", lot)
        patches.setattr("trio_raft._storage.recovery._SINGLES", 3)
        store = open_store(disk)
    if image.entries:
        assert tuple(read(store, 1, len(image.entries))) == image.entries
    save(store, commands(len(image.entries) + 1, len(image.entries) + 1, term=term))


def test_open_new_directory_promises_nothing() -> None:
    """A new directory holds no vote, no entries and no bootstrap map, and takes the incarnation that it is given."""
    disk = SimDisk()
    found = make_store(disk).open(identity(incarnation="fresh"), memory_bytes=0)
    assert (found.incarnation, found.term, found.voted_for, found.bootstrap) == ("fresh", 0, None, None)
    assert (found.last_index, found.term_runs, found.tail, found.cut_bytes) == (0, (), (), 0)
    assert disk.unsynced() == []


def test_open_keeps_the_tail_within_its_bound() -> None:
    """Recovery hands back the newest entries that fit the bound, across batches and segments, ending at the last."""
    disk = SimDisk()
    store = open_store(disk)
    for index in range(1, 41):
        save(store, append(entry(index, 1, b"\x01" * 160)))
    save(store, commands(41, 50, term=1, data=b"\x01" * 160))
    save(store, vote(2))
    store.close()
    size = len(entry(1, 1, b"\x01" * 160).record)
    assert make_store(disk.after_power_cut(lambda _: True)).open(identity(), memory_bytes=0).tail == ()
    for count in (0, 1, 3, 10, 13, 50, 60):
        opened = make_store(disk)
        found = opened.open(identity(), memory_bytes=count * size + 7)
        opened.close()
        assert [each.index for each in found.tail] == list(range(max(51 - count, 1), 51))
        assert (found.last_index, found.term_runs) == (50, ((1, 1),))


def test_open_with_another_segment_size_keeps_the_old_files() -> None:
    """Files keep the size that they were made with; new ones take the size that is configured now."""
    disk = SimDisk()
    store = open_store(disk, segment_bytes=4096)
    save(store, commands(1, 1, term=1, data=b"\x01" * 2900))
    store.close()
    store = open_store(disk, segment_bytes=8000)
    save(store, commands(2, 2, term=1, data=b"\x02" * 7000))
    store.close()
    assert [len(disk.contents(path)) for path in disk.paths()] == [4096, 8192, 8192]
    assert [each.index for each in recover(disk).tail] == [1, 2]


@pytest.mark.parametrize("size", [0, -1, 1 << 32])
def test_open_refuses_an_impossible_segment_size(size: int) -> None:
    """A segment has a size, and offsets within it fit 32 bits."""
    with pytest.raises(ConfigurationError, match="segment_bytes"):
        make_store(SimDisk(), segment_bytes=size)


def test_plan_before_open_is_a_bug() -> None:
    """A store that was not opened plans nothing."""
    with pytest.raises(AssertionError, match="not opened"):
        make_store(SimDisk()).plan([vote(1)])


# ------------------------------------------------------------------------------------ writing


def test_execute_writes_once_and_syncs_once() -> None:
    """A batch of many items is one write and one sync, after which it is durable (S1)."""
    disk = SimDisk()
    store = open_store(disk)
    keep_up(store)
    plan = store.plan([vote(1, N1), commands(1, 5, term=1), vote(2), commands(4, 6, term=2)])
    assert plan is not None
    before = len(disk.operations)
    store.execute(plan)
    assert disk.operations[before:] == [f"write {FIRST.name}", f"sync {FIRST.name}"]
    assert disk.unsynced() == []


def test_execute_of_a_rotation_secures_the_description_first() -> None:
    """A batch for which a new segment begins is written only after the segment's description was synced (S6)."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 1, term=1, data=b"\x01" * 2900))
    keep_up(store)
    plan = store.plan([commands(2, 2, term=1, data=b"\x02" * 2900)])
    assert plan is not None
    before = len(disk.operations)
    store.execute(plan)
    second = segment_path(DIRECTORY, 2).name
    assert disk.operations[before:] == [f"write {second}", f"sync {second}"] * 2
    assert len(disk._open) == 3  # the lock, this segment and one that is ready: the old one is closed


def test_done_and_nothing_before_it_changes_what_counts_as_durable() -> None:
    """Entries count as on disk, and superseded ones no longer, from ``done`` on and not before (S1, S5)."""
    store = open_store(SimDisk())
    save(store, commands(1, 3, term=1))
    plan = store.plan([commands(2, 2, term=2)])
    assert plan is not None
    store.execute(plan)
    assert [each.term for each in read(store, 1, 3)] == [1, 1, 1]
    store.done(plan)
    assert [each.term for each in read(store, 1, 2)] == [1, 2]
    with pytest.raises(AssertionError, match="1 to 2 are on disk"):
        read(store, 3, 3)


def test_plan_waits_for_a_prepared_segment() -> None:
    """Without a prepared segment there is no plan; as soon as one is ready, there is (S6)."""
    store = open_store(SimDisk())
    save(store, commands(1, 1, term=1, data=b"\x01" * 2900))
    batch = [commands(2, 2, term=1, data=b"\x02" * 2900)]
    assert store.plan(batch) is None
    while store.plan(batch) is None:
        upkeep = store.plan_upkeep()
        assert upkeep is not None
        store.execute_upkeep(upkeep)
        store.done_upkeep(upkeep)
    assert len(store._ready) == 1


def test_large_batches_let_segments_be_allocated() -> None:
    """Where a few batches fill a segment, the next ones are allocated and not filled with zeros: in one slice, and with
    nothing else changed.  Small batches bring the zeros back (S6).
    """
    disk = SimDisk()
    store = open_store(disk, segment_bytes=1 << 16)

    def slices() -> list[bool]:
        """Of the segment that is prepared next: was each allocated?"""
        kinds: list[bool] = []
        while isinstance(upkeep := store.plan_upkeep(), Preparation):
            store.execute_upkeep(upkeep)
            store.done_upkeep(upkeep)
            if upkeep.descriptor is not None and upkeep.size:
                kinds.append(upkeep.allocate)
        return kinds

    assert slices() == [False, False]
    index = 1
    for data in (b"\x01" * 30_000, b"\x01" * 30_000, b"\x01" * 30_000):
        save(store, commands(index, index, term=1, data=data))
        index += 1
    assert slices() == [True]
    while not (kinds := slices()):
        save(store, commands(index, index, term=1))
        index += 1
    assert kinds == [False]
    store.close()
    recovered = recover(disk, segment_bytes=1 << 16)
    assert recovered.last_index == index - 1


def test_plan_refuses_a_gap() -> None:
    """Entries that leave a gap behind the last one are refused before anything is written."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 2, term=1))
    for batch in ([commands(4, 4, term=1)], [commands(3, 4, term=1), commands(6, 6, term=1)], [commands(0, 1, term=1)]):
        with pytest.raises(AssertionError, match="does not continue"):
            store.plan(batch)
    assert store.plan([commands(3, 3, term=1), commands(2, 5, term=2)]) is not None


def test_plan_refuses_a_batch_that_never_fits() -> None:
    """A batch longer than a segment, or than the longest that was announced, is refused at once, not waited for."""
    store = open_store(SimDisk(), segment_bytes=4 * MARGIN_BYTES, longest_batch=2048)
    with pytest.raises(AssertionError, match="does not fit"):
        store.plan([commands(1, 1, term=1, data=b"\x01" * (MARGIN_BYTES + 2048))])
    store = open_store(SimDisk())
    with pytest.raises(AssertionError, match="does not fit"):
        store.plan([commands(1, 1, term=1, data=b"\x01" * 3600)])
    assert store.plan([commands(1, 1, term=1, data=b"\x01" * 3500)]) is not None


def test_plan_one_at_a_time() -> None:
    """A second plan before the first was done is a bug, and so is a plan done that was not executed."""
    store = open_store(SimDisk())
    plan = store.plan([vote(1)])
    assert plan is not None
    with pytest.raises(AssertionError, match="never done"):
        store.plan([vote(2)])
    with pytest.raises(AssertionError, match="not executed"):
        store.done(plan)


def test_execute_refuses_a_wrong_size() -> None:
    """A batch that came out longer than the journal announced does not overwrite its neighbours."""
    disk = SimDisk()
    store = open_store(disk)
    item = commands(1, 1, term=1, data=b"\x01" * 600)
    item.size = 8
    plan = store.plan([item])
    assert plan is not None
    before = disk.contents(FIRST)
    with pytest.raises(AssertionError, match="came to"):
        store.execute(plan)
    assert disk.contents(FIRST) == before


def test_description_too_long_to_be_read_back_is_refused() -> None:
    """A bootstrap map that no description can hold is refused before a segment begins with it."""
    store = open_store(SimDisk(), segment_bytes=1 << 18)
    members = {N1: Incarnation("x" * (60 << 10))}
    save(store, SaveBootstrap(members, done=False))
    save(store, SaveBootstrap({**members, N2: Incarnation("y" * (60 << 10))}, done=False))
    with pytest.raises(AssertionError, match="description of"):
        store.plan([commands(1, 1, term=1, data=bytes(1 << 17))])


# ------------------------------------------------------------------------------------ failing


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_execute_failure_poisons_the_store(operation: str, number: int) -> None:
    """After a failed write or sync nothing is written any more, whatever is asked (S2)."""
    disk = SimDisk()
    store = open_store(disk)
    upkeep = store.plan_upkeep()
    plan = store.plan([vote(1, N1)])
    assert plan is not None
    assert upkeep is not None
    disk.fail(operation, number, part=0.5)
    with pytest.raises(StorageError, match=r"writing of .*log-0000000000000001.segment failed") as caught:
        store.execute(plan)
    assert isinstance(caught.value.__cause__, OSError)
    operations = list(disk.operations)
    with pytest.raises(AssertionError, match="has failed"):
        store.execute(plan)
    with pytest.raises(StorageError, match="writing has failed just now"):
        store.execute_upkeep(upkeep)
    with pytest.raises(AssertionError, match="not executed"):
        store.done(plan)
    assert disk.operations == operations


@pytest.mark.parametrize("operation", ["create", "sync_directory", "write", "sync"])
def test_upkeep_failure_poisons_the_store(operation: str) -> None:
    """A failed write or sync while a segment is prepared ends all writing, too (S2): the writer, which may begin before
    anybody has heard of that, has failed with the disk, and not by a mistake of this package."""
    disk = SimDisk()
    store = open_store(disk)
    disk.fail(operation, errno.EIO)
    with pytest.raises(StorageError, match="preparing"):
        keep_up(store)
    plan = store.plan([vote(1)])
    assert plan is not None
    with pytest.raises(StorageError, match="upkeep has failed just now"):
        store.execute(plan)


@pytest.mark.parametrize("operation", ["create", "sync_directory", "write", "sync"])
def test_upkeep_on_a_full_disk_is_tried_again(operation: str) -> None:
    """A disk that is full while a segment is prepared is no failure: with room, the same slice goes on (S2)."""
    disk = SimDisk()
    store = open_store(disk)
    disk.fail(operation, errno.ENOSPC, part=0.5)
    with pytest.raises(StorageFull) as caught:
        keep_up(store)
    assert (caught.value.path, caught.value.needed) == (segment_path(DIRECTORY, 2), 4096)
    save(store, vote(1, N1), commands(1, 1, term=1, data=b"\x01" * 2500))
    keep_up(store)
    save(store, commands(2, 2, term=1, data=b"\x02" * 2900))
    store.close()
    assert recover(disk.after_power_cut(lambda _: False)).last_index == 2


def test_upkeep_on_a_disk_that_stays_full() -> None:
    """What is durable stays so on a full disk, and the room that is left is used (S2)."""
    disk = SimDisk(capacity=4096 + 1024)
    store = open_store(disk)
    for _ in range(3):
        with pytest.raises(StorageFull):
            keep_up(store)
    save(store, commands(1, 1, term=1, data=b"\x01" * 2900))
    assert store.plan([commands(2, 2, term=1, data=b"\x01" * 2900)]) is None
    disk.capacity = None
    save(store, commands(2, 2, term=1, data=b"\x01" * 2900))
    store.close()
    assert [each.index for each in recover(disk).tail] == [1, 2]


def test_open_on_a_full_disk_leaves_nothing_behind() -> None:
    """A new directory on a full disk is refused as full, and the next start begins anew."""
    disk = SimDisk(capacity=1000)
    with pytest.raises(StorageFull):
        recover(disk)
    assert disk.paths() == []
    disk.capacity = None
    assert recover(disk).last_index == 0


@pytest.mark.parametrize("operation", ["write", "sync", "sync_directory", "read", "open", "remove"])
def test_open_failure_is_a_storage_error(operation: str) -> None:
    """A failure while a log is opened is a StorageError; the lock is given up, the next start is sound (S2, S10)."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, vote(1, N1), commands(1, 3, term=1))
    keep_up(store)
    store.close()
    disk.fail(operation, errno.EIO)
    with pytest.raises(StorageError):
        recover(disk)
    assert disk._open == {}
    assert Image.of(recover(disk)).entries == tuple(entry(index, 1) for index in (1, 2, 3))


# ------------------------------------------------------------------------------------ reading


def test_read_returns_what_was_written() -> None:
    """Entries are read back across batches, segments and superseded places, in order."""
    store = open_store(SimDisk())
    image = Image()
    for index in range(1, 30):
        batch = [commands(index, index + 2, term=index, data=bytes([index]) * 200)]
        save(store, *batch)
        image = image.after(batch)
    for first, last in ((1, 31), (1, 1), (31, 31), (7, 19)):
        assert tuple(read(store, first, last)) == image.entries[first - 1 : last]


def test_read_returns_at_least_one_entry_and_no_more_than_asked() -> None:
    """A read returns the first entry whatever its size, then as many as the bound allows."""
    store = open_store(SimDisk(), segment_bytes=1 << 19)
    save(store, commands(1, 1, term=1, data=b"\x01" * 200_000), commands(2, 9, term=1, data=b"\x02" * 72))
    size = len(entry(2, 1, b"\x02" * 72).record)
    for max_bytes, count in ((0, 1), (size - 1, 1), (size, 2), (3 * size + 1, 4), (1 << 20, 5)):
        assert len(read(store, 1, 5, max_bytes=max_bytes)) == count


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (1, 4), (4, 4)])
def test_read_refuses_what_is_not_durable(first: int, last: int) -> None:
    """Entries that are not on disk cannot be asked for."""
    store = open_store(SimDisk())
    save(store, commands(1, 3, term=1))
    with pytest.raises(AssertionError, match="1 to 3 are on disk"):
        read(store, first, last)


def test_read_of_entries_superseded_meanwhile_returns_them_as_planned() -> None:
    """A place on disk keeps its contents: a read that was planned before a truncation finds what it was to find."""
    store = open_store(SimDisk())
    save(store, commands(1, 3, term=1))
    plan = store.plan_read(LogIndex(2), LogIndex(3), max_bytes=1 << 20)
    save(store, commands(2, 2, term=2, data=b"other"))
    assert store.execute_read(plan) == [entry(2, 1), entry(3, 1)]
    assert read(store, 1, 2) == [entry(1, 1), entry(2, 2, b"other")]


def test_read_checks_what_it_finds() -> None:
    """A record that was damaged, or is another than the one asked for, is LogCorrupt with its place."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 3, term=1))
    intact = disk.contents(FIRST)
    size = len(entry(1, 1).record)
    damaged = bytearray(intact)
    damaged[512 + 32 + size + 35] ^= 1
    disk.overwrite(FIRST, bytes(damaged))
    assert read(store, 1, 1) == [entry(1, 1)]
    with pytest.raises(LogCorrupt, match="checksum") as caught:
        read(store, 1, 3)
    assert (caught.value.path, caught.value.offset, caught.value.index) == (FIRST, 512 + 32 + size, 2)
    for other in (entry(2, 2).record, entry(7, 1).record):
        disk.overwrite(FIRST, intact[: 512 + 32 + size] + other + intact[512 + 32 + 2 * size :])
        with pytest.raises(LogCorrupt, match="stands in the place"):
            read(store, 2, 3)
    disk.overwrite(FIRST, intact[:560])
    with pytest.raises(LogCorrupt, match="ends before it"):
        read(store, 2, 2)


def test_read_of_many_alike_in_several_batches() -> None:
    """Long runs of equal size, with other sizes, terms and kinds between them, are read back as they were written."""
    store = open_store(SimDisk(), segment_bytes=1 << 15)
    batches = [
        commands(1, 100, term=1),
        commands(101, 140, term=1, data=bytes(9)),
        append(entry(141, 2, b"", EntryKind.NO_OP)),
        append(*commands(142, 200, term=2).entries, *commands(201, 280, term=3).entries),
        commands(281, 281, term=3, data=bytes(500)),
        commands(282, 400, term=3),
    ]
    for batch in batches:
        save(store, batch)
    expected = [each for batch in batches for each in batch.entries]
    for first, last in ((1, 400), (50, 142), (141, 141), (201, 201), (250, 333)):
        assert read(store, first, last) == expected[first - 1 : last]
        plan = store.plan_read(LogIndex(first), LogIndex(last), max_bytes=1 << 20)
        assert store.execute_read_records(plan) == [each.record for each in expected[first - 1 : last]]


@pytest.mark.parametrize("at", [0, 1, 57, 99])
def test_read_checks_each_of_many_alike(at: int) -> None:
    """Among a hundred records alike the one that was damaged, or is another, is named (R9)."""
    disk = SimDisk()
    store = open_store(disk, segment_bytes=1 << 15)
    save(store, commands(1, 100, term=1))
    intact, size = disk.contents(FIRST), len(entry(1, 1).record)
    place = 512 + 32 + at * size
    for other, problem in (
        (entry(at + 1, 1, b"Command").record[:-1] + b"\1", "checksum"),
        (entry(at + 1, 2).record, "stands in the place"),
        (entry(at + 2, 1).record, "stands in the place"),
    ):
        disk.overwrite(FIRST, intact[:place] + other + intact[place + size :])
        with pytest.raises(LogCorrupt, match=problem) as caught:
            read(store, 1, 100)
        assert (caught.value.path, caught.value.offset, caught.value.index) == (FIRST, place, at + 1)


def test_read_finds_a_whole_run_of_another_term() -> None:
    """Sound records, all alike, in another term than the log says, are not taken for those that were asked for."""
    disk = SimDisk()
    store = open_store(disk, segment_bytes=1 << 15)
    save(store, commands(1, 100, term=1))
    intact = disk.contents(FIRST)
    others = b"".join(each.record for each in commands(1, 100, term=2).entries)
    disk.overwrite(FIRST, intact[: 512 + 32] + others + intact[512 + 32 + len(others) :])
    with pytest.raises(LogCorrupt, match="stands in the place"):
        read(store, 1, 100)


def test_read_across_segments_names_what_is_damaged() -> None:
    """Records stand at equal offsets in several segments: the one that is damaged is named, and no other (R9)."""
    disk = SimDisk()
    store = open_store(disk)
    data = b"x" * 900
    for first in (1, 4, 7):
        save(store, commands(first, first + 2, term=1, data=data))
    assert read(store, 2, 8) == [entry(index, 1, data) for index in range(2, 9)]
    size = len(entry(1, 1, data).record)
    for index in range(1, 10):
        path = segment_path(DIRECTORY, (index + 2) // 3)
        intact, offset = disk.contents(path), 512 + 32 + (index - 1) % 3 * size
        damaged = bytearray(intact)
        damaged[offset + 40] ^= 1
        disk.overwrite(path, bytes(damaged))
        with pytest.raises(LogCorrupt, match="checksum") as caught:
            read(store, 1, 9)
        assert (caught.value.path, caught.value.offset, caught.value.index) == (path, offset, index)
        disk.overwrite(path, intact)


def test_read_failure_is_a_storage_error() -> None:
    """A disk that cannot be read is a failure of this node, and no descriptor is left open."""
    disk = SimDisk()
    store = open_store(disk)
    save(store, commands(1, 3, term=1))
    held = len(disk._open)
    disk.fail("read", errno.EIO)
    with pytest.raises(StorageError, match="reading"):
        read(store, 1, 1)
    assert len(disk._open) == held


# ------------------------------------------------------------------------------------ against a list

Choice = tuple[str, int, int, int]

CHOICES = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "supersede", "vote", "bootstrap", "noop", "reopen", "members"]),
        st.integers(1, 6),
        st.integers(0, 900),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=25,
)


def make_items(choice: Choice, image: Image) -> Sequence[JournalItem]:
    """A choice as items that fit the log as it is."""
    kind, count, size, back = choice
    last = len(image.entries)
    first = max(1, last + 1 - (back if kind == "supersede" else 0))
    before = image.entries[first - 2].term if first > 1 else 1
    term = max(before, image.term, 1) + (kind == "supersede")
    match kind:
        case "vote":
            return [vote(image.term + 1, N1 if back % 2 else None)]
        case "bootstrap":
            return [SaveBootstrap({N1: Incarnation("aa" * (size // 9))}, done=bool(back))]
        case "noop":
            return [append(entry(last + 1, term, b"", EntryKind.NO_OP)), vote(image.term)]
        case "members":
            return [append(entry(last + 1, term, b"m" * size, EntryKind.CONFIGURATION))]
        case _:
            data = bytes(size // 2) + bytes([count]) * (size // 2)
            batch = [commands(first, first + count - 1, term=term, data=data[: 3000 // count])]
            return [vote(term), *batch] if back == 2 else batch


@settings(max_examples=60)
@given(CHOICES)
def test_store_behaves_like_a_list(choices: list[Choice]) -> None:
    """Whatever is stored, in whatever order, the log amounts to what a list does, before and after a restart (S6)."""
    disk = SimDisk()
    store = open_store(disk)
    image = Image()
    for choice in choices:
        if choice[0] == "reopen":
            store.close()
            disk = disk.after_power_cut(lambda _: False)
            store = open_store(disk)
        else:
            items = make_items(choice, image)
            save(store, *items)
            image = image.after(items)
    if image.entries:
        assert tuple(read(store, 1, len(image.entries))) == image.entries
    for _ in range(2):
        store.close()
        found = recover(disk)
        assert (Image.of(found), found.term_runs) == (image, image.term_runs)
