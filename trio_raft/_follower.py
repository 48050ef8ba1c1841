"""One follower during one leadership, as the leader's tasks share it: what the rules know, and what is only shown."""

import attrs
import trio

from trio_raft._codec import EncodedMessage
from trio_raft._messages import AppendEntries, InstallSnapshotReply, ServerId, SnapshotStatus
from trio_raft._records import LogIndex
from trio_raft._rules.progress import NEVER, Progress
from trio_raft._rules.state import State
from trio_raft.abc import StoredSnapshot

PATIENT_REFUSALS = 2
"""Snapshots that a follower may refuse before it has to wait longer for the next: it may be starting, or still have
another one in hand."""

LONGEST_PAUSE = 30.0
"""Seconds between two snapshots that are offered to a follower which refuses them."""

SMOOTHING = 0.2
"""Weight of the newest round trip in the moving averages of the statistics."""


@attrs.define(eq=False)
class Offer:
    """A snapshot that is offered to a follower, over as many transfers as it takes."""

    snapshot: StoredSnapshot
    acknowledged: int = 0
    """Bytes: the most that it ever said it has."""
    finishing_since: float | None = None
    """When it first had all of it; seconds on the leader's clock."""
    refusal: str = ""
    """The reason that it gave last, so that each is told once."""

    def is_progress(self, reply: InstallSnapshotReply, now: float, *, patience: float) -> bool:
        """Does this answer count as one to an AppendEntries (R14)?

        Only if the follower is farther than ever before, or makes durable what it has, and not for ever: one that
        fails at the end and is sent everything anew would hide a log that stands still.
        """
        if reply.status is SnapshotStatus.FINISHING:
            self.finishing_since = now if self.finishing_since is None else self.finishing_since
            return now - self.finishing_since < patience
        farther = reply.status is SnapshotStatus.WANTED and reply.offset > self.acknowledged
        self.acknowledged = max(self.acknowledged, reply.offset)
        return farther or reply.status is SnapshotStatus.INSTALLED


@attrs.define(eq=False)
class Pulse:
    """The beat that all followers of a leadership share.

    Their heartbeats leave in one turn of the loop: on a quiet server waking up costs more than beating.
    """

    due: float = NEVER
    """When the next heartbeats leave; seconds on the leader's clock."""


@attrs.define(eq=False)
class Outgoing:
    """The newest request of a leadership: followers that are equally far are sent the same one, encoded once."""

    place: tuple[LogIndex, LogIndex, LogIndex] | None = None
    """What decides what is in it: the index that it starts from, and the last one and the commit index of the log."""
    request: AppendEntries | None = None
    encoded: EncodedMessage | None = None


@attrs.define(eq=False)
class Follower:
    """One other server during a leadership: its progress, and what the statistics say of it."""

    id: ServerId
    progress: Progress
    pulse: Pulse = attrs.field(factory=Pulse)
    outgoing: Outgoing = attrs.field(factory=Outgoing)
    ready: bool = True
    """Did it answer the last heartbeat as one that may vote and acknowledge?"""
    entries_sent: int = 0
    bytes_sent: int = 0
    failures: int = 0
    """Failed attempts to replicate to it in this leadership."""
    round_trip: float | None = None
    """Seconds; a moving average over heartbeats."""
    offer: Offer | None = None
    """The snapshot that was last offered to it: an attempt after a failed one goes on with it, if it is still there."""
    refusals: int = 0
    """How often it refused a snapshot since it was last heard on a new connection or took one."""
    offer_not_before: float = 0.0
    """When it is offered one again; seconds on the leader's clock."""
    append_round_trip: float | None = None
    """Seconds; a moving average over AppendEntries, the follower's disk included."""
    window_lot: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    """Where the sender waits for room in the window."""

    def note_refusal(self, now: float, *, pause: float) -> None:
        """It refused a snapshot.  Not for the first time: a full disk, say, is not mended by asking every second.

        ``pause``: seconds that the first such pause takes; it doubles with each further refusal.
        """
        self.refusals += 1
        if self.refusals > PATIENT_REFUSALS:
            doubled = pause * 2 ** min(self.refusals - PATIENT_REFUSALS, 30)
            self.offer_not_before = now + min(doubled, LONGEST_PAUSE)

    def forgive(self) -> None:
        """It may be otherwise now: another process, or another connection, or it took what it was offered."""
        self.refusals, self.offer_not_before = 0, 0.0

    def note_round_trip(self, seconds: float) -> None:
        """A heartbeat was answered."""
        self.round_trip = _smooth(self.round_trip, seconds)

    def note_append_round_trip(self, seconds: float) -> None:
        """An AppendEntries was answered."""
        self.append_round_trip = _smooth(self.append_round_trip, seconds)


def begin_following(state: State, *, now: float) -> dict[ServerId, Follower]:
    """The followers of a leadership that begins: each is first sent what comes next (paper 5.3)."""
    following, pulse, outgoing = LogIndex(state.log.last_index + 1), Pulse(), Outgoing()
    return {
        member: Follower(
            member, Progress(next_index=following, last_contact=now, last_append_contact=now), pulse, outgoing
        )
        for member in state.configuration.members
        if member != state.node_id
    }


def _smooth(average: float | None, newest: float) -> float:
    return newest if average is None else average + SMOOTHING * (newest - average)
