"""Quorums against brute force."""

from collections.abc import Mapping
from itertools import chain, combinations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rules.building import N1, N2, N3, N4, N5, servers
from trio_raft._messages import ServerId
from trio_raft._rules.configuration import Configuration

NAMES = servers(*(f"s{number}" for number in range(1, 11)))


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """1 to 7 voters, and up to 3 learners, in any order."""
    names = draw(st.permutations(NAMES))
    voters, learners = draw(st.integers(1, 7)), draw(st.integers(0, 3))
    return Configuration(tuple(names[:voters]), tuple(names[7 : 7 + learners]))


def majorities(voters: tuple[ServerId, ...]) -> list[set[ServerId]]:
    """Every subset of more than half, found by trying all subsets."""
    subsets = chain.from_iterable(combinations(voters, size) for size in range(len(voters) + 1))
    return [set(subset) for subset in subsets if len(subset) > len(voters) - len(subset)]


@given(configuration=configurations(), agreeing=st.sets(st.sampled_from(NAMES)))
def test_is_quorum_agrees_with_brute_force(configuration: Configuration, agreeing: set[ServerId]) -> None:
    """Servers are a quorum exactly if they contain a majority of 1 to 7 voters; learners add nothing (R7)."""
    expected = any(majority <= agreeing for majority in majorities(configuration.voters))
    assert configuration.is_quorum(agreeing) is expected


@given(
    configuration=configurations(),
    values=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 12)),
)
def test_quorum_value_agrees_with_brute_force(configuration: Configuration, values: Mapping[ServerId, int]) -> None:
    """The quorum's value is the highest that all of some majority has reached; learners never count (R2, R7)."""
    reached = [
        min(values[server] for server in majority)
        for majority in majorities(configuration.voters)
        if majority <= values.keys()
    ]
    assert configuration.quorum_value(values) == (max(reached) if reached else None)


@attrs.frozen
class TwoSets(Configuration):
    """A configuration that needs two majorities, as a joint one will."""

    def voter_sets(self) -> tuple[tuple[ServerId, ...], ...]:
        return (self.voters, (N1, N4, N5))


def test_every_set_must_agree() -> None:
    """With two sets of voters both need a majority, and the lower value counts."""
    both = TwoSets((N1, N2, N3))
    assert both.is_quorum({N1, N2, N4})
    assert not both.is_quorum({N1, N2, N3})
    assert not both.is_quorum({N1, N4, N5})
    assert both.quorum_value({N1: 9, N2: 8, N3: 7, N4: 3, N5: 1}) == 3
    assert both.quorum_value({N1: 9, N2: 2, N3: 1, N4: 5, N5: 4}) == 2
    assert both.quorum_value({N1: 9, N2: 8, N3: 7}) is None
    assert both.is_voter(N5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [({N1: 0.5}, None), ({N1: 0.5, N2: 0.25}, 0.25), ({N1: 0.5, N2: 0.25, N3: 0.4}, 0.4), ({}, None)],
)
def test_quorum_value_of_times(values: Mapping[ServerId, float], expected: float | None) -> None:
    """Any ordered value has a quorum's, a time in seconds too."""
    assert Configuration((N1, N2, N3)).quorum_value(values) == expected


def test_members_sorted_and_roles() -> None:
    """A configuration is the same however it was spelled, and knows who votes (E7)."""
    configuration = Configuration((N3, N1), (N4, N2))
    assert configuration == Configuration((N1, N3), (N2, N4))
    assert configuration.members == (N1, N2, N3, N4)
    assert [configuration.is_voter(server) for server in (N1, N2, N3, N5)] == [True, False, True, False]


@pytest.mark.parametrize(("voters", "learners"), [((), ()), ((), (N1,)), ((N1, N1), ()), ((N1, N2), (N2,))])
def test_illegal_configurations(voters: tuple[ServerId, ...], learners: tuple[ServerId, ...]) -> None:
    """Without a voter, or with a server named twice, there is no configuration."""
    with pytest.raises(ValueError, match=r"at least one voter|named twice"):
        Configuration(voters, learners)
