"""A whole cluster in one Trio run: the shipped nodes on simulated disks, links and clocks, from one seed.

``running_cluster`` (``_running``) starts it, lets the block do its worst, then heals everything and demands that the
cluster works and has lost nothing (``_healing``).  A violated invariant, or a node that ends for no injected reason,
cancels the block at once and leaves as an error with the seed: such a run cannot pass, whatever the block does.

A crash is not a cancellation: ``finally`` blocks of the node still run.  So its links are frozen first, then everything
is cancelled in the same step, and only then is it decided what of the unsynced bytes reached the medium.

House rules: every wait here is bounded, and says what it waited for and how the cluster looked; nothing is drawn but
from the seed; members are walked in the order of their names.

Reading order: lives, faults, looking, waiting, judging; one member is in ``_member``.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations
from typing import Generic, Literal, TypeVar

import trio

from trio_raft._config import Config
from trio_raft._environment import Clock
from trio_raft._messages import ServerId
from trio_raft._node import Node
from trio_raft._server import Server
from trio_raft.abc import StateMachine
from trio_raft.testing._client import Client
from trio_raft.testing._determinism import divide
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._environment import SimulatedClock, SimulatedLanes, VirtualClock
from trio_raft.testing._failures import TooSlow
from trio_raft.testing._history import History
from trio_raft.testing._invariants import Invariants
from trio_raft.testing._judge import Judge
from trio_raft.testing._member import DIRECTORY, Member, live
from trio_raft.testing._network import MemoryNetwork
from trio_raft.testing._picture import describe, running_servers, serving_leader
from trio_raft.testing._settings import ClusterSettings
from trio_raft.testing._trace import Trace
from trio_raft.testing._wire import WatchedTransport

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")

POLL_SECONDS = 0.01
"""Virtual seconds between two looks at a condition that has no event of its own."""

START_SECONDS = 60.0
"""Virtual seconds within which a node has recovered its log, or has ended."""

LEADER_SECONDS = 60.0
"""Virtual seconds for which ``wait_leader`` is patient unless told otherwise."""


class Cluster(Generic[CommandT, ResultT]):
    """Members n1, n2 … under your control; made by ``running_cluster``."""

    def __init__(
        self,
        nursery: trio.Nursery,
        machine: Callable[[], StateMachine[CommandT, ResultT]],
        settings: ClusterSettings,
        *,
        trace: Trace | None = None,
    ) -> None:
        self.settings = settings
        self.seed = settings.seed
        self.ids: tuple[str, ...] = settings.ids
        """All members, up or down."""
        self.clock: Clock = VirtualClock()
        """The run's own: virtual seconds, without any node's drift."""
        self.network = MemoryNetwork(latency=settings.link, generator=divide(settings.seed, "network"))
        """The links; inject faults there."""
        self.members: dict[str, Member[CommandT, ResultT]] = {
            node_id: Member(node_id, settings, rate=_draw_rate(settings, node_id)) for node_id in self.ids
        }
        self.history = History(self.clock.now)
        """What the clients asked and were told; for ``check_linearizable``."""
        self.acknowledged: list[tuple[int, int]] = []
        """(index, term) of each write that a client was told of."""
        self.judge = Judge(settings.seed, self.members, make_machine=machine, clock=self.clock, trace=trace)
        self.scope = self.clock.move_on_after(settings.time_limit)
        """Holds the block; a failure cancels it."""
        self.judge.on_failure = self.scope.cancel
        self.make_machine = machine
        """Makes a state machine, one for each life, and some to compare states with."""
        self.judge.refuses = self.network.refuses
        self._nursery = nursery
        self._clients = 0

    # ------------------------------------------------------------------------------------ lives

    async def start(self, *ids: str) -> None:
        """Start these members (all, if none is named) that are down; returns once they have recovered their logs.

        One that rightly refuses its disk stays down (``failures`` says why); any other failure fails the run.
        """
        starting = [member for member in self._named(ids or self.ids) if member.life is None]
        with self.clock.move_on_after(START_SECONDS) as patience:
            async with trio.open_nursery() as nursery:
                for member in starting:
                    nursery.start_soon(self._start, member)
        if patience.cancelled_caught:
            raise self.too_slow(f"these members did not start within {START_SECONDS:g} s: {ids or self.ids}")

    async def _start(self, member: Member[CommandT, ResultT]) -> None:
        node_id = member.id
        config = Config(
            node_id=ServerId(node_id),
            cluster_id=member.cluster_id,
            members={ServerId(each): f"{each}:1" for each in self.ids},
            data_directory=DIRECTORY,
            timeouts=self.settings.timeouts,
            limits=self.settings.limits,
            snapshots=self.settings.snapshots,
        )
        transport = WatchedTransport(self.network.transport(node_id), node_id, self.judge.watch_send)
        # The machine is on, and no process of it is stopped any more.
        self.network.resume(node_id)
        self.network.thaw(node_id)
        await self._nursery.start(
            live, member, config, self.make_machine, transport, self.judge, name=f"{node_id}, life {member.lives}"
        )

    async def crash(self, *ids: str) -> None:
        """Cut the power of these members: nothing leaves them any more, and unsynced bytes are kept or lost by chance.

        Those that are down stay down.
        """
        for member in await self._end(ids, "power is cut"):
            member.disk = member.disk.crash(divide(self.seed, "crash", member.id, member.lives))

    async def kill(self, *ids: str) -> None:
        """End these members' processes as SIGKILL does: the machine goes on, and so every byte written stays.

        It closes their connections at once, and refuses new ones: others need not wait for a timeout to notice.
        """
        for member in self._named(ids):
            if member.life is not None:
                self.network.hang_up(member.id)
        for member in await self._end(ids, "process is killed"):
            member.disk.kill_process()
            # The machine is still there, and resets the connections of a process that is not.
            self.network.thaw(member.id)

    async def _end(self, ids: Sequence[str], how: str) -> list[Member[CommandT, ResultT]]:
        ending = [(member, member.life) for member in self._named(ids) if member.life is not None]
        for member, life in ending:
            self.trace.note(member.id, f"its {how}")
            # Disk and links first: what the node's tasks do and say while they are cancelled must not get out.
            self.invariants.ended(member.id)
            member.lanes.freeze()
            self.network.freeze(member.id)
            life.doomed = True
            life.scope.cancel()
        with self.clock.move_on_after(START_SECONDS) as patience:
            for _, life in ending:
                await life.ended.wait()
        if patience.cancelled_caught:
            raise self.too_slow(f"these members did not end within {START_SECONDS:g} s: {ids}")
        return [member for member, _ in ending]

    async def restart(self, *ids: str, disk: Literal["same", "wiped", "old copy"] = "same") -> None:
        """Crash those of these members that run, then start all of them again.

        On an empty disk or on the copy that ``copy_disk`` took last, if so told: then they may refuse to take part.
        """
        await self.crash(*ids)
        for member in self._named(ids):
            if disk != "same":
                self.invariants.exchanged(member.id)
            if disk == "wiped":
                member.disk = SimDisk()
                member.excuse = "its disk was wiped"
            elif disk == "old copy":
                if member.copy is None:
                    raise ValueError(f"seed {self.seed}: no copy of the disk of {member.id}: call copy_disk before")
                member.disk = member.copy.snapshot()
                member.excuse = "its disk was exchanged for an old copy"
        await self.start(*ids)

    def copy_disk(self, *ids: str) -> None:
        """Keep a copy of what is durable now, for ``restart(disk="old copy")``."""
        for member in self._named(ids):
            member.copy = member.disk.snapshot()

    @property
    def invariants(self) -> Invariants:
        """What must hold at any time; add yours: ``cluster.invariants.add(check)``."""
        return self.judge.invariants

    @property
    def trace(self) -> Trace:
        """What happened, in lines; and a digest of all of them."""
        return self.judge.trace

    def expect_failure(self, node_id: str, *kinds: type[BaseException]) -> None:
        """From now on this member's node may end by such an error; any other still fails the run."""
        expected = self.judge.expected
        expected[node_id] = expected.get(node_id, ()) + kinds

    # ------------------------------------------------------------------------------------ faults

    def partition(self, *groups: Iterable[str], one_way: bool = False) -> None:
        """Cut the links between members of different groups; a single group is cut from all others.

        ``one_way``: only what an earlier group sends to a later one is lost.  Cuts add up until ``heal``.
        """
        cut = [[member.id for member in self._named(list(group))] for group in groups]
        if len(cut) == 1:
            cut.append([node_id for node_id in self.ids if node_id not in cut[0]])
        self.trace.note("kit", f"cuts {' from '.join(' '.join(group) for group in cut)}{' one way' if one_way else ''}")
        for (early, one), (late, other) in permutations(enumerate(cut), 2):
            if not one_way or early < late:
                for source in one:
                    for target in other:
                        self.network.cut(source, target)

    def heal(self) -> None:
        """Undo every cut, clog and refusal of links; what was held up is delivered."""
        self.trace.note("kit", "heals the network")
        self.network.heal()

    def pause(self, *ids: str) -> None:
        """Stop these members as SIGSTOP does: timers, links, the disk's answers and clients' calls stand still."""
        for member in self._named(ids):
            if member.life is not None and not member.paused:
                self.trace.note(member.id, "is paused")
                member.paused = True
                member.clock.pause()
                member.lanes.pause()
                self.network.pause(member.id)

    def resume(self, *ids: str) -> None:
        """Let paused members (all, if none is named) go on: what ran out meanwhile rings now."""
        for member in self._named(ids or self.ids):
            if member.paused:
                self.trace.note(member.id, "goes on")
                member.paused = False
                member.clock.resume()
                member.lanes.resume()
                self.network.resume(member.id)
                member.changed.unpark_all()

    def repair(self) -> None:
        """Undo everything that was done to links, disks and clocks, and let paused members go on.

        Whoever is down stays down.
        """
        self.resume()
        self.heal()
        for source, target in permutations(self.ids, 2):
            self.network.set_latency(source, target, self.settings.link)
            self.network.set_bandwidth(source, target, math.inf)
        for member in self.members.values():
            member.disk.mend()
            member.disk.capacity = None
            member.lanes.mend()
            member.lanes.latency = self.settings.disk

    # ------------------------------------------------------------------------------------ looking

    @property
    def nodes(self) -> dict[str, Node[CommandT, ResultT] | None]:
        """The running node of each member; None while it is down."""
        return {node_id: member.life.node if member.life else None for node_id, member in self.members.items()}

    @property
    def machines(self) -> dict[str, StateMachine[CommandT, ResultT]]:
        """The state machine of each member that is up."""
        return {node_id: member.life.machine for node_id, member in self.members.items() if member.life}

    @property
    def disks(self) -> Mapping[str, SimDisk]:
        """Each member's disk; inject faults there.  A crash puts another in its place."""
        return {node_id: member.disk for node_id, member in self.members.items()}

    @property
    def clocks(self) -> Mapping[str, SimulatedClock]:
        """Each member's clock, of its present life."""
        return {node_id: member.clock for node_id, member in self.members.items()}

    @property
    def lanes(self) -> Mapping[str, SimulatedLanes]:
        """How each member's disk takes its time, in its present life."""
        return {node_id: member.lanes for node_id, member in self.members.items()}

    @property
    def failures(self) -> dict[str, BaseException]:
        """Members that are down by an error that was explained, and the error."""
        return {node_id: member.failure for node_id, member in self.members.items() if member.failure is not None}

    def servers(self) -> list[Server]:
        """The servers of all members that are up and have recovered: a node from inside."""
        return list(running_servers(self.members))

    def leader(self) -> Node[CommandT, ResultT] | None:
        """The node that can serve now: it leads, and a majority follows it in its term, hears it and is heard.

        A leader that was cut off does not count, though it may not know it yet.
        """
        server = serving_leader(self.members, self.network)
        return None if server is None else self.nodes[server.node_id]

    def describe(self) -> str:
        """How every member stands, one line each."""
        return describe(self.members, self.network)

    def _named(self, ids: Sequence[str]) -> list[Member[CommandT, ResultT]]:
        """These members, in the order of all; to name none is more likely a slip than a wish."""
        unknown = [node_id for node_id in ids if node_id not in self.members]
        if unknown or not ids:
            problem = f"there is no member {', '.join(unknown)}" if unknown else "no member is named"
            raise ValueError(f"seed {self.seed}: {problem}; this cluster has {', '.join(self.ids)}")
        return [member for node_id, member in self.members.items() if node_id in ids]

    # ------------------------------------------------------------------------------------ waiting

    async def until(
        self, condition: Callable[[], object], what: str, *, within: float = LEADER_SECONDS, check: str = ""
    ) -> None:
        """Let virtual time pass until the condition holds.  Raises TooSlow after ``within`` seconds.

        Cancelled: no effect.
        """
        await trio.lowlevel.checkpoint()
        with self.clock.move_on_after(within):
            while not condition():
                await self.clock.sleep(POLL_SECONDS)
            return
        raise self.too_slow(f"{what}: not within {within:g} virtual seconds", check=check)

    async def wait_leader(self, *, within: float = LEADER_SECONDS) -> Node[CommandT, ResultT]:
        """Wait for a leader that can serve, see ``leader``.  Raises TooSlow.  Cancelled: no effect."""
        await self.until(self.leader, "a leader", within=within)
        leader = self.leader()
        if leader is None:
            raise AssertionError("a leader was found, and lost without any time passing")
        return leader

    def too_slow(self, problem: str, *, check: str = "") -> TooSlow:
        """The error for a wait that ran out."""
        return TooSlow(self.seed, f"{problem}. At {self.clock.now():.3f} s:\n{self.describe()}", check=check)

    # ------------------------------------------------------------------------------------ clients, judging

    def client(self, name: str = "") -> Client[CommandT, ResultT]:
        """Another client; its calls are recorded in ``history`` under its name."""
        self._clients += 1
        return Client(
            name or f"client {self._clients}",
            self.members,
            clock=self.clock,
            history=self.history,
            acknowledged=lambda ticket: self.acknowledged.append((ticket.index, ticket.term)),
            settings=self.settings,
        )

    def check(self) -> None:
        """Raises what went wrong so far, with the seed.  The end of the block does so in any case."""
        if self.judge.failure is not None:
            raise self.judge.failure


def _draw_rate(settings: ClusterSettings, node_id: str) -> float:
    """Of a member's clock."""
    return 1.0 + settings.drift * (2.0 * divide(settings.seed, "clock", node_id).random() - 1.0)
