"""What the first start may say, and to whom it must say that there is nothing to wait for."""

import pytest
import trio
from trio.testing import MockClock

import trio_raft
from tests.support.cluster import running_cluster
from tests.tasks.parts import N1, N2, N3, ScriptedPeer, incarnation, make_config, make_server, store_of
from trio_raft import MemoryLogStore
from trio_raft._bootstrap import settle_first_configuration
from trio_raft._messages import BootstrapReply, BootstrapStatement, Incarnation, Purpose, ServerId
from trio_raft._transport import Channel, ChannelBroken
from trio_raft.testing._network import MemoryNetwork


async def test_map_that_changed_while_it_was_written(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A map that changes again while an earlier one is on its way to the disk is stated once it is durable itself
    (O1).
    """
    network = MemoryNetwork()
    server = await make_server(settled=False, network=network, latency=1.0)
    nursery.start_soon(server.journal.run)
    peers = [ScriptedPeer(make_config(member), answers_heartbeats=False) for member in (N2, N3)]
    for peer in peers:
        await peer.listen(network, nursery)
    # A write takes a second: the first is in hand when the second member is heard.
    for member, pause in ((N2, 0.5), (N3, 0.0)):
        boot, stated = f"boot of {member}", {member: incarnation(member)}
        server.first_start.meet(member, boot)
        server.first_start.learn(member, incarnation(member), boot, stated=stated, stated_done=False)
        if member == N2:
            nursery.start_soon(settle_first_configuration, server)
        await trio.sleep(pause)
    channel = await peers[0].channel(Purpose.CONTROL)
    frame = await channel.receive()
    assert isinstance(frame.message, BootstrapStatement)
    stored = store_of(server).inner._bootstrap
    assert stored is not None
    assert frame.message.incarnations == stored.incarnations


async def test_exchanged_directory_ends_waits(autojump_clock: MockClock) -> None:
    """Who waits for a leader on a server whose directory was exchanged is told so, however early the wait began
    (O1, X3).
    """
    async with running_cluster() as cluster:
        await cluster.elected()
        await cluster.crash("n3")
        cluster.servers["n3"].store = MemoryLogStore()
        await cluster.start("n3")
        with pytest.raises(trio_raft.IncarnationRefused):
            await cluster.node("n3").wait_leader()


async def keep_stating(channel: Channel, request_id: int, settled: dict[ServerId, Incarnation]) -> None:
    """Answer this statement and all that follow on the connection."""
    try:
        while True:
            await channel.send(BootstrapReply(settled, True), request_id=request_id)
            request_id = (await channel.receive()).request_id
    except ChannelBroken:
        pass


async def test_handshake_of_a_dead_process_that_comes_late(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A member whose earlier process is heard of once more, late, is dialled anew, and what it says counts again
    (O1, W2).
    """
    network = MemoryNetwork()
    two = (N1, N2)
    server = await make_server(config=make_config(members=two), settled=False, network=network)
    nursery.start_soon(server.journal.run)
    peer = ScriptedPeer(make_config(N2, members=two), answers_heartbeats=False)
    await peer.listen(network, nursery)
    nursery.start_soon(settle_first_configuration, server)
    first = await peer.channel(Purpose.CONTROL)
    settled = {member: incarnation(member) for member in two}
    frame = await first.receive()
    server.first_start.meet(N2, "an earlier process")
    nursery.start_soon(keep_stating, first, frame.request_id, settled)
    with trio.fail_after(60):
        second = await peer.channel(Purpose.CONTROL)
    assert not server.ready
    frame = await second.receive()
    await second.send(BootstrapReply(settled, True), request_id=frame.request_id)
    await trio.sleep(1)
    assert server.ready
