"""Is a leader gone whose connections ended?  Then nobody waits for a timeout.

When a process dies its machine closes its sockets at once, and says so to the other ends.  A follower hears that long
before its election timer rings.  But an ended connection alone proves nothing: a middlebox forgot it, a frame was bad,
the leader lost patience with a slow answer.  So the follower dials the leader once more, and asks:

====================================  ====================================================================
nobody listens there                  the process is gone
another process answers               the one that led is gone, unless the new one leads already
it answers, and does not lead         it stepped down or is closing; the term in which it led is over for it
it answers that it leads              nothing happened: the election timer goes on
no answer, or half an answer          nothing is known: asked again for a while, and the election timer goes on
====================================  ====================================================================

So a leader that only stands still, whose machine lost power, or who is cut off, is waited for as long as ever: his
connections do not end, or no answer comes.

Of a leader that is gone the follower stops being loyal, in this very server alone, and asks for pre-votes after a short
random delay (``_patience.py``).  Those who lost the same connections find out the same by themselves; whoever still
hears the leader goes on refusing.  No claim of the asker is believed: so a server whose own links are broken, and that
is refused where others are not, gets no pre-votes and raises no term (E8, dissertation 9.6).

A message of the leader that arrives meanwhile, perhaps one that he sent before he died, voids the answer: it speaks for
an earlier moment, and is asked for again.

House rule: this module changes nothing but through ``Server.note_leader_gone``.
"""

from trio_raft._errors import ProtocolError
from trio_raft._messages import Purpose, ServerId
from trio_raft._peers import dial_peer
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._transport import ChannelBroken, NobodyListens


class LeaderLoss:
    """Of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._asking: set[ServerId] = set()

    async def look(self, peer: ServerId, boot_id: str) -> None:
        """A connection from this process of a peer has ended, and none for its heartbeats is left.

        Returns when it is clear whether that matters.  Called again for each further connection that ends: what the
        leader still sent may be read from that one after the question was answered.
        """
        server = self._server
        if peer in self._asking or not server.follows(peer, server.state.current_term):
            return
        self._asking.add(peer)
        try:
            await self._ask(peer, boot_id)
        finally:
            self._asking.discard(peer)

    async def _ask(self, leader: ServerId, boot_id: str) -> None:
        """Ask until there is an answer, for no longer than the election timer is patient anyway."""
        server, term = self._server, self._server.state.current_term
        clock, timeouts = server.environment.clock, server.config.timeouts
        pause, ends = timeouts.retry_backoff, clock.now() + timeouts.heartbeat_timeout
        while server.follows(leader, term) and clock.now() < ends:
            contact, began = server.patience.last_contact, clock.now()
            try:
                reason = await self._why_gone(leader, boot_id)
            except ProtocolError:
                # Something answers there, and is not to be understood: no proof of anything.
                return
            except ChannelBroken:
                # A process that is just dying may still have taken the connection; the next one will be refused.
                await clock.sleep(pause)
                pause = min(2 * pause, timeouts.retry_backoff_cap)
                continue
            if not reason:
                return
            if server.follows(leader, term) and server.patience.last_contact == contact:
                server.note_leader_gone(leader, reason, took=clock.now() - began)
                return

    async def _why_gone(self, leader: ServerId, boot_id: str) -> str:
        """Why it is certain that the leader leads no more; empty if it is not.

        Raises ChannelBroken if there is no answer, and ProtocolError.
        """
        try:
            channel = await dial_peer(self._server, leader, Purpose.CONTROL)
        except NobodyListens as error:
            return error.reason
        role = channel.peer_role
        await channel.drop()
        if role == Role.LEADER.value:
            return ""
        if channel.peer_boot_id != boot_id:
            return "another process answers at its address"
        return f"it is {role} now" if role else ""
