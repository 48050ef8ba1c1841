"""Mistakes about snapshots: what they hold, when they count, what they replace, and what is cut behind them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from trio_raft._apply import Applier
from trio_raft._errors import RaftError, SnapshotCorrupt
from trio_raft._messages import InstallSnapshot, InstallSnapshotReply, Message, ServerId, SnapshotStatus
from trio_raft._receiving import SnapshotService
from trio_raft._records import LogIndex, Term
from trio_raft._rules import install_snapshot
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.install_snapshot import Installed, Verdict
from trio_raft._rules.log import Log
from trio_raft._rules.state import State
from trio_raft._sending import _Sending  # pyright: ignore[reportPrivateUsage]
from trio_raft._snapshots import ServerSnapshots
from trio_raft._storage import found, snapshots
from trio_raft._storage.entry_map import EntryMap
from trio_raft._storage.format import NO_VOTE
from trio_raft._storage.old_segments import OldSegments
from trio_raft._storage.reconcile import Reconciled
from trio_raft._storage.recovery import _Scanner  # pyright: ignore[reportPrivateUsage]
from trio_raft._storage.snapshot_files import GrowingFile, newest_first, snapshot_path
from trio_raft._storage.snapshots import _Receiver  # pyright: ignore[reportPrivateUsage]
from trio_raft._taking import Snapshotter
from trio_raft.abc import SnapshotMeta, SnapshotPoint, StoredSnapshot
from trio_raft.testing._mutants._mutant import Mutant, fails_by, mutant, replaced

# ------------------------------------------------------------------------------------ taking


def _cut_before_it_is_durable(sound: Any) -> Any:
    async def write(self: Snapshotter, meta: SnapshotMeta, pieces: Iterator[bytes]) -> StoredSnapshot:
        server: Any = self._server  # pyright: ignore[reportPrivateUsage]
        up_to = LogIndex(meta.point.index - server.config.snapshots.trailing_entries)
        if up_to > server.state.log.base_index:
            server.state.log.compact(up_to)
            server.journal.compact(up_to)
        stored: StoredSnapshot = await sound(self, meta, pieces)
        return stored

    return write


def _label_with_commit_index(sound: Any) -> Any:
    def meta(self: Snapshotter) -> SnapshotMeta:
        state = self._server.state  # pyright: ignore[reportPrivateUsage]
        labelled: SnapshotMeta = sound(self)
        point = SnapshotPoint(state.commit_index, state.log.term_at(state.commit_index))
        return attrs.evolve(labelled, point=point)

    return meta


def _capture_when_it_is_written(sound: Any) -> Any:
    """The state is not looked at before the file is open; commands are applied meanwhile."""

    async def write(self: Snapshotter, meta: SnapshotMeta, _: Iterator[bytes]) -> StoredSnapshot:
        def late() -> Iterator[bytes]:
            yield from self._machine.snapshot()  # pyright: ignore[reportPrivateUsage]

        stored: StoredSnapshot = await sound(self, meta, late())
        return stored

    return write


def _publish_before_the_sync(self: GrowingFile, target: Any) -> None:
    with self._work("publishing", needed=0):  # pyright: ignore[reportPrivateUsage]
        self._files.rename(self.path, target)  # pyright: ignore[reportPrivateUsage]
        self._is_partial = False
        self._files.sync_directory(target.parent)  # pyright: ignore[reportPrivateUsage]
        self._sync()  # pyright: ignore[reportPrivateUsage]
    self.close()


def _oldest_first(names: list[str]) -> list[SnapshotPoint]:
    return newest_first(names)[::-1]


# ------------------------------------------------------------------------------------ receiving, installing


def _keep_a_conflicting_log(sound: Any) -> Any:
    def install(state: State, *, index: LogIndex, term: Term, configuration: Configuration) -> Installed | None:
        log = state.log
        if index <= state.commit_index or index > log.last_index or log.matches(index, term):
            installed: Installed | None = sound(state, index=index, term=term, configuration=configuration)
            return installed
        log.compact(index)
        state.raise_commit(index)
        return Installed(kept=True)

    return install


def _install_at_once(_: SnapshotService) -> Callable[..., Any]:
    async def already(self: SnapshotService, request: InstallSnapshot) -> InstallSnapshotReply:
        """Whatever the disk has of it."""
        return self._reply(SnapshotStatus.INSTALLED, offset=request.total)  # pyright: ignore[reportPrivateUsage]

    return already


def _finishing_is_installed(sound: Any) -> Any:
    async def digest(self: _Sending, message: Message, sent_at: float) -> InstallSnapshotReply | None:
        if isinstance(message, InstallSnapshotReply) and message.status is SnapshotStatus.FINISHING:
            message = attrs.evolve(message, status=SnapshotStatus.INSTALLED)
        reply: InstallSnapshotReply | None = await sound(self, message, sent_at)
        return reply

    return digest


async def _skip_the_restore(self: Applier[Any, Any]) -> None:
    server: Any = self._server  # pyright: ignore[reportPrivateUsage]
    server.note_restored(server.snapshots.newest.point.index)


def _restore_in_memory_only(sound: Any) -> Any:
    """The log in memory gives way, and the disk is not told."""

    def install(self: ServerSnapshots, snapshot: StoredSnapshot) -> None:
        journal: Any = self._journal  # pyright: ignore[reportPrivateUsage]
        queue = journal.save_snapshot

        def forget(_: SnapshotPoint, *, keep: bool) -> int:  # noqa: ARG001
            position: int = journal.position
            return position

        journal.save_snapshot = forget
        try:
            sound(self, snapshot)
        finally:
            journal.save_snapshot = queue

    return install


def _take_anyway(sound: Any) -> Any:
    def accept(state: State, request: InstallSnapshot) -> Verdict:
        sound(state, request)
        return Verdict.TAKE

    return accept


def _install_anyway(sound: Any) -> Any:
    def install(state: State, *, index: LogIndex, term: Term, configuration: Configuration) -> Installed | None:
        installed: Installed | None = sound(state, index=index, term=term, configuration=configuration)
        return installed or Installed(kept=True)

    return install


@contextmanager
def _not_asking_what_is_there() -> Iterator[None]:
    """Neither as the offer comes, nor as the last byte does, nor in the step in which the log gives way."""
    with (
        mutant("", "", "", install_snapshot, "accept", _take_anyway).applied(),
        mutant("", "", "", install_snapshot, "install", _install_anyway).applied(),
        mutant("", "", "", SnapshotService, "_is_covered", replaced(_never_covered)).applied(),
    ):
        yield


def _never_covered(_: SnapshotService) -> bool:
    return False


def _go_on_with_another(sound: Any) -> Any:
    """What has arrived is taken for the beginning of whatever is offered next."""

    async def take(self: SnapshotService, request: InstallSnapshot, key: Any) -> InstallSnapshotReply:
        if self._receiver is not None:  # pyright: ignore[reportPrivateUsage]
            self._key = key  # pyright: ignore[reportPrivateUsage]
        reply: InstallSnapshotReply = await sound(self, request, key)
        return reply

    return take


def _write_unchecked(self: _Receiver, data: bytes) -> None:
    if self._problem is None:  # pyright: ignore[reportPrivateUsage]
        try:
            self._check(data)  # pyright: ignore[reportPrivateUsage]
        except RaftError as error:
            self._problem = error  # pyright: ignore[reportPrivateUsage]
    self._file.put(data)  # pyright: ignore[reportPrivateUsage]
    self._received += len(data)  # pyright: ignore[reportPrivateUsage]


def _finish_unchecked(self: _Receiver) -> StoredSnapshot:
    meta = self._parser.meta  # pyright: ignore[reportPrivateUsage]
    if meta is None:
        raise SnapshotCorrupt(self._file.path, offset=0, problem="not even a header has come")  # pyright: ignore[reportPrivateUsage]
    path = snapshot_path(self._file.path.parent, meta.point)  # pyright: ignore[reportPrivateUsage]
    snapshot = StoredSnapshot(meta, self._received, self._digest, str(path))  # pyright: ignore[reportPrivateUsage]
    self._publish(self._file, snapshot)  # pyright: ignore[reportPrivateUsage]
    return snapshot


@contextmanager
def _bytes_believed() -> Iterator[None]:
    with (
        mutant("", "", "", SnapshotService, "_take", _go_on_with_another).applied(),
        mutant("", "", "", _Receiver, "write", replaced(_write_unchecked)).applied(),
        mutant("", "", "", _Receiver, "finish", replaced(_finish_unchecked)).applied(),
    ):
        yield


# ------------------------------------------------------------------------------------ cutting, recovering


def _do_not_pin(_self: ServerSnapshots, _follower: ServerId, _index: LogIndex) -> None:
    """The log is cut as if nobody waited for it."""


def _forget_the_base_term(sound: Any) -> Any:
    def compact(self: Log, up_to: LogIndex) -> None:
        sound(self, up_to)
        if self.base_index == up_to:
            self.base_term = Term(0)
            self._run_terms[0] = Term(0)  # pyright: ignore[reportPrivateUsage]

    return compact


def _forget_the_vote(sound: Any) -> Any:
    """What stood in the segments that are gone is gone: the descriptions are not asked for the vote."""

    def take_over(self: Any, description: Any) -> None:
        before = self.found.state.vote
        sound(self, description)
        if self.found.active is None and before == NO_VOTE:
            self.found.state.vote = attrs.evolve(self.found.state.vote, voted_for=None)

    return take_over


def _give_up_all_but_the_active(sound: Any) -> Any:
    def give_up(self: OldSegments, entries: EntryMap, up_to: LogIndex, *, active: int) -> None:  # noqa: ARG001
        sound(self, entries, entries.last_index, active=active)

    return give_up


def _log_before_snapshot(sound: Any) -> Any:
    """A start believes the log wherever it reaches as far as the snapshot."""

    def reconcile(snapshot: SnapshotPoint | None, *, base: SnapshotPoint, base_is_known: bool, term_at: Any) -> Any:
        verdict: Reconciled = sound(snapshot, base=base, base_is_known=base_is_known, term_at=term_at)
        return attrs.evolve(verdict, superseded=False, base=base) if verdict.superseded and base_is_known else verdict

    return reconcile


@contextmanager
def _retaining_the_oldest() -> Iterator[None]:
    with mutant("", "", "", snapshots, "newest_first", replaced(_oldest_first)).applied():
        yield


SNAPSHOTS = (
    mutant(
        "log-cut-too-soon",
        "S7",
        "the log is cut before the snapshot is durable",
        Snapshotter,
        "_write",
        _cut_before_it_is_durable,
    ),
    mutant(
        "snapshot-labelled-later",
        "S8",
        "a snapshot says that it covers all that is committed",
        Snapshotter,
        "_meta",
        _label_with_commit_index,
    ),
    mutant(
        "snapshot-captured-late",
        "S8",
        "the state is captured while later commands are applied",
        Snapshotter,
        "_write",
        _capture_when_it_is_written,
    ),
    mutant(
        "snapshot-named-before-sync",
        "S7",
        "a snapshot gets its name before its bytes are synced",
        GrowingFile,
        "publish",
        replaced(_publish_before_the_sync),
    ),
    Mutant("oldest-snapshots-kept", "N4", "the oldest snapshots are kept, not the newest", _retaining_the_oldest),
    mutant(
        "conflicting-log-kept",
        "N1",
        "an install keeps a log that has another entry where the snapshot ends",
        install_snapshot,
        "install",
        _keep_a_conflicting_log,
    ),
    Mutant(
        "installed-again",
        "N2",
        "a snapshot is taken and installed though all that it covers is committed here",
        _not_asking_what_is_there,
    ),
    Mutant(
        "transfers-mixed",
        "N5",
        "a transfer goes on with the bytes of another, and nothing is compared at its end",
        _bytes_believed,
    ),
    mutant(
        "installed-before-durable",
        "N8",
        "a snapshot is acknowledged before the disk has its marker",
        SnapshotService,
        "_already",
        _install_at_once,
    ),
    mutant(
        "finishing-counts",
        "R6",
        "the leader takes a snapshot that has arrived for one that is installed",
        _Sending,
        "_digest",
        _finishing_is_installed,
    ),
    mutant(
        "install-not-recorded",
        "N8",
        "an install changes the log in memory, and leaves no marker on the disk",
        ServerSnapshots,
        "install",
        _restore_in_memory_only,
    ),
    mutant(
        "restore-skipped",
        "N3",
        "after an install the state machine goes on with what it had",
        Applier,
        "_restore",
        replaced(_skip_the_restore),
    ),
    mutant(
        "pin-ignored", "N7", "the log is cut while a snapshot travels", ServerSnapshots, "pin", replaced(_do_not_pin)
    ),
    mutant("base-term-is-zero", "R9", "the term of a log's base is taken for 0", Log, "compact", _forget_the_base_term),
    mutant(
        "vote-lost-with-segments",
        "E1",
        "a vote in a segment that was removed is forgotten",
        _Scanner,
        "_take_over",
        _forget_the_vote,
        also={
            fails_by("LogCorrupt"): "the next segment's description contradicts what was forgotten",
            "Every disk holds what is committed": "a start would refuse that very contradiction",
        },
    ),
    mutant(
        "segments-removed-too-soon",
        "S6",
        "segments go that hold entries which no snapshot covers",
        OldSegments,
        "give_up",
        _give_up_all_but_the_active,
    ),
    mutant(
        "log-outlives-snapshot",
        "N1",
        "a start keeps a log that the snapshot has replaced",
        found,
        "reconcile",
        _log_before_snapshot,
    ),
)
