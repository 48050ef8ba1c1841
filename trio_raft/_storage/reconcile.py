"""The log and the newest snapshot, compared when a node starts: what of the log counts, and from where on.

A snapshot is durable before anything that it makes superfluous goes, and before a marker says that it took the log's
place.  So whatever a crash interrupted, the snapshot decides as an install would have (N1): an equal entry at its last
index keeps what follows; another entry there, or a log that ends before it, is replaced altogether::

    log   base |f ...... last|      snapshot below base       refused: what is between them is missing (N4)
    snapshot              ^         at the base, or in the log    kept if the terms agree, else superseded
                                    above last                superseded

The log may begin in the middle: older segments were removed.  What was removed was covered by a snapshot, so committed;
but the term of the last removed entry stands nowhere.  Then the first entry that is left serves as the base, since a
base has to be of known term; the snapshot covers it, or else ends right before it and is the base itself.

House rule: pure.
"""

from collections.abc import Callable

import attrs

from trio_raft._records import LogIndex, Term
from trio_raft._storage.entry_map import BEFORE_ALL
from trio_raft.abc import SnapshotPoint


class NotCovered(Exception):
    """Entries are missing that no snapshot covers."""

    def __init__(self, first: int, last: int, snapshot: SnapshotPoint | None) -> None:
        covered = "there is no snapshot" if snapshot is None else f"the newest snapshot ends at {snapshot.index}"
        super().__init__(f"entries {first} to {last} are missing: the log begins after them, and {covered}")
        self.first = first


@attrs.frozen
class Reconciled:
    """What counts."""

    base: SnapshotPoint
    superseded: bool
    """Nothing of the log counts: it is as if the snapshot had been installed over it."""


def reconcile(
    snapshot: SnapshotPoint | None,
    *,
    base: SnapshotPoint,
    base_is_known: bool,
    term_at: Callable[[LogIndex], Term | None],
) -> Reconciled:
    """Compare the newest durable snapshot with a log that begins above ``base``.

    ``base_is_known``: is its term?  ``term_at``: of an entry, the base included; None outside.  Raises NotCovered.
    """
    reached = BEFORE_ALL if snapshot is None else snapshot
    if reached.index < base.index:
        raise NotCovered(reached.index + 1, base.index, snapshot)
    if snapshot is None:
        return Reconciled(base, superseded=False)
    first = LogIndex(base.index + 1)
    if snapshot.index == base.index and not base_is_known:
        # Terms never fall, so the removed entry cannot have had a higher one than the first that is left.
        first_term = term_at(first)
        return Reconciled(snapshot, superseded=first_term is not None and first_term < snapshot.term)
    if term_at(snapshot.index) != snapshot.term:
        return Reconciled(snapshot, superseded=True)
    if base_is_known:
        return Reconciled(base, superseded=False)
    first_term = term_at(first)
    if first_term is None:
        raise AssertionError(f"entry {snapshot.index} is in the log, but {first} is not")
    return Reconciled(SnapshotPoint(first, first_term), superseded=False)
