"""Is a leader gone whose connections ended?  Then nobody waits for a timeout.

When a process dies its machine closes its sockets at once, and says so to the other ends.  A follower hears that long
before its election timer rings.  But an ended connection alone proves nothing: a middlebox forgot it, a frame was bad,
the leader lost patience with a slow answer.  So the follower dials the leader once more, and asks:

====================================  ====================================================================
nobody listens there                  the process is gone
another process answers               the one that led is gone, unless the new one leads already
it answers, and does not lead         it stepped down or is closing; the term in which it led is over for it
it answers that it leads              nothing happened: the election timer goes on
it does not say, or what is unknown   nothing is known: a later version may have another word for leading
no answer, or half an answer          nothing is known: asked again for a while, and the election timer goes on
====================================  ====================================================================

So a leader that only stands still, whose machine lost power, or who is cut off, is waited for as long as ever: his
connections do not end, or no answer comes.

Of a leader that is gone the follower stops being loyal, in this very server alone, and asks for pre-votes after a short
random delay (``_patience.py``).  Those who lost the same connections find out the same by themselves; whoever still
hears the leader goes on refusing.  No claim of the asker is believed: so a server whose own links are broken, and that
is refused where others are not, gets no pre-votes and raises no term (E8, dissertation 9.6).

A message of the leader that arrives meanwhile, perhaps one that he sent before he died, voids the answer: it speaks for
an earlier moment, and is asked for again.  So it is when another connection ends while somebody asks: the leader may
have died since he answered.  Once he has opened a new connection for his heartbeats nobody asks any more.

House rule: this module changes nothing but through ``Server.note_leader_gone``.
"""

from trio_raft._errors import ProtocolError
from trio_raft._messages import Purpose, ServerId
from trio_raft._peers import IsConnected, dial_peer
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._transport import ChannelBroken, NobodyListens

LEADS_NOT = frozenset({Role.FOLLOWER.value, Role.CANDIDATE.value})
"""Roles that are proof.  A later version may know others."""


class LeaderLoss:
    """Of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._asking: set[ServerId] = set()
        self._lost: dict[ServerId, str] = {}
        """The boot id of the newest loss of each peer about which nobody has asked yet."""

    async def look(self, peer: ServerId, boot_id: str, is_connected: IsConnected) -> None:
        """A connection from this process of a peer has ended, and none for its heartbeats is left.

        Returns when it is clear whether that matters.  Called again for each further connection that ends: what the
        leader still sent may be read from that one after the question was answered.  While that is being asked, another
        question follows.
        """
        if not self._matters(peer):
            return
        self._lost[peer] = boot_id
        if peer in self._asking:
            return
        self._asking.add(peer)
        try:
            while peer in self._lost and self._matters(peer):
                await self._ask(peer, is_connected)
        finally:
            self._asking.discard(peer)
            self._lost.pop(peer, None)

    def _matters(self, peer: ServerId) -> bool:
        """Does this server follow that peer, and has not found yet that it is gone?"""
        server = self._server
        return server.follows(peer, server.state.current_term) and not server.patience.gone

    async def _ask(self, leader: ServerId, is_connected: IsConnected) -> None:
        """Ask until there is an answer, for no longer than the election timer is patient anyway."""
        boot_id = self._lost.pop(leader)
        server, term = self._server, self._server.state.current_term
        clock, timeouts = server.environment.clock, server.config.timeouts
        pause, ends = timeouts.retry_backoff, clock.now() + timeouts.heartbeat_timeout
        while server.follows(leader, term) and not is_connected(leader, boot_id) and clock.now() < ends:
            contact, began = server.patience.last_contact, clock.now()
            # Whatever was lost before a dial, its answer tells about.
            boot_id = self._lost.pop(leader, boot_id)
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
            if is_connected(leader, boot_id):
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
        if role not in LEADS_NOT:
            return ""
        return f"it is {role} now" if channel.peer_boot_id == boot_id else "another process answers at its address"
