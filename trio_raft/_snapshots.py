"""What one server knows of its snapshots: the newest, those under way, and how far the log may be cut.

A snapshot is *visible* once its file is whole and durable (S7).  Then, and in this order: it is noted here, the log in
memory is cut, and the same cut is queued for the log on disk.  So neither ever lacks what only a snapshot holds that
might be lost.

The log is cut some way behind the newest snapshot (``trailing_entries``): a server that was away for a while is served
from the log.  While a snapshot is on its way to a follower, the entries that it will need next are *pinned* (N7): else
the log would be cut again meanwhile, and the follower would need another snapshot, for ever.

House rules: changes are synchronous, and monotonic: the newest snapshot and the state to restore only move forward.
Nothing that the state machine has yet to apply is cut, whatever the newest snapshot covers.  A large cut is made in
steps, one in each turn of the loop (K1), by the task that takes snapshots.
"""

from collections.abc import Callable

import attrs
import trio

from trio_raft._config import Snapshots
from trio_raft._environment import Lane
from trio_raft._errors import RaftError, RaftInternalError
from trio_raft._event_hub import EventHub
from trio_raft._journal import Journal
from trio_raft._messages import ServerId
from trio_raft._records import LogIndex
from trio_raft._rules import install_snapshot
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.state import State
from trio_raft._rules.tail import AT_ONCE
from trio_raft._snapshot_events import LogCompacted, SnapshotFailed, SnapshotInstalled, SnapshotTaken
from trio_raft._snapshot_work import SnapshotWork, why_it_failed
from trio_raft.abc import StoredSnapshot

CUT_ENTRIES = AT_ONCE
"""Entries that leave the log in one turn of the loop."""

PROGRESS_INTERVAL = 1.0
"""Seconds between two events about one transfer."""


@attrs.define(eq=False)
class Transfer:
    """A snapshot on its way, as statistics and events show it."""

    index: LogIndex
    total: int
    """Bytes."""
    done: int
    """Bytes that the receiver holds."""
    began: float
    """Seconds on this server's clock."""
    _done_at_begin: int = attrs.field(init=False)
    _reported: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._done_at_begin = self.done
        self._reported = self.began

    def bytes_per_second(self, now: float) -> float:
        """On average, since this transfer began."""
        return (self.done - self._done_at_begin) / (now - self.began) if now > self.began else 0.0

    def seconds_left(self, now: float) -> float | None:
        """Estimated; None while nothing is known."""
        rate = self.bytes_per_second(now)
        return (self.total - self.done) / rate if rate else None

    def report_due(self, now: float) -> bool:
        """Is it time for another event?  If so, the next is due ``PROGRESS_INTERVAL`` later."""
        due = now >= self._reported + PROGRESS_INTERVAL
        if due:
            self._reported = now
        return due


def configuration_of(snapshot: StoredSnapshot) -> Configuration:
    """The configuration that was in force at the snapshot's last entry (N6)."""
    saved = snapshot.meta.configuration
    return Configuration(voters=saved.voters, learners=saved.learners, index=saved.index)


