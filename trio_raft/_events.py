"""What a node tells whoever watches it: typed events, one log line each.

Every event is a transition, not a repetition: one when a peer is lost, one when it returns.  Those about snapshots are
in ``_snapshot_events.py``; ``_event_hub.py`` brings all of them to their readers.

House rule: the text of an event is its log line.
"""

import logging
from typing import ClassVar, TypeAlias

import attrs

from trio_raft._errors import NO_INCARNATION, RaftError
from trio_raft._messages import Incarnation, LogIndex, ServerId, Term
from trio_raft._snapshot_events import (
    LogCompacted,
    SnapshotFailed,
    SnapshotIgnored,
    SnapshotInstalled,
    SnapshotReceiving,
    SnapshotSending,
    SnapshotTaken,
    StateRestored,
)


@attrs.frozen
class RoleChanged:
    """This server's role or term changed."""

    role: str
    term: Term
    reason: str
    logger: ClassVar[str] = "trio_raft.election"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"{self.role} in term {self.term}: {self.reason}"


@attrs.frozen
class LeaderChanged:
    """This server learned who leads its term, or that it no longer knows."""

    leader: ServerId | None
    term: Term
    logger: ClassVar[str] = "trio_raft.election"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"leader of term {self.term} is {self.leader or 'not known'}"


@attrs.frozen
class LeaderGone:
    """This server's connections with its leader ended, and the leader's process is gone, or leads no more."""

    leader: ServerId
    term: Term
    reason: str
    logger: ClassVar[str] = "trio_raft.election"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"leader {self.leader} of term {self.term} is gone: {self.reason}"


@attrs.frozen
class ContactLost:
    """The leader's heartbeats to a follower fail."""

    peer: ServerId
    problem: str
    logger: ClassVar[str] = "trio_raft.replication"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"lost contact with {self.peer}: {self.problem}"


@attrs.frozen
class ContactResumed:
    """A follower answers heartbeats again; ``silence`` is in seconds."""

    peer: ServerId
    silence: float
    logger: ClassVar[str] = "trio_raft.replication"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"{self.peer} answers again after {self.silence:.2f} s"


@attrs.frozen
class ReplicationRestarted:
    """An unexpected error ended a task of one follower's replication; it was started again."""

    peer: ServerId
    task: str
    problem: str
    logger: ClassVar[str] = "trio_raft.replication"
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        return f"{self.task} for {self.peer} failed and was started again: {self.problem}"


@attrs.frozen
class PeerLostData:
    """A follower no longer holds entries that it had acknowledged; it is not counted any more."""

    peer: ServerId
    match_index: LogIndex
    logger: ClassVar[str] = "trio_raft.replication"
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        return (
            f"{self.peer} lost entries that it had acknowledged up to {self.match_index}; its acknowledgements no "
            f"longer count. If an older copy of its directory was put in place, put the newest one back"
        )


@attrs.frozen
class PeerRefused:
    """A connection was refused in the handshake, by us or by the peer."""

    peer: str
    code: str
    reason: str
    logger: ClassVar[str] = "trio_raft.transport"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"connection with {self.peer} refused ({self.code}): {self.reason}"


@attrs.frozen
class BadInput:
    """A connection was closed because of what came over it."""

    peer: str
    reason: str
    logger: ClassVar[str] = "trio_raft.transport"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"closed the connection with {self.peer}: {self.reason}"


@attrs.frozen
class BootstrapWaiting:
    """First start: these members have not yet confirmed the first configuration."""

    missing: tuple[ServerId, ...]
    problem: str
    logger: ClassVar[str] = "trio_raft.bootstrap"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        names = ", ".join(self.missing)
        return f"first start waits for {names}" + (f": {self.problem}" if self.problem else "")


@attrs.frozen
class BootstrapDone:
    """The first configuration is settled for good."""

    members: tuple[ServerId, ...]
    logger: ClassVar[str] = "trio_raft.bootstrap"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"first configuration settled: {', '.join(self.members)}"


