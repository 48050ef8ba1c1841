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

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from trio_raft._errors import DirectoryInUse, DirectoryMismatch
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft.abc import Append, JournalItem, LogStore, Recovered, SaveBootstrap, SaveVote, StoreIdentity
from trio_raft.testing._determinism import divide

AnyStore = LogStore[Any, Any, Any]
MakeStore = Callable[[], AnyStore]

UPKEEP_STEPS = 100_000
"""Slices of upkeep after which there must be room."""

MEMORY_BYTES = 1 << 30
"""Enough for every entry in ``Recovered.tail``."""

RANDOM_STEPS = 200
RANDOM_RUNS = 5


class NotConforming(AssertionError):
    """A log store, a snapshot store or a transport breaks its contract."""


@attrs.frozen
class _Image:
    """What a log amounts to."""

    vote: SaveVote = attrs.field(default=SaveVote(Term(0), None))
    bootstrap: SaveBootstrap | None = None
    entries: tuple[Entry, ...] = ()

    def after(self, items: Iterable[JournalItem]) -> "_Image":
        """With these items stored as well, in order."""
        image = self
        for item in items:
            match item:
                case Append():
                    kept = image.entries[: item.entries[0].index - 1]
                    image = attrs.evolve(image, entries=(*kept, *item.entries))
                case SaveVote():
                    image = attrs.evolve(image, vote=item)
                case SaveBootstrap():
                    image = attrs.evolve(image, bootstrap=item)
        return image


