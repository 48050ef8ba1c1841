"""Mistakes about reads, and about who is a member."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from trio_raft import _leadership
from trio_raft._handshake import Handshake
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._rules.bootstrap import Bootstrap
from trio_raft._rules.reads import ReadRounds
from trio_raft._server import Server
from trio_raft.testing._mutants._mutant import Mutant, mutant, replaced


def _join_a_round_that_left(self: ReadRounds) -> int:
    return self.current


async def _read_before_own_commit(server: Server) -> LogIndex:
    read_index = server.state.commit_index
    await _leadership.confirm_leadership(server)
    return read_index


async def _read_unconfirmed(_server: Server, _term: Term) -> None:
    """A leader answers reads from its own word."""


def _any_incarnation(_handshake: Handshake, _peer: ServerId, _incarnation: Incarnation) -> None:
    return None


def _adopt_any_map(self: Bootstrap, settled: Mapping[ServerId, Incarnation]) -> bool:
    self.incarnations = dict(settled)
    self.done = True
    return True


@contextmanager
def _believed_wiped_member() -> Iterator[None]:
    """Both doors stand open: the others take the emptied directory in, and it takes itself for a member."""
    with (
        mutant("", "", "", Handshake, "_incarnation_objection", replaced(_any_incarnation)).applied(),
        mutant("", "", "", Bootstrap, "_adopt", replaced(_adopt_any_map)).applied(),
    ):
        yield


READS = (
    mutant(
        "earlier-round-confirms",
        "Q4",
        "a read is confirmed by a round that began before it",
        ReadRounds,
        "join",
        replaced(_join_a_round_that_left),
    ),
    mutant(
        "unconfirmed-read",
        "Q1",
        "a leader answers reads without asking anybody",
        _leadership,
        "_confirm_round",
        replaced(_read_unconfirmed),
    ),
    mutant(
        "read-before-own-commit",
        "Q3",
        "a read is answered before the leader committed in its own term",
        _leadership,
        "confirm_read_index",
        replaced(_read_before_own_commit),
    ),
    Mutant(
        "wiped-member-believed",
        "O1",
        "an emptied directory is taken for the member that it was",
        _believed_wiped_member,
    ),
)
