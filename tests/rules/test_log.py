"""The log against a plain list, and each of its answers at the edges."""

import itertools
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rules.building import PLENTY, compacted, entries, entry, log_of, terms_of
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._rules.log import Log, NotInLog
from trio_raft._rules.tail import AT_ONCE

ONE = 32
"""Bytes of a record without data."""


def index(number: int) -> LogIndex:
    return LogIndex(number)


# ---------------------------------------------------------------------------------------------- questions


def test_empty_log_holds_index_zero_of_term_zero() -> None:
    """An empty log holds exactly what all logs share: nothing, which is index 0 of term 0."""
    log = Log(memory_bytes=PLENTY)
    assert (log.first_index, log.last_index, log.last_term, log.memory_first) == (1, 0, 0, 1)
    assert log.term_at(index(0)) == 0
    assert log.matches(index(0), Term(0))
    assert not log.matches(index(1), Term(0))


@pytest.mark.parametrize(("at", "term"), [(0, 0), (1, 1), (2, 1), (3, 4), (4, 4), (5, 6)])
def test_term_at_each_index(at: int, term: int) -> None:
    """The term of every entry is known from the runs of equal terms."""
    assert log_of(1, 1, 4, 4, 6).term_at(index(at)) == term


@pytest.mark.parametrize("at", [-1, 4, 100])
def test_term_at_outside_is_never_zero(at: int) -> None:
    """Outside the log there is no term, least of all 0 (R9)."""
    with pytest.raises(NotInLog) as caught:
        log_of(1, 1, 2).term_at(index(at))
    assert caught.value.index == at


@pytest.mark.parametrize(
    ("at", "term", "expected"),
    [(0, 0, True), (3, 2, True), (3, 1, False), (2, 2, False), (4, 2, False), (4, 0, False)],
)
def test_matches_index_and_term(at: int, term: int, expected: bool) -> None:
    """An entry is the same if index and term are, and none above the end is."""
    assert log_of(1, 1, 2).matches(index(at), Term(term)) is expected


def test_matches_below_snapshot_without_looking() -> None:
    """What a snapshot covers is committed, so it matches whatever term is named (R4)."""
    log = compacted(log_of(1, 1, 2, 2, 3), up_to=3)
    assert log.matches(index(2), Term(77))
    assert log.matches(index(3), Term(2))
    assert not log.matches(index(3), Term(1))


def test_snapshot_edge() -> None:
    """The snapshot's own last index has a term and no entry; below it the log knows nothing (R9)."""
    log = compacted(log_of(1, 1, 2, 2, 3), up_to=3)
    assert (log.first_index, log.memory_first, terms_of(log)) == (4, 4, [2, 3])
    assert log.term_at(index(3)) == 2
    assert log.first_of_term(index(4)) == 4
    assert log.last_at_or_below_term(Term(1), not_above=index(5)) == 3
    for ask in _asking(index(2)) + _asking(index(3))[1:]:
        with pytest.raises(NotInLog):
            ask(log)


def _asking(at: LogIndex) -> list[Callable[[Log], object]]:
    return [
        lambda log: log.term_at(at),
        lambda log: log.entry(at),
        lambda log: log.first_of_term(at),
        lambda log: log.slice(at, max_entries=1, max_bytes=PLENTY),
        lambda log: log.truncate_from(at),
    ]


@pytest.mark.parametrize("at", [0, 3])
def test_entry_first_of_term_and_truncate_outside(at: int) -> None:
    """There is no entry at 0, and none above the end, to be read, named or removed."""
    log = log_of(1, 2)
    for ask in (log.entry, log.first_of_term, log.truncate_from):
        with pytest.raises(NotInLog):
            ask(index(at))
    assert terms_of(log) == [1, 2]


@pytest.mark.parametrize(("at", "first"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5)])
def test_first_of_term(at: int, first: int) -> None:
    """A run of equal terms is found by any index in it (R8)."""
    assert log_of(1, 1, 4, 4, 6).first_of_term(index(at)) == first


