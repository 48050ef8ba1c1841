"""What the tests of the log stores share: short ways to make items, to store them, and to say what must be there."""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft._storage.entry_map import BEFORE_ALL
from trio_raft._storage.files import Files
from trio_raft._storage.locations import Locations
from trio_raft._storage.wal import FileLogStore
from trio_raft.abc import (
    Append,
    Compact,
    JournalItem,
    Recovered,
    SaveBootstrap,
    SaveSnapshot,
    SaveVote,
    SnapshotPoint,
    StoreIdentity,
)
from trio_raft.testing._disk import SimDisk, Unit

DIRECTORY = Path("/data")
"""Where the log is on simulated disks."""

N1 = ServerId("n1")
N2 = ServerId("n2")

ENOUGH_MEMORY = 1 << 30


def identity(node_id: str = "n1", *, cluster_id: str = "demo", incarnation: str = "aa") -> StoreIdentity:
    return StoreIdentity(cluster_id, ServerId(node_id), Incarnation(incarnation))


def entry(index: int, term: int, data: bytes = b"command", kind: EntryKind = EntryKind.COMMAND) -> Entry:
    return make_entry(index=LogIndex(index), term=Term(term), kind=kind, data=data)


def append(*entries: Entry) -> Append:
    return Append(list(entries), entries[-1].index, sum(len(each.record) for each in entries))


def commands(first: int, last: int, *, term: int, data: bytes = b"command") -> Append:
    return append(*(entry(index, term, data) for index in range(first, last + 1)))


def vote(term: int, voted_for: ServerId | None = None) -> SaveVote:
    return SaveVote(Term(term), voted_for)


def point(index: int, term: int) -> SnapshotPoint:
    return SnapshotPoint(LogIndex(index), Term(term))


def bootstrap(*, done: bool) -> SaveBootstrap:
    return SaveBootstrap({N1: Incarnation("aa"), N2: Incarnation("bb")}, done)


def make_store(
    files: Files,
    *,
    directory: Path = DIRECTORY,
    segment_bytes: int = 4096,
    longest_batch: int | None = None,
) -> FileLogStore:
    return FileLogStore(directory, segment_bytes=segment_bytes, longest_batch=longest_batch, files=files)


def open_store(
    files: Files,
    *,
    directory: Path = DIRECTORY,
    segment_bytes: int = 4096,
    longest_batch: int | None = None,
    snapshot: SnapshotPoint | None = None,
) -> FileLogStore:
    """A store that is open; what it found is left aside."""
    store = make_store(files, directory=directory, segment_bytes=segment_bytes, longest_batch=longest_batch)
    store.open(identity(), memory_bytes=ENOUGH_MEMORY, snapshot=snapshot)
    return store


def recover(
    files: Files, *, directory: Path = DIRECTORY, segment_bytes: int = 4096, snapshot: SnapshotPoint | None = None
) -> Recovered:
    """Open, close, and say what was found."""
    store = make_store(files, directory=directory, segment_bytes=segment_bytes)
    found = store.open(identity(), memory_bytes=ENOUGH_MEMORY, snapshot=snapshot)
    store.close()
    return found


def keep_up(store: FileLogStore) -> None:
    """Do all upkeep that is due."""
    while (upkeep := store.plan_upkeep()) is not None:
        store.execute_upkeep(upkeep)
        store.done_upkeep(upkeep)


def save(store: FileLogStore, *items: JournalItem) -> None:
    """Make the items durable, after preparing room for them if there is none."""
    while (plan := store.plan(items)) is None:
        keep_up(store)
    store.execute(plan)
    store.done(plan)


