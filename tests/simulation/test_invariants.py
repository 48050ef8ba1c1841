"""The invariants: each is shown a made-up violation, and servers that make none are left alone.

Servers stand on a stage (``stage.py``), and one thing is broken at a time.  Whole clusters are in
``test_invariants_cluster.py``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
import trio

from tests.simulation.stage import N1, N2, N3, FakeDisk, Stage, Words, request_of, set_stage
from tests.tasks.parts import command, incarnation, make_config, make_server
from trio_raft._config import Limits
from trio_raft._errors import Rejected
from trio_raft._events import Event, LeaderGone, PeerLostData, ReplicationRestarted
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapReply,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Incarnation,
    Message,
    RequestVote,
    RequestVoteReply,
    ServerId,
)
from trio_raft._records import LogIndex, Term, make_entry
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.progress import InFlight
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft.abc import Committed, SaveBootstrap, SaveVote, StateMachine
from trio_raft.testing import InvariantViolation
from trio_raft.testing._invariants import Invariants, count_tasks
from trio_raft.testing._past import Leadership


async def test_observe_finds_nothing_wrong() -> None:
    """An election, writes, a change of leader with a truncation, and applying break no invariant."""
    stage = await set_stage()
    stage.settle_in()
    stage[N1].submit_nowait(b"only here")
    stage.sync(N1)
    stage.elect(N2, N3)
    stage[N2].submit_nowait(b"kept")
    stage.sync(N2)
    stage[N1].transition(Term(2), Role.FOLLOWER, "the test says so")
    stage.replicate(N2, N1, N3)
    assert stage[N2].state.commit_index == 3
    for name in (N1, N2, N3):
        stage.bring(N2, name) if name != N2 else None
        stage.give(name, stage.entry(name, 3))
        stage[name].note_applied(LogIndex(3))
    for message in (request_of(stage[N2]), Heartbeat(Term(2), N2, 0)):
        stage.invariants.watch_send(N2, message)
    assert [stage.entry(name, 2).term for name in (N1, N2, N3)] == [2, 2, 2]
    assert stage.violation == ""
    stage.invariants.raise_if_violated()


# ---------------------------------------------------------------------------------------------- the violations

Deed = Callable[[Stage], object]


def second_leader(stage: Stage) -> None:
    stage.stand(N1, N2)
    stage.past.leaders[1] = Leadership("n9", 4, 0.0)
    stage[N1].transition(Term(1), Role.LEADER, "the test says so")


def leader_without_votes(stage: Stage) -> None:
    stage.stand(N1, N2)
    del stage.past.support[1, N1, False]
    stage[N1].transition(Term(1), Role.LEADER, "the test says so")


def leader_without_own_vote(stage: Stage) -> None:
    stage[N1].transition(Term(0), Role.CANDIDATE, "the test says so")
    stage.ask(N1, N2, pre_vote=True)
    stage[N1].transition(Term(1), Role.CANDIDATE, "the test says so")
    stage.ask(N1, N2, pre_vote=False)
    stage[N1].transition(Term(1), Role.LEADER, "the test says so")


def term_without_pre_votes(stage: Stage) -> None:
    stage[N1].transition(Term(0), Role.CANDIDATE, "the test says so")
    stage[N1].transition(Term(1), Role.CANDIDATE, "the test says so")


def leader_without_the_committed(stage: Stage) -> None:
    stage.settle_in()
    stage.past.support[2, N3, True] = stage.past.support[2, N3, False] = {N1: None}
    stage[N3].transition(Term(1), Role.FOLLOWER, "the test says so")
    stage.stand(N3)
    stage[N3].transition(Term(2), Role.LEADER, "the test says so")


def two_votes_in_a_term(stage: Stage) -> None:
    stage[N1].transition(Term(1), Role.FOLLOWER, "the test says so")
    stage[N1].journal.save_vote(Term(1), N2)
    stage[N1].journal.save_vote(Term(1), N3)


def vote_taken_back(stage: Stage) -> None:
    stage[N1].journal.save_vote(Term(1), N2)
    stage[N1].journal.save_vote(Term(1), None)


def term_falls(stage: Stage) -> None:
    stage[N1].journal.save_vote(Term(2), N2)
    stage[N1].journal.save_vote(Term(1), N2)


def append_by_follower(stage: Stage) -> None:
    stage[N1].journal.append(command(1, 1))


def append_in_another_term(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].state.current_term = Term(2)
    stage[N1].submit_nowait(b"x")


def follower_is_brought_what_nobody_made(stage: Stage) -> None:
    request = AppendEntries(Term(1), N1, LogIndex(0), Term(0), LogIndex(0), [command(1, 1)])
    stage[N2].answer_append(request)


def other_payload(stage: Stage) -> None:
    stage.elect(N1, N2)
    request = AppendEntries(Term(1), N1, LogIndex(0), Term(0), LogIndex(0), [command(1, 1, b"other")])
    stage[N2].answer_append(request)


def other_predecessor(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].submit_nowait(b"x")
    stage.past._make(command(1, 3), stage.past.committed[0])
    stage[N3].journal.supersede([command(1, 3), stage.entry(N1, 2)])


def leader_takes_entries(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].journal.supersede([stage.entry(N1, 1)])


def equal_entry_written_again(stage: Stage) -> None:
    stage.settle_in()
    stage[N2].journal.supersede([stage.entry(N2, 1)])


def committed_entry_removed(stage: Stage) -> None:
    stage.settle_in()
    stage.past._make(command(1, 2), stage.past.committed[0])
    stage[N2].journal.supersede([command(1, 2)])


def memory_differs_from_journal(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage[N2].journal.supersede([stage.entry(N1, 1)])


def another_configuration(stage: Stage) -> None:
    stage[N1].state.configuration = Configuration(voters=(N1,), index=LogIndex(3))
    stage[N1].transition(Term(1), Role.FOLLOWER, "the test says so")


def believed_durable(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage[N1].submit_nowait(b"x")
    stage.sync(N1, truly=False)


def durable_index_through_a_truncation(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage[N1].submit_nowait(b"x")
    stage.sync(N1)
    stage.elect(N2, N3)
    stage[N2].submit_nowait(b"y")
    stage.sync(N2)
    stage[N1].journal._lower_marks = lambda highest: None  # type: ignore[method-assign]
    stage[N1].transition(Term(2), Role.FOLLOWER, "the test says so")
    stage.bring(N2, N1)


def match_that_nobody_has(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage[N1].matches[N2] = LogIndex(1)
    stage[N1].advance_commit()


def match_beyond_the_log(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage[N1].matches[N2] = LogIndex(9)
    stage[N1]._commit_or_disk_moved()
    stage[N1].advance_commit()


def commit_without_a_majority(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage[N1].state.raise_commit(LogIndex(1))
    stage[N1]._commit_or_disk_moved()


def commit_by_a_follower(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage.bring(N1, N2)
    stage.sync(N2)
    stage[N2].state.raise_commit(LogIndex(1))
    stage[N2]._commit_or_disk_moved()


def commit_of_an_older_term(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage.bring(N1, N2)
    stage.sync(N2)
    stage.elect(N2, N3)
    stage[N2].state.raise_commit(LogIndex(1))
    stage[N2]._commit_or_disk_moved()


def commit_falls(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].state.commit_index = LogIndex(0)
    stage[N1]._commit_or_disk_moved()


def commit_of_something_else(stage: Stage) -> None:
    stage.settle_in()
    stage.past._make(command(1, 2), stage.past.committed[0])
    stage[N3].state.log.append(command(1, 2))
    stage[N3].journal.supersede([command(1, 2)])
    stage[N3].state.raise_commit(LogIndex(1))
    stage[N3]._commit_or_disk_moved()


def apply_before_commit(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].submit_nowait(b"x")
    stage.sync(N1)
    stage.give(N1, stage.entry(N1, 2))


def apply_before_durable(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].submit_nowait(b"x")
    stage.sync(N1)
    stage.replicate(N1, N2)
    stage.bring(N1, N3)
    stage.give(N3, stage.entry(N3, 2))


def write_two(stage: Stage) -> None:
    stage.settle_in()
    for word in (b"a", b"b"):
        stage[N1].submit_nowait(word)
    stage.sync(N1)
    stage.replicate(N1, N2)
    stage.bring(N1, N2)


def apply_skips_one(stage: Stage) -> None:
    write_two(stage)
    stage.give(N1, stage.entry(N1, 3))


def apply_twice(stage: Stage) -> None:
    write_two(stage)
    stage.give(N1, stage.entry(N1, 2))
    stage.give(N1, stage.entry(N1, 2))


def apply_another_command(stage: Stage) -> None:
    write_two(stage)
    stage.give(N1, stage.entry(N1, 2))
    stage.give(N2, command(2, 1, b"other"))


def applied_too_far(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].note_applied(LogIndex(2))


def applied_backwards(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].note_applied(LogIndex(1))
    stage[N1].note_applied(LogIndex(0))


def proposal_without_an_end(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].submit_nowait(b"x")
    stage[N1].tickets.clear()
    stage.invariants.closed(N1)


def replication_restarted(stage: Stage) -> None:
    stage[N1].events.publish(ReplicationRestarted(N2, "replicate", "a bug"))


def peer_lost_data(stage: Stage) -> None:
    stage[N1].events.publish(PeerLostData(N2, LogIndex(3)))


def living_leader_given_up(stage: Stage) -> None:
    stage.settle_in()
    stage[N2].answer_heartbeat(Heartbeat(Term(1), N1, 0))
    stage[N2].note_leader_gone(N1, "the test says so", took=0.0)


def support_while_a_leader_is_heard(stage: Stage) -> None:
    stage.settle_in()
    stage[N2].answer_heartbeat(Heartbeat(Term(1), N1, 0))
    stage[N2].patience.gone = "somebody said so"
    stage[N2].answer_vote(RequestVote(Term(2), N3, LogIndex(9), Term(1), True))


def leader_is_not_stood_by(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].step_down("the test says so")
    stage[N2].note_leader_gone(N1, "the test says so", took=0.0)
    stage[N2].patience.heard = lambda: None  # type: ignore[method-assign]
    stage[N2].answer_heartbeat(Heartbeat(Term(1), N1, 0))


def too_many_proposals(stage: Stage) -> None:
    stage.settle_in()
    stage[N1].pending_bytes = -(1 << 40)
    stage[N1].submit_nowait(b"x")
    stage[N1].pending_bytes = 1 << 40
    stage.invariants.sweep()


def too_many_in_flight(stage: Stage) -> None:
    stage.settle_in()
    flight = stage[N1].followers[N2].progress.in_flight
    for number in range(100):
        flight.append(InFlight(number, LogIndex(0), LogIndex(0), 10, 0.0))
    stage.invariants.sweep()


def gap_on_the_disk(stage: Stage) -> None:
    stage.elect(N1, N2)
    stage.disks[N2]._news.append(command(2, 1))
    stage[N2].journal._note_durable([])


def other_first_configuration(stage: Stage) -> None:
    for name, value in ((N1, "a"), (N2, "b")):
        stage.disks[name].write(SaveBootstrap({N1: Incarnation(value)}, done=True))
        stage[name].journal._note_durable([])


VIOLATIONS: list[tuple[Deed, str, str]] = [
    (second_leader, "Election Safety", "n9 in its life 4"),
    (leader_without_votes, "A leader has the votes of a majority", "n1, n2, n3"),
    (leader_without_own_vote, "A leadership begins after its own vote is durable", "vote for n1 in term 1"),
    (term_without_pre_votes, "No term rises without a majority of pre-votes", "nobody"),
    (leader_without_the_committed, "Leader Completeness", "1:1"),
    (two_votes_in_a_term, "One vote in each term", "vote for n3"),
    (vote_taken_back, "One vote in each term", "vote for nobody"),
    (term_falls, "the term never falls", "term from 2 on"),
    (append_by_follower, "A leader stamps its own term", "follower of term 0"),
    (append_in_another_term, "A leader stamps its own term", "term=2"),
    (follower_is_brought_what_nobody_made, "Entries are made by leaders", "no leader made"),
    (other_payload, "Log Matching", "another entry of the same index and term"),
    (other_predecessor, "Log Matching", "entry 2:1 after 1:1"),
    (leader_takes_entries, "Leader Append-Only", "the leader of term 1"),
    (equal_entry_written_again, "Equal entries are skipped", "1:1"),
    (committed_entry_removed, "What is committed stays", "1:1"),
    (memory_differs_from_journal, "Memory and journal change in one step", "0:0 in memory"),
    (another_configuration, "The configuration in force", "index 0"),
    (believed_durable, "The durable index speaks of the entries in memory", "2:1"),
    (durable_index_through_a_truncation, "The durable index speaks of the entries in memory", "2:1 stands"),
    (match_that_nobody_has, "The match index is what the follower has durably", "n2"),
    (match_beyond_the_log, "The match index is what the follower has durably", "n2"),
    (commit_without_a_majority, "What is committed is durable on a majority", "on n1"),
    (commit_by_a_follower, "A leader commits first", "follower of term 1"),
    (commit_of_an_older_term, "A leader commits first", "leader of term 2 commits entry 1:1"),
    (commit_falls, "The commit index never falls", "between 1"),
    (commit_of_something_else, "Committed entries are the same everywhere", "1:2"),
    (apply_before_commit, "Committed and durable commands are applied", "commit index 1"),
    (apply_before_durable, "Committed and durable commands are applied", "ends at 0:0"),
    (apply_skips_one, "Committed and durable commands are applied", "skipped: 2:1"),
    (apply_twice, "Committed and durable commands are applied", "entry 2:1"),
    (apply_another_command, "State Machine Safety", "b'other'"),
    (applied_too_far, "Applied up to what is committed and durable", "2"),
    (applied_backwards, "Applied up to what is committed and durable", "from 1"),
    (proposal_without_an_end, "Every proposal ends", "2:1"),
    (replication_restarted, "Nothing goes wrong for no reason", "a bug"),
    (peer_lost_data, "Nothing goes wrong for no reason", "n2 lost entries"),
    (living_leader_given_up, "Only a leader that is gone is not waited for", "it leads; the test says so"),
    (support_while_a_leader_is_heard, "Whoever hears a leader supports nobody else", "a pre-vote granted to n3"),
    (leader_is_not_stood_by, "Whoever has heard a leader stands by him", "loyalty to n1"),
    (too_many_proposals, "Everything is bounded", "bytes of proposals"),
    (too_many_in_flight, "Everything is bounded", "requests in flight to n2"),
    (gap_on_the_disk, "The log on disk has no gap", "entry 1 after entry 0"),
    (other_first_configuration, "One first configuration", "settled first"),
]


@pytest.mark.parametrize(("deed", "rule", "detail"), VIOLATIONS, ids=[deed.__name__ for deed, _, _ in VIOLATIONS])
async def test_violation_is_found(deed: Deed, rule: str, detail: str) -> None:
    """Each broken promise is found, and the words name the rule, the time, the server, and what was seen."""
    stage = await set_stage()
    deed(stage)
    found = stage.violation
    assert rule in found
    assert detail in found
    assert "is violated at 1.500000 s" in found
    assert "expected: " in found
    assert "seen:     " in found
    with pytest.raises(InvariantViolation, match="seed 77"):
        stage.invariants.raise_if_violated()


# ---------------------------------------------------------------------------------------------- tampered servers


def answers_pre_votes_with_a_timer(server: Server) -> None:
    original = server.answer_vote

    def answer_vote(request: RequestVote) -> tuple[RequestVoteReply, int]:
        answer = original(request)
        server.patience.restart()
        return answer

    server.answer_vote = answer_vote  # type: ignore[method-assign]


def grants_everything(server: Server) -> None:
    def answer_vote(request: RequestVote) -> tuple[RequestVoteReply, int]:
        return RequestVoteReply(request.term, True, request.pre_vote, request.term), 0

    server.answer_vote = answer_vote  # type: ignore[method-assign]


async def test_pre_vote_that_moves_the_timer() -> None:
    """A voter whose election timer a pre-vote moves is found out."""
    stage = await set_stage(prepare=answers_pre_votes_with_a_timer)
    stage[N1].answer_vote(RequestVote(Term(1), N2, LogIndex(0), Term(0), True))
    assert "A pre-vote changes nothing at the voter" in stage.violation


async def test_vote_for_a_log_that_is_behind() -> None:
    """A vote for a candidate whose log is behind the voter's is found out, a pre-vote too."""
    stage = await set_stage(terms=(1, 1), term=1, prepare=grants_everything)
    stage[N1].answer_vote(RequestVote(Term(2), N2, LogIndex(1), Term(1), True))
    assert "A vote goes only to a log that is at least as up to date" in stage.violation
    assert "the own log ends at 2:1" in stage.violation


