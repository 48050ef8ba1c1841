"""Leading: one nursery holds everything that a leadership does, and ending it ends all of that.

``lead`` opens the nursery: a replication for each follower (``_replication.py``), and two watches that make the
leader doubt itself.  Without a round trip with a majority it is cut off (dissertation 6.2); and while the log stands
still, its heartbeats only hide a dead log.

Beside it, the linearizable read (dissertation 6.4): ``confirm_read_index`` takes no log entry.  The commit index is
noted, a confirmation round that starts after the read arrived proves that this server still led then, and the answer
waits until the state machine has come that far.  Concurrent reads share rounds.
"""

import math

import trio

from trio_raft._environment import sleep_until_due
from trio_raft._messages import ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._replication import replicate_to
from trio_raft._server import Server


async def lead(server: Server) -> None:
    """Lead until a transition cancels the role's scope."""
    term = server.state.current_term
    async with trio.open_nursery() as nursery:
        for follower in server.followers.values():
            nursery.start_soon(replicate_to, server, follower, name=f"follower[{follower.id}]")
        nursery.start_soon(_watch_log, server, term)
        await _watch_contact(server, term)


async def _watch_contact(server: Server, term: Term) -> None:
    """Step down when no majority answered heartbeats for ``leader_lease_timeout``.

    A new leader has ``heartbeat_timeout`` for its first contact: it dials and shakes hands before, three round trips,
    which on a slow network would use up a lease.
    """
    clock, timeouts = server.environment.clock, server.config.timeouts
    began = clock.now()

    def due() -> float:
        contact = _quorum_contact(server)
        patience = timeouts.leader_lease_timeout if contact > began else timeouts.heartbeat_timeout
        return max(contact, began) + patience

    while server.leads(term):
        await sleep_until_due(clock, due, interval=timeouts.heartbeat_interval)
        if server.leads(term):
            server.step_down(f"no majority answered for {clock.now() - _quorum_contact(server):.2f} s")


async def _watch_log(server: Server, term: Term) -> None:
    """Step down when entries wait to be committed, and no majority acknowledged any for too long."""
    clock, patience = server.environment.clock, server.config.timeouts.replication_stall_timeout
    interval = server.config.timeouts.heartbeat_interval
    waiting_since = math.inf
    while server.leads(term):
        due = clock.now() + patience / 10
        await clock.sleep_until(due)
        if clock.now() - due > interval / 2:
            # This process stood still: what was acknowledged meanwhile has arrived, and is read first.
            await clock.sleep(interval)
        state = server.state
        # Since this was first seen, not since it was last seen to be otherwise: never too early.
        waiting = state.commit_index < state.log.last_index
        waiting_since = min(waiting_since, clock.now()) if waiting else math.inf
        stalled_for = clock.now() - max(waiting_since, _quorum_append_contact(server))
        if stalled_for >= patience and server.leads(term):
            server.step_down(f"no majority acknowledged an entry for {stalled_for:.1f} s")


def _quorum_contact(server: Server) -> float:
    """When the leader last had a round trip with a majority, dated by its sending; now if it needs nobody."""
    return _quorum_time(server, {follower.id: follower.progress.last_contact for follower in server.followers.values()})


def _quorum_append_contact(server: Server) -> float:
    """The same for answered AppendEntries alone, of followers whose acknowledgements can commit anything.

    One that lost data keeps refusing: counting its refusals would hide for ever that nothing is committed.
    """
    progresses = {follower.id: follower.progress for follower in server.followers.values()}
    return _quorum_time(
        server,
        {peer: progress.last_append_contact for peer, progress in progresses.items() if progress.counts_for_quorum},
    )


def _quorum_time(server: Server, times: dict[ServerId, float]) -> float:
    times[server.node_id] = server.environment.clock.now()
    reached = server.state.configuration.quorum_value(times)
    return -math.inf if reached is None else reached


# ---------------------------------------------------------------------------------------------- reads


async def confirm_read_index(server: Server) -> LogIndex:
    """An index such that a state machine that has applied it reflects every write completed before this call.

    Raises NotLeader if this server does not lead, or stops leading before that is proven.
    """
    term = _leading_term(server)
    # Until the own no-op is committed the commit index may lag behind what earlier leaders acknowledged.
    while server.state.commit_index < server.term_start_index:
        await _park_while_leading(server, term)
    read_index = server.state.commit_index
    await _confirm_round(server, term)
    return read_index


async def confirm_applied(server: Server) -> None:
    """Return once the state machine has come as far as ``confirm_read_index`` says.

    Raises NotLeader as that does, and also if the leadership ends while the machine is behind: on a server whose disk
    hangs it may stay behind for ever.
    """
    term = _leading_term(server)
    index = await confirm_read_index(server)
    while server.state.last_applied < index:
        await _park_while_leading(server, term)


async def confirm_leadership(server: Server) -> None:
    """Return once a majority has answered a heartbeat that was sent after this call.  Raises NotLeader."""
    await _confirm_round(server, _leading_term(server))


async def _confirm_round(server: Server, term: Term) -> None:
    number = server.reads.join()
    server.heartbeat_lot.unpark_all()
    while server.reads.confirmed(server.state.configuration, server.node_id) < number:
        await _park_while_leading(server, term)


def _leading_term(server: Server) -> Term:
    if not server.leads(server.state.current_term):
        raise server.not_leader()
    return server.state.current_term


async def _park_while_leading(server: Server, term: Term) -> None:
    await server.read_lot.park()
    server.check_open()
    if not server.leads(term):
        raise server.not_leader()
