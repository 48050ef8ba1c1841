"""A log store that forgets everything when the process ends: for tests and throwaway clusters.

It keeps to the contract of ``LogStore`` where that matters to the protocol above it: nothing counts before
``execute`` returned, and a plan that was abandoned before it was executed is lost.  So a simulated crash is:
throw the node away and open the same store again.

House rule: what ``execute`` did is what survives; ``plan`` and ``done`` change nothing.
"""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import attrs

from trio_raft._errors import DirectoryMismatch
from trio_raft._messages import Incarnation
from trio_raft._records import Entry, LogIndex, Term
from trio_raft.abc import Append, JournalItem, LogStore, Recovered, SaveBootstrap, SaveVote, StoreIdentity

_NOWHERE = Path("(in memory)")


@attrs.frozen
class MemoryPlan:
    """Items to store, and the life of the store that they were planned in."""

    items: tuple[JournalItem, ...]
    life: int


class MemoryLogStore(LogStore[MemoryPlan, tuple[Entry, ...], None]):
    """Everything in lists.  All entries stay in memory for as long as the store does."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._life = 0
        self._identity: StoreIdentity | None = None
        self._incarnation = Incarnation("")
        self._vote = SaveVote(Term(0), None)
        self._bootstrap: SaveBootstrap | None = None
        self._entries: list[Entry] = []
        self._term_runs: list[tuple[LogIndex, Term]] = []

    def open(self, identity: StoreIdentity, *, memory_bytes: int) -> Recovered:
        """Find again what was executed.  The user before, if there was one, is locked out from here on.

        Raises DirectoryMismatch if the store was made for another node or cluster.
        """
        with self._mutex:
            self._take_identity(identity)
            self._life += 1
            return Recovered(
                incarnation=self._incarnation,
                term=self._vote.term,
                voted_for=self._vote.voted_for,
                bootstrap=self._bootstrap,
                last_index=LogIndex(len(self._entries)),
                term_runs=tuple(self._term_runs),
                tail=self._tail(memory_bytes),
                cut_bytes=0,
                cut_path="",
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

    def done(self, plan: MemoryPlan) -> None:
        pass

    def plan_read(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> tuple[Entry, ...]:
        with self._mutex:
            if not 1 <= first <= last <= len(self._entries):
                raise AssertionError(f"entries {first} to {last} of 1 to {len(self._entries)}")
            wanted = self._entries[first - 1 : last]
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

    def _append(self, entries: Sequence[Entry]) -> None:
        first = entries[0].index
        if not 1 <= first <= len(self._entries) + 1:
            raise AssertionError(f"entry {first} does not continue a log that ends at {len(self._entries)}")
        del self._entries[first - 1 :]
        del self._term_runs[bisect_right(self._term_runs, first - 1, key=lambda run: run[0]) :]
        for entry in entries:
            if not self._term_runs or self._term_runs[-1][1] != entry.term:
                self._term_runs.append((entry.index, entry.term))
        self._entries.extend(entries)

    def _tail(self, memory_bytes: int) -> tuple[Entry, ...]:
        first = len(self._entries)
        while first and (memory_bytes := memory_bytes - len(self._entries[first - 1].record)) >= 0:
            first -= 1
        return tuple(self._entries[first:])
