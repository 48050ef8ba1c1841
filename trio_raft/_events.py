"""What a node tells whoever watches it: typed events, one log line each.

Every event is a transition, not a repetition: one when a peer is lost, one when it returns.  ``EventHub.publish``
never waits and never fails: each reader has a bounded buffer that drops its oldest event and counts it.

House rule: the text of an event is its log line; no other module writes to a logger.
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeAlias

import attrs
import trio

from trio_raft._errors import RaftError
from trio_raft._messages import Incarnation, LogIndex, ServerId, Term


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
    found: Incarnation
    logger: ClassVar[str] = "trio_raft.bootstrap"
    level: ClassVar[int] = logging.ERROR

    def __str__(self) -> str:
        return (
            f"the cluster knows this id with incarnation {self.known}, this directory is {self.found}: it neither "
            f"votes nor acknowledges. Put the original directory back; no older copy will do"
        )


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
    """A snapshot could not be taken or received; what was there before stays."""

    reason: str
    logger: ClassVar[str] = "trio_raft.snapshots"
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return f"no snapshot: {self.reason}"


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


@attrs.frozen
class LoopBlocked:
    """One call kept the event loop from everything else for ``seconds``, heartbeats included."""

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
    | ContactLost
    | ContactResumed
    | ReplicationRestarted
    | PeerLostData
    | PeerRefused
    | BadInput
    | BootstrapWaiting
    | BootstrapDone
    | DirectoryReplaced
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


class EventReceiver:
    """One reader's view: iterate with ``async for``; ends when the node is closed."""

    def __init__(self, capacity: int) -> None:
        self._buffer: deque[Event] = deque(maxlen=capacity)
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False
        self.dropped = 0
        """Events that were lost because this reader was slow."""

    def __aiter__(self) -> "EventReceiver":
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self) -> Event:
        """The next event.  Raises ``trio.EndOfChannel`` once the node is closed and all were read.

        Cancelled: no event is lost.
        """
        await trio.lowlevel.checkpoint()
        while not self._buffer:
            if self._closed:
                raise trio.EndOfChannel
            await self._lot.park()
        return self._buffer.popleft()

    def receive_nowait(self) -> Event:
        """The next event, or ``trio.WouldBlock``, or ``trio.EndOfChannel`` as ``receive``."""
        if self._buffer:
            return self._buffer.popleft()
        raise trio.EndOfChannel if self._closed else trio.WouldBlock

    def _put(self, event: Event) -> None:
        if len(self._buffer) == self._buffer.maxlen:
            self.dropped += 1
        self._buffer.append(event)
        self._lot.unpark_all()

    def _close(self) -> None:
        self._closed = True
        self._lot.unpark_all()


REMEMBERED_REFUSALS = 64
"""Refusals that are remembered; strangers may invent any number of names."""


class EventHub:
    """Where a node's parts publish, and where readers subscribe."""

    def __init__(self, node_id: ServerId, *, stopwatch: Callable[[], float], blocked_threshold: float) -> None:
        self._node_id = node_id
        self._stopwatch = stopwatch
        self._blocked_threshold = blocked_threshold
        # A list, not a set: the order in which readers wake must not depend on addresses.
        self._receivers: list[EventReceiver] = []
        self._refusals: dict[PeerRefused, None] = {}
        self._closed = False

    def publish_refusal(self, refusal: PeerRefused) -> None:
        """Report a refused connection once, not at every attempt to connect.

        Each direction is remembered by itself: the two sides of one disagreement word it differently, and take turns.
        """
        if refusal not in self._refusals:
            if len(self._refusals) >= REMEMBERED_REFUSALS:
                self._refusals.clear()
            self._refusals[refusal] = None
            self.publish(refusal)

    def publish(self, event: Event) -> None:
        """Log the event and hand it to every reader.  Never waits; a log handler that blocks is itself reported."""
        started = self._stopwatch()
        try:
            logging.getLogger(event.logger).log(event.level, "%s: %s", self._node_id, event)
        except Exception:
            # A handler's own bug must not leave a step of the node half done; logging reports its failures like this.
            if logging.raiseExceptions:
                traceback.print_exc()
        blocked = self._stopwatch() - started
        for receiver in self._receivers:
            receiver._put(event)  # noqa: SLF001  # the two classes are one mechanism
        if blocked > self._blocked_threshold:
            # Straight to the readers: logging it would go through the very handler that is slow.
            for receiver in self._receivers:
                receiver._put(LoopBlocked(f"a log handler of {event.logger}", blocked))  # noqa: SLF001

    @contextmanager
    def subscribe(self, capacity: int) -> Iterator[EventReceiver]:
        """A reader of all events from now on."""
        receiver = EventReceiver(capacity)
        if self._closed:
            receiver._close()  # noqa: SLF001
        self._receivers.append(receiver)
        try:
            yield receiver
        finally:
            self._receivers.remove(receiver)
            receiver._close()  # noqa: SLF001

    def close(self) -> None:
        """No more events: readers end after what they still hold."""
        self._closed = True
        for receiver in self._receivers:
            receiver._close()  # noqa: SLF001