@pytest.mark.parametrize(
    ("term", "not_above", "expected"),
    [(9, 5, 5), (6, 5, 5), (5, 5, 4), (4, 5, 4), (4, 3, 3), (3, 5, 2), (1, 1, 1), (0, 5, 0), (4, 99, 4)],
)
def test_last_at_or_below_term(term: int, not_above: int, expected: int) -> None:
    """The last index of a term not above the given one is found, within the bound."""
    log = log_of(1, 1, 4, 4, 6)
    assert log.last_at_or_below_term(Term(term), not_above=index(not_above)) == expected


@pytest.mark.parametrize(
    ("first", "max_entries", "max_bytes", "not_above", "expected"),
    [
        (1, 9, PLENTY, None, [1, 2, 3, 4]),
        (2, 2, PLENTY, None, [2, 3]),
        (2, 9, 2 * ONE, None, [2, 3]),
        (2, 9, 2 * ONE - 1, None, [2]),
        (2, 9, 1, None, [2]),
        (2, 9, PLENTY, 3, [2, 3]),
        (2, 9, PLENTY, 99, [2, 3, 4]),
        (4, 9, PLENTY, 3, []),
        (5, 9, PLENTY, None, []),
        (9, 9, PLENTY, None, []),
    ],
)
def test_slice_bounds(first: int, max_entries: int, max_bytes: int, not_above: int | None, expected: list[int]) -> None:
    """A slice keeps every bound, but always brings one entry if there is one."""
    found = log_of(1, 1, 1, 1).slice(
        index(first),
        max_entries=max_entries,
        max_bytes=max_bytes,
        not_above=None if not_above is None else index(not_above),
    )
    assert found is not None
    assert [each.index for each in found] == expected


# ---------------------------------------------------------------------------------------------- changes


@pytest.mark.parametrize("bad", [entry(2, 2), entry(4, 2), entry(3, 1), entry(3, 0)])
@pytest.mark.parametrize("method", ["append", "extend"])
def test_append_and_extend_refuse_what_does_not_follow(method: str, bad: Entry) -> None:
    """A gap, an overlap or a falling term never gets into the log (R9)."""
    log = log_of(1, 2)
    with pytest.raises(AssertionError, match="does not follow"):
        getattr(log, method)(bad if method == "append" else [bad])
    assert terms_of(log) == [1, 2]


def test_append_refuses_term_zero_in_an_empty_log() -> None:
    """Term 0 is the term of no entry."""
    log = Log(memory_bytes=PLENTY)
    with pytest.raises(AssertionError, match="does not follow"):
        log.append(entry(1, 0))


@pytest.mark.parametrize("new", [[], [2], [2, 2], [2, 3, 3], [3, 3], [2, 5]])
def test_extend_is_append_of_each(new: list[int]) -> None:
    """Many entries at once leave the same log as one after the other."""
    log, expected = log_of(1, 2), log_of(1, 2, *new)
    log.extend(entries(3, new))
    assert repr(log) == repr(expected)
    assert log.memory_bytes_used == expected.memory_bytes_used
    assert log.entry(log.last_index) == expected.entry(log.last_index)


@pytest.mark.parametrize("method", ["extend", "append"])
def test_extend_same_term_with_a_gap_before_it(method: str) -> None:
    """A batch of the log's own term is refused as well if it does not start at the end."""
    log = log_of(2, 2)
    with pytest.raises(AssertionError, match="does not follow"):
        if method == "extend":
            log.extend(entries(4, [2, 2]))
        else:
            log.append(entry(4, 2))


@pytest.mark.parametrize(("at", "left"), [(1, []), (2, [1]), (3, [1, 1]), (4, [1, 1, 4]), (5, [1, 1, 4, 4])])
def test_truncate_from_each_index(at: int, left: list[int]) -> None:
    """Truncation removes the entry and all above it, and the log goes on from there."""
    log = log_of(1, 1, 4, 4, 6)
    log.truncate_from(index(at))
    assert terms_of(log) == left
    assert log.last_term == (left[-1] if left else 0)
    assert log.memory_bytes_used == ONE * len(left)
    log.append(entry(at, 7))
    assert terms_of(log) == [*left, 7]


