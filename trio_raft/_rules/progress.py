"""One follower as its leader sees it: how far it has come, and what is on the way to it.

Two indexes (paper Figure 2).  ``match_index`` is knowledge: the follower holds this entry durably; it comes
from successes alone and never falls.  ``next_index`` is a guess: where to send from; it may be far off at
first, and is always above ``match_index``.  How boldly the leader acts on the guess is the mode::

                                   a request succeeded
                 .---------.   ------------------------->   .------------.
      start -->  |  PROBE  |                                |  PIPELINE  |
                 '---------'   <-------------------------   '------------'
                                any doubt: a rejection, an
                                error, a wrong reply
          one request in flight, then                 requests leave before earlier ones are
          its reply; a rejection moves                answered; next_index runs ahead of
          next_index back by the hint                 what is known, and never repairs
               |         ^
     the entry |         | installed: match_index is the snapshot's last index at least;
    before it  |         | failed: nothing is known that was not known before
    is not in  v         |
    the log .------------.
            |  SNAPSHOT  |   a snapshot is on its way (paper section 7), and nothing else
            '------------'

PROBE finds the place where the logs agree; PIPELINE fills the wire from there on.  The pipeline repairs
nothing: in doubt it is thrown away together with its connection, and the probe starts again from what is
known.  SNAPSHOT is left for PROBE alone, which asks once whether the entries that follow the snapshot fit.

House rule: a reply counts for the oldest request in flight and for no other, as replies keep the order of
requests on a connection.  Anything else is ``ReplyMismatch``, and the connection is in doubt.
"""

import enum
from collections import deque

import attrs

from trio_raft._records import LogIndex

NEVER = float("-inf")
"""The time of something that has not happened."""


class Mode(enum.Enum):
    """How boldly the leader sends; the diagram is at the top of this module."""

    PROBE = "probe"
    PIPELINE = "pipeline"
    SNAPSHOT = "snapshot"


class ReplyMismatch(Exception):
    """A reply that answers nothing, or not the oldest request in flight: its connection is in doubt (R10)."""


@attrs.frozen
class InFlight:
    """An AppendEntries that was sent and is not answered yet."""

    request_id: int
    prev_log_index: LogIndex
    last_index: LogIndex
    """Of its last entry; ``prev_log_index`` if it brought none."""
    size: int
    """Bytes of its entries."""
    sent_at: float
    """Seconds on the leader's clock."""