@attrs.frozen
class Image:
    """What a log amounts to: the list that every store is compared with."""

    term: int = 0
    voted_for: ServerId | None = None
    bootstrap: SaveBootstrap | None = None
    entries: tuple[Entry, ...] = ()
    """Those above the base."""
    base: SnapshotPoint = BEFORE_ALL

    def after(self, items: Sequence[JournalItem]) -> "Image":
        """With these items stored as well; when a ``Compact`` takes effect is the store's affair."""
        image = self
        for item in items:
            match item:
                case Append():
                    kept = (each for each in image.entries if each.index < item.entries[0].index)
                    image = attrs.evolve(image, entries=(*kept, *item.entries))
                case SaveVote():
                    image = attrs.evolve(image, term=item.term, voted_for=item.voted_for)
                case SaveBootstrap():
                    image = attrs.evolve(image, bootstrap=item)
                case SaveSnapshot(at, keep):
                    image = image.above(at) if keep else attrs.evolve(image, entries=(), base=at)
                case Compact():
                    pass
        return image

    def above(self, base: SnapshotPoint) -> "Image":
        """As if it began there; as it is if no such entry is part of it."""
        if self.term_at(base.index) != base.term:
            return self
        return attrs.evolve(self, base=base, entries=tuple(each for each in self.entries if each.index > base.index))

    def beside(self, snapshot: SnapshotPoint | None) -> "Image":
        """What counts of it beside that snapshot (N1)."""
        if snapshot is None or self.term_at(snapshot.index) == snapshot.term:
            return self
        return attrs.evolve(self, entries=(), base=snapshot)

    def term_at(self, index: int) -> int | None:
        """None outside; the base is inside."""
        terms = {each.index: each.term for each in self.entries} | {self.base.index: self.base.term}
        return terms.get(LogIndex(index))

    @property
    def last_index(self) -> int:
        return self.base.index + len(self.entries)

    @classmethod
    def of(cls, found: Recovered) -> "Image":
        return cls(found.term, found.voted_for, found.bootstrap, found.tail, found.base)

    @property
    def term_runs(self) -> tuple[tuple[int, int], ...]:
        runs: list[tuple[int, int]] = []
        for each in self.entries:
            if not runs or runs[-1][1] != each.term:
                runs.append((each.index, each.term))
        return tuple(runs)


def places_in(row: Locations, first: int, behind: int) -> list[tuple[int, int]]:
    """(segment, offset) of what stands at these positions."""
    offsets, segments = row.between(first, behind)
    starts = [start for start, _ in segments]
    assert starts == sorted(set(starts))
    assert not offsets or starts[0] == 0
    ends = [*starts[1:], len(offsets)]
    found = zip(segments, ends, strict=False)
    return [(number, offset) for (start, number), end in found for offset in offsets[start:end]]


def power_cuts(disk: SimDisk, *, at_most: int = 256) -> Iterator[SimDisk]:
    """The disks that a power cut now may leave: all of them if they are few, else a fair choice."""
    units = disk.unsynced()
    if 1 << len(units) <= at_most:
        choices: Iterator[tuple[bool, ...]] = itertools.product((False, True), repeat=len(units))
    else:
        choices = _some_choices(len(units), at_most)
    seen: set[tuple[tuple[Path, bytes], ...]] = set()
    for choice in choices:
        kept = {id(unit) for unit, keep in zip(units, choice, strict=True) if keep}

        def keep(unit: Unit, kept: set[int] = kept) -> bool:
            return id(unit) in kept

        after = disk.after_power_cut(keep)
        image = tuple((path, after.contents(path)) for path in after.paths())
        if image not in seen:
            seen.add(image)
            yield after


def _some_choices(count: int, at_most: int) -> Iterator[tuple[bool, ...]]:
    """Nothing kept, everything, every beginning, every single one kept or lost, and random ones."""
    for cut in range(count + 1):
        yield tuple(position < cut for position in range(count))
    for single in range(count):
        yield tuple(position == single for position in range(count))
        yield tuple(position != single for position in range(count))
    generator = random.Random(count)
    for _ in range(at_most):
        yield tuple(generator.random() < 0.5 for _ in range(count))


def lose_everything(_: Unit) -> bool:
    return False
