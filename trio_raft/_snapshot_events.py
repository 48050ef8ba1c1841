"""What a node tells of its snapshots: taken, sent, received, installed, restored.  See ``_events.py``."""

import logging
from typing import ClassVar

import attrs

from trio_raft._messages import LogIndex, ServerId, Term


@attrs.frozen
class SnapshotTaken:
    """A snapshot of this server's state machine is durable."""

    index: LogIndex
    term: Term
    size: int
    """Bytes."""
    seconds: float
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"snapshot {self.index}:{self.term} taken: {self.size} bytes in {self.seconds:.2f} s"


@attrs.frozen
class SnapshotFailed:
    """A snapshot could not be taken, received, sent or, being too old, removed; what was there before stays."""

    reason: str
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"trouble with a snapshot: {self.reason}"


@attrs.frozen
class SnapshotIgnored:
    """Recovery passed over a snapshot's file: half-written, or damaged."""

    path: str
    reason: str
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"ignored {self.path}: {self.reason}"


@attrs.frozen
class SnapshotSending:
    """A snapshot is on its way to a follower: it begins, goes on (about every second), or is there."""

    peer: ServerId
    index: LogIndex
    sent: int
    """Bytes that the follower has."""
    total: int
    """Bytes."""
    bytes_per_second: float
    seconds_left: float | None
    """Estimated; None while nothing is known."""
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        rate = f"{self.bytes_per_second / 1e6:.1f} MB/s"
        return f"snapshot {self.index} to {self.peer}: {self.sent} of {self.total} bytes, {rate}"


@attrs.frozen
class SnapshotReceiving:
    """A snapshot arrives from the leader: it begins, goes on (about every second), or is there."""

    peer: ServerId
    index: LogIndex
    received: int
    """Bytes."""
    total: int
    """Bytes."""
    bytes_per_second: float
    seconds_left: float | None
    """Estimated; None while nothing is known."""
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        rate = f"{self.bytes_per_second / 1e6:.1f} MB/s"
        return f"snapshot {self.index} from {self.peer}: {self.received} of {self.total} bytes, {rate}"


@attrs.frozen
class SnapshotInstalled:
    """A snapshot from the leader replaced the log up to its index."""

    index: LogIndex
    term: Term
    size: int
    """Bytes."""
    kept_log: bool
    """Did the log agree, and keep what follows?"""
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        log = "kept" if self.kept_log else "discarded"
        return f"snapshot {self.index}:{self.term} installed, {self.size} bytes; the log was {log}"


@attrs.frozen
class StateRestored:
    """The state machine was restored from a snapshot."""

    index: LogIndex
    seconds: float
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"state restored from snapshot {self.index} in {self.seconds:.2f} s"


@attrs.frozen
class LogCompacted:
    """The log was cut behind a snapshot; it begins at ``first_index`` now."""

    first_index: LogIndex
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.INFO

    def __str__(self) -> str:
        return f"log begins at {self.first_index}"
