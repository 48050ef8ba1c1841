"""What a follower makes of connections that ended: it dials its leader again, and believes nothing but the answer."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N2,
    N3,
    Recorder,
    connect,
    handshake_of,
    incarnation,
    listen_for,
    make_config,
    make_server,
    record,
    run_roles,
    settle,
    until,
)
from trio_raft._events import LeaderGone, RoleChanged
from trio_raft._handshake import Handshake
from trio_raft._messages import AppendEntries, Heartbeat, Incarnation, LogIndex, Purpose
from trio_raft._records import Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._transport import Channel, ChannelBroken, accept
from trio_raft.testing._environment import test_environment
from trio_raft.testing._network import MemoryNetwork

WAY = 0.01
"""Seconds from one server to another."""


class Leader:
    """n2 leads term 1 and is followed by n1, until something happens to it.  Who dials it is answered as ``role`` says;
    where that is None, not at all.
    """

    def __init__(self, network: MemoryNetwork, server: Server, recorder: Recorder) -> None:
        self.network = network
        self.server = server
        self.recorder = recorder
        self.role: str | None = "leader"
        self.handshake: Handshake = handshake_of(make_config(N2))
        self.breaks = 0
        """So many dials are taken, and broken without an answer."""
        self.dials = 0
        self.channels: list[Channel] = []
        self._listening = trio.CancelScope()

    async def listen(self) -> None:
        listeners = await self.network.transport(N2).listen("n2:1")
        with self._listening:
            await trio.serve_listeners(self._answer, list(listeners))

    async def _answer(self, stream: trio.abc.Stream) -> None:
        self.dials += 1
        if self.breaks:
            self.breaks -= 1
            await stream.aclose()
        elif self.role is None:
            await trio.sleep_forever()
        else:
            role = self.role
            handshake = attrs.evolve(self.handshake, role=lambda: role)
            with suppress(ChannelBroken):
                channel = await accept(
                    stream, handshake, environment=test_environment(9), timeouts=self.server.config.timeouts
                )
                await channel.receive()

    async def connect(self, purpose: Purpose = Purpose.CONTROL) -> None:
        self.channels.append(await connect(self.network, self.server, purpose, boot_id=self.handshake.boot_id))

    async def beat(self, term: int = 1) -> None:
        control = next(each for each in reversed(self.channels) if each.purpose is Purpose.CONTROL)
        await control.request(Heartbeat(Term(term), N2, 0))

    def restart(self) -> None:
        """From now on it is another process, which does not lead; connections of the one before stay half open."""
        self.handshake = attrs.evolve(self.handshake, boot_id="the next boot of n2")
        self.role = "follower"

    async def lose(self) -> None:
        """All connections that it opened end; it listens on."""
        for channel in self.channels:
            await channel.drop()
        self.channels.clear()

    async def die(self) -> None:
        self._listening.cancel()
        await self.lose()

    @property
    def gone(self) -> list[LeaderGone]:
        """What n1 has found out."""
        return self.recorder.of(LeaderGone)


async def follow_n2(nursery: trio.Nursery, *, delay: float = WAY) -> tuple[Server, Leader]:
    """n1, whose role loop runs, and its leader."""
    network = MemoryNetwork(delay=delay)
    server = await make_server(term=1, network=network)
    leader = Leader(network, server, record(server))
    nursery.start_soon(leader.listen)
    await listen_for(server, nursery)
    nursery.start_soon(server.journal.run)
    nursery.start_soon(run_roles, server)
    for purpose in (Purpose.CONTROL, Purpose.REPLICATION):
        await leader.connect(purpose)
    await leader.beat()
    assert server.follows(N2, Term(1))
    return server, leader


async def test_dead_leader(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower that is refused on redial is loyal no longer, and a candidate within a moment (E11)."""
    server, leader = await follow_n2(nursery)
    died_at = trio.current_time()
    await leader.die()
    await until(lambda: server.state.role is Role.CANDIDATE)
    # The end travels once, the dial there and back.
    assert trio.current_time() - died_at <= 3 * WAY + server.config.timeouts.failover_delay + 0.002
    [gone] = leader.gone
    assert (gone.leader, gone.term) == (N2, 1)
    assert "connection refused" in gone.reason
    assert not server.is_sticky()
    assert leader.recorder.of(RoleChanged)[-1].reason == f"n2 is gone: {gone.reason}"
    assert server.state.current_term == 1