async def test_vote_granted_twice() -> None:
    """A second candidate of one term who is granted the vote is found out."""
    stage = await set_stage(prepare=grants_everything)
    for candidate in (N2, N3):
        stage[N1].answer_vote(RequestVote(Term(1), candidate, LogIndex(0), Term(0), False))
    assert "the vote in term 1 stays with n2" in stage.violation


async def test_commit_beyond_the_request() -> None:
    """A follower that commits more than its leader's request verified is found out."""

    def believe_all(server: Server) -> None:
        original = server.answer_append

        def answer_append(request: AppendEntries) -> tuple[AppendEntriesReply, int]:
            answer = original(request)
            server.state.commit_index = min(request.leader_commit, server.state.log.last_index)
            return answer

        server.answer_append = answer_append  # type: ignore[method-assign]

    stage = await set_stage(prepare=believe_all)
    stage.settle_in()
    stage[N3].answer_append(request_of(stage[N1], commit=0))
    assert stage.violation == ""
    stage[N3].answer_append(AppendEntries(Term(1), N1, LogIndex(0), Term(0), LogIndex(1)))
    assert "A follower commits what the request itself verified" in stage.violation


async def test_acknowledgement_of_more_than_was_brought() -> None:
    """A match index beyond the request is found out."""

    def boast(server: Server) -> None:
        original = server.answer_append

        def answer_append(request: AppendEntries) -> tuple[AppendEntriesReply, int]:
            reply, position = original(request)
            return attrs.evolve(reply, match_index=LogIndex(reply.match_index + 1)), position

        server.answer_append = answer_append  # type: ignore[method-assign]

    stage = await set_stage(prepare=boast)
    stage.elect(N1, N2)
    stage.bring(N1, N3)
    assert "An acknowledgement vouches for what the request verified" in stage.violation


