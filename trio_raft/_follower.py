"""One follower during one leadership, as the leader's tasks share it: what the rules know, and what is only shown."""

import attrs
import trio

from trio_raft._messages import ServerId
from trio_raft._rules.progress import Progress
from trio_raft.abc import StoredSnapshot

SMOOTHING = 0.2
"""Weight of the newest round trip in the moving averages of the statistics."""


@attrs.define(eq=False)
class Follower:
    """One other server during a leadership: its progress, and what the statistics say of it."""

    id: ServerId
    progress: Progress
    ready: bool = True
    """Did it answer the last heartbeat as one that may vote and acknowledge?"""
    entries_sent: int = 0
    bytes_sent: int = 0
    failures: int = 0
    """Failed attempts to replicate to it in this leadership."""
    round_trip: float | None = None
    """Seconds; a moving average over heartbeats."""
    offered_snapshot: StoredSnapshot | None = None
    """The snapshot that was last offered to it: an attempt after a failed one goes on with it, if it is still there."""
    append_round_trip: float | None = None
    """Seconds; a moving average over AppendEntries, the follower's disk included."""
    window_lot: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    """Where the sender waits for room in the window."""

    def note_round_trip(self, seconds: float) -> None:
        """A heartbeat was answered."""
        self.round_trip = _smooth(self.round_trip, seconds)

    def note_append_round_trip(self, seconds: float) -> None:
        """An AppendEntries was answered."""
        self.append_round_trip = _smooth(self.append_round_trip, seconds)


def _smooth(average: float | None, newest: float) -> float:
    return newest if average is None else average + SMOOTHING * (newest - average)
