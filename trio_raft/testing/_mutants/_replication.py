"""Mistakes about logs, matches and commits."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from trio_raft import _server
from trio_raft._messages import AppendEntries, AppendEntriesReply, ServerId
from trio_raft._records import EntryKind, LogIndex, Term, make_entry
from trio_raft._rules import append_entries
from trio_raft._rules.append_entries import Answer, Outcome
from trio_raft._rules.log import Log
from trio_raft._rules.progress import Progress
from trio_raft._rules.state import Role, State
from trio_raft._server import Server
from trio_raft.testing._mutants._mutant import Mutant, fails_by, mutant, replaced


def _commit_old_terms(state: State, matches: Mapping[ServerId, LogIndex]) -> LogIndex:
    return max(state.commit_index, state.configuration.quorum_value(matches) or LogIndex(0))


def _truncate_on_overlap(_log: Log, entries: Any) -> Any:
    return list(entries)


def _match_from_rejection(sound: Any) -> Any:
    def digest(state: State, progress: Progress, *, prev_log_index: LogIndex, last_index: LogIndex, reply: Any) -> Any:
        outcome = sound(state, progress, prev_log_index=prev_log_index, last_index=last_index, reply=reply)
        if outcome is not Outcome.REPAIRED:
            return outcome
        progress.advance(prev_log_index)
        return Outcome.ADVANCED

    return digest


def _match_to_the_end(sound: Any) -> Any:
    """The follower vouches for its whole log, and the leader believes it."""

    def answer(state: State, request: AppendEntries) -> Answer:
        answered: Answer = sound(state, request)
        if not answered.reply.success:
            return answered
        return attrs.evolve(answered, reply=attrs.evolve(answered.reply, match_index=state.log.last_index))

    return answer


def _believe_any_match(sound: Any) -> Any:
    def digest(state: State, progress: Progress, *, prev_log_index: LogIndex, last_index: LogIndex, reply: Any) -> Any:
        if reply.success and reply.match_index <= state.log.last_index:
            progress.advance(reply.match_index)
            return Outcome.ADVANCED
        return sound(state, progress, prev_log_index=prev_log_index, last_index=last_index, reply=reply)

    return digest


def _commit_beyond_verified(sound: Any) -> Any:
    def answer(state: State, request: AppendEntries) -> Answer:
        answered: Answer = sound(state, request)
        beyond = min(request.leader_commit, state.log.last_index)
        if answered.reply.success and beyond > state.commit_index:
            state.raise_commit(beyond)
        return answered

    return answer


def _match_without_looking(self: Log, index: LogIndex, _term: Term) -> bool:
    return index <= self.last_index


def _unknown_term_is_zero(sound: Any) -> Any:
    def matches(self: Log, index: LogIndex, term: Term) -> bool:
        return index > self.last_index or sound(self, index, term)

    return matches


def _keep_leading_in_a_later_term(sound: Any) -> Any:
    def adopt_term(self: Server, term: Term, source: ServerId) -> None:
        if self.state.role is Role.LEADER and term > self.state.current_term:
            self.state.current_term = term
        else:
            sound(self, term, source)

    return adopt_term


def _stale_channel(sound: Any) -> Any:
    """Requests in flight outlive their connection, and the next one's replies are counted for them."""

    def become_probe(self: Progress) -> None:
        in_flight, size = list(self.in_flight), self.in_flight_bytes
        sound(self)
        self.in_flight.extend(in_flight)
        self.in_flight_bytes = size

    return become_probe


def _answered_by_anything(self: Progress, _request_id: int) -> Any:
    """Whatever comes answers the newest request, so what is still on its way counts as arrived."""
    newest = self.in_flight.pop()
    self.in_flight_bytes -= newest.size
    return newest


def _take_success_for_the_request(_state: State, _reply: AppendEntriesReply, _last_index: LogIndex) -> None:
    """The leader does not compare what was vouched for with what it asked."""


def _no_no_op(sound: Any) -> Any:
    def append(self: Server, kind: EntryKind, data: bytes) -> Any:
        log = self.state.log
        last = log.entry(log.last_index) if log.last_index > log.base_index else None
        if kind is EntryKind.NO_OP and last is not None:
            return last
        return sound(self, kind, data)

    return append


