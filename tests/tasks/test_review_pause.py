"""After the process stood still, what has arrived is looked at before any alarm is believed."""

import trio
from trio.testing import MockClock

from tests.tasks.parts import N2, N3, command, lanes, lead_term, make_server, record
from trio_raft._election import _Round
from trio_raft._environment import Lane
from trio_raft._events import DiskStalled, RoleChanged
from trio_raft._leadership import lead
from trio_raft._messages import RequestVoteReply
from trio_raft._records import Term
from trio_raft._rules.state import Role


async def test_pause_during_a_write_is_no_stall(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    """A write that was in hand when the process was stopped, and had returned when it went on, is no stalled disk
    (K2, E10, S9).
    """
    mock_clock.autojump_threshold = 0
    server = await make_server()
    recorder = record(server)
    nursery.start_soon(server.journal.run)
    nursery.start_soon(server.journal.watch)
    await trio.sleep(0.5)
    lanes(server.environment).stall(Lane.JOURNAL)
    server.journal.supersede([command(1, 1)])
    await trio.sleep(0.1)
    mock_clock.jump(7)
    # Alarms ring first, then what has arrived is read.
    for _ in range(5):
        await trio.lowlevel.checkpoint()
    lanes(server.environment).resume()
    await trio.sleep(5)
    assert server.journal.durable_index == 1
    assert recorder.of(DiskStalled) == []


async def test_stall_after_a_pause_is_still_seen(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    """A disk that hangs on after the process went on is reported, one heartbeat interval later at most (S9, E10)."""
    mock_clock.autojump_threshold = 0
    server = await make_server()
    recorder = record(server)
    nursery.start_soon(server.journal.run)
    nursery.start_soon(server.journal.watch)
    lanes(server.environment).stall(Lane.JOURNAL)
    server.journal.supersede([command(1, 1)])
    await trio.sleep(0.1)
    mock_clock.jump(7)
    await trio.sleep(server.config.timeouts.heartbeat_interval + 0.01)
    assert len(recorder.of(DiskStalled)) == 1


async def test_pause_is_no_dead_log(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that was stopped with entries on their way looks at the acknowledgements that arrived before it calls
    its log dead (K2, R14).
    """
    mock_clock.autojump_threshold = 0
    server = await make_server()
    recorder = record(server)
    nursery.start_soon(server.journal.run)
    lead_term(server, 1)
    follower, *_ = server.followers.values()
    # Contact is not what this is about.
    for each in server.followers.values():
        each.progress.last_contact = float("inf")
    nursery.start_soon(lead, server)
    await trio.sleep(3)
    mock_clock.jump(20)
    for _ in range(5):
        await trio.lowlevel.checkpoint()
    follower.progress.last_append_contact = trio.current_time()
    server.matches[follower.id] = server.state.log.last_index
    server.advance_commit()
    await trio.sleep(3)
    assert server.leads(Term(1))
    assert [event.role for event in recorder.of(RoleChanged)][-1] == Role.LEADER.value


async def test_pre_votes_from_before_a_pause(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    """Pre-votes that waited in the socket while the process stood still lift no term: they tell how things stood
    before (E6, E8, K2).
    """
    mock_clock.autojump_threshold = 0
    server = await make_server(term=3)
    server.transition(Term(3), Role.CANDIDATE, "the test says so")
    campaign_round = _Round(server, pre_vote=True)
    await trio.sleep(0.1)
    mock_clock.jump(5)
    for voter in (N2, N3):
        campaign_round._digest(voter, RequestVoteReply(Term(3), True, True, Term(4)))
    assert (server.state.role, server.state.current_term) == (Role.CANDIDATE, 3)
