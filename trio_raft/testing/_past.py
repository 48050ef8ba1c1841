"""What no server may contradict any more: every entry that was ever made, who led each term, what was committed.

An entry is made once, by the leader of its term, and stands from then on as one ``Slot`` that knows the slot before it.
So two logs that hold the same slot are equal up to there, which is the Log Matching Property (paper 5.3), and comparing
two logs at an index is one look at two references.  Logs share slots as branches share a stem::

    root <- 1:1 <- 2:1 <- 3:1 <- 4:3 <- 5:3        what n1 and n2 hold
                             <- 4:2                what n3 held when it led term 2

House rule: nothing here is ever taken back, and a run's servers never read it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

import attrs

from trio_raft._messages import ServerId
from trio_raft._records import Entry, EntryKind
from trio_raft.abc import SaveBootstrap
from trio_raft.testing._verdict import Verdict


@attrs.define(eq=False, repr=False)
class Slot:
    """One entry, and through ``previous`` all entries before it."""

    index: int
    term: int
    record: bytes
    kind: EntryKind
    previous: "Slot | None"
    bytes_through: int
    """Of all records up to this one."""
    configuration_index: int
    """Of the last configuration entry up to this one; 0 if there is none."""
    command: tuple[object, str] | None = None
    """As the first state machine got it, and how it was written then: a machine may change the object."""

    def __str__(self) -> str:
        return f"{self.index}:{self.term}"


ROOT = Slot(0, 0, b"", EntryKind.NO_OP, None, 0, 0)
"""Stands before entry 1 in every log."""


@attrs.frozen
class Leadership:
    """Who led a term, in which life, since when."""

    node_id: str
    life: int
    since: float


@attrs.frozen
class CapturedState:
    """What a state machine wrote of itself."""

    machine: type
    """Its class: another one may write the same state otherwise."""
    state: bytes


CAPTURED_BYTES = 8 << 20
"""Of captured states that are kept to be compared; those of the oldest commands go first."""


class Exchangeable(Protocol):
    """A disk that somebody may take away."""

    taken_away: bool


class Past:
    """Everything of a run that must stay true."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._slots: dict[tuple[int, int], Slot] = {(0, 0): ROOT}
        self.leaders: dict[int, Leadership] = {}
        """Term → its only leader."""
        self.support: dict[tuple[int, ServerId, bool], dict[ServerId, None]] = {}
        """(term, candidate, pre-vote?) → who decided to support it."""
        self.committed: list[Slot] = [ROOT]
        """By index."""
        self._commit_terms: list[int] = []
        self._commit_tops: list[int] = []
        """The last index that a leader of the term at the same place committed first."""
        self.settled: list[tuple[Exchangeable, SaveBootstrap]] = []
        """The first configuration, with each disk on which it became durable as settled."""
        self.captured: dict[int, dict[str, None]] = {}
        """Index of a command → digests of the states that state machines gave which had been given it last."""
        self._states: dict[int, CapturedState] = {}
        """The first one of each command, as long as there is room."""
        self._state_bytes = 0

    def note_captured(self, command: int, digest: str, captured: CapturedState) -> CapturedState | None:
        """A state was captured after this command; returns another one of the same class and moment, if there is one.

        None also if it was compared before, or if the first one is no longer kept.
        """
        digests = self.captured.setdefault(command, {})
        if digest in digests:
            return None
        digests[digest] = None
        if len(digests) == 1:
            self._states[command] = captured
            self._state_bytes += len(captured.state)
            while self._state_bytes > CAPTURED_BYTES:
                self._state_bytes -= len(self._states.pop(next(iter(self._states))).state)
            return None
        first = self._states.get(command)
        return first if first is not None and first.machine is captured.machine else None

    def find(self, index: int, term: int) -> Slot | None:
        """The entry there, if it was ever made."""
        return self._slots.get((index, term))

    def covered(self, node_id: str, index: int, term: int) -> Slot | None:
        """The last entry that a snapshot covers; None if that is not committed, which is a violation."""
        slot = self.committed[index] if 0 <= index < len(self.committed) else None
        if slot is None or slot.term != term:
            self._verdict.fail(
                "A snapshot holds what is committed (S8, N6)",
                node_id,
                expected=f"a snapshot up to a committed entry, of which the last is {self.committed[-1]}",
                seen=f"one up to {index}:{term}, where {slot or 'nothing'} is committed",
            )
            return None
        return slot

    def add(self, node_id: str, entry: Entry, previous: Slot, *, may_be_new: bool) -> Slot | None:
        """The slot of an entry that follows ``previous``; None if that contradicts the past, which is a violation."""
        slot = self._slots.get((entry.index, entry.term))
        if slot is None:
            if not may_be_new:
                self._verdict.fail(
                    "Entries are made by leaders (R1)",
                    node_id,
                    expected=f"only entries that the leader of their term has appended; after {previous}",
                    seen=f"{entry}, which no leader made",
                )
                return None
            slot = self._make(entry, previous)
        elif slot.record != entry.record:
            self._verdict.fail(
                "Log Matching (paper 5.3, R5)",
                node_id,
                expected=f"at index {entry.index} in term {entry.term} what was made there: {_content(slot.record)}",
                seen=f"another entry of the same index and term: {_content(entry.record)}",
            )
            return None
        elif slot.previous is not previous:
            self._verdict.fail(
                "Log Matching (paper 5.3, R9)",
                node_id,
                expected=f"entry {slot} after {slot.previous}, as in every log that holds it",
                seen=f"entry {slot} after {previous}",
            )
            return None
        return slot

    def _make(self, entry: Entry, previous: Slot) -> Slot:
        slot = Slot(
            entry.index,
            entry.term,
            entry.record,
            entry.kind,
            previous,
            previous.bytes_through + len(entry.record),
            entry.index if entry.kind is EntryKind.CONFIGURATION else previous.configuration_index,
        )
        self._slots[entry.index, entry.term] = slot
        return slot

    def note_commit(self, slots: Sequence[Slot], *, term: int) -> None:
        """These entries were committed just now, for the first time, by the leader of ``term``."""
        self.committed += slots
        if self._commit_terms and self._commit_terms[-1] == term:
            self._commit_tops[-1] = slots[-1].index
        else:
            self._commit_terms.append(term)
            self._commit_tops.append(slots[-1].index)

    def committed_before(self, term: int) -> Slot:
        """The last entry that was committed in an earlier term than this: every leader of ``term`` holds it."""
        place = bisect_left(self._commit_terms, term)
        return self.committed[self._commit_tops[place - 1]] if place else ROOT


def _content(record: bytes) -> str:
    return f"{len(record)} bytes, checksum {record[:4].hex()}"
