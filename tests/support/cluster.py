"""A small cluster of whole nodes in one Trio run: memory stores, a memory network, virtual time.

``running_cluster`` starts it and judges it at the end.  A *server* here is a name with its store, which outlives
crashes; each time it is opened is a *life*, with a state machine of its own that remembers what it was given.

What is checked, whatever a test does: at most one leader in a term, and each leads a term once; a term never falls
within a life; any two lives applied the same entries as far as both went; whoever is told that a write succeeded, it
stands in the stores of a majority at that moment; no message leaves before what it promises stands in the sender's
store; no node fails unless the test says so.

House rule: the seed and the order of calls decide everything; time is virtual, so waiting costs nothing.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import combinations
from typing import TypeVar

import attrs
import trio
import trio.testing

import trio_raft
from tests.support.wire import Observer, WatchedTransport
from trio_raft import Config, Limits, MemoryLogStore, MemorySnapshotStore, Node, Snapshots, Timeouts
from trio_raft._environment import Environment
from trio_raft._event_hub import EventReceiver
from trio_raft._events import Event
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    SnapshotStatus,
)
from trio_raft._records import EntryKind
from trio_raft.abc import Transport
from trio_raft.testing._environment import VirtualLanes, test_environment
from trio_raft.testing._network import MemoryNetwork

PATIENCE = 300.0
"""Virtual seconds after which a scenario hangs."""

EventT = TypeVar("EventT")

Member = Node[bytes, int]
"""The nodes of these tests."""


class Journal(trio_raft.StateMachine[bytes, int]):
    """A state machine that is the list of its commands; the result is how many there are."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, int, bytes]] = []
        """(index, term, command)."""

    def apply(self, entry: trio_raft.Committed[bytes]) -> int:
        self.applied.append((entry.index, entry.term, entry.command))
        return len(self.applied)

    @property
    def commands(self) -> list[bytes]:
        """The commands alone."""
        return [command for _, _, command in self.applied]