@attrs.define(eq=False, kw_only=True)
class Progress:
    """One follower.  Lives as long as a leadership, or the follower's place in it."""

    next_index: LogIndex
    """Where the next request starts: the leader's last index + 1 when the leadership begins."""
    match_index: LogIndex = LogIndex(0)
    """Known to stand durably in the follower's log, with everything before it."""
    mode: Mode = Mode.PROBE
    snapshot_index: LogIndex = attrs.field(init=False, default=LogIndex(0))
    """The last index of the snapshot that is on its way; 0 outside SNAPSHOT."""
    lost_data: bool = False
    """It denied what it had acknowledged: it counts for nothing until it is admitted anew (R6)."""
    last_contact: float = NEVER
    """When the newest answered request was *sent*, in seconds: it still followed this leader then (R11)."""
    last_append_contact: float = NEVER
    """The same, of AppendEntries alone: heartbeats must not hide a log that stands still (R14)."""
    told_commit: LogIndex = LogIndex(0)
    """The commit index that it can know, should every request on this connection arrive (R12)."""
    in_flight: deque[InFlight] = attrs.field(init=False, factory=deque[InFlight])
    """Oldest first."""
    in_flight_bytes: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        if self.next_index <= self.match_index:
            raise AssertionError(f"next_index {self.next_index} must be above match_index {self.match_index}")

    @property
    def counts_for_quorum(self) -> bool:
        """May its acknowledgements commit entries?"""
        return not self.lost_data

    # ------------------------------------------------------------------------------------------ the window

    def window_open(self, *, requests: int, size: int) -> bool:
        """May another request leave?

        There are then at most ``requests`` in flight, and ``size`` bytes beside the newest one.  PROBE always waits
        for its one reply, and SNAPSHOT for the end of the transfer.
        """
        if self.mode is not Mode.PIPELINE:
            return self.mode is Mode.PROBE and not self.in_flight
        return len(self.in_flight) < requests and self.in_flight_bytes < size

    def sent(self, request: InFlight, *, leader_commit: LogIndex) -> None:
        """A request leaves.  In PIPELINE the next one starts behind it, as if it had succeeded already."""
        if self.mode is Mode.PROBE and self.in_flight:
            raise AssertionError(f"a probe is still in flight: {self.in_flight[0]}")
        if self.mode is Mode.SNAPSHOT:
            raise AssertionError(f"the snapshot up to {self.snapshot_index} is still on its way")
        self.in_flight.append(request)
        self.in_flight_bytes += request.size
        if self.mode is Mode.PIPELINE and request.last_index >= self.next_index:
            self.next_index = LogIndex(request.last_index + 1)
        # The follower believes leader_commit only as far as the request itself reaches (R3).
        self.told_commit = max(self.told_commit, min(leader_commit, request.last_index))

    def answered(self, request_id: int) -> InFlight:
        """The request that this reply answers: the oldest in flight, or ReplyMismatch is raised (R10)."""
        if not self.in_flight:
            raise ReplyMismatch(f"a reply to request {request_id}, but nothing is in flight")
        oldest = self.in_flight[0]
        if oldest.request_id != request_id:
            raise ReplyMismatch(f"a reply to request {request_id}, but the oldest in flight is {oldest.request_id}")
        self.in_flight.popleft()
        self.in_flight_bytes -= oldest.size
        return oldest

    # ------------------------------------------------------------------------------------------ transitions

    def become_probe(self) -> None:
        """In doubt: forget what is in flight, and start from what is known.

        Out of a pipeline that is ``match_index + 1``.  A probe keeps its guess, which never ran ahead:
        falling back to ``match_index + 1`` would be the whole log before the first success.  A transfer that
        failed proves nothing either way, so that ``next_index`` stays where a snapshot was needed.
        """
        if self.mode is Mode.PIPELINE:
            self.next_index = LogIndex(self.match_index + 1)
        self.mode = Mode.PROBE
        self.snapshot_index = LogIndex(0)
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.told_commit = LogIndex(0)

    def become_pipeline(self) -> None:
        """A probe has succeeded: from here on send without waiting."""
        if self.mode is Mode.SNAPSHOT or self.in_flight or self.next_index != self.match_index + 1:
            raise AssertionError(
                f"no pipeline without a success before it: {self.mode.value}, match_index {self.match_index}, "
                f"next_index {self.next_index}, {len(self.in_flight)} in flight"
            )
        self.mode = Mode.PIPELINE

    def become_snapshot(self, index: LogIndex) -> None:
        """A probe found that the follower needs what only the snapshot up to ``index`` holds."""
        if self.mode is not Mode.PROBE or self.in_flight or index <= self.match_index:
            raise AssertionError(
                f"no snapshot up to {index} may follow: {self.mode.value}, match_index {self.match_index}, "
                f"{len(self.in_flight)} in flight"
            )
        self.mode = Mode.SNAPSHOT
        self.snapshot_index = index

    def snapshot_installed(self, index: LogIndex) -> None:
        """The follower durably holds everything up to the last index of the snapshot that was on its way."""
        if self.mode is not Mode.SNAPSHOT or index != self.snapshot_index:
            raise AssertionError(
                f"a snapshot up to {index} was not on its way: {self.mode.value}, up to {self.snapshot_index}"
            )
        self.advance(index)
        self.become_probe()
        self.next_index = LogIndex(self.match_index + 1)
        # What a snapshot covers is committed, and its receiver knows that, after a restart too.
        self.told_commit = index

    def advance(self, match_index: LogIndex) -> None:
        """The follower holds everything up to there: never backwards, and ``next_index`` stays ahead (R6)."""
        self.match_index = max(self.match_index, match_index)
        if self.next_index <= self.match_index:
            self.next_index = LogIndex(self.match_index + 1)
