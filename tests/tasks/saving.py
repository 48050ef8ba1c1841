"""Parts for tests of snapshots: a machine that can be saved, a store that fails when told to, bytes of a leader's.

House rule: the store knows what was begun and neither finished nor given up, so that every test can ask what is left.
"""

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from tests.tasks.parts import CLUSTER, N1, THREE, incarnation
from trio_raft._messages import Incarnation, InstallSnapshot, ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._storage.snapshots_memory import MemorySnapshotStore
from trio_raft.abc import (
    Committed,
    SavedState,
    SnapshotConfiguration,
    SnapshotMeta,
    SnapshotPoint,
    SnapshotReader,
    SnapshotReceiver,
    SnapshotWriter,
    StateMachine,
    StoredSnapshot,
    StoreIdentity,
)


class Saving(StateMachine[bytes, int]):
    """The list of its commands, which are saved one a piece."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.captured: list[int] = []
        """How many commands there were at each capture."""
        self.capture_failure: Exception | None = None
        self.piece_failure: Exception | None = None
        """Raised after the first piece."""
        self.pieces: Callable[[list[bytes]], Any] = lambda commands: commands
        """What a capture gives, made of a copy of the commands."""
        self.restore_failure: Exception | None = None
        self.restored: list[tuple[int, int]] = []
        """(index, term) of each state that was restored."""

    def apply(self, entry: Committed[bytes]) -> int:
        self.commands.append(entry.command)
        return len(self.commands)

    def snapshot(self) -> Iterator[bytes]:
        if self.capture_failure is not None:
            raise self.capture_failure
        self.captured.append(len(self.commands))
        return self._pieces(self.pieces([command + b"\n" for command in self.commands]))

    def _pieces(self, pieces: Any) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == 1 and self.piece_failure is not None:
                raise self.piece_failure
            yield piece

    def restore(self, state: SavedState) -> None:
        if self.restore_failure is not None:
            raise self.restore_failure
        self.commands = b"".join(state).splitlines()
        self.restored.append((state.index, state.term))


class SnapshotsUnderControl(MemorySnapshotStore):
    """The store in memory, which fails in the steps named in ``failures``, and knows what was left unfinished."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, Exception] = {}
        """Step (``begin``, ``write``, ``finish``, ``receive``, ``take``, ``check``, ``read``, ``retain``) → failure."""
        self.hooks: dict[str, Callable[[], None]] = {}
        """Step → called at its beginning."""
        self.unfinished: list[object] = []
        """Writers and receivers that were neither finished nor given up."""
        self.reading: list[object] = []
        """Readers that are open."""

    def step(self, name: str) -> None:
        self.hooks.get(name, lambda: None)()
        if name in self.failures:
            raise self.failures[name]

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        self.step("begin")
        return _Writer(self, super().begin(meta))

    def receive(self, *, size: int, digest: str) -> SnapshotReceiver:
        self.step("receive")
        return _Receiver(self, super().receive(size=size, digest=digest))

    def read(self, snapshot: StoredSnapshot) -> SnapshotReader:
        self.step("read")
        return _Reader(self, super().read(snapshot))

    def retain(self, keep: int) -> None:
        self.step("retain")
        super().retain(keep)

    @property
    def points(self) -> list[tuple[int, int]]:
        """(index, term) of what is there, oldest first."""
        return sorted((point.index, point.term) for point in self._kept)

    def state_of(self, snapshot: StoredSnapshot) -> list[bytes]:
        """The commands in it."""
        return b"".join(MemorySnapshotStore.read(self, snapshot).state()).splitlines()


class _Writer(SnapshotWriter):
    def __init__(self, store: SnapshotsUnderControl, inner: SnapshotWriter) -> None:
        self._store, self._inner = store, inner
        store.unfinished.append(self)

    def write(self, state: bytes) -> None:
        self._store.step("write")
        self._inner.write(state)

    def finish(self) -> StoredSnapshot:
        self._store.step("finish")
        snapshot = self._inner.finish()
        self._store.unfinished.remove(self)
        return snapshot

    def abort(self) -> None:
        if self in self._store.unfinished:
            self._store.unfinished.remove(self)
            self._inner.abort()


class _Receiver(SnapshotReceiver):
    def __init__(self, store: SnapshotsUnderControl, inner: SnapshotReceiver) -> None:
        self._store, self._inner = store, inner
        store.unfinished.append(self)

    @property
    def received(self) -> int:
        return self._inner.received

    def write(self, data: bytes) -> None:
        self._store.step("take")
        self._inner.write(data)

    def finish(self) -> StoredSnapshot:
        self._store.step("check")
        snapshot = self._inner.finish()
        self._store.unfinished.remove(self)
        return snapshot

    def abort(self) -> None:
        if self in self._store.unfinished:
            self._store.unfinished.remove(self)
            self._inner.abort()


class _Reader(SnapshotReader):
    def __init__(self, store: SnapshotsUnderControl, inner: SnapshotReader) -> None:
        self._store, self._inner = store, inner
        store.reading.append(self)

    def read(self, offset: int, size: int) -> bytes:
        return self._inner.read(offset, size)

    def state(self) -> Iterator[bytes]:
        return self._inner.state()

    def close(self) -> None:
        if self in self._store.reading:
            self._store.reading.remove(self)
            self._inner.close()


@attrs.frozen
class Made:
    """A snapshot as some leader has it."""

    snapshot: StoredSnapshot
    data: bytes

    def message(
        self, offset: int = 0, data: bytes = b"", *, term: int = 3, leader: ServerId = N1, transfer: str = "t1"
    ) -> InstallSnapshot:
        """A piece of it, or a question."""
        point = self.snapshot.point
        return InstallSnapshot(
            term=Term(term),
            leader=leader,
            transfer=transfer,
            last_included_index=point.index,
            last_included_term=point.term,
            digest=self.snapshot.digest,
            total=len(self.data),
            offset=offset,
            data=data,
        )


def save(store: MemorySnapshotStore, index: int, term: int, *states: bytes, version: int = 1) -> StoredSnapshot:
    """Put a snapshot into a store that is open."""
    writer = MemorySnapshotStore.begin(store, _meta(index, term, version))
    for state in states:
        writer.write(state)
    return writer.finish()


def opened_store() -> SnapshotsUnderControl:
    """A store as it is while its node runs; ``make_server`` opens it again, which loses nothing."""
    store = SnapshotsUnderControl()
    store.open(StoreIdentity(CLUSTER, N1, Incarnation("before")))
    return store


def make_snapshot(index: int, term: int, *states: bytes) -> Made:
    """What a leader sends: the same bytes for the same arguments."""
    store = opened_store()
    snapshot = save(store, index, term, *states)
    return Made(snapshot, MemorySnapshotStore.read(store, snapshot).read(0, snapshot.size))


def _meta(index: int, term: int, version: int) -> SnapshotMeta:
    configuration = SnapshotConfiguration(LogIndex(0), THREE, (), {member: incarnation(member) for member in THREE})
    return SnapshotMeta(CLUSTER, SnapshotPoint(LogIndex(index), Term(term)), configuration, state_version=version)
