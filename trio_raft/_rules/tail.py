"""The newest entries of a log, as they are kept in memory: a list, and the index of its first slot.

Entries that left memory leave an empty slot behind; once half of the slots are empty they are cut off.  So dropping old
entries costs each append a constant.  Of those in memory only the newest are ``Entry`` objects; the older ones, which
hardly anybody asks for, are *packed*: the slot holds the bare record.  Python's garbage collector passes through every
object that could be part of a cycle, again and again, and bytes are none: half a million entries, which are nothing
unusual, made it stop the loop for 50 to 150 ms at a time::

    slots    empty ....... | packed: bytes ....... | Entry ....... |
             first_slot    | memory_first          |

To free a large part of the tail takes long, and a snapshot that takes the log's place must not hold the event loop for
that: then it is *discarded* as it is, in one step, and whoever caused it lets it go in slices (K1).

House rule: the tail knows places, not terms; what may leave it, and why, the log says (``log.py``).
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import cast

from trio_raft._records import Entry, LogIndex, entries_of

AT_ONCE = 10_000
"""Entries that may be freed in one step."""

NEWEST_UNPACKED = 1024
"""Entries that are kept ready for use: what is on its way to the followers and the state machine, usually."""

PACKED_AT_ONCE = 64
"""More than one, since each piece that is packed costs a step of its own."""

_EMPTY = b""


class Tail:
    """Entries without a gap, the last of which is the log's last."""

    __slots__ = ("_discarded", "_empty", "_newest_unpacked", "_packed", "_slots", "first_slot", "size")

    def __init__(self, following: LogIndex, *, newest_unpacked: int = NEWEST_UNPACKED) -> None:
        """Nothing, but that the first entry will be ``following``."""
        self.first_slot = following
        self.size = 0
        """Bytes of the records in memory."""
        self._newest_unpacked = newest_unpacked
        self._slots: list[Entry | bytes] = []
        self._empty = 0
        self._packed = 0
        """Slots before the first entry that is not packed, the empty ones included."""
        self._discarded: list[list[Entry | bytes]] = []
        """What is in the log no more, but in memory still."""

    @property
    def memory_first(self) -> LogIndex:
        """The first index whose entry is in memory; the one that follows the last if none is."""
        return LogIndex(self.first_slot + self._empty)

    def get(self, first: LogIndex, end: int) -> list[Entry] | None:
        """The entries from ``first`` to before ``end``; None if the first has left memory."""
        start, stop = first - self.first_slot, end - self.first_slot
        if start < self._empty:
            return None
        packed_stop = min(self._packed, stop)
        if start >= packed_stop:
            return cast("list[Entry]", self._slots[start:stop])
        packed = cast("list[bytes]", self._slots[start:packed_stop])
        return entries_of(packed) + cast("list[Entry]", self._slots[packed_stop:stop])

    def records(self, first: LogIndex, end: int) -> list[bytes] | None:
        """The same, but their bare records."""
        start, stop = first - self.first_slot, end - self.first_slot
        if start < self._empty:
            return None
        packed_stop = min(max(self._packed, start), stop)
        entries = cast("list[Entry]", self._slots[packed_stop:stop])
        return cast("list[bytes]", self._slots[start:packed_stop]) + [entry.record for entry in entries]

    # ------------------------------------------------------------------------------------------ at the end

    def append(self, entry: Entry) -> None:
        """One more: the leader's hot path."""
        self._slots.append(entry)
        self.size += len(entry.record)

    def extend(self, entries: Sequence[Entry]) -> None:
        """Some more."""
        self._slots.extend(entries)
        self.size += sum([len(entry.record) for entry in entries])

    def truncate_from(self, index: LogIndex) -> None:
        """Remove the entry there and all behind it."""
        slot = index - self.first_slot
        if slot <= self._empty:
            self._restart(index)
            return
        self.size -= self._size(slot, len(self._slots))
        del self._slots[slot:]
        self._packed = min(self._packed, slot)

    # ------------------------------------------------------------------------------------------ at the beginning

    def pack(self) -> None:
        """Leave bare records in the slots of all but the newest."""
        self._pack_before(len(self._slots) - self._newest_unpacked)

    def release(self, up_to: LogIndex, *, memory_bytes: int) -> None:
        """Let entries ≤ ``up_to`` leave memory, oldest first, until the rest is within ``memory_bytes``."""
        slots, slot = self._slots, self._empty
        end = min(up_to + 1 - self.first_slot, len(slots))
        while slot < end and self.size > memory_bytes:
            if slot >= self._packed:
                self._pack_before(min(slot + PACKED_AT_ONCE, end))
            several = cast("list[bytes]", slots[slot : min(slot + PACKED_AT_ONCE, end, self._packed)])
            sizes = list(accumulate(map(len, several)))
            # Up to the one with which the rest is within the bound, or all of these.
            gone = min(bisect_left(sizes, self.size - memory_bytes) + 1, len(sizes))
            slots[slot : slot + gone] = [_EMPTY] * gone
            self.size -= sizes[gone - 1]
            slot += gone
        if slot * 2 > len(slots):
            del slots[:slot]
            self.first_slot = LogIndex(self.first_slot + slot)
            self._packed -= slot
            slot = 0
        self._empty = slot

    def cut_before(self, index: LogIndex) -> None:
        """Remove everything before it."""
        gone = index - self.first_slot
        if gone <= self._empty:
            return
        if gone - self._empty <= AT_ONCE:
            self.size -= self._size(self._empty, gone)
            del self._slots[:gone]
        else:
            if len(self._slots) < 2 * gone:
                self.size = self._size(gone, len(self._slots))
            else:
                self.size -= self._size(self._empty, gone)
            # What is left is in there too, and stays alive.
            left = self._slots[gone:]
            self._discarded.append(self._slots)
            self._slots = left
        self.first_slot, self._empty = index, 0
        self._packed = max(0, self._packed - gone)

    def discard_all(self, following: LogIndex) -> None:
        """Nothing is left; the next entry will be ``following``."""
        if self._slots:
            self._discarded.append(self._slots)
            self._slots = []
        self._restart(following)

    def let_go(self) -> bool:
        """Free some of what was discarded, up to ``AT_ONCE`` entries.  Is there more?"""
        if self._discarded:
            entries = self._discarded[-1]
            # From behind: nothing has to be moved.
            del entries[-AT_ONCE:]
            if not entries:
                self._discarded.pop()
        return bool(self._discarded)

    # ------------------------------------------------------------------------------------------ slots

    def _size(self, first: int, end: int) -> int:
        """Bytes of the records in these slots."""
        packed_end = max(first, min(self._packed, end))
        packed = cast("list[bytes]", self._slots[first:packed_end])
        entries = cast("list[Entry]", self._slots[packed_end:end])
        return sum(map(len, packed)) + sum([len(entry.record) for entry in entries])

    def _pack_before(self, end: int) -> None:
        first = self._packed
        if first < end:
            entries = cast("list[Entry]", self._slots[first:end])
            self._slots[first:end] = [entry.record for entry in entries]
            self._packed = end

    def _restart(self, following: LogIndex) -> None:
        self._slots.clear()
        self.first_slot, self._empty, self._packed, self.size = following, 0, 0, 0
