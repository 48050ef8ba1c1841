"""The life of an AppendEntries, from top to bottom (paper 5.3): made, answered, digested, and then committed.

The leader *makes* a request: "after (prev_log_index, prev_log_term) come these entries, and commit_index is
...".  The follower *answers*: if it holds the previous entry it makes its log agree, and vouches for exactly
what this request verified or brought.  The leader *digests* the reply: success moves match_index, a rejection
moves next_index back::

    index               1  2  3  4  5  6  7  8  9
    leader's terms      1  1  1  4  4  5  5  6  6        next_index 10, so prev is (9, 6)
    follower's terms    1  1  1  2  2  2  3  3  3        refused: "at 9 I have term 3, which begins at 7"

    the leader's last entry of a term <= 3 is index 3, before 7 and not of term 3: try prev (3, 1), a match.

The hint skips a whole term at a time, so that each divergent term costs one round trip and not each entry
(R8).

*Committed* is an entry of the leader's own term that a majority holds durably, with everything before it.  An
entry of an older term on a majority is not safe yet: Figure 8 of the paper shows one being overwritten (R2).

House rule: a follower never believes more than a request proves.  Neither ``match_index`` nor its commit
index goes past the last entry that this very request verified (R3), whatever else its log may hold.
"""

import enum
from collections.abc import Mapping, Sequence

import attrs

from trio_raft._messages import AppendEntries, AppendEntriesReply, Rejection, ServerId
from trio_raft._records import Entry, LogIndex, Term, follow
from trio_raft._rules.log import Log
from trio_raft._rules.progress import Progress
from trio_raft._rules.state import Role, State

# ---------------------------------------------------------------------------------------------- make


@attrs.frozen
class ReadFirst:
    """The entries to send left memory: read some of ``first`` … ``last`` from the store, then make again."""

    first: LogIndex
    last: LogIndex


def make(
    state: State,
    progress: Progress,
    *,
    term: Term,
    max_entries: int,
    max_bytes: int,
    entries: Sequence[Entry] | None = None,
) -> AppendEntries | ReadFirst:
    """The request that follows ``progress.next_index - 1``; it has no entries if the follower was sent all.

    ``term`` is the constant of the leadership that asks.  ``entries`` are those that were read after a
    ``ReadFirst``; they are passed over if ``next_index`` has moved since.  Raises NotInLog if the follower
    needs what only a snapshot holds (R9), and AssertionError if the leadership is over (R1) or the entries
    are not this log's.
    """
    _check_leads(state, term)
    first = progress.next_index
    previous = LogIndex(first - 1)
    previous_term = state.log.term_at(previous)
    if entries and entries[0].index == first:
        chosen: Sequence[Entry] | None = entries[:max_entries]
        _check_own(state.log, entries)
    else:
        chosen = state.log.slice(first, max_entries=max_entries, max_bytes=max_bytes)
    if chosen is None:
        last = min(first + max_entries, state.log.memory_first) - 1
        return ReadFirst(first, LogIndex(last))
    return AppendEntries(
        term=term,
        leader=state.node_id,
        prev_log_index=previous,
        prev_log_term=previous_term,
        leader_commit=state.commit_index,
        entries=list(chosen),
    )


def _check_leads(state: State, term: Term) -> None:
    if state.role is not Role.LEADER or state.current_term != term:
        raise AssertionError(
            f"{state.node_id} is {state.role.value} of term {state.current_term}; nothing may be sent for "
            f"the leadership of term {term}"
        )


def _check_own(log: Log, entries: Sequence[Entry]) -> None:
    """What was read back must be what this log says stands there; else the store is broken."""
    first, last = entries[0].index, LogIndex(entries[0].index + len(entries) - 1)
    if first > log.base_index and log.end_of_term_at(first) >= last:
        # One term from end to end, as almost always: then few, large steps are enough.
        term = log.term_at(first)
        if entries[-1].term == term and follow(entries, first - 1, term):
            return
    for expected_index, entry in enumerate(entries, start=entries[0].index):
        if entry.index != expected_index or entry.term != log.term_at(entry.index):
            raise AssertionError(f"{entry} was read where index {expected_index} of this log stands: {log}")


# ---------------------------------------------------------------------------------------------- answer


class BadRequest(ValueError):
    """A request that no leader makes; its sender's connection is closed."""


@attrs.frozen
class Answer:
    """A follower's reply, and what must be durable before it may leave."""

    reply: AppendEntriesReply
    new_entries: list[Entry]
    """Appended just now; empty if all were there already."""
    truncated_from: LogIndex | None
    """The index from which entries were removed to make room for them."""


