"""A log on disk, for people: what each file holds, and what the whole amounts to.

The store's own ``scan`` and ``settle`` read and judge everything, as a starting node would beside its newest whole
snapshot.  Verifying goes through the batches once more and checks every record against its own checksum, which a scan
leaves out where the batch's was right; and it reads the older snapshots, which a node falls back on.

House rule: nothing here writes, and nothing is judged twice: what ``scan`` lets pass is taken as it is.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from trio_raft._errors import LogCorrupt, RaftError, SnapshotCorrupt
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import ENTRY_KINDS, BadRecord, Entry, LogIndex, Term, decode_entries
from trio_raft._storage.files import Files, OfflineFiles
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    decode_batch_header,
    decode_description_header,
    sectors_up,
)
from trio_raft._storage.found import Found, FoundSegment, settle
from trio_raft._storage.reading import plan_entries, read_entries
from trio_raft._storage.recovery import after_last_gap, scan
from trio_raft._storage.segments import segment_path
from trio_raft._storage.snapshot_files import newest_first, point_of, snapshot_path
from trio_raft._tools.directories import NOBODY, Progress, held, names_in, no_progress, read_file, segments_in
from trio_raft._tools.snapshots import damaged_among, newest_whole
from trio_raft.abc import SnapshotPoint, StoredSnapshot, StoreIdentity

READ_BYTES = 4 << 20
"""Of entries, at a time."""


@attrs.frozen(kw_only=True)
class SegmentReport:
    """One file of the log."""

    number: int
    file: str
    """Its name."""
    size: int
    """Bytes of the file; it was made with that length."""
    used: int
    """Bytes up to the end of the last whole batch."""
    batches: int
    """Each was written and synced as one; the description at the file's beginning is not counted."""
    first_index: LogIndex | None
    """The first entry in it that counts; None: there is none, or later files or a snapshot took its place."""
    last_index: LogIndex | None


@attrs.frozen(kw_only=True)
class SnapshotMarker:
    """A record that says that a snapshot took the place of the log up to its index."""

    file: str
    offset: int
    index: LogIndex
    term: Term
    keep: bool
    """What followed in the log stayed; otherwise the whole log went."""


@attrs.frozen(kw_only=True)
class TornTail:
    """The remains of a write that a crash interrupted; the next start cuts them."""

    file: str
    offset: int
    size: int
    """Bytes up to the last one that is not zero."""


@attrs.frozen(kw_only=True)
class LogReport:
    """What a log amounts to, and what its files hold."""

    directory: Path
    cluster_id: str
    """Empty in a directory where nothing was ever promised."""
    node_id: ServerId
    incarnation: Incarnation
    term: Term
    voted_for: ServerId | None
    base: SnapshotPoint
    """The place just below the first entry; (0, 0) where nothing was ever cut."""
    last: SnapshotPoint
    """The last entry; the base if there is none."""
    terms: tuple[tuple[LogIndex, Term], ...]
    """(first index, term) of each run of entries of one term."""
    members: dict[ServerId, Incarnation]
    """By the incarnations of their data directories, as far as this one knows them."""
    members_confirmed: bool
    """All of them durably agreed on these."""
    snapshot: SnapshotPoint | None
    """Of the newest whole snapshot beside the log, which says from where on the log counts."""
    damaged_snapshots: tuple[RaftError, ...]
    """What is wrong with those newer than it, and with the older ones if they were read; the log needs none of them."""
    unread_snapshots: tuple[str, ...]
    """The files of older ones, unless it was asked for that they are verified: they may be damaged."""
    superseded: bool
    """Nothing of the log counts: the snapshot reaches beyond it, or conflicts with it at its last index (N1)."""
    segments: tuple[SegmentReport, ...]
    unused: tuple[str, ...]
    """Files that hold nothing yet."""
    markers: tuple[SnapshotMarker, ...]
    torn_tail: TornTail | None
    records_checked: int | None
    """Each against its own checksum; None: that was not asked for."""