async def stays(server: Server, leader: Leader, deed: Callable[[], Awaitable[object]]) -> None:
    """Whatever is done, the follower waits as long as it would have waited anyway."""
    before = server.patience.election_deadline
    await deed()
    await trio.sleep(server.config.timeouts.heartbeat_timeout / 2)
    assert leader.gone == []
    assert server.is_sticky()
    assert server.patience.election_deadline == before
    assert server.follows(N2, Term(1))
    await trio.sleep_until(before - 0.001)
    assert server.state.role is Role.FOLLOWER
    await until(lambda: server.state.role is Role.CANDIDATE)


async def test_leader_that_lives(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Connections end for many reasons: of a leader who answers that he leads they prove nothing (E11)."""
    server, leader = await follow_n2(nursery)
    await stays(server, leader, leader.lose)
    assert leader.dials >= 1


async def test_leader_that_does_not_answer(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Silence is no proof: a leader that stands still, or is cut off, is waited for (E11)."""
    server, leader = await follow_n2(nursery)
    leader.role = None
    await stays(server, leader, leader.lose)


async def test_leader_that_cannot_be_dialled(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A dial that hangs is no proof either (E11)."""
    server, leader = await follow_n2(nursery)

    async def cut() -> None:
        await leader.lose()
        await trio.sleep(WAY / 2)
        leader.network.cut(server.node_id, N2)

    await stays(server, leader, cut)


async def test_leader_of_a_version_that_does_not_say(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A process that does not say what it is may well lead, as long as it is the same process (E11)."""
    server, leader = await follow_n2(nursery)
    leader.role = ""
    await stays(server, leader, leader.lose)


@pytest.mark.parametrize("restarted", [False, True])
async def test_leader_of_a_version_that_says_it_otherwise(
    restarted: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A later version may have another word for a server that leads: it is proof of nothing (E11)."""
    server, leader = await follow_n2(nursery)
    if restarted:
        leader.restart()
    leader.role = "handing over"
    await stays(server, leader, leader.lose)


async def test_leader_that_refuses_the_handshake(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Whoever answers with another incarnation proves nothing: the address may be wrong (E11)."""
    server, leader = await follow_n2(nursery)
    leader.handshake = attrs.evolve(leader.handshake, incarnation=Incarnation("another"))
    assert incarnation(N2) != "another"
    leader.role = "follower"
    await stays(server, leader, leader.lose)


async def test_heartbeats_go_on(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """While the leader's control connection is open nobody asks: a pipeline is dropped at the least doubt."""
    server, leader = await follow_n2(nursery)
    await leader.channels.pop().drop()
    await trio.sleep(0.5)
    assert (leader.dials, server.is_sticky()) == (0, True)
    await leader.die()
    await trio.sleep(0.5)
    assert len(leader.gone) == 1


async def test_replication_is_left(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A replication connection may be idle and half open: it stands for no leader. What is read from it late makes up
    for nothing either: the leader is asked for again when it ends (E11).
    """
    server, leader = await follow_n2(nursery)
    control, replication = leader.channels
    leader.channels = [control]
    await leader.die()
    await until(lambda: server.state.role is Role.CANDIDATE)
    assert len(leader.gone) == 1
    probe = AppendEntries(Term(1), N2, LogIndex(0), Term(0), LogIndex(0))
    await replication.send(probe, request_id=1)
    await trio.sleep(2 * WAY)
    assert server.is_sticky()
    await replication.drop()
    await until(lambda: server.state.role is Role.CANDIDATE)
    assert len(leader.gone) == 2


async def test_connection_that_was_replaced(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The end of a connection in whose place another one is open means nothing, and its silence hides nothing."""
    _, leader = await follow_n2(nursery)
    await leader.connect(Purpose.CONTROL)
    old = leader.channels.pop(0)
    replication = leader.channels.pop(0)
    await replication.drop()
    await leader.beat()
    await trio.sleep(0.5)
    assert leader.dials == 0
    # The old one is half open now: its end never arrives.
    await leader.die()
    await trio.sleep(0.5)
    assert len(leader.gone) == 1
    await old.drop()


async def test_connection_that_was_replaced_outlives_the_other(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """When the last connection of a process ends it is asked for, though another one had replaced this one (E11)."""
    _, leader = await follow_n2(nursery)
    old = leader.channels.pop(0)
    await leader.connect(Purpose.CONTROL)
    await leader.beat()
    await leader.lose()
    await trio.sleep(0.2)
    assert leader.gone == []
    assert leader.dials >= 1
    leader.channels.append(old)
    await leader.die()
    await trio.sleep(0.2)
    assert len(leader.gone) == 1


async def test_another_process_is_connected(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The connections of a restarted server do not stand for the process that led (E11)."""
    server, leader = await follow_n2(nursery)
    old = list(leader.channels)
    leader.restart()
    for purpose in (Purpose.CONTROL, Purpose.REPLICATION):
        await leader.connect(purpose)
    for channel in old:
        await channel.drop()
    await until(lambda: server.state.role is Role.CANDIDATE)
    assert [gone.reason for gone in leader.gone] == ["another process answers at its address"]


async def test_another_process_replaces_nothing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """While the process that leads is connected nobody asks, though another of its id has connected since (E11)."""
    server, leader = await follow_n2(nursery)
    replication = leader.channels.pop()
    other = await connect(leader.network, server, Purpose.CONTROL, boot_id="another boot of n2")
    await replication.drop()
    await leader.beat()
    await trio.sleep(0.5)
    assert leader.dials == 0
    assert server.is_sticky()
    await other.drop()


async def test_another_process_answers(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that was restarted at once is another process, which does not lead: it is not waited for (E11)."""
    server, leader = await follow_n2(nursery)
    leader.restart()
    await leader.lose()
    await until(lambda: server.state.role is Role.CANDIDATE)
    assert [gone.reason for gone in leader.gone] == ["another process answers at its address"]


async def test_another_process_that_leads(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A restarted server that was elected meanwhile will be heard: nothing is done (E11)."""
    server, leader = await follow_n2(nursery)
    leader.restart()
    leader.role = "leader"
    await stays(server, leader, leader.lose)


async def test_leader_that_stepped_down(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A server that leads no more closes its connections as a leader: it is not waited for (E11)."""
    server, leader = await follow_n2(nursery)
    leader.role = "follower"
    await leader.lose()
    await until(lambda: server.state.role is Role.CANDIDATE)
    assert [gone.reason for gone in leader.gone] == ["it is follower now"]


async def test_process_that_is_dying(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A dying process may still take a connection, which breaks then: the next dial tells (E11)."""
    _, leader = await follow_n2(nursery)
    leader.breaks = 2
    await leader.lose()
    await until(lambda: leader.dials == 2)
    assert leader.gone == []
    await leader.die()
    await trio.sleep(0.2)
    assert len(leader.gone) == 1


async def test_heard_while_asking(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that is heard while the redial is under way is not given up for its answer; he is asked again (E11)."""
    server, leader = await follow_n2(nursery)
    leader.network.refuse(N2)
    await leader.lose()
    # The end of the connections arrives after one way, the refusal after two more.
    await trio.sleep(2.5 * WAY)
    server.answer_heartbeat(Heartbeat(Term(1), N2, 0))
    deadline = server.patience.election_deadline
    await trio.sleep(WAY)
    leader.network.heal()
    await trio.sleep(0.5)
    assert leader.gone == []
    assert (leader.dials, server.patience.election_deadline) == (1, deadline)


async def test_last_words_do_not_save_a_leader(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What a leader sent before he died may be read after the first redial: he is found to be gone all the same."""
    server, leader = await follow_n2(nursery)
    await leader.die()
    await trio.sleep(2 * WAY)
    server.answer_heartbeat(Heartbeat(Term(1), N2, 0))
    await trio.sleep(0.1)
    assert len(leader.gone) == 1


async def test_dies_after_it_answered(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that dies while its answer is on the way is asked for again: no other end will come (E11)."""
    _, leader = await follow_n2(nursery)
    await leader.channels.pop(0).drop()
    # One way for the end, two to connect, one for the question; the end of the process overtakes the answer.
    await trio.sleep(4.2 * WAY)
    assert leader.dials == 1
    leader.network.set_delay(N2, leader.server.node_id, WAY / 10)
    await leader.die()
    await trio.sleep(0.2)
    assert len(leader.gone) == 1


async def test_leads_again_and_dies_while_asking(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Who still asks after one leadership of a server asks after the next one too, when that is lost (E11)."""
    server, leader = await follow_n2(nursery)
    leader.role = None
    await leader.lose()
    await until(lambda: leader.dials == 1)
    leader.restart()
    await leader.connect()
    await leader.beat(term=2)
    await leader.die()
    await trio.sleep(0.2)
    assert [gone.term for gone in leader.gone] == [2]
    assert not server.is_sticky()


async def test_connected_again_between_two_dials(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that has connected again is not asked for any more, and not declared gone (E11)."""
    server, leader = await follow_n2(nursery)
    leader.breaks = 100
    await leader.lose()
    await until(lambda: leader.dials == 2)
    # The next dial is a while away, and its answer would count against it.
    await leader.connect()
    await leader.beat()
    leader.breaks, leader.role = 0, "follower"
    dials = leader.dials
    await trio.sleep(0.5)
    assert (leader.gone, leader.dials) == ([], dials)
    assert server.is_sticky()


async def test_connected_again_during_a_dial(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A refusal counts for nothing if the leader has connected again while it was on the way (E11)."""
    server, leader = await follow_n2(nursery)
    leader.network.refuse(N2)
    nursery.start_soon(leader.connect)
    # The new connection is there after three ways, the end of the old ones before that, and the refusal after it.
    await trio.sleep(1.5 * WAY)
    await leader.lose()
    await trio.sleep(0.5)
    assert leader.gone == []
    assert server.is_sticky()


async def test_new_term_while_asking(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Who has learnt of another leader meanwhile does not care what became of the old one (E11)."""
    server, leader = await follow_n2(nursery)
    await leader.die()
    await trio.sleep(2 * WAY)
    server.answer_heartbeat(Heartbeat(Term(2), N3, 0))
    await trio.sleep(0.5)
    assert leader.gone == []
    assert server.is_sticky()


async def test_peer_that_does_not_lead(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Nobody asks after a peer that is no leader."""
    server, leader = await follow_n2(nursery)
    server.answer_heartbeat(Heartbeat(Term(2), N3, 0))
    await leader.lose()
    await trio.sleep(0.5)
    assert leader.dials == 0


async def test_heard_after_all(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that only this follower could not reach is followed again when it is heard, and stood by (E8, E11)."""
    server, leader = await follow_n2(nursery)
    leader.network.refuse(N2)
    await leader.lose()
    await until(lambda: server.state.role is Role.CANDIDATE)
    await leader.connect()
    await leader.beat()
    assert server.follows(N2, Term(1))
    assert server.is_sticky()
    wait = server.patience.election_deadline - trio.current_time()
    assert wait >= server.config.timeouts.heartbeat_timeout - WAY


async def test_closing_while_asking(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A redial that hangs holds up nobody who closes, and leaves no connection open (X2)."""
    async with trio.open_nursery() as node:
        server, leader = await follow_n2(node)
        leader.role = None
        await leader.lose()
        await until(lambda: leader.dials == 1)
        began = trio.current_time()
        node.cancel_scope.cancel()
    assert trio.current_time() == began
    await settle()
    assert leader.network.open_connections == 0
    assert server.state.role is Role.FOLLOWER
