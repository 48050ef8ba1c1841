"""What survived of a cluster: each data directory, how much it knows, and which of them knows most.

Freshness is what elections compare (E3): the last term, then the last index.  A snapshot that reaches beyond its log
counts as the log's end, as it would when a node starts.  A damaged directory is shown, and never proposed: nobody
knows what is missing in it.

House rule: nothing here writes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from trio_raft._errors import (
    ConfigurationError,
    DirectoryMismatch,
    IncompatibleVersion,
    LogCorrupt,
    RaftError,
    RecoveryRefused,
    SnapshotCorrupt,
    StorageError,
)
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._storage.files import Files, OfflineFiles
from trio_raft._storage.format import NO_VOTE, Description
from trio_raft._tools.directories import Progress, descriptions_in, held, identity_of, no_progress, segments_in
from trio_raft._tools.log import OpenLog, open_beside
from trio_raft._tools.plain import error_line
from trio_raft._tools.snapshots import SnapshotReport, newest_whole, report_of
from trio_raft.abc import SaveVote, SnapshotPoint, StoredSnapshot

NOTHING = SnapshotPoint(LogIndex(0), Term(0))


@attrs.frozen(kw_only=True)
class Survivor:
    """One data directory, and what it holds."""

    directory: Path
    cluster_id: str
    """Empty if nothing of the log can be read."""
    node_id: ServerId
    incarnation: Incarnation
    term: Term
    """The highest that it has seen; of a damaged one, as far as it can be read."""
    voted_for: ServerId | None
    base: SnapshotPoint
    """The place just below the first entry of the log."""
    last: SnapshotPoint
    """Its last entry, in the log or in the snapshot; (0, 0) in a damaged one."""
    snapshot: SnapshotReport | None
    """The newest that is whole."""
    damaged_snapshots: tuple[RaftError, ...]
    """What is wrong with those newer than it."""
    damage: RaftError | None
    """Why it cannot be used: LogCorrupt, SnapshotCorrupt (the log needs that one), IncompatibleVersion,
    DirectoryMismatch, StorageError; None: it can."""

    @property
    def freshness(self) -> tuple[Term, LogIndex, LogIndex]:
        """Greater is better (E3); between equals the newer snapshot has less to replay."""
        return self.last.term, self.last.index, self.snapshot.index if self.snapshot else LogIndex(0)


@attrs.frozen
class Survey:
    """All directories that were looked into, in the order in which they were given."""

    survivors: tuple[Survivor, ...]

    @property
    def cluster_ids(self) -> frozenset[str]:
        """Of all that could be read, their snapshots included."""
        of_snapshots = {each.snapshot.cluster_id for each in self.survivors if each.snapshot}
        return frozenset({each.cluster_id for each in self.survivors if each.cluster_id} | of_snapshots)

    @property
    def highest_term(self) -> Term:
        """That any of them has seen."""
        return max((each.term for each in self.survivors), default=Term(0))


def propose(survey: Survey) -> Survivor:
    """The best survivor: the freshest that is whole; of equals, the one that was named first.

    Raises RecoveryRefused: all are damaged or empty, or they belong to different clusters.
    """
    if len(survey.cluster_ids) > 1:
        raise RecoveryRefused(
            f"these directories belong to different clusters: {', '.join(sorted(survey.cluster_ids))}"
        )
    whole = [each for each in survey.survivors if each.damage is None and each.last != NOTHING]
    if not whole:
        reasons = (
            f"{each.directory}: {error_line(each.damage) if each.damage else 'it holds no entry'}"
            for each in survey.survivors
        )
        raise RecoveryRefused(f"none of these directories can be recovered from. {'. '.join(reasons)}")
    return max(whole, key=lambda each: each.freshness)


@attrs.frozen(eq=False)
class Opened:
    """A survivor that is held, with its log, if that is whole."""

    survivor: Survivor
    log: OpenLog | None
    snapshot: StoredSnapshot | None
    """The newest that is whole."""
    check: Callable[[], None] = lambda: None
    """Raises DirectoryInUse if a node was started on it all the same."""


@contextmanager
def opened_all(
    directories: Iterable[Path], files: OfflineFiles, *, progress: Progress = no_progress
) -> Iterator[list[Opened]]:
    """Hold all directories, and look into each.

    Raises DirectoryInUse; StorageError: a lock; ConfigurationError: there is no such directory, or no log in it.
    """
    with ExitStack() as stack:
        distinct = list(dict.fromkeys(directories))
        if not distinct:
            raise ConfigurationError("", "no directory was named")
        checks = [stack.enter_context(held(files, directory)) for directory in distinct]
        opened = [look_into(files, directory, progress) for directory in distinct]
        for check in checks:
            check()
        yield [attrs.evolve(each, check=check) for each, check in zip(opened, checks, strict=True)]


def look_into(files: Files, directory: Path, progress: Progress) -> Opened:
    """Read one directory that is held.  Raises ConfigurationError: there is no log in it."""
    numbers = segments_in(files, directory)
    descriptions: list[Description] = []
    snapshot: StoredSnapshot | None = None
    damaged: tuple[RaftError, ...] = ()
    log: OpenLog | None = None
    damage: RaftError | None = None
    try:
        descriptions = descriptions_in(files, directory, numbers)
        cluster_id = identity_of(descriptions).cluster_id or None
        snapshot, damaged = newest_whole(files, directory, cluster_id=cluster_id, progress=progress)
        log = open_beside(files, directory, snapshot, damaged, progress=progress)
    except (LogCorrupt, IncompatibleVersion, DirectoryMismatch, SnapshotCorrupt, StorageError) as error:
        damage = error
    identity = identity_of(descriptions)
    vote = log.found.state.vote if log else max((each.vote for each in descriptions), key=_term_of, default=NO_VOTE)
    survivor = Survivor(
        directory=directory,
        cluster_id=identity.cluster_id,
        node_id=identity.node_id,
        incarnation=identity.new_incarnation,
        term=max(vote.term, snapshot.point.term if snapshot else Term(0), log.last.term if log else Term(0)),
        voted_for=vote.voted_for,
        base=log.base if log else NOTHING,
        last=log.last if log else NOTHING,
        snapshot=report_of(snapshot) if snapshot else None,
        damaged_snapshots=damaged,
        damage=damage,
    )
    return Opened(survivor, log, snapshot)


def _term_of(vote: SaveVote) -> Term:
    return vote.term
