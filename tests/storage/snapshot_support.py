"""What the tests of the snapshot stores share: short ways to take one, to find it, and to look at its bytes."""

from collections.abc import Iterable
from pathlib import Path

from tests.storage.support import DIRECTORY, identity
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._storage.files import Files
from trio_raft._storage.snapshot_format import SnapshotEncoder
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft.abc import SnapshotConfiguration, SnapshotMeta, SnapshotPoint, SnapshotsFound, StoredSnapshot

CONFIGURATION = SnapshotConfiguration(
    index=LogIndex(2),
    voters=(ServerId("n1"), ServerId("n2")),
    learners=(ServerId("n3"),),
    incarnations={ServerId("n1"): Incarnation("aa"), ServerId("n2"): Incarnation("bb")},
)


def meta(index: int, term: int = 1, *, cluster_id: str = "demo") -> SnapshotMeta:
    return SnapshotMeta(cluster_id, SnapshotPoint(LogIndex(index), Term(term)), CONFIGURATION, 3)


def encoded(header: SnapshotMeta, state: Iterable[bytes] = (b"state",)) -> bytes:
    """A whole snapshot's bytes."""
    encoder = SnapshotEncoder(header)
    blocks: list[bytes | bytearray] = [encoder.header()]
    for piece in state:
        blocks += encoder.add(piece)
    return b"".join([*blocks, *encoder.end()])


def open_snapshots(files: Files, *, incarnation: str = "aa", directory: Path = DIRECTORY) -> FileSnapshotStore:
    """A store that is open and tidy; what it found is left aside."""
    store = FileSnapshotStore(directory, files=files)
    store.open(identity(incarnation=incarnation))
    store.tidy()
    return store


def find(files: Files, *, directory: Path = DIRECTORY) -> SnapshotsFound:
    """Open, close, and say what was found."""
    store = FileSnapshotStore(directory, files=files)
    found = store.open(identity())
    store.close()
    return found


def take(store: FileSnapshotStore, header: SnapshotMeta, *state: bytes) -> StoredSnapshot:
    writer = store.begin(header)
    for piece in state or (b"state",):
        writer.write(piece)
    return writer.finish()


def state_of(store: FileSnapshotStore, snapshot: StoredSnapshot) -> bytes:
    reader = store.read(snapshot)
    state = b"".join(reader.state())
    reader.close()
    return state


def bytes_of(store: FileSnapshotStore, snapshot: StoredSnapshot) -> bytes:
    reader = store.read(snapshot)
    data = reader.read(0, snapshot.size)
    reader.close()
    return data
