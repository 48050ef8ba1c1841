"""A node: one server of a cluster inside a Trio program, and its public calls.  ``_opening.py`` makes it.

House rule: the public calls run in the caller's task.  None holds a reference to a task of the node; they wait for
state, and closing wakes them all.

Reading order: looking, writes, reads, snapshots, waits.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, Literal, TypeVar, cast

import trio

from trio_raft._errors import NoLeader, ProposalDropped
from trio_raft._event_hub import EventReceiver
from trio_raft._events import LoopBlocked
from trio_raft._leadership import confirm_applied, confirm_leadership, confirm_read_index
from trio_raft._messages import ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._services import Services
from trio_raft._statistics import Statistics, take_statistics, why_no_leader
from trio_raft._taking import Snapshotter
from trio_raft._tickets import Ticket
from trio_raft._values import ValueCodec
from trio_raft.abc import StateMachine, StoredSnapshot

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")

SUBMITS_BETWEEN_YIELDS = 64
"""``submit`` gives the loop its turn at least every so many calls."""


class Node(Generic[CommandT, ResultT]):
    """One server of the cluster.  Made by ``open_node`` and ``serve_node``."""

    def __init__(
        self,
        server: Server,
        services: Services,
        machine: StateMachine[CommandT, ResultT],
        codec: ValueCodec[CommandT],
        snapshotter: Snapshotter,
    ) -> None:
        self._snapshotter = snapshotter
        self._server = server
        self._services = services
        self._clock = server.environment.clock
        self._machine = machine
        self._encode_value = codec.encode
        self._max_command_bytes = server.config.limits.max_command_bytes
        self._submits = 0

    # ------------------------------------------------------------------------------------ looking

    @property
    def node_id(self) -> ServerId:
        """This server's id."""
        return self._server.node_id

    @property
    def machine(self) -> StateMachine[CommandT, ResultT]:
        """The state machine; reading it here may show a state that is behind.  Use ``read``."""
        return self._machine

    @property
    def role(self) -> str:
        """``follower``, ``candidate`` or ``leader``."""
        return self._server.state.role.value

    @property
    def leader(self) -> ServerId | None:
        """Who leads, as far as this server knows."""
        return self._server.state.leader

    @property
    def leader_address(self) -> str | None:
        """Where the leader is reached, if it is known."""
        leader = self._server.state.leader
        return None if leader is None else self._server.config.members.get(leader)

    @property
    def term(self) -> Term:
        """The current term."""
        return self._server.state.current_term

    @property
    def commit_index(self) -> LogIndex:
        """The highest log index known to be committed."""
        return self._server.state.commit_index

    @property
    def last_applied(self) -> LogIndex:
        """The highest log index that this server's state machine went through."""
        return self._server.state.last_applied

    def statistics(self) -> Statistics:
        """A picture of this moment."""
        return take_statistics(self._server)

    def events(self) -> AbstractContextManager[EventReceiver]:
        """A bounded channel of events: ``with node.events() as events: async for event in events``.

        What recovery found and did when the node started (a torn write that it cut, other members than the settings
        name, snapshots that it passed over) comes first, to the first reader of the node.  A slow reader loses the
        oldest events and finds their number in ``events.dropped``; it never delays the node.
        """
        return self._server.events.subscribe(self._server.config.limits.event_buffer)

    # ------------------------------------------------------------------------------------ writes

    @trio.lowlevel.enable_ki_protection
    async def propose(self, command: CommandT) -> ResultT:
        """Replicate a command; returns the state machine's result once it is committed, durable on a majority, and
        applied here (paper section 8).

        Raises ``Rejected`` if the machine refused it; NotLeader (ask the leader) and NoLeader (none within two
        election timeouts), neither queued; ProposalDropped (the leadership ended while the command waited for room: it
        is absent); LeadershipLost (outcome unknown); StateMachineError (the machine raised on this very command, and
        the node stops: do not propose it again); StorageFull; ``trio.ClosedResourceError``; TypeError or ValueError,
        before anything is queued, if the command does not encode or is larger than ``limits.max_command_bytes``.

        Cancelled: before it is queued, the command is guaranteed absent; after that it may still commit.
        """
        data = self._encode(command)
        await trio.lowlevel.checkpoint_if_cancelled()
        ticket: Ticket[ResultT] | None = self._server.submit_if_possible(data)
        if ticket is None:
            ticket = await self._submit_when_possible(data)
            return await ticket.wait()
        # ``ticket.wait()`` without a coroutine of its own, of which a thousand callers would keep a thousand.
        ticket.expect()
        await trio.lowlevel.wait_task_rescheduled(ticket.forget)
        return ticket.outcome()

    async def submit(self, command: CommandT) -> Ticket[ResultT]:
        """Queue a command and return its ticket, waiting while ``limits.pending_bytes`` are in flight.

        For thousands in flight from one task.  Raises as ``propose`` does, but for what the ticket will say.

        Cancelled: the command is guaranteed absent.
        """
        data = self._encode(command)
        self._submits += 1
        if self._submits % SUBMITS_BETWEEN_YIELDS == 0:
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._server.submit_if_possible(data) or await self._submit_when_possible(data)

    def submit_nowait(self, command: CommandT) -> Ticket[ResultT]:
        """Queue a command and return its ticket, or raise ``trio.WouldBlock`` at ``limits.pending_bytes``.

        Raises NotLeader, StorageFull, ``trio.ClosedResourceError``, TypeError and ValueError as ``propose`` does.
        """
        return self._server.submit_nowait(self._encode(command))

    def _encode(self, command: CommandT) -> bytes:
        data = self._encode_value(command)
        limit = self._max_command_bytes
        if len(data) > limit:
            raise ValueError(f"the command encodes to {len(data)} bytes, more than limits.max_command_bytes, {limit}")
        return data

    async def _submit_when_possible(self, data: bytes) -> Ticket[ResultT]:
        """What could not be queued just now: wait to lead, or for room."""
        server = self._server
        waited = False
        while True:
            if server.state.role is not Role.LEADER:
                server.check_open()
                if waited:
                    raise ProposalDropped("the leadership ended while the command waited for room")
                await self._wait_to_lead()
            ticket = server.submit_if_possible(data)
            if ticket is not None:
                return ticket
            # Only for room: this server leads, and nothing has happened since.
            waited = True
            await server.room_lot.park()

    async def _wait_to_lead(self) -> None:
        """Return if this server leads; otherwise raise: who does, or, after two election timeouts, that nobody does."""
        server, began = self._server, self._clock.now()
        patience = 2 * server.config.timeouts.election_timeout
        with self._clock.move_on_after(patience):
            while server.state.role is not Role.LEADER:
                server.check_open()
                if server.state.leader is not None:
                    raise server.not_leader()
                await server.change_lot.park()
            return
        raise NoLeader(self._clock.now() - began, why_no_leader(server))

    # ------------------------------------------------------------------------------------ reads

    async def read(
        self,
        function: Callable[[Any], ValueT],
        *,
        consistency: Literal["linearizable", "stale"] = "linearizable",
    ) -> ValueT:
        """Call ``function(machine)`` and return its value.

        ``linearizable``: the state reflects every write that completed before this call, on this or any other server;
        it costs one round of heartbeats, shared by concurrent reads, and no log write (dissertation 6.4).  ``stale``:
        the state as it is here, on any server, at once; while it is being restored from a snapshot, once that is done.

        The function runs on the event loop; it must not keep or change the machine's state.  Raises NotLeader,
        NoLeader, ``trio.ClosedResourceError``, and whatever the function raises.

        Cancelled: no effect.
        """
        if consistency == "linearizable":
            await self.barrier()
        elif consistency == "stale":
            # During a restore there is no state to look at.
            await self.wait_for(lambda _: not self._server.snapshots.restore_due)
        else:
            raise ValueError(f"consistency must be 'linearizable' or 'stale', not {consistency!r}")
        stopwatch = self._clock.stopwatch
        began = stopwatch()
        try:
            value = function(self._machine)
        finally:
            blocked = stopwatch() - began
            if blocked > self._server.config.timeouts.loop_blocked_threshold:
                name = getattr(function, "__qualname__", repr(function))
                self._server.events.publish(LoopBlocked(f"read function {name}", blocked))
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError(f"the function of a read must be a plain function, not async: {function!r}")
        return value

    async def read_index(self) -> LogIndex:
        """An index that reflects every write completed before this call, confirmed by a majority (dissertation 6.4).

        A state that has applied it may answer.  Raises NotLeader, NoLeader, ``trio.ClosedResourceError``.  Cancelled:
        no effect.
        """
        await trio.lowlevel.checkpoint()
        await self._wait_to_lead()
        return await confirm_read_index(self._server)

    async def verify_leader(self) -> None:
        """Return once a majority has confirmed, after this call, that this server leads.

        Raises NotLeader, NoLeader, ``trio.ClosedResourceError``.  Cancelled: no effect.
        """
        await trio.lowlevel.checkpoint()
        await self._wait_to_lead()
        await confirm_leadership(self._server)

    async def barrier(self) -> None:
        """Return once this server's state machine reflects every write completed before this call.

        Raises NotLeader, NoLeader, ``trio.ClosedResourceError``.  Cancelled: no effect.
        """
        await trio.lowlevel.checkpoint()
        await self._wait_to_lead()
        await confirm_applied(self._server)

    # ------------------------------------------------------------------------------------ snapshots

    async def snapshot(self) -> StoredSnapshot:
        """Take a snapshot of this server's state now, on any server, and cut the log behind it (paper section 7).

        Returns the snapshot: ``point`` (index and term), ``size`` in bytes.  If nothing was applied since the newest
        one, that is returned.  It takes as long as writing takes, and a restore that is under way before it.  Raises
        SnapshotUnavailable (the machine defines no ``snapshot``, nothing was applied, or writing failed; the old
        snapshot stays) and ``trio.ClosedResourceError``.

        Cancelled: the half-written file is removed soon, unless others wait for it too; the old snapshot stays.
        """
        await trio.lowlevel.checkpoint()
        self._server.check_open()
        return await self._snapshotter.take()

    # ------------------------------------------------------------------------------------ waits

    async def wait_leader(self) -> ServerId:
        """Wait until a leader is known, and return its id; as long as it takes.

        Raises ``trio.ClosedResourceError`` when the node ends.  Cancelled: no effect.
        """
        await self.wait_for(lambda node: node.leader is not None)
        return cast(ServerId, self.leader)

    async def wait_applied(self, index: LogIndex) -> None:
        """Wait until this server's state machine went through ``index``; as ``wait_leader`` otherwise."""
        await self.wait_for(lambda node: node.last_applied >= index)

    async def wait_for(self, predicate: Callable[["Node[CommandT, ResultT]"], bool]) -> None:
        """Wait until ``predicate(node)`` holds; it is asked whenever something visible has changed.

        Raises ``trio.ClosedResourceError`` when the node ends.  Cancelled: no effect.
        """
        await trio.lowlevel.checkpoint()
        self._server.check_open()
        while not predicate(self):
            await self._server.change_lot.park()
            self._server.check_open()

    async def wait_closed(self) -> None:
        """Wait until the node has ended, for whatever reason.  Cancelled: no effect."""
        await self._services.ended.wait()

    async def aclose(self) -> None:
        """Close: give up leading, let the write in hand finish within ``close_timeout``, end every task.

        Twice is fine.  Cancelled: everything is ended at once, a hung write's thread excepted; it keeps the data
        directory's lock until it returns.
        """
        await self._services.aclose()
