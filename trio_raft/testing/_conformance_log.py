"""What the conformance suite for log stores says things with: an image of a log, short ways to use a store, demands.

House rule: only the contract is used, and nothing of any store's inside.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from trio_raft._errors import LogCorrupt
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft.abc import (
    Append,
    Compact,
    JournalItem,
    LogStore,
    Recovered,
    SaveBootstrap,
    SaveSnapshot,
    SaveVote,
    SnapshotPoint,
    StoreIdentity,
)

AnyStore = LogStore[Any, Any, Any]
MakeStore = Callable[[], AnyStore]

UPKEEP_STEPS = 100_000
"""Slices of upkeep after which there must be room."""

MEMORY_BYTES = 1 << 30
"""Enough for every entry in ``Recovered.tail``."""


class NotConforming(AssertionError):
    """A log store, a snapshot store or a transport breaks its contract."""


@attrs.frozen
class Image:
    """What a log amounts to."""

    vote: SaveVote = attrs.field(default=SaveVote(Term(0), None))
    bootstrap: SaveBootstrap | None = None
    entries: tuple[Entry, ...] = ()
    """Those above the base."""
    base: SnapshotPoint = attrs.field(default=SnapshotPoint(LogIndex(0), Term(0)))

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.base.index + len(self.entries))

    def term_at(self, index: int) -> Term:
        """Of the entry there, or of the base."""
        return self.base.term if index == self.base.index else self.entries[index - self.base.index - 1].term

    def point(self, index: int) -> SnapshotPoint:
        return SnapshotPoint(LogIndex(index), self.term_at(index))

    def above(self, index: int) -> "Image":
        """With everything up to there given up."""
        kept = self.entries[index - self.base.index :]
        return attrs.evolve(self, base=self.point(index), entries=kept)

    def after(self, items: Iterable[JournalItem]) -> "Image":
        """With these items stored as well, in order."""
        image = self
        for item in items:
            match item:
                case Append():
                    kept = image.entries[: item.entries[0].index - image.base.index - 1]
                    image = attrs.evolve(image, entries=(*kept, *item.entries))
                case SaveVote():
                    image = attrs.evolve(image, vote=item)
                case SaveBootstrap():
                    image = attrs.evolve(image, bootstrap=item)
                case SaveSnapshot(point, keep):
                    image = image.above(point.index) if keep else attrs.evolve(image, base=point, entries=())
                case Compact():
                    # When it takes effect, and how far, is the store's affair.
                    pass
        return image


def identity_of(*, node_id: str = "n1", cluster_id: str = "conformance", incarnation: str = "first") -> StoreIdentity:
    return StoreIdentity(cluster_id, ServerId(node_id), Incarnation(incarnation))


def open_store(
    make_store: MakeStore,
    *,
    incarnation: str = "first",
    memory_bytes: int = MEMORY_BYTES,
    snapshot: SnapshotPoint | None = None,
) -> tuple[AnyStore, Recovered]:
    store = make_store()
    return store, store.open(identity_of(incarnation=incarnation), memory_bytes=memory_bytes, snapshot=snapshot)


def upkeep_of(store: AnyStore) -> Any:
    """The slice of upkeep that is due, if any: the same one until it is done."""
    upkeep = store.plan_upkeep()
    expect("the next slice of upkeep, asked again", store.plan_upkeep(), upkeep)
    return upkeep


def plan_for(store: AnyStore, items: Sequence[JournalItem]) -> Any:
    """A plan for these items, after whatever upkeep it takes."""
    for _ in range(UPKEEP_STEPS):
        plan = store.plan(items)
        if plan is not None:
            return plan
        upkeep = upkeep_of(store)
        if upkeep is None:
            raise NotConforming("there is no room for a plan, and no upkeep either: a writer would wait for ever")
        store.execute_upkeep(upkeep)
        store.done_upkeep(upkeep)
    raise NotConforming(f"there is still no room for a plan after {UPKEEP_STEPS} slices of upkeep")


def save(store: AnyStore, items: Sequence[JournalItem]) -> None:
    plan = plan_for(store, items)
    store.execute(plan)
    store.done(plan)


def keep_up(store: AnyStore) -> None:
    """All upkeep that is due."""
    for _ in range(UPKEEP_STEPS):
        upkeep = upkeep_of(store)
        if upkeep is None:
            return
        store.execute_upkeep(upkeep)
        store.done_upkeep(upkeep)
    raise NotConforming(f"upkeep does not come to an end within {UPKEEP_STEPS} slices")


def entry_of(index: int, term: int, data: bytes = b"command", kind: EntryKind = EntryKind.COMMAND) -> Entry:
    return make_entry(index=LogIndex(index), term=Term(term), kind=kind, data=data)


def append_range(first: int, last: int, *, term: int) -> Append:
    return append_entries([entry_of(index, term) for index in range(first, last + 1)])


def append_entries(entries: list[Entry]) -> Append:
    return Append(entries, entries[-1].index, sum(len(entry.record) for entry in entries))


def random_item(draws: Any, image: Image, snapshot: SnapshotPoint | None) -> JournalItem:
    """Something that may come next; ``draws`` is a generator.  What the newest snapshot covers stays as it is."""
    last = image.last_index
    term = max(image.vote.term, image.term_at(last), 1)
    covered = covered_by(snapshot)
    kind = draws.random()
    if kind < 0.2:
        return SaveVote(Term(term + draws.randint(0, 1)), draws.choice([None, ServerId("n1"), ServerId("n2")]))
    if kind < 0.23:
        return SaveSnapshot(SnapshotPoint(LogIndex(max(covered, last) + draws.randint(1, 9)), Term(term)), keep=False)
    if kind < 0.26 and last > covered:
        return SaveSnapshot(image.point(draws.randint(covered + 1, last)), keep=True)
    first = draws.randint(max(covered + 1, last - 5), last + 1) if draws.random() < 0.3 else last + 1
    count = draws.randint(1, 4)
    new_term = max(image.term_at(first - 1), 1)
    new_term = max(new_term, term if first <= last else new_term) + draws.randint(0, 1)
    return append_entries([entry_of(first + n, new_term, draws.randbytes(draws.randint(0, 700))) for n in range(count)])


def newest(snapshot: SnapshotPoint | None, items: Iterable[JournalItem]) -> SnapshotPoint | None:
    """The newest snapshot that there must be, for these items to be queued."""
    for item in items:
        if isinstance(item, SaveSnapshot):
            snapshot = item.point
    return snapshot


def covered_by(snapshot: SnapshotPoint | None) -> int:
    return snapshot.index if snapshot else 0


def expect_read(store: AnyStore, image: Image, first: int, last: int) -> None:
    """Everything from one index to another can be read."""
    found = store.execute_read(store.plan_read(LogIndex(first), LogIndex(last), max_bytes=MEMORY_BYTES))
    expect(f"entries {first} to {last}", found, [each for each in image.entries if first <= each.index <= last])


def expect_corrupt(make_store: MakeStore, snapshot: SnapshotPoint | None) -> None:
    store = make_store()
    try:
        store.open(identity_of(), memory_bytes=MEMORY_BYTES, snapshot=snapshot)
    except LogCorrupt:
        store.close()
    else:
        raise NotConforming(f"the log was opened beside {snapshot}: LogCorrupt is expected")


def expect_found(make_store: MakeStore, image: Image, *, snapshot: SnapshotPoint | None = None) -> None:
    """Opening finds this, twice: what recovery itself writes must not harm anything."""
    for _ in range(2):
        store, found = open_store(make_store, incarnation="later", snapshot=snapshot)
        store.close()
        expect_image(found, image.above(known_base(found, image, snapshot)))


def known_base(found: Recovered, image: Image, snapshot: SnapshotPoint | None) -> LogIndex:
    """Where the log that was found begins, if that is somewhere in the image that the snapshot covers."""
    index, last = found.base.index, snapshot.index if snapshot else image.base.index
    if not image.base.index <= index <= last:
        raise NotConforming(f"base: found {found.base}, but the contract demands {image.base.index} to {last}")
    return index


def expect_image(found: Recovered, image: Image) -> None:
    runs: list[tuple[int, int]] = []
    for entry in image.entries:
        if not runs or runs[-1][1] != entry.term:
            runs.append((entry.index, entry.term))
    expect("vote", SaveVote(found.term, found.voted_for), image.vote)
    expect("bootstrap", found.bootstrap, image.bootstrap)
    expect("base", found.base, image.base)
    expect("last_index", found.last_index, image.last_index)
    expect("term_runs", found.term_runs, tuple(runs))
    expect("tail", [entry.record for entry in found.tail], [entry.record for entry in image.entries])


def expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise NotConforming(f"{what}: found {found!r}, but the contract demands {expected!r}")
