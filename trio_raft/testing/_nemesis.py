"""Who lets things go wrong in a run of the swarm, and when.

The nemesis waits a while, picks one of the kinds of faults that the run knows, and lets it happen in a task of its own:
it strikes, rests, and undoes what it did.  Several may be on at a time.  What is done to a member claims it, so that
nobody starts what another one holds down; links take any number of faults at once, and a link is mended when the last
cut on it ends.

A fault has to be *legal*: something that real machines do, and that Raft promises to survive.

House rule: every fault ends by itself, or at once when the time of trouble is over; what it holds down comes back.

Here: the schedule, and what faults are made of.  The faults themselves: ``_node_faults``, ``_link_faults``,
``_disk_faults``.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
import trio

from trio_raft._rules.state import Role
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._determinism import Latency, divide
from trio_raft.testing._member import Member
from trio_raft.testing._swarm import OFTEN, Plan

ValueT = TypeVar("ValueT")

RESTS = (0.02, 0.2, 1.0, 3.0, 8.0)
"""Seconds that a fault lasts: about one of these."""

LEADER_SHARE = 0.5
"""How often the leader is chosen where any member would do."""

Strike = Callable[["Nemesis"], Awaitable[None]]
"""One kind of fault, from its beginning to its end; does nothing where it cannot be done now."""


class Nemesis:
    """Of one run."""

    def __init__(
        self,
        cluster: Cluster[Any, Any],
        plan: Plan,
        strikes: Mapping[str, Strike],
        *,
        note: Callable[[str], None],
        rush: Callable[[], object],
    ) -> None:
        self.cluster = cluster
        self.plan = plan
        self.note = note
        """Adds a line to the trace."""
        self.rush = rush
        """All clients that are at rest write at once."""
        self.random = divide(plan.seed, "nemesis")
        self.injected: dict[str, int] = {}
        """Kind of fault → how often it struck."""
        self._strikes = strikes
        self._claims: dict[str, None] = {}
        self._cuts: dict[tuple[str, str], int] = {}
        """Link → how many faults cut it."""
        self._active = 0
        self._over = trio.Event()

    async def run(self) -> None:
        """Let things go wrong until ``end`` is called; returns when the last fault has undone itself."""
        plan = self.plan
        async with trio.open_nursery() as nursery:
            while plan.faults:
                await self.rest(self.random.expovariate(1 / plan.fault_pause))
                if self._over.is_set():
                    return
                if self._active < plan.most_faults:
                    # Counted here, not in the task: two must not start in one instant for one place.
                    self._active += 1
                    [fault] = self.random.choices(plan.faults, [OFTEN.get(fault, 1) for fault in plan.faults])
                    nursery.start_soon(self._strike, fault)

    def end(self) -> None:
        """Let the time of trouble be over: every fault undoes itself at once."""
        self._over.set()

    @property
    def over(self) -> bool:
        """Is the time of trouble over?"""
        return self._over.is_set()

    def calm(self) -> None:
        """From now on links and disks always take their typical time: nothing excuses an election any more."""
        settings = self.plan.settings
        calm = attrs.evolve(settings, link=Latency(settings.link.typical), disk=Latency(settings.disk.typical))
        self.cluster.settings = calm
        for member in self.cluster.members.values():
            member.settings = calm

    async def _strike(self, fault: str) -> None:
        try:
            await self._strikes[fault](self)
        finally:
            self._active -= 1

    # ------------------------------------------------------------------------------------ time

    async def rest(self, seconds: float) -> None:
        """Let the fault last for so long, but not beyond the time of trouble."""
        with self.cluster.clock.move_on_after(seconds):
            await self._over.wait()

    def draw_rest(self) -> float:
        """How long a fault lasts, in seconds."""
        return self.random.choice(RESTS) * self.random.uniform(0.5, 1.5)

    def begin(self, fault: str, what: str) -> None:
        """It strikes now."""
        self.injected[fault] = self.injected.get(fault, 0) + 1
        self.note(f"{fault}: {what}")

    # ------------------------------------------------------------------------------------ members

    @contextmanager
    def claim(self, *members: str) -> Iterator[None]:
        """Nobody else does anything to these members meanwhile.  A ruined one stays claimed."""
        self._claims.update(dict.fromkeys(members))
        try:
            yield
        finally:
            for member in members:
                if not self.cluster.members[member].excuse:
                    del self._claims[member]

    def free(self) -> list[str]:
        """Members to which nothing is being done."""
        return [member for member in self.cluster.ids if member not in self._claims]

    def leader(self) -> str | None:
        """Who believes to lead; of several the latest."""
        leaders = [server for server in self.cluster.servers() if server.state.role is Role.LEADER]
        return max(leaders, key=lambda server: server.state.current_term).node_id if leaders else None

    def victim(self) -> str | None:
        """A free member, often the leader; None if there is no free one."""
        free, leader = self.free(), self.leader()
        if leader in free and self.random.random() < LEADER_SHARE:
            return leader
        return self.random.choice(free) if free else None

    def pick(self, choices: Sequence[ValueT], count: int | None = None) -> list[ValueT]:
        """So many different ones of these, all if there are fewer or if ``count`` is not given, in any order."""
        return self.random.sample(choices, len(choices) if count is None else min(count, len(choices)))

    def member(self, victim: str) -> Member[Any, Any]:
        """Of that name."""
        return self.cluster.members[victim]

    # ------------------------------------------------------------------------------------ links

    def pair(self) -> tuple[str, str] | None:
        """Two members, in an order; None if there is one only."""
        if len(self.cluster.ids) < 2:
            return None
        source, target = self.pick(self.cluster.ids, 2)
        return source, target

    def around(self, member: str) -> list[tuple[str, str]]:
        """All links of a member: the outgoing ones, then the incoming ones."""
        others = [other for other in self.cluster.ids if other != member]
        return [(member, other) for other in others] + [(other, member) for other in others]

    async def rest_cut(self, links: Iterable[tuple[str, str]], seconds: float) -> None:
        """Keep these links cut for so long."""
        cut = list(links)
        for link in cut:
            self._cuts[link] = self._cuts.get(link, 0) + 1
            self.cluster.network.cut(*link)
        try:
            await self.rest(seconds)
        finally:
            for link in cut:
                self._cuts[link] -= 1
                if not self._cuts[link]:
                    self.cluster.network.mend(*link)
