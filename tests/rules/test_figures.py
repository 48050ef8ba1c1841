"""The figures and arguments of the paper, played through on clusters of rules."""

from collections.abc import Sequence

import pytest

from tests.rules.building import N1, N2, N3, N4, N5, THREE, entries
from tests.rules.cluster import Cluster, Node, Violation
from trio_raft._messages import ServerId
from trio_raft._records import EntryKind, Term
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.state import Role

FIVE = Configuration((N1, N2, N3, N4, N5))


def put(node: Node, terms: Sequence[int], *, term: int = 0) -> None:
    """Give a server this log, as if it had always had it, and the given current term, or that of its last entry."""
    node.disk = entries(1, terms)
    node.durable_vote = (Term(max(term, *terms, 0)), None)
    node.restart()


def terms(node: Node) -> list[int]:
    return [each.term for each in node.disk]


def outcome(node: Node) -> tuple[Role, int]:
    return node.state.role, node.state.current_term


def make_lead(cluster: Cluster, name: ServerId, *others: ServerId) -> Node:
    """Let a server campaign until it leads: the first rounds may only teach it the others' term."""
    for _ in range(3):
        if cluster.elect(name, *others).state.role is Role.LEADER:
            return cluster.nodes[name]
    raise AssertionError(f"{name} cannot win among {others}")


# ---------------------------------------------------------------------------------------------- Figure 7

LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]


@pytest.mark.parametrize(
    ("held", "rejections"),
    [
        ([1, 1, 1, 4, 4, 5, 5, 6, 6], 1),
        ([1, 1, 1, 4], 1),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6], 0),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7], 0),
        ([1, 1, 1, 4, 4, 4, 4], 2),
        ([1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], 1),
    ],
    ids=["a", "b", "c", "d", "e", "f"],
)
def test_figure_7_leader_repairs_follower(held: list[int], rejections: int) -> None:
    """Each follower of Figure 7 comes to agree with the leader, one round trip per divergent term (R4, R8)."""
    cluster = Cluster(THREE)
    put(cluster.nodes[N1], LEADER, term=7)
    put(cluster.nodes[N2], held, term=7)
    leader = cluster.elect(N1, N3)
    assert outcome(leader) == (Role.LEADER, 8)
    cluster.replicate_all(leader, N2)
    assert terms(cluster.nodes[N2]) == [*LEADER, 8]
    assert leader.state.commit_index == cluster.nodes[N2].state.commit_index == 11
    assert cluster.rejections == rejections


# ---------------------------------------------------------------------------------------------- Figure 8


def figure_8_up_to_c() -> Cluster:
    """Index 2 of term 2 stands on S1, S2 and S3, a majority, while S1 leads term 4; S5 has another one of term 3."""
    cluster = Cluster(FIVE)
    for node in cluster.nodes.values():
        put(node, [1])
    s1, s5 = cluster.nodes[N1], cluster.nodes[N5]
    # (a) S1 leads term 2 and gets index 2 to S2 alone.
    make_lead(cluster, N1, N2, N3)
    cluster.replicate_all(s1, N2)
    # (b) S1 crashes; S3 and S4 elect S5 for term 3, which takes its own entry at index 2 and gets it to nobody.
    s1.crash()
    make_lead(cluster, N5, N3, N4)
    # (c) S5 crashes; S1 returns, leads term 4, and goes on with index 2 of term 2, which reaches S3.
    s5.crash()
    s1.restart()
    make_lead(cluster, N1, N2, N3)
    assert outcome(s1) == (Role.LEADER, 4)
    s1.replicate(N2, bare=True)
    while s1.followers[N3].match_index < 2:
        s1.replicate(N3, max_entries=1)
        cluster.deliver(cluster.among(N1, N2, N3))
    assert [terms(node) for node in cluster.nodes.values()] == [[1, 2, 4], [1, 2], [1, 2], [1], [1, 3]]
    return cluster


