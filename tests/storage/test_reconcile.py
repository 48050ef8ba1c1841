"""The log and the newest snapshot, compared: a table of what counts."""

import pytest

from trio_raft._records import LogIndex, Term
from trio_raft._storage.entry_map import BEFORE_ALL
from trio_raft._storage.reconcile import NotCovered, Reconciled, reconcile
from trio_raft.abc import SnapshotPoint


def point(index: int, term: int) -> SnapshotPoint:
    return SnapshotPoint(LogIndex(index), Term(term))


def compare(snapshot: SnapshotPoint | None, base: SnapshotPoint, terms: list[int], *, known: bool) -> Reconciled:
    """A log with entries of these terms above the base."""

    def term_at(index: LogIndex) -> Term | None:
        if index == base.index:
            return base.term
        position = index - base.index - 1
        return Term(terms[position]) if 0 <= position < len(terms) else None

    return reconcile(snapshot, base=base, base_is_known=known, term_at=term_at)


KEPT = [
    pytest.param(None, BEFORE_ALL, [1, 1], True, BEFORE_ALL, id="no-snapshot"),
    pytest.param(None, BEFORE_ALL, [], True, BEFORE_ALL, id="nothing-at-all"),
    pytest.param(point(2, 1), BEFORE_ALL, [1, 1, 2], True, BEFORE_ALL, id="whole-log-and-a-snapshot"),
    pytest.param(point(3, 2), BEFORE_ALL, [1, 1, 2], True, BEFORE_ALL, id="snapshot-of-the-last-entry"),
    pytest.param(point(5, 2), point(5, 2), [2, 3], True, point(5, 2), id="at-the-base"),
    pytest.param(point(5, 2), point(5, 2), [], True, point(5, 2), id="at-the-base-of-an-empty-log"),
    pytest.param(point(7, 3), point(5, 2), [2, 3], True, point(5, 2), id="above-the-base"),
    pytest.param(point(5, 2), point(5, 0), [2, 3], False, point(5, 2), id="right-before-the-first-that-is-left"),
    pytest.param(point(5, 2), point(5, 0), [], False, point(5, 2), id="right-before-and-nothing-is-left"),
    pytest.param(point(6, 2), point(5, 0), [2, 3], False, point(6, 2), id="of-the-first-that-is-left"),
    pytest.param(point(7, 3), point(5, 0), [2, 3, 3], False, point(6, 2), id="above-the-first-that-is-left"),
]

SUPERSEDED = [
    pytest.param(point(2, 3), BEFORE_ALL, [1, 1, 1], True, id="another-entry-there"),
    pytest.param(point(2, 1), BEFORE_ALL, [1, 4, 4], True, id="another-entry-there-of-a-later-term"),
    pytest.param(point(4, 1), BEFORE_ALL, [1, 1, 1], True, id="log-ends-before-it"),
    pytest.param(point(1, 1), BEFORE_ALL, [], True, id="log-without-entries"),
    pytest.param(point(9, 4), point(5, 2), [], True, id="log-of-a-base-only"),
    pytest.param(point(5, 3), point(5, 2), [2], True, id="another-base"),
    pytest.param(point(9, 4), point(5, 0), [2, 3], False, id="log-in-the-middle-ends-before-it"),
    pytest.param(point(9, 4), point(5, 0), [], False, id="nothing-left-in-the-middle"),
    pytest.param(point(7, 4), point(5, 0), [2, 3, 3], False, id="another-entry-in-the-middle"),
    pytest.param(point(5, 4), point(5, 0), [2, 3], False, id="removed-entry-of-a-lower-term"),
]

REFUSED = [
    pytest.param(None, point(5, 0), [2], False, 1, id="no-snapshot"),
    pytest.param(None, point(5, 2), [2], True, 1, id="no-snapshot-and-a-known-base"),
    pytest.param(None, point(5, 2), [], True, 1, id="no-snapshot-and-no-entries"),
    pytest.param(point(3, 1), point(5, 0), [2], False, 4, id="a-gap"),
    pytest.param(point(4, 2), point(5, 2), [2], True, 5, id="a-gap-of-one"),
    pytest.param(point(4, 2), point(5, 0), [], False, 5, id="a-gap-and-no-entries"),
]


@pytest.mark.parametrize(("snapshot", "base", "terms", "known", "expected"), KEPT)
def test_log_is_kept(
    snapshot: SnapshotPoint | None, base: SnapshotPoint, terms: list[int], known: bool, expected: SnapshotPoint
) -> None:
    """An entry equal to the snapshot's last one keeps the log; the base that it begins above is of known term (N1)."""
    assert compare(snapshot, base, terms, known=known) == Reconciled(expected, superseded=False)


@pytest.mark.parametrize(("snapshot", "base", "terms", "known"), SUPERSEDED)
def test_log_is_superseded(snapshot: SnapshotPoint, base: SnapshotPoint, terms: list[int], known: bool) -> None:
    """Another entry at the snapshot's last index, or a log that ends before it, counts for nothing (N1, N8)."""
    assert compare(snapshot, base, terms, known=known) == Reconciled(snapshot, superseded=True)


@pytest.mark.parametrize(("snapshot", "base", "terms", "known", "first"), REFUSED)
def test_log_with_a_gap_is_refused(
    snapshot: SnapshotPoint | None, base: SnapshotPoint, terms: list[int], known: bool, first: int
) -> None:
    """Entries that are missing between snapshot and log are named, and nothing older takes their place (N4)."""
    with pytest.raises(NotCovered, match=f"entries {first} to {base.index} are missing") as caught:
        compare(snapshot, base, terms, known=known)
    assert caught.value.first == first
