"""Look into data directories, and recover what survived of a cluster: ``python -m trio_raft`` as a Python interface.

For programs that are operators' tools; no node may be open on the directories, except for ``save_snapshot`` and the
inspection of snapshots.  Everything here is synchronous and may take long: with a node in the same process, call it in
a thread.  ``progress`` is called now and then with (what, done, whole).

When too few members are left for a majority, and only then::

    import trio_raft.recovery

    survey = trio_raft.recovery.survey(["/disks/n1", "/disks/n3"])
    print(trio_raft.recovery.propose(survey))
    trio_raft.recovery.recover(
        ["/disks/n1", "/disks/n3"],
        to="/var/lib/counter/n1",
        node_id="n1",
        cluster_id="counter-2",
        accept_data_loss=True,
    )

All members of the old cluster must stay down for ever; growing again needs changes of membership, which this version
does not have yet.
"""

from collections.abc import Iterable
from pathlib import Path

from trio_raft._storage.files import OsFiles
from trio_raft._tools.directories import Progress, absolute, no_progress
from trio_raft._tools.log import LogReport, SegmentReport, SnapshotMarker, TornTail, open_log
from trio_raft._tools.rebuild import NewCluster, Recovery, Restoration, Target, recover_to, restore_to
from trio_raft._tools.snapshots import SavedSnapshot, SnapshotReport, SnapshotsReport, save_newest
from trio_raft._tools.snapshots import inspect_snapshot as _inspect_snapshot
from trio_raft._tools.snapshots import inspect_snapshots as _inspect_snapshots
from trio_raft._tools.survey import Survey, Survivor, opened_all, propose

__all__ = [
    "survey",
    "propose",
    "recover",
    "restore_snapshot",
    "save_snapshot",
    "inspect_log",
    "inspect_snapshot",
    "inspect_snapshots",
    "LogReport",
    "NewCluster",
    "Progress",
    "Recovery",
    "Restoration",
    "SavedSnapshot",
    "SegmentReport",
    "SnapshotMarker",
    "SnapshotReport",
    "SnapshotsReport",
    "Survey",
    "Survivor",
    "TornTail",
]


def survey(directories: Iterable[Path | str], *, progress: Progress = no_progress) -> Survey:
    """Look into the data directories that survived; what is wrong with one is in its ``damage``.  Reads only.

    Raises DirectoryInUse (a node has one open); ConfigurationError (there is no such directory, or no log in it);
    StorageError (a lock file cannot be read).
    """
    with opened_all(map(absolute, directories), OsFiles(), progress=progress) as opened:
        return Survey(tuple(each.survivor for each in opened))


def recover(
    directories: Iterable[Path | str],
    *,
    to: Path | str,
    node_id: str,
    cluster_id: str,
    accept_data_loss: bool,
    survivor: Path | str | None = None,
    address: str = "",
    progress: Progress = no_progress,
) -> Recovery:
    """Make a new cluster of one node, in a new directory ``to``, from the best of these directories.

    It gets the survivor's snapshot and entries, a new cluster id, a new incarnation, a term above any that was seen in
    any of the directories, and an audit entry (``audit.jsonl``).  Entries after the survivor's last may be lost, also
    such that clients were told of; uncommitted ones become committed: ``accept_data_loss`` has to be True.
    ``survivor``: one of the directories, in place of the best.  The directories are read and never changed.

    Raises, leaving nothing behind: RecoveryRefused (the loss was not accepted, ``to`` exists, the cluster id is the old
    one, the directories belong to different clusters, nothing can be recovered from); DirectoryInUse; LogCorrupt and
    SnapshotCorrupt (found while copying); IncompatibleVersion; StorageFull, StorageError; ConfigurationError (an
    argument is wrong, there is no such directory).
    """
    return recover_to(
        map(absolute, directories),
        Target(directory=absolute(to), node_id=node_id, cluster_id=cluster_id, address=address),
        accept_data_loss=accept_data_loss,
        survivor=None if survivor is None else absolute(survivor),
        files=OsFiles(),
        progress=progress,
    )


def restore_snapshot(
    file: Path | str,
    *,
    to: Path | str,
    node_id: str,
    cluster_id: str,
    address: str = "",
    progress: Progress = no_progress,
) -> Restoration:
    """Make a new cluster of one node, in a new directory ``to``, from a snapshot's file alone; see ``recover``.

    What came after the snapshot is not in it.  Raises, leaving nothing behind: RecoveryRefused (``to`` exists, the
    cluster id is the old one); SnapshotCorrupt; IncompatibleVersion; StorageFull, StorageError; ConfigurationError (an
    argument is wrong, there is no such file).
    """
    target = Target(directory=absolute(to), node_id=node_id, cluster_id=cluster_id, address=address)
    return restore_to(absolute(file), target, files=OsFiles(), progress=progress)


def save_snapshot(
    directory: Path | str, file: Path | str, *, replace: bool = False, progress: Progress = no_progress
) -> SavedSnapshot:
    """Copy the newest whole snapshot out of a data directory, whether or not a node has it open.

    ``file`` has its name only when it is whole, checked and durable.  Raises, leaving nothing behind: RecoveryRefused
    (no snapshot is whole, ``file`` exists and ``replace`` is False); StorageFull, StorageError; ConfigurationError
    (there is no such directory, or it is no node's).
    """
    return save_newest(absolute(directory), absolute(file), replace=replace, files=OsFiles(), progress=progress)


def inspect_log(directory: Path | str, *, verify: bool = False, progress: Progress = no_progress) -> LogReport:
    """Look into the log of a data directory; ``verify`` checks each record by itself too, and each snapshot.

    Reads only.  A damaged snapshot that the log does not need is in the report's ``damaged_snapshots``.
    Raises DirectoryInUse (a node has it open); LogCorrupt, with file, offset and index; SnapshotCorrupt, with file and
    offset, if the log needs a snapshot that is damaged; IncompatibleVersion;
    DirectoryMismatch (its files belong to different nodes); StorageError; ConfigurationError (there is no log).
    """
    with open_log(OsFiles(), absolute(directory), progress=progress) as log:
        if not verify:
            return log.report()
        checked = log.check_records(progress=progress)
        log.check_older_snapshots(progress=progress)
        return log.report(records_checked=checked)


def inspect_snapshot(file: Path | str, *, verify: bool = False, progress: Progress = no_progress) -> SnapshotReport:
    """What a snapshot's file says of itself; ``verify`` reads and checks all of it.  Reads only.

    Raises SnapshotCorrupt, with file and offset; IncompatibleVersion; StorageError; ConfigurationError (there is no
    such file).
    """
    return _inspect_snapshot(absolute(file), verify=verify, files=OsFiles(), progress=progress)


def inspect_snapshots(
    directory: Path | str, *, verify: bool = False, progress: Progress = no_progress
) -> SnapshotsReport:
    """The snapshots in a data directory, whether or not a node has it open; what is wrong is in ``damaged``.

    Raises StorageError; ConfigurationError (there is no such directory, or it holds neither a log nor a snapshot: it is
    no node's).
    """
    return _inspect_snapshots(absolute(directory), verify=verify, files=OsFiles(), progress=progress)
