"""The row of places answers as a plain list of locations would, however it is cut."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_raft._storage.locations import MAX_SEGMENT_BYTES, Locations, location_of, split_location

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.integers(0, 4)),
        st.tuples(st.sampled_from(["cut before", "cut from"]), st.integers(0, 12), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_row_behaves_like_a_list(steps: list[tuple[str, int, int]]) -> None:
    """Lengths, places and segments are those of a list to which the same was done, through any cuts."""
    row, plain = Locations(), list[int]()
    number = offset = 1
    for what, amount, count in steps:
        if what == "add":
            number += amount
            offset = 1 if amount else offset
            new = range(offset, offset + 16 * count, 16)
            row.offsets_in(number).extend(new)
            plain += [location_of(number, at) for at in new]
            offset += 16 * count
        elif what == "cut before":
            row.cut_before(min(amount, len(plain)))
            del plain[:amount]
        else:
            row.cut_from(max(len(plain) - amount, 0))
            del plain[max(len(plain) - amount, 0) :]
        check(row, plain, numbers=range(number + 2))


def check(row: Locations, plain: list[int], *, numbers: range) -> None:
    assert len(row) == len(plain)
    assert list(row.between(0, len(plain))) == plain
    for first in range(len(plain)):
        assert list(row.between(first, first + 1)) == plain[first : first + 1]
        assert row.segment_at(first) == split_location(plain[first])[0]
    for number in numbers:
        before = [location for location in plain if location < location_of(number, 0)]
        assert row.first_in(number) == len(before)


def test_what_is_appended_to_stays_good_through_cuts() -> None:
    """Whoever reads a segment back holds on to one array, while the log is cut at either end, or begun anew."""
    row = Locations()
    row.offsets_in(1).extend([8, 16])
    offsets = row.offsets_in(2)
    offsets.extend([8, 16, 24])
    row.cut_from(1)
    offsets.append(32)
    assert list(row.between(0, 2)) == [location_of(1, 8), location_of(2, 32)]
    row.cut_before(2)
    offsets.append(40)
    row.cut_from(0)
    offsets.append(48)
    assert list(row.between(0, 1)) == [location_of(2, 48)]


def test_places_never_go_back_to_an_older_segment() -> None:
    """Later entries stand at later places: anything else is a mistake in the caller."""
    row = Locations()
    row.offsets_in(3).append(512)
    with pytest.raises(AssertionError, match="segment 2 after 3"):
        row.offsets_in(2)


def test_a_place_takes_four_bytes() -> None:
    """And what the array reserves for more, in a log of several segments."""
    row, count = Locations(), 1_000_000
    for number in range(1, 11):
        row.offsets_in(number).extend(range(512, 512 + 136 * count // 10, 136))
    assert len(row) == count
    assert sys.getsizeof(row._offsets) < 5 * count


def test_location_holds_segment_and_offset() -> None:
    """A location is taken apart into what it was made of, up to the largest offset that a segment may have."""
    for number, offset in ((1, 0), (7, 512), ((1 << 32) - 1, MAX_SEGMENT_BYTES - 1)):
        assert split_location(location_of(number, offset)) == (number, offset)
    row = Locations()
    row.offsets_in(7).append(MAX_SEGMENT_BYTES - 1)
    assert list(row.between(0, 1)) == [location_of(7, MAX_SEGMENT_BYTES - 1)]
