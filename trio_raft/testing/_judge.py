"""What a simulated cluster is judged by while it runs, and what excuses a member.

Every life is watched by the invariants; every error by which a node ends must have been injected, or be expected.
What cannot be excused is recorded, once, and the block is cancelled.

House rule: only what was done to a member excuses it, and only while it can still be the reason: an error of the disk
in the same life, a flipped bit where it was flipped, and nowhere else.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trio_raft._environment import Clock
from trio_raft._errors import LogCorrupt, SnapshotCorrupt, StorageError, StorageFull, error_text
from trio_raft._events import Event, LeaderGone
from trio_raft._messages import Message
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotIgnored
from trio_raft._storage.format import MAX_DESCRIPTION_BYTES
from trio_raft._storage.snapshot_format import MAX_META_BYTES, PIECE_BYTES
from trio_raft.testing._durable import DurableLog
from trio_raft.testing._failures import InvariantViolation, NodeFailed, SimulationFailed
from trio_raft.testing._invariants import Invariants
from trio_raft.testing._member import DIRECTORY, Life, Member
from trio_raft.testing._states import MakeMachine
from trio_raft.testing._trace import Trace
from trio_raft.testing._wire import Watcher

SWEEP_SECONDS = 1.0
"""Virtual seconds between two looks at the lengths of queues and the number of tasks."""

EVERYTHING = 1 << 62
"""Behind the end of any file."""

SPARE_BYTES = 1024
"""What a part's own header, and rounding up to sectors, may add to it."""

Observer = Callable[[str, Life[Any, Any], Server], object]
"""(member, life, server), before anything of the life runs."""


class Judge:
    """Of one run; told of every life by ``_member``."""

    def __init__(
        self,
        seed: int | str,
        members: Mapping[str, Member[Any, Any]],
        *,
        make_machine: MakeMachine,
        clock: Clock,
        trace: Trace | None,
    ) -> None:
        self._seed = seed
        self._members = members
        self._clock = clock
        self.trace = trace or Trace(now=clock.now)
        self.invariants = Invariants(
            seed, fault_explains=self._explains_event, trace=self.trace, now=clock.now, make_machine=make_machine
        )
        self.invariants.on_violation = self._note_violation
        self.on_failure: Callable[[], None] = _nothing
        """Called once, when the first failure is recorded."""
        self.refuses: Callable[[str, str], bool] = _nowhere
        """Does the network refuse a dial of the first of two members to the second?"""
        self.failure: SimulationFailed | None = None
        self.expected: dict[str, tuple[type[BaseException], ...]] = {}
        """Errors by which a member's node may end."""
        self.observers: list[Observer] = []
        self.watchers: list[Watcher] = []

    def fail(self, failure: SimulationFailed) -> None:
        """Record what must not be.  What comes after it may only follow from it, and is dropped."""
        if self.failure is None:
            self.failure = failure
            self.on_failure()

    def _note_violation(self) -> None:
        try:
            self.invariants.raise_if_violated()
        except InvariantViolation as violation:
            self.fail(violation)

    async def sweep(self) -> None:
        """Look for ever, from time to time, at what no single change shows."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            self.invariants.sweep()

    # ------------------------------------------------------------------------------------ lives, messages

    def begins(self, member: Member[Any, Any], life: Life[Any, Any]) -> None:
        """A life is about to be opened."""
        self.invariants.watch_machine(member.id, life.machine)

    def recovered(self, member: Member[Any, Any], life: Life[Any, Any], server: Server) -> None:
        """Its log was read, and nothing of it runs yet."""
        life.server = server
        self.invariants.observe(member.id, DurableLog(member.disk, DIRECTORY))(server)
        for observer in self.observers:
            observer(member.id, life, server)

    def failed(self, member: Member[Any, Any], error: BaseException) -> None:
        """It ended by itself, or could not begin."""
        self.trace.note(member.id, f"fails: {error_text(error)}")
        if not self._explains(member, error):
            self.fail(NodeFailed(self._seed, member.id, error))

    def over(self, member: Member[Any, Any]) -> None:
        """All of its tasks have ended."""
        self.invariants.closed(member.id)

    def watch_send(self, sender: str, receiver: str, message: Message) -> None:
        """A message is about to leave."""
        self.invariants.watch_send(sender, message, receiver)
        for watcher in self.watchers:
            watcher(sender, receiver, message)

    # ------------------------------------------------------------------------------------ excuses

    def _explains(self, member: Member[Any, Any], error: BaseException) -> bool:
        """Was something injected that makes this failure right?"""
        expected = isinstance(error, self.expected.get(member.id, ()))
        if isinstance(error, LogCorrupt | SnapshotCorrupt) and (expected or flip_explains(member, error)):
            member.excuse = member.excuse or "its disk was damaged"
            return True
        return expected or (isinstance(error, StorageError | StorageFull) and member.disk_failed_lately())

    def _explains_event(self, node_id: str, event: Event) -> bool:
        """Only a peer whose disk was tampered with makes a leader report what no peer should do.

        And where dials are refused, a member must take a leader that lives for dead: by injection, or since its node
        has failed and listens no more, though it has yet to say that it is closed.
        """
        if isinstance(event, LeaderGone):
            return self.refuses(node_id, event.leader)
        if isinstance(event, SnapshotIgnored):
            path = DIRECTORY / Path(event.path).name
            return self._members[node_id].disk.is_hit(path, start=0, end=EVERYTHING)
        peer = self._members.get(getattr(event, "peer", ""))
        return peer is not None and bool(peer.excuse)


def flip_explains(member: Member[Any, Any], error: LogCorrupt | SnapshotCorrupt) -> bool:
    """Was a bit flipped in the part of the file that the error complains of?

    The part begins where the error says; a damaged length may make a snapshot seem to end early, and then that is its
    end.  How long a part can be, the format and the settings say.
    """
    disk, path, start = member.disk, error.path, error.offset
    if isinstance(error, SnapshotCorrupt):
        if disk.exists(path) and start == len(disk.contents(path)):
            return disk.is_hit(path, start=0, end=EVERYTHING)
        return disk.is_hit(path, start=start, end=start + max(MAX_META_BYTES, PIECE_BYTES) + SPARE_BYTES)
    longest = max(member.settings.limits.largest_journal_batch, MAX_DESCRIPTION_BYTES)
    return disk.is_hit(path, start=start, end=start + longest + SPARE_BYTES)


def _nowhere(source: str, target: str) -> bool:  # noqa: ARG001
    """Until a cluster says otherwise."""
    return False


def _nothing() -> None:
    """Until a cluster listens."""