class OpenLog:
    """A log that was judged, in a directory that is held meanwhile."""

    def __init__(
        self, files: Files, directory: Path, *, snapshot: SnapshotPoint | None, progress: Progress = no_progress
    ) -> None:
        """Read and judge it, as a node would that starts with this snapshot as its newest.

        Raises LogCorrupt, IncompatibleVersion, DirectoryMismatch, StorageError; ConfigurationError: there is no log.
        """
        self.directory = directory
        self.snapshot = snapshot
        self.damaged_snapshots: tuple[RaftError, ...] = ()
        """What is wrong with those newer than it, and with the older ones once they were checked."""
        self._unread = _older_than(snapshot, newest_first(names_in(files, directory)))
        self._files = files
        numbers = segments_in(files, directory)
        if snapshot:
            # Before a gap nothing counts, if the snapshot covers what is missing: `settle` sees to that.
            numbers = numbers[after_last_gap(numbers) :]
        self.found: Found = scan(files, directory, _Told(numbers, progress), None, memory_bytes=0)
        verdict = settle(self.found, snapshot, directory)
        self.superseded = verdict.superseded
        if verdict.superseded:
            self.found.state.entries.begin_at(verdict.base)

    @property
    def identity(self) -> StoreIdentity:
        """Whose it is."""
        active = self.found.active
        return StoreIdentity(active.cluster_id, active.node_id, active.incarnation) if active else NOBODY

    @property
    def base(self) -> SnapshotPoint:
        """The place just below the first entry."""
        return self.found.state.entries.base

    @property
    def last(self) -> SnapshotPoint:
        """The last entry, or the base."""
        entries = self.found.state.entries
        return SnapshotPoint(entries.last_index, entries.last_term)

    def entries(self, first: int, last: int) -> Iterator[Entry]:
        """These, as far as they are there, each checked.  Raises LogCorrupt, StorageError."""
        first, last = max(first, self.base.index + 1), min(last, self.last.index)
        while first <= last:
            plan = plan_entries(self.found.state.entries, LogIndex(first), LogIndex(last), max_bytes=READ_BYTES)
            found = read_entries(plan, self._files, self.directory)
            yield from found
            first = found[-1].index + 1

    def check_records(self, *, progress: Progress = no_progress) -> int:
        """Check every record against its own checksum; returns how many there are.  Raises LogCorrupt, StorageError."""
        segments = self.found.segments
        count = 0
        for done, segment in enumerate(segments, start=1):
            count += _check_records(segment, read_file(self._files, segment.path))
            progress("checking records", done, len(segments))
        return count

    def check_older_snapshots(self, *, progress: Progress = no_progress) -> None:
        """Read those older than the newest whole one, and note what is wrong with them.  Raises StorageError."""
        self.damaged_snapshots += damaged_among(self._files, self.directory, self._unread, progress=progress)
        self._unread = ()

    def report(self, *, records_checked: int | None = None) -> LogReport:
        """All that is known of it."""
        found, state, torn = self.found, self.found.state, self.found.torn
        torn_file = segment_path(self.directory, torn.number).name if torn else ""
        return LogReport(
            directory=self.directory,
            cluster_id=self.identity.cluster_id,
            node_id=self.identity.node_id,
            incarnation=self.identity.new_incarnation,
            term=state.vote.term,
            voted_for=state.vote.voted_for,
            base=self.base,
            last=self.last,
            terms=state.entries.term_runs,
            members=dict(state.bootstrap.incarnations) if state.bootstrap else {},
            members_confirmed=state.bootstrap is not None and state.bootstrap.done,
            snapshot=self.snapshot,
            damaged_snapshots=self.damaged_snapshots,
            unread_snapshots=tuple(snapshot_path(self.directory, point).name for point in self._unread),
            superseded=self.superseded,
            segments=tuple(map(self._segment, found.segments)),
            unused=tuple(segment_path(self.directory, number).name for number in found.unused),
            markers=tuple(
                SnapshotMarker(
                    file=each.path.name,
                    offset=each.offset,
                    index=each.marker.point.index,
                    term=each.marker.point.term,
                    keep=each.marker.keep,
                )
                for each in found.markers
            ),
            torn_tail=TornTail(file=torn_file, offset=torn.offset, size=torn.size) if torn else None,
            records_checked=records_checked,
        )

    def _segment(self, segment: FoundSegment) -> SegmentReport:
        number = segment.description.segment_number
        first, last = self.found.state.entries.entries_in(number) or (None, None)
        return SegmentReport(
            number=number,
            file=segment.path.name,
            size=segment.description.segment_bytes,
            used=segment.end,
            batches=segment.last_batch - segment.first_batch,
            first_index=first,
            last_index=last,
        )