def answer(state: State, request: AppendEntries) -> Answer:
    """Make this follower's log agree with the leader's, as far as the request reaches.

    The caller has adopted the request's term and follows its leader.  The reply is true to memory; it leaves
    once the entries it vouches for are durable (S1).  Raises BadRequest for a malformed request, and
    AssertionError, having changed nothing, where the leader contradicts a committed entry: State Machine
    Safety (paper 5.4.3) is broken.
    """
    if state.role is not Role.FOLLOWER or request.term != state.current_term:
        raise AssertionError(
            f"{state.node_id}, {state.role.value} of term {state.current_term}, must not answer a request of "
            f"term {request.term}"
        )
    _check_request(request)
    if not state.log.matches(request.prev_log_index, request.prev_log_term):
        return Answer(_mismatch(state, request), [], None)
    new_entries = _not_held(state.log, request.entries)
    truncated_from = None
    if new_entries:
        if new_entries[0].index <= state.log.last_index:
            truncated_from = new_entries[0].index
            _check_uncommitted(state, truncated_from, new_entries[0].term)
            state.log.truncate_from(truncated_from)
        state.log.extend(new_entries)
    verified = LogIndex(request.prev_log_index + len(request.entries))
    if min(request.leader_commit, verified) > state.commit_index:
        state.raise_commit(min(request.leader_commit, verified))
    reply = AppendEntriesReply(term=state.current_term, success=True, match_index=verified)
    return Answer(reply, new_entries, truncated_from)


def _check_request(request: AppendEntries) -> None:
    """Entries follow the previous one without a gap, in terms that never fall nor pass the leader's (R9).

    Nor is one of term 0, which is the place below every log: it would count as held by everyone.
    """
    index, term = request.prev_log_index, request.prev_log_term
    if index < 0 or (index == 0) != (term == 0) or request.leader_commit < 0:
        raise BadRequest(f"previous entry {index} of term {term}, commit index {request.leader_commit}")
    entries = request.entries
    if not follow(entries, index, max(term, 1)):
        for entry in entries:
            if entry.index != index + 1 or entry.term < max(term, 1):
                raise BadRequest(f"{entry} cannot follow index {index} of term {term}")
            index, term = entry.index, entry.term
    elif entries:
        index, term = entries[-1].index, entries[-1].term
    if term > request.term:
        raise BadRequest(f"entry {index} of term {term} from a leader of term {request.term}")


def _mismatch(state: State, request: AppendEntries) -> AppendEntriesReply:
    """Refuse, and say what stands there instead, so that the leader can skip the whole term (R8)."""
    log, previous = state.log, request.prev_log_index
    shorter = previous > log.last_index
    if not shorter:
        _check_uncommitted(state, previous, request.prev_log_term)
    return AppendEntriesReply(
        term=state.current_term,
        success=False,
        rejection=Rejection.LOG_MISMATCH,
        conflict_index=LogIndex(log.last_index + 1) if shorter else log.first_of_term(previous),
        conflict_term=Term(0) if shorter else log.term_at(previous),
    )


def _not_held(log: Log, entries: Sequence[Entry]) -> list[Entry]:
    """The entries from the first one on that the log does not hold: equal ones are skipped (R4).

    A shorter or older request thus removes nothing, and what was compacted is equal without looking.
    """
    if not entries or entries[0].index > log.last_index:
        return list(entries)
    for position, entry in enumerate(entries):
        if entry.index > log.last_index or not log.matches(entry.index, entry.term):
            return list(entries[position:])
        held = log.entry(entry.index) if entry.index > log.base_index else None
        if held is not None and held.record != entry.record:
            raise AssertionError(f"two entries at index {entry.index} of term {entry.term}: {held} and {entry}")
    return []


def _check_uncommitted(state: State, index: LogIndex, term: Term) -> None:
    """Nothing at or below the commit index may ever be contradicted (R4)."""
    if index <= state.commit_index:
        raise AssertionError(
            f"{state.node_id}: the leader of term {state.current_term} has term {term} at index {index}, "
            f"where this server committed term {state.log.term_at(index)} (commit index {state.commit_index})"
        )


def stale(state: State) -> AppendEntriesReply:
    """The reply to a request of an older term: the sender learns that it leads no more."""
    return AppendEntriesReply(term=state.current_term, success=False, rejection=Rejection.STALE_TERM)


# ---------------------------------------------------------------------------------------------- digest


class BadReply(ValueError):
    """A reply that no follower gives to this request; the connection is in doubt."""


