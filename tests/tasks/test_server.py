"""One server from inside, step by step: every step is synchronous, so these tests hardly wait."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    N2,
    N3,
    commands,
    incarnation,
    lanes,
    lead_term,
    make_config,
    make_server,
    record,
    settle,
    store_of,
)
from trio_raft._config import Limits, Timeouts
from trio_raft._environment import Lane
from trio_raft._errors import (
    IncarnationRefused,
    LeadershipLost,
    NotLeader,
    StateMachineError,
    StorageFull,
)
from trio_raft._events import LeaderChanged, RoleChanged
from trio_raft._messages import (
    AppendEntries,
    Heartbeat,
    Incarnation,
    Rejection,
    RequestVote,
    ServerId,
)
from trio_raft._records import Entry, EntryKind, LogIndex, Term
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.state import IllegalTransition, Role
from trio_raft._server import Server
from trio_raft.abc import Append, SaveBootstrap, SaveVote

PACKAGE = Path(__file__).parents[2] / "trio_raft"


def append_request(
    term: int, prev: int, prev_term: int, entries: Sequence[Entry] = (), *, commit: int = 0, leader: ServerId = N2
) -> AppendEntries:
    return AppendEntries(Term(term), leader, LogIndex(prev), Term(prev_term), LogIndex(commit), list(entries))


def ask_vote(term: int, last: int, last_term: int, *, pre_vote: bool = False, candidate: ServerId = N2) -> RequestVote:
    return RequestVote(Term(term), candidate, LogIndex(last), Term(last_term), pre_vote)


async def durable(server: Server) -> None:
    """Until everything queued is on disk."""
    await server.journal.wait_durable(server.journal.position)


def facts(server: Server) -> tuple[object, ...]:
    """Everything that a request could change."""
    state = server.state
    return (
        (state.current_term, state.role, state.voted_for, state.leader, state.commit_index),
        (state.log.last_index, state.log.last_term),
        (server.patience.election_deadline, server.patience.last_contact),
        (server.journal.position, server.vote_position),
    )


# ------------------------------------------------------------------------------------------- the one gate


async def test_transition_fails_every_waiter_in_the_same_step(autojump_clock: MockClock) -> None:
    """The step that ends a leadership ends every open proposal, each with an error of its own (X1)."""
    server = await make_server(terms=[1], term=1)
    lead_term(server, 2)
    tickets = [server.submit_nowait(b"a"), server.submit_nowait(b"b")]
    assert [(ticket.index, ticket.term) for ticket in tickets] == [(3, 2), (4, 2)]
    server.adopt_term(Term(5), N3)
    assert [ticket.settled for ticket in tickets] == [True, True]
    assert (server.tickets, server.pending_bytes) == ({}, 0)
    errors = []
    for ticket in tickets:
        with pytest.raises(LeadershipLost) as caught:
            await ticket.wait()
        errors.append(caught.value)
    assert [error.term for error in errors] == [2, 2]
    assert errors[0] is not errors[1]
    assert "n3" in errors[0].reason


async def test_transition_cancels_the_running_role(autojump_clock: MockClock) -> None:
    """The step that changes term or role cancels whatever the old role was doing."""
    server = await make_server()
    for term, role in ((1, Role.CANDIDATE), (1, Role.LEADER), (2, Role.FOLLOWER), (7, Role.FOLLOWER)):
        server.role_scope = trio.CancelScope()
        server.transition(Term(term), role, "the test says so")
        assert server.role_scope.cancel_called


async def test_transition_to_leader_appends_the_no_op_in_the_same_step(autojump_clock: MockClock) -> None:
    """A leadership begins with a no-op of its term in the log and on the journal's queue, before anything else
    (R2, Q3).
    """
    server = await make_server(terms=[1, 1], term=1)
    lead_term(server, 4)
    log = server.state.log
    assert (log.last_index, log.last_term, server.term_start_index) == (3, 4, 3)
    entry = log.entry(LogIndex(3))
    assert entry is not None
    assert (entry.kind, entry.term) == (EntryKind.NO_OP, 4)
    assert [type(item) for item in server.journal._queue] == [SaveVote, SaveVote, Append]
    # The followers' first request starts at the no-op.
    assert {name: follower.progress.next_index for name, follower in server.followers.items()} == {N2: 3, N3: 3}
    assert server.state.leader == N1


async def test_transition_saves_the_vote_only_when_term_or_vote_changed(autojump_clock: MockClock) -> None:
    """Each change of term or vote is queued as one record, and a mere change of role is not (E1, E2)."""
    server = await make_server()
    server.transition(Term(0), Role.CANDIDATE, "asks for pre-votes")
    assert (server.vote_position, server.journal.position) == (0, 0)
    server.transition(Term(1), Role.CANDIDATE, "stands")
    assert list(server.journal._queue) == [SaveVote(Term(1), N1)]
    assert server.vote_position == 1
    server.transition(Term(1), Role.FOLLOWER, "gives up")
    assert server.vote_position == 1
    server.transition(Term(3), Role.FOLLOWER, "hears of a later term")
    assert list(server.journal._queue) == [SaveVote(Term(1), N1), SaveVote(Term(3), None)]
    assert server.vote_position == 2


async def test_transition_illegal_changes_nothing(autojump_clock: MockClock) -> None:
    """A transition that the table does not have raises, and nobody notices anything of it."""
    server = await make_server(term=5)
    server.role_scope = trio.CancelScope()
    before = facts(server)
    for term, role in ((4, Role.FOLLOWER), (5, Role.LEADER), (7, Role.CANDIDATE)):
        with pytest.raises(IllegalTransition):
            server.transition(Term(term), role, "a bug")
    assert facts(server) == before
    assert not server.role_scope.cancel_called


async def test_transition_tells_readers_and_waiters(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A transition is an event, a change of leader another, and whoever waits for a change is woken."""
    server = await make_server()
    recorder, woken = record(server), list[str]()

    async def wait(lot: trio.lowlevel.ParkingLot, name: str) -> None:
        await lot.park()
        woken.append(name)

    for lot, name in ((server.change_lot, "change"), (server.read_lot, "read"), (server.room_lot, "room")):
        nursery.start_soon(wait, lot, name)
    await settle()
    lead_term(server, 1)
    await settle()
    assert sorted(woken) == ["change", "read", "room"]
    assert recorder.events == [
        RoleChanged("candidate", Term(1), "the test says so"),
        RoleChanged("leader", Term(1), "the test says so"),
        LeaderChanged(N1, Term(1)),
    ]


