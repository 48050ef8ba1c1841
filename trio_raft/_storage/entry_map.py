"""Where each entry of the log stands on disk, and what of the log must be known without reading it.

Eight bytes an entry: the segment's number and the offset of the record within it, in one unsigned integer.  Terms
are kept as runs, since they change far more rarely than entries come; so are the indexes of configurations, which a
truncation must be able to fall back on.

House rule: this is the log as it is *on disk*.  It changes when a write is known to be durable, not before.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import attrs

from trio_raft._records import Entry, EntryKind, LogIndex, Term
from trio_raft._storage.format import NO_VOTE, Description
from trio_raft.abc import SaveBootstrap, SaveVote

_OFFSET_BITS = 32

MAX_SEGMENT_BYTES = 1 << _OFFSET_BITS
"""Offsets must fit into their part of a location."""


def location_of(segment_number: int, offset: int) -> int:
    """Segment and offset in one integer."""
    return segment_number << _OFFSET_BITS | offset


def split_location(location: int) -> tuple[int, int]:
    """(segment number, offset) of a location."""
    return location >> _OFFSET_BITS, location & (MAX_SEGMENT_BYTES - 1)


@attrs.frozen
class Placement:
    """Contiguous entries and where they were written; the first one removes what stands at and above its index."""

    first_index: LogIndex
    locations: "array[int]"
    term_runs: Sequence[tuple[LogIndex, Term]]
    """(first index of the run, its term); never empty."""
    configurations: Sequence[LogIndex]
    """Indexes of the configuration entries among them."""


def place(entries: Sequence[Entry], records: Sequence[bytes], *, location: int) -> tuple[Placement, int]:
    """Lay these records out from ``location`` on; returns the location behind them as well."""
    locations = array("Q", accumulate(map(len, records), initial=location))
    behind = locations.pop()
    first, last = entries[0], entries[-1]
    runs = [(first.index, first.term)]
    if first.term != last.term:
        runs += [(entry.index, entry.term) for before, entry in pairwise(entries) if before.term != entry.term]
    kind = EntryKind.CONFIGURATION
    configurations = [entry.index for entry in entries if entry.kind is kind]
    return Placement(first.index, locations, runs, configurations), behind


class EntryMap:
    """The entries on disk, 1 … ``last_index``."""

    def __init__(self) -> None:
        self.locations = array("Q")
        """Of entry 1 and on."""
        self._run_firsts: list[LogIndex] = []
        self._run_terms: list[Term] = []
        self._configurations: list[LogIndex] = []

    @property
    def last_index(self) -> LogIndex:
        """0 if there is no entry."""
        return LogIndex(len(self.locations))

    @property
    def last_term(self) -> Term:
        """0 if there is no entry."""
        return self._run_terms[-1] if self._run_terms else Term(0)

    @property
    def configuration_index(self) -> LogIndex:
        """Of the last configuration entry; 0 if there is none."""
        return self._configurations[-1] if self._configurations else LogIndex(0)

    @property
    def term_runs(self) -> tuple[tuple[LogIndex, Term], ...]:
        """(first index of the run, its term), ascending."""
        return tuple(zip(self._run_firsts, self._run_terms, strict=True))

    def add(self, placement: Placement) -> None:
        """Take the entries in, after removing what stands at and above the first of them.

        Raises ValueError, and changes nothing, if they leave a gap or if terms fall.
        """
        first = placement.first_index
        before = bisect_left(self._run_firsts, first)
        terms = [*self._run_terms[max(before - 1, 0) : before], *(term for _, term in placement.term_runs)]
        if not 1 <= first <= self.last_index + 1:
            raise ValueError(f"entry {first} does not continue a log that ends at {self.last_index}")
        if terms != sorted(terms):
            raise ValueError(f"entry {first} or one after it has a lower term than the entry before it")
        self._truncate_from(first)
        self.locations.extend(placement.locations)
        for index, term in placement.term_runs:
            if term != self.last_term:
                self._run_firsts.append(index)
                self._run_terms.append(term)
        self._configurations.extend(placement.configurations)

    def runs_between(self, first: LogIndex, last: LogIndex) -> list[tuple[LogIndex, Term]]:
        """The runs that hold entries ``first`` … ``last``."""
        start = bisect_right(self._run_firsts, first) - 1
        stop = bisect_right(self._run_firsts, last)
        return list(zip(self._run_firsts[start:stop], self._run_terms[start:stop], strict=True))

    def _truncate_from(self, index: LogIndex) -> None:
        if index <= self.last_index:
            del self.locations[index - 1 :]
            before = bisect_left(self._run_firsts, index)
            del self._run_firsts[before:], self._run_terms[before:]
            del self._configurations[bisect_left(self._configurations, index) :]


@attrs.define
class DurableState:
    """All that the log on disk says."""

    entries: EntryMap = attrs.Factory(EntryMap)
    vote: SaveVote = NO_VOTE
    bootstrap: SaveBootstrap | None = None
    batch_number: int = 0
    """Of the last batch."""

    def describe(self, like: Description) -> Description:
        """What the description of a segment that begins now has to say of the log before it."""
        return attrs.evolve(
            like,
            first_index=LogIndex(self.entries.last_index + 1),
            vote=self.vote,
            configuration_index=self.entries.configuration_index,
            bootstrap=self.bootstrap,
        )
