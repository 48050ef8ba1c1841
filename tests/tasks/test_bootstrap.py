"""The exchange of the first start, as one server lives through it."""

import trio
from trio.testing import MockClock

from tests.tasks.parts import N1, N2, ScriptedPeer, incarnation, make_config, make_server, record, settle, store_of
from trio_raft._bootstrap import settle_first_configuration
from trio_raft._events import BootstrapDone, BootstrapWaiting
from trio_raft._messages import BootstrapReply, BootstrapStatement, Purpose
from trio_raft.abc import SaveBootstrap
from trio_raft.testing._network import MemoryNetwork

TWO = (N1, N2)


async def test_settle_alone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A single member has nobody to ask: its own map only has to be durable (O1)."""
    server = await make_server(config=make_config(members=(N1,)), settled=False)
    nursery.start_soon(server.journal.run)
    await settle_first_configuration(server)
    assert server.ready
    assert store_of(server).inner._bootstrap == SaveBootstrap({N1: incarnation(N1)}, done=True)


async def test_settle_on_a_later_start(autojump_clock: MockClock) -> None:
    """Once it is settled a server asks nobody any more, and may vote at once (O1)."""
    server = await make_server()
    assert server.ready
    await settle_first_configuration(server)
    assert server.journal.position == 0


async def test_settle_with_a_peer(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """It states only what is durable, and is done when the peer has stated the same whole map (O1)."""
    network = MemoryNetwork()
    server = await make_server(config=make_config(members=TWO), settled=False, network=network, latency=0.3)
    nursery.start_soon(server.journal.run)
    recorder = record(server)
    peer = ScriptedPeer(make_config(N2, members=TWO), answers_heartbeats=False)
    await peer.listen(network, nursery)
    nursery.start_soon(settle_first_configuration, server)
    channel = await peer.channel(Purpose.CONTROL)
    own, both = {N1: incarnation(N1)}, {N1: incarnation(N1), N2: incarnation(N2)}
    frame = await channel.receive()
    assert frame.message == BootstrapStatement(own, False)
    await channel.send(BootstrapReply({N2: incarnation(N2)}, False), request_id=frame.request_id)
    learned = trio.current_time()
    frame = await channel.receive()
    assert frame.message == BootstrapStatement(both, False)
    assert trio.current_time() - learned >= 0.3
    assert store_of(server).inner._bootstrap == SaveBootstrap(both, done=False)
    readiness = [server.ready]
    await channel.send(BootstrapReply(both, False), request_id=frame.request_id)
    await trio.sleep(1)
    readiness.append(server.ready)
    assert readiness == [False, True]
    assert store_of(server).inner._bootstrap == SaveBootstrap(both, done=True)
    assert recorder.of(BootstrapDone) == [BootstrapDone(TWO)]


async def test_settle_peer_that_dies_in_silence(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A peer that never answers is dialled anew after a while: no exchange hangs on a connection that is dead
    (O1, W3).
    """
    network = MemoryNetwork()
    server = await make_server(config=make_config(members=TWO), settled=False, network=network)
    nursery.start_soon(server.journal.run)
    peer = ScriptedPeer(make_config(N2, members=TWO), answers_heartbeats=False)
    await peer.listen(network, nursery)
    nursery.start_soon(settle_first_configuration, server)
    silent = await peer.channel(Purpose.CONTROL)
    await silent.receive()
    began = trio.current_time()
    second = await peer.channel(Purpose.CONTROL)
    patience = server.config.timeouts.request_timeout
    assert patience <= trio.current_time() - began < patience + 1
    assert "no answer" in server.first_start.trouble()
    frame = await second.receive()
    settled = {N1: incarnation(N1), N2: incarnation(N2)}
    await second.send(BootstrapReply(settled, True), request_id=frame.request_id)
    await trio.sleep(1)
    assert server.ready


async def test_settle_says_whom_it_waits_for(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Who is missing is one event, with the reason, not one for each attempt (O1)."""
    network = MemoryNetwork()
    server = await make_server(settled=False, network=network)
    nursery.start_soon(server.journal.run)
    recorder = record(server)
    nursery.start_soon(settle_first_configuration, server)
    await trio.sleep(60)
    [event] = recorder.of(BootstrapWaiting)
    assert event.missing == ("n2", "n3")
    assert "connection refused" in event.problem
    await settle()
    assert not server.ready
