"""Who belongs to the cluster, and what a majority of it agrees on.

*Voters* decide: elections, commits, leases and reads all ask the same two questions, whether some servers are
a quorum, and up to which value a quorum has come.  *Learners* receive the log and count for nothing
(dissertation 4.2.1).

::

    voters n1 n2 n3 n4 n5, match indexes    9  7  7  4  2
                                                  ^ the third of five: three servers reached at least this

A quorum of one set is more than half of it, so that any two quorums share a server; that server is why two
leaders cannot have one term, and why a new leader has every committed entry (paper 5.4.3).

House rule: no rule asks for ``voters`` to count them.  They ask ``voter_sets()``, which has one set today and
will have two while a cluster moves between configurations (joint consensus, paper section 6): a quorum is one
of *every* set.
"""

from collections.abc import Container, Mapping
from typing import TypeVar

import attrs

from trio_raft._messages import ServerId
from trio_raft._records import LogIndex

Value = TypeVar("Value", bound=float)
"""Anything ordered that servers reach: a log index, a time in seconds, the number of a round."""


def _sorted_servers(servers: tuple[ServerId, ...]) -> tuple[ServerId, ...]:
    return tuple(sorted(servers))


@attrs.frozen
class Configuration:
    """The members of the cluster.  Raises ValueError without a voter, or if a server is named twice."""

    voters: tuple[ServerId, ...] = attrs.field(converter=_sorted_servers)
    """Sorted."""
    learners: tuple[ServerId, ...] = attrs.field(default=(), converter=_sorted_servers)
    """Sorted; none is a voter."""
    index: LogIndex = LogIndex(0)
    """Where in the log it stands; 0 for the one that the cluster started with, which is no entry."""

    def __attrs_post_init__(self) -> None:
        if not self.voters:
            raise ValueError("a configuration needs at least one voter")
        if len(set(self.members)) != len(self.members):
            raise ValueError(f"a server is named twice: voters {self.voters}, learners {self.learners}")

    @property
    def members(self) -> tuple[ServerId, ...]:
        """Voters and learners, sorted: everyone who receives the log."""
        return _sorted_servers(self.voters + self.learners)

    def is_voter(self, server: ServerId) -> bool:
        """Does it vote in any of the sets?"""
        return any(server in voters for voters in self.voter_sets())

    def voter_sets(self) -> tuple[tuple[ServerId, ...], ...]:
        """The sets of which each must have a majority."""
        return (self.voters,)

    def is_quorum(self, servers: Container[ServerId]) -> bool:
        """Do these servers contain a majority of every set?  Others among them count for nothing."""
        return all(2 * sum(voter in servers for voter in voters) > len(voters) for voters in self.voter_sets())

    def quorum_value(self, values: Mapping[ServerId, Value]) -> Value | None:
        """The highest value that a majority of every set has reached; None if no majority has any.

        A server without a value has reached nothing.  Asked for every acknowledgement, so it is kept short.
        """
        lowest: Value | None = None
        for voters in self.voter_sets():
            reached = [values[voter] for voter in voters if voter in values]
            majority = len(voters) // 2 + 1
            if len(reached) < majority:
                return None
            reached.sort(reverse=True)
            value = reached[majority - 1]
            if lowest is None or value < lowest:
                lowest = value
        return lowest
