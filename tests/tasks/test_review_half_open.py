"""Connections whose peer is gone without a word."""

import trio
from trio.testing import MockClock

from tests.tasks.parts import N2, N3, connect, listen_for, make_server
from trio_raft._messages import Heartbeat, HeartbeatReply, Purpose
from trio_raft._records import Term
from trio_raft.testing._network import MemoryNetwork


async def test_half_open_connections_do_not_add_up(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A peer that lost power again and again can always connect once more: connections that it never closed give way
    to newer ones, and take no place from other peers (W3).
    """
    network = MemoryNetwork()
    server = await make_server(network=network)
    await listen_for(server, nursery)
    other = await connect(network, server, Purpose.CONTROL, sender=N3)
    for number in range(server.config.limits.max_connections + 10):
        for purpose in Purpose:
            channel = await connect(network, server, purpose)
            if purpose is Purpose.CONTROL:
                answer = await channel.request(Heartbeat(Term(1), N2, number))
                assert answer == HeartbeatReply(Term(1), number)
    assert await other.request(Heartbeat(Term(0), N3, 0)) == HeartbeatReply(Term(1), 0)