class LogStoreConformance:
    """Derive from it, name the class ``Test…``, and give it a fixture ``make_store``; see the module."""

    exclusive = True
    """Does opening the storage a second time raise DirectoryInUse?  Where one process alone can reach it, no need."""

    largest_command = 64 << 10
    """Bytes; the largest command that is tried."""

    def test_open_new(self, make_store: MakeStore) -> None:
        """A new store holds nothing, and takes the incarnation that it is given."""
        store, found = _open(make_store)
        store.close()
        _expect_image(found, _Image())
        _expect("incarnation", found.incarnation, "first")

    def test_incarnation_is_kept(self, make_store: MakeStore) -> None:
        """The incarnation is drawn once: opening again finds the first one."""
        _open(make_store)[0].close()
        store, found = _open(make_store, incarnation="second")
        store.close()
        _expect("incarnation", found.incarnation, "first")

    def test_executed_items_are_found(self, make_store: MakeStore) -> None:
        """What was executed is found by the next opening, the last vote and the last map of members included (S1)."""
        items: list[JournalItem] = [
            SaveBootstrap({ServerId("n1"): Incarnation("first")}, done=False),
            SaveVote(Term(1), ServerId("n2")),
            _append(1, 3, term=1),
            SaveVote(Term(2), None),
            SaveVote(Term(2), ServerId("n1")),
            SaveBootstrap({ServerId("n1"): Incarnation("first"), ServerId("n2"): Incarnation("x")}, done=True),
            _append(4, 4, term=2),
        ]
        store, _ = _open(make_store)
        _save(store, items)
        store.close()
        _expect_found(make_store, _Image().after(items))

    def test_done_is_not_needed(self, make_store: MakeStore) -> None:
        """Items are durable when ``execute`` returns, whether or not ``done`` was called (S1)."""
        store, _ = _open(make_store)
        _save(store, [_append(1, 2, term=1)])
        store.execute(_plan(store, [_append(3, 3, term=1)]))
        store.close()
        _expect_found(make_store, _Image().after([_append(1, 3, term=1)]))

    def test_planned_is_not_stored(self, make_store: MakeStore) -> None:
        """A plan that was never executed leaves nothing behind."""
        store, _ = _open(make_store)
        _save(store, [_append(1, 2, term=1)])
        _plan(store, [_append(3, 9, term=1), SaveVote(Term(7), None)])
        store.close()
        _expect_found(make_store, _Image().after([_append(1, 2, term=1)]))

    def test_append_removes_what_follows(self, make_store: MakeStore) -> None:
        """Entries remove whatever stands at and above their first index, and its terms with it."""
        items: list[JournalItem] = [_append(1, 5, term=1), _append(6, 9, term=2), _append(4, 6, term=3)]
        store, _ = _open(make_store)
        for item in items:
            _save(store, [item])
        store.close()
        _expect_found(make_store, _Image().after(items))

    def test_append_removes_within_a_batch(self, make_store: MakeStore) -> None:
        """The order of items counts inside one batch too."""
        items: list[JournalItem] = [_append(1, 5, term=1), _append(2, 3, term=2), _append(3, 3, term=3)]
        store, _ = _open(make_store)
        _save(store, items)
        store.close()
        _expect_found(make_store, _Image().after(items))

    def test_any_data_comes_back(self, make_store: MakeStore) -> None:
        """Commands come back bit by bit: empty, full of zeros, of every length around a sector, large; so do kinds."""
        sizes = [0, 1, 7, 8, 9, 479, 480, 481, 511, 512, 513, self.largest_command]
        data = [bytes(size) for size in sizes] + [b"\xff" * size for size in sizes]
        entries = [_entry(index, 1, each) for index, each in enumerate(data, start=1)]
        entries.append(_entry(len(entries) + 1, 1, b"", EntryKind.NO_OP))
        store, _ = _open(make_store)
        for entry in entries:
            _save(store, [_append_entries([entry])])
        store.close()
        _expect_found(make_store, _Image(entries=tuple(entries)))

    def test_tail_is_bounded(self, make_store: MakeStore) -> None:
        """Opening returns the newest entries, up to ``memory_bytes``; the index and the terms of all are known."""
        store, _ = _open(make_store)
        _save(store, [_append(1, 10, term=1), _append(11, 20, term=4)])
        store.close()
        room = 3 * len(_entry(20, 4).record)
        store, found = _open(make_store, memory_bytes=room)
        store.close()
        _expect("last_index", found.last_index, 20)
        _expect("term_runs", found.term_runs, ((1, 1), (11, 4)))
        _expect("tail", [entry.record for entry in found.tail], [_entry(each, 4).record for each in (18, 19, 20)])

    def test_read_back(self, make_store: MakeStore) -> None:
        """Durable entries can be read, before and after a restart, wherever they stand and in whatever pieces."""
        store, _ = _open(make_store)
        _save(store, [_append(1, 40, term=1)])
        _save(store, [_append(21, 60, term=2)])
        for _ in range(2):
            for first, last in ((1, 1), (60, 60), (1, 60), (15, 25), (40, 41)):
                expected = [_entry(index, 1 if index < 21 else 2).record for index in range(first, last + 1)]
                found = store.execute_read(store.plan_read(LogIndex(first), LogIndex(last), max_bytes=MEMORY_BYTES))
                _expect(f"entries {first} to {last}", [entry.record for entry in found], expected)
            store.close()
            store, _ = _open(make_store, memory_bytes=0)
        store.close()

    def test_read_is_bounded(self, make_store: MakeStore) -> None:
        """A read returns its first entry in any case, and no more than ``max_bytes`` beyond it."""
        store, _ = _open(make_store)
        _save(store, [_append(1, 10, term=1)])
        size = len(_entry(1, 1).record)
        for room, most in ((0, 1), (size - 1, 1), (3 * size, 4)):
            found = store.execute_read(store.plan_read(LogIndex(3), LogIndex(10), max_bytes=room))
            indexes = [entry.index for entry in found]
            if not 1 <= len(found) <= most or indexes != list(range(3, 3 + len(found))):
                raise NotConforming(f"with {room} bytes beyond the first, 1 to {most} entries from 3: {indexes}")
        store.close()

    def test_belongs_to_one_server(self, make_store: MakeStore) -> None:
        """Another server's or another cluster's storage is refused, and not changed by that."""
        store, _ = _open(make_store)
        _save(store, [_append(1, 2, term=1)])
        store.close()
        for identity in (_identity(node_id="n9"), _identity(cluster_id="another")):
            store = make_store()
            try:
                store.open(identity, memory_bytes=MEMORY_BYTES)
            except DirectoryMismatch:
                store.close()
            else:
                raise NotConforming(f"{identity} opened the store of {_identity()}: DirectoryMismatch is expected")
        _expect_found(make_store, _Image().after([_append(1, 2, term=1)]))

    def test_one_user_at_a_time(self, make_store: MakeStore) -> None:
        """While a store is open nobody else can open its storage; afterwards one can (S10)."""
        if not self.exclusive:
            return
        store, _ = _open(make_store)
        other = make_store()
        try:
            other.open(_identity(), memory_bytes=MEMORY_BYTES)
        except DirectoryInUse:
            other.close()
        else:
            raise NotConforming("the storage was opened twice at a time: DirectoryInUse is expected")
        store.close()
        _open(make_store)[0].close()

    def test_close_twice(self, make_store: MakeStore) -> None:
        """Closing twice is fine."""
        store, _ = _open(make_store)
        store.close()
        store.close()

    def test_against_a_list(self, make_store: MakeStore) -> None:
        """Any sequence of items, batches and restarts leaves what the same sequence leaves of a list."""
        store, _ = _open(make_store)
        image = _Image()
        for run in range(RANDOM_RUNS):
            draws = divide(run, "conformance")
            for _ in range(RANDOM_STEPS // RANDOM_RUNS):
                batch = [_random_item(draws, image)]
                while draws.random() < 0.5:
                    batch.append(_random_item(draws, image.after(batch)))
                _save(store, batch)
                image = image.after(batch)
            store.close()
            store, found = _open(make_store)
            _expect_image(found, image)
        store.close()


# ------------------------------------------------------------------------------------ helpers


def _identity(*, node_id: str = "n1", cluster_id: str = "conformance", incarnation: str = "first") -> StoreIdentity:
    return StoreIdentity(cluster_id, ServerId(node_id), Incarnation(incarnation))


def _open(
    make_store: MakeStore, *, incarnation: str = "first", memory_bytes: int = MEMORY_BYTES
) -> tuple[AnyStore, Recovered]:
    store = make_store()
    return store, store.open(_identity(incarnation=incarnation), memory_bytes=memory_bytes)


def _plan(store: AnyStore, items: Sequence[JournalItem]) -> Any:
    """A plan for these items, after whatever upkeep it takes."""
    for _ in range(UPKEEP_STEPS):
        plan = store.plan(items)
        if plan is not None:
            return plan
        upkeep = store.plan_upkeep()
        if upkeep is None:
            raise NotConforming("there is no room for a plan, and no upkeep either: a writer would wait for ever")
        store.execute_upkeep(upkeep)
        store.done_upkeep(upkeep)
    raise NotConforming(f"there is still no room for a plan after {UPKEEP_STEPS} slices of upkeep")


def _save(store: AnyStore, items: Sequence[JournalItem]) -> None:
    plan = _plan(store, items)
    store.execute(plan)
    store.done(plan)


def _entry(index: int, term: int, data: bytes = b"command", kind: EntryKind = EntryKind.COMMAND) -> Entry:
    return make_entry(index=LogIndex(index), term=Term(term), kind=kind, data=data)


def _append(first: int, last: int, *, term: int) -> Append:
    return _append_entries([_entry(index, term) for index in range(first, last + 1)])


def _append_entries(entries: list[Entry]) -> Append:
    return Append(entries, entries[-1].index, sum(len(entry.record) for entry in entries))


def _random_item(draws: Any, image: _Image) -> JournalItem:
    """Something that may come next; ``draws`` is a generator."""
    term = max(image.vote.term, image.entries[-1].term if image.entries else 1)
    if draws.random() < 0.2:
        return SaveVote(Term(term + draws.randint(0, 1)), draws.choice([None, ServerId("n1"), ServerId("n2")]))
    first = draws.randint(max(1, len(image.entries) - 5), len(image.entries) + 1)
    if draws.random() < 0.7:
        first = len(image.entries) + 1
    count = draws.randint(1, 4)
    new_term = image.entries[first - 2].term if first > 1 else 1
    new_term = max(new_term, term if first <= len(image.entries) else new_term) + draws.randint(0, 1)
    return _append_entries([_entry(first + n, new_term, draws.randbytes(draws.randint(0, 700))) for n in range(count)])


def _expect_found(make_store: MakeStore, image: _Image) -> None:
    """Opening finds this, twice: what recovery itself writes must not harm anything."""
    for _ in range(2):
        store, found = _open(make_store, incarnation="later")
        store.close()
        _expect_image(found, image)


def _expect_image(found: Recovered, image: _Image) -> None:
    runs: list[tuple[int, int]] = []
    for entry in image.entries:
        if not runs or runs[-1][1] != entry.term:
            runs.append((entry.index, entry.term))
    _expect("vote", SaveVote(found.term, found.voted_for), image.vote)
    _expect("bootstrap", found.bootstrap, image.bootstrap)
    _expect("last_index", found.last_index, len(image.entries))
    _expect("term_runs", found.term_runs, tuple(runs))
    _expect("tail", [entry.record for entry in found.tail], [entry.record for entry in image.entries])


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise NotConforming(f"{what}: found {found!r}, but the contract demands {expected!r}")
