"""A leader that doubts itself, and the reads that it answers only after it was confirmed."""

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    N2,
    N3,
    ScriptedPeer,
    follow_script,
    lead_term,
    make_config,
    make_server,
    settle,
    until,
)
from trio_raft._errors import NotLeader
from trio_raft._leadership import (
    _quorum_append_contact,
    _quorum_contact,
    confirm_leadership,
    confirm_read_index,
    lead,
)
from trio_raft._messages import Purpose
from trio_raft._records import LogIndex, Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft.testing._network import MemoryNetwork

TERM = 3


async def start(
    nursery: trio.Nursery, *, following: tuple[str, ...] = ("n2", "n3"), beating: tuple[str, ...] = ("n2", "n3")
) -> tuple[Server, dict[str, ScriptedPeer], MemoryNetwork]:
    """A leader of term 3; these peers accept entries, and those answer heartbeats."""
    network = MemoryNetwork()
    server = await make_server(terms=[1], term=TERM - 1, network=network)
    nursery.start_soon(server.journal.run)
    peers = {follower: ScriptedPeer(make_config(follower)) for follower in (N2, N3)}
    peers = {name: peer for name, peer in peers.items() if name in following or name in beating}
    for name, peer in peers.items():
        peer.answers_heartbeats = name in beating
        await peer.listen(network, nursery)
        if name in following:
            nursery.start_soon(accept_all, peer, nursery)
    lead_term(server, TERM)

    async def role() -> None:
        with trio.CancelScope() as server.role_scope:
            await lead(server)

    nursery.start_soon(role)
    return server, {str(name): peer for name, peer in peers.items()}, network


async def accept_all(peer: ScriptedPeer, nursery: trio.Nursery) -> None:
    while True:
        nursery.start_soon(follow_script, await peer.channel(Purpose.REPLICATION))


async def stepped_down(server: Server, *, within: float) -> float:
    """Seconds until the server gave up leading."""
    began = trio.current_time()
    with trio.fail_after(within):
        await until(lambda: server.state.role is not Role.LEADER)
    return trio.current_time() - began


# ------------------------------------------------------------------------------------------- contact


async def test_quorum_contact_is_dated_by_the_sending(autojump_clock: MockClock) -> None:
    """Contact with a majority is as old as the request that the last of them answered (R11, E9)."""
    server = await make_server()
    lead_term(server, 1)
    await trio.sleep(50)
    assert _quorum_contact(server) == 0
    server.followers[N2].progress.last_contact = 30
    assert (_quorum_contact(server), _quorum_append_contact(server)) == (30, 0)
    server.followers[N3].progress.last_contact = 40
    server.followers[N3].progress.last_append_contact = 35
    assert (_quorum_contact(server), _quorum_append_contact(server)) == (40, 35)


async def test_quorum_contact_alone_is_always_now(autojump_clock: MockClock) -> None:
    """A leader that is its own majority is never out of contact."""
    server = await make_server(config=make_config(members=(N1,)))
    lead_term(server, 1)
    await trio.sleep(50)
    assert (_quorum_contact(server), _quorum_append_contact(server)) == (50, 50)