async def test_transition_from_leader_waits_anew_before_it_campaigns(autojump_clock: MockClock) -> None:
    """A leader that steps down gives its successor a whole timeout before it campaigns (E9)."""
    server = await make_server()
    lead_term(server, 1)
    await trio.sleep(100)
    server.step_down("the test says so")
    patience = server.config.timeouts.heartbeat_timeout
    assert patience <= server.patience.election_deadline - trio.current_time() < 2 * patience


async def test_step_down_keeps_the_term(autojump_clock: MockClock) -> None:
    """Giving up changes the role alone; for a follower it is nothing at all."""
    server = await make_server()
    lead_term(server, 3)
    server.step_down("the test says so")
    assert (server.state.role, server.state.current_term) == (Role.FOLLOWER, 3)
    before = facts(server)
    server.step_down("again")
    assert facts(server) == before


def test_transition_is_the_only_gate() -> None:
    """No module but the server's calls ``State.enter``: term and role have one gate."""
    callers = [path.name for path in PACKAGE.rglob("*.py") if "state.enter(" in path.read_text()]
    assert callers == ["_server.py"]


async def test_adopt_term_only_later_ones(autojump_clock: MockClock) -> None:
    """A reply with the own term or an older one changes nothing."""
    server = await make_server()
    lead_term(server, 3)
    before = facts(server)
    server.adopt_term(Term(3), N2)
    server.adopt_term(Term(2), N2)
    assert facts(server) == before


