"""The life of a vote: what is asked, who gets it, and what counts."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rules.building import (
    N1,
    N2,
    N3,
    N4,
    N5,
    THREE,
    candidate,
    compacted,
    follower,
    leader,
    log_of,
    servers,
)
from trio_raft._messages import RequestVote, RequestVoteReply, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._rules import request_vote
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log
from trio_raft._rules.request_vote import Tally, VoteDecision
from trio_raft._rules.state import Role, State


def ask(term: int, last: tuple[int, int] = (9, 9), *, pre_vote: bool = False, by: ServerId = N2) -> RequestVote:
    """A request whose log ends at (index, term)."""
    return RequestVote(
        term=Term(term),
        candidate=by,
        last_log_index=LogIndex(last[0]),
        last_log_term=Term(last[1]),
        pre_vote=pre_vote,
    )


def facts(state: State) -> tuple[object, ...]:
    return (state.current_term, state.role, state.voted_for, state.leader, state.commit_index)


# ---------------------------------------------------------------------------------------------- make


def test_make_pre_vote_names_the_next_term() -> None:
    """A pre-vote asks about the term that would come, and nothing has changed by asking (E6)."""
    state = follower(log_of(1, 1, 3), term=4)
    state.enter(Term(4), Role.CANDIDATE)
    assert request_vote.make(state, pre_vote=True) == ask(5, (3, 3), pre_vote=True, by=N1)
    assert facts(state) == (4, Role.CANDIDATE, None, None, 0)


def test_make_vote_names_the_current_term() -> None:
    """A candidate asks for votes in the term in which it stands."""
    assert request_vote.make(candidate(Log(memory_bytes=0), term=4), pre_vote=False) == ask(4, (0, 0), by=N1)


@pytest.mark.parametrize("pre_vote", [True, False])
@pytest.mark.parametrize("make", [follower, leader])
def test_make_only_as_candidate(make: Callable[..., State], pre_vote: bool) -> None:
    """Followers and leaders ask for no votes."""
    with pytest.raises(AssertionError, match="must not ask"):
        request_vote.make(make(log_of(1), term=4), pre_vote=pre_vote)


def test_make_vote_only_after_a_pre_vote_was_won() -> None:
    """A candidate that has not entered its new term yet asks for pre-votes only (E8)."""
    state = follower(log_of(1), term=4)
    state.enter(Term(4), Role.CANDIDATE)
    with pytest.raises(AssertionError, match="must not ask for a vote"):
        request_vote.make(state, pre_vote=False)


def test_make_not_after_losing_the_right_to_campaign() -> None:
    """A candidate whose latest configuration no longer has it as a voter asks nobody any more (E7)."""
    state = candidate(log_of(1), term=4)
    state.configuration = Configuration((N2, N3), (N1,))
    for pre_vote in (True, False):
        with pytest.raises(AssertionError, match="must not ask"):
            request_vote.make(state, pre_vote=pre_vote)


# ---------------------------------------------------------------------------------------------- answer


@pytest.mark.parametrize(
    ("pre_vote", "term", "sticky", "ready", "granted", "adopted"),
    [
        # a vote: refused without a trace, refused as stale, judged in this term, adopted and judged
        (False, 6, False, False, False, None),
        (False, 6, True, True, False, None),
        (False, 4, False, True, False, None),
        (False, 5, False, True, True, None),
        (False, 6, False, True, True, 6),
        (False, 60, False, True, True, 60),
        # a pre-vote: granted for a later term only, and never adopted
        (True, 6, False, False, False, None),
        (True, 6, True, True, False, None),
        (True, 4, False, True, False, None),
        (True, 5, False, True, False, None),
        (True, 6, False, True, True, None),
        (True, 60, False, True, True, None),
    ],
)
def test_answer_table(pre_vote: bool, term: int, sticky: bool, ready: bool, granted: bool, adopted: int | None) -> None:
    """Each row of the table: stickiness and bootstrap refuse without a trace, pre-votes adopt nothing (E6, E8, O1)."""
    state = follower(log_of(1), term=5)
    before = facts(state)
    decision = request_vote.answer(state, ask(term, pre_vote=pre_vote), sticky=sticky, ready=ready)
    assert (decision.granted, decision.adopt_term) == (granted, adopted)
    assert bool(decision.reason) is not granted
    assert facts(state) == before


FRESHNESS = [
    # their (index, term) against a log that ends at index 3 of term 4
    ((3, 4), True),
    ((4, 4), True),
    ((1, 5), True),
    ((2, 4), False),
    ((99, 3), False),
    ((0, 0), False),
]


@pytest.mark.parametrize("pre_vote", [True, False])
@pytest.mark.parametrize(("last", "fresh"), FRESHNESS)
def test_answer_compares_last_term_then_last_index(last: tuple[int, int], fresh: bool, pre_vote: bool) -> None:
    """A higher last term wins over any length, and length decides between equal terms (E3)."""
    state = follower(log_of(1, 4, 4), term=5)
    decision = request_vote.answer(state, ask(6, last, pre_vote=pre_vote), sticky=False, ready=True)
    assert decision.granted is fresh


@pytest.mark.parametrize(("last", "fresh"), FRESHNESS)
def test_answer_freshness_after_restart_and_after_a_snapshot(last: tuple[int, int], fresh: bool) -> None:
    """The last entry is known as well when it was recovered or is the snapshot's (E3)."""
    recovered = Log.recovered(
        term_runs=((LogIndex(1), Term(1)), (LogIndex(2), Term(4))),
        last_index=LogIndex(3),
        tail=(),
        memory_bytes=0,
    )
    restarted = Log.recovered(
        base_index=LogIndex(3), base_term=Term(4), term_runs=(), last_index=LogIndex(3), tail=(), memory_bytes=0
    )
    replaced = log_of(1, 1, 1, 1, 2)
    replaced.reset(LogIndex(3), Term(4))
    for log in (recovered, compacted(log_of(1, 4, 4), up_to=3), restarted, replaced):
        decision = request_vote.answer(follower(log, term=5), ask(6, last), sticky=False, ready=True)
        assert decision.granted is fresh