class SavedJournal(Journal):
    """The same, which can be saved, an entry a piece; two versions of the cluster agree on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.restored: list[int] = []
        """The index of each snapshot that this life was restored from."""

    def snapshot(self) -> list[bytes]:
        return [b"%d %d %s\n" % entry for entry in self.applied]

    def restore(self, state: trio_raft.SavedState) -> None:
        lines = [line.split(b" ", 2) for line in b"".join(state).splitlines()]
        self.applied = [(int(index), int(term), command) for index, term, command in lines]
        self.restored.append(state.index)


class Draws(random.Random):
    """Chance that makes one server's timeouts the shortest, and the others' longer by half at least."""

    def __init__(self, seed: int, *, shortest: bool) -> None:
        super().__init__(seed)
        self._shortest = shortest

    def random(self) -> float:
        return 0.0 if self._shortest else 0.5 + super().random() / 2


@attrs.define(eq=False)
class Server:
    """One member across its lives."""

    name: str
    store: MemoryLogStore
    snapshots: MemorySnapshotStore = attrs.field(factory=MemorySnapshotStore)
    lives: list[Journal] = attrs.field(factory=list)
    began: list[float] = attrs.field(factory=list)
    """When each life began."""
    node: Member | None = None
    """Of the present life; None while it is down."""
    lanes: VirtualLanes | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    failure: BaseException | None = None
    """What ended the last life, if it was not a crash."""


class Cluster:
    """Made by ``running_cluster``."""

    def __init__(
        self,
        nursery: trio.Nursery,
        ids: Iterable[str],
        *,
        seed: int,
        timeouts: Timeouts,
        limits: Limits,
        stores: Mapping[str, MemoryLogStore],
        snapshots: Snapshots | None,
    ) -> None:
        self.network = MemoryNetwork()
        self.random = random.Random(seed)
        self.ids = list(ids)
        self.servers = {name: Server(name, stores.get(name) or MemoryLogStore()) for name in self.ids}
        self.events: list[tuple[float, str, Event]] = []
        """(time, server, event), oldest first."""
        self.acknowledged: list[bytes] = []
        """Writes that a caller was told of."""
        self.expected_failures: list[str] = []
        """Servers whose node may end by an error."""
        self.machine: Callable[[], Journal] = SavedJournal if snapshots else Journal
        self.observers: list[Observer] = []
        """Called with each message in the moment in which it is sent."""
        self.violations: list[str] = []
        self.favoured: str | None = None
        """Draws the shortest timeouts, all others long ones, from its next life on."""
        self._nursery = nursery
        self._seed = seed
        self._timeouts = timeouts
        self._limits = limits
        self._snapshots = snapshots or Snapshots()

    # ------------------------------------------------------------------------------------ lives

    def config(self, name: str, members: Iterable[str] | None = None) -> Config:
        """The settings of one server."""
        return Config(
            node_id=trio_raft.ServerId(name),
            cluster_id="scenario",
            members={trio_raft.ServerId(member): f"{member}:1" for member in members or self.ids},
            data_directory="/nowhere",
            timeouts=self._timeouts,
            limits=self._limits,
            snapshots=self._snapshots,
        )

    async def start(self, *ids: str, members: Iterable[str] | None = None) -> None:
        """Open these servers (all, if none is named), in this order."""
        for name in ids or self.ids:
            await self._nursery.start(self._live, self.servers[name], self.config(name, members), name=f"life[{name}]")

    async def _live(
        self, server: Server, config: Config, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        server.scope, server.ended, server.failure = trio.CancelScope(), trio.Event(), None
        number = self.ids.index(server.name)
        environment = self.environment(server.name, (self._seed * 8 + number) * 64 + len(server.lives))
        machine = self.machine()
        server.lives.append(machine)
        server.began.append(trio.current_time())
        try:
            with server.scope:
                async with trio_raft.open_node(
                    config,
                    machine,
                    log_store=server.store,
                    snapshot_store=server.snapshots,
                    transport=self.transport(server.name),
                    environment=environment,
                ) as node:
                    lanes = environment.run_blocking
                    assert isinstance(lanes, VirtualLanes)
                    server.node, server.lanes = node, lanes
                    with node.events() as events:
                        self._nursery.start_soon(self._record, server.name, events)
                        task_status.started()
                        await node.wait_closed()
        except trio_raft.RaftError as error:
            server.failure = error
        finally:
            server.node = None
            server.ended.set()

    async def _record(self, name: str, events: EventReceiver) -> None:
        async for event in events:
            self.events.append((trio.current_time(), name, event))
        assert events.dropped == 0

    async def crash(self, *ids: str) -> None:
        """End these lives at once; the stores keep what was executed."""
        for name in ids:
            self.servers[name].scope.cancel()
        for name in ids:
            await self.servers[name].ended.wait()

    async def restart(self, *ids: str) -> None:
        """Crash those that run, then open them again."""
        await self.crash(*[name for name in ids if self.servers[name].node is not None])
        await self.start(*ids)

    def environment(self, name: str, seed: int) -> Environment:
        """Of one life; a test may replace this method."""
        environment = test_environment(seed)
        if self.favoured is None:
            return environment
        return attrs.evolve(environment, random=Draws(seed, shortest=name == self.favoured))

    def transport(self, name: str) -> Transport:
        """Of one server; a test may replace this method."""
        return WatchedTransport(self.network.transport(name), name, self._observe)

    def _observe(self, sender: str, receiver: str, message: Message) -> None:
        problem = self._broken_promise(self.servers[sender].store, message)
        if problem:
            self.violations.append(f"{sender} sent {message}, but {problem}")
        for observer in self.observers:
            observer(sender, receiver, message)

    def _broken_promise(self, store: MemoryLogStore, message: Message) -> str:
        """What the message promises and the store does not hold."""
        vote = store._vote
        match message:
            case RequestVote(pre_vote=False) if (vote.term, vote.voted_for) != (message.term, message.candidate):
                return f"its store has {vote}"
            case RequestVoteReply(pre_vote=False, granted=True) if vote.term < message.requested_term:
                return f"its store has {vote}"
            case RequestVoteReply(pre_vote=False) | AppendEntriesReply() if vote.term < message.term:
                return f"its store has {vote}"
            case AppendEntries() | Heartbeat() if vote.term < message.term:
                return f"its store has {vote}"
            case AppendEntriesReply(success=True) if message.match_index > self._reaches(store):
                return f"its store ends at {self._reaches(store)}"
            case InstallSnapshotReply(status=SnapshotStatus.INSTALLED) if vote.term < message.term:
                return f"its store has {vote}"
            case _:
                return ""

    def _reaches(self, store: MemoryLogStore) -> int:
        """The last index in a store, or in the newest snapshot beside it, which a marker has yet to note."""
        [server] = [server for server in self.servers.values() if server.store is store]
        kept = max((point.index for point in server.snapshots._kept), default=0)
        return max(kept, store._base.index + len(store._entries))

    # ------------------------------------------------------------------------------------ looking

    def node(self, name: str) -> Member:
        """The running node of this server."""
        node = self.servers[name].node
        assert node is not None, f"{name} is down"
        return node

    def lanes(self, name: str) -> VirtualLanes:
        """This server's disk."""
        lanes = self.servers[name].lanes
        assert lanes is not None
        return lanes

    def running(self) -> list[Member]:
        """All nodes that are up."""
        return [server.node for server in self.servers.values() if server.node is not None]

    def others(self, node: Member) -> list[str]:
        """The ids of all servers but this node's."""
        return [name for name in self.ids if name != node.node_id]

    def commands(self, name: str) -> list[bytes]:
        """What this server's present life has applied."""
        return self.servers[name].lives[-1].commands

    def seen(self, name: str, kind: type[EventT]) -> list[EventT]:
        """This server's events of one kind so far."""
        return [event for _, server, event in self.events if server == name and isinstance(event, kind)]

    def leaders_by_term(self) -> dict[int, list[str]]:
        """Term → who became its leader, once for each time."""
        found: dict[int, list[str]] = {}
        for _, name, event in self.events:
            if isinstance(event, trio_raft.RoleChanged) and event.role == "leader":
                found.setdefault(event.term, []).append(name)
        return found

    # ------------------------------------------------------------------------------------ waiting

    async def until(self, condition: Callable[[], object], *, within: float = 60.0, step: float = 0.005) -> None:
        """Let virtual time pass, a step at a time, until the condition holds; TooSlowError after ``within`` seconds."""
        with trio.fail_after(within):
            while not condition():  # noqa: ASYNC110  # any state at all, and virtual time
                await trio.sleep(step)

    async def settle(self, seconds: float) -> None:
        """Let this much virtual time pass."""
        await trio.sleep(seconds)

    async def elected(self, *among: str, within: float = 30.0) -> Member:
        """Wait until one of these servers (or any) leads, has committed in its term, and is followed by the rest."""
        found: list[Member] = []

        def led() -> bool:
            nodes = [node for node in self.running() if not among or node.node_id in among]
            found[:] = [node for node in nodes if node.role == "leader" and self._committed_own(node)]
            return len(found) == 1 and all(
                (node.leader, node.term) == (found[0].node_id, found[0].term) for node in nodes
            )

        await self.until(led, within=within, step=0.03)
        return found[0]

    def _committed_own(self, node: Member) -> bool:
        return node._server.state.commit_index >= node._server.term_start_index

    async def write(self, node: Member, command: bytes) -> int:
        """Propose; once it is acknowledged, look whether a majority of the stores holds it."""
        ticket = await node.submit(command)
        result = await ticket.wait()
        holders = [name for name in self.ids if self.holds(name, ticket.index, command)]
        assert 2 * len(holders) > len(self.ids), f"{command!r} was acknowledged, but only {holders} hold it"
        self.acknowledged.append(command)
        return result

    async def write_many(self, node: Member, commands: Iterable[bytes]) -> None:
        """Propose all of these at once, and wait for all."""
        async with trio.open_nursery() as nursery:
            for command in commands:
                nursery.start_soon(self.write, node, command)

    def holds(self, name: str, index: int, command: bytes) -> bool:
        """Does this server's store hold the command at the index?"""
        store = self.servers[name].store
        if index <= store._base.index:
            # Covered by a snapshot, which holds what this life has applied.
            return command in self.commands(name)
        position = index - store._base.index - 1
        return len(store._entries) > position and store._entries[position].data == command

    def stored(self, name: str) -> list[tuple[int, bytes]]:
        """(term, data) of the commands in this server's store."""
        entries = self.servers[name].store._entries
        return [(entry.term, entry.data) for entry in entries if entry.kind is EntryKind.COMMAND]

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between servers of different groups, in both directions."""
        for one, other in combinations([list(group) for group in groups], 2):
            for a in one:
                for b in other:
                    self.network.cut(a, b)
                    self.network.cut(b, a)

    async def converged(self, *, within: float = 60.0) -> Member:
        """Heal the network; wait until all running nodes follow one leader and applied the same; nothing is lost."""
        self.network.heal()
        leader = await self.elected(within=within)
        await self.until(
            lambda: (
                len({node.last_applied for node in self.running()}) == 1
                and leader.last_applied == leader._server.state.log.last_index
            ),
            within=within,
        )
        for node in self.running():
            commands = self.commands(node.node_id)
            assert [command for command in self.acknowledged if commands.count(command) != 1] == []
        return leader

    # ------------------------------------------------------------------------------------ judging

    def check(self) -> None:
        """What must hold of every run so far."""
        assert self.violations == []
        for term, leaders in self.leaders_by_term().items():
            assert len(leaders) == 1, f"term {term} was led by {leaders}"
        terms: dict[tuple[str, int], int] = {}
        for time, name, event in self.events:
            if isinstance(event, trio_raft.RoleChanged):
                # A term that was only learnt, and promised nothing, may be forgotten in a crash.
                life = name, sum(began <= time for began in self.servers[name].began)
                assert event.term >= terms.get(life, 0), f"the term of {name} fell to {event.term}"
                terms[life] = event.term
        histories = [life.applied for server in self.servers.values() for life in server.lives]
        longest = max(histories, key=len, default=[])
        for history in histories:
            assert history == longest[: len(history)]
        for server in self.servers.values():
            assert server.failure is None or server.name in self.expected_failures, server.failure


@asynccontextmanager
async def running_cluster(
    size: int = 3,
    *,
    seed: int = 0,
    start: bool = True,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  # frozen
    limits: Limits = Limits(event_buffer=100_000),  # noqa: B008  # frozen
    stores: Mapping[str, MemoryLogStore] | None = None,
    snapshots: Snapshots | None = None,
) -> AsyncIterator[Cluster]:
    """Servers n1, n2 … for the length of a block, started unless told otherwise, and judged at its end.

    With ``snapshots`` their machines can be saved.
    """
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            cluster = Cluster(
                nursery,
                [f"n{number + 1}" for number in range(size)],
                seed=seed,
                timeouts=timeouts,
                limits=limits,
                stores=stores or {},
                snapshots=snapshots,
            )
            if start:
                await cluster.start()
            yield cluster
            await trio.testing.wait_all_tasks_blocked()
            cluster.check()
            nursery.cancel_scope.cancel()
