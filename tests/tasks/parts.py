"""Parts of a node for tests of one module at a time: a store under control, a server, a peer that follows a script.

House rule: the parts are the real ones wherever they can be; only disk, network and time are stood in for.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import pytest
import trio

from trio_raft._codec import Frame
from trio_raft._config import Config, Limits, Snapshots, Timeouts
from trio_raft._election import campaign, follow
from trio_raft._environment import Environment
from trio_raft._event_hub import EventReceiver
from trio_raft._events import Event
from trio_raft._handshake import Handshake
from trio_raft._leader_loss import LeaderLoss
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    Incarnation,
    Purpose,
    ServerId,
)
from trio_raft._peers import PeerService
from trio_raft._receiving import SnapshotService
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._startup import MachineAbilities, Stores, recover
from trio_raft._storage.memory import MemoryLogStore, MemoryPlan
from trio_raft._storage.snapshots_memory import MemorySnapshotStore
from trio_raft._transport import Channel, ChannelBroken, accept, dial
from trio_raft.abc import (
    Append,
    JournalItem,
    LogStore,
    Recovered,
    SaveBootstrap,
    SaveVote,
    SnapshotPoint,
    SnapshotStore,
    StoreIdentity,
)
from trio_raft.testing._environment import VirtualLanes, test_environment
from trio_raft.testing._network import MemoryNetwork

EventT = TypeVar("EventT")

CLUSTER = "tests"
N1, N2, N3 = ServerId("n1"), ServerId("n2"), ServerId("n3")
THREE = (N1, N2, N3)


def command(index: int, term: int, data: bytes = b"x") -> Entry:
    return make_entry(index=LogIndex(index), term=Term(term), kind=EntryKind.COMMAND, data=data)


def commands(first: int, terms: Sequence[int]) -> list[Entry]:
    """Commands of these terms from index ``first`` on."""
    return [command(index, term) for index, term in enumerate(terms, start=first)]


def incarnation(server: ServerId) -> Incarnation:
    return Incarnation(f"disk of {server}")


# ------------------------------------------------------------------------------------------- store


class StoreUnderControl(LogStore[MemoryPlan, tuple[Entry, ...], str]):
    """The store in memory, which remembers every write, fails when told to, and can be out of room."""

    def __init__(self) -> None:
        self.inner = MemoryLogStore()
        self.batches: list[tuple[JournalItem, ...]] = []
        """What was executed, one item per write."""
        self.noted: list[MemoryPlan] = []
        """Plans that were taken note of."""
        self.failure: Exception | None = None
        """Raised by the next writes."""
        self.has_room = True
        self.upkeep_results: list[Exception | None] = []
        """What the next slices of upkeep do; nothing is due when it is empty."""
        self.upkeep_runs = 0
        self.read_failure: Exception | None = None
        self.reads: list[tuple[LogIndex, LogIndex]] = []
        self.closed = False

    def open(self, identity: StoreIdentity, *, memory_bytes: int, snapshot: SnapshotPoint | None = None) -> Recovered:
        return self.inner.open(identity, memory_bytes=memory_bytes, snapshot=snapshot)

    def plan(self, batch: Sequence[JournalItem]) -> MemoryPlan | None:
        return self.inner.plan(batch) if self.has_room else None

    def execute(self, plan: MemoryPlan) -> None:
        if self.failure is not None:
            raise self.failure
        self.inner.execute(plan)
        self.batches.append(plan.items)

    def done(self, plan: MemoryPlan) -> None:
        self.noted.append(plan)

    def plan_read(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> tuple[Entry, ...]:
        self.reads.append((first, last))
        return self.inner.plan_read(first, last, max_bytes=max_bytes)

    def execute_read(self, plan: tuple[Entry, ...]) -> list[Entry]:
        if self.read_failure is not None:
            raise self.read_failure
        return self.inner.execute_read(plan)

    def plan_upkeep(self) -> str | None:
        return "a slice" if self.upkeep_results else None

    def execute_upkeep(self, upkeep: str) -> None:
        self.upkeep_runs += 1
        if (failure := self.upkeep_results[0]) is not None:
            # A full disk is asked again; what comes next is the next result.
            self.upkeep_results.pop(0)
            raise failure

    def done_upkeep(self, upkeep: str) -> None:
        self.upkeep_results.pop(0)
        self.has_room = True

    def close(self) -> None:
        self.closed = True
        self.inner.close()

    # --------------------------------------------------------------- looking

    @property
    def on_disk(self) -> list[Entry]:
        """The entries that survive a crash now."""
        return list(self.inner._entries)

    @property
    def vote_on_disk(self) -> SaveVote:
        return self.inner._vote


def lanes(environment: Environment) -> VirtualLanes:
    """The blocking work of a test's environment, to stall it."""
    assert isinstance(environment.run_blocking, VirtualLanes)
    return environment.run_blocking