# ---------------------------------------------------------------------------------------------- messages

GRANTED = RequestVoteReply(Term(1), True, False, Term(1))
ACKNOWLEDGED = AppendEntriesReply(term=Term(1), success=True, match_index=LogIndex(1))


async def send(stage: Stage, sender: ServerId, message: Message) -> str:
    stage.invariants.watch_send(sender, message)
    return stage.violation


async def test_send_what_promises_nothing() -> None:
    """Pre-votes, their answers, and answers to heartbeats need nothing on disk, whatever they say."""
    stage = await set_stage()
    for message in (
        RequestVote(Term(9), N1, LogIndex(7), Term(8), True),
        RequestVoteReply(Term(9), True, True, Term(9)),
        HeartbeatReply(term=Term(9), round=3),
    ):
        assert await send(stage, N1, message) == ""


EARLY: list[tuple[Message, str]] = [
    (RequestVote(Term(1), N1, LogIndex(0), Term(0), False), "its own vote in term 1"),
    (RequestVoteReply(Term(1), False, False, Term(1), "no"), "term 1"),
    (AppendEntriesReply(term=Term(1), success=False), "term 1"),
    (AppendEntries(Term(1), N1, LogIndex(0), Term(0), LogIndex(0)), "was won by nobody"),
    (Heartbeat(Term(1), N1, 0), "was won by nobody"),
    (BootstrapReply({N1: Incarnation("x")}, True), "the map"),
    (Hello(1, 1, "c", "d", True, N1, N2, Incarnation("x"), "b", "control", 1, 1), "the incarnation x"),
]


