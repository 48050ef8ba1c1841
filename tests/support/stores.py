"""Stores that a test prepares before any node opens them: logs from the paper's figures, old copies, full disks."""

import errno
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trio_raft import MemoryLogStore, StorageFull
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft._storage.memory import MemoryPlan
from trio_raft.abc import Append, JournalItem, SaveBootstrap, SaveVote, StoreIdentity


def prepared_stores(
    logs: Mapping[str, Sequence[int]],
    *,
    current_terms: Mapping[str, int] | None = None,
    votes: Mapping[str, str] | None = None,
) -> dict[str, MemoryLogStore]:
    """Stores of a cluster that is past its first start: server → the terms of its entries, index 1 first.

    Entries of equal index and term are equal.  A server's current term is its last entry's unless given.
    """
    incarnations = {ServerId(name): Incarnation(f"incarnation-{name}") for name in logs}
    return {
        name: _prepared_store(
            ServerId(name),
            terms,
            current_term=(current_terms or {}).get(name, terms[-1] if terms else 0),
            vote=(votes or {}).get(name),
            incarnations=incarnations,
        )
        for name, terms in logs.items()
    }


def _prepared_store(
    name: ServerId,
    terms: Sequence[int],
    *,
    current_term: int,
    vote: str | None,
    incarnations: Mapping[ServerId, Incarnation],
) -> MemoryLogStore:
    store = MemoryLogStore()
    store.open(StoreIdentity("scenario", name, incarnations[name]), memory_bytes=0)
    items: list[JournalItem] = [SaveBootstrap(incarnations, done=True)]
    items.append(SaveVote(Term(current_term), ServerId(vote) if vote else None))
    entries = [
        make_entry(index=LogIndex(index), term=Term(term), kind=EntryKind.COMMAND, data=command(index, term))
        for index, term in enumerate(terms, start=1)
    ]
    if entries:
        items.append(Append(entries, entries[-1].index, sum(len(entry.record) for entry in entries)))
    plan = store.plan(items)
    assert plan is not None
    store.execute(plan)
    store.close()
    return store


def command(index: int, term: int) -> bytes:
    """The command of a prepared entry."""
    return b"%d of term %d" % (index, term)


def commands(terms: Iterable[int]) -> list[bytes]:
    """The commands of a prepared log."""
    return [command(index, term) for index, term in enumerate(terms, start=1)]


def copy_of(store: MemoryLogStore) -> MemoryLogStore:
    """What this disk holds now, on another disk."""
    copy = MemoryLogStore()
    copy._identity, copy._incarnation = store._identity, store._incarnation
    copy._vote, copy._bootstrap = store._vote, store._bootstrap
    copy._base, copy._entries = store._base, list(store._entries)
    return copy


class SmallDisk(MemoryLogStore):
    """A store that prepares room for a few writes at a time, as the one in files does, on a disk that may be full."""

    def __init__(self, *, ready: int = 4) -> None:
        super().__init__()
        self.full = False
        self._ready = self._prepared = ready

    def plan(self, batch: Sequence[JournalItem]) -> MemoryPlan | None:
        if not self._prepared:
            return None
        self._prepared -= 1
        return super().plan(batch)

    def plan_upkeep(self) -> str | None:  # type: ignore[override]
        return "one more" if self._prepared < self._ready else None

    def execute_upkeep(self, upkeep: object) -> None:
        if self.full:
            raise StorageFull(Path("/nowhere"), 1 << 20)

    def done_upkeep(self, upkeep: object) -> None:
        self._prepared += 1


class FailingDisk(MemoryLogStore):
    """A store on a disk that fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes_fail = self.reads_fail = False

    def execute(self, plan: MemoryPlan) -> None:
        if self.writes_fail:
            raise OSError(errno.EIO, "Input/output error", "log")
        super().execute(plan)

    def execute_read(self, plan: tuple[Entry, ...]) -> list[Entry]:
        if self.reads_fail:
            raise OSError(errno.EIO, "Input/output error", "log")
        return super().execute_read(plan)