def test_truncate_from_below_memory() -> None:
    """Truncation among entries that left memory empties it, and the log goes on from there."""
    log = log_of(1, 1, 4, 4, 6, memory_bytes=ONE)
    log.release(index(5))
    log.truncate_from(index(3))
    assert (log.memory_first, log.memory_bytes_used, terms_of(log)) == (3, 0, [1, 1])
    log.append(entry(3, 7))
    assert log.entry(index(3)) == entry(3, 7)
    assert log.entry(index(2)) is None


def test_release_keeps_what_fits_and_what_must_stay() -> None:
    """Only entries that may leave do, oldest first, and no more than needed; their terms stay known."""
    log = log_of(1, 1, 2, 2, 3, memory_bytes=2 * ONE)
    log.release(index(1))
    assert (log.memory_first, log.memory_bytes_used) == (2, 4 * ONE)
    log.release(index(5))
    assert (log.memory_first, log.memory_bytes_used) == (4, 2 * ONE)
    assert terms_of(log) == [1, 1, 2, 2, 3]
    assert log.entry(index(3)) is None
    assert log.slice(index(3), max_entries=9, max_bytes=PLENTY) is None
    assert log.entry(index(4)) == entry(4, 2)


def test_release_everything() -> None:
    """With no room at all the log keeps its terms and nothing else."""
    log = log_of(1, 2, memory_bytes=0)
    log.release(index(99))
    assert (log.memory_first, log.memory_bytes_used, terms_of(log)) == (3, 0, [1, 2])


@pytest.mark.parametrize("room", [0, 1, 31, 32, 33, 63, 64, 65, 150, 199, 200, 201])
def test_release_of_many_takes_no_more_than_needed(room: int) -> None:
    """However many leave at once, the rest is within the bound, and with one more it would not be."""
    log = Log(memory_bytes=room * ONE, newest_unpacked=10)
    log.extend(entries(1, [1] * 200))
    log.release(index(190))
    kept = max(min(room, 200), 10)
    assert (log.memory_first, log.memory_bytes_used) == (201 - kept, kept * ONE)
    assert [each.index for each in log.slice(index(201 - kept), max_entries=999, max_bytes=PLENTY) or []] == [
        *range(201 - kept, 201)
    ]


def test_records_are_those_of_the_entries() -> None:
    """Bare records come from the packed part, from the newest, and from both; as many as the bytes allow."""
    log = Log(memory_bytes=PLENTY, newest_unpacked=3)
    log.extend(held := entries(1, [1, 1, 1, 2, 2, 2, 4]))
    log.release(index(0))
    bare = [each.record for each in held]
    for first in range(1, 8):
        for last in range(first, 8):
            assert log.records(index(first), index(last), max_bytes=PLENTY) == bare[first - 1 : last]
    for room, count in ((0, 1), (ONE, 1), (3 * ONE - 1, 2), (3 * ONE, 3), (99 * ONE, 6)):
        assert log.records(index(2), index(7), max_bytes=room) == bare[1 : 1 + count]


def test_records_outside_memory_and_outside_the_log() -> None:
    """What left memory is None, and what is not in the log raises (R9)."""
    log = log_of(1, 1, 1, memory_bytes=ONE)
    log.release(index(3))
    assert log.records(index(2), index(3), max_bytes=PLENTY) is None
    assert log.records(index(3), index(3), max_bytes=PLENTY) == [entry(3, 1).record]
    for first, last in ((0, 1), (3, 4), (4, 4)):
        with pytest.raises(NotInLog):
            log.records(index(first), index(last), max_bytes=PLENTY)


def test_end_of_term_at_each_index() -> None:
    """The last index that has the same term; outside the log there is none (R9)."""
    log = log_of(1, 1, 4, 6, 6)
    assert [log.end_of_term_at(index(at)) for at in range(6)] == [0, 2, 2, 3, 5, 5]
    with pytest.raises(NotInLog):
        log.end_of_term_at(index(6))