@pytest.mark.parametrize(("message", "implied"), EARLY, ids=[type(message).__name__ for message, _ in EARLY])
async def test_send_before_it_is_durable(message: Message, implied: str) -> None:
    """A message that leaves before what it implies is on the sender's disk is found out."""
    assert implied in await send(await set_stage(), N1, message)


async def test_send_vote_before_it_is_durable() -> None:
    """A vote that is on its way to the disk may not leave; one that is there may."""
    request = RequestVote(Term(1), N2, LogIndex(0), Term(0), False)
    early, late = await set_stage(), await set_stage()
    for stage in (early, late):
        stage[N1].answer_vote(request)
    late.sync(N1)
    assert "Nothing leaves before what it implies is durable" in await send(early, N1, GRANTED)
    assert await send(late, N1, GRANTED) == ""


async def test_send_vote_that_the_journal_only_believes() -> None:
    """What the journal says of its own writes does not count, only what is on the disk."""
    stage = await set_stage()
    stage[N1].answer_vote(RequestVote(Term(1), N2, LogIndex(0), Term(0), False))
    stage.sync(N1, truly=False)
    assert "there: term 0, vote for nobody" in await send(stage, N1, GRANTED)


async def test_send_acknowledgement_before_it_is_durable() -> None:
    """An entry that is on its way to the disk may not be acknowledged; one that is there may."""
    stage = await set_stage()
    stage.elect(N1, N2)
    stage[N3].transition(Term(1), Role.FOLLOWER, "the test says so")
    stage.sync(N3)
    stage.bring(N1, N3)
    stage.bring(N1, N2)
    stage.sync(N2)
    assert await send(stage, N2, ACKNOWLEDGED) == ""
    assert "for it sends AppendEntriesReply(term=1, match=1)" in await send(stage, N3, ACKNOWLEDGED)


