"""One server's log, votes and map of members as they stand durably on its disk: what the next start would find.

A start takes the newest whole snapshot and the log, and lets the snapshot decide (N1): if the log holds its last entry,
what follows stays; otherwise the snapshot takes the log's place, marker or not.  What was removed from the log because
a snapshot covers it counts as held: it is committed, so the slots of ``_past`` say what stood there.

House rule: a constant for each durable write, but for a snapshot that takes the log's place.
"""

from collections.abc import Mapping

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry
from trio_raft.abc import SaveBootstrap, SaveSnapshot, SaveVote, SnapshotPoint
from trio_raft.testing._durable import DurableSource, LogBegins
from trio_raft.testing._past import ROOT, Past, Slot
from trio_raft.testing._verdict import Verdict


class Image:
    """One server's log, votes and map of members as they stand durably on its disk."""

    def __init__(self, node_id: str, source: DurableSource, past: Past, verdict: Verdict, *, first: bool) -> None:
        """``first``: nothing was seen of this server before, so its disk may hold what was made before this run."""
        self.node_id = node_id
        self._source = source
        self._past = past
        self._verdict = verdict
        self._log: list[Slot] = [ROOT]
        """What the log says, by index; below its base, what is committed."""
        self.slots: list[Slot] = self._log
        """What a start would find, by index: the log, or the snapshot that takes its place."""
        self.snapshot: Slot = ROOT
        """The last entry that the newest snapshot covers."""
        self._point: SnapshotPoint | None = None
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
    def first_write(self) -> int:
        """The number of the first write in ``history``."""
        return self._source.first_write

    @property
    def damaged_snapshots(self) -> list[str]:
        """Those that look finished on disk and are not whole."""
        return self._source.damaged_snapshots

    @property
    def last_index(self) -> int:
        """Of the last durable entry."""
        return len(self.slots) - 1

    def refresh(self) -> None:
        """Take in what has become durable since."""
        news = self._source.news()
        for item in news:
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
                case SaveSnapshot():
                    self._take_in(item)
                case LogBegins():
                    self._begin(item.base)
        self._may_be_new = False
        if self._point is not self._source.snapshot:
            self._point = self._source.snapshot
            self._see_snapshot(self._point)
            self._review()
        elif news:
            self._review()
        self._check_base()

    def _add(self, entry: Entry) -> None:
        log = self._log
        if entry.index > len(log):
            self._verdict.fail(
                "The log on disk has no gap (S6)",
                self.node_id,
                expected=f"entry {len(log)} after entry {len(log) - 1}",
                seen=f"{entry}",
            )
            return
        self._drop(log[entry.index :])
        del log[entry.index :]
        added = self._past.add(self.node_id, entry, log[-1], may_be_new=self._may_be_new)
        if added is not None:
            log.append(added)

    def _drop(self, slots: list[Slot]) -> None:
        for slot in slots:
            self.dropped[slot.index, slot.term] = None

    # ------------------------------------------------------------------------------------ snapshots

    def _take_in(self, marker: SaveSnapshot) -> None:
        """A marker in the log: a snapshot took its place, or the part of it that the snapshot covers."""
        point = marker.point
        slot = self._past.covered(self.node_id, point.index, point.term)
        if slot is None:
            return
        if marker.keep != self.log_holds(slot):
            self._verdict.fail(
                "An equal entry at a snapshot's last index keeps what follows it, and nothing else does (N1)",
                self.node_id,
                expected=f"a marker for {slot} that fits the log on disk, with {self._stands_at(slot.index)} there",
                seen=f"a marker that {'keeps' if marker.keep else 'discards'} the log",
            )
        elif not marker.keep:
            self._drop(self._log[slot.index + 1 :])
            self._log[:] = self._past.committed[: slot.index + 1]

    def _begin(self, base: int) -> None:
        """The log begins above ``base``."""
        committed = self._past.committed
        if base < len(committed):
            self._log[:] = committed[: base + 1]
        else:
            self._verdict.fail(
                "Only what is committed is ever cut off (S7)",
                self.node_id,
                expected=f"a log on disk that begins at or below {len(committed)}, the first that is not committed",
                seen=f"it begins at {base + 1}",
            )

    def _see_snapshot(self, point: SnapshotPoint | None) -> None:
        newest = ROOT if point is None else self._past.covered(self.node_id, point.index, point.term)
        if newest is None:
            return
        if newest.index < self.snapshot.index:
            self._verdict.fail(
                "The newest snapshot only moves forward (N3, N4)",
                self.node_id,
                expected=f"the snapshot up to {self.snapshot} stays until there is a newer one",
                seen=f"the newest whole one on its disk goes up to {newest}",
            )
        self.snapshot = newest

    def _review(self) -> None:
        """Which of the two would a start follow?"""
        if self.log_holds(self.snapshot):
            self.slots = self._log
        elif self.slots is self._log or self.slots[-1] is not self.snapshot:
            self._drop([slot for slot in self.slots if not self._is_covered(slot)])
            self.slots = self._past.committed[: self.snapshot.index + 1]

    def _is_covered(self, slot: Slot) -> bool:
        return slot.index <= self.snapshot.index and self._past.committed[slot.index] is slot

    def _check_base(self) -> None:
        """Has the log on disk lost anything that no snapshot holds?"""
        base = self._source.base()
        if base > self.snapshot.index:
            self._verdict.fail(
                "A snapshot is durable before the log is cut (S6, S7)",
                self.node_id,
                expected=f"on its disk a whole snapshot up to {base} at least, since the log there begins behind that",
                seen=f"the newest one goes up to {self.snapshot}",
            )

    def _stands_at(self, index: int) -> Slot | str:
        return self._log[index] if index < len(self._log) else "nothing"

    # ------------------------------------------------------------------------------------ the rest

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

    def describe(self) -> str:
        """For a person."""
        return f"a log that ends at {self._log[-1]}, a snapshot up to {self.snapshot}"

    def log_holds(self, slot: Slot) -> bool:
        """Would the log hold it without the snapshot?"""
        return slot.index < len(self._log) and self._log[slot.index] is slot

    def held(self, slot: Slot) -> bool:
        """Is it, or was it once?"""
        return self.holds(slot) or (slot.index, slot.term) in self.dropped
