"""One life of one server as the invariants see it, and what all lives of a run share.

A ``Watch`` keeps a log of its own, made of the slots of ``_past.py``, beside the server's, and holds what the server
promised, decided, committed and applied.  What is checked of it stands in three modules, by subject:
``_watch_elections``, ``_watch_log`` and ``_watch_commit``; ``_hooks`` hangs them on the server.  Here is what belongs
to no single one: the proposals, the events, the bounds.

House rule: a watch changes nothing and draws nothing; with and without it a seed gives the same run.
"""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from trio_raft._events import Event, LeaderGone, PeerLostData, ReplicationRestarted
from trio_raft._messages import ServerId
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._tickets import Ticket
from trio_raft.testing._environment import SimulatedClock
from trio_raft.testing._image import Image
from trio_raft.testing._past import CapturedState, Past, Slot
from trio_raft.testing._states import MakeMachine, difference
from trio_raft.testing._trace import Trace
from trio_raft.testing._verdict import Verdict

TICKETS_BETWEEN_SWEEPS = 256
"""Settled tickets are forgotten whenever so many more have come."""

SPARE_BYTES = 64 << 10
"""What one frame's header, or the records around one command, may add to a bound in bytes."""

LATE_HEARTBEATS = 2
"""Heartbeat intervals by which a leader may step down late: after a pause it looks once more."""

QUEUED_ITEMS = 1 << 14
"""Items that may wait in one journal.  Peers may have 64 answers waiting on each of 128 connections, and each may stand
for an item; commands share items."""


@attrs.define(eq=False)
class Watched:
    """A server across its lives: what it told others binds all of them."""

    id: ServerId
    images: list[Image] = attrs.field(factory=list[Image])
    """Of its disk, in each life so far; the last one is the present one's."""
    taken_away: int = 0
    """So many of the oldest images are of disks that were exchanged, by injection."""
    lives: int = 0
    sent_votes: dict[tuple[str, int], str] = attrs.field(factory=dict[tuple[str, int], str])
    """(incarnation, term) → who was told, or told all others, of the vote in it."""
    offered: dict[int, int] = attrs.field(factory=dict[int, int])
    """Bytes of a snapshot that was offered to it → the index, the lowest if there are several."""
    watch: "Watch | None" = None
    """The present life."""

    def refresh(self) -> None:
        """Look at its disk."""
        if self.images:
            self.images[-1].refresh()

    def take_away(self) -> None:
        """Its disk is exchanged, by injection."""
        self.taken_away = len(self.images)
        for image in self.images:
            image.taken_away = True

    @property
    def durable_end(self) -> str:
        """Index and term of the last entry on its disk, for a person."""
        return str(self.images[-1].slots[-1]) if self.images else "nothing"

    def holds(self, slot: Slot) -> bool:
        """Is the entry durable on its disk, or was it when that was taken away?"""
        return any(image.holds(slot) for image in [*self.images[: self.taken_away], *self.images[-1:]])

    def held(self, slot: Slot) -> bool:
        """Was it ever durable?"""
        return any(image.held(slot) for image in reversed(self.images))


@attrs.define(eq=False)
class Scene:
    """What all watches of a run share."""

    past: Past
    verdict: Verdict
    trace: Trace
    explains: Callable[[str, Event], bool]
    """Is this event of that server the right consequence of something that was injected?"""
    make_machine: MakeMachine | None = None
    """Another state machine of the run, to compare states with; None: they are not compared."""
    servers: dict[ServerId, Watched] = attrs.field(factory=dict[ServerId, Watched])
    """In the order in which they were first seen."""


