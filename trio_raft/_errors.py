"""One family of errors under ``RaftError``, sorted by whose turn it is to act.

Each carries its facts as fields and says in its text what happened, to what, and what to do next.  Where Trio has an
error of the same meaning (``trio.ClosedResourceError``, ``trio.WouldBlock``) that one is raised.

* You called with something wrong: ``ConfigurationError``, ``Rejected`` (your state machine said no).
* This directory or this machine needs attention: ``DirectoryInUse``, ``DirectoryMismatch``, ``IncarnationRefused``,
  ``LogCorrupt``, ``SnapshotCorrupt``, ``StorageError``, ``StorageFull``, ``IncompatibleVersion``,
  ``RecoveryRefused``.
* The cluster moved on; ask again, perhaps elsewhere: ``NotLeader``, ``NoLeader``, ``ProposalDropped``,
  ``LeadershipLost``.
* Your code failed inside the node: ``StateMachineError``.
* A peer or this library failed: ``ProtocolError``, ``RaftInternalError``.
"""

from pathlib import Path
from typing import TypeVar, cast

ErrorT = TypeVar("ErrorT", bound=BaseException)


class RaftError(Exception):
    """Base of everything that this package raises of its own."""


class ConfigurationError(RaftError):
    """A setting is wrong.  ``key`` is its path, for example ``timeouts.heartbeat_timeout``.

    Next step: correct the setting that the message names.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


class DirectoryInUse(RaftError):
    """Another process, or a write of a previous node that has not returned, holds the data directory.

    Next step: stop the other process; if a disk hangs, wait for its write to return.
    """

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(
            f"data directory {path} is in use: {holder}. Stop that node, or give this one a directory of its own."
        )
        self.path = path
        self.holder = holder


class DirectoryMismatch(RaftError):
    """The data directory belongs to another node or another cluster; nothing in it was changed.

    Next step: correct ``node_id``, ``cluster_id`` or ``data_directory``.
    """

    def __init__(self, path: Path, field: str, *, found: str, expected: str) -> None:
        super().__init__(
            f"data directory {path} belongs to {field} {found!r}, but the configuration says {expected!r}. "
            f"Correct {field} or the data directory; nothing was changed."
        )
        self.path = path
        self.field = field
        self.found = found
        self.expected = expected


NO_INCARNATION = "none"
"""Stands for the incarnation of an id that the cluster does not know."""


class IncarnationRefused(RaftError):
    """The members know this id by another incarnation: its data directory was emptied or exchanged.

    It neither votes nor acknowledges, since it no longer holds what its predecessor promised.  Next step: put the
    original directory back, as it was last written; an older copy of it would break the same promises.  If they do not
    know the id at all, ``known`` is "none": it is no member, and cannot become one yet.
    """

    def __init__(self, node_id: str, *, known: str, found: str) -> None:
        super().__init__(
            f"{node_id} is no member of the cluster, which settled its members without it; members cannot be added "
            f"yet. Begin anew, without the data, in empty directories on all members."
            if known == NO_INCARNATION
            else f"{node_id} is known to the cluster with incarnation {known}, but this data directory is {found}: it "
            f"was emptied or exchanged. Put the original directory back (no older copy); until then the others go on "
            f"without this member."
        )
        self.node_id = node_id
        self.known = known
        self.found = found


class StorageError(RaftError):
    """A write or a sync of the log failed; the node has stopped and acknowledged nothing after it.

    After a failed sync nobody knows what the disk holds, so it is never tried again.  Next step: mend the disk, then
    start the node: recovery finds what was durable.  The operating system's error is the ``__cause__``.
    """

    def __init__(self, path: Path, operation: str, problem: str) -> None:
        super().__init__(
            f"{operation} of {path} failed: {problem}. The node stopped and acknowledged nothing after that; "
            f"check the disk, then start it again."
        )
        self.path = path
        self.operation = operation
        self.problem = problem


class StorageFull(RaftError):
    """No room to prepare log space; what is durable stays so, but nothing new is accepted.

    The command was not appended; at the start, no log was begun.  Next step: free space in the data directory's file
    system.  ``needed``: bytes.
    """

    def __init__(self, path: Path, needed: int, *, starting: bool = False) -> None:
        if starting:
            self.problem = (
                f"the file system of {path} has no room for the log, which takes {needed} bytes to begin with"
            )
            advice = "Free some space, or choose a data_directory on a larger disk, then start again."
        else:
            self.problem = f"the file system of {path} has no room for another {needed} bytes of log"
            advice = "Free some space; the node takes commands again by itself."
        super().__init__(f"{self.problem}. {advice}")
        self.path = path
        self.needed = needed


class LogCorrupt(RaftError):
    """The log on disk is damaged in a way that no crash explains; the node refuses to start on it.

    Nothing was changed.  Next step: mend the disk or the file system.  The others go on without this member while they
    are a majority; neither an older copy of the directory nor an empty one may take its place, since both forget what
    this member promised.
    """

    def __init__(self, path: Path, *, offset: int, index: int, problem: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset}, near log index {index}: {problem}. No crash leaves this behind, so "
            f"nothing was changed. Mend the disk or file system; the others go on without this member meanwhile."
        )
        self.path = path
        self.offset = offset
        self.index = index
        self.problem = problem


class SnapshotCorrupt(RaftError):
    """A snapshot's file is damaged: a wrong checksum, a missing end, bytes that make no sense.

    Nothing was changed.  An older snapshot takes its place where the log reaches back to it; this is raised where
    none does.  Next step: mend the disk or the file system.  The others go on without this member while they are a
    majority.
    """

    def __init__(self, path: Path, *, offset: int, problem: str) -> None:
        super().__init__(f"snapshot {path} is damaged at byte {offset}: {problem}. Nothing was changed. Mend the disk.")
        self.path = path
        self.offset = offset
        self.problem = problem


class SnapshotUnavailable(RaftError):
    """No snapshot could be taken: the machine defines no ``snapshot``, nothing was applied, or writing it failed.

    What was there before stays; a half-written file is removed.  ``reason`` says why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"no snapshot was taken: {reason}.")
        self.reason = reason


