"""A node: one server of a cluster inside a Trio program, with its public calls.

``open_node`` recovers the log and listens (``_startup.py``), and runs the services (``_services.py``) in a nursery
that the caller never sees.  What leaves its block: the user's exception as it is; or, if the node itself failed,
StorageError, LogCorrupt or StateMachineError as itself, any other failure as RaftInternalError, each ``from`` the
group in which it was found, with the user's exception as its context; KeyboardInterrupt and SystemExit bare.

House rule: the public calls run in the caller's task.  None holds a reference to a task of the node; they wait for
state, and closing wakes them all.

Reading order: ``open_node``, then ``Node``: looking, writes, reads, waits.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Generic, Literal, TypeVar, cast

import trio

from trio_raft._apply import Applier, command_type, defines_snapshots
from trio_raft._config import Config
from trio_raft._environment import Environment, real_environment
from trio_raft._errors import ConfigurationError, NoLeader, ProposalDropped, leaves
from trio_raft._events import EventReceiver, LoopBlocked
from trio_raft._leadership import confirm_applied, confirm_leadership, confirm_read_index
from trio_raft._messages import ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._services import Services
from trio_raft._startup import MachineAbilities, Stores, listen, recover
from trio_raft._statistics import Statistics, take_statistics, why_no_leader
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft._storage.snapshots_memory import MemorySnapshotStore
from trio_raft._storage.wal import FileLogStore
from trio_raft._taking import Snapshotter
from trio_raft._tcp import TCPTransport
from trio_raft._tickets import Ticket
from trio_raft._values import ValueCodec
from trio_raft.abc import LogStore, SnapshotStore, StateMachine, StoredSnapshot, Transport

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")

SUBMITS_BETWEEN_YIELDS = 64
"""``submit`` gives the loop its turn at least every so many calls."""


# Protected, but for the block itself: Ctrl-C between two steps of the way out would leave the services running, and the
# nursery waiting for them.  It is delivered where this waits.
@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_node(
    config: Config,
    machine: StateMachine[CommandT, ResultT],
    *,
    log_store: LogStore[Any, Any, Any] | None = None,
    snapshot_store: SnapshotStore | None = None,
    transport: Transport | None = None,
    environment: Environment | None = None,
) -> AsyncIterator["Node[CommandT, ResultT]"]:
    """Run a node for as long as the block lasts.

    Inside the block the log is recovered and the node listens; there need not be a leader yet (``wait_leader``).
    Leaving the block closes the node, in bounded time, and ends every task.

    Raises at the start, bare, with nothing changed on disk:  ConfigurationError, DirectoryInUse, DirectoryMismatch,
    LogCorrupt, IncompatibleVersion, StorageError, StorageFull; an address that is taken or not ours is a
    ConfigurationError too.  Later leaves: your exception, as it is; or, if the node itself failed, StorageError,
    LogCorrupt or StateMachineError, any other failure as RaftInternalError, with your exception as its context.  None
    of them in a group; those of ``serve_node`` come out of your own nursery.

    Cancelled: the node is closed at once.
    """
    codec: ValueCodec[CommandT] = ValueCodec(command_type(machine))
    environment = environment or real_environment()
    abilities = MachineAbilities(defines_snapshots(machine), machine.applied_index())
    stores = _stores(config, log_store, snapshot_store, supported=abilities.snapshots)
    try:
        transport = transport or TCPTransport()
        server = await recover(config, stores, abilities, transport, environment)
        listeners = await listen(config, transport)
    except BaseException:
        stores.close()
        raise
    snapshotter = Snapshotter(server, machine)
    applier = Applier(server, machine, codec)
    services = Services(server, stores, listeners, apply=applier.run, take_snapshots=snapshotter.run)
    node = Node(server, services, machine, codec, snapshotter)
    body_error: BaseException | None = None
    async with trio.open_nursery() as hidden:
        body_scope = trio.CancelScope()
        hidden.start_soon(services.run, body_scope, name=f"node[{config.node_id}]")
        try:
            with body_scope:
                yield node
        except BaseException as error:
            # Kept until every service has ended; Cancelled too, which is raised again below.
            body_error = error
        interruption = await services.end()
    leaving = _what_leaves(body_error, interruption, server.crash)
    if leaving is not None:
        raise leaving


def _stores(
    config: Config, log: LogStore[Any, Any, Any] | None, snapshots: SnapshotStore | None, *, supported: bool
) -> Stores:
    """The files of the data directory, but for what the caller brings.

    Raises ConfigurationError if the log would outlive its snapshots, without which a log that was cut is of no use.
    """
    if log is not None:
        if snapshots is None and supported:
            raise ConfigurationError("", "with a log_store of your own, pass the snapshot_store that belongs to it")
        return Stores(log, snapshots or MemorySnapshotStore())
    limits = config.limits
    log = FileLogStore(
        config.data_directory, segment_bytes=limits.segment_bytes, longest_batch=limits.largest_journal_batch
    )
    return Stores(log, snapshots or FileSnapshotStore(config.data_directory))


def _what_leaves(
    body_error: BaseException | None, interruption: BaseException | None, crash: BaseException | None
) -> BaseException | None:
    """The one exception for the end of a block, its close and its node: Ctrl-C, else the crash, else the body's."""
    for error in (interruption, body_error):
        if error is not None and any(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in leaves(error)):
            return error
    return crash or body_error or interruption


