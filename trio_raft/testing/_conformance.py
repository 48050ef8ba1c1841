"""Does a log store of your own keep to its contract?  A suite for pytest.

Derive a test class, and say how to make the store::

    class TestMyStore(LogStoreConformance):
        @pytest.fixture
        def make_store(self, tmp_path):
            return lambda: MyStore(tmp_path)

Each call of what the fixture returns gives a store that was not opened yet, always on the same storage: calling it
again is what a restart of the process does.  Each test is one sentence of the contract in ``trio_raft.abc.LogStore``.

House rule: only the contract is used, and nothing of any store's inside.
"""

from trio_raft._errors import DirectoryInUse, DirectoryMismatch
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import EntryKind, LogIndex, Term
from trio_raft.abc import Compact, JournalItem, SaveBootstrap, SaveSnapshot, SaveVote, SnapshotPoint
from trio_raft.testing._conformance_log import (
    MEMORY_BYTES,
    Image,
    MakeStore,
    NotConforming,
    append_entries,
    append_range,
    covered_by,
    entry_of,
    expect,
    expect_corrupt,
    expect_found,
    expect_image,
    expect_read,
    identity_of,
    keep_up,
    known_base,
    newest,
    open_store,
    plan_for,
    random_item,
    save,
)
from trio_raft.testing._determinism import divide

RANDOM_STEPS = 200
RANDOM_RUNS = 5