async def test_send_acknowledgement_late() -> None:
    """An acknowledgement that leaves after its entry was durable, and was replaced since, promises what it did."""
    stage = await set_stage()
    stage.elect(N1, N2)
    stage[N1].submit_nowait(b"x")
    stage.sync(N1)
    stage.bring(N1, N3)
    stage.sync(N3)
    # As if n1 had forgotten them: among five servers, a majority may never have heard of these entries.
    stage.past.support[2, N2, True] = stage.past.support[2, N2, False] = {N1: None}
    stage.elect(N2)
    stage.bring(N2, N3)
    stage.sync(N3)
    late = AppendEntriesReply(term=Term(1), success=True, match_index=LogIndex(2))
    assert stage.entry(N3, 1).term == 2
    assert await send(stage, N3, late) == ""


async def test_send_acknowledgement_of_nothing() -> None:
    """An acknowledgement that answers no request is found out."""
    stage = await set_stage(terms=(1,), term=1)
    assert "An acknowledgement answers a request" in await send(stage, N1, ACKNOWLEDGED)


async def test_send_before_the_first_configuration() -> None:
    """Nobody votes or acknowledges while the map of members is not settled on its disk."""
    stage = await set_stage()
    stage.disks[N1].write(SaveBootstrap({N1: incarnation(N1)}, done=False))
    stage[N1].answer_vote(RequestVote(Term(1), N2, LogIndex(0), Term(0), False))
    stage.sync(N1)
    assert "a settled map of members" in await send(stage, N1, GRANTED)


