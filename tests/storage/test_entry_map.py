"""The map of entries on disk answers as a list would, through truncations too."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.support import Image, append, entry, point
from trio_raft._records import Entry, EntryKind, LogIndex
from trio_raft._storage.entry_map import EntryMap, place
from trio_raft._storage.locations import location_of, split_location
from trio_raft.abc import SaveSnapshot

STEP = st.tuples(st.integers(1, 5), st.integers(0, 6), st.lists(st.integers(0, 1), min_size=1, max_size=4))

CUT = st.sampled_from(["keep", "discard", "segments"])


def put(entries: EntryMap, new: list[Entry], *, location: int) -> int:
    placement, behind = place(new, [each.record for each in new], location=location)
    entries.add(placement)
    return behind


@given(st.lists(STEP, max_size=20))
def test_map_behaves_like_a_list(steps: list[tuple[int, int, list[int]]]) -> None:
    """Terms, configurations and places are those of the entries that are left after any truncations (S6)."""
    entries, image, places = EntryMap(), Image(), dict[int, int]()
    location = location_of(3, 512)
    for size, back, rises in steps:
        first = max(1, len(image.entries) + 1 - back)
        term = image.entries[first - 2].term if first > 1 else 1
        new: list[Entry] = []
        for rise in rises:
            term = type(term)(term + rise)
            kind = EntryKind.CONFIGURATION if size == 1 else EntryKind.COMMAND
            new.append(entry(first + len(new), term, b"x" * size, kind))
        places = {index: place for index, place in places.items() if index < first}
        at = location
        for each in new:
            places[each.index] = at
            at += len(each.record)
        location = put(entries, new, location=location)
        image = image.after([append(*new)])
        assert location == at
    configurations = [each.index for each in image.entries if each.kind is EntryKind.CONFIGURATION]
    assert entries.last_index == len(image.entries)
    assert entries.last_term == (image.entries[-1].term if image.entries else 0)
    assert entries.term_runs == image.term_runs
    assert entries.configuration_index == (configurations[-1] if configurations else 0)
    assert entries.locations.between(0, len(entries.locations)) == array(
        "Q", [places[index + 1] for index in range(len(places))]
    )


@given(st.lists(st.one_of(STEP, st.tuples(CUT, st.integers(0, 5))), max_size=20))
def test_map_behaves_like_a_list_that_is_cut(steps: list[tuple[int, int, list[int]] | tuple[str, int]]) -> None:
    """The same where snapshots take the log's place and old segments go, and truncations above that (S6, N1)."""
    entries, image, places = EntryMap(), Image(), dict[int, int]()
    location = location_of(1, 512)
    for step in steps:
        if len(step) == 2:
            image = cut(entries, image, places, how=step[0], back=step[1])
            continue
        size, back, rises = step
        if size == 5:
            location = location_of(split_location(location)[0] + 1, 512)
        first = max(image.base.index + 1, image.last_index + 1 - back)
        new: list[Entry] = []
        term = max(image.term_at(first - 1) or 0, 1)
        for index, rise in enumerate(rises, start=first):
            term += rise
            new.append(entry(index, term, b"x" * size))
            places[index] = location + sum(len(each.record) for each in new[:-1])
        location = put(entries, new, location=location)
        image = image.after([append(*new)])
    assert (entries.base, entries.last_index) == (image.base, image.last_index)
    assert (entries.last_term, entries.term_runs) == (image.term_at(image.last_index), image.term_runs)
    assert entries.locations.between(0, len(entries.locations)) == array(
        "Q", [places[each.index] for each in image.entries]
    )
    indexes = range(image.base.index - 1, image.last_index + 3)
    assert [entries.term_at(LogIndex(index)) for index in indexes] == [image.term_at(index) for index in indexes]


def cut(entries: EntryMap, image: Image, places: dict[int, int], *, how: str, back: int) -> Image:
    """Do that to the map; what it does to the list."""
    index = max(image.base.index, image.last_index - back)
    if how == "segments":
        active = max((split_location(place)[0] for place in places.values()), default=1)
        needed = entries.needed_segment(LogIndex(index), active=active)
        kept = [each for each in image.entries if split_location(places[each.index])[0] >= needed]
        assert all(each.index <= index or each in kept for each in image.entries)
        entries.drop_segments_before(needed)
        base = image.last_index - len(kept)
        return image.above(point(base, image.term_at(base) or 0))
    marker = SaveSnapshot(point(index, image.term_at(index) or 0), keep=True)
    if how == "discard":
        marker = SaveSnapshot(point(index + back, image.term_at(index) or 1), keep=False)
    entries.take_in(marker)
    return image.after([marker])


def test_drop_through_keeps_the_configuration_below() -> None:
    """The last configuration at or below the base stays known when its entry goes."""
    entries = EntryMap()
    kind = EntryKind.CONFIGURATION
    put(entries, [entry(1, 1, kind=kind), entry(2, 1), entry(3, 1, kind=kind), entry(4, 2)], location=0)
    entries.drop_through(LogIndex(2))
    assert (entries.configuration_below, entries.configuration_index) == (1, 3)
    entries.drop_through(LogIndex(4))
    assert (entries.base, entries.term_runs, entries.configuration_index) == (point(4, 2), (), 3)


def test_take_in_refuses_to_keep_a_log_without_the_entry() -> None:
    """What follows a snapshot stays only if the log has an equal entry there; else the map stays as it was (N1)."""
    entries = EntryMap()
    put(entries, [entry(1, 1), entry(2, 1)], location=0)
    for other in (point(2, 2), point(3, 1)):
        with pytest.raises(ValueError, match="no entry"):
            entries.take_in(SaveSnapshot(other, keep=True))
    assert (entries.base.index, entries.last_index, entries.term_runs) == (0, 2, ((1, 1),))


def test_entries_in_names_what_a_segment_still_holds() -> None:
    """Of a segment's entries those count that no later entry removed, and that were not given up."""
    entries = EntryMap()
    put(entries, [entry(1, 1), entry(2, 1), entry(3, 1)], location=location_of(1, 512))
    put(entries, [entry(4, 1)], location=location_of(2, 512))
    put(entries, [entry(3, 2)], location=location_of(3, 512))
    assert [entries.entries_in(number) for number in (1, 2, 3, 4)] == [(1, 2), None, (3, 3), None]
    entries.drop_through(LogIndex(1))
    assert [entries.entries_in(number) for number in (1, 3)] == [(2, 2), (3, 3)]


def test_runs_between_covers_exactly_the_entries_asked_for() -> None:
    """The runs of a range begin with the one that holds its first entry."""
    entries = EntryMap()
    put(entries, [entry(1, 1), entry(2, 1), entry(3, 4), entry(4, 7)], location=0)
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
    put(entries, [entry(1, 2), entry(2, 2)], location=0)
    with pytest.raises(ValueError, match=problem):
        put(entries, new, location=999)
    assert (entries.last_index, entries.term_runs) == (2, ((1, 2),))
