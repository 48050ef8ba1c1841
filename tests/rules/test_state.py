"""The table of transitions, cell by cell, and what each of them does to vote and leader."""

from collections.abc import Callable

import pytest

from tests.rules.building import N1, N2, N3, THREE, candidate, compacted, follower, leader, log_of
from trio_raft._messages import ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.state import IllegalTransition, Role, State

TERM = 5


def asking_for_pre_votes() -> State:
    state = follower(log_of(1), term=TERM)
    state.enter(Term(TERM), Role.CANDIDATE)
    return state


def in_role(role: Role) -> State:
    make = {Role.FOLLOWER: follower, Role.CANDIDATE: candidate, Role.LEADER: leader}[role]
    return make(log_of(1), term=TERM)


LEGAL = {
    (Role.FOLLOWER, Role.FOLLOWER): {0, 1, 2, 50},
    (Role.FOLLOWER, Role.CANDIDATE): {0, 1},
    (Role.CANDIDATE, Role.FOLLOWER): {0, 1, 2, 50},
    (Role.CANDIDATE, Role.CANDIDATE): {0, 1},
    (Role.CANDIDATE, Role.LEADER): {0},
    (Role.LEADER, Role.FOLLOWER): {0, 1, 2, 50},
}


def facts(state: State) -> tuple[object, ...]:
    return (
        state.current_term,
        state.role,
        state.voted_for,
        state.leader,
        state.standing,
        state.last_led_term,
    )


@pytest.mark.parametrize("steps", [-5, -1, 0, 1, 2, 50])
@pytest.mark.parametrize("target", Role)
@pytest.mark.parametrize("source", Role)
def test_enter_each_cell_of_the_table(source: Role, target: Role, steps: int) -> None:
    """Every transition of the table is made, and any other raises and changes nothing; no term falls (E8)."""
    state = in_role(source)
    before = facts(state)
    if steps in LEGAL.get((source, target), set()):
        state.enter(Term(TERM + steps), target)
        assert (state.current_term, state.role) == (TERM + steps, target)
    else:
        with pytest.raises(IllegalTransition):
            state.enter(Term(TERM + steps), target)
        assert facts(state) == before


def test_enter_higher_term_clears_vote_and_leader() -> None:
    """A vote and a leader belong to one term (E1)."""
    state = follower(log_of(1), term=TERM)
    state.record_vote(N2)
    state.follow(N2)
    state.enter(Term(TERM + 1), Role.FOLLOWER)
    assert (state.voted_for, state.leader) == (None, None)


@pytest.mark.parametrize("through", [Role.FOLLOWER, Role.CANDIDATE])
def test_enter_same_term_keeps_the_vote(through: Role) -> None:
    """While the term stays, so does the vote, whatever role the server takes (E1)."""
    state = follower(log_of(1), term=TERM)
    state.record_vote(N2)
    state.enter(Term(TERM), through)
    state.enter(Term(TERM), Role.FOLLOWER)
    assert state.voted_for == N2


def test_enter_pre_vote_knows_no_leader_and_asks_for_no_votes() -> None:
    """Asking for pre-votes forgets the silent leader, and changes neither term nor vote (E6, E8)."""
    state = follower(log_of(1), term=TERM)
    state.follow(N2)
    state.enter(Term(TERM), Role.CANDIDATE)
    assert facts(state) == (TERM, Role.CANDIDATE, None, None, False, 0)


def test_enter_candidate_of_next_term_votes_for_itself() -> None:
    """A server stands in exactly the next term, with its own vote."""
    state = asking_for_pre_votes()
    state.enter(Term(TERM + 1), Role.CANDIDATE)
    assert facts(state) == (TERM + 1, Role.CANDIDATE, N1, None, True, 0)


def test_enter_candidate_again_in_the_same_term_still_stands() -> None:
    """Another round of pre-votes in a term that it stands in takes nothing from the candidate."""
    state = candidate(log_of(1), term=TERM)
    state.enter(Term(TERM), Role.CANDIDATE)
    assert facts(state) == (TERM, Role.CANDIDATE, N1, None, True, 0)


def test_enter_leader() -> None:
    """A winner leads the term in which it stood."""
    assert facts(leader(log_of(1), term=TERM)) == (TERM, Role.LEADER, N1, N1, False, TERM)


def test_enter_leader_needs_a_candidacy_of_this_life() -> None:
    """A server that restarts with its own vote in a term does not lead that term on the strength of it."""
    state = follower(log_of(1), term=TERM)
    state.voted_for = N1
    state.enter(Term(TERM), Role.CANDIDATE)
    with pytest.raises(IllegalTransition, match="does not stand"):
        state.enter(Term(TERM), Role.LEADER)


