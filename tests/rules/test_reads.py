"""Confirmation rounds: which reads an acknowledgement may release."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rules.building import N1, N2, N3, N4, THREE
from trio_raft._messages import ServerId
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.reads import BadRound, ReadRounds


def test_join_before_anything_left_shares_a_round() -> None:
    """Reads that arrive before a heartbeat leaves share its round; later ones need the next (Q4)."""
    rounds = ReadRounds()
    assert (rounds.current, rounds.join(), rounds.join(), rounds.current) == (0, 1, 1, 1)
    assert rounds.sent() == 1
    assert (rounds.join(), rounds.join(), rounds.sent(), rounds.join()) == (2, 2, 2, 3)


def test_sent_without_reads_opens_nothing() -> None:
    """Heartbeats that no read asked for carry the same round again."""
    rounds = ReadRounds()
    assert (rounds.sent(), rounds.sent(), rounds.join(), rounds.sent(), rounds.sent()) == (0, 0, 1, 1, 1)


def test_confirmed_needs_a_quorum_of_voters() -> None:
    """A round is confirmed by a majority of voters, the leader among them; a learner adds nothing (Q4)."""
    configuration = Configuration((N1, N2, N3), (N4,))
    rounds = ReadRounds()
    rounds.join()
    rounds.sent()
    assert rounds.confirmed(configuration, N1) == 0
    rounds.acknowledge(N4, 1)
    assert rounds.confirmed(configuration, N1) == 0
    rounds.acknowledge(N3, 1)
    assert rounds.confirmed(configuration, N1) == 1


def test_confirmed_alone() -> None:
    """A leader that is the only voter confirms by itself."""
    rounds = ReadRounds()
    assert rounds.join() == rounds.confirmed(Configuration((N1,)), N1) == 1


def test_acknowledgement_of_an_earlier_round_confirms_no_later_one() -> None:
    """An answer to a heartbeat that left before the read arrived does not release it (Q4)."""
    rounds = ReadRounds()
    rounds.join()
    rounds.sent()
    late = rounds.join()
    rounds.sent()
    rounds.acknowledge(N2, 1)
    assert rounds.confirmed(THREE, N1) == 1 < late
    assert (rounds.outstanding(N2), rounds.outstanding(N3)) == (True, True)
    rounds.acknowledge(N2, 2)
    rounds.acknowledge(N2, 1)
    assert rounds.confirmed(THREE, N1) == late
    assert (rounds.outstanding(N2), rounds.outstanding(N3)) == (False, True)


def test_nothing_outstanding_without_reads() -> None:
    """Round 0 waits for nobody."""
    assert not ReadRounds().outstanding(N2)


def test_acknowledge_refuses_a_round_to_come() -> None:
    """A peer cannot acknowledge in advance what no read has asked yet (Q4)."""
    rounds = ReadRounds()
    rounds.join()
    with pytest.raises(BadRound, match="round 2, but the newest is 1"):
        rounds.acknowledge(N2, 2)
    rounds.join()
    assert rounds.confirmed(THREE, N1) == 0


@given(
    steps=st.lists(
        st.one_of(
            st.just(("read", N1)),
            st.sampled_from([("send", N2), ("send", N3)]),
            st.sampled_from([("answer", N2), ("answer", N3)]),
        ),
        max_size=40,
    )
)
def test_released_reads_were_confirmed_after_they_arrived(steps: list[tuple[str, ServerId]]) -> None:
    """A read is released only by an answer to a heartbeat that left after it arrived, and then it is (Q4)."""
    rounds = ReadRounds()
    reads: list[tuple[int, int]] = []  # (time of arrival, round)
    under_way: dict[ServerId, list[tuple[int, int]]] = {N2: [], N3: []}  # (time of sending, round)
    newest_answered = -1  # when the newest answered heartbeat had left
    for time, (what, server) in enumerate(steps):
        if what == "read":
            reads.append((time, rounds.join()))
        elif what == "send":
            under_way[server].append((time, rounds.sent()))
        elif under_way[server]:
            sent_at, number = under_way[server].pop()  # the newest first: answers overtake each other
            rounds.acknowledge(server, number)
            newest_answered = max(newest_answered, sent_at)
        confirmed = rounds.confirmed(THREE, N1)
        assert [number <= confirmed for _, number in reads] == [at < newest_answered for at, _ in reads]
