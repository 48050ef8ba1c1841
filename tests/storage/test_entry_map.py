"""The map of entries on disk answers as a list would, through truncations too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.support import Image, append, entry, places_in, point
from trio_raft._records import Entry, EntryKind, LogIndex
from trio_raft._storage.entry_map import EntryMap, place
from trio_raft._storage.locations import MAX_SEGMENT_BYTES
from trio_raft.abc import SaveSnapshot

STEP = st.tuples(st.integers(1, 5), st.integers(0, 6), st.lists(st.integers(0, 1), min_size=1, max_size=4))

CUT = st.sampled_from(["keep", "discard", "segments", "begin above"])

Places = dict[int, tuple[int, int]]
"""(segment, offset) by index."""


def put(entries: EntryMap, new: list[Entry], *, segment: int = 1, offset: int = 512) -> int:
    placement, behind = place(new, [each.record for each in new], segment=segment, offset=offset)
    entries.add(placement)
    return behind


@given(st.lists(STEP, max_size=20))
def test_map_behaves_like_a_list(steps: list[tuple[int, int, list[int]]]) -> None:
    """Terms, configurations and places are those of the entries that are left after any truncations (S6)."""
    entries, image, places, offset = EntryMap(), Image(), Places(), 512
    for size, back, rises in steps:
        first = max(1, len(image.entries) + 1 - back)
        term = image.entries[first - 2].term if first > 1 else 1
        new: list[Entry] = []
        for rise in rises:
            term = type(term)(term + rise)
            kind = EntryKind.CONFIGURATION if size == 1 else EntryKind.COMMAND
            new.append(entry(first + len(new), term, b"x" * size, kind))
        places = {index: place for index, place in places.items() if index < first}
        at = offset
        for each in new:
            places[each.index] = (3, at)
            at += len(each.record)
        offset = put(entries, new, segment=3, offset=offset)
        image = image.after([append(*new)])
        assert offset == at
    configurations = [each.index for each in image.entries if each.kind is EntryKind.CONFIGURATION]
    assert entries.last_index == len(image.entries)
    assert entries.last_term == (image.entries[-1].term if image.entries else 0)
    assert entries.term_runs == image.term_runs
    assert entries.configuration_index == (configurations[-1] if configurations else 0)
    assert places_in(entries.locations, 0, len(places)) == [places[each.index] for each in image.entries]


@given(st.lists(st.one_of(STEP, st.tuples(CUT, st.integers(0, 5))), max_size=20))
def test_map_behaves_like_a_list_that_is_cut(steps: list[tuple[int, int, list[int]] | tuple[str, int]]) -> None:
    """The same where snapshots take the log's place and old segments go, and truncations above that (S6, N1)."""
    entries, image, places, number, offset = EntryMap(), Image(), Places(), 1, 512
    for step in steps:
        if len(step) == 2:
            image = cut(entries, image, places, how=step[0], back=step[1])
            continue
        size, back, rises = step
        if size == 5:
            number, offset = number + 1, 512
        first = max(image.base.index + 1, image.last_index + 1 - back)
        new: list[Entry] = []
        term = max(image.term_at(first - 1) or 0, 1)
        for index, rise in enumerate(rises, start=first):
            term += rise
            new.append(entry(index, term, b"x" * size))
            places[index] = (number, offset + sum(len(each.record) for each in new[:-1]))
        offset = put(entries, new, segment=number, offset=offset)
        image = image.after([append(*new)])
    assert (entries.base, entries.last_index) == (image.base, image.last_index)
    assert (entries.last_term, entries.term_runs) == (image.term_at(image.last_index), image.term_runs)
    check_places(entries, image, [places[each.index] for each in image.entries], active=number)
    indexes = range(image.base.index - 1, image.last_index + 3)
    assert [entries.term_at(LogIndex(index)) for index in indexes] == [image.term_at(index) for index in indexes]


def check_places(entries: EntryMap, image: Image, places: list[tuple[int, int]], *, active: int) -> None:
    """The map tells of each segment which entries stand in it, and how far back one has to go for an entry."""
    assert len(entries.locations) == len(places)
    assert places_in(entries.locations, 0, len(places)) == places
    segment_of = {each.index: number for each, (number, _) in zip(image.entries, places, strict=True)}
    for number in range(active + 2):
        indexes = [index for index, segment in segment_of.items() if segment == number]
        assert entries.entries_in(number) == ((indexes[0], indexes[-1]) if indexes else None)
    for index in range(image.last_index + 2):
        above = [segment for other, segment in segment_of.items() if other > index]
        assert entries.needed_segment(LogIndex(index), active=active) == min(above, default=active)


