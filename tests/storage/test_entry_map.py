"""The map of entries on disk answers as a list would, through truncations too."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.support import Image, append, entry
from trio_raft._records import Entry, EntryKind, LogIndex
from trio_raft._storage.entry_map import EntryMap, location_of, place, split_location

STEP = st.tuples(st.integers(1, 5), st.integers(0, 6), st.lists(st.integers(0, 1), min_size=1, max_size=4))


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
    assert entries.locations == array("Q", [places[index + 1] for index in range(len(places))])


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


def test_location_holds_segment_and_offset() -> None:
    """A location is taken apart into what it was made of, within eight bytes."""
    for number, offset in ((1, 0), (7, 512), ((1 << 32) - 1, (1 << 32) - 1)):
        location = location_of(number, offset)
        assert split_location(location) == (number, offset)
        assert array("Q", [location]).itemsize == 8
