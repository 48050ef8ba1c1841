"""First start: exchange statements with every other member until the first configuration is settled.

The rules are in ``_rules/bootstrap.py``; here is the waiting.  It happens inside the role loop, after the node has
started: a program may start its members in any order, and each says meanwhile whom it waits for.  Done members keep
answering (``FirstStart.answer``), so that one that was late adopts what the others settled.
"""

import trio

from trio_raft._environment import draw_interval
from trio_raft._errors import ProtocolError
from trio_raft._events import BootstrapWaiting
from trio_raft._messages import BootstrapReply, BootstrapStatement, Message, Purpose, ServerId
from trio_raft._peers import dial_peer
from trio_raft._server import Server
from trio_raft._transport import Channel, ChannelBroken


async def settle_first_configuration(server: Server) -> None:
    """Return once this server may vote and acknowledge; at once on any later start."""
    if server.ready:
        return
    async with trio.open_nursery() as nursery:
        for peer in server.first_start.members:
            if peer != server.node_id:
                nursery.start_soon(_exchange_with, server, peer, name=f"bootstrap[{peer}]")
        nursery.start_soon(_report_missing, server)
        # A single member has nobody to hear from; its own map only has to be durable.
        await server.journal.wait_durable(server.first_start.position)
        server.first_start.finish()
        while not server.first_start.done:
            await server.first_start.lot.park()
            # Callers that wait for a leader may have to hear that this directory was exchanged.
            server.change_lot.unpark_all()
        await server.journal.wait_durable(server.first_start.position)
        nursery.cancel_scope.cancel()
    server.become_ready()


async def _exchange_with(server: Server, peer: ServerId) -> None:
    """State the own map to one peer again and again, and learn from its replies."""
    pause = server.config.timeouts.retry_backoff
    while True:
        try:
            channel = await dial_peer(server, peer, Purpose.CONTROL)
            try:
                pause = server.config.timeouts.retry_backoff
                await _exchange_on(server, channel)
            finally:
                await channel.drop()
        except (ChannelBroken, ProtocolError) as error:
            server.first_start.problems[peer] = error.reason
        await server.environment.clock.sleep(pause)
        pause = min(2 * pause, server.config.timeouts.retry_backoff_cap)


async def _exchange_on(server: Server, channel: Channel) -> None:
    first_start = server.first_start
    while True:
        # Only what is durable is stated; the map may change again while an earlier one is on its way to the disk.
        while server.journal.durable_position < first_start.position:
            await server.journal.wait_durable(first_start.position)
        reply = await _answer_to(server, channel, first_start.statement())
        if not isinstance(reply, BootstrapReply):
            raise ProtocolError(channel.peer, f"answered a BootstrapStatement with {type(reply).__name__}")
        if not first_start.is_newest(channel.peer, channel.peer_boot_id):
            # What is said on this connection is void; the handshake of a new one decides who speaks for the member.
            raise ChannelBroken(channel.peer, "another process of this member has connected since")
        first_start.problems.pop(channel.peer, None)
        first_start.learn(
            channel.peer,
            channel.peer_incarnation,
            channel.peer_boot_id,
            stated=reply.incarnations,
            stated_done=reply.done,
        )
        interval = draw_interval(server.environment, server.config.timeouts.heartbeat_interval)
        with server.environment.clock.move_on_after(interval):
            await server.first_start.lot.park()


async def _answer_to(server: Server, channel: Channel, statement: BootstrapStatement) -> Message:
    """The peer makes durable what it learns before it answers; but one that died in silence never does."""
    patience = server.config.timeouts.request_timeout
    with server.environment.clock.move_on_after(patience):
        return await channel.request(statement)
    raise ChannelBroken(channel.peer, f"no answer within {patience} s")


async def _report_missing(server: Server) -> None:
    """One event for each change in who is missing, not one for each attempt."""
    reported: tuple[ServerId, ...] | None = None
    while True:
        # Let the others answer first; a start in step should say nothing.
        await server.environment.clock.sleep(server.config.timeouts.heartbeat_timeout)
        missing = server.first_start.missing
        if missing and missing != reported:
            reported = missing
            server.events.publish(BootstrapWaiting(missing, server.first_start.trouble()))