class ServerSnapshots:
    """The snapshots of one server."""

    def __init__(
        self,
        work: SnapshotWork,
        settings: Snapshots,
        state: State,
        *,
        newest: StoredSnapshot | None,
        restore_index: LogIndex,
        supported: bool,
        journal: Journal,
        events: EventHub,
    ) -> None:
        self.work = work
        self.settings = settings
        self.supported = supported
        """Does the state machine define ``snapshot`` and ``restore``?"""
        self.newest = newest
        """The newest durable one."""
        self.restore_index = restore_index
        """The state machine has to be at least here before it applies anything: where it is behind, the newest
        snapshot is to be restored first."""
        self.is_finishing = False
        """A received snapshot is being made visible; ``newest`` is not it yet."""
        self.marker_position = 0
        """Journal position of the newest snapshot's marker, if it was installed in this life."""
        self.taken = 0
        self.installed = 0
        self.pins: dict[ServerId, LogIndex] = {}
        """Followers that are being brought up by a snapshot, and the index of that snapshot."""
        self.sending: dict[ServerId, Transfer] = {}
        self.receiving: Transfer | None = None
        self.entries_since = 0
        """Applied since the newest was taken or installed; so are ``bytes_since``."""
        self.bytes_since = 0
        self.due_lot = trio.lowlevel.ParkingLot()
        """Where the task that takes snapshots waits for its time."""
        self.on_installed: Callable[[], None] = lambda: None
        """Called in the step in which a snapshot took the place of the log, and is to be restored."""
        self._uncut = False
        """Is a cut under way, with more to come?"""
        self._state = state
        self._journal = journal
        self._events = events

    @property
    def kept(self) -> int:
        """How many of the newest the store has to keep: one more while it has one that is not noted here yet."""
        return self.settings.keep + (1 if self.is_finishing else 0)

    @property
    def restore_due(self) -> bool:
        """Is the machine's state older than anything that the log can bring forward?"""
        return self._state.last_applied < self.restore_index

    @property
    def due(self) -> bool:
        """Have enough entries or bytes been applied for the next one?"""
        settings = self.settings
        return (0 < settings.threshold_entries <= self.entries_since) or (
            0 < settings.threshold_bytes <= self.bytes_since
        )

    def note_applied(self, entries: int, size: int) -> None:
        """So many entries and bytes were applied."""
        self.entries_since += entries
        self.bytes_since += size
        if self.due_lot and self.due:
            self.due_lot.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def note_taken(self, snapshot: StoredSnapshot, seconds: float) -> None:
        """A snapshot of this server's own state is visible."""
        self.taken += 1
        self._events.publish(SnapshotTaken(snapshot.point.index, snapshot.point.term, snapshot.size, seconds))
        self._adopt(snapshot)

    @trio.lowlevel.enable_ki_protection
    def install(self, snapshot: StoredSnapshot) -> None:
        """A snapshot from a leader is visible: in one step it takes the place of the log that it covers (N8).

        If the commit index came as far meanwhile the log stays as it is (N2); the snapshot is one of this server's all
        the same.  Whose term it is by now does not matter: what a snapshot covers is committed for good.  Raises
        AssertionError unless this server is a follower or has committed as far, and where the snapshot contradicts
        what is committed here.
        """
        point, configuration = snapshot.point, configuration_of(snapshot)
        installed = install_snapshot.install(
            self._state, index=point.index, term=point.term, configuration=configuration
        )
        self.is_finishing = False
        if installed is None:
            self._adopt(snapshot)
            return
        self.marker_position = self._journal.save_snapshot(point, keep=installed.kept)
        self.installed += 1
        self.newest = snapshot
        self.entries_since = self.bytes_since = 0
        self.restore_index = point.index
        self._events.publish(SnapshotInstalled(point.index, point.term, snapshot.size, kept_log=installed.kept))
        self.on_installed()

    def _adopt(self, snapshot: StoredSnapshot) -> None:
        """It is the newest in the store unless there is a newer one.  One of the same point took that one's place."""
        newest = self.newest
        if newest is None or newest.point.index <= snapshot.point.index:
            self.newest = snapshot
            self.compact()

    @trio.lowlevel.enable_ki_protection
    def compact(self) -> bool:
        """Cut the log, by one step, as far as the newest snapshot and what is pinned allow.  Is there more to cut?"""
        log, target, began = self._state.log, self._cut_to(), self._uncut
        if target is not None:
            log.compact(LogIndex(min(target, log.base_index + CUT_ENTRIES)))
        self._uncut = target is not None and log.base_index < target
        if self._uncut:
            self.due_lot.unpark_all()
        elif began or target is not None:
            self._journal.compact(log.base_index)
            self._events.publish(LogCompacted(log.first_index))
        return self._uncut

    def _cut_to(self) -> LogIndex | None:
        if self.newest is None:
            return None
        log, settings = self._state.log, self.settings
        lowest = LogIndex(max(log.last_index - settings.pinned_entries, 0))
        # A snapshot that came too late to be installed may be ahead of what was applied here.
        reached = max(self._state.last_applied, self.restore_index)
        return install_snapshot.compactable(
            min(self.newest.point.index, reached),
            trailing=settings.trailing_entries,
            pins=[max(pin, lowest) for pin in self.pins.values()],
            base_index=log.base_index,
        )

    @property
    def cut_due(self) -> bool:
        """Has a cut begun that has more steps to come?"""
        return self._uncut

    async def retain(self) -> None:
        """Remove old snapshots from the store.  A failure is an event: what is too much on the disk harms nothing."""
        try:
            await self.work.run(Lane.SNAPSHOT, self.work.store.retain, self.kept)
        except RaftInternalError:
            raise
        except RaftError as error:
            self._events.publish(SnapshotFailed(why_it_failed(error)))

    @trio.lowlevel.enable_ki_protection
    def pin(self, follower: ServerId, index: LogIndex) -> None:
        """Keep the entries above ``index`` for this follower."""
        self.pins[follower] = index

    @trio.lowlevel.enable_ki_protection
    def unpin(self, follower: ServerId) -> None:
        """The follower needs them no more, or is gone.  Idempotent."""
        if self.pins.pop(follower, None) is not None:
            self.compact()