class RecoveryRefused(RaftError):
    """A recovery, or the restoring or saving of a snapshot, was not begun: ``reason`` says why, and what would help.

    Nothing was changed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. Nothing was changed.")
        self.reason = reason


class IncompatibleVersion(RaftError):
    """A file or a peer speaks a newer format than this version of the package, or of the state machine's class.

    Next step: upgrade that on this node.  ``code``: whose version it is.
    """

    def __init__(self, what: str, *, found: int, supported: int, code: str = "trio_raft") -> None:
        super().__init__(
            f"{what} has format version {found}, but this version of {code} knows up to {supported}. "
            f"Upgrade {code} on this node; nothing was changed."
        )
        self.what = what
        self.found = found
        self.supported = supported


class Rejected(RaftError):
    """Raised by a state machine's ``apply`` to refuse a command; the proposer gets it as the outcome.

    It is a result like any other: every server's machine refuses the same command in the same way.
    """


class NotLeader(RaftError):
    """This server does not lead; ``leader_id`` and ``leader_address`` say who does, if known.

    The command was not queued.  Next step: ask the leader.
    """

    def __init__(self, node_id: str, leader_id: str | None, leader_address: str | None) -> None:
        hint = f"{leader_id} at {leader_address} does: ask there" if leader_id else "no leader is known: wait_leader()"
        super().__init__(f"{node_id} is not the leader; {hint}.")
        self.node_id = node_id
        self.leader_id = leader_id
        self.leader_address = leader_address


class NoLeader(RaftError):
    """No leader was found in time.  ``waited`` is in seconds; ``why`` says what stands in the way."""

    def __init__(self, waited: float, why: str) -> None:
        super().__init__(f"no leader after {waited:.2f} s: {why}. Nothing was queued; try again once that is over.")
        self.waited = waited
        self.why = why


class ProposalDropped(RaftError):
    """The command was accepted but never appended: known not committed.  Next step: propose it again."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the command was dropped before it was appended: {reason}. It is safe to propose it again.")
        self.reason = reason


class LeadershipLost(RaftError):
    """The leadership ended while the outcome was open: the command may or may not be committed.

    Next step: read the state from the new leader before trying again.
    """

    def __init__(self, term: int, reason: str) -> None:
        super().__init__(
            f"the leadership of term {term} ended ({reason}) before the outcome was known: the command may yet be "
            f"committed. Read the state before proposing it again."
        )
        self.term = term
        self.reason = reason


class StateMachineError(RaftError):
    """The state machine raised on a committed entry, or when it was to be restored; the node stopped, since skipping
    it would diverge.

    The machine's exception is the ``__cause__``.  Next step: mend the machine; the entry is applied again at the next
    start.  To refuse a command, raise ``Rejected``.
    """

    def __init__(self, *, index: int, term: int, problem: str, doing: str = "entry") -> None:
        super().__init__(
            f"the state machine failed on {doing} {index} of term {term}: {problem}. The node stopped, since no entry "
            f"is ever skipped; mend the machine and start again."
        )
        self.index = index
        self.term = term


class ProtocolError(RaftError):
    """A peer sent something that the protocol does not allow; its connection was closed."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"{peer} broke the protocol: {reason}. The connection was closed.")
        self.peer = peer
        self.reason = reason


class HandshakeRefused(ProtocolError):
    """One side refused the other in the handshake; ``code`` is the ``refusal_code`` of ``HelloReply``."""

    def __init__(self, peer: str, reason: str, *, code: str) -> None:
        super().__init__(peer, reason)
        self.args = (f"no connection with {peer} ({code}): {reason}. Make the two configurations agree.",)
        self.code = code


class RaftInternalError(RaftError):
    """A bug in this package stopped the node; the original exception is the ``__cause__``.  Please report it."""


def error_text(error: BaseException) -> str:
    """One line for an event: a RaftError speaks for itself, anything else needs its type."""
    return str(error) if isinstance(error, RaftError) else f"{type(error).__name__}: {error}"


def leaves(error: BaseException) -> list[BaseException]:
    """The single exceptions in a group of groups, in order; of one that is no group, itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for inner in group.exceptions for leaf in leaves(inner)]


def twin_of(error: ErrorT) -> ErrorT:
    """An error like this one, to be raised by itself: an exception that is raised twice mixes up its tracebacks."""
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    twin.__cause__, twin.__suppress_context__ = error.__cause__, error.__suppress_context__
    return twin
