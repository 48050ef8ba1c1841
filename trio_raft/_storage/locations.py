"""The places of entries on disk, in the order of the log: four bytes an entry.

A place is a segment's number and the offset of a record within it.  Of each entry only the offset is kept, and where
in the log each segment begins, since segments are few: a log of ten million entries takes 40 MB here instead of 80.

Later entries stand at later places.  So the numbers of segments rise along the log, and offsets rise within a segment.
"""

from array import array
from bisect import bisect_left, bisect_right

MAX_SEGMENT_BYTES = 1 << 32
"""Offsets must fit into four bytes."""


class Locations:
    """A growing row of places, which may be cut at both ends.  *Positions* in it begin at 0."""

    __slots__ = ("_numbers", "_offsets", "_starts")

    def __init__(self) -> None:
        self._offsets = array("I")
        self._numbers: list[int] = []
        """The segments, ascending; nothing needs to stand in the last one (yet, or any more)."""
        self._starts: list[int] = []
        """The first position of each."""

    def __len__(self) -> int:
        return len(self._offsets)

    def offsets_in(self, number: int) -> "array[int]":
        """Where to append what stands in this segment, the last one or a later one; always the same array.

        Good until this is asked for another segment, whatever is cut meanwhile.
        """
        if not self._numbers or self._numbers[-1] != number:
            if self._numbers and self._numbers[-1] > number:
                raise AssertionError(f"something is placed in segment {number} after {self._numbers[-1]}")
            if self._starts and self._starts[-1] == len(self._offsets):
                # Nothing is left of the one before.
                del self._starts[-1], self._numbers[-1]
            self._starts.append(len(self._offsets))
            self._numbers.append(number)
        return self._offsets

    def between(self, first: int, behind: int) -> "tuple[array[int], list[tuple[int, int]]]":
        """The offsets at these positions, all of which exist, up to ``behind``; and their segments.

        Of each segment: where among the offsets it begins, and its number.
        """
        run, end = bisect_right(self._starts, first) - 1, bisect_left(self._starts, behind)
        starts = [max(start - first, 0) for start in self._starts[run:end]]
        return self._offsets[first:behind], list(zip(starts, self._numbers[run:end], strict=True))

    def segment_at(self, position: int) -> int:
        """The number of the segment there."""
        return self._numbers[bisect_right(self._starts, position) - 1]

    def first_in(self, number: int) -> int:
        """The position of the first place in this segment, or a later one; the length if there is none."""
        return self._start_of(bisect_left(self._numbers, number))

    def cut_before(self, position: int) -> None:
        """Everything before it goes; it becomes position 0."""
        del self._offsets[:position]
        gone = max(bisect_right(self._starts, position) - 1, 0)
        del self._starts[:gone], self._numbers[:gone]
        self._starts = [max(start - position, 0) for start in self._starts]

    def cut_from(self, position: int) -> None:
        """It and everything behind it goes."""
        del self._offsets[position:]
        if self._starts and self._starts[-1] > position:
            number = self._numbers[-1]
            kept = bisect_left(self._starts, position)
            del self._starts[kept:], self._numbers[kept:]
            self._starts.append(position)
            self._numbers.append(number)

    def _start_of(self, run: int) -> int:
        return self._starts[run] if run < len(self._starts) else len(self._offsets)
