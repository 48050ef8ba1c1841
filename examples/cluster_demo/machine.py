"""The replicated state of the example: keys, values, and where in the log each key was written.

A snapshot of it is JSON, one line for every thousand keys. Taking one costs the event loop no more than the copy of
a dictionary; the lines are made later, in a thread, while further writes are applied.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice

import attrs

import trio_raft

Held = tuple[str, tuple[int, ...]]
"""A value, and the log indices at which its key was applied."""

KEYS_AT_A_TIME = 1000
"""In one line of a snapshot, and in one part of a dump: a few milliseconds of work."""


@attrs.frozen
class Put:
    """The one command: remember a value under a key."""

    key: str
    value: str


class KeyValue(trio_raft.StateMachine[Put, int]):
    """Keys, values, and at which log index each key was applied: a key that was applied twice shows two."""

    def __init__(self) -> None:
        # Tuples, never changed in place: a shallow copy is a picture of one instant.
        self.entries: dict[str, Held] = {}
        self.entries_applied = 0
        """By this process; what came with a snapshot does not count. It is no part of the state."""

    def apply(self, entry: trio_raft.Committed[Put]) -> int:
        put = entry.command
        _, applied_before = self.entries.get(put.key, ("", ()))
        self.entries[put.key] = (put.value, (*applied_before, entry.index))
        self.entries_applied += 1
        return entry.index

    def snapshot(self) -> Iterator[bytes]:
        # The copy is made now, its lines only when they are asked for.
        return (json.dumps(rows).encode() + b"\n" for rows in each_part(self.entries.copy()))

    def restore(self, state: trio_raft.SavedState) -> None:
        self.entries = {
            key: (value, tuple(indices)) for line in each_line(state) for key, value, indices in json.loads(line)
        }


def each_part(entries: dict[str, Held]) -> Iterator[list[tuple[str, str, tuple[int, ...]]]]:
    """The rows ``(key, value, indices)``, some at a time."""
    rows = ((key, *held) for key, held in entries.items())
    while part := list(islice(rows, KEYS_AT_A_TIME)):
        yield part


def each_line(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of what comes in pieces, which may be cut anywhere; each has its end."""
    unfinished = b""
    for piece in pieces:
        *lines, unfinished = (unfinished + piece).split(b"\n")
        yield from lines
