"""The life of a vote, from top to bottom: a candidate makes the request, a voter answers, the candidate
counts.

The same message, with ``pre_vote`` set, asks a question instead of for a promise (dissertation 9.6): would
you vote for me if I stood in the next term?  Only a majority of yes lets the term grow, so that a server
which merely cannot hear its leader disturbs nobody (E8).  What the two kinds do at a voter::

                                   pre-vote                      vote
    not ready (bootstrap)          refused                       refused, its term ignored
    a leader is heard (sticky)     refused                       refused, its term ignored (E8)
    request's term is lower        refused                       refused
    request's term is this one     refused: ask for a later one  by vote and log
    request's term is higher       by log                        adopted, then by vote and log
    granted                        nothing is written down (E6)  durable before the reply leaves (E2)

Every reply carries the voter's term, and an asker with a lower one adopts it.  That is how a long log with a
low term and a short log with a high term get past each other (E5): the long one's first question is refused
because of its term, it learns the term, and asks again for the one after that; the short one's questions are
refused because of its log.

Fresh enough is a log whose last entry has a higher term, or the same term and no lower index (paper 5.4.1).
It is asked again for a repeated request (E1): the voter's log may have grown since.

House rule: ``answer`` decides and changes nothing; its caller adopts, records, and makes that durable.
"""

import attrs

from trio_raft._messages import RequestVote, RequestVoteReply, ServerId
from trio_raft._records import Term
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.state import Role, State

# ---------------------------------------------------------------------------------------------- make


def make(state: State, *, pre_vote: bool) -> RequestVote:
    """The request of a candidate: for a pre-vote in the term that would come next, else for a vote in its own.

    Raises AssertionError unless the server is a candidate that may campaign (E7) and, for a vote, stands in
    this term.
    """
    if state.role is not Role.CANDIDATE or not state.may_campaign or not (pre_vote or state.standing):
        kind = "pre-vote" if pre_vote else "vote"
        raise AssertionError(
            f"{state.node_id}, {state.role.value} of term {state.current_term}, must not ask for a {kind}"
        )
    return RequestVote(
        term=Term(state.current_term + 1) if pre_vote else state.current_term,
        candidate=state.node_id,
        last_log_index=state.log.last_index,
        last_log_term=state.log.last_term,
        pre_vote=pre_vote,
    )


# ---------------------------------------------------------------------------------------------- answer


@attrs.frozen
class VoteDecision:
    """What a voter makes of a request."""

    granted: bool
    """As of after ``adopt_term``."""
    adopt_term: Term | None
    """The higher term to enter as a follower, granted or not; None leaves the term alone."""
    reason: str
    """For a person: why it was refused; empty if it was not."""


def answer(state: State, request: RequestVote, *, sticky: bool, ready: bool) -> VoteDecision:
    """Decide by the table at the top of this module.

    ``sticky``: this server leads, or heard from a leader within the heartbeat timeout.  ``ready``: bootstrap
    is done. Membership is not asked: a server that does not know yet that it became a voter must vote as one
    (E7).
    """
    if not ready:
        return VoteDecision(False, None, "this server has not finished bootstrap")
    if sticky:
        return VoteDecision(False, None, f"a leader is heard in term {state.current_term}")
    if request.term < state.current_term:
        return VoteDecision(False, None, f"term {state.current_term} is further than {request.term}")
    newer = request.term > state.current_term
    if request.pre_vote:
        reason = _log_objection(state, request) if newer else f"term {state.current_term} has already begun here"
        return VoteDecision(not reason, None, reason)
    reason = ("" if newer else _vote_objection(state, request.candidate)) or _log_objection(state, request)
    return VoteDecision(not reason, request.term if newer else None, reason)


def _vote_objection(state: State, candidate: ServerId) -> str:
    """Why this server's vote in its current term is not to be had."""
    if state.voted_for not in (None, candidate):
        return f"the vote in term {state.current_term} went to {state.voted_for}"
    # A candidate that only asks for pre-votes still has its vote, and keeps it: it is about to use the next
    # term's.
    return "" if state.role is Role.FOLLOWER else f"this server is itself {state.role.value}"


def _log_objection(state: State, request: RequestVote) -> str:
    """Why the candidate's log will not do: Leader Completeness rests on this (E3, paper 5.4.1)."""
    own = (state.log.last_term, state.log.last_index)
    theirs = (request.last_log_term, request.last_log_index)
    if theirs >= own:
        return ""
    return f"its log ends at index {theirs[1]} of term {theirs[0]}, this one at {own[1]} of term {own[0]}"


def reply(state: State, request: RequestVote, decision: VoteDecision) -> RequestVoteReply:
    """The reply, made once the decision has been carried out.

    Raises AssertionError if it would claim a vote that was not recorded: a vote of this term that went
    elsewhere, or of a term that was not entered.
    """
    if decision.granted and not request.pre_vote:
        elsewhere = state.current_term == request.term and state.voted_for != request.candidate
        if elsewhere or state.current_term < request.term:
            raise AssertionError(
                f"{state.node_id} in term {state.current_term} has not recorded the vote for "
                f"{request.candidate} in term {request.term}"
            )
    return RequestVoteReply(
        term=state.current_term,
        granted=decision.granted,
        pre_vote=request.pre_vote,
        requested_term=request.term,
        reason=decision.reason,
    )


# ---------------------------------------------------------------------------------------------- count


class Tally:
    """The votes of one round: a set of voters, never a counter (E4)."""

    def __init__(self, configuration: Configuration, *, term: Term, pre_vote: bool, own: ServerId) -> None:
        """``term`` is that of the requests.  The candidate's own vote counts at once, if it has one."""
        self.configuration = configuration
        self.term = term
        self.pre_vote = pre_vote
        self.votes = {own} if configuration.is_voter(own) else set[ServerId]()
        self.refusals: dict[ServerId, str] = {}
        """Who refused, and why, for a person."""

    def count(self, voter: ServerId, reply: RequestVoteReply) -> None:
        """Take in a reply.  One of another round, of a non-voter, or after a vote changes nothing.

        A vote that was refused stays refused; a pre-vote may be granted later, since it only says how things
        stand. A higher term in the reply is the caller's to adopt; it makes no vote of a refusal, and none the
        other way.
        """
        of_this_round = reply.requested_term == self.term and reply.pre_vote == self.pre_vote
        counted = voter in self.votes or (voter in self.refusals and not self.pre_vote)
        if not of_this_round or counted or not self.configuration.is_voter(voter):
            return
        if reply.granted:
            self.votes.add(voter)
            self.refusals.pop(voter, None)
        else:
            self.refusals[voter] = reply.reason

    @property
    def won(self) -> bool:
        """Has a quorum voted for the candidate?"""
        return self.configuration.is_quorum(self.votes)

    @property
    def lost(self) -> bool:
        """Have so many refused that the others are no quorum?"""
        return not self.configuration.is_quorum(set(self.configuration.members) - self.refusals.keys())