def test_figure_8_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """An entry of an older term on a majority is not committed, since it can yet be overwritten (R2)."""
    cluster = figure_8_up_to_c()
    s1, s5 = cluster.nodes[N1], cluster.nodes[N5]
    assert [progress.match_index for progress in s1.followers.values()] == [2, 2, 0, 0]
    assert s1.state.commit_index <= 1
    # (d) S1 crashes; S5 returns, is elected with a later last term, and overwrites index 2 everywhere.
    s1.crash()
    s5.restart()
    make_lead(cluster, N5, N2, N3, N4)
    cluster.replicate_all(s5, N2, N3, N4)
    assert [terms(cluster.nodes[name])[:2] for name in (N2, N3, N4, N5)] == [[1, 3]] * 4
    cluster.check()


def test_figure_8_entry_of_the_own_term_commits_what_is_below() -> None:
    """Once an entry of its own term is on a majority all before it is committed, and S5 cannot win (R2, E3)."""
    cluster = figure_8_up_to_c()
    s1, s5 = cluster.nodes[N1], cluster.nodes[N5]
    # (e) S1 replicates index 3 of term 4 as well.
    cluster.replicate_all(s1, N2, N3)
    assert s1.state.commit_index == 3
    s1.crash()
    s5.restart()
    for _ in range(4):
        cluster.elect(N5, N2, N3, N4)
    assert s5.state.role is not Role.LEADER
    make_lead(cluster, N2, N3, N4, N5)
    cluster.check()


def test_no_op_opens_every_term() -> None:
    """A new leader commits what it inherited by an entry of its own, without any command (R2)."""
    cluster = Cluster(THREE)
    for node in cluster.nodes.values():
        put(node, [1, 1])
    leader = cluster.elect(N1, N2, N3)
    cluster.replicate_all(leader, N2, N3)
    assert leader.disk[-1].kind is EntryKind.NO_OP
    assert [node.state.commit_index for node in cluster.nodes.values()] == [3, 3, 3]


# ---------------------------------------------------------------------------------------------- elections


@pytest.mark.parametrize("first", [N1, N2])
def test_long_log_with_low_term_and_short_log_with_high_term(first: ServerId) -> None:
    """With one server down, a long log with a low term and a short log with a high term still elect a leader (E5)."""
    cluster = Cluster(THREE)
    put(cluster.nodes[N1], [1, 1, 1, 2], term=2)
    put(cluster.nodes[N2], [1], term=9)
    cluster.nodes[N3].crash()
    second = N2 if first == N1 else N1
    for name in (first, second, first, second):
        cluster.elect(name, N1, N2)
        if cluster.leaders():
            break
    assert [(node.name, node.state.current_term) for node in cluster.leaders()] == [(N1, 10)]


def test_pre_votes_of_a_server_without_a_majority_raise_no_term() -> None:
    """A server that hears nobody asks for pre-votes for ever and keeps its term (E8)."""
    cluster = Cluster(THREE)
    leader = cluster.elect(N1, N2, N3)
    cluster.replicate_all(leader, N2, N3)
    for _ in range(20):
        cluster.elect(N3)
    assert outcome(cluster.nodes[N3]) == (Role.CANDIDATE, 1)
    # Back in touch it does not depose the leader either: the leader refuses, and the others hear the leader.
    cluster.nodes[N3].time_out()
    request = cluster.bag[0]
    cluster.bag.clear()
    for name in (N1, N2):
        cluster.nodes[name].receive(request, sticky=True)
    cluster.deliver()
    assert outcome(leader) == (Role.LEADER, 1)
    cluster.replicate_all(leader, N2, N3)
    assert outcome(cluster.nodes[N3]) == (Role.FOLLOWER, 1)