def _older_than(snapshot: SnapshotPoint | None, points: Iterable[SnapshotPoint]) -> tuple[SnapshotPoint, ...]:
    if snapshot is None:
        # None is whole: all of them were read.
        return ()
    return tuple(each for each in points if (each.term, each.index) < (snapshot.term, snapshot.index))


class _Told(list[int]):
    """Numbers of segments; whoever goes through them tells how far it is."""

    def __init__(self, numbers: list[int], progress: Progress) -> None:
        super().__init__(numbers)
        self._progress = progress

    def __iter__(self) -> Iterator[int]:
        for done, number in enumerate(super().__iter__()):
            self._progress("reading the log", done, len(self))
            yield number


@contextlib.contextmanager
def open_log(files: OfflineFiles, directory: Path, *, progress: Progress = no_progress) -> Iterator[OpenLog]:
    """Hold a data directory and read its log beside its newest whole snapshot.

    Raises DirectoryInUse, LogCorrupt, SnapshotCorrupt, IncompatibleVersion, DirectoryMismatch, StorageError;
    ConfigurationError: there is no log.
    """
    with held(files, directory) as check:
        segments_in(files, directory)
        snapshot, damaged = newest_whole(files, directory, progress=progress)
        log = open_beside(files, directory, snapshot, damaged, progress=progress)
        check()
        yield log


def open_beside(
    files: Files,
    directory: Path,
    snapshot: StoredSnapshot | None,
    damaged: tuple[RaftError, ...],
    *,
    progress: Progress = no_progress,
) -> OpenLog:
    """Read and judge the log beside its newest whole snapshot; ``damaged`` is what is wrong with the newer ones.

    Raises as OpenLog does, but SnapshotCorrupt where the log only lacks what a damaged snapshot holds: then that is the
    one to mend.
    """
    try:
        log = OpenLog(files, directory, snapshot=snapshot.point if snapshot else None, progress=progress)
    except LogCorrupt as error:
        for damage in damaged:
            point = point_of(damage.path.name) if isinstance(damage, SnapshotCorrupt) else None
            if point is not None and _is_whole_beside(files, directory, point):
                raise damage from error
        raise
    log.damaged_snapshots = damaged
    return log


def _is_whole_beside(files: Files, directory: Path, point: SnapshotPoint) -> bool:
    try:
        OpenLog(files, directory, snapshot=point)
    except LogCorrupt:
        return False
    return True


def _check_records(segment: FoundSegment, data: bytes) -> int:
    """Every record in the batches that a scan let pass; returns how many.  Raises LogCorrupt."""
    description = segment.description
    header = decode_description_header(data, segment_number=description.segment_number)
    offset = sectors_up(header.length) if header else 0
    index, count = description.first_index, 0
    while offset < segment.end:
        header = decode_batch_header(data, offset, salt=description.nonce)
        if header is None:
            problem = "the file has changed while it was read"
            raise LogCorrupt(segment.path, offset=offset, index=index, problem=problem)
        start = offset + BATCH_HEADER_BYTES
        records = data[start : offset + header.length]
        try:
            decoded = decode_entries(records)
        except BadRecord as error:
            index = _index_behind(decode_entries(records[: error.offset]), index)
            problem = f"{error.reason}, although its batch is whole"
            raise LogCorrupt(segment.path, offset=start + error.offset, index=index, problem=problem) from error
        index = _index_behind(decoded, index)
        count += len(decoded)
        offset += sectors_up(header.length)
    return count


def _index_behind(entries: list[Entry], index: LogIndex) -> LogIndex:
    """The index that follows these records."""
    last = next((entry for entry in reversed(entries) if entry.kind in ENTRY_KINDS), None)
    return LogIndex(last.index + 1) if last else index