# ------------------------------------------------------------------------------------------- the leader's side


async def test_submit_nowait_needs_a_leader(autojump_clock: MockClock) -> None:
    """Anybody else refuses at once and names the leader, with its address (X3)."""
    server = await make_server()
    with pytest.raises(NotLeader) as caught:
        server.submit_nowait(b"a")
    assert (caught.value.leader_id, caught.value.leader_address) == (None, None)
    server.answer_heartbeat(Heartbeat(Term(1), N2, 0))
    with pytest.raises(NotLeader) as caught:
        server.submit_nowait(b"a")
    assert (caught.value.leader_id, caught.value.leader_address) == (N2, "n2:1")
    assert server.state.log.last_index == 0


async def test_submit_nowait_stamps_the_term_of_the_leadership(autojump_clock: MockClock) -> None:
    """Entries carry the term of the leadership, which ends before a later term can be stamped (R1)."""
    server = await make_server()
    lead_term(server, 3)
    assert server.submit_nowait(b"a").term == 3
    server.adopt_term(Term(9), N2)
    with pytest.raises(NotLeader):
        server.submit_nowait(b"b")
    assert server.state.log.last_term == 3


async def test_submit_nowait_is_bounded(autojump_clock: MockClock) -> None:
    """Accepted commands are bounded in bytes, until they were applied."""
    server = await make_server(config=make_config(limits=Limits(pending_bytes=100)))
    lead_term(server, 1)
    for _ in range(3):
        server.submit_nowait(b"x" * 8)
    with pytest.raises(trio.WouldBlock):
        server.submit_nowait(b"y")
    assert server.state.log.last_index == 4


async def test_submit_nowait_on_a_full_disk(autojump_clock: MockClock) -> None:
    """While the disk is full proposals are refused, and nothing is appended (S2)."""
    server = await make_server()
    lead_term(server, 1)
    server.journal.full = StorageFull(Path("/disk"), 1000)
    with pytest.raises(StorageFull) as caught:
        server.submit_nowait(b"a")
    assert caught.value is not server.journal.full
    assert server.state.log.last_index == 1


