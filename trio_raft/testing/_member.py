"""One member of a simulated cluster across its lives.

The member is an id with a disk; each time a node is opened on it is a *life*, with a state machine, a clock and a
generator of its own.  A life ends by a crash or a kill, which the cluster orders, or by an error.  An error that
nothing explains fails the run; it is reported from here, and never raised here, since nobody stands above this task
who could act on it.

House rule: nothing of a life outlives it but what is on the disk.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import attrs
import trio

from trio_raft._config import Config
from trio_raft._environment import Environment
from trio_raft._errors import StorageError
from trio_raft._node import Node
from trio_raft._opening import serve_node
from trio_raft._server import Server
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft._storage.wal import FileLogStore
from trio_raft.abc import StateMachine, Transport
from trio_raft.testing._determinism import divide
from trio_raft.testing._disk import PowerCut, SimDisk
from trio_raft.testing._environment import SimulatedClock, SimulatedLanes
from trio_raft.testing._settings import ClusterSettings

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")

CLUSTER_ID = "simulation"

DIRECTORY = Path("/data")
"""Where each member keeps its log, on a disk of its own."""


@attrs.define(eq=False)
class Life(Generic[CommandT, ResultT]):
    """From one start to its end."""

    number: int
    """Counted from 0."""
    machine: StateMachine[CommandT, ResultT]
    node: Node[CommandT, ResultT] | None = None
    """None until it has recovered its log and listens."""
    server: Server | None = None
    """None until it has recovered its log."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    doomed: bool = False
    """A crash or a kill is under way: its disk and its links have ended already."""


@attrs.define(eq=False)
class Member(Generic[CommandT, ResultT]):
    """An id, its disk, and whether it lives."""

    id: str
    settings: ClusterSettings
    rate: float = 1.0
    """Of its clock."""
    cluster_id: str = CLUSTER_ID
    disk: SimDisk = attrs.field(factory=SimDisk)
    clock: SimulatedClock = attrs.field(init=False)
    """Of the present life, or of the next one; so are the lanes."""
    lanes: SimulatedLanes = attrs.field(init=False)
    life: Life[CommandT, ResultT] | None = None
    """None while it is down."""
    lives: int = 0
    failure: BaseException | None = None
    """What ended the last life, or kept it from starting, if it was neither a crash nor a kill."""
    copy: SimDisk | None = None
    """An old copy of its disk."""
    errors_before: int = 0
    """Errors of the disk that were injected before the present life."""
    excuse: str = ""
    """Why this member may refuse to take part: what was done to its disk."""
    paused: bool = False
    changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    """Clients that wait for a paused member."""

    def __attrs_post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Another clock and other lanes, for the next life: none of the last one's timers and calls reaches it."""
        settings = self.settings
        self.clock = SimulatedClock(rate=self.rate)
        self.errors_before = self._disk_errors()
        draws = divide(settings.seed, "disk", self.id, self.lives)
        self.lanes = SimulatedLanes(self.disk, generator=draws, latency=settings.disk)

    def environment(self, observe: Callable[[Server], None]) -> Environment:
        """What the next life sees of the world: a clock, chance and a disk of its own."""
        draws = divide(self.settings.seed, "node", self.id, self.lives)
        return Environment(clock=self.clock, random=draws, run_blocking=self.lanes, observe=observe)

    def store(self, disk: SimDisk | None = None) -> FileLogStore:
        """The log on this member's disk, or on a copy of it, not opened yet."""
        limits = self.settings.limits
        return FileLogStore(
            DIRECTORY,
            segment_bytes=limits.segment_bytes,
            longest_batch=limits.largest_journal_batch,
            files=disk or self.disk,
        )

    def snapshot_store(self, disk: SimDisk | None = None, *, log: FileLogStore | None = None) -> FileSnapshotStore:
        """The snapshots beside that log, not opened yet."""
        return FileSnapshotStore(DIRECTORY, files=disk or self.disk, log_store=log)

    def disk_failed_lately(self) -> bool:
        """Was an error of the disk injected in the present life, or is the disk too small?"""
        return self.disk.capacity is not None or self._disk_errors() > self.errors_before

    def _disk_errors(self) -> int:
        return sum(count for kind, count in self.disk.injected.items() if kind.endswith(" error"))

    async def awake(self, life: Life[Any, Any]) -> bool:
        """Wait while the member is paused.  Does that life still last?"""
        while self.paused and self.life is life:
            await self.changed.park()
        return self.life is life


class Watching(Protocol[CommandT, ResultT]):
    """Who is told of a life: the cluster."""

    def begins(self, member: Member[CommandT, ResultT], life: Life[CommandT, ResultT]) -> None:
        """Before anything of it is opened."""
        ...

    def recovered(self, member: Member[CommandT, ResultT], life: Life[CommandT, ResultT], server: Server) -> None:
        """Its log was read, and nothing of it runs yet."""
        ...

    def failed(self, member: Member[CommandT, ResultT], error: BaseException) -> None:
        """It ended by itself, or could not begin."""
        ...

    def over(self, member: Member[CommandT, ResultT]) -> None:
        """All of its tasks have ended."""
        ...


async def live(
    member: Member[CommandT, ResultT],
    config: Config,
    make_machine: Callable[[], StateMachine[CommandT, ResultT]],
    transport: Transport,
    watching: Watching[CommandT, ResultT],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one life: a task that never raises.  It has started once the node has, or once it is clear that it will not.

    Cancelled: the node closes in order, as it would for a user.  A crash freezes disk and links first.
    """
    if member.life is not None:
        # Two were told to start it in the same moment.
        task_status.started()
        return
    try:
        life = Life(member.lives, make_machine())
    except Exception as error:
        watching.failed(member, error)
        task_status.started()
        return
    member.life, member.failure = life, None
    member.renew()
    watching.begins(member, life)
    environment = member.environment(partial(watching.recovered, member, life))
    member.lives += 1
    log = member.store()
    try:
        with life.scope:
            await serve_node(
                config,
                life.machine,
                log_store=log,
                snapshot_store=member.snapshot_store(log=log),
                transport=transport,
                environment=environment,
                task_status=_Started(life, task_status),
            )
    # PowerCut: the disk's own way to say that the machine is off.
    except (Exception, PowerCut) as error:
        if not life.doomed:
            member.failure = error
        # That its disk has ended is no news of a member that is being crashed.  But a node may have been on its way
        # out for a reason of its own, waiting for a slow disk, when the crash came: that is not lost with it.
        if not life.doomed or not isinstance(error, PowerCut | StorageError):
            watching.failed(member, error)
    finally:
        member.life = None
        if not life.doomed:
            # Threads that were abandoned still run to their ends; whoever crashes or kills has other plans.
            member.disk.finish_calls()
        member.paused = False
        member.changed.unpark_all()
        watching.over(member)
        if life.node is None:
            task_status.started()
        life.ended.set()


@attrs.frozen(eq=False)
class _Started(trio.TaskStatus[Node[CommandT, ResultT]], Generic[CommandT, ResultT]):
    """What ``serve_node`` calls once it has recovered and listens."""

    life: Life[CommandT, ResultT]
    task_status: trio.TaskStatus[None]

    def started(self, value: Node[CommandT, ResultT] | None = None) -> None:
        self.life.node = value
        self.task_status.started()
