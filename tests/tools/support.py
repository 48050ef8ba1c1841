"""What the tests of the tools share: data directories on the real disk, as nodes leave them, and what is in them."""

from collections.abc import Iterable
from pathlib import Path

import attrs

from tests.storage.snapshot_support import take
from tests.storage.support import commands, keep_up, save
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._storage.files import OsFiles
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft._storage.wal import FileLogStore
from trio_raft.abc import (
    JournalItem,
    Recovered,
    SaveBootstrap,
    SaveVote,
    SnapshotConfiguration,
    SnapshotMeta,
    SnapshotPoint,
    StoredSnapshot,
    StoreIdentity,
)

N1, N2, N3 = ServerId("n1"), ServerId("n2"), ServerId("n3")
MEMBERS = {N1: Incarnation("aa"), N2: Incarnation("bb"), N3: Incarnation("cc")}
SEGMENT_BYTES = 4096
FILES = OsFiles()


def owner(node_id: str = "n1", *, cluster_id: str = "old") -> StoreIdentity:
    return StoreIdentity(cluster_id, ServerId(node_id), MEMBERS.get(ServerId(node_id), Incarnation("dd")))


def start_of(term: int, voted_for: ServerId | None = None) -> tuple[JournalItem, ...]:
    """What every directory holds once the first start is over."""
    return SaveBootstrap(MEMBERS, done=True), SaveVote(Term(term), voted_for)


def point(index: int, term: int) -> SnapshotPoint:
    return SnapshotPoint(LogIndex(index), Term(term))


def make_directory(
    directory: Path,
    *batches: Iterable[JournalItem],
    node_id: str = "n1",
    cluster_id: str = "old",
) -> Path:
    """A data directory that was written in these batches, by a node that has stopped."""
    with_node(directory, *batches, node_id=node_id, cluster_id=cluster_id).close()
    return directory


def with_node(
    directory: Path, *batches: Iterable[JournalItem], node_id: str = "n1", cluster_id: str = "old"
) -> FileLogStore:
    """The same, with the directory still open; close it."""
    store = FileLogStore(directory, segment_bytes=SEGMENT_BYTES, files=FILES)
    store.open(owner(node_id, cluster_id=cluster_id), memory_bytes=0)
    for batch in batches:
        save(store, *batch)
    keep_up(store)
    return store


def simple_directory(directory: Path, *, last: int = 9, term: int = 2, node_id: str = "n1") -> Path:
    """Entries 1 to ``last``, of term 1 but for the last three, and the term after that seen."""
    batches = [start_of(1), [commands(1, last - 3, term=1)], [SaveVote(Term(term), N2)]]
    return make_directory(directory, *batches, [commands(last - 2, last, term=term)], node_id=node_id)


def add_snapshot(
    directory: Path,
    index: int,
    term: int,
    *state: bytes,
    cluster_id: str = "old",
    state_version: int = 3,
) -> StoredSnapshot:
    """A snapshot beside the log."""
    store = FileSnapshotStore(directory, files=FILES)
    store.open(owner(cluster_id=cluster_id))
    configuration = SnapshotConfiguration(LogIndex(0), tuple(MEMBERS), (), MEMBERS)
    stored = take(store, SnapshotMeta(cluster_id, point(index, term), configuration, state_version), *state)
    store.close()
    return stored


def contents(directory: Path) -> dict[str, bytes]:
    """Every file in it."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def change(path: Path, offset: int, data: bytes) -> None:
    """Damage: other bytes at that place."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def flip(path: Path, offset: int) -> None:
    """Damage: one bit."""
    change(path, offset, bytes([path.read_bytes()[offset] ^ 1]))


@attrs.frozen
class Reopened:
    """What a node would find in a directory."""

    found: Recovered
    snapshot: StoredSnapshot | None
    state: bytes
    """Of the snapshot."""

    @property
    def commands(self) -> list[tuple[int, int, bytes]]:
        return [(entry.index, entry.term, entry.data) for entry in self.found.tail]


def reopen(directory: Path, identity: StoreIdentity) -> Reopened:
    """Open it as a node of this identity does, and close it again."""
    snapshots = FileSnapshotStore(directory, files=FILES)
    newest = snapshots.open(identity).newest
    state = b""
    if newest:
        reader = snapshots.read(newest)
        state = b"".join(reader.state())
        reader.close()
    snapshots.close()
    store = FileLogStore(directory, segment_bytes=SEGMENT_BYTES, files=FILES)
    found = store.open(identity, memory_bytes=1 << 30, snapshot=newest.point if newest else None)
    store.close()
    return Reopened(found, newest, state)