@attrs.frozen
class DirectoryReplaced:
    """This server's directory is not the one that the cluster knows; it neither votes nor acknowledges."""

    known: Incarnation
    """"none" if the cluster does not know the id at all."""
    found: Incarnation
    logger: ClassVar[str] = "trio_raft.bootstrap"
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        if self.known == NO_INCARNATION:
            return (
                "the cluster settled its members without this id: it neither votes nor acknowledges. Members cannot be "
                "added yet; begin anew, without the data, in empty directories on all members"
            )
        return (
            f"the cluster knows this id with incarnation {self.known}, this directory is {self.found}: it neither "
            f"votes nor acknowledges. Put the original directory back; no older copy will do"
        )


@attrs.frozen
class MembersDiffer:
    """The members that a data directory holds are not those that ``Config.members`` names; the stored ones count."""

    stored: tuple[ServerId, ...]
    """Sorted; in force."""
    configured: tuple[ServerId, ...]
    """Sorted; as the settings name them."""
    logger: ClassVar[str] = "trio_raft.bootstrap"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        text = (
            f"this data directory belongs to a cluster of {', '.join(self.stored)}, but the setting members names "
            f"{', '.join(self.configured)}: the stored ones count, the setting only says where to find them"
        )
        if strangers := ", ".join(sorted(set(self.configured) - set(self.stored))):
            text += (
                f". {strangers} cannot join, since membership cannot be changed yet: take {strangers} off the list, or "
                f"begin anew, without the data, in empty directories on all members"
            )
        if unnamed := ", ".join(sorted(set(self.stored) - set(self.configured))):
            text += (
                f". No address is known of {unnamed}, without whose votes a majority is harder to reach: put {unnamed} "
                f"back on the list. If no majority is left, python -m trio_raft recover makes a new cluster"
            )
        return text


@attrs.frozen
class TornTailCut:
    """Recovery cut a write that a crash had left half done; nothing acknowledged was in it."""

    path: str
    cut_bytes: int
    logger: ClassVar[str] = "trio_raft.storage"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"cut {self.cut_bytes} bytes of an unfinished write from {self.path}"


@attrs.frozen
class DiskStalled:
    """The disk has not done a write or a read of the log for ``seconds``."""

    seconds: float
    logger: ClassVar[str] = "trio_raft.storage"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"the disk of the log has not answered for {self.seconds:.2f} s"


@attrs.frozen
class DiskRecovered:
    """What was stalled returned after ``seconds``."""

    seconds: float
    logger: ClassVar[str] = "trio_raft.storage"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"the disk of the log answers again after {self.seconds:.2f} s"


@attrs.frozen
class DiskFull:
    """No room for log space: proposals are refused until there is."""

    problem: str
    logger: ClassVar[str] = "trio_raft.storage"
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        return self.problem


@attrs.frozen
class DiskHasRoom:
    """Log space could be prepared again."""

    logger: ClassVar[str] = "trio_raft.storage"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return "there is room for the log again; proposals are accepted"


@attrs.frozen
class LoopBlocked:
    """One call kept the event loop from everything else for ``seconds``, heartbeats included.

    From ``loop_blocked_threshold`` on.  What comes near ``heartbeat_timeout`` costs a leader its place.  Let the call
    do less at once, or raise the timeouts.  ``call`` names it: an ``apply``, a ``snapshot``, a read's function, or a
    log handler.
    """

    call: str
    seconds: float
    logger: ClassVar[str] = "trio_raft.node"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"{self.call} blocked the event loop for {self.seconds:.3f} s"


@attrs.frozen
class NodeStopped:
    """The node ended because of an error."""

    error: RaftError
    logger: ClassVar[str] = "trio_raft.node"
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        return str(self.error)


Event: TypeAlias = (
    RoleChanged
    | LeaderChanged
    | LeaderGone
    | ContactLost
    | ContactResumed
    | ReplicationRestarted
    | PeerLostData
    | PeerRefused
    | BadInput
    | BootstrapWaiting
    | BootstrapDone
    | DirectoryReplaced
    | MembersDiffer
    | TornTailCut
    | DiskStalled
    | DiskRecovered
    | DiskFull
    | DiskHasRoom
    | SnapshotTaken
    | SnapshotFailed
    | SnapshotIgnored
    | SnapshotSending
    | SnapshotReceiving
    | SnapshotInstalled
    | StateRestored
    | LogCompacted
    | LoopBlocked
    | NodeStopped
)