def test_answer_stale_log_teaches_the_term_without_the_vote() -> None:
    """Learning a term is not granting a vote in it (E4)."""
    state = follower(log_of(1, 4, 4), term=5)
    decision = request_vote.answer(state, ask(8, (2, 4)), sticky=False, ready=True)
    assert decision == VoteDecision(
        granted=False, adopt_term=Term(8), reason="its log ends at index 2 of term 4, this one at 3 of term 4"
    )


@pytest.mark.parametrize(("voted_for", "granted"), [(None, True), (N2, True), (N3, False)])
def test_answer_one_vote_per_term(voted_for: ServerId | None, granted: bool) -> None:
    """Within a term only the candidate that has the vote gets it again (E1)."""
    state = follower(log_of(1), term=5)
    state.voted_for = voted_for
    decision = request_vote.answer(state, ask(5), sticky=False, ready=True)
    assert (decision.granted, decision.adopt_term) == (granted, None)


def test_answer_vote_of_an_older_term_does_not_bind() -> None:
    """A vote given in an earlier term is no obstacle in a later one."""
    state = follower(log_of(1), term=5)
    state.record_vote(N3)
    assert request_vote.answer(state, ask(6), sticky=False, ready=True).granted


def test_answer_repeated_request_checks_the_log_again() -> None:
    """The same vote is not granted again to a log that has fallen behind meanwhile (E1)."""
    state = follower(log_of(1), term=5)
    assert request_vote.answer(state, ask(5, (1, 1)), sticky=False, ready=True).granted
    state.record_vote(N2)
    state.log.append(log_of(1, 5).entry(LogIndex(2)) or pytest.fail("no entry"))
    assert not request_vote.answer(state, ask(5, (1, 1)), sticky=False, ready=True).granted


@pytest.mark.parametrize("make", [candidate, leader])
def test_answer_candidate_and_leader_keep_their_own_vote(make: Callable[..., State]) -> None:
    """Whoever stands or leads in a term votes for nobody else in it (E1)."""
    decision = request_vote.answer(make(log_of(1), term=5), ask(5), sticky=False, ready=True)
    assert (decision.granted, decision.adopt_term) == (False, None)


def test_answer_candidate_that_asks_for_pre_votes_keeps_its_vote() -> None:
    """A server about to stand in the next term gives none in this one."""
    state = follower(log_of(1), term=5)
    state.enter(Term(5), Role.CANDIDATE)
    decision = request_vote.answer(state, ask(5), sticky=False, ready=True)
    assert decision == VoteDecision(granted=False, adopt_term=None, reason="this server is itself candidate")


@pytest.mark.parametrize("configuration", [Configuration((N2, N3), (N1,)), Configuration((N2, N3, N4))])
def test_answer_does_not_ask_for_membership(configuration: Configuration) -> None:
    """A learner, or a server unknown to its own configuration, votes by the same rules (E7)."""
    state = follower(log_of(1), term=5, configuration=configuration)
    assert request_vote.answer(state, ask(6, by=N5), sticky=False, ready=True).granted


# ---------------------------------------------------------------------------------------------- reply


def test_reply_carries_the_voters_term() -> None:
    """Whatever the decision, the asker learns the voter's term and which request is meant (E4, E5)."""
    state = follower(log_of(1), term=9)
    request = ask(5, pre_vote=True)
    decision = request_vote.answer(state, request, sticky=False, ready=True)
    assert request_vote.reply(state, request, decision) == RequestVoteReply(
        term=Term(9),
        granted=False,
        pre_vote=True,
        requested_term=Term(5),
        reason="term 9 is further than 5",
    )


