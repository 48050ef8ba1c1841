"""The segments behind the active one: which of them the log still needs, and which may go.

A segment goes when all entries in it were given up, because a snapshot covers them, or never were part of the log that
is left; not before all older ones; and not while somebody reads from it.  Whoever planned a read holds the plan, so
the plan itself is the pin: it is known here for as long as it is alive.

House rule: numbers only; who removes the files is upkeep.
"""

import weakref
from pathlib import Path

from trio_raft._records import LogIndex
from trio_raft._storage.entry_map import EntryMap
from trio_raft._storage.reading import ReadPlan
from trio_raft._storage.segments import Removal, segment_path


class OldSegments:
    """Numbers of the segments on disk, from the oldest on."""

    def __init__(self, directory: Path, *, oldest: int) -> None:
        self._directory = directory
        self._oldest = oldest
        self._needed_from = oldest
        self._plans: weakref.WeakSet[ReadPlan] = weakref.WeakSet()
        self._removal: Removal | None = None

    def give_up(self, entries: EntryMap, up_to: LogIndex, *, active: int) -> None:
        """Entries up to there are not needed any more: those in whole segments leave the map."""
        self._needed_from = max(self._needed_from, entries.needed_segment(up_to, active=active))
        entries.drop_segments_before(self._needed_from)

    def pin(self, plan: ReadPlan) -> None:
        """Keep what the plan reads for as long as somebody holds it."""
        self._plans.add(plan)

    def next_removal(self) -> Removal | None:
        """What may go now; the same until it is done."""
        if self._removal is None and self._oldest < self._needed_from and not self._is_read():
            self._removal = Removal(segment_path(self._directory, self._oldest), self._oldest)
        return self._removal

    def done(self, removal: Removal) -> None:
        """The segment is gone.  Raises AssertionError if it was not to go."""
        if removal is not self._removal or not removal.removed:
            raise AssertionError("this slice was not planned, or not done")
        self._removal = None
        self._oldest += 1

    def _is_read(self) -> bool:
        # Nobody reads from segments that are gone, so a plan that begins at or before the oldest reads from it.
        return any(plan.first_segment <= self._oldest for plan in self._plans)