def cut(entries: EntryMap, image: Image, places: Places, *, how: str, back: int) -> Image:
    """Do that to the map; what it does to the list."""
    index = max(image.base.index, image.last_index - back)
    if how == "segments":
        active = max((segment for segment, _ in places.values()), default=1)
        needed = entries.needed_segment(LogIndex(index), active=active)
        kept = [each for each in image.entries if places[each.index][0] >= needed]
        assert all(each.index <= index or each in kept for each in image.entries)
        entries.drop_segments_before(needed)
        base = image.last_index - len(kept)
        return image.above(point(base, image.term_at(base) or 0))
    if how == "begin above":
        new_base = point(index, image.term_at(index) or 0)
        entries.begin_above(new_base)
        return image.above(new_base)
    marker = SaveSnapshot(point(index, image.term_at(index) or 0), keep=True)
    if how == "discard":
        marker = SaveSnapshot(point(index + back, image.term_at(index) or 1), keep=False)
    entries.take_in(marker)
    return image.after([marker])


def test_drop_through_keeps_the_configuration_below() -> None:
    """The last configuration at or below the base stays known when its entry goes."""
    entries = EntryMap()
    kind = EntryKind.CONFIGURATION
    put(entries, [entry(1, 1, kind=kind), entry(2, 1), entry(3, 1, kind=kind), entry(4, 2)])
    entries.drop_through(LogIndex(2))
    assert (entries.configuration_below, entries.configuration_index) == (1, 3)
    entries.drop_through(LogIndex(4))
    assert (entries.base, entries.term_runs, entries.configuration_index) == (point(4, 2), (), 3)


def test_take_in_refuses_to_keep_a_log_without_the_entry() -> None:
    """What follows a snapshot stays only if the log has an equal entry there; else the map stays as it was (N1)."""
    entries = EntryMap()
    put(entries, [entry(1, 1), entry(2, 1)])
    for other in (point(2, 2), point(3, 1)):
        with pytest.raises(ValueError, match="no entry"):
            entries.take_in(SaveSnapshot(other, keep=True))
    assert (entries.base.index, entries.last_index, entries.term_runs) == (0, 2, ((1, 1),))


def test_entries_in_names_what_a_segment_still_holds() -> None:
    """Of a segment's entries those count that no later entry removed, and that were not given up."""
    entries = EntryMap()
    put(entries, [entry(1, 1), entry(2, 1), entry(3, 1)])
    put(entries, [entry(4, 1)], segment=2)
    put(entries, [entry(3, 2)], segment=3)
    assert [entries.entries_in(number) for number in (1, 2, 3, 4)] == [(1, 2), None, (3, 3), None]
    entries.drop_through(LogIndex(1))
    assert [entries.entries_in(number) for number in (1, 3)] == [(2, 2), (3, 3)]


def test_runs_between_covers_exactly_the_entries_asked_for() -> None:
    """The runs of a range begin with the one that holds its first entry."""
    entries = EntryMap()
    put(entries, [entry(1, 1), entry(2, 1), entry(3, 4), entry(4, 7)])
    assert entries.runs_between(LogIndex(2), LogIndex(3)) == [(1, 1), (3, 4)]
    assert entries.runs_between(LogIndex(3), LogIndex(3)) == [(3, 4)]
    assert entries.runs_between(LogIndex(4), LogIndex(4)) == [(4, 7)]


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        ([entry(0, 1)], "does not continue"),
        ([entry(4, 3)], "does not continue"),
        ([entry(3, 1)], "lower term"),
        ([entry(2, 1), entry(3, 1)], "lower term"),
        ([entry(3, 3), entry(4, 2)], "lower term"),
    ],
)
def test_add_refuses_a_gap_and_a_falling_term(new: list[Entry], problem: str) -> None:
    """What no log contains is refused, and the map stays as it was."""
    entries = EntryMap()
    put(entries, [entry(1, 2), entry(2, 2)], segment=3)
    with pytest.raises(ValueError, match=problem):
        put(entries, new, segment=4)
    assert (entries.last_index, entries.term_runs) == (2, ((1, 2),))
    assert (entries.entries_in(3), entries.entries_in(4)) == ((1, 2), None)


def test_add_refuses_an_older_segment() -> None:
    """Later entries stand at later places; where a caller is mistaken in that, the map stays as it was."""
    entries = EntryMap()
    put(entries, [entry(1, 1), entry(2, 1)], segment=3)
    with pytest.raises(AssertionError, match="segment 2 after 3"):
        put(entries, [entry(1, 2)], segment=2)
    assert (entries.last_index, entries.term_runs, entries.entries_in(3)) == (2, ((1, 1),), (1, 2))


def in_three_segments() -> EntryMap:
    """Nine entries, three in each segment, all at the same offsets there."""
    entries = EntryMap()
    for number in (1, 2, 3):
        put(entries, [entry(index, 1) for index in range(3 * number - 2, 3 * number + 1)], segment=number)
    return entries


