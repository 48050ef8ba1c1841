"""Where each entry of the log stands on disk, and what of the log must be known without reading it.

Four bytes an entry: the offset of its record (``locations.py``).  Segments and terms are kept as runs, since they
change far more rarely than entries come; so are the indexes of configurations, which a truncation must be able to fall
back on.

The map begins above its *base*, the place just below its first entry: (0, 0) in a new log, a snapshot's last entry
where that replaced the log, and the last entry that was given up where old segments were removed.  Later entries
stand at later places: so the entries in the oldest segments are always the first ones of the map.

House rule: this is the log as it is *on disk*.  It changes when a write is known to be durable, not before.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import attrs

from trio_raft._records import Entry, EntryKind, LogIndex, Term
from trio_raft._storage.format import NO_VOTE, Description
from trio_raft._storage.locations import Locations
from trio_raft.abc import SaveBootstrap, SaveSnapshot, SaveVote, SnapshotPoint


@attrs.frozen
class Placement:
    """Contiguous entries and where they were written; the first one removes what stands at and above its index."""

    first_index: LogIndex
    segment: int
    """The number of the segment in which they are, all of them."""
    offsets: "array[int]"
    term_runs: Sequence[tuple[LogIndex, Term]]
    """(first index of the run, its term); never empty."""
    configurations: Sequence[LogIndex]
    """Indexes of the configuration entries among them."""


def place(entries: Sequence[Entry], records: Sequence[bytes], *, segment: int, offset: int) -> tuple[Placement, int]:
    """Lay these records out from there on; returns the offset behind them as well."""
    # The offset behind the last one may be the end of the largest segment, which four bytes do not hold.
    offsets = array("I", accumulate(map(len, records[:-1]), initial=offset))
    behind = offsets[-1] + len(records[-1])
    first, last = entries[0], entries[-1]
    runs = [(first.index, first.term)]
    if first.term != last.term:
        runs += [(entry.index, entry.term) for before, entry in pairwise(entries) if before.term != entry.term]
    kind = EntryKind.CONFIGURATION
    configurations = [entry.index for entry in entries if entry.kind is kind]
    return Placement(first.index, segment, offsets, runs, configurations), behind


BEFORE_ALL = SnapshotPoint(LogIndex(0), Term(0))
"""The base of a log of which nothing was ever cut."""


class EntryMap:
    """The entries on disk, ``base.index + 1`` … ``last_index``."""

    def __init__(self) -> None:
        self.base = BEFORE_ALL
        """The place just below the first entry."""
        self.locations = Locations()
        """Of the first entry and on; always the same object."""
        self._run_firsts: list[LogIndex] = []
        self._run_terms: list[Term] = []
        self._configurations: list[LogIndex] = []
        self.configuration_below = LogIndex(0)
        """Of the last configuration entry at or below the base; 0 if there is none, or if it is not known."""

    @property
    def last_index(self) -> LogIndex:
        """``base.index`` if there is no entry."""
        return LogIndex(self.base.index + len(self.locations))

    @property
    def last_term(self) -> Term:
        """That of the base if there is no entry."""
        return self._run_terms[-1] if self._run_terms else self.base.term

    @property
    def run_term(self) -> Term | None:
        """The term that the next entry has if it needs no run of its own; None: it needs one in any case."""
        return self._run_terms[-1] if self._run_terms else None

    @property
    def configuration_index(self) -> LogIndex:
        """Of the last configuration entry, those at and below the base included as far as they are known; else 0."""
        return self._configurations[-1] if self._configurations else self.configuration_below

    @property
    def term_runs(self) -> tuple[tuple[LogIndex, Term], ...]:
        """(first index of the run, its term), ascending."""
        return tuple(zip(self._run_firsts, self._run_terms, strict=True))

    def term_at(self, index: LogIndex) -> Term | None:
        """The term of the entry there, the base included; None outside."""
        if index == self.base.index:
            return self.base.term
        if not self.base.index < index <= self.last_index:
            return None
        return self._run_terms[bisect_right(self._run_firsts, index) - 1]

    def add(self, placement: Placement) -> None:
        """Take the entries in, after removing what stands at and above the first of them.

        Raises ValueError, and changes nothing, if they leave a gap, reach below the base, or if terms fall.
        """
        first = placement.first_index
        before = bisect_left(self._run_firsts, first)
        last_kept = self._run_terms[before - 1] if before else self.base.term
        terms = [last_kept, *(term for _, term in placement.term_runs)]
        if not self.base.index < first <= self.last_index + 1:
            raise ValueError(f"entry {first} does not continue a log that {self._extent}")
        if terms != sorted(terms):
            raise ValueError(f"entry {first} or one after it has a lower term than the entry before it")
        # Asked for first: it refuses an older segment.
        offsets = self.locations.offsets_in(placement.segment)
        self._truncate_from(first)
        offsets.extend(placement.offsets)
        for index, term in placement.term_runs:
            if term != self.run_term:
                self._run_firsts.append(index)
                self._run_terms.append(term)
        self._configurations.extend(placement.configurations)

    def begin_at(self, base: SnapshotPoint, *, configuration: LogIndex = BEFORE_ALL.index) -> None:
        """Nothing but a base.  ``configuration``: the last one at or below it; 0 if that is not known."""
        self.base = base
        # In place: whoever adds many holds on to them.
        self.locations.cut_from(0)
        self._run_firsts, self._run_terms, self._configurations = [], [], []
        self.configuration_below = configuration

    def begin_above(self, base: SnapshotPoint) -> None:
        """Give up what stands at and below this point, which is the base or an entry; its term is certain."""
        self.drop_through(base.index)
        self.base = base

    def drop_through(self, index: LogIndex) -> None:
        """Give up the entries up to and including this one, which becomes the base; nothing at or below the base."""
        term = self.term_at(index)
        if index <= self.base.index or term is None:
            return
        self.locations.cut_before(index - self.base.index)
        above = LogIndex(index + 1)
        run = bisect_right(self._run_firsts, above) - 1 if self.locations else len(self._run_firsts)
        del self._run_firsts[:run], self._run_terms[:run]
        if self._run_firsts:
            self._run_firsts[0] = above
        gone = bisect_right(self._configurations, index)
        if gone:
            self.configuration_below = self._configurations[gone - 1]
            del self._configurations[:gone]
        self.base = SnapshotPoint(index, term)

    def take_in(self, marker: SaveSnapshot) -> None:
        """A snapshot took the place of the log up to its index.

        Raises ValueError, and changes nothing, if the log is to be kept and has no equal entry there.
        """
        if not marker.keep:
            self.begin_at(marker.point)
        elif self.term_at(marker.point.index) != marker.point.term:
            raise ValueError(f"a log that {self._extent} has no entry {marker.point} to keep what follows it")
        else:
            self.drop_through(marker.point.index)

    def needed_segment(self, given_up: LogIndex, *, active: int) -> int:
        """The first segment with an entry above ``given_up``; the active one if there is none."""
        position = max(given_up - self.base.index, 0)
        return self.locations.segment_at(position) if position < len(self.locations) else active

    def drop_segments_before(self, number: int) -> None:
        """Give up the entries that stand in older segments."""
        self.drop_through(LogIndex(self.base.index + self.locations.first_in(number)))

    def entries_in(self, number: int) -> tuple[LogIndex, LogIndex] | None:
        """The first and the last entry that stands in this segment and is still part of the log; None if none is."""
        first, behind = self.locations.first_in(number), self.locations.first_in(number + 1)
        index = self.base.index
        return (LogIndex(index + first + 1), LogIndex(index + behind)) if first < behind else None

    def runs_between(self, first: LogIndex, last: LogIndex) -> list[tuple[LogIndex, Term]]:
        """The runs that hold entries ``first`` … ``last``."""
        start = bisect_right(self._run_firsts, first) - 1
        stop = bisect_right(self._run_firsts, last)
        return list(zip(self._run_firsts[start:stop], self._run_terms[start:stop], strict=True))

    @property
    def _extent(self) -> str:
        above = f"begins above {self.base.index} and " if self.base.index else ""
        return f"{above}ends at {self.last_index}"

    def _truncate_from(self, index: LogIndex) -> None:
        if index <= self.last_index:
            self.locations.cut_from(index - self.base.index - 1)
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
