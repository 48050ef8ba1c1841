"""The row of places answers as a plain list of (segment, offset) would, however it is cut."""

import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.support import places_in
from trio_raft._storage.locations import MAX_SEGMENT_BYTES, Locations

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
    row, plain = Locations(), list[tuple[int, int]]()
    number = offset = 1
    for what, amount, count in steps:
        if what == "add":
            number += amount
            offset = 1 if amount else offset
            new = range(offset, offset + 16 * count, 16)
            row.offsets_in(number).extend(new)
            plain += [(number, at) for at in new]
            offset += 16 * count
        elif what == "cut before":
            row.cut_before(min(amount, len(plain)))
            del plain[:amount]
        else:
            row.cut_from(max(len(plain) - amount, 0))
            del plain[max(len(plain) - amount, 0) :]
        check(row, plain, numbers=range(number + 2))


def check(row: Locations, plain: list[tuple[int, int]], *, numbers: range) -> None:
    assert len(row) == len(plain)
    for first in range(len(plain) + 1):
        assert places_in(row, first, len(plain)) == plain[first:]
        assert places_in(row, 0, first) == plain[:first]
        assert places_in(row, first // 2, first) == plain[first // 2 : first]
    assert [row.segment_at(position) for position in range(len(plain))] == [number for number, _ in plain]
    for number in numbers:
        assert row.first_in(number) == sum(segment < number for segment, _ in plain)
    # What is not needed goes: all but those in which something stands, and the last.
    assert len(row._starts) <= len({number for number, _ in plain}) + 1


def test_what_is_appended_to_stays_good_through_cuts() -> None:
    """Whoever reads a segment back holds on to one array, while the log is cut at either end, or begun anew."""
    row = Locations()
    row.offsets_in(1).extend([8, 16])
    offsets = row.offsets_in(2)
    offsets.extend([8, 16, 24])
    row.cut_from(1)
    offsets.append(32)
    assert places_in(row, 0, 2) == [(1, 8), (2, 32)]
    row.cut_before(2)
    offsets.append(40)
    row.cut_from(0)
    offsets.append(48)
    assert places_in(row, 0, 1) == [(2, 48)]


def test_places_never_go_back_to_an_older_segment() -> None:
    """Later entries stand at later places: anything else is a mistake in the caller."""
    row = Locations()
    row.offsets_in(3).append(512)
    with pytest.raises(AssertionError, match="segment 2 after 3"):
        row.offsets_in(2)
    assert places_in(row, 0, 1) == [(3, 512)]


def test_a_place_takes_four_bytes() -> None:
    """And what the array reserves for more, in a log of several segments."""
    row, count = Locations(), 1_000_000
    for number in range(1, 11):
        row.offsets_in(number).extend(range(512, 512 + 136 * count // 10, 136))
    assert len(row) == count
    assert sys.getsizeof(row._offsets) < 5 * count


def test_offsets_reach_to_the_end_of_the_largest_segment() -> None:
    """Whatever stands in a segment of the largest size has a place, also beside the first place of the next one."""
    row = Locations()
    row.offsets_in(7).extend([0, MAX_SEGMENT_BYTES - 1])
    row.offsets_in(8).append(0)
    assert row.between(0, 3) == (array("I", [0, MAX_SEGMENT_BYTES - 1, 0]), [(0, 7), (2, 8)])
    assert row.between(1, 2) == (array("I", [MAX_SEGMENT_BYTES - 1]), [(0, 7)])
    assert (row.first_in(7), row.first_in(8), row.first_in(9)) == (0, 2, 3)