@pytest.mark.parametrize(
    ("up_to", "base", "left", "used"),
    [
        (0, (0, 0), [1, 1, 4, 4, 6], 5),
        (1, (1, 1), [1, 4, 4, 6], 4),
        (2, (2, 1), [4, 4, 6], 3),
        (3, (3, 4), [4, 6], 2),
        (5, (5, 6), [], 0),
    ],
)
def test_compact_each_index(up_to: int, base: tuple[int, int], left: list[int], used: int) -> None:
    """Compaction takes the entries up to an index, whose term stays known, and the log goes on at its end (R9)."""
    log = log_of(1, 1, 4, 4, 6)
    log.compact(index(up_to))
    assert (log.base_index, log.base_term, terms_of(log)) == (*base, left)
    assert (log.last_index, log.last_term, log.memory_bytes_used) == (5, 6, used * ONE)
    assert log.memory_first == up_to + 1
    log.append(entry(6, 6))
    assert log.slice(index(up_to + 1), max_entries=9, max_bytes=PLENTY) == [*entries(up_to + 1, left), entry(6, 6)]


@pytest.mark.parametrize("up_to", [0, 2, 3])
def test_compact_at_or_below_the_base_does_nothing(up_to: int) -> None:
    """The base never moves down."""
    log = compacted(log_of(1, 1, 4, 4, 6), up_to=3)
    log.compact(index(up_to))
    assert (log.base_index, log.base_term, terms_of(log), log.memory_bytes_used) == (3, 4, [4, 6], 2 * ONE)


def test_compact_above_the_end() -> None:
    """What is not in the log cannot be compacted, and nothing is changed."""
    log = log_of(1, 2)
    with pytest.raises(NotInLog):
        log.compact(index(3))
    assert (log.base_index, terms_of(log)) == (0, [1, 2])


@pytest.mark.parametrize(("up_to", "memory_first", "used"), [(1, 3, 3), (2, 3, 3), (3, 4, 2)])
def test_compact_among_entries_that_left_memory(up_to: int, memory_first: int, used: int) -> None:
    """Compaction below memory frees none, and above it frees what it takes."""
    log = log_of(1, 1, 2, 2, 3, memory_bytes=3 * ONE)
    log.release(index(5))
    log.compact(index(up_to))
    assert (log.memory_first, log.memory_bytes_used) == (memory_first, used * ONE)
    assert log.entry(index(4)) == entry(4, 2)
    log.truncate_from(index(4))
    assert (terms_of(log), log.last_term) == ([1, 1, 2][up_to:], 2)


@pytest.mark.parametrize("at", [1, 3, 4, 9])
def test_reset_replaces_the_whole_log(at: int) -> None:
    """A snapshot that takes the place of the log leaves an empty one that goes on behind it (N1)."""
    log = log_of(1, 1, 4, 4)
    log.reset(index(at), Term(3))
    assert (log.base_index, log.base_term, log.last_index, log.last_term) == (at, 3, at, 3)
    assert (log.memory_first, log.memory_bytes_used, terms_of(log)) == (at + 1, 0, [])
    log.append(entry(at + 1, 3))
    log.append(entry(at + 2, 5))
    assert terms_of(log) == [3, 5]


def test_reset_forgets_what_left_memory() -> None:
    """Entries of the old log that had left memory are none that the new one lacks."""
    log = log_of(1, 1, 1, 1, 1, memory_bytes=4 * ONE)
    log.release(index(5))
    log.reset(index(5), Term(2))
    log.append(entry(6, 2))
    assert (log.memory_first, log.memory_bytes_used, log.entry(index(6))) == (6, ONE, entry(6, 2))