def test_reply_refuses_to_claim_a_vote_that_was_not_recorded() -> None:
    """A granted vote is not stated before it was recorded in its term (E1)."""
    state = follower(log_of(1), term=5)
    request = ask(6)
    decision = request_vote.answer(state, request, sticky=False, ready=True)
    with pytest.raises(AssertionError, match="has not recorded"):
        request_vote.reply(state, request, decision)
    state.enter(Term(6), Role.FOLLOWER)
    with pytest.raises(AssertionError, match="has not recorded"):
        request_vote.reply(state, request, decision)
    state.record_vote(N2)
    assert request_vote.reply(state, request, decision).granted


def test_reply_to_a_pre_vote_needs_no_record() -> None:
    """A granted pre-vote is stated without any trace at the voter (E6)."""
    state = follower(log_of(1), term=5)
    request = ask(6, pre_vote=True)
    reply = request_vote.reply(state, request, request_vote.answer(state, request, sticky=False, ready=True))
    assert (reply.granted, reply.term, state.voted_for) == (True, 5, None)


# ---------------------------------------------------------------------------------------------- count


def vote(granted: bool = True, *, term: int = 6, pre_vote: bool = False) -> RequestVoteReply:
    return RequestVoteReply(
        term=Term(term), granted=granted, pre_vote=pre_vote, requested_term=Term(term), reason="" if granted else "no"
    )


def tally(configuration: Configuration = THREE, *, own: ServerId = N1) -> Tally:
    return Tally(configuration, term=Term(6), pre_vote=False, own=own)


def test_tally_counts_each_voter_once() -> None:
    """The same voter's vote, however often it arrives, is one vote (E4)."""
    five = tally(Configuration((N1, N2, N3, N4, N5)))
    for _ in range(5):
        five.count(N2, vote())
    assert (five.votes, five.won, five.lost) == ({N1, N2}, False, False)
    five.count(N3, vote())
    assert five.won


@pytest.mark.parametrize("reply", [vote(term=5), vote(term=7), vote(pre_vote=True)])
def test_tally_ignores_other_rounds(reply: RequestVoteReply) -> None:
    """A reply of another term, or a pre-vote among votes, does not count (E4, E6)."""
    round_of_three = tally()
    round_of_three.count(N2, reply)
    assert (round_of_three.votes, round_of_three.won) == ({N1}, False)


def test_tally_ignores_who_does_not_vote() -> None:
    """Learners and strangers neither elect nor prevent an election, and a non-voter does not count itself (E4)."""
    round_of_three = tally(Configuration((N1, N2, N3), (N4,)))
    for stranger in (N4, N5):
        round_of_three.count(stranger, vote())
        round_of_three.count(stranger, vote(False))
    assert (round_of_three.votes, round_of_three.refusals) == ({N1}, {})
    assert tally(own=N5).votes == set()


def test_tally_lost_once_the_rest_is_no_quorum() -> None:
    """A round is lost as soon as too few voters are left, and not before."""
    five = tally(Configuration((N1, N2, N3, N4, N5)))
    five.count(N2, vote(False))
    five.count(N3, vote(False))
    assert (five.lost, five.refusals) == (False, {N2: "no", N3: "no"})
    five.count(N2, vote(True))
    assert five.votes == {N1}
    five.count(N4, vote(False))
    assert (five.lost, five.won) == (True, False)


def test_tally_single_voter_wins_at_once() -> None:
    """A server that is the only voter needs nobody else."""
    assert tally(Configuration((N1,))).won


@given(
    voters=st.integers(1, 7),
    replies=st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(5, 7)), max_size=20),
)
def test_tally_agrees_with_a_list_of_first_replies(voters: int, replies: list[tuple[int, bool, int]]) -> None:
    """An election is won by a majority of each voter's first reply in this very term, in whatever order (E4, R7)."""
    names = servers(*(f"n{number}" for number in range(9)))
    electorate = names[:voters]
    counted = Tally(Configuration(electorate), term=Term(6), pre_vote=False, own=names[0])
    first = {names[0]: True}
    for number, granted, term in replies:
        counted.count(names[number], vote(granted, term=term))
        if term == 6 and names[number] in electorate:
            first.setdefault(names[number], granted)
    assert counted.won is more_than_half(first.values(), of=voters)
    assert counted.lost is not more_than_half((first.get(name, True) for name in electorate), of=voters)


def more_than_half(votes: Iterable[bool], *, of: int) -> bool:
    yes = sum(votes)
    return yes > of - yes