def _reuse_the_index(sound: Any) -> Any:
    """An append that the disk has not taken yet is given up, and its index used again in the same term."""

    def append(self: Server, kind: EntryKind, data: bytes) -> Any:
        log, journal = self.state.log, self.journal
        last = log.last_index
        if (
            last % 16
            or last <= max(journal.durable_index, self.state.commit_index)
            or log.last_term != self.state.current_term
        ):
            return sound(self, kind, data)
        self.tickets.pop(last, None)
        log.truncate_from(last)
        entry = make_entry(index=last, term=self.state.current_term, kind=kind, data=data)
        log.append(entry)
        journal.supersede([entry])
        return entry

    return append


def _tickets_survive(_tickets: object, _term: Term, _reason: str, *, cause: object) -> None:
    """Waiting proposals are left to whoever leads next."""


@contextmanager
def _whole_log_vouched_for() -> Iterator[None]:
    with (
        mutant("", "", "", append_entries, "answer", _match_to_the_end).applied(),
        mutant("", "", "", append_entries, "digest", _believe_any_match).applied(),
    ):
        yield


@contextmanager
def _replies_counted_blindly() -> Iterator[None]:
    with (
        mutant("", "", "", Progress, "become_probe", _stale_channel).applied(),
        mutant("", "", "", Progress, "answered", replaced(_answered_by_anything)).applied(),
        mutant("", "", "", append_entries, "_check_success", replaced(_take_success_for_the_request)).applied(),
    ):
        yield


REPLICATION = (
    mutant(
        "index-reused", "R5", "a leader uses the index of a given-up entry again", Server, "_append", _reuse_the_index
    ),
    mutant(
        "commits-old-terms",
        "R2",
        "entries of earlier terms are committed by counting",
        append_entries,
        "committable",
        replaced(_commit_old_terms),
    ),
    mutant(
        "truncates-on-overlap",
        "R4",
        "entries that the follower has are removed and written again",
        append_entries,
        "_not_held",
        replaced(_truncate_on_overlap),
        also={fails_by("AssertionError in _check_uncommitted"): "the rule itself refuses to cut what is committed"},
    ),
    mutant(
        "match-from-rejection",
        "R6",
        "a rejection is taken as proof of what came before",
        append_entries,
        "digest",
        _match_from_rejection,
    ),
    Mutant(
        "match-whole-log",
        "R6",
        "a follower vouches for its whole log",
        _whole_log_vouched_for,
        also={
            "R3": "the reply itself says more than its request verified, before the leader believes it",
        },
    ),
    mutant(
        "commit-beyond-verified",
        "R3",
        "a follower believes the leader's commit index beyond what was verified",
        append_entries,
        "answer",
        _commit_beyond_verified,
    ),
    mutant(
        "previous-unchecked",
        "R8",
        "the previous entry's term is not compared",
        Log,
        "matches",
        replaced(_match_without_looking),
        also={
            "Committed entries are the same everywhere": "logs that were never compared differ in what they commit",
            "Log Matching": "entries follow others than where they were made",
        },
    ),
    mutant(
        "unknown-term-is-zero",
        "R9",
        "an index past the end matches anything",
        Log,
        "matches",
        _unknown_term_is_zero,
        also={
            fails_by("AssertionError in Log.append"): "the log refuses entries that leave a gap",
        },
    ),
    mutant(
        "stamps-later-term",
        "R1",
        "a leader that hears of a later term goes on in it",
        Server,
        "adopt_term",
        _keep_leading_in_a_later_term,
        also={fails_by("AssertionError in State.follow"): "it meets the leader whom the later term really has"},
    ),
    Mutant(
        "stale-replies-count",
        "R10",
        "replies are counted for whatever is in flight",
        _replies_counted_blindly,
        also={
            "The match index is what the follower has durably": "counted for another request it is raised too far",
        },
    ),
    mutant(
        "no-no-op",
        "R2",
        "a term is opened without an entry of its own",
        Server,
        "_append",
        _no_no_op,
        also={
            "A repaired cluster agrees": "what earlier terms left is committed only once somebody writes",
            "What clients saw is linearizable": "a read is answered before the term committed anything",
        },
    ),
    mutant(
        "tickets-survive",
        "X1",
        "waiting proposals survive the end of their leadership",
        _server,
        "fail_all",
        replaced(_tickets_survive),
        also={
            fails_by("RaftInternalError in Applier._apply_batch"): "it refuses a proposal of an earlier term",
        },
    ),
)
