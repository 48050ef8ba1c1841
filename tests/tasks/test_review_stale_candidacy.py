"""What a pre-vote quorum permits, and for how long."""

import trio
from trio.testing import MockClock

from tests.tasks.parts import N2, lead_term, make_server
from trio_raft._election import campaign
from trio_raft._messages import Heartbeat, RequestVoteReply
from trio_raft._records import Term
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.request_vote import Tally
from trio_raft._rules.state import Role


async def test_pre_votes_expire_with_their_candidacy(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A candidate that follows the winner of its new term before it could ask for votes starts over with a pre-vote
    when that leader falls silent in the same term (E4, E8).
    """
    server = await make_server(term=3)
    nursery.start_soon(server.journal.run)
    server.transition(Term(3), Role.CANDIDATE, "the test says so")
    # As a pre-vote round does once it has its quorum.
    server.transition(Term(4), Role.CANDIDATE, "the test says so")
    server.candidacy_term = Term(4)
    server.answer_heartbeat(Heartbeat(Term(4), N2, 0))
    assert server.state.role is Role.FOLLOWER
    server.transition(Term(4), Role.CANDIDATE, "the test says so")
    await campaign(server)
    assert (server.state.role, server.state.current_term) == (Role.CANDIDATE, 4)
    assert "pre-votes needed for term 5" in server.campaign_report


async def test_leading_ends_the_candidacy() -> None:
    """A leader that steps down holds no pre-votes from before (E8)."""
    server = await make_server()
    server.candidacy_term = Term(1)
    lead_term(server, 1)
    server.step_down("the test says so")
    assert server.candidacy_term is None


def reply(*, granted: bool, pre_vote: bool) -> RequestVoteReply:
    return RequestVoteReply(Term(3), granted, pre_vote, Term(4), "" if granted else "a leader is heard in term 3")


def test_refused_pre_vote_may_be_granted_later() -> None:
    """A voter that refused a pre-vote and grants it when asked again counts, once; a vote refused stays refused
    (E4).
    """
    three = Configuration(("n1", "n2", "n3"))  # type: ignore[arg-type]
    for pre_vote in (True, False):
        tally = Tally(three, term=Term(4), pre_vote=pre_vote, own=N2)
        for granted in (False, True, True):
            tally.count("n1", reply(granted=granted, pre_vote=pre_vote))  # type: ignore[arg-type]
        assert tally.won is pre_vote
        assert tally.votes == ({"n1", N2} if pre_vote else {N2})
        assert (not tally.refusals) is pre_vote
