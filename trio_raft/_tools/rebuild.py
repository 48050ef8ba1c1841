"""A new cluster of one node, from what survived of an old one.

What is written is what a node of that cluster would have written itself, by the same stores: an empty log is begun with
a new identity; it is told a term above any that was seen, and that its first start is over with itself as the only
member; the survivor's snapshot follows, with its header for the new cluster, then the survivor's entries.

New are the cluster id, the incarnation and the term.  So no server of the old cluster shakes hands with it (W2), and no
promise that an old one gave is held against it.

House rule: the survivor is read and never changed; the new directory has its name only once it is whole and audited.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import attrs

from trio_raft._config import Limits, split_address
from trio_raft._environment import seeded_by_the_system
from trio_raft._errors import ConfigurationError, RecoveryRefused
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft._storage.files import OfflineFiles
from trio_raft._storage.format import MAX_DESCRIPTION_BYTES
from trio_raft._storage.snapshot_copies import rewrite_snapshot
from trio_raft._storage.snapshot_files import snapshot_path
from trio_raft._storage.wal import FileLogStore
from trio_raft._tools.audit import write_audit
from trio_raft._tools.directories import Progress, no_progress
from trio_raft._tools.log import OpenLog
from trio_raft._tools.making import new_directory, refuse_if_there
from trio_raft._tools.snapshots import SnapshotReport, report_of, whole_snapshot
from trio_raft._tools.survey import Opened, Survey, Survivor, look_into, opened_all, propose
from trio_raft.abc import (
    Append,
    JournalItem,
    SaveBootstrap,
    SaveSnapshot,
    SaveVote,
    SnapshotConfiguration,
    SnapshotPoint,
    StoredSnapshot,
    StoreIdentity,
)

COPY_BYTES = 4 << 20
"""Of entries, in one write; one longer entry goes alone."""

LOSS = (
    "Entries after the survivor's last one may be lost, also such that clients were told of; entries in it that were "
    "never committed become committed; all members of the old cluster must stay down for ever"
)
"""What whoever recovers accepts."""

NOT_IN_SNAPSHOT = (
    "What came after the snapshot is not in it, also what clients were told of; all members of the old cluster must "
    "stay down for ever"
)
"""What whoever restores a snapshot accepts."""


@attrs.frozen(kw_only=True)
class Target:
    """The node to make."""

    directory: Path
    """To be created; its parent must exist."""
    node_id: str
    cluster_id: str
    """None that an old member belongs to."""
    address: str = ""
    """``host:port`` at which it will be reached; noted in the audit, and checked.  May be empty."""


@attrs.frozen(kw_only=True)
class NewCluster:
    """The directory that was made."""

    directory: Path
    cluster_id: str
    node_id: ServerId
    incarnation: Incarnation
    address: str
    term: Term
    """Above any that was seen."""
    last: SnapshotPoint
    """Its last entry, in the log or in the snapshot."""
    snapshot: SnapshotReport | None


@attrs.frozen(kw_only=True)
class Recovery:
    """What was recovered from what."""

    survey: Survey
    survivor: Survivor
    created: NewCluster


@attrs.frozen(kw_only=True)
class Restoration:
    """What was restored from what."""

    snapshot: SnapshotReport
    created: NewCluster


def recover_to(
    directories: Iterable[Path],
    target: Target,
    *,
    accept_data_loss: bool,
    survivor: Path | None = None,
    files: OfflineFiles,
    progress: Progress = no_progress,
) -> Recovery:
    """Make a new cluster of one node from the best of these directories, or from ``survivor``, one of them.

    Raises RecoveryRefused, DirectoryInUse, LogCorrupt (an entry's own checksum), SnapshotCorrupt, IncompatibleVersion,
    StorageFull, StorageError, ConfigurationError; then nothing is left behind.
    """
    directories = list(directories)
    _check_target(target, files, directories)
    with opened_all(directories, files, progress=progress) as opened:
        survey = Survey(tuple(each.survivor for each in opened))
        chosen = _choose(opened, survey, survivor)
        _check_cluster_id(target, survey.cluster_ids)
        if not accept_data_loss:
            raise RecoveryRefused(f"the loss of data was not accepted. {LOSS}")
        with new_directory(files, target.directory) as directory:
            created = _write(
                files,
                directory,
                target,
                term=Term(survey.highest_term + 1),
                snapshot=chosen.snapshot,
                log=chosen.log,
                progress=progress,
            )
            facts = {"survivor": chosen.survivor, "directories": directories, "created": created, "accepted": LOSS}
            write_audit(files, directory, "recover", facts)
            for each in opened:
                each.check()
    return Recovery(survey=survey, survivor=chosen.survivor, created=created)


def restore_to(file: Path, target: Target, *, files: OfflineFiles, progress: Progress = no_progress) -> Restoration:
    """Make a new cluster of one node from a snapshot's file alone.

    Raises RecoveryRefused, SnapshotCorrupt, IncompatibleVersion, StorageFull, StorageError, ConfigurationError; then
    nothing is left behind.
    """
    _check_target(target, files, [])
    snapshot = whole_snapshot(file, files=files, progress=progress)
    _check_cluster_id(target, frozenset({snapshot.meta.cluster_id}))
    with new_directory(files, target.directory) as directory:
        term = Term(snapshot.point.term + 1)
        created = _write(files, directory, target, term=term, snapshot=snapshot, log=None, progress=progress)
        facts = {"snapshot": report_of(snapshot), "created": created, "accepted": NOT_IN_SNAPSHOT}
        write_audit(files, directory, "restore", facts)
    return Restoration(snapshot=report_of(snapshot), created=created)


# ------------------------------------------------------------------------------------ checking


def _check_target(target: Target, files: OfflineFiles, directories: list[Path]) -> None:
    for key in ("node_id", "cluster_id"):
        if not getattr(target, key):
            raise ConfigurationError(key, "must not be empty")
    if target.address:
        split_address("address", target.address)
    for directory in directories:
        if Path(os.path.realpath(target.directory)).is_relative_to(os.path.realpath(directory)):
            raise RecoveryRefused(f"{target.directory} is in {directory}, which is to be read and never changed")
    refuse_if_there(files, target.directory)


def _check_cluster_id(target: Target, known: frozenset[str]) -> None:
    if target.cluster_id in known:
        problem = "is the old cluster's id: with it, old members and new ones would take each other for their own"
        raise RecoveryRefused(f"cluster_id {target.cluster_id!r} {problem}; choose another")


def _choose(opened: list[Opened], survey: Survey, wanted: Path | None) -> Opened:
    best = propose(survey)
    if wanted is None:
        return next(each for each in opened if each.survivor is best)
    for each in opened:
        if each.survivor.directory == wanted:
            if each.log is None:
                raise RecoveryRefused(f"{wanted} cannot be recovered from: {each.survivor.damage}")
            return each
    raise RecoveryRefused(f"{wanted} is none of the directories that were named")


# ------------------------------------------------------------------------------------ writing


def _write(
    files: OfflineFiles,
    directory: Path,
    target: Target,
    *,
    term: Term,
    snapshot: StoredSnapshot | None,
    log: OpenLog | None,
    progress: Progress,
) -> NewCluster:
    """Fill the directory, and read it back."""
    node_id = ServerId(target.node_id)
    incarnation = Incarnation(f"{seeded_by_the_system().getrandbits(64):016x}")
    members = {node_id: incarnation}
    store = FileLogStore(directory, segment_bytes=_segment_bytes(log), files=files)
    with contextlib.closing(store):
        store.open(StoreIdentity(target.cluster_id, node_id, incarnation), memory_bytes=0)
        _save(store, SaveVote(term, None), SaveBootstrap(members, done=True))
        if snapshot:
            rewrite_snapshot(
                Path(snapshot.name),
                snapshot_path(directory, snapshot.point),
                cluster_id=target.cluster_id,
                configuration=SnapshotConfiguration(LogIndex(0), (node_id,), (), members),
                progress=partial(progress, "copying the snapshot"),
                files=files,
            )
            _save(store, SaveSnapshot(snapshot.point, keep=False))
        if log:
            _copy_entries(log, store, first=snapshot.point.index + 1 if snapshot else 1, progress=progress)
    made = look_into(files, directory, progress)
    expected = log.last if log else snapshot.point if snapshot else None
    if made.survivor.damage or (made.survivor.term, made.survivor.last) != (term, expected):
        raise AssertionError(f"what was written reads back as {made.survivor}, not as term {term}, last {expected}")
    written = made.survivor.snapshot
    place = target.directory
    return NewCluster(
        directory=place,
        cluster_id=target.cluster_id,
        node_id=node_id,
        incarnation=incarnation,
        address=target.address,
        term=term,
        last=made.survivor.last,
        snapshot=attrs.evolve(written, path=place / written.path.name) if written else None,
    )


def _segment_bytes(log: OpenLog | None) -> int:
    """Files in which everything fits that fitted into the survivor's."""
    sizes = [each.description.segment_bytes for each in log.found.segments] if log else []
    return max(sizes, default=Limits().segment_bytes) + MAX_DESCRIPTION_BYTES


def _copy_entries(log: OpenLog, store: FileLogStore, *, first: int, progress: Progress) -> None:
    last = log.last.index
    for batch in _batches(map(_without_configuration, log.entries(first, last))):
        size = sum(len(entry.record) for entry in batch)
        _save(store, Append(batch, durable_mark=batch[-1].index, size=size))
        progress("copying entries", batch[-1].index - first + 1, last - first + 1)


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and size + len(entry.record) > COPY_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry.record)
    if batch:
        yield batch


def _without_configuration(entry: Entry) -> Entry:
    """The old cluster's configurations mean nothing in the new one; the place in the log stays taken."""
    if entry.kind is EntryKind.CONFIGURATION:
        return make_entry(index=entry.index, term=entry.term, kind=EntryKind.NO_OP, data=b"")
    return entry


def _save(store: FileLogStore, *items: JournalItem) -> None:
    """Make the items durable, after preparing room for them if there is none."""
    while (plan := store.plan(items)) is None:
        while (upkeep := store.plan_upkeep()) is not None:
            store.execute_upkeep(upkeep)
            store.done_upkeep(upkeep)
    store.execute(plan)
    store.done(plan)