async def test_send_entries_that_are_not_the_logs() -> None:
    """A leader that sends what it does not hold is found out, in its entries and in the entry before them."""
    wrong = AppendEntries(Term(1), N1, LogIndex(1), Term(1), LogIndex(0), [command(2, 1)])
    nowhere = AppendEntries(Term(1), N1, LogIndex(7), Term(1), LogIndex(0))
    for message in (wrong, nowhere):
        stage = await set_stage()
        stage.elect(N1, N2)
        assert await send(stage, N1, request_of(stage[N1])) == ""
        assert "A leader sends what it holds" in await send(stage, N1, message)


async def test_send_in_a_term_of_another() -> None:
    """A request that is stamped with a term that its sender did not win in this life is found out."""
    stage = await set_stage()
    stage.elect(N1, N2)
    assert await send(stage, N1, Heartbeat(Term(1), N1, 0)) == ""
    assert "was won by n1, life 1" in await send(stage, N2, Heartbeat(Term(1), N2, 0))


# ---------------------------------------------------------------------------------------------- lives


async def restart(
    stage: Stage, name: ServerId, *, terms: tuple[int, ...] = (), term: int = 0, voted_for: ServerId | None = None
) -> FakeDisk:
    """Another life on a disk that holds all that the one before held; the server has recovered what is said here."""
    stage.invariants.ended(name)
    old = stage.invariants._watched(name).images[-1]
    disk = FakeDisk(stage.disks[name].incarnation, list(stage.disks[name].history))
    assert old.bootstrap is not None
    disk._news += [old.bootstrap, SaveVote(Term(old.term), old.voted_for)]  # type: ignore[arg-type]
    disk._news += [make_entry_of(slot) for slot in old.slots[1:]]
    server = await make_server(config=make_config(name), terms=terms, term=term, voted_for=voted_for)
    stage.servers[name], stage.disks[name] = server, disk
    stage.invariants.observe(name, disk)(server)
    return disk


def make_entry_of(slot: Any) -> Any:
    """The entry that a slot was made of."""
    data = slot.record[32 : 32 + int.from_bytes(slot.record[4:8], "little")]
    return make_entry(index=LogIndex(slot.index), term=Term(slot.term), kind=slot.kind, data=data)


async def voted(terms: tuple[int, ...] = ()) -> Stage:
    """n1 has voted for n2 in term 3, and said so."""
    stage = await set_stage(terms=terms, term=2)
    stage[N1].answer_vote(RequestVote(Term(3), N2, LogIndex(9), Term(2), False))
    stage.sync(N1)
    stage.invariants.watch_send(N1, RequestVoteReply(Term(3), True, False, Term(3)))
    return stage


async def test_restart_with_everything() -> None:
    """A life that has recovered its term, its vote and its log is left alone."""
    stage = await voted((1, 2))
    await restart(stage, N1, terms=(1, 2), term=3, voted_for=N2)
    assert stage.violation == ""


async def test_restart_forgets_the_vote() -> None:
    """A life that begins without the vote on its disk is found out."""
    stage = await voted()
    await restart(stage, N1, term=3)
    assert "Term and vote survive a restart" in stage.violation
    assert "vote for n2" in stage.violation


async def test_restart_forgets_entries() -> None:
    """A life that begins with less than the log on its disk is found out."""
    stage = await voted((1, 2))
    await restart(stage, N1, terms=(1,), term=3, voted_for=N2)
    assert "The log survives a restart" in stage.violation


async def test_restart_on_a_disk_that_forgot() -> None:
    """A write that was durable and is gone is found out, unless the disk was exchanged."""
    for exchanged in (False, True):
        stage = await voted()
        stage.disks[N1].history.append(1)
        stage.invariants._watched(N1).refresh()
        stage.disks[N1].history = stage.disks[N1].history[:1]
        if exchanged:
            stage.invariants.exchanged(N1)
        before = stage.invariants._watched(N1).images[-1]
        before._source = attrs.evolve(stage.disks[N1], history=[*stage.disks[N1].history, 1])
        await restart(stage, N1, term=3, voted_for=N2)
        assert ("What was durable survives a crash" in stage.violation) is not exchanged