def test_enter_leader_never_twice_in_one_term() -> None:
    """A leader that stepped down does not lead the same term again."""
    state = leader(log_of(1), term=TERM)
    state.enter(Term(TERM), Role.FOLLOWER)
    assert facts(state) == (TERM, Role.FOLLOWER, N1, None, False, TERM)
    state.enter(Term(TERM), Role.CANDIDATE)
    with pytest.raises(IllegalTransition, match="does not stand"):
        state.enter(Term(TERM), Role.LEADER)
    state.standing = True
    with pytest.raises(IllegalTransition, match="led by n1 already"):
        state.enter(Term(TERM), Role.LEADER)


def test_enter_leader_not_with_a_vote_for_another() -> None:
    """A candidate without its own vote cannot have won."""
    state = candidate(log_of(1), term=TERM)
    state.voted_for = N2
    with pytest.raises(IllegalTransition, match="its vote is n2"):
        state.enter(Term(TERM), Role.LEADER)


@pytest.mark.parametrize("learners", [(), (N1,)])
def test_enter_candidate_only_as_a_voter(learners: tuple[ServerId, ...]) -> None:
    """Only a voter of its own latest configuration campaigns: no learner, and nobody from outside (E7)."""
    state = follower(log_of(1), term=TERM, configuration=Configuration((N2, N3), learners))
    assert not state.may_campaign
    for term in (TERM, TERM + 1):
        with pytest.raises(IllegalTransition, match="no voter"):
            state.enter(Term(term), Role.CANDIDATE)
    state.configuration = THREE
    state.enter(Term(TERM), Role.CANDIDATE)
    assert state.may_campaign


def test_record_vote_once_per_term() -> None:
    """A term's vote is given to one candidate, to that one as often as it asks (E1)."""
    state = follower(log_of(1), term=TERM)
    state.record_vote(N2)
    state.record_vote(N2)
    with pytest.raises(AssertionError, match="cannot give it to n3"):
        state.record_vote(N3)
    assert state.voted_for == N2


@pytest.mark.parametrize("make", [asking_for_pre_votes, lambda: in_role(Role.LEADER)])
def test_record_vote_only_as_follower(make: Callable[..., State]) -> None:
    """A candidate and a leader give no vote away."""
    with pytest.raises(AssertionError, match="cannot give it"):
        make().record_vote(N2)


def test_follow_one_leader_per_term() -> None:
    """Two leaders in one term are noticed, even if the first one was given up in between (paper 5.2)."""
    state = follower(log_of(1), term=TERM)
    state.follow(N2)
    state.follow(N2)
    state.enter(Term(TERM), Role.CANDIDATE)
    state.enter(Term(TERM), Role.FOLLOWER)
    assert state.leader is None
    with pytest.raises(AssertionError, match="two leaders in term 5: n2 and n3"):
        state.follow(N3)
    state.follow(N2)
    assert state.leader == N2


def test_follow_not_after_leading() -> None:
    """Whoever led a term sees nobody else lead it."""
    state = leader(log_of(1), term=TERM)
    with pytest.raises(AssertionError, match="cannot follow"):
        state.follow(N2)
    state.enter(Term(TERM), Role.FOLLOWER)
    for other, message in ((N2, "two leaders"), (N1, "cannot follow n1")):
        with pytest.raises(AssertionError, match=message):
            state.follow(other)


@pytest.mark.parametrize(("index", "legal"), [(1, False), (2, True), (3, True), (4, False)])
def test_raise_commit_within_the_log(index: int, legal: bool) -> None:
    """The commit index never falls and never passes the end of the log."""
    state = follower(log_of(1, 1, 1), term=TERM)
    state.raise_commit(LogIndex(2))
    if legal:
        state.raise_commit(LogIndex(index))
    else:
        with pytest.raises(AssertionError, match="commit index cannot go from 2"):
            state.raise_commit(LogIndex(index))
    assert state.commit_index == (index if legal else 2)


@pytest.mark.parametrize(("given", "expected"), [(0, 2), (1, 2), (3, 3)])
def test_commit_index_is_never_below_the_base(given: int, expected: int) -> None:
    """What was compacted is committed, so a server that comes back knows that (N3)."""
    log = compacted(log_of(1, 1, 1), up_to=2)
    state = State(node_id=N1, log=log, configuration=THREE, commit_index=LogIndex(given))
    assert (state.commit_index, state.last_applied) == (expected, 0)


@pytest.mark.parametrize(("index", "legal"), [(1, False), (2, True), (3, True), (4, False)])
def test_restored_between_applied_and_committed(index: int, legal: bool) -> None:
    """A restored state machine never goes back, and never ahead of what is committed (N3)."""
    state = follower(compacted(log_of(1, 1, 1, 1), up_to=3), term=TERM)
    state.last_applied = LogIndex(2)
    if legal:
        state.restored(LogIndex(index))
    else:
        with pytest.raises(AssertionError, match="cannot be restored to"):
            state.restored(LogIndex(index))
    assert state.last_applied == (index if legal else 2)