async def serve_node(
    config: Config,
    machine: StateMachine[CommandT, ResultT],
    *,
    log_store: LogStore[Any, Any, Any] | None = None,
    snapshot_store: SnapshotStore | None = None,
    transport: Transport | None = None,
    environment: Environment | None = None,
    task_status: trio.TaskStatus["Node[CommandT, ResultT]"] = trio.TASK_STATUS_IGNORED,
) -> None:
    """``open_node`` as a task: ``node = await nursery.start(serve_node, config, machine)``.

    Returns after ``node.aclose()``; raises what ``open_node`` raises.
    """
    async with open_node(
        config,
        machine,
        log_store=log_store,
        snapshot_store=snapshot_store,
        transport=transport,
        environment=environment,
    ) as node:
        task_status.started(node)
        await node.wait_closed()


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
        self._codec = codec
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

        A slow reader loses the oldest events and finds their number in ``events.dropped``; it never delays the node.
        """
        return self._server.events.subscribe(self._server.config.limits.event_buffer)

    # ------------------------------------------------------------------------------------ writes

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
        ticket = await self._submit(self._encode(command))
        return await ticket.wait()

    async def submit(self, command: CommandT) -> Ticket[ResultT]:
        """Queue a command and return its ticket, waiting while ``limits.pending_bytes`` are in flight.

        For thousands in flight from one task.  Raises as ``propose`` does, but for what the ticket will say.

        Cancelled: the command is guaranteed absent.
        """
        data = self._encode(command)
        self._submits += 1
        if self._submits % SUBMITS_BETWEEN_YIELDS == 0:
            await trio.lowlevel.checkpoint()
        return await self._submit(data)

    def submit_nowait(self, command: CommandT) -> Ticket[ResultT]:
        """Queue a command and return its ticket, or raise ``trio.WouldBlock`` at ``limits.pending_bytes``.

        Raises NotLeader, StorageFull, ``trio.ClosedResourceError``, TypeError and ValueError as ``propose`` does.
        """
        return cast(Ticket[ResultT], self._server.submit_nowait(self._encode(command)))

    def _encode(self, command: CommandT) -> bytes:
        data = self._codec.encode(command)
        limit = self._server.config.limits.max_command_bytes
        if len(data) > limit:
            raise ValueError(f"the command encodes to {len(data)} bytes, more than limits.max_command_bytes, {limit}")
        return data

    async def _submit(self, data: bytes) -> Ticket[ResultT]:
        await trio.lowlevel.checkpoint_if_cancelled()
        server = self._server
        waited = False
        while True:
            if server.state.role is not Role.LEADER:
                server.check_open()
                if waited:
                    raise ProposalDropped("the leadership ended while the command waited for room")
                await self._wait_to_lead()
            try:
                return cast(Ticket[ResultT], server.submit_nowait(data))
            except trio.WouldBlock:
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
        the state as it is here, on any server, at once.

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
        one, that is returned.  Raises SnapshotUnavailable (the machine defines no ``snapshot``, nothing was applied, or
        writing failed; the old snapshot stays) and ``trio.ClosedResourceError``.

        Cancelled: the half-written file is removed, unless others wait for it too; the old snapshot stays.
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