@pytest.mark.parametrize("kept", [0, 1, 6, 15])
def test_what_gives_way_to_a_snapshot_is_freed_in_slices(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves the log in one step leaves memory in slices: the event loop is not held for it (K1)."""
    monkeypatch.setattr("trio_raft._rules.tail.AT_ONCE", 5)
    log = Log(memory_bytes=PLENTY)
    alive: weakref.WeakSet[Entry] = weakref.WeakSet()
    for number in range(1, 21):
        # Of a term of its own, since a set tells entries apart by their bytes.
        log.append(entry(number, number))
        alive.add(log.slice(index(number), max_entries=1, max_bytes=PLENTY)[0])  # type: ignore[index]
    if kept:
        log.compact(index(20 - kept))
    else:
        log.reset(index(20), Term(20))
    assert (log.last_index, log.memory_first, log.memory_bytes_used) == (20, 21 - kept, kept * ONE)
    at_once = 20 - kept <= 5
    left = [kept if at_once else 20]
    assert len(alive) == left[0]
    more = True
    while more:
        more = log.let_go()
        left.append(len(alive))
    assert left[-1] == kept
    assert all(before - after <= 5 for before, after in itertools.pairwise(left))
    assert [each.index for each in log.slice(index(21 - kept), max_entries=99, max_bytes=PLENTY) or []] == list(
        range(21 - kept, 21)
    )


def test_compact_in_small_steps_leaves_nothing_to_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty slots cost nothing to free: they make no large step of a small one, of which nobody lets go (N7)."""
    monkeypatch.setattr("trio_raft._rules.tail.AT_ONCE", 2)
    monkeypatch.setattr("trio_raft._rules.tail.PACKED_AT_ONCE", 1)
    log = log_of(*[1] * 20, memory_bytes=11 * ONE)
    log.release(index(20))
    alive = weakref.WeakSet(log.slice(index(10), max_entries=99, max_bytes=PLENTY) or [])
    assert log.memory_first == 10
    for up_to in (9, 11, 13):
        log.compact(index(up_to))
        assert len(alive) == 20 - up_to


@pytest.mark.parametrize(("at", "term"), [(2, 4), (3, 4), (4, 3), (9, 3), (-1, 4)])
def test_reset_never_below_the_base(at: int, term: int) -> None:
    """No snapshot takes the place of a log whose base is newer, in index or in term."""
    log = compacted(log_of(1, 1, 4, 4, 6), up_to=3)
    with pytest.raises(AssertionError, match="cannot become the base"):
        log.reset(index(at), Term(term))
    assert (log.base_index, terms_of(log)) == (3, [4, 6])


@pytest.mark.parametrize(("at", "term"), [(0, 0), (3, 0), (0, 1)])
def test_reset_refuses_what_is_no_entry(at: int, term: int) -> None:
    """A snapshot of nothing takes the place of nothing (R9)."""
    with pytest.raises(AssertionError, match="cannot become the base"):
        log_of(1).reset(index(at), Term(term))


# ---------------------------------------------------------------------------------------------- recovery


def test_recovered_log_answers_like_the_one_that_was_written() -> None:
    """A log that was recovered with part of its entries in memory knows all terms."""
    log = Log.recovered(
        term_runs=((index(1), Term(1)), (index(3), Term(4)), (index(5), Term(6))),
        last_index=index(5),
        tail=entries(4, [4, 6]),
        memory_bytes=PLENTY,
    )
    assert (terms_of(log), log.last_term, log.memory_first) == ([1, 1, 4, 4, 6], 6, 4)
    assert log.memory_bytes_used == 2 * ONE
    assert log.entry(index(4)) == entry(4, 4)
    assert log.entry(index(3)) is None
    log.append(entry(6, 6))
    assert log.last_index == 6


def test_recovered_empty() -> None:
    """Nothing recovered is an empty log."""
    log = Log.recovered(term_runs=(), last_index=index(0), tail=(), memory_bytes=PLENTY)
    assert repr(log) == repr(Log(memory_bytes=PLENTY))


@pytest.mark.parametrize(
    ("runs", "last_index", "tail", "left"),
    [
        ((), 3, [], []),
        (((4, 2), (6, 5)), 6, entries(5, [2, 5]), [2, 2, 5]),
        (((4, 4),), 5, entries(4, [4, 4]), [4, 4]),
        (((4, 4),), 5, [], [4, 4]),
    ],
)
def test_recovered_above_a_base(
    runs: tuple[tuple[int, int], ...], last_index: int, tail: list[Entry], left: list[int]
) -> None:
    """A log that was cut is recovered as it stood when it was cut."""
    log = Log.recovered(
        base_index=index(3),
        base_term=Term(2),
        term_runs=[(index(first), Term(term)) for first, term in runs],
        last_index=index(last_index),
        tail=tail,
        memory_bytes=PLENTY,
    )
    expected = compacted(log_of(1, 2, 2, *left), up_to=3)
    assert (log.base_index, log.base_term, log.last_term) == (3, 2, expected.last_term)
    assert (terms_of(log), log._run_firsts, log._run_terms) == (left, expected._run_firsts, expected._run_terms)
    assert (log.memory_first, log.memory_bytes_used) == (last_index - len(tail) + 1, len(tail) * ONE)
    log.append(entry(last_index + 1, 7))
    assert terms_of(log) == [*left, 7]


@pytest.mark.parametrize(
    ("base", "runs", "last_index", "tail"),
    [
        ((-1, 0), (), -1, []),
        ((0, 1), (), 0, []),
        ((3, 0), (), 3, []),
        ((3, 2), (), 2, []),
        ((3, 2), (), 4, []),
        ((3, 2), ((4, 2),), 3, []),
        ((3, 2), ((3, 2),), 4, []),
        ((3, 2), ((5, 2),), 5, []),
        ((3, 2), ((4, 1),), 4, []),
        ((3, 2), ((4, 2), (5, 2)), 5, []),
        ((3, 2), ((4, 2),), 4, entries(3, [2, 2])),
        ((3, 2), (), 3, entries(3, [2])),
    ],
)
def test_recovered_refuses_a_base_that_does_not_fit(
    base: tuple[int, int], runs: tuple[tuple[int, int], ...], last_index: int, tail: list[Entry]
) -> None:
    """A store whose entries do not follow the base that it names is not believed."""
    with pytest.raises(AssertionError):
        Log.recovered(
            base_index=index(base[0]),
            base_term=Term(base[1]),
            term_runs=[(index(first), Term(term)) for first, term in runs],
            last_index=index(last_index),
            tail=tail,
            memory_bytes=PLENTY,
        )


@pytest.mark.parametrize(
    ("runs", "last_index", "tail"),
    [
        ((), 1, []),
        (((1, 1),), 0, []),
        (((2, 1),), 3, []),
        (((1, 1), (5, 2)), 4, []),
        (((1, 2), (2, 2)), 4, []),
        (((1, 2), (2, 1)), 4, []),
        (((1, 1), (1, 2)), 4, []),
        (((1, 0),), 4, []),
        (((1, 1),), 4, entries(2, [1, 1])),
        (((1, 1),), 2, entries(2, [2])),
    ],
)
def test_recovered_refuses_parts_that_do_not_fit(
    runs: tuple[tuple[int, int], ...], last_index: int, tail: list[Entry]
) -> None:
    """A store whose runs, end and entries contradict each other is not believed."""
    with pytest.raises(AssertionError):
        Log.recovered(
            term_runs=[(index(first), Term(term)) for first, term in runs],
            last_index=index(last_index),
            tail=tail,
            memory_bytes=PLENTY,
        )


# ---------------------------------------------------------------------------------------------- against a list

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(0, 20)),
        st.tuples(st.just("extend"), st.lists(st.integers(0, 1), max_size=6), st.just(0)),
        st.tuples(st.just("truncate"), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("release"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("compact"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("reset"), st.integers(1, 8), st.integers(0, 2)),
        st.tuples(st.just("let go"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


class ListModel:
    """The log as a plain list of entries, with the index up to which they left memory, and the base.

    A place that a snapshot took over without an entry is filled up, so that the list always begins at index 1.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.entries: list[Entry] = []
        self.memory_bytes = memory_bytes
        self.gone = 0
        self.base = 0

    def used(self) -> int:
        return sum(len(each.record) for each in self.entries[self.gone :])

    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else 0

    def base_term(self) -> int:
        return self.entries[self.base - 1].term if self.base else 0

    def following(self, steps: list[int], size: int = 0) -> list[Entry]:
        """New entries whose terms grow by these steps."""
        term, made = max(self.last_term(), 1), []
        for offset, step in enumerate(steps):
            term += step
            made.append(entry(len(self.entries) + 1 + offset, term, data=bytes(size)))
        return made

    def release(self, up_to: int) -> None:
        while self.used() > self.memory_bytes and self.gone < min(up_to, len(self.entries)):
            self.gone += 1

    def truncate(self, at: int) -> None:
        del self.entries[at - 1 :]
        self.gone = min(self.gone, at - 1)

    def compact(self, up_to: int) -> None:
        self.base = max(self.base, up_to)
        self.gone = max(self.gone, self.base)

    def reset(self, at: int, term: int) -> None:
        self.entries = entries(1, [1] * (at - 1) + [term])
        self.base = self.gone = at


@given(
    steps=STEPS,
    memory_bytes=st.sampled_from([0, 40, 100, 400, PLENTY]),
    unpacked=st.sampled_from([0, 1, 3, 1024]),
    at_once=st.sampled_from([2, AT_ONCE]),
)
def test_log_agrees_with_a_list(
    steps: list[tuple[str, object, int]], memory_bytes: int, unpacked: int, at_once: int
) -> None:
    """After any series of changes the log answers every question as a plain list would, packed or not."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("trio_raft._rules.tail.AT_ONCE", at_once)
        log, model = Log(memory_bytes=memory_bytes, newest_unpacked=unpacked), ListModel(memory_bytes)
        _take_steps(steps, log, model)
    check_against(log, model)


def _take_steps(steps: list[tuple[str, object, int]], log: Log, model: ListModel) -> None:
    for name, value, size in steps:
        if name == "append":
            assert isinstance(value, int)
            new = model.following([value], size)
            log.append(new[0])
            model.entries += new
        elif name == "extend":
            assert isinstance(value, list)
            new = model.following(value)
            log.extend(new)
            model.entries += new
        elif name == "truncate":
            assert isinstance(value, int)
            if model.base < value <= len(model.entries):
                log.truncate_from(index(value))
                model.truncate(value)
        elif name == "let go":
            log.let_go()
        elif name == "compact":
            assert isinstance(value, int)
            if value <= len(model.entries):
                log.compact(index(value))
                model.compact(value)
        elif name == "reset":
            assert isinstance(value, int)
            at, term = model.base + value, max(model.base_term(), 1) + size
            log.reset(index(at), Term(term))
            model.reset(at, term)
        else:
            assert isinstance(value, int)
            log.release(index(value))
            model.release(value)


def check_against(log: Log, model: ListModel) -> None:
    terms = [0, *(each.term for each in model.entries)]
    last = len(model.entries)
    assert (log.last_index, log.last_term) == (last, terms[-1])
    assert (log.memory_first, log.memory_bytes_used) == (model.gone + 1, model.used())
    assert (log.base_index, log.base_term) == (model.base, model.base_term())
    for at in range(model.base):
        assert log.matches(index(at), Term(99))
        with pytest.raises(NotInLog):
            log.term_at(index(at))
    for at in range(model.base, last + 1):
        assert log.term_at(index(at)) == terms[at]
        for term in {terms[at], terms[at] + 1}:
            assert log.matches(index(at), Term(term)) is (term == terms[at])
            expected = max(found for found in range(model.base, at + 1) if terms[found] <= term)
            assert log.last_at_or_below_term(Term(term), not_above=index(at)) == expected
    for at in range(model.base + 1, last + 1):
        assert log.first_of_term(index(at)) == max(terms.index(terms[at]), model.base + 1)
        assert log.entry(index(at)) == (model.entries[at - 1] if at > model.gone else None)
        found = log.slice(index(at), max_entries=3, max_bytes=100)
        assert found == (None if at <= model.gone else bounded(model.entries[at - 1 : at + 2], 100))


def bounded(some: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest beginning within the bound, or the first entry alone."""
    fitting = [n for n in range(len(some) + 1) if sum(len(each.record) for each in some[:n]) <= max_bytes]
    return some[: max(1, *fitting)]
