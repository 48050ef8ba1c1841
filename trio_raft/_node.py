"""A node: one server of a cluster inside a Trio program, with its public calls.

``open_node`` recovers the log, listens, and runs the services in a nursery that the caller never sees:

* the *role loop*, which settles the first configuration and then runs ``follow``, ``campaign`` or ``lead``, whichever the
  state says; it starts no role before the last one's nursery has ended,
* the apply task, the connections of peers, and the journal, which ends last.

What leaves an ``open_node`` block: the user's exception as it is; or, if the node itself failed, StorageError,
LogCorrupt or StateMachineError as itself, any other failure as RaftInternalError, each ``from`` the group in which it was
found, with the user's exception as its context; KeyboardInterrupt and SystemExit bare.

House rule: the public calls run in the caller's task.  None holds a reference to a task of the node; they wait for
state, and closing wakes them all.

Reading order: ``open_node``, ``Node`` (writes, reads, waits), then the services and the way out.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, Generic, Literal, TypeVar, cast

import trio

from trio_raft._apply import Applier, command_type
from trio_raft._bootstrap import settle_first_configuration
from trio_raft._config import Config
from trio_raft._election import campaign, follow
from trio_raft._environment import Environment, Lane, real_environment
from trio_raft._errors import (
    ConfigurationError,
    LogCorrupt,
    NoLeader,
    RaftError,
    RaftInternalError,
    StateMachineError,
    StorageError,
)
from trio_raft._events import EventHub, EventReceiver, LoopBlocked, NodeStopped, TornTailCut
from trio_raft._first_start import FirstStart
from trio_raft._handshake import Handshake
from trio_raft._journal import Journal
from trio_raft._leadership import confirm_leadership, confirm_read_index, lead
from trio_raft._messages import Incarnation, ServerId
from trio_raft._peers import PeerService
from trio_raft._records import LogIndex, Term
from trio_raft._rules.bootstrap import Bootstrap
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log
from trio_raft._rules.state import Role, State
from trio_raft._server import Server, error_text, leaves
from trio_raft._statistics import Statistics, take_statistics, why_no_leader
from trio_raft._storage.wal import FileLogStore
from trio_raft._tcp import TCPTransport
from trio_raft._tickets import Ticket
from trio_raft._values import ValueCodec
from trio_raft.abc import LogStore, Recovered, StateMachine, StoreIdentity, Transport

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")

SUBMITS_BETWEEN_YIELDS = 64
"""``submit`` gives the loop its turn at least every so many calls."""

_ROLES = {Role.FOLLOWER: follow, Role.CANDIDATE: campaign, Role.LEADER: lead}


@asynccontextmanager
async def open_node(
    config: Config,
    machine: StateMachine[CommandT, ResultT],
    *,
    log_store: LogStore[Any, Any, Any] | None = None,
    transport: Transport | None = None,
    environment: Environment | None = None,
) -> AsyncIterator["Node[CommandT, ResultT]"]:
    """Run a node for as long as the block lasts.

    Inside the block the log is recovered and the node listens; there need not be a leader yet (``wait_leader``).
    Leaving the block closes the node, in bounded time, and ends every task.

    Raises at the start, bare, with nothing changed on disk: ConfigurationError, DirectoryInUse, DirectoryMismatch,
    LogCorrupt, IncompatibleVersion, StorageError, StorageFull, OSError (the address is taken or not ours).  What can leave
    later is in the head comment of this module.
    """
    codec: ValueCodec[CommandT] = ValueCodec(command_type(machine))
    environment = environment or real_environment()
    store = log_store or FileLogStore(config.data_directory, segment_bytes=config.limits.segment_bytes)
    try:
        transport = transport or TCPTransport()
        server = await _recover(config, store, transport, environment)
        listeners = await _listen(config, transport)
    except BaseException:
        store.close()
        raise
    node = Node(server, machine, codec)
    body_error: BaseException | None = None
    async with trio.open_nursery() as hidden:
        body_scope = trio.CancelScope()
        hidden.start_soon(node._run, listeners, body_scope, name=f"node[{config.node_id}]")
        try:
            with body_scope:
                yield node
        except BaseException as error:
            # Kept until every service has ended; Cancelled too, which is raised again below.
            body_error = error
        try:
            await node.aclose()
        except trio.Cancelled as error:
            body_error = body_error or error
    if node._server.crash is not None:
        node._server.crash.__context__ = body_error
        raise node._server.crash
    if body_error is not None:
        raise body_error


async def serve_node(
    config: Config,
    machine: StateMachine[CommandT, ResultT],
    *,
    log_store: LogStore[Any, Any, Any] | None = None,
    transport: Transport | None = None,
    environment: Environment | None = None,
    task_status: trio.TaskStatus["Node[CommandT, ResultT]"] = trio.TASK_STATUS_IGNORED,
) -> None:
    """``open_node`` as a task: ``node = await nursery.start(serve_node, config, machine)``.

    Returns after ``node.aclose()``; raises what ``open_node`` raises.
    """
    async with open_node(
        config, machine, log_store=log_store, transport=transport, environment=environment
    ) as node:
        task_status.started(node)
        await node.wait_closed()


class Node(Generic[CommandT, ResultT]):
    """One server of the cluster.  Made by ``open_node`` and ``serve_node``."""

    def __init__(
        self, server: Server, machine: StateMachine[CommandT, ResultT], codec: ValueCodec[CommandT]
    ) -> None:
        self._server = server
        self._clock = server.environment.clock
        self._machine = machine
        self._codec = codec
        self._services_scope = trio.CancelScope(shield=True)
        self._work_scope = trio.CancelScope()
        self._journal_scope = trio.CancelScope()
        self._ended = trio.Event()
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
        return None if leader is None else self._server.addresses.get(leader)

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

        Raises ``Rejected`` if the machine refused it; NotLeader (ask the leader) and NoLeader (none within two election
        timeouts), neither queued; LeadershipLost (outcome unknown); StorageFull; ``trio.ClosedResourceError``; TypeError or
        ValueError, before anything is queued, if the command does not encode or is larger than
        ``limits.max_command_bytes``.

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
            raise ValueError(
                f"the command encodes to {len(data)} bytes, more than limits.max_command_bytes, {limit}"
            )
        return data

    async def _submit(self, data: bytes) -> Ticket[ResultT]:
        await trio.lowlevel.checkpoint_if_cancelled()
        server = self._server
        while True:
            if server.state.role is not Role.LEADER:
                await self._wait_to_lead()
            try:
                return cast(Ticket[ResultT], server.submit_nowait(data))
            except trio.WouldBlock:
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

        ``linearizable``: the state reflects every write that completed before this call, on this or any other server; it
        costs one round of heartbeats, shared by concurrent reads, and no log write (dissertation 6.4).  ``stale``: the state
        as it is here, on any server, at once.

        The function runs on the event loop; it must not keep or change the machine's state.  Raises NotLeader, NoLeader,
        ``trio.ClosedResourceError``, and whatever the function raises.

        Cancelled: no effect.
        """
        if consistency == "linearizable":
            await self.barrier()
        elif consistency == "stale":
            await trio.lowlevel.checkpoint()
            self._server.check_open()
        else:
            raise ValueError(f"consistency must be 'linearizable' or 'stale', not {consistency!r}")
        stopwatch = self._clock.stopwatch
        began = stopwatch()
        try:
            return function(self._machine)
        finally:
            blocked = stopwatch() - began
            if blocked > self._server.config.timeouts.loop_blocked_threshold:
                name = getattr(function, "__qualname__", repr(function))
                self._server.events.publish(LoopBlocked(f"read function {name}", blocked))

    async def read_index(self) -> LogIndex:
        """An index that reflects every write completed before this call, confirmed by a majority (dissertation 6.4).

        A state that has applied it may answer.  Raises NotLeader, NoLeader, ``trio.ClosedResourceError``.  Cancelled: no
        effect.
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
        index = await self.read_index()
        await self.wait_applied(index)

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
        await self._ended.wait()

    async def aclose(self) -> None:
        """Close: give up leading, let the write in hand finish within ``close_timeout``, end every task.

        Twice is fine.  Cancelled: everything is ended at once, a hung write's thread excepted; it keeps the data
        directory's lock until it returns.
        """
        self._server.close(None)
        self._work_scope.cancel()
        try:
            await self._ended.wait()
        except trio.Cancelled:
            self._services_scope.cancel()
            raise

    # ------------------------------------------------------------------------------------ services

    async def _run(self, listeners: Sequence[trio.abc.Listener[Any]], body_scope: trio.CancelScope) -> None:
        """All services; never raises: what went wrong is in ``server.crash``."""
        server = self._server
        failures: list[BaseException] = []
        try:
            with self._services_scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_journal, name="journal")
                    await self._run_work(listeners, failures)
        except BaseException as error:
            failures.append(error)
        if failures:
            crash = what_leaves(failures)
            if isinstance(crash, RaftError):
                server.events.publish(NodeStopped(crash))
            server.crash = crash
            body_scope.cancel()
        server.close(server.crash)
        server.store.close()
        server.events.close()
        self._ended.set()

    async def _run_work(
        self, listeners: Sequence[trio.abc.Listener[Any]], failures: list[BaseException]
    ) -> None:
        """Everything but the journal.  Its failure is noted, so that the journal can still end in order."""
        server = self._server
        service = PeerService(server)
        applier = Applier(server, self._machine, self._codec)
        try:
            with self._work_scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(applier.run, name="apply")
                    nursery.start_soon(server.journal.upkeep, name="upkeep")
                    nursery.start_soon(server.journal.watch, name="disk watch")
                    nursery.start_soon(trio.serve_listeners, service.serve, list(listeners), name="peers")
                    await self._run_roles()
        except* trio.Cancelled:
            raise
        except* BaseException as group:
            failures.append(group)
        server.close(what_leaves(failures) if failures else None)
        server.journal.close()
        deadline = self._clock.now() + server.config.timeouts.close_timeout
        self._clock.set_deadline(self._journal_scope, deadline)

    async def _run_journal(self) -> None:
        with self._journal_scope:
            await self._server.journal.run()

    async def _run_roles(self) -> None:
        """Run whatever the state says, one at a time: a role ends when a transition cancels its scope."""
        server = self._server
        await settle_first_configuration(server)
        while True:
            with trio.CancelScope() as server.role_scope:
                await _ROLES[server.state.role](server)
            await trio.lowlevel.checkpoint()


# ---------------------------------------------------------------------------------------------- the way in


async def _recover(
    config: Config, store: LogStore[Any, Any, Any], transport: Transport, environment: Environment
) -> Server:
    """Open the store and build the server on what it holds."""
    identity = StoreIdentity(config.cluster_id, config.node_id, Incarnation(_draw_id(environment)))
    memory_bytes = config.limits.log_memory_bytes
    recovered: Recovered = await environment.run_blocking(
        Lane.JOURNAL, partial(store.open, identity, memory_bytes=memory_bytes)
    )
    clock = environment.clock
    events = EventHub(
        config.node_id,
        stopwatch=clock.stopwatch,
        blocked_threshold=config.timeouts.loop_blocked_threshold,
    )
    if recovered.cut_bytes:
        events.publish(TornTailCut(recovered.cut_path, recovered.cut_bytes))
    journal = Journal(
        store,
        environment,
        timeouts=config.timeouts,
        limits=config.limits,
        publish=events.publish,
        last_index=recovered.last_index,
    )
    bootstrap = _recovered_bootstrap(config, recovered)
    first_start = FirstStart(bootstrap, journal=journal, events=events)
    handshake = Handshake(
        config=config,
        incarnation=recovered.incarnation,
        boot_id=_draw_id(environment),
        bootstrap_done=lambda: first_start.done,
        known_incarnation=first_start.known_incarnation,
    )
    return Server(
        config,
        _recovered_state(config, bootstrap, recovered),
        first_start,
        environment=environment,
        journal=journal,
        store=store,
        transport=transport,
        handshake=handshake,
        events=events,
    )


def _recovered_bootstrap(config: Config, recovered: Recovered) -> Bootstrap:
    saved = recovered.bootstrap
    settled = saved is not None and saved.done
    return Bootstrap(
        own_id=config.node_id,
        own_incarnation=recovered.incarnation,
        # Once it is settled the log says who the members are; the file of settings only says where they are.
        members=frozenset(saved.incarnations if saved is not None and settled else config.members),
        incarnations=dict(saved.incarnations) if saved is not None else {},
        done=settled,
    )


def _recovered_state(config: Config, bootstrap: Bootstrap, recovered: Recovered) -> State:
    log = Log.recovered(
        term_runs=recovered.term_runs,
        last_index=recovered.last_index,
        tail=recovered.tail,
        memory_bytes=config.limits.log_memory_bytes,
    )
    return State(
        node_id=config.node_id,
        log=log,
        configuration=Configuration(voters=tuple(bootstrap.members)),
        current_term=recovered.term,
        voted_for=recovered.voted_for,
    )


def _draw_id(environment: Environment) -> str:
    """64 bits in hexadecimal, for incarnations and boot ids."""
    return f"{environment.random.getrandbits(64):016x}"


async def _listen(config: Config, transport: Transport) -> Sequence[trio.abc.Listener[Any]]:
    try:
        return await transport.listen(config.listen_address)
    except OSError as error:
        raise ConfigurationError(
            "listen",
            f"cannot listen on {config.listen_address}: {error.strerror or error}. Stop the program that holds the "
            f"address, or choose another one",
        ) from error


# ---------------------------------------------------------------------------------------------- the way out


def what_leaves(failures: Sequence[BaseException]) -> BaseException:
    """The one exception that leaves an ``open_node`` block, for everything that went wrong inside the node.

    KeyboardInterrupt and SystemExit bare.  A failure with an error of its own leaves as that error, on a fresh object
    ``from`` the group: so the traceback still shows where the first one was raised, and what caused it.
    """
    group = BaseExceptionGroup("the node failed", list(failures))
    found = leaves(group)
    for leaf in found:
        if isinstance(leaf, KeyboardInterrupt | SystemExit):
            return leaf
    for leaf in found:
        if isinstance(leaf, StorageError | LogCorrupt | StateMachineError):
            twin = type(leaf).__new__(type(leaf), *leaf.args)
            twin.__dict__.update(leaf.__dict__)
            twin.__cause__ = group
            return twin
    error = RaftInternalError("; ".join(error_text(leaf) for leaf in found))
    error.__cause__ = group
    return error