# ------------------------------------------------------------------------------------------- server


def make_config(
    node_id: ServerId = N1,
    *,
    members: Sequence[ServerId] = THREE,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
    snapshots: Snapshots | None = None,
) -> Config:
    return Config(
        node_id=node_id,
        cluster_id=CLUSTER,
        members={member: f"{member}:1" for member in members},
        data_directory="/nowhere",
        timeouts=timeouts or Timeouts(),
        limits=limits or Limits(),
        snapshots=snapshots or Snapshots(),
    )


async def make_server(
    *,
    terms: Sequence[int] = (),
    term: int = 0,
    voted_for: ServerId | None = None,
    config: Config | None = None,
    network: MemoryNetwork | None = None,
    store: StoreUnderControl | None = None,
    settled: bool = True,
    seed: int = 1,
    latency: float = 0.0002,
    snapshots: SnapshotStore | None = None,
    machine: MachineAbilities | None = None,
) -> Server:
    """A server that found this log and vote on its disk; nothing of it runs yet.  ``latency`` is its disk's."""
    config = config or make_config()
    store = store or StoreUnderControl()
    items: list[JournalItem] = []
    if settled:
        items.append(SaveBootstrap({member: incarnation(member) for member in config.members}, done=True))
    if terms:
        entries = commands(1, terms)
        items.append(Append(entries, entries[-1].index, 0))
    if term:
        items.append(SaveVote(Term(term), voted_for))
    identity = StoreIdentity(config.cluster_id, config.node_id, incarnation(config.node_id))
    store.inner.open(identity, memory_bytes=0)
    plan = store.inner.plan(items)
    assert plan is not None
    store.inner.execute(plan)
    transport = (network or MemoryNetwork()).transport(config.node_id)
    environment = test_environment(seed, latency=0.0)
    stores = Stores(store, snapshots or MemorySnapshotStore())
    machine = machine or MachineAbilities(snapshots=True, applied_index=None)
    server = await recover(config, stores, machine, transport, environment)
    lanes(environment).latency = latency
    return server


def store_of(server: Server) -> StoreUnderControl:
    store = server.journal._store
    assert isinstance(store, StoreUnderControl)
    return store


def lead_term(server: Server, term: int) -> None:
    """Make the server leader of a later term."""
    if server.state.current_term < term - 1:
        server.transition(Term(term - 1), Role.FOLLOWER, "the test says so")
    server.transition(Term(term), Role.CANDIDATE, "the test says so")
    server.transition(Term(term), Role.LEADER, "the test says so")


async def run_roles(server: Server) -> None:
    """The role loop, as a node runs it, up to a leadership."""
    while server.state.role is not Role.LEADER:
        with trio.CancelScope() as server.role_scope:
            await (follow if server.state.role is Role.FOLLOWER else campaign)(server)
        await trio.lowlevel.checkpoint()