SIZE = len(entry(1, 1).record)

THREE = [512, 512 + SIZE, 512 + 2 * SIZE]
"""Where the three stand in each segment."""


@pytest.mark.parametrize(
    ("first", "places"),
    [
        (10, [(1, at) for at in THREE] + [(2, at) for at in THREE] + [(3, at) for at in THREE]),
        (9, [(1, at) for at in THREE] + [(2, at) for at in THREE] + [(3, at) for at in THREE[:2]]),
        (7, [(1, at) for at in THREE] + [(2, at) for at in THREE]),
        (6, [(1, at) for at in THREE] + [(2, at) for at in THREE[:2]]),
        (3, [(1, at) for at in THREE[:2]]),
        (1, []),
    ],
)
@pytest.mark.parametrize("segment", [3, 4, 9])
def test_truncation_across_segments(first: int, places: list[tuple[int, int]], segment: int) -> None:
    """What a new entry removes goes from all segments, at their borders and within, and the entry stands in its own."""
    entries = in_three_segments()
    put(entries, [entry(first, 2)], segment=segment, offset=2048)
    assert places_in(entries.locations, 0, first) == [*places, (segment, 2048)]
    assert entries.needed_segment(LogIndex(first - 1), active=segment) == segment
    held = entries.entries_in(segment)
    assert held is not None
    assert held[1] == first


@pytest.mark.parametrize(
    ("through", "held"),
    [
        (0, [(1, 3), (4, 6), (7, 9)]),
        (2, [(3, 3), (4, 6), (7, 9)]),
        (3, [None, (4, 6), (7, 9)]),
        (5, [None, (6, 6), (7, 9)]),
        (6, [None, None, (7, 9)]),
        (8, [None, None, (9, 9)]),
        (9, [None, None, None]),
    ],
)
def test_drop_through_at_borders_and_within_segments(through: int, held: list[tuple[int, int] | None]) -> None:
    """What is given up goes from the segments that hold it, and what comes next stands where it is put."""
    entries = in_three_segments()
    entries.drop_through(LogIndex(through))
    assert [entries.entries_in(number) for number in (1, 2, 3)] == held
    assert entries.needed_segment(LogIndex(0), active=3) == (3 if through == 9 else through // 3 + 1)
    put(entries, [entry(10, 1)], segment=3, offset=4096)
    assert entries.entries_in(3) == (min(max(through + 1, 7), 10), 10)
    assert places_in(entries.locations, 9 - through, 10 - through) == [(3, 4096)]


def test_needed_segment_and_what_stands_before_it() -> None:
    """A segment is needed for its last entry as well; giving up those before it leaves all that it holds."""
    entries = in_three_segments()
    needed = [entries.needed_segment(LogIndex(index), active=4) for index in range(11)]
    assert needed == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    entries.drop_segments_before(1)
    assert entries.base == point(0, 0)
    entries.drop_segments_before(3)
    assert (entries.base, entries.entries_in(2), entries.entries_in(3)) == (point(6, 1), None, (7, 9))
    entries.drop_segments_before(4)
    assert (entries.base, entries.last_index, entries.entries_in(3)) == (point(9, 1), 9, None)


@pytest.mark.parametrize("segment", [3, 4])
def test_begin_at_leaves_nothing_but_the_base(segment: int) -> None:
    """No segment holds anything then; the log goes on above the base, in the last segment or a later one."""
    entries = in_three_segments()
    entries.begin_at(point(20, 5), configuration=LogIndex(7))
    assert (entries.base, entries.last_index, entries.last_term) == (point(20, 5), 20, 5)
    assert (entries.term_runs, entries.configuration_index) == ((), 7)
    assert [entries.entries_in(number) for number in (1, 2, 3)] == [None, None, None]
    assert entries.needed_segment(LogIndex(0), active=8) == 8
    put(entries, [entry(21, 5)], segment=segment, offset=1024)
    assert (entries.entries_in(segment), entries.needed_segment(LogIndex(0), active=8)) == ((21, 21), segment)
    assert places_in(entries.locations, 0, 1) == [(segment, 1024)]


def test_place_reaches_to_the_end_of_the_largest_segment() -> None:
    """An entry may end where the largest segment ends."""
    entries = EntryMap()
    start = MAX_SEGMENT_BYTES - 2 * SIZE
    assert put(entries, [entry(1, 1), entry(2, 1)], offset=start) == MAX_SEGMENT_BYTES
    put(entries, [entry(3, 1)], segment=2)
    assert places_in(entries.locations, 0, 3) == [(1, start), (1, start + SIZE), (2, 512)]
