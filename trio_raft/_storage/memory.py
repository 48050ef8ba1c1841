"""A log store that forgets everything when the process ends: for tests and throwaway clusters.

It keeps to the contract of ``LogStore`` where that matters to the protocol above it: nothing counts before
``execute`` returned, and a plan that was abandoned before it was executed is lost.  So a simulated crash is:
throw the node away and open the same store again.

House rule: what ``execute`` did is what survives; ``plan`` and ``done`` change nothing.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import attrs

from trio_raft._errors import DirectoryMismatch, LogCorrupt
from trio_raft._messages import Incarnation
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._storage.entry_map import BEFORE_ALL
from trio_raft._storage.reconcile import NotCovered, Reconciled, reconcile
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

_NOWHERE = Path("(in memory)")


@attrs.frozen
class MemoryPlan:
    """Items to store, and the life of the store that they were planned in."""

    items: tuple[JournalItem, ...]
    life: int


class MemoryLogStore(LogStore[MemoryPlan, tuple[Entry, ...], None]):
    """Everything in lists.  Entries stay in memory until they are given up, at most for as long as the store does."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._life = 0
        self._identity: StoreIdentity | None = None
        self._incarnation = Incarnation("")
        self._vote = SaveVote(Term(0), None)
        self._bootstrap: SaveBootstrap | None = None
        self._base = BEFORE_ALL
        self._entries: list[Entry] = []
        """Those above the base."""

    def open(self, identity: StoreIdentity, *, memory_bytes: int, snapshot: SnapshotPoint | None = None) -> Recovered:
        """Find again what was executed.  The user before, if there was one, is locked out from here on.

        Raises DirectoryMismatch if the store was made for another node or cluster, LogCorrupt if the snapshot does not
        cover what was given up, or if it is all there is.
        """
        with self._mutex:
            verdict = self._reconcile(snapshot)
            self._take_identity(identity)
            self._life += 1
            if not verdict.superseded:
                self._drop_through(verdict.base.index)
            return Recovered(
                incarnation=self._incarnation,
                term=self._vote.term,
                voted_for=self._vote.voted_for,
                bootstrap=self._bootstrap,
                base=verdict.base,
                last_index=verdict.base.index if verdict.superseded else self._last_index,
                term_runs=() if verdict.superseded else self._term_runs(),
                tail=() if verdict.superseded else self._tail(memory_bytes),
                cut_bytes=0,
                cut_path="",
                superseded=verdict.superseded,
            )

    def plan(self, batch: Sequence[JournalItem]) -> MemoryPlan | None:
        return MemoryPlan(tuple(batch), self._life)

    def execute(self, plan: MemoryPlan) -> None:
        with self._mutex:
            if plan.life != self._life:
                raise AssertionError("this store was closed or opened anew after the plan was made")
            for item in plan.items:
                match item:
                    case Append():
                        self._append(item.entries)
                    case SaveVote():
                        self._vote = item
                    case SaveBootstrap():
                        self._bootstrap = item
                    case SaveSnapshot():
                        self._take_in(item)
                    case Compact(up_to):
                        self._drop_through(min(up_to, self._last_index))

    def done(self, plan: MemoryPlan) -> None:
        pass

    def plan_read(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> tuple[Entry, ...]:
        with self._mutex:
            base = self._base.index
            if not base < first <= last <= self._last_index:
                raise AssertionError(f"entries {first} to {last} of {base + 1} to {self._last_index}")
            wanted = self._entries[first - base - 1 : last - base]
        room = max_bytes + len(wanted[0].record)
        for count, entry in enumerate(wanted):
            room -= len(entry.record)
            if room < 0 and count:
                return tuple(wanted[:count])
        return tuple(wanted)

    def execute_read(self, plan: tuple[Entry, ...]) -> list[Entry]:
        return list(plan)

    def plan_upkeep(self) -> None:
        return None

    def execute_upkeep(self, upkeep: None) -> None:
        pass

    def done_upkeep(self, upkeep: None) -> None:
        pass

    def close(self) -> None:
        with self._mutex:
            self._life += 1

    def _take_identity(self, identity: StoreIdentity) -> None:
        if self._identity is None:
            self._identity, self._incarnation = identity, identity.new_incarnation
        for field in ("cluster_id", "node_id"):
            found, expected = getattr(self._identity, field), getattr(identity, field)
            if found != expected:
                raise DirectoryMismatch(_NOWHERE, field, found=found, expected=expected)

    def _reconcile(self, snapshot: SnapshotPoint | None) -> Reconciled:
        if snapshot and self._identity is None:
            problem = "a snapshot without a log: its votes are unknown"
            raise LogCorrupt(_NOWHERE, offset=0, index=snapshot.index, problem=problem)
        try:
            return reconcile(snapshot, base=self._base, base_is_known=True, term_at=self._term_at)
        except NotCovered as error:
            raise LogCorrupt(_NOWHERE, offset=0, index=error.first, problem=str(error)) from error

    @property
    def _last_index(self) -> LogIndex:
        return LogIndex(self._base.index + len(self._entries))

    def _term_at(self, index: LogIndex) -> Term | None:
        if index == self._base.index:
            return self._base.term
        position = index - self._base.index - 1
        return self._entries[position].term if 0 <= position < len(self._entries) else None

    def _append(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        if not self._base.index < first <= self._last_index + 1:
            raise AssertionError(f"entry {first} does not continue a log that ends at {self._last_index}")
        del self._entries[first - self._base.index - 1 :]
        self._entries.extend(entries)

    def _take_in(self, marker: SaveSnapshot) -> None:
        point = marker.point
        if not marker.keep:
            self._base, self._entries = point, []
        elif self._term_at(point.index) != point.term:
            raise AssertionError(f"there is no entry {point.index} of term {point.term} to keep what follows it")
        else:
            self._drop_through(point.index)

    def _drop_through(self, index: LogIndex) -> None:
        term = self._term_at(index)
        if index > self._base.index and term is not None:
            del self._entries[: index - self._base.index]
            self._base = SnapshotPoint(index, term)

    def _term_runs(self) -> tuple[tuple[LogIndex, Term], ...]:
        runs: list[tuple[LogIndex, Term]] = []
        for entry in self._entries:
            if not runs or runs[-1][1] != entry.term:
                runs.append((entry.index, entry.term))
        return tuple(runs)

    def _tail(self, memory_bytes: int) -> tuple[Entry, ...]:
        first = len(self._entries)
        while first and (memory_bytes := memory_bytes - len(self._entries[first - 1].record)) >= 0:
            first -= 1
        return tuple(self._entries[first:])