class Recorder:
    """Every event that a server publishes while the test runs."""

    def __init__(self, receiver: EventReceiver) -> None:
        self._receiver = receiver
        self._seen: list[Event] = []

    @property
    def events(self) -> list[Event]:
        while True:
            try:
                self._seen.append(self._receiver.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return self._seen

    def of(self, kind: type[EventT]) -> list[EventT]:
        """Those of one class."""
        return [event for event in self.events if isinstance(event, kind)]


def record(server: Server) -> Recorder:
    """Record the events of a server for the rest of the test."""
    receiver = EventReceiver(1000)
    server.events._receivers.append(receiver)
    return Recorder(receiver)


# ------------------------------------------------------------------------------------------- peers


def handshake_of(config: Config, *, own: Incarnation | None = None) -> Handshake:
    return Handshake(
        config=config,
        incarnation=own or incarnation(config.node_id),
        boot_id=f"boot of {config.node_id}",
        bootstrap_done=lambda: True,
        known_incarnation=incarnation,
    )


async def listen_for(server: Server, nursery: trio.Nursery) -> PeerService:
    """Serve the connections of a server's peers."""
    listeners = await server.transport.listen(server.config.listen_address)
    service = PeerService(server, SnapshotService(server).answer, LeaderLoss(server).look)
    nursery.start_soon(trio.serve_listeners, service.serve, list(listeners))
    return service


async def connect(
    network: MemoryNetwork, server: Server, purpose: Purpose, *, sender: ServerId = N2, boot_id: str = ""
) -> Channel:
    """Dial a server as one of its peers."""
    config = make_config(sender, members=tuple(server.config.members), limits=server.config.limits)
    handshake = handshake_of(config)
    return await dial(
        network.transport(sender),
        server.config.listen_address,
        attrs.evolve(handshake, boot_id=boot_id or handshake.boot_id),
        receiver=server.node_id,
        purpose=purpose,
        environment=test_environment(99),
        timeouts=config.timeouts,
    )


@attrs.define(eq=False, slots=False)
class ScriptedPeer:
    """A peer that listens, and answers as the test says.

    Heartbeats are answered by themselves, unless ``answers_heartbeats`` is false.
    """

    config: Config
    answers_heartbeats: bool = True
    heartbeats: list[tuple[float, Heartbeat]] = attrs.field(factory=list)
    """Those that arrived, with the time."""
    dials: list[tuple[float, Purpose]] = attrs.field(factory=list)
    """Connections that were opened, with the time."""

    def __attrs_post_init__(self) -> None:
        self._channels = {purpose: trio.open_memory_channel[Channel](100) for purpose in Purpose}

    async def listen(self, network: MemoryNetwork, nursery: trio.Nursery) -> None:
        listeners = await network.transport(self.config.node_id).listen(self.config.listen_address)
        nursery.start_soon(trio.serve_listeners, self._serve, list(listeners))

    async def channel(self, purpose: Purpose) -> Channel:
        """The next connection for this purpose."""
        return await self._channels[purpose][1].receive()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        environment, timeouts = test_environment(98), self.config.timeouts
        channel = await accept(stream, handshake_of(self.config), environment=environment, timeouts=timeouts)
        self.dials.append((trio.current_time(), channel.purpose))
        if channel.purpose is Purpose.CONTROL and self.answers_heartbeats:
            await self._answer_heartbeats(channel)
        else:
            self._channels[channel.purpose][0].send_nowait(channel)
            await trio.sleep_forever()

    async def _answer_heartbeats(self, channel: Channel) -> None:
        try:
            while True:
                frame = await channel.receive()
                assert isinstance(frame.message, Heartbeat)
                self.heartbeats.append((trio.current_time(), frame.message))
                reply = HeartbeatReply(term=frame.message.term, round=frame.message.round)
                await channel.send(reply, request_id=frame.request_id)
        except ChannelBroken:
            await channel.drop()


async def receive_append(channel: Channel) -> tuple[int, AppendEntries]:
    """The next request on a replication connection, with its id."""
    frame: Frame = await channel.receive()
    assert isinstance(frame.message, AppendEntries)
    return frame.request_id, frame.message


async def accept_append(channel: Channel, request_id: int, request: AppendEntries) -> None:
    """Answer that everything it brought is there."""
    last = LogIndex(request.prev_log_index + len(request.entries))
    await channel.send(AppendEntriesReply(term=request.term, success=True, match_index=last), request_id=request_id)


async def follow_script(channel: Channel) -> None:
    """Accept every request until the connection ends."""
    try:
        while True:
            await accept_append(channel, *await receive_append(channel))
    except ChannelBroken:
        pass


def about(seconds: float) -> Any:
    """Compares equal to this duration but for rounding, wherever a float is expected."""
    return pytest.approx(seconds)


async def until(condition: Callable[[], object]) -> None:
    """Let time pass, a millisecond at a time, until the condition holds."""
    with trio.fail_after(1000):
        while not condition():  # noqa: ASYNC110  # nobody would set an event
            await trio.sleep(0.001)


async def settle(turns: int = 20) -> None:
    """Let every task that can run do so, without time passing."""
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