def test_vote_request_refused_for_stickiness_leaves_the_term() -> None:
    """A candidate of a far higher term changes nothing at servers that hear their leader (E8)."""
    cluster = Cluster(THREE)
    leader = cluster.elect(N1, N2, N3)
    cluster.replicate_all(leader, N2, N3)
    put(cluster.nodes[N3], [1], term=40)
    removed = cluster.nodes[N3]
    removed.state.enter(Term(41), Role.CANDIDATE)
    removed._ask(pre_vote=False)
    requests, cluster.bag = cluster.bag, []
    for request in requests:
        cluster.nodes[request.target].receive(request, sticky=True)
    assert [outcome(cluster.nodes[name]) for name in (N1, N2)] == [(Role.LEADER, 1), (Role.FOLLOWER, 1)]


def test_higher_term_of_a_member_is_let_in_by_one_term_change() -> None:
    """A member with a legitimately higher term deposes the leader once, by its reply, and then follows (E8)."""
    cluster = Cluster(THREE)
    leader = cluster.elect(N1, N2, N3)
    cluster.replicate_all(leader, N2, N3)
    cluster.nodes[N3].durable_vote = (Term(40), None)
    cluster.nodes[N3].restart()
    leader.new_channel(N3)
    leader.replicate(N3)
    cluster.deliver()
    assert outcome(leader) == (Role.FOLLOWER, 40)
    cluster.elect(N1, N2, N3)
    assert outcome(leader) == (Role.LEADER, 41)
    cluster.replicate_all(leader, N2, N3)
    assert outcome(cluster.nodes[N3]) == (Role.FOLLOWER, 41)


def test_pre_vote_leaves_no_trace_at_the_voters() -> None:
    """However often pre-votes are asked and granted, voters keep term, vote and role (E6)."""
    cluster = Cluster(FIVE)
    voter = cluster.nodes[N2]
    for candidate in (N1, N3, N4):
        cluster.nodes[candidate].time_out()
    requests, cluster.bag = cluster.bag, []
    for request in requests:
        if request.target == N2:
            voter.receive(request)
    assert [getattr(message.content, "granted", None) for message in cluster.bag] == [True, True, True]
    assert (outcome(voter), voter.state.voted_for) == ((Role.FOLLOWER, 0), None)
    assert voter.durable_vote == (0, None)


def test_late_pre_votes_do_not_elect() -> None:
    """Pre-votes that arrive during the real election are no votes (E4, E6)."""
    cluster = Cluster(FIVE)
    candidate = cluster.nodes[N1]
    candidate.time_out()
    late = [message for message in cluster.bag if message.target in (N4, N5)]
    cluster.bag = [message for message in cluster.bag if message not in late]
    cluster.deliver(lambda message: getattr(message.content, "pre_vote", False))
    assert outcome(candidate) == (Role.CANDIDATE, 1)
    for message in late:
        cluster.nodes[message.target].receive(message)
    assert [getattr(message.content, "granted", None) for message in cluster.bag] == [True, True]
    cluster.deliver()
    assert outcome(candidate) == (Role.CANDIDATE, 1)
    assert candidate.tally is not None
    assert candidate.tally.votes == {N1}


def test_restarted_server_keeps_its_vote() -> None:
    """A server that voted, crashed and returned votes for nobody else in that term (E1)."""
    cluster = Cluster(THREE)
    cluster.elect(N1, N2)
    two = cluster.nodes[N2]
    assert two.durable_vote == (1, N1)
    two.crash()
    two.restart()
    three = cluster.nodes[N3]
    three.enter(Term(1), Role.CANDIDATE)
    three._ask(pre_vote=False)
    cluster.deliver(cluster.among(N2, N3))
    assert outcome(three) == (Role.CANDIDATE, 1)


def test_two_leaders_would_be_seen() -> None:
    """A follower that is shown two leaders of one term stops rather than follow both (paper 5.2)."""
    cluster = Cluster(THREE)
    leader = cluster.elect(N1, N2, N3)
    cluster.replicate_all(leader, N2, N3)
    with pytest.raises(AssertionError, match="two leaders in term 1"):
        cluster.nodes[N2].state.follow(N3)
    with pytest.raises(Violation, match="both led term 1"):
        cluster.watch.leaders[Term(1)] = N3
        cluster.watch.elected(leader)