class LogStoreConformance:
    """Derive from it, name the class ``Test…``, and give it a fixture ``make_store``; see the module."""

    exclusive = True
    """Does opening the storage a second time raise DirectoryInUse?  Where one process alone can reach it, no need."""

    largest_command = 64 << 10
    """Bytes; the largest command that is tried."""

    def test_open_new(self, make_store: MakeStore) -> None:
        """A new store holds nothing, and takes the incarnation that it is given."""
        store, found = open_store(make_store)
        store.close()
        expect_image(found, Image())
        expect("incarnation", found.incarnation, "first")

    def test_incarnation_is_kept(self, make_store: MakeStore) -> None:
        """The incarnation is drawn once: opening again finds the first one."""
        open_store(make_store)[0].close()
        store, found = open_store(make_store, incarnation="second")
        store.close()
        expect("incarnation", found.incarnation, "first")

    def test_executed_items_are_found(self, make_store: MakeStore) -> None:
        """What was executed is found by the next opening, the last vote and the last map of members included (S1)."""
        items: list[JournalItem] = [
            SaveBootstrap({ServerId("n1"): Incarnation("first")}, done=False),
            SaveVote(Term(1), ServerId("n2")),
            append_range(1, 3, term=1),
            SaveVote(Term(2), None),
            SaveVote(Term(2), ServerId("n1")),
            SaveBootstrap({ServerId("n1"): Incarnation("first"), ServerId("n2"): Incarnation("x")}, done=True),
            append_range(4, 4, term=2),
        ]
        store, _ = open_store(make_store)
        save(store, items)
        store.close()
        expect_found(make_store, Image().after(items))

    def test_done_is_not_needed(self, make_store: MakeStore) -> None:
        """Items are durable when ``execute`` returns, whether or not ``done`` was called (S1)."""
        store, _ = open_store(make_store)
        save(store, [append_range(1, 2, term=1)])
        store.execute(plan_for(store, [append_range(3, 3, term=1)]))
        store.close()
        expect_found(make_store, Image().after([append_range(1, 3, term=1)]))

    def test_planned_is_not_stored(self, make_store: MakeStore) -> None:
        """A plan that was never executed leaves nothing behind."""
        store, _ = open_store(make_store)
        save(store, [append_range(1, 2, term=1)])
        plan_for(store, [append_range(3, 9, term=1), SaveVote(Term(7), None)])
        store.close()
        expect_found(make_store, Image().after([append_range(1, 2, term=1)]))

    def test_append_removes_what_follows(self, make_store: MakeStore) -> None:
        """Entries remove whatever stands at and above their first index, and its terms with it."""
        items: list[JournalItem] = [append_range(1, 5, term=1), append_range(6, 9, term=2), append_range(4, 6, term=3)]
        store, _ = open_store(make_store)
        for item in items:
            save(store, [item])
        store.close()
        expect_found(make_store, Image().after(items))

    def test_append_removes_within_a_batch(self, make_store: MakeStore) -> None:
        """The order of items counts inside one batch too."""
        items: list[JournalItem] = [append_range(1, 5, term=1), append_range(2, 3, term=2), append_range(3, 3, term=3)]
        store, _ = open_store(make_store)
        save(store, items)
        store.close()
        expect_found(make_store, Image().after(items))

    def test_any_data_comes_back(self, make_store: MakeStore) -> None:
        """Commands come back bit by bit: empty, full of zeros, of every length around a sector, large; so do kinds."""
        sizes = [0, 1, 7, 8, 9, 479, 480, 481, 511, 512, 513, self.largest_command]
        data = [bytes(size) for size in sizes] + [b"\xff" * size for size in sizes]
        entries = [entry_of(index, 1, each) for index, each in enumerate(data, start=1)]
        entries.append(entry_of(len(entries) + 1, 1, b"", EntryKind.NO_OP))
        store, _ = open_store(make_store)
        for entry in entries:
            save(store, [append_entries([entry])])
        store.close()
        expect_found(make_store, Image(entries=tuple(entries)))

    def test_tail_is_bounded(self, make_store: MakeStore) -> None:
        """Opening returns the newest entries, up to ``memory_bytes``; the index and the terms of all are known."""
        store, _ = open_store(make_store)
        save(store, [append_range(1, 10, term=1), append_range(11, 20, term=4)])
        store.close()
        room = 3 * len(entry_of(20, 4).record)
        store, found = open_store(make_store, memory_bytes=room)
        store.close()
        expect("last_index", found.last_index, 20)
        expect("term_runs", found.term_runs, ((1, 1), (11, 4)))
        expect("tail", [entry.record for entry in found.tail], [entry_of(each, 4).record for each in (18, 19, 20)])

    def test_read_back(self, make_store: MakeStore) -> None:
        """Durable entries can be read, before and after a restart, wherever they stand and in whatever pieces."""
        store, _ = open_store(make_store)
        save(store, [append_range(1, 40, term=1)])
        save(store, [append_range(21, 60, term=2)])
        for _ in range(2):
            for first, last in ((1, 1), (60, 60), (1, 60), (15, 25), (40, 41)):
                expected = [entry_of(index, 1 if index < 21 else 2).record for index in range(first, last + 1)]
                found = store.execute_read(store.plan_read(LogIndex(first), LogIndex(last), max_bytes=MEMORY_BYTES))
                expect(f"entries {first} to {last}", [entry.record for entry in found], expected)
            store.close()
            store, _ = open_store(make_store, memory_bytes=0)
        store.close()

    def test_read_is_bounded(self, make_store: MakeStore) -> None:
        """A read returns its first entry in any case, and no more than ``max_bytes`` beyond it."""
        store, _ = open_store(make_store)
        save(store, [append_range(1, 10, term=1)])
        size = len(entry_of(1, 1).record)
        for room, most in ((0, 1), (size - 1, 1), (3 * size, 4)):
            found = store.execute_read(store.plan_read(LogIndex(3), LogIndex(10), max_bytes=room))
            indexes = [entry.index for entry in found]
            if not 1 <= len(found) <= most or indexes != list(range(3, 3 + len(found))):
                raise NotConforming(f"with {room} bytes beyond the first, 1 to {most} entries from 3: {indexes}")
        store.close()

    def test_compact_keeps_what_is_above(self, make_store: MakeStore) -> None:
        """Giving entries up takes none above them, in this life or the next; the snapshot covers what may be gone."""
        items = [append_range(first, first + 9, term=1 + first // 40) for first in range(1, 100, 10)]
        image = Image().after(items)
        store, _ = open_store(make_store)
        for item in items:
            save(store, [item])
        save(store, [Compact(LogIndex(45))])
        keep_up(store)
        expect_read(store, image, 46, 100)
        save(store, [Compact(LogIndex(60)), SaveVote(Term(9), None), append_range(101, 110, term=9)])
        keep_up(store)
        image = image.after([SaveVote(Term(9), None), append_range(101, 110, term=9)])
        expect_read(store, image, 61, 110)
        store.close()
        expect_found(make_store, image, snapshot=image.point(62))

    def test_read_planned_before_compact(self, make_store: MakeStore) -> None:
        """Entries stay readable for as long as a plan to read them is referenced, whatever is given up meanwhile."""
        store, _ = open_store(make_store)
        image = Image().after([append_range(1, 50, term=1)])
        save(store, [append_range(1, 50, term=1)])
        plan = store.plan_read(LogIndex(1), LogIndex(50), max_bytes=MEMORY_BYTES)
        save(store, [Compact(LogIndex(50))])
        keep_up(store)
        expect("entries of the plan", store.execute_read(plan), list(image.entries))
        store.close()

    def test_snapshot_discards(self, make_store: MakeStore) -> None:
        """A snapshot that discards leaves nothing of the log, longer or shorter; the next entry follows it (N1)."""
        store, _ = open_store(make_store)
        save(store, [append_range(1, 9, term=1)])
        for at in (SnapshotPoint(LogIndex(5), Term(2)), SnapshotPoint(LogIndex(40), Term(3))):
            items: list[JournalItem] = [SaveSnapshot(at, keep=False), append_range(at.index + 1, at.index + 3, term=4)]
            save(store, items)
            store.close()
            expect_found(make_store, Image().after(items), snapshot=at)
            store, _ = open_store(make_store, snapshot=at)
        store.close()

    def test_snapshot_keeps(self, make_store: MakeStore) -> None:
        """A snapshot that keeps leaves what follows its last entry, which may have come in the same batch (N1)."""
        items: list[JournalItem] = [append_range(1, 9, term=1), append_range(7, 12, term=2)]
        items += [SaveSnapshot(SnapshotPoint(LogIndex(8), Term(2)), keep=True), append_range(13, 14, term=2)]
        store, _ = open_store(make_store)
        save(store, items)
        image = Image().after(items)
        expect_read(store, image, 9, 14)
        store.close()
        expect_found(make_store, image, snapshot=image.base)

    def test_snapshot_supersedes(self, make_store: MakeStore) -> None:
        """A log that conflicts with the newest snapshot, or ends before it, is superseded; its vote counts (N1)."""
        store, _ = open_store(make_store)
        vote = SaveVote(Term(7), ServerId("n2"))
        save(store, [vote, append_range(1, 20, term=1)])
        store.close()
        at = SnapshotPoint(LogIndex(30), Term(5))
        for newest_point in (SnapshotPoint(LogIndex(10), Term(3)), SnapshotPoint(LogIndex(30), Term(1)), at):
            store, found = open_store(make_store, snapshot=newest_point)
            store.close()
            expect("superseded", found.superseded, True)
            expect_image(found, Image(vote, base=newest_point))
        store, _ = open_store(make_store, snapshot=at)
        items: list[JournalItem] = [SaveSnapshot(at, keep=False), append_range(31, 33, term=5)]
        save(store, items)
        store.close()
        expect_found(make_store, Image(vote).after(items), snapshot=at)

    def test_missing_entries_are_refused(self, make_store: MakeStore) -> None:
        """Entries that are missing, and that the newest snapshot does not cover, are refused; nothing changes (N4)."""
        at = SnapshotPoint(LogIndex(20), Term(2))
        items: list[JournalItem] = [SaveSnapshot(at, keep=False), append_range(21, 22, term=2)]
        store, _ = open_store(make_store)
        save(store, items)
        store.close()
        for older in (None, SnapshotPoint(LogIndex(19), Term(2))):
            expect_corrupt(make_store, older)
        expect_found(make_store, Image().after(items), snapshot=at)

    def test_snapshot_without_a_log_is_refused(self, make_store: MakeStore) -> None:
        """A snapshot without any log is refused, since nobody knows its votes, and no log is begun (S8)."""
        for _ in range(2):
            expect_corrupt(make_store, SnapshotPoint(LogIndex(3), Term(1)))
        store, found = open_store(make_store)
        store.close()
        expect_image(found, Image())

    def test_belongs_to_one_server(self, make_store: MakeStore) -> None:
        """Another server's or another cluster's storage is refused, and not changed by that."""
        store, _ = open_store(make_store)
        save(store, [append_range(1, 2, term=1)])
        store.close()
        for identity in (identity_of(node_id="n9"), identity_of(cluster_id="another")):
            store = make_store()
            try:
                store.open(identity, memory_bytes=MEMORY_BYTES)
            except DirectoryMismatch:
                store.close()
            else:
                raise NotConforming(f"{identity} opened the store of {identity_of()}: DirectoryMismatch is expected")
        expect_found(make_store, Image().after([append_range(1, 2, term=1)]))

    def test_one_user_at_a_time(self, make_store: MakeStore) -> None:
        """While a store is open nobody else can open its storage; afterwards one can (S10)."""
        if not self.exclusive:
            return
        store, _ = open_store(make_store)
        other = make_store()
        try:
            other.open(identity_of(), memory_bytes=MEMORY_BYTES)
        except DirectoryInUse:
            other.close()
        else:
            raise NotConforming("the storage was opened twice at a time: DirectoryInUse is expected")
        store.close()
        open_store(make_store)[0].close()

    def test_close_twice(self, make_store: MakeStore) -> None:
        """Closing twice is fine."""
        store, _ = open_store(make_store)
        store.close()
        store.close()

    def test_against_a_list(self, make_store: MakeStore) -> None:
        """Any sequence of items, batches and restarts leaves what the same sequence leaves of a list."""
        store, _ = open_store(make_store)
        image = Image()
        snapshot: SnapshotPoint | None = None
        for run in range(RANDOM_RUNS):
            draws = divide(run, "conformance")
            for _ in range(RANDOM_STEPS // RANDOM_RUNS):
                batch = [random_item(draws, image, snapshot)]
                while draws.random() < 0.5:
                    batch.append(random_item(draws, image.after(batch), newest(snapshot, batch)))
                save(store, batch)
                image, snapshot = image.after(batch), newest(snapshot, batch)
                if image.last_index and draws.random() < 0.2:
                    snapshot = image.point(max(image.last_index - draws.randint(0, 5), covered_by(snapshot), 1))
                    save(store, [Compact(LogIndex(max(snapshot.index - draws.randint(0, 3), 0)))])
                    keep_up(store)
            store.close()
            store, found = open_store(make_store, snapshot=snapshot)
            expect_image(found, image.above(known_base(found, image, snapshot)))
        store.close()
