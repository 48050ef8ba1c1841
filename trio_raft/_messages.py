"""The whole wire vocabulary on one page.

Every message that one server sends to another is here, with what its fields mean and what must hold of them.
Requests come first, each followed by its reply.  How they become bytes is ``_codec.py``; what they make a server do
is ``_rules/``.

House rule: plain data, no behaviour.  Field names are the wire format: a name that was released is never reused for
another meaning, and a new field has a default.
"""

import enum
from collections.abc import Mapping
from typing import NewType, TypeAlias

import attrs

from trio_raft._records import Entry, EntryKind, LogIndex, Term

__all__ = [
    "AppendEntries",
    "AppendEntriesReply",
    "BootstrapReply",
    "BootstrapStatement",
    "Entry",
    "EntryKind",
    "Heartbeat",
    "HeartbeatReply",
    "Hello",
    "HelloReply",
    "Incarnation",
    "InstallSnapshot",
    "InstallSnapshotReply",
    "LogIndex",
    "Message",
    "Purpose",
    "Rejection",
    "RequestVote",
    "RequestVoteReply",
    "ServerId",
    "SnapshotStatus",
    "Term",
    "Unsupported",
]

ServerId = NewType("ServerId", str)
"""The name of a server: its identity for ever, whatever its address."""

Incarnation = NewType("Incarnation", str)
"""Hexadecimal, drawn when a data directory is created.  The same id with an empty directory is another incarnation."""


class Purpose(enum.Enum):
    """What a connection is for.  Apart, so that nothing large ever stands before a heartbeat."""

    CONTROL = "control"
    """Heartbeats, votes and bootstrap: small, and replies may overtake each other."""

    REPLICATION = "replication"
    """AppendEntries: replies keep the order of their requests."""

    SNAPSHOT = "snapshot"
    """One transfer of one snapshot: replies keep the order of their requests."""


# ---------------------------------------------------------------------------------------------- handshake


@attrs.frozen
class Hello:
    """The first frame on a connection, from the side that dialled."""

    lowest_version: int
    highest_version: int
    cluster_id: str
    bootstrap_digest: str
    """Digest of the sorted member ids that the sender was configured with."""
    bootstrap_done: bool
    """The digests are compared only while one side has not finished bootstrap."""
    sender: ServerId
    receiver: ServerId
    """Whom the sender means to talk to; a server that is not this one refuses."""
    incarnation: Incarnation
    boot_id: str
    """Drawn when the process starts; tells a restarted peer from a silent one."""
    purpose: str
    """A ``Purpose``; a string here so that an unknown one can be refused by name."""
    max_frame_body: int
    """Bytes; the largest frame body that the sender accepts."""
    largest_batch: int
    """Bytes; the largest body that the sender may send."""
    features: int = 0
    """Bits of optional abilities; none is defined yet."""
    kinds: tuple[int, ...] = ()
    """Entry kinds that the sender can apply."""


@attrs.frozen
class HelloReply:
    """The answer, from the side that listened: itself, or a refusal after which it closes."""

    accepted: bool
    refusal: str = ""
    """For a person: what did not fit, with both sides' values."""
    refusal_code: str = ""
    """``version``, ``cluster``, ``receiver``, ``members``, ``incarnation``, ``purpose`` or ``limits``."""
    version: int = 0
    sender: ServerId = ServerId("")
    incarnation: Incarnation = Incarnation("")
    boot_id: str = ""
    bootstrap_done: bool = False
    max_frame_body: int = 0
    features: int = 0
    kinds: tuple[int, ...] = ()
    role: str = ""
    """The sender's ``Role`` at this moment; empty from one that does not say.  Left out of the header when empty.

    A word that the receiver does not know means no more to it than an empty one."""


# ---------------------------------------------------------------------------------------------- elections


@attrs.frozen
class RequestVote:
    """A candidate asks for a vote (paper 5.2), or, with ``pre_vote``, whether it would get one (dissertation 9.6)."""

    term: Term
    """The term to be led.  In a pre-vote the term that the sender *would* enter; the receiver does not adopt it."""
    candidate: ServerId
    last_log_index: LogIndex
    last_log_term: Term
    pre_vote: bool


@attrs.frozen
class RequestVoteReply:
    """The voter's answer, which leaves only once the vote is durable; a pre-vote promises nothing and never waits."""

    term: Term
    """The voter's current term, for the asker to adopt if it is higher; never a vote by itself."""
    granted: bool
    pre_vote: bool
    requested_term: Term
    """The term of the request: replies count for exactly one term and one of the two kinds."""
    reason: str = ""
    """For a person: why the vote was refused."""


# ---------------------------------------------------------------------------------------------- replication