async def test_full_disk_ends_the_leadership(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader whose disk is full steps down, and does not campaign until there is room (S2)."""
    server = await make_server()
    lead_term(server, 1)
    store_of(server).upkeep_results = [StorageFull(Path("/disk"), 1000), None]
    nursery.start_soon(server.journal.upkeep)
    await trio.sleep(0.1)
    assert server.state.role is Role.FOLLOWER
    assert not server.may_campaign()
    await trio.sleep(server.config.timeouts.retry_backoff_cap)
    assert server.may_campaign()


async def test_advance_commit_alone_waits_for_the_own_disk(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A single voter commits nothing before its own sync returned (S1, S11)."""
    server = await make_server(config=make_config(members=(N1,)))
    lead_term(server, 1)
    server.submit_nowait(b"a")
    server.advance_commit()
    assert (server.state.commit_index, server.applicable_index) == (0, 0)
    nursery.start_soon(server.journal.run)
    await durable(server)
    assert (server.state.commit_index, server.applicable_index) == (2, 2)


async def test_advance_commit_without_the_own_disk(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A majority of others may commit while the leader's disk still writes; it applies only what it holds itself
    (S11).
    """
    server = await make_server(latency=1.0)
    lead_term(server, 1)
    nursery.start_soon(server.journal.run)
    server.matches |= {N2: LogIndex(1), N3: LogIndex(1)}
    server.advance_commit()
    assert (server.state.commit_index, server.applicable_index) == (1, 0)
    await durable(server)
    assert server.applicable_index == 1


async def test_advance_commit_counts_the_own_term_only(autojump_clock: MockClock) -> None:
    """Entries of an earlier term are committed only with one of the leader's own (R2)."""
    server = await make_server(terms=[1, 1], term=1)
    lead_term(server, 2)
    server.matches |= {N2: LogIndex(2)}
    server.advance_commit()
    assert server.state.commit_index == 0
    server.matches |= {N2: LogIndex(3), N3: LogIndex(3)}
    server.advance_commit()
    assert server.state.commit_index == 3


# ------------------------------------------------------------------------------------------- answering a leader


async def test_answer_append_waits_for_the_entries_it_brought(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A success leaves once the entries of the request, and the term, are on disk (S1)."""
    server = await make_server()
    reply, position = server.answer_append(append_request(1, 0, 0, commands(1, [1, 1])))
    assert (reply.success, reply.match_index) == (True, 2)
    assert position == server.journal.position > server.vote_position > 0
    nursery.start_soon(server.journal.run)
    await server.journal.wait_durable(position)
    assert (len(store_of(server).on_disk), store_of(server).vote_on_disk.term) == (2, 1)


async def test_answer_append_probe_vouches_for_what_is_still_in_memory(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A probe that brings nothing still waits for the entry that it vouches for, as long as that is in memory only
    (S1).
    """
    server = await make_server(terms=[1], term=1)
    server.answer_append(append_request(1, 1, 1, commands(2, [1, 1])))
    brought = server.journal.position
    reply, position = server.answer_append(append_request(1, 3, 1))
    assert (reply.success, reply.match_index, position) == (True, 3, brought)
    # What this one vouches for has been on disk all along.
    reply, position = server.answer_append(append_request(1, 1, 1))
    assert (reply.success, reply.match_index) == (True, 1)
    assert position <= server.vote_position
    nursery.start_soon(server.journal.run)
    await durable(server)
    _, position = server.answer_append(append_request(1, 3, 1))
    assert position <= server.journal.durable_position


async def test_answer_append_repeated_while_superseded_entries_are_in_hand(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A reply never rests on an older write at the same index: it waits for the write of the very entry (S1, S5)."""
    server = await make_server(terms=[1], term=1, latency=1.0)
    nursery.start_soon(server.journal.run)
    server.answer_append(append_request(2, 1, 1, commands(2, [2])))
    await trio.sleep(0.1)
    server.answer_append(append_request(3, 1, 1, commands(2, [3])))
    old_write = server.journal.position - 2
    _, position = server.answer_append(append_request(3, 2, 3))
    assert position > old_write
    await server.journal.wait_durable(position)
    assert [entry.term for entry in store_of(server).on_disk] == [1, 3]


async def test_answer_append_refusal_waits_for_the_term_alone(autojump_clock: MockClock) -> None:
    """A refusal tells a term, so it waits for that term, and for nothing else (S1)."""
    server = await make_server(terms=[1], term=1)
    reply, position = server.answer_append(append_request(4, 9, 4))
    assert (reply.success, reply.rejection, reply.term) == (False, Rejection.LOG_MISMATCH, 4)
    assert position == server.vote_position == 1
    reply, position = server.answer_append(append_request(2, 1, 1, leader=N3))
    assert (reply.success, reply.rejection, reply.term) == (False, Rejection.STALE_TERM, 4)
    assert position == server.vote_position
    assert server.state.leader == N2


async def test_answer_append_commits_what_it_verified(autojump_clock: MockClock) -> None:
    """A follower's commit index goes no further than what the message verified, and the machine no further than the
    own disk (R3, S11).
    """
    server = await make_server(terms=[1, 1, 1], term=1)
    server.answer_append(append_request(1, 1, 1, commit=3))
    assert (server.state.commit_index, server.applicable_index) == (1, 1)
    server.answer_append(append_request(1, 3, 1, commands(4, [1]), commit=4))
    assert (server.state.commit_index, server.applicable_index) == (4, 3)


async def test_answer_append_not_ready(autojump_clock: MockClock) -> None:
    """Before the first configuration is settled nothing is acknowledged, and no term is taken over (O1)."""
    server = await make_server(settled=False)
    before = facts(server)
    reply, _ = server.answer_append(append_request(7, 0, 0, commands(1, [7])))
    assert (reply.success, reply.rejection, reply.term) == (False, Rejection.NOT_READY, 0)
    assert not server.answer_heartbeat(Heartbeat(Term(7), N2, 0)).ready
    assert facts(server) == before


async def test_answer_append_ends_a_candidacy(autojump_clock: MockClock) -> None:
    """A candidate that hears the leader of its own term follows it (paper 5.2)."""
    server = await make_server()
    server.transition(Term(1), Role.CANDIDATE, "the test says so")
    server.answer_append(append_request(1, 0, 0))
    assert (server.state.role, server.state.leader, server.state.voted_for) == (Role.FOLLOWER, N2, N1)


async def test_answer_append_second_leader_of_a_term_is_a_violation(autojump_clock: MockClock) -> None:
    """Two leaders of one term break Election Safety: that is no matter of one connection, it raises (paper 5.2)."""
    server = await make_server()
    server.answer_append(append_request(1, 0, 0))
    with pytest.raises(AssertionError, match="two leaders"):
        server.answer_append(append_request(1, 0, 0, leader=N3))


async def test_answer_heartbeat_carries_the_round_back(autojump_clock: MockClock) -> None:
    """A heartbeat is answered with its own round, its sender followed, and the timer drawn anew (Q4)."""
    server = await make_server(term=2)
    recorder = record(server)
    await trio.sleep(5)
    reply = server.answer_heartbeat(Heartbeat(Term(3), N2, 17))
    assert (reply.term, reply.round, reply.ready) == (3, 17, True)
    assert (server.state.leader, server.patience.last_contact) == (N2, 5)
    patience = server.config.timeouts.heartbeat_timeout
    assert 5 + patience <= server.patience.election_deadline < 5 + 2 * patience
    assert recorder.of(LeaderChanged) == [LeaderChanged(N2, Term(3))]
    server.answer_heartbeat(Heartbeat(Term(3), N2, 18))
    assert len(recorder.of(LeaderChanged)) == 1


async def test_answer_heartbeat_of_an_old_term(autojump_clock: MockClock) -> None:
    """A deposed leader's heartbeat gets the later term, and moves no timer."""
    server = await make_server(term=4)
    before = facts(server)
    reply = server.answer_heartbeat(Heartbeat(Term(3), N2, 1))
    assert reply.term == 4
    assert facts(server) == before


# ------------------------------------------------------------------------------------------- answering a candidate


async def test_answer_vote_waits_for_the_vote(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A vote leaves once exactly that (term, vote) is on disk (E1, E2)."""
    server = await make_server(terms=[1], term=1)
    reply, position = server.answer_vote(ask_vote(3, 1, 1))
    assert (reply.granted, reply.term) == (True, 3)
    assert position == server.vote_position == server.journal.position > 0
    nursery.start_soon(server.journal.run)
    await server.journal.wait_durable(position)
    assert store_of(server).vote_on_disk == SaveVote(Term(3), N2)


async def test_answer_vote_repeated(autojump_clock: MockClock) -> None:
    """The same candidate gets its vote again, resting on the same record; another one gets none (E1)."""
    server = await make_server(terms=[1], term=1)
    _, first = server.answer_vote(ask_vote(3, 1, 1))
    reply, position = server.answer_vote(ask_vote(3, 1, 1))
    assert (reply.granted, position) == (True, first)
    reply, position = server.answer_vote(ask_vote(3, 9, 2, candidate=N3))
    assert (reply.granted, position) == (False, first)
    # The vote that was found on disk is repeated without a new write.
    restarted = await make_server(terms=[1], term=3, voted_for=N2)
    reply, position = restarted.answer_vote(ask_vote(3, 1, 1))
    assert (reply.granted, position, restarted.journal.position) == (True, 0, 0)


async def test_answer_vote_repeated_checks_the_log_again(autojump_clock: MockClock) -> None:
    """A repeated grant looks at the logs again: what was learned meanwhile counts (E1, E3)."""
    server = await make_server(terms=[1], term=3, voted_for=N2)
    reply, _ = server.answer_vote(ask_vote(3, 0, 0))
    assert not reply.granted


async def test_answer_vote_learning_a_term_is_not_granting(autojump_clock: MockClock) -> None:
    """A candidate with an older log makes this server adopt its term and gets no vote; the refusal waits for the term
    (E4, E3).
    """
    server = await make_server(terms=[1, 2], term=2)
    reply, position = server.answer_vote(ask_vote(5, 1, 1))
    assert (reply.granted, reply.term) == (False, 5)
    assert (server.state.current_term, server.state.voted_for) == (5, None)
    assert position == server.vote_position == 1
    assert list(server.journal._queue) == [SaveVote(Term(5), None)]


async def test_answer_vote_restarts_the_timer_only_when_granted(autojump_clock: MockClock) -> None:
    """Having voted for another, a server gives it the time to win; a refusal moves no timer (paper 5.2)."""
    server = await make_server(terms=[1, 2], term=2)
    await trio.sleep(10)
    deadline = server.patience.election_deadline
    server.answer_vote(ask_vote(5, 1, 1))
    assert server.patience.election_deadline == deadline
    server.answer_vote(ask_vote(5, 2, 2))
    assert server.patience.election_deadline >= 10 + server.config.timeouts.heartbeat_timeout


async def test_answer_pre_vote_changes_nothing_and_never_waits(autojump_clock: MockClock) -> None:
    """A pre-vote changes no term, vote or timer, and rests on memory alone (E2, E6)."""
    server = await make_server(terms=[1], term=2)
    server.answer_vote(ask_vote(3, 1, 1, candidate=N3))
    await trio.sleep(10)
    before = facts(server)
    for request in (ask_vote(4, 1, 1, pre_vote=True), ask_vote(99, 0, 0, pre_vote=True)):
        _, position = server.answer_vote(request)
        assert position == 0
    assert server.answer_vote(ask_vote(4, 1, 1, pre_vote=True))[0].granted
    assert facts(server) == before


@pytest.mark.parametrize("pre_vote", [False, True])
async def test_answer_vote_sticky(pre_vote: bool, autojump_clock: MockClock) -> None:
    """Who has just heard its leader refuses every candidate and changes nothing, the term included (E8)."""
    server = await make_server(terms=[1], term=2)
    await trio.sleep(10)
    server.answer_heartbeat(Heartbeat(Term(2), N3, 0))
    await trio.sleep(0.99 * server.config.timeouts.heartbeat_timeout)
    before = facts(server)
    reply, _ = server.answer_vote(ask_vote(50, 9, 9, pre_vote=pre_vote))
    assert (reply.granted, reply.term) == (False, 2)
    assert facts(server) == before
    await trio.sleep(0.02 * server.config.timeouts.heartbeat_timeout)
    reply, _ = server.answer_vote(ask_vote(50, 9, 9, pre_vote=pre_vote))
    assert reply.granted


async def test_answer_vote_leader_is_always_sticky(autojump_clock: MockClock) -> None:
    """A leader is not deposed by a candidacy, only by losing its majority or a later term in a reply (E8)."""
    server = await make_server()
    lead_term(server, 2)
    await trio.sleep(100)
    before = facts(server)
    reply, _ = server.answer_vote(ask_vote(50, 9, 9))
    assert not reply.granted
    assert facts(server) == before


async def test_answer_vote_not_ready(autojump_clock: MockClock) -> None:
    """Before the first configuration is settled nobody gets a vote, and no term is taken over (O1)."""
    server = await make_server(settled=False)
    before = facts(server)
    for pre_vote in (False, True):
        reply, _ = server.answer_vote(ask_vote(5, 9, 4, pre_vote=pre_vote))
        assert not reply.granted
    assert facts(server) == before


# ------------------------------------------------------------------------------------------- who may campaign


async def test_may_campaign(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Only a ready voter of its own configuration whose disk takes writes may campaign (E7, E10)."""
    server = await make_server()
    assert server.may_campaign()
    nursery.start_soon(server.journal.run)
    lanes(server.environment).stall(Lane.JOURNAL)
    server.journal.save_vote(Term(0), None)
    await trio.sleep(server.config.timeouts.disk_stall_timeout + 0.1)
    assert not server.may_campaign()
    lanes(server.environment).resume()
    await durable(server)
    assert server.may_campaign()
    server.state.configuration = Configuration(voters=(N2, N3), learners=(N1,))
    assert not server.may_campaign()


async def test_become_ready(autojump_clock: MockClock) -> None:
    """Once the first configuration is settled the server may campaign, after a timeout of its own (O1)."""
    server = await make_server(settled=False)
    assert not server.may_campaign()
    await trio.sleep(100)
    server.become_ready()
    assert server.may_campaign()
    assert server.patience.election_deadline >= 100 + server.config.timeouts.heartbeat_timeout


async def test_first_start_queues_what_it_learned(autojump_clock: MockClock) -> None:
    """A member map that changed is queued, and stated only with the position at which it is durable (O1)."""
    server = await make_server(settled=False)
    first_start = server.first_start
    first_start.meet(N2, "boot")
    first_start.learn(N2, incarnation(N2), "boot", stated={}, stated_done=False)
    assert list(server.journal._queue) == [SaveBootstrap({N1: incarnation(N1), N2: incarnation(N2)}, done=False)]
    assert first_start.position == server.journal.position == 1
    assert first_start.missing == (N2, N3)


async def test_first_start_replaced_directory(autojump_clock: MockClock) -> None:
    """A settled member that knows this id by another incarnation makes every call say so (O1)."""
    server = await make_server(settled=False)
    settled = {N1: Incarnation("another disk"), N2: incarnation(N2), N3: incarnation(N3)}
    server.first_start.meet(N2, "boot")
    server.first_start.learn(N2, incarnation(N2), "boot", stated=settled, stated_done=True)
    with pytest.raises(IncarnationRefused) as caught:
        server.check_open()
    assert (caught.value.known, caught.value.found) == ("another disk", incarnation(N1))
    assert not server.may_campaign()


# ------------------------------------------------------------------------------------------- the end


async def test_close_ends_everything_once(autojump_clock: MockClock) -> None:
    """Closing gives up the leadership, fails open proposals, and refuses everything from then on (X1, X2)."""
    server = await make_server()
    lead_term(server, 1)
    ticket = server.submit_nowait(b"a")
    server.close(None)
    server.close(ValueError("too late to matter"))
    assert server.state.role is Role.FOLLOWER
    with pytest.raises(LeadershipLost):
        await ticket.wait()
    with pytest.raises(trio.ClosedResourceError) as caught:
        server.submit_nowait(b"b")
    assert caught.value.__cause__ is None


async def test_close_by_a_crash_names_it(autojump_clock: MockClock) -> None:
    """After a crash both open proposals and later calls say what it was (X1)."""
    server = await make_server()
    lead_term(server, 1)
    ticket = server.submit_nowait(b"a")
    crash = StateMachineError(index=3, term=1, problem="boom")
    server.close(crash)
    with pytest.raises(LeadershipLost) as lost:
        await ticket.wait()
    with pytest.raises(trio.ClosedResourceError) as closed:
        server.check_open()
    assert lost.value.__cause__ is closed.value.__cause__ is crash


async def test_timers_start_in_the_future(autojump_clock: MockClock) -> None:
    """A server that has just started waits a drawn time before it campaigns, and has heard nobody (E9)."""
    await trio.sleep(1000)
    servers = [await make_server(seed=seed, config=make_config(timeouts=Timeouts())) for seed in range(20)]
    deadlines = [server.patience.election_deadline - trio.current_time() for server in servers]
    assert all(1.0 <= deadline < 2.0 for deadline in deadlines)
    assert len(set(deadlines)) == 20
    assert servers[0].patience.last_contact == -math.inf
