"""One follower's heartbeat, during one leadership: be heard, and learn whether one still leads.

It has a connection of its own, and its messages say nothing about the log: no disk and no batch stands before a
heartbeat, on either side.  Its answers prove contact, and confirm reads (dissertation 6.4).

House rules: those of ``_replication.py``.
"""

from collections.abc import Callable

from trio_raft._environment import draw_interval
from trio_raft._errors import ProtocolError
from trio_raft._events import ContactLost, ContactResumed
from trio_raft._follower import Follower
from trio_raft._messages import Heartbeat, HeartbeatReply, Purpose
from trio_raft._peers import dial_peer
from trio_raft._records import Term
from trio_raft._server import Server
from trio_raft._transport import Channel, ChannelBroken


class Heart:
    """The task that beats for one follower.  ``on_process`` is told the boot id of each process that answers."""

    def __init__(self, server: Server, follower: Follower, *, on_process: Callable[[str], None]) -> None:
        self._server = server
        self._clock = server.environment.clock
        self._timeouts = server.config.timeouts
        self._term: Term = server.state.current_term
        self._follower = follower
        self._progress = follower.progress
        self._pulse = follower.pulse
        self._on_process = on_process
        self._beat_due = 0.0
        """When the next heartbeat leaves, unless a read asks before: the pulse as it was when the last one left.
        While its answer was under way, others may have moved that on."""

    def _leads(self) -> bool:
        return self._server.leads(self._term)

    async def run(self) -> None:
        """Be heard: every drawn interval, or at once when a read asks for a confirmation round."""
        failures = 0
        silent_since: float | None = None
        while self._leads():
            problem = ""
            try:
                channel = await dial_peer(self._server, self._follower.id, Purpose.CONTROL)
                self._on_process(channel.peer_boot_id)
                self._follower.forgive()
                try:
                    while await self._beat(channel):
                        failures = 0
                        if silent_since is not None:
                            silence = self._clock.now() - silent_since
                            self._server.events.publish(ContactResumed(self._follower.id, silence))
                            silent_since = None
                        await self._wait_for_beat()
                finally:
                    await channel.drop()
            except (ChannelBroken, ProtocolError) as error:
                problem = error.reason
            if self._leads():
                if silent_since is None:
                    silent_since = self._progress.last_contact
                    self._server.events.publish(ContactLost(self._follower.id, problem))
                await self._back_off(failures)
                failures += 1

    async def _beat(self, channel: Channel) -> bool:
        """One round trip; False once the leadership is over."""
        server = self._server
        if not self._leads():
            return False
        sent_at = self._clock.now()
        if self._pulse.due <= sent_at:
            # From the sending on: on a slow network the round trip is part of the interval, and contact stays young.
            self._pulse.due = sent_at + draw_interval(server.environment, self._timeouts.heartbeat_interval)
        self._beat_due = self._pulse.due
        request = Heartbeat(self._term, server.node_id, server.reads.sent())
        reply = await channel.request_within(self._timeouts.heartbeat_timeout / 2, request)
        if not isinstance(reply, HeartbeatReply):
            raise ProtocolError(channel.peer, f"answered a Heartbeat with {type(reply).__name__}")
        if not self._leads():
            return False
        if reply.term > self._term:
            server.adopt_term(reply.term, self._follower.id)
            return False
        self._follower.ready = reply.ready
        if reply.ready:
            self._note_contact(request, reply, sent_at)
        return True

    def _note_contact(self, request: Heartbeat, reply: HeartbeatReply, sent_at: float) -> None:
        if (reply.term, reply.round) != (request.term, request.round):
            raise ProtocolError(
                self._follower.id,
                f"answered round {request.round} of term {request.term} with {reply.round} of {reply.term}",
            )
        self._follower.note_round_trip(self._clock.now() - sent_at)
        self._progress.last_contact = max(self._progress.last_contact, sent_at)
        self._server.acknowledge_round(self._follower.id, request.round)

    async def _wait_for_beat(self) -> None:
        # A follower that is not ready acknowledges nothing, however often it is asked.
        if self._follower.ready and self._server.reads.outstanding(self._follower.id):
            return
        with self._clock.move_on_at(self._beat_due):
            await self._server.heartbeat_lot.park()

    async def _back_off(self, failures: int) -> None:
        """Doubling from ``retry_backoff`` to half of ``heartbeat_timeout``; a read that asks cuts it short."""
        longest = self._timeouts.heartbeat_timeout / 2
        pause = min(self._timeouts.retry_backoff * 2 ** min(failures, 30), longest)
        with self._clock.move_on_after(pause):
            await self._server.heartbeat_lot.park()
