"""What no server may contradict any more: every entry that was ever made, who led each term, what was committed.

An entry is made once, by the leader of its term, and stands from then on as one ``Slot`` that knows the slot before it.
So two logs that hold the same slot are equal up to there, which is the Log Matching Property (paper 5.3), and comparing
two logs at an index is one look at two references.  Logs share slots as branches share a stem::

    root <- 1:1 <- 2:1 <- 3:1 <- 4:3 <- 5:3        what n1 and n2 hold
                             <- 4:2                what n3 held when it led term 2

House rule: nothing here is ever taken back, and a run's servers never read it.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import attrs

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, EntryKind
from trio_raft.abc import SaveBootstrap, SaveVote
from trio_raft.testing._durable import DurableSource
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
        self.settled: list[tuple[Image, SaveBootstrap]] = []
        """The first configuration, with each disk on which it became durable as settled."""

    def find(self, index: int, term: int) -> Slot | None:
        """The entry there, if it was ever made."""
        return self._slots.get((index, term))

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


class Image:
    """One server's log, votes and map of members as they stand durably on its disk."""

    def __init__(self, node_id: str, source: DurableSource, past: Past, verdict: Verdict, *, first: bool) -> None:
        """``first``: nothing was seen of this server before, so its disk may hold what was made before this run."""
        self.node_id = node_id
        self._source = source
        self._past = past
        self._verdict = verdict
        self.slots: list[Slot] = [ROOT]
        """By index."""
        self.dropped: dict[tuple[int, int], None] = {}
        """(index, term) of entries that were durable once, and were then removed."""
        self.term = 0
        self.voted_for: str | None = None
        self.votes: dict[int, str] = {}
        """Term → the vote given in it, as far as any is durable."""
        self.bootstrap: SaveBootstrap | None = None
        self.maps: list[tuple[Mapping[ServerId, Incarnation], bool]] = []
        """Every map of members that was durable, and whether it was settled."""
        self._may_be_new = first
        self.taken_away = False
        """Its disk was exchanged, by injection: nobody can learn from it any more."""

    @property
    def incarnation(self) -> Incarnation | None:
        """Of the data directory."""
        return self._source.incarnation

    @property
    def history(self) -> list[int]:
        """A number for each durable write, see ``DurableSource``."""
        return self._source.history

    @property
    def last_index(self) -> int:
        """Of the last durable entry."""
        return len(self.slots) - 1

    def refresh(self) -> None:
        """Take in what has become durable since."""
        for item in self._source.news():
            match item:
                case Entry():
                    self._add(item)
                case SaveVote():
                    self.term, self.voted_for = item.term, item.voted_for
                    if item.voted_for is not None:
                        self.votes[item.term] = item.voted_for
                case SaveBootstrap():
                    self.bootstrap = item
                    self.maps.append((item.incarnations, item.done))
                    if item.done:
                        self._settle(item)
        self._may_be_new = False

    def _add(self, entry: Entry) -> None:
        if entry.index > len(self.slots):
            self._verdict.fail(
                "The log on disk has no gap (S6)",
                self.node_id,
                expected=f"entry {len(self.slots)} after entry {self.last_index}",
                seen=f"{entry}",
            )
            return
        for slot in self.slots[entry.index :]:
            self.dropped[slot.index, slot.term] = None
        del self.slots[entry.index :]
        added = self._past.add(self.node_id, entry, self.slots[-1], may_be_new=self._may_be_new)
        if added is not None:
            self.slots.append(added)

    def _settle(self, item: SaveBootstrap) -> None:
        """No other may be settled as long as this one is known to anybody.

        A disk that was exchanged is nobody: who was emptied as the first to finish is waited for anew.  Had the others
        gone on without it, they would have finished too.
        """
        self._past.settled = [each for each in self._past.settled if not each[0].taken_away]
        for _, settled in self._past.settled[:1]:
            if dict(settled.incarnations) != dict(item.incarnations):
                self._verdict.fail(
                    "One first configuration (O1)",
                    self.node_id,
                    expected=f"the map that was settled first: {dict(settled.incarnations)}",
                    seen=f"{dict(item.incarnations)}",
                )
        self._past.settled.append((self, item))

    def holds(self, slot: Slot) -> bool:
        """Is the entry durable here, now, as of the last ``refresh``?"""
        return slot.index < len(self.slots) and self.slots[slot.index] is slot

    def held(self, slot: Slot) -> bool:
        """Is it, or was it once?"""
        return self.holds(slot) or (slot.index, slot.term) in self.dropped
