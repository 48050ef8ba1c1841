"""Snapshots on disk, for people: what each says of itself, whether it is whole, and one copied out.

A snapshot never changes once it has its name, so it can be read while a node is at work beside it; one that the node
removes meanwhile stays readable for whoever has it open.

House rule: only ``save_newest`` writes, and only where it was told to.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import attrs

from trio_raft._errors import (
    ConfigurationError,
    IncompatibleVersion,
    RaftError,
    RecoveryRefused,
    SnapshotCorrupt,
    StorageError,
)
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._storage.files import Files, OfflineFiles, storage_errors
from trio_raft._storage.snapshot_copies import copy_snapshot
from trio_raft._storage.snapshot_files import (
    SnapshotFile,
    is_gone,
    is_partial,
    newest_first,
    snapshot_errors,
    snapshot_path,
    verify_snapshot,
)
from trio_raft._storage.snapshot_format import HEADER
from trio_raft._storage.snapshot_parsing import SnapshotParser
from trio_raft._tools.directories import Progress, is_in_use, names_of_node, no_progress
from trio_raft._tools.making import refuse_if_there
from trio_raft._tools.plain import error_line
from trio_raft.abc import SnapshotMeta, SnapshotPoint, StoredSnapshot

READING = "reading the snapshot"


@attrs.frozen(kw_only=True)
class SnapshotReport:
    """What a snapshot says of itself, and what was found if all of it was read."""

    path: Path
    size: int
    """Bytes of the file."""
    cluster_id: str
    index: LogIndex
    """Of the last entry that it covers."""
    term: Term
    state_version: int
    """``StateMachine.state_version`` of the machine that made it."""
    configuration_index: LogIndex
    """Where the configuration stands in the log; 0 for the one that the cluster was first made of."""
    voters: tuple[ServerId, ...]
    learners: tuple[ServerId, ...]
    incarnations: Mapping[ServerId, Incarnation]
    digest: str | None
    """SHA-256 of the file, hexadecimal; None: only its header was read, the rest may be damaged."""


@attrs.frozen(kw_only=True)
class SnapshotsReport:
    """The snapshots in a data directory."""

    directory: Path
    in_use: bool
    """A node is open on it: what is reported may be out of date already."""
    snapshots: tuple[SnapshotReport, ...]
    """Newest first by (term, index)."""
    damaged: tuple[RaftError, ...]
    """One error for each file that cannot be used: SnapshotCorrupt or IncompatibleVersion."""
    unfinished: tuple[str, ...]
    """Names of what was never finished; a node removes it when it starts."""


@attrs.frozen(kw_only=True)
class SavedSnapshot:
    """A snapshot that was copied out."""

    saved: SnapshotReport
    """The copy."""
    source: Path
    damaged: tuple[RaftError, ...]
    """Newer ones, which cannot be used."""


# ------------------------------------------------------------------------------------ looking


def inspect_snapshot(
    path: Path, *, verify: bool = False, files: Files, progress: Progress = no_progress
) -> SnapshotReport:
    """What the header of a snapshot's file says; ``verify`` reads all of it.

    Raises SnapshotCorrupt, IncompatibleVersion, StorageError; ConfigurationError: there is no such file.
    """
    if verify:
        return report_of(whole_snapshot(path, files=files, progress=progress))
    with _missing_file(path), SnapshotFile(files, path) as file:
        meta, size = _read_header(file), file.size()
    return report_of(StoredSnapshot(meta, size, "", str(path)))


def whole_snapshot(path: Path, *, files: Files, progress: Progress = no_progress) -> StoredSnapshot:
    """Read all of a snapshot's file.

    Raises SnapshotCorrupt, IncompatibleVersion, StorageError; ConfigurationError: there is no such file.
    """
    with _missing_file(path):
        return verify_snapshot(path, progress=partial(progress, READING), files=files)


def inspect_snapshots(
    directory: Path, *, verify: bool = False, files: OfflineFiles, progress: Progress = no_progress
) -> SnapshotsReport:
    """The snapshots in a data directory, whether or not a node is open on it; ``verify`` reads all of each.

    What is wrong with one is in the report.  Raises StorageError, and ConfigurationError: there is no such directory,
    or it is no node's.
    """
    names = names_of_node(files, directory)
    reports: list[SnapshotReport] = []
    damaged: list[RaftError] = []
    for point in newest_first(names):
        path = snapshot_path(directory, point)
        try:
            report = inspect_snapshot(path, verify=verify, files=files, progress=progress)
            _require_point(path, SnapshotPoint(report.index, report.term), point)
            reports.append(report)
        except (SnapshotCorrupt, IncompatibleVersion) as error:
            damaged.append(error)
        except ConfigurationError:
            continue  # The node that is at work here has removed it.
    return SnapshotsReport(
        directory=directory,
        in_use=is_in_use(files, directory),
        snapshots=tuple(reports),
        damaged=tuple(damaged),
        unfinished=tuple(sorted(name for name in names if is_partial(name))),
    )


def newest_whole(
    files: Files, directory: Path, *, cluster_id: str | None = None, progress: Progress = no_progress
) -> tuple[StoredSnapshot | None, tuple[RaftError, ...]]:
    """The newest snapshot that is whole, all of it read; and what is wrong with those that are newer.

    ``cluster_id``: whose it has to be.  Raises DirectoryMismatch, StorageError; ConfigurationError: there is no such
    directory, or it is no node's.
    """
    damaged: list[RaftError] = []
    for point in newest_first(names_of_node(files, directory)):
        try:
            return _whole_at(files, directory, point, cluster_id=cluster_id, progress=progress), tuple(damaged)
        except (SnapshotCorrupt, IncompatibleVersion) as error:
            damaged.append(error)
        except StorageError as error:
            if not is_gone(error):
                raise
    return None, tuple(damaged)


def damaged_among(
    files: Files, directory: Path, points: Iterable[SnapshotPoint], *, progress: Progress = no_progress
) -> tuple[RaftError, ...]:
    """What is wrong with these snapshots of a directory that is held, all of each read.  Raises StorageError."""
    damaged: list[RaftError] = []
    for point in points:
        try:
            _whole_at(files, directory, point, progress=progress)
        except (SnapshotCorrupt, IncompatibleVersion) as error:
            damaged.append(error)
    return tuple(damaged)


def _whole_at(
    files: Files, directory: Path, point: SnapshotPoint, *, cluster_id: str | None = None, progress: Progress
) -> StoredSnapshot:
    path = snapshot_path(directory, point)
    found = verify_snapshot(path, cluster_id=cluster_id, progress=partial(progress, READING), files=files)
    _require_point(path, found.point, point)
    return found


def report_of(snapshot: StoredSnapshot) -> SnapshotReport:
    """The same, laid out for people."""
    meta = snapshot.meta
    return SnapshotReport(
        path=Path(snapshot.name),
        size=snapshot.size,
        cluster_id=meta.cluster_id,
        index=meta.point.index,
        term=meta.point.term,
        state_version=meta.state_version,
        configuration_index=meta.configuration.index,
        voters=meta.configuration.voters,
        learners=meta.configuration.learners,
        incarnations=meta.configuration.incarnations,
        digest=snapshot.digest or None,
    )


def _read_header(file: SnapshotFile) -> SnapshotMeta:
    parser = SnapshotParser()
    with snapshot_errors(file.path):
        fields = file.read(size=HEADER.size, offset=0)
        parser.feed(fields)
        if len(fields) == HEADER.size:
            _, _, length, _ = HEADER.unpack(fields)
            parser.feed(file.read(size=length, offset=HEADER.size))
        if parser.meta is None:
            parser.check_end()
            raise AssertionError(f"{file.path} came to its end without a header")
    return parser.meta


def _require_point(path: Path, found: SnapshotPoint, expected: SnapshotPoint) -> None:
    if found != expected:
        problem = f"its header says index {found.index}, term {found.term}, unlike its name"
        raise SnapshotCorrupt(path, offset=0, problem=problem)


@contextlib.contextmanager
def _missing_file(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        if is_gone(error):
            raise ConfigurationError("", f"{path} does not exist") from error
        raise


# ------------------------------------------------------------------------------------ saving


def save_newest(
    directory: Path, to: Path, *, replace: bool = False, files: Files, progress: Progress = no_progress
) -> SavedSnapshot:
    """Copy the newest whole snapshot of a data directory out, whether or not a node is open on it.

    The copy is checked as it is made, and has its name only once it is durable.  Raises RecoveryRefused (no snapshot is
    whole; ``to`` exists and is not to be replaced), StorageFull, StorageError; ConfigurationError: there is no such
    directory, or it is no node's.  After an error nothing is left behind, and ``to`` is what it was.
    """
    refuse_if_there(files, to, replace=replace)
    newest, damaged = newest_whole(files, directory, progress=progress)
    if newest is None:
        raise RecoveryRefused("; ".join([f"{directory} holds no whole snapshot", *map(error_line, damaged)]))
    source = Path(newest.name)
    # Under a third name first: a copy never takes the place of anything, renaming does.
    copied = to.with_name(f"{to.name}.new")
    refuse_if_there(files, copied)
    copy = copy_snapshot(source, copied, progress=partial(progress, "copying the snapshot"), files=files)
    try:
        with storage_errors(to, "renaming"):
            files.rename(copied, to)
            files.sync_directory(to.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(copied)
        raise
    return SavedSnapshot(saved=attrs.evolve(report_of(copy), path=to), source=source, damaged=damaged)