@attrs.frozen
class AppendEntries:
    """Entries that follow ``prev_log_index``, none for a probe (paper 5.3).  The entries travel as the frame's body."""

    term: Term
    leader: ServerId
    prev_log_index: LogIndex
    prev_log_term: Term
    leader_commit: LogIndex
    entries: tuple[Entry, ...] | list[Entry] = attrs.field(factory=tuple)
    """Contiguous from ``prev_log_index + 1``.  Not in the header: they are the body."""


class Rejection(enum.Enum):
    """Why an AppendEntries was not accepted."""

    NONE = ""
    """It was accepted."""

    STALE_TERM = "stale_term"
    """The sender's term is over; ``term`` says which one came after."""

    LOG_MISMATCH = "log_mismatch"
    """There is no entry (prev_log_index, prev_log_term) here; the conflict hint says where to look next."""

    NOT_READY = "not_ready"
    """The server may not acknowledge yet: bootstrap is not done, or its directory was replaced."""


@attrs.frozen
class AppendEntriesReply:
    """The follower's answer, which leaves only once everything that it vouches for is durable."""

    term: Term
    success: bool
    match_index: LogIndex = LogIndex(0)
    """On success: the last entry that this request verified or brought, prev included.  Not the end of the log."""
    rejection: Rejection = Rejection.NONE
    conflict_index: LogIndex = LogIndex(0)
    """On a mismatch: the first index that the follower holds of ``conflict_term``, or the end of its log + 1."""
    conflict_term: Term = Term(0)
    """On a mismatch: the term of the follower's entry at prev_log_index; 0 if its log is shorter."""


@attrs.frozen
class Heartbeat:
    """The leader is there.  Nothing about the log, so that the answer never waits for a disk."""

    term: Term
    leader: ServerId
    round: int
    """The confirmation round that an answer acknowledges (dissertation 6.4); 0 when no read has asked."""


@attrs.frozen
class HeartbeatReply:
    """Heard.  It promises nothing that must survive a crash."""

    term: Term
    round: int
    """The round of the heartbeat that is answered."""
    ready: bool = True
    """False while bootstrap is not done: such an answer is no support for the leader."""
    lease_promise: float = 0.0
    """Seconds in which this voter refuses every vote.  Always 0 until lease reads exist."""


# ---------------------------------------------------------------------------------------------- snapshots


@attrs.frozen
class InstallSnapshot:
    """A piece of the leader's snapshot (paper section 7), or, without data, the question how far the receiver is.

    The bytes are those of the snapshot's file, from its first to its last.  A transfer begins with a question: the
    answer says at which offset to begin.
    """

    term: Term
    leader: ServerId
    transfer: str
    """Drawn by the leader for this transfer; what a receiver still hears of another one is refused."""
    last_included_index: LogIndex
    """The snapshot replaces all entries up to and including this one."""
    last_included_term: Term
    digest: str
    """Of the whole file, hexadecimal, as ``StoredSnapshot.digest``: tells whether two offers are of the same bytes."""
    total: int
    """Bytes of the whole file."""
    offset: int
    """Where ``data`` belongs."""
    data: bytes = b""
    """Not in the header: it is the frame's body.  Without a checksum of its own: those in the file, which the receiver
    checks as it arrives, and ``digest`` cover every byte."""


class SnapshotStatus(enum.Enum):
    """How far the receiver of a snapshot is."""

    WANTED = "wanted"
    """It holds everything before ``offset``; send from there."""

    FINISHING = "finishing"
    """It has everything and checks it, or makes it durable; ask again."""

    INSTALLED = "installed"
    """It durably holds everything up to ``last_included_index``."""

    REFUSED = "refused"
    """Not now; ``reason`` says why."""


@attrs.frozen
class InstallSnapshotReply:
    """The receiver's answer; INSTALLED leaves only once that is durable."""

    term: Term
    status: SnapshotStatus
    offset: int = 0
    """Bytes received, all before it; after a piece was refused for its place this says which one is due."""
    reason: str = ""
    """For a person: why it was refused."""


# ---------------------------------------------------------------------------------------------- bootstrap


@attrs.frozen
class BootstrapStatement:
    """What the sender durably holds of the first configuration: which incarnation each member has."""

    incarnations: Mapping[ServerId, Incarnation]
    """Durable at the sender.  Complete or not; a done member's map wins over every other."""
    done: bool


@attrs.frozen
class BootstrapReply:
    """The receiver's own statement in return."""

    incarnations: Mapping[ServerId, Incarnation]
    done: bool


# ---------------------------------------------------------------------------------------------- the odd one out


@attrs.frozen
class Unsupported:
    """The receiver does not know the request's type; the connection stays open."""

    message_type: int


Message: TypeAlias = (
    Hello
    | HelloReply
    | RequestVote
    | RequestVoteReply
    | AppendEntries
    | AppendEntriesReply
    | Heartbeat
    | HeartbeatReply
    | InstallSnapshot
    | InstallSnapshotReply
    | BootstrapStatement
    | BootstrapReply
    | Unsupported
)