async def test_restart_breaks_a_vote_that_was_told() -> None:
    """A vote that was told binds later lives, even if the disk forgot it together with its server."""
    stage = await voted()
    stage.invariants.exchanged(N1)
    disk = await restart(stage, N1, term=3, voted_for=N2)
    watch = stage.invariants._watched(N1).watch
    assert watch is not None
    watch.image.votes.clear()
    stage[N1].state.voted_for = None
    stage[N1].answer_vote(RequestVote(Term(3), N3, LogIndex(9), Term(2), False))
    disk.write(SaveVote(Term(3), N3))
    stage.invariants.watch_send(N1, RequestVoteReply(Term(3), True, False, Term(3)))
    assert "across restarts too" in stage.violation


async def test_commit_counts_a_disk_that_was_exchanged() -> None:
    """An entry counts as durable where it was when the disk was taken away: that fault was ours, not the node's."""
    stage = await set_stage()
    stage.elect(N1, N2)
    stage.bring(N1, N2)
    stage.sync(N2)
    stage.invariants.exchanged(N2)
    stage.disks[N2] = FakeDisk(Incarnation("another"))
    stage[N1].matches[N2] = LogIndex(1)
    stage[N1].advance_commit()
    assert stage[N1].state.commit_index == 1
    assert stage.violation == ""


async def test_first_configuration_of_a_disk_that_was_exchanged() -> None:
    """Another first configuration may be settled only if every disk that held the first one was taken away (O1)."""
    for gone in ((N1, N3), (N1, N2, N3)):
        stage = await set_stage()
        for name in gone:
            stage.invariants.exchanged(name)
        stage.disks[N2].write(SaveBootstrap({N1: Incarnation("another")}, done=True))
        stage[N2].journal._note_durable([])
        assert ("One first configuration" in stage.violation) is (N2 not in gone)


async def test_ended_stops_the_checks() -> None:
    """What the tasks of a server do after its power failed reaches nobody, and is not judged."""
    stage = await set_stage()
    stage.invariants.ended(N1)
    stage[N1].journal.append(command(1, 9))
    stage.invariants.watch_send(N1, Heartbeat(Term(9), N1, 0))
    assert stage.violation == ""


async def test_finish_finds_a_waiting_proposal() -> None:
    """A proposal that still waits when the run is over is found out; one that has failed is not."""
    stage = await set_stage()
    stage.settle_in()
    stage[N1].submit_nowait(b"x")
    stage[N1].step_down("the test says so")
    stage.invariants.finish()
    stage.elect(N1, N2)
    stage[N1].submit_nowait(b"y")
    with pytest.raises(InvariantViolation, match="Every proposal ends"):
        stage.invariants.finish()


async def test_submit_forgets_settled_proposals() -> None:
    """The number of proposals that are remembered does not grow with those that were made."""
    stage = await set_stage()
    stage.settle_in()
    for _ in range(2000):
        stage[N1].submit_nowait(b"x")
        [ticket] = stage[N1].tickets.values()
        ticket.resolve(None)
        stage[N1].tickets.clear()
    watch = stage.invariants._watched(N1).watch
    assert watch is not None
    assert len(watch._tickets) < 600


async def test_event_that_an_injected_fault_explains() -> None:
    """A restart of replication, and a peer that lost data, are fine where a fault that was injected explains them."""
    asked: list[tuple[str, Event]] = []

    def explains(node_id: str, event: Event) -> bool:
        asked.append((node_id, event))
        return True

    stage = await set_stage(explains=explains)
    event = ReplicationRestarted(N2, "replicate", "a bug")
    stage[N1].events.publish(event)
    assert stage.violation == ""
    assert asked == [(N1, event)]


async def test_leader_that_is_gone() -> None:
    """A leader that leads no more, or whose life is over, is rightly not waited for, and others are supported (E11)."""
    ends: list[Deed] = [lambda stage: stage[N1].step_down("the test says so"), lambda stage: stage.invariants.ended(N1)]
    for end in ends:
        stage = await set_stage()
        stage.settle_in()
        stage[N2].answer_heartbeat(Heartbeat(Term(1), N1, 0))
        end(stage)
        stage[N2].note_leader_gone(N1, "the test says so", took=0.0)
        reply, _ = stage[N2].answer_vote(RequestVote(Term(2), N3, LogIndex(9), Term(1), True))
        assert reply.granted
        assert stage.violation == ""


async def test_living_leader_that_could_not_be_reached() -> None:
    """Where dials are refused by injection a follower must take a leader that lives for dead."""
    stage = await set_stage(explains=lambda node_id, event: (node_id, type(event)) == (N2, LeaderGone))
    living_leader_given_up(stage)
    assert stage.violation == ""


# ---------------------------------------------------------------------------------------------- state machines


def applied_words(stage: Stage) -> None:
    """n1 applies two commands, n2 one of them."""
    write_two(stage)
    for index in (2, 3):
        stage.give(N1, stage.entry(N1, index))
    stage.give(N2, stage.entry(N2, 2))


