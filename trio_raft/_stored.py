"""A snapshot as its store knows it: which entries it covers, what its header says, how its file is found.

Part of the vocabulary of ``abc.py``.
"""

from collections.abc import Mapping

import attrs

from trio_raft._errors import SnapshotCorrupt
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term


@attrs.frozen
class SnapshotPoint:
    """The last entry that a snapshot covers.  Of two points that are both committed the later one has more."""

    index: LogIndex
    term: Term


@attrs.frozen
class SnapshotConfiguration:
    """Who belonged to the cluster at a snapshot's index, and by which data directories."""

    index: LogIndex
    """Where the configuration stands in the log; 0 for the one that the cluster was first made of."""
    voters: tuple[ServerId, ...]
    learners: tuple[ServerId, ...]
    incarnations: Mapping[ServerId, Incarnation]


@attrs.frozen
class SnapshotMeta:
    """What a snapshot's header says."""

    cluster_id: str
    point: SnapshotPoint
    configuration: SnapshotConfiguration
    state_version: int
    """``StateMachine.state_version`` of the machine that made it."""


@attrs.frozen
class StoredSnapshot:
    """A snapshot that is complete, checked and durable."""

    meta: SnapshotMeta
    size: int
    """Bytes of the whole file, as they travel."""
    digest: str
    """Of the whole file, hexadecimal."""
    name: str
    """By which the store finds it; for files, the path."""

    @property
    def point(self) -> SnapshotPoint:
        """The last entry that it covers."""
        return self.meta.point


@attrs.frozen
class SnapshotsFound:
    """What ``SnapshotStore.open`` found."""

    newest: StoredSnapshot | None
    """The newest that is whole."""
    damaged: tuple[SnapshotCorrupt, ...] = ()
    """Those newer than it, each with its damage; newest first."""
    unfinished: tuple[str, ...] = ()
    """Names of what was never finished: passed over, and removed by ``tidy``."""
