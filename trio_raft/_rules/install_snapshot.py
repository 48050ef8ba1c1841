"""The life of an InstallSnapshot, from top to bottom (paper section 7, dissertation 5): accepted, installed, digested.

A follower that needs entries which its leader has compacted gets a snapshot in their place.  It *accepts* the pieces,
or answers at once that it has all of this already.  When the whole file is durable, it *installs* it: memory changes
in one step.  The leader *digests* the replies, and goes on with the entries behind the snapshot.  Log and snapshot
meet at one place, the last entry that the snapshot covers::

    follower's log     1 1 2 2 2 3      snapshot up to (4, 2): an equal entry, so the suffix 2 3 stays
    follower's log     1 1 2            snapshot up to (4, 2): nothing there, so the whole log goes
    follower's log     1 1 2 3 3 3      snapshot up to (4, 2): another entry there, so the whole log goes, since
                                        what stands behind a wrong entry is wrong as well (N1)

Afterwards ``last_applied`` may lie below the log's base: the entries between are in no log any more, and the state
machine must be restored from the snapshot before anything else is applied to it.

Every snapshot makes room: the log is *cut*, but not as far as the snapshot reaches (N7).

House rule: what a snapshot covers is committed.  One that contradicts a committed entry means that State Machine
Safety (paper 5.4.3) is broken, and this server stops, having changed nothing.
"""

import enum
from collections.abc import Iterable

import attrs

from trio_raft._messages import InstallSnapshot, InstallSnapshotReply, SnapshotStatus
from trio_raft._records import LogIndex, Term
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.progress import Progress
from trio_raft._rules.state import Role, State

# ---------------------------------------------------------------------------------------------- accept


class BadRequest(ValueError):
    """A request that no leader makes; its sender's connection is closed."""


class Verdict(enum.Enum):
    """What a follower does about a request."""

    ALREADY = "already"
    """It holds everything that the snapshot covers: reply INSTALLED, once that is durable (S1); change nothing."""
    TAKE = "take"
    """It needs the snapshot; go on with the bytes."""


def accept(state: State, request: InstallSnapshot) -> Verdict:
    """Does this follower need the snapshot that is offered?  Changes nothing.

    The caller has adopted the request's term and follows its leader; digest and checksum are its business too.  A
    snapshot at or below the commit index is not needed, whatever its bytes (N2).  Raises BadRequest for a malformed
    request, and AssertionError where the snapshot contradicts a committed entry.
    """
    if state.role is not Role.FOLLOWER or request.term != state.current_term:
        raise AssertionError(
            f"{state.node_id}, {state.role.value} of term {state.current_term}, must not answer a request of "
            f"term {request.term}"
        )
    index, term = request.last_included_index, request.last_included_term
    if index < 1 or not 1 <= term <= request.term:
        raise BadRequest(f"a snapshot up to index {index} of term {term} from a leader of term {request.term}")
    if request.offset < 0 or request.total < 1 or request.offset + len(request.data) > request.total:
        raise BadRequest(f"{len(request.data)} bytes at {request.offset} of a snapshot of {request.total} bytes")
    _check_committed(state, index, term)
    return Verdict.ALREADY if index <= state.commit_index else Verdict.TAKE


def _check_committed(state: State, index: LogIndex, term: Term) -> None:
    """What is committed at an index is so for ever, and terms never fall from one entry to the next."""
    log, commit_index = state.log, state.commit_index
    if index < log.base_index:
        fits = term <= log.base_term
    elif index <= commit_index:
        fits = term == log.term_at(index)
    else:
        fits = term >= log.term_at(commit_index)
    if not fits:
        raise AssertionError(
            f"{state.node_id}: a snapshot up to index {index} of term {term} contradicts what is committed up to "
            f"index {commit_index}: {log}"
        )


# ---------------------------------------------------------------------------------------------- install


@attrs.frozen
class Installed:
    """A snapshot took the place of the log up to its last index."""

    kept: bool
    """The entries behind it stay, as the log had an equal entry at its last index (N1)."""


def install(state: State, *, index: LogIndex, term: Term, configuration: Configuration) -> Installed | None:
    """Put a snapshot in the place of the log up to (index, term), in memory; None if it is not needed any more.

    Its file is complete, checked and durable (S7).  Whose term it is by now does not matter (N8): what it covers is
    committed, and that for good.  What the log held may have changed while the bytes arrived, so everything is asked
    again: N2, N1, and whether it contradicts a committed entry, which raises AssertionError and changes nothing.

    ``configuration`` is the snapshot's; it replaces the one in force unless that stands in the suffix that stays
    (N6).  ``last_applied`` waits for the state machine.
    """
    _check_committed(state, index, term)
    if index <= state.commit_index:
        return None
    if state.role is not Role.FOLLOWER:
        raise AssertionError(
            f"{state.node_id}, {state.role.value} of term {state.current_term}, must not install a snapshot"
        )
    kept = state.log.matches(index, term)
    if kept:
        state.log.compact(index)
    else:
        state.log.reset(index, term)
    state.raise_commit(index)
    if not kept or state.configuration.index <= index:
        state.configuration = configuration
    return Installed(kept)


# ---------------------------------------------------------------------------------------------- digest


class BadReply(ValueError):
    """A reply that no follower gives to this request; the connection is in doubt."""


def digest(
    state: State, progress: Progress, *, index: LogIndex, total: int, reply: InstallSnapshotReply
) -> SnapshotStatus:
    """Learn from the reply to a piece of the snapshot up to ``index``, of ``total`` bytes.

    The caller has made sure that it belongs to this transfer, channel and leadership, and has stepped down if its
    term is higher.  INSTALLED is knowledge and raises match_index; the others are for the transfer, which ends with
    REFUSED.  Raises BadReply, having changed nothing, for a reply that makes no sense.
    """
    if state.role is not Role.LEADER or reply.term > state.current_term:
        raise AssertionError(
            f"{state.node_id}, {state.role.value} of term {state.current_term}, must not digest a reply of "
            f"term {reply.term}"
        )
    if reply.status is not SnapshotStatus.REFUSED and reply.term != state.current_term:
        raise BadReply(f"{reply.status.value} in term {reply.term}: {reply}")
    if not 0 <= reply.offset <= total:
        raise BadReply(f"offset {reply.offset} in a snapshot of {total} bytes")
    if reply.status is SnapshotStatus.INSTALLED:
        progress.snapshot_installed(index)
    return reply.status


# ---------------------------------------------------------------------------------------------- cut


def compactable(
    snapshot_index: LogIndex, *, trailing: int, pins: Iterable[LogIndex], base_index: LogIndex
) -> LogIndex | None:
    """Up to where the log may be cut, now that a snapshot up to ``snapshot_index`` is durable; None if it may not.

    ``trailing`` entries that the snapshot covers stay, for followers that lag a little.  ``pins`` are the last
    indexes of snapshots in transfer: what follows them is needed once they are installed, or the follower would
    need another snapshot at once, and so on for ever (N7).
    """
    up_to = min([LogIndex(snapshot_index - trailing), *pins])
    return up_to if up_to > base_index else None