class Watch:
    """One life of a server."""

    def __init__(self, scene: Scene, watched: Watched, server: Server, image: Image) -> None:
        self.id = watched.id
        self.life = watched.lives
        """Counted from 1."""
        self.server = server
        self.image = image
        self.past = scene.past
        self.servers = scene.servers
        self.slots: list[Slot] = list(image.slots)
        """The log in memory, by index."""
        self.over = False
        """The life has ended: what its tasks still do reaches nobody."""
        self.decided: dict[int, str] = {}
        """Term → the vote that was decided in this life, durable or not."""
        self.term = image.term
        """The highest that was queued for the disk, or found there."""
        self.promised: dict[tuple[int, int], Slot] = {}
        """(leader's term, match index) → the entry that an acknowledgement vouches for, newest last."""
        self.commit_index: int = server.state.commit_index
        """Known from a snapshot, when a life begins."""
        self.last_applied: int = server.state.last_applied
        """As the server says."""
        self.last_given: int = self.last_applied
        """The last index that the state machine was given, or restored to."""
        self.gave_up = -math.inf
        """When the leader was heard last that this server knows to be gone."""
        self.took_entries = False
        """From a leader's log, since the last install of a snapshot."""
        self._tickets: deque[Ticket[object]] = deque()
        self._scene = scene
        self._sweep_at = TICKETS_BETWEEN_SWEEPS

    def run(self, check: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Run a check, unless the life has ended or the verdict is known; whatever it raises is a violation."""
        if not self.over:
            self._scene.verdict.guard(self.id, partial(check, *args, **kwargs))

    def fail(self, rule: str, *, expected: str, seen: str) -> None:
        """A check failed."""
        self._scene.verdict.fail(rule, self.id, expected=expected, seen=seen)

    def note(self, what: str) -> None:
        """A line in the trace."""
        self._scene.trace.note(self.id, what)

    def holds(self, slot: Slot) -> bool:
        """Is the entry in this server's memory?"""
        return slot.index < len(self.slots) and self.slots[slot.index] is slot

    def explained(self, event: Event) -> bool:
        """Is this event of it the consequence of something that was injected?"""
        return self._scene.explains(self.id, event)

    def difference(self, slot: Slot, one: CapturedState, other: CapturedState) -> str:
        """What is different about these states, both captured after ``slot``; empty if nothing is known to be."""
        make_machine = self._scene.make_machine
        return "" if make_machine is None else difference(make_machine, slot, one, other)

    def names(self) -> str:
        """Of the voters."""
        return ", ".join(self.server.state.configuration.voters)

    # ------------------------------------------------------------------------------------ asked by several

    def check_configuration(self) -> None:
        """In force is the last configuration in the log (M2, M3)."""
        configuration = self.server.state.configuration
        if configuration.index != self.slots[-1].configuration_index:
            self.fail(
                "The configuration in force is the last one in the log (M2, M3)",
                expected=f"that of index {self.slots[-1].configuration_index}",
                seen=f"{configuration}",
            )

    def check_durable_index(self) -> None:
        """What the journal believes to be durable is, by index and by term (S5)."""
        index = self.server.journal.durable_index
        self.image.refresh()
        if index >= len(self.slots) or not self.image.holds(self.slots[index]):
            believed = self.slots[index] if index < len(self.slots) else f"an entry {index}, which is not in memory"
            stands = self.image.slots[index] if index <= self.image.last_index else "nothing"
            self.fail(
                "The durable index speaks of the entries in memory (S1, S2, S5)",
                expected=f"on the disk at index {index}: {believed}, as the journal believes",
                seen=f"{stands} stands there; the log on the disk ends at {self.image.slots[-1]}",
            )

    # ------------------------------------------------------------------------------------ proposals and events

    def after_submit(self, ticket: Ticket[object], *_: Any, **__: Any) -> None:
        """A proposal was accepted."""
        self._tickets.append(ticket)
        if len(self._tickets) >= self._sweep_at:
            self._tickets = deque(ticket for ticket in self._tickets if not ticket.settled)
            self._sweep_at = len(self._tickets) + TICKETS_BETWEEN_SWEEPS

    def check_tickets(self) -> None:
        """The node has ended, or has been idle: every proposal that it took must have come to an outcome."""
        waiting = [f"{ticket.index}:{ticket.term}" for ticket in self._tickets if not ticket.settled]
        if waiting:
            self.fail(
                "Every proposal ends (X1)",
                expected="an outcome for each that was accepted",
                seen=f"none for {len(waiting)}: entries {', '.join(waiting[:10])}",
            )

    def after_publish(self, _: None, event: Event) -> None:
        """Something was announced."""
        self.note(f"event {type(event).__name__}: {event}")
        if isinstance(event, LeaderGone):
            self._check_gone(event)
        if isinstance(event, ReplicationRestarted | PeerLostData) and not self.explained(event):
            self.fail(
                "Nothing goes wrong for no reason (R6, R13)",
                expected="no such event unless an injected fault explains it",
                seen=f"{type(event).__name__}: {event}",
            )

    def _check_gone(self, event: LeaderGone) -> None:
        """This server waits no longer for its leader: then nobody leads in that term any more."""
        self.gave_up = self.server.patience.last_contact
        watched = self.servers.get(event.leader)
        watch = watched.watch if watched is not None else None
        leads = watch is not None and not watch.over and watch.server.leads(event.term)
        if leads and not self.explained(event):
            self.fail(
                "Only a leader that is gone is not waited for (E11)",
                expected=f"{event.leader} leads term {event.term} no more",
                seen=f"it leads; {event.reason}",
            )

    # ------------------------------------------------------------------------------------ from time to time

    def check_contact(self) -> None:
        """A leader that a majority has not answered for long has stepped down (E9), unless it just stood still."""
        server, clock = self.server, self.server.environment.clock
        if not isinstance(clock, SimulatedClock) or clock.paused or server.state.role is not Role.LEADER:
            return
        contacts = {follower.id: follower.progress.last_contact for follower in server.followers.values()}
        contact = server.state.configuration.quorum_value({**contacts, server.node_id: clock.now()})
        # A lease is no longer than the patience for the first contact; whoever was late looks twice.
        timeouts = server.config.timeouts
        patience = timeouts.heartbeat_timeout + LATE_HEARTBEATS * timeouts.heartbeat_interval
        silent_since = max(contact or -math.inf, clock.disturbed_at)
        if clock.now() > silent_since + patience:
            self.fail(
                "A leader without a majority steps down (E9)",
                expected=f"no leader that a majority has not answered for {patience:.2f} s",
                seen=f"it leads term {server.state.current_term}; a majority last answered at {contact}, on its clock",
            )

    def check_bounds(self) -> None:
        """Queues and windows are as short as their limits say."""
        server, limits = self.server, self.server.config.limits
        self.check_bound("items in the journal's queue", len(server.journal._queue), QUEUED_ITEMS)  # noqa: SLF001
        most = limits.pending_bytes + limits.max_command_bytes + SPARE_BYTES
        self.check_bound("bytes of proposals under way", server.pending_bytes, most)
        most = limits.pipeline_bytes + limits.max_frame_body + SPARE_BYTES
        for follower in server.followers.values():
            progress = follower.progress
            name = f"in flight to {follower.id}"
            self.check_bound(f"requests {name}", len(progress.in_flight), limits.pipeline_requests)
            self.check_bound(f"bytes {name}", progress.in_flight_bytes, most)

    def check_bound(self, what: str, size: int, bound: int) -> None:
        """A size may not pass its bound."""
        if size > bound:
            self.fail("Everything is bounded", expected=f"{what}: at most {bound}", seen=f"{size}")