async def test_watch_contact_with_a_majority(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader in contact with a majority leads on, though one follower is gone."""
    server, _, _ = await start(nursery, following=("n2",), beating=("n2",))
    await trio.sleep(100)
    assert (server.state.role, server.state.commit_index) == (Role.LEADER, 2)


async def test_watch_contact_cut_off(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader without a round trip with a majority for ``leader_lease_timeout`` steps down in its own term
    (E9, R11).
    """
    server, _, network = await start(nursery)
    await trio.sleep(10)
    for peer in (N2, N3):
        network.cut(peer, N1)
    lease = server.config.timeouts.leader_lease_timeout
    took = await stepped_down(server, within=2 * lease)
    interval = server.config.timeouts.heartbeat_interval
    assert lease - 2 * interval - 0.02 <= took <= lease + 0.02
    assert server.state.current_term == TERM


# ------------------------------------------------------------------------------------------- a dead log


async def test_watch_log_heartbeats_do_not_hide_it(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Uncommitted entries and no append reply from a majority make the leader step down, heartbeats notwithstanding,
    and open proposals end with an unknown outcome (R14, X1).
    """
    server, _, _ = await start(nursery, following=())
    ticket = server.submit_nowait(b"a")
    patience = server.config.timeouts.replication_stall_timeout
    took = await stepped_down(server, within=2 * patience)
    assert patience <= took <= 1.2 * patience
    assert ticket.settled


async def test_watch_log_idle_is_no_stall(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader with nothing to replicate leads for ever, and its first write afterwards gets the whole time (R14)."""
    server, _, _ = await start(nursery)
    await trio.sleep(5 * server.config.timeouts.replication_stall_timeout)
    assert (server.state.role, server.state.commit_index) == (Role.LEADER, 2)
    server.submit_nowait(b"a")
    await trio.sleep(1)
    assert (server.state.role, server.state.commit_index) == (Role.LEADER, 3)


async def test_watch_log_with_a_follower_that_lost_data(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower that lost data cannot help to commit: its refusals do not hide that the log stands still (R14, X1)."""
    server, _, _ = await start(nursery, following=())
    server.followers[N2].progress.lost_data = True
    server.submit_nowait(b"a")

    async def refuse_for_ever() -> None:
        while server.followers:
            server.followers[N2].progress.last_append_contact = trio.current_time()
            await trio.sleep(0.1)

    nursery.start_soon(refuse_for_ever)
    await stepped_down(server, within=2 * server.config.timeouts.replication_stall_timeout)


# ------------------------------------------------------------------------------------------- reads


async def test_read_index_waits_for_the_no_op(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """No read index before an entry of the leader's own term is committed (Q3)."""
    server, _, _ = await start(nursery, following=())
    with trio.move_on_after(5) as scope:
        await confirm_read_index(server)
    assert scope.cancelled_caught
    assert server.state.commit_index == 0


async def test_read_index_after_the_no_op(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The read index is the commit index at the moment when the read arrived, confirmed by one round (Q1, Q4)."""
    server, _, _ = await start(nursery)
    await trio.sleep(1)
    server.state.last_applied = LogIndex(2)
    began = trio.current_time()
    assert await confirm_read_index(server) == 2
    assert trio.current_time() - began < 0.01


async def test_confirm_needs_an_answer_sent_after_the_read(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A heartbeat that was on its way when the read arrived confirms nothing: a later one must be answered (Q4)."""
    server, peers, network = await start(nursery)
    await trio.sleep(1)
    for peer in (N2, N3):
        network.set_delay(N1, peer, 0.1)
    await trio.sleep(1)
    began = trio.current_time()
    await confirm_leadership(server)
    # Its own round trip alone takes longer than what was left of the one that was on its way.
    assert trio.current_time() - began >= 0.1
    rounds = [beat.round for peer in peers.values() for _, beat in peer.heartbeats]
    assert max(rounds) == server.reads.current == 1


async def test_confirm_shares_rounds(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Reads that arrive together share one round (Q4)."""
    server, _, _ = await start(nursery)
    await trio.sleep(1)
    before = server.reads.current
    async with trio.open_nursery() as readers:
        for _ in range(100):
            readers.start_soon(confirm_leadership, server)
    assert server.reads.current - before == 1


async def test_confirm_cut_off_leader(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that was cut off never confirms; the read ends with its leadership (Q1, X3)."""
    server, _, network = await start(nursery)
    await trio.sleep(1)
    for peer in (N2, N3):
        network.cut(N1, peer)
    began = trio.current_time()
    with pytest.raises(NotLeader):
        await confirm_leadership(server)
    assert trio.current_time() - began <= server.config.timeouts.leader_lease_timeout + 0.05


async def test_confirm_deposed_in_between(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A read of one leadership is not answered by another, even of the same server (Q1)."""
    server, _, _ = await start(nursery, following=())
    errors: list[str] = []

    async def read() -> None:
        try:
            await confirm_read_index(server)
        except NotLeader:
            errors.append("not leader")

    nursery.start_soon(read)
    await trio.sleep(0.5)
    server.adopt_term(Term(7), N2)
    lead_term(server, 8)
    await settle()
    assert errors == ["not leader"]


async def test_confirm_by_a_follower(autojump_clock: MockClock) -> None:
    """Whoever does not lead says so at once (Q1, X3)."""
    server = await make_server()
    for call in (confirm_read_index, confirm_leadership):
        with pytest.raises(NotLeader):
            await call(server)


async def test_confirm_alone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that is its own majority needs nobody (Q1)."""
    server = await make_server(config=make_config(members=(N1,)))
    nursery.start_soon(server.journal.run)
    lead_term(server, 1)
    await server.journal.wait_durable(server.journal.position)
    await confirm_leadership(server)
    assert await confirm_read_index(server) == 1