class Outcome(enum.Enum):
    """What a reply did."""

    ADVANCED = "advanced"
    """The follower holds everything that the request covered."""
    REPAIRED = "repaired"
    """The logs differ there; ``next_index`` has moved back.  Probe again, at once."""
    LOST_DATA = "lost_data"
    """The follower denies what it had acknowledged; it is not counted any more (R6)."""
    NOT_READY = "not_ready"
    """The follower may not acknowledge yet; try again later."""


def digest(
    state: State,
    progress: Progress,
    *,
    prev_log_index: LogIndex,
    last_index: LogIndex,
    reply: AppendEntriesReply,
) -> Outcome:
    """Learn from the reply to the request that reached from ``prev_log_index`` to ``last_index``.

    The caller has made sure that it belongs to this request, channel and leadership, and has stepped down if
    its term is higher.  Raises BadReply, having changed nothing, for a reply that makes no sense.
    """
    if state.role is not Role.LEADER or reply.term > state.current_term:
        raise AssertionError(
            f"{state.node_id}, {state.role.value} of term {state.current_term}, must not digest a reply of "
            f"term {reply.term}"
        )
    if reply.success:
        _check_success(state, reply, last_index)
        progress.advance(last_index)
        return Outcome.ADVANCED
    if reply.rejection is Rejection.NOT_READY:
        progress.become_probe()
        return Outcome.NOT_READY
    _check_mismatch(state, reply, prev_log_index)
    progress.become_probe()
    if prev_log_index <= progress.match_index:
        progress.lost_data = True
        return Outcome.LOST_DATA
    progress.next_index = max(_repaired(state.log, prev_log_index, reply), LogIndex(progress.match_index + 1))
    return Outcome.REPAIRED


def _repaired(log: Log, prev_log_index: LogIndex, reply: AppendEntriesReply) -> LogIndex:
    """Where to send from next: at most ``prev_log_index``, so one lower at least (R8)."""
    if not reply.conflict_term or prev_log_index <= log.base_index:
        # It ends before, or it has another entry where this log is compacted: what it lacks is in a snapshot.
        return reply.conflict_index
    # The follower has conflict_term from conflict_index up to prev_log_index.
    agreed = log.last_at_or_below_term(reply.conflict_term, not_above=LogIndex(prev_log_index - 1))
    if agreed >= reply.conflict_index and log.term_at(agreed) == reply.conflict_term:
        return LogIndex(agreed + 1)
    # This log has no entry of that term there, so the follower's whole term goes.
    return min(LogIndex(agreed + 1), reply.conflict_index)


def _check_success(state: State, reply: AppendEntriesReply, last_index: LogIndex) -> None:
    if reply.term != state.current_term or reply.rejection is not Rejection.NONE:
        raise BadReply(f"success in term {reply.term}, rejection {reply.rejection.value!r}: {reply}")
    if reply.match_index != last_index:
        raise BadReply(f"vouches for entries up to {reply.match_index}, but the request ended at {last_index}")
    if last_index > state.log.last_index:
        raise AssertionError(f"index {last_index} was never sent: {state.log}")


def _check_mismatch(state: State, reply: AppendEntriesReply, prev_log_index: LogIndex) -> None:
    if reply.term != state.current_term or reply.rejection is not Rejection.LOG_MISMATCH:
        raise BadReply(f"rejected in term {reply.term} for {reply.rejection.value!r}: {reply}")
    if not 1 <= reply.conflict_index <= prev_log_index:
        raise BadReply(f"conflict index {reply.conflict_index} for the previous entry {prev_log_index}")
    if not 0 <= reply.conflict_term <= state.current_term:
        raise BadReply(f"conflict term {reply.conflict_term} in term {state.current_term}")
    # The previous entry may have been compacted since it was sent; of what follows nothing is known then.
    known = prev_log_index >= state.log.base_index
    if known and reply.conflict_term and state.log.matches(prev_log_index, reply.conflict_term):
        raise BadReply(f"rejects the previous entry {prev_log_index} of term {reply.conflict_term}, yet holds it")


# ---------------------------------------------------------------------------------------------- commit


def committable(state: State, matches: Mapping[ServerId, LogIndex]) -> LogIndex:
    """The commit index that these match indexes prove: the leader's own, durable one is among them.

    Counts entries of the leader's own term only; older ones are committed with the first of those (R2, Figure
    8). Never below ``commit_index``.
    """
    reached = state.configuration.quorum_value(matches)
    if reached is None or reached <= state.commit_index:
        return state.commit_index
    return reached if state.log.term_at(reached) == state.current_term else state.commit_index