async def test_add_gets_all_machines_after_each_apply() -> None:
    """A user's invariant is called after each command with the machine of every member that is up."""
    seen: list[dict[str, int]] = []

    def look(machines: Mapping[str, Any]) -> None:
        seen.append({name: len(machine.words) for name, machine in machines.items()})

    stage = await set_stage()
    stage.invariants.add(look)
    stage.invariants.ended(N3)
    applied_words(stage)
    assert seen == [{N1: 1, N2: 0}, {N1: 2, N2: 0}, {N1: 2, N2: 1}]
    assert stage.violation == ""


def at_most_one_word(machines: Mapping[str, Words]) -> None:
    for name, machine in machines.items():
        assert len(machine.words) <= 1, f"{name} has {machine.words}"


async def test_add_that_raises() -> None:
    """A user's invariant that raises ends the run, under its own name and with its own words."""
    stage = await set_stage()
    stage.invariants.add(at_most_one_word)
    applied_words(stage)
    assert "The invariant at_most_one_word that you added" in stage.violation
    assert "n1 has [b'a', b'b']" in stage.violation


async def test_add_that_returns_false() -> None:
    """A user's invariant may say no by returning False; None and everything else is a yes."""
    stage = await set_stage()
    stage.invariants.add(lambda machines: None)
    stage.invariants.add(lambda machines: 0)
    stage.invariants.add(lambda machines: len(machines[N1].words) < 2)
    applied_words(stage)
    assert "it returned False" in stage.violation
    assert "once index 3 was applied" in stage.violation


async def test_watch_machine_leaves_results_and_errors_alone() -> None:
    """A watched machine returns and raises what it would without us, also if its class forbids assignments."""

    @attrs.frozen(slots=False)
    class Frozen(StateMachine[bytes, str]):
        def apply(self, entry: Committed[bytes]) -> str:
            if entry.command == b"no":
                raise Rejected("no")
            return "yes"

    machine, invariants = Frozen(), Invariants(1, now=lambda: 0.0)
    invariants.watch_machine(N1, machine)
    assert machine.apply(Committed(LogIndex(1), Term(1), b"a")) == "yes"
    with pytest.raises(Rejected, match="no"):
        machine.apply(Committed(LogIndex(2), Term(1), b"no"))


async def test_command_without_equality() -> None:
    """Commands of a class that cannot be compared are not compared."""

    class Mute:
        pass

    stage = await set_stage()
    write_two(stage)
    for name in (N1, N2):
        entry = stage.entry(name, 2)
        stage.machines[name].apply(Committed(entry.index, entry.term, Mute()))  # type: ignore[arg-type]
    assert stage.violation == ""


# ---------------------------------------------------------------------------------------------- the verdict


async def test_first_violation_counts() -> None:
    """The first violation is kept and announced once; what follows from it is not looked at."""
    stage, calls = await set_stage(), list[str]()
    stage.invariants.on_violation = lambda: calls.append(stage.violation)
    append_by_follower(stage)
    first = stage.violation
    two_votes_in_a_term(stage)
    stage.invariants.fail("Something else", N1, expected="a", seen="b")
    assert stage.violation == first
    assert calls == [first]
    assert any("VIOLATION A leader stamps" in line for line in stage.invariants.trace.lines())


async def test_check_that_fails_is_a_violation() -> None:
    """A check that breaks down does not let the run pass."""
    stage = await set_stage()
    watch = stage.invariants._watched(N1).watch
    assert watch is not None
    watch.slots.clear()
    stage[N1].answer_append(AppendEntries(Term(1), N2, LogIndex(0), Term(0), LogIndex(0), [command(1, 1)]))
    assert "The check of the invariants is violated" in stage.violation
    assert "IndexError" in stage.violation


async def test_finish_without_a_server() -> None:
    """A run in which nothing happened has violated nothing."""
    invariants = Invariants("a word", now=lambda: 0.0)
    invariants.finish()
    assert invariants.violation is None
    assert invariants.trace.digest() == Invariants("another", now=lambda: 0.0).trace.digest()


async def test_sweep_counts_tasks() -> None:
    """More tasks than so many servers can have are found out."""
    stage = await set_stage()
    stage.invariants.sweep()
    assert stage.violation == ""
    before = count_tasks()
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(trio.sleep_forever)
        assert count_tasks() == before + 1000
        stage.invariants.sweep()
        nursery.cancel_scope.cancel()
    assert "tasks: at most" in stage.violation


async def test_limits_of_one() -> None:
    """Limits as small as can be are no violation."""
    stage = await set_stage(limits=Limits(log_memory_bytes=1, pipeline_requests=1, pending_bytes=1))
    applied_words(await set_stage())
    stage.settle_in()
    stage.invariants.sweep()
    assert stage.violation == ""
