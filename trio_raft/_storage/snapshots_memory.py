"""A snapshot store that forgets everything when the process ends: for tests and throwaway clusters.

It makes and checks the same bytes as the one on disk, so that servers with either understand each other.  Opening the
same store again is what a restart is: what ``finish`` returned is there, and what was never finished is not.

House rule: only ``finish`` and ``retain`` change what survives.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import trio

from trio_raft._errors import SnapshotCorrupt, StorageError
from trio_raft._storage.snapshot_files import require_cluster, snapshot_errors, stored
from trio_raft._storage.snapshot_format import SnapshotEncoder
from trio_raft._storage.snapshot_parsing import SnapshotParser
from trio_raft.abc import (
    SnapshotMeta,
    SnapshotPoint,
    SnapshotReader,
    SnapshotReceiver,
    SnapshotsFound,
    SnapshotStore,
    SnapshotWriter,
    StoredSnapshot,
    StoreIdentity,
)

_NOWHERE = Path("(in memory)")


@attrs.frozen
class _Kept:
    snapshot: StoredSnapshot
    data: bytes


@attrs.frozen
class _Life:
    """Between an ``open`` and the next, or ``close``: what was given out then raises ClosedResourceError afterwards."""

    cluster_id: str
    is_current: Callable[["_Life"], bool]
    keep: Callable[[StoredSnapshot, bytes], None]

    def check(self) -> None:
        if not self.is_current(self):
            raise trio.ClosedResourceError("the snapshot store in memory was closed, or opened anew")


class MemorySnapshotStore(SnapshotStore):
    """Each snapshot is one ``bytes`` object."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._kept: dict[SnapshotPoint, _Kept] = {}
        self._life: _Life | None = None

    def open(self, identity: StoreIdentity) -> SnapshotsFound:
        """Find again what was finished.  The user before, if there was one, is locked out from here on."""
        with self._mutex:
            self._life = _Life(identity.cluster_id, lambda life: life is self._life, self._keep)
            newest = next(iter(_newest_first(self._kept)), None)
        if newest:
            require_cluster(_NOWHERE, newest.snapshot.meta, identity.cluster_id)
        return SnapshotsFound(newest.snapshot if newest else None)

    def tidy(self) -> None:
        self._current()

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        return _Writer(self._current(), meta)

    def receive(self, *, size: int, digest: str) -> SnapshotReceiver:
        return _Receiver(self._current(), size=size, digest=digest)

    def read(self, snapshot: StoredSnapshot) -> SnapshotReader:
        life = self._current()
        with self._mutex:
            kept = self._kept.get(snapshot.point)
        if kept is None or kept.snapshot.digest != snapshot.digest:
            raise StorageError(Path(snapshot.name), "opening", "it was removed, or another took its place")
        return _Reader(life, kept)

    def retain(self, keep: int) -> None:
        self._current()
        with self._mutex:
            for kept in _newest_first(self._kept)[keep:]:
                del self._kept[kept.snapshot.point]

    def close(self) -> None:
        with self._mutex:
            self._life = None

    def _current(self) -> _Life:
        life = self._life
        if life is None:
            raise trio.ClosedResourceError("the snapshot store in memory is not open")
        return life

    def _keep(self, snapshot: StoredSnapshot, data: bytes) -> None:
        with self._mutex:
            self._kept[snapshot.point] = _Kept(snapshot, data)


def _newest_first(kept: Mapping[SnapshotPoint, _Kept]) -> list[_Kept]:
    order = sorted(kept, key=lambda point: (point.term, point.index), reverse=True)
    return [kept[point] for point in order]


def _name(point: SnapshotPoint) -> str:
    return f"{_NOWHERE} snapshot of index {point.index}, term {point.term}"


class _Writer(SnapshotWriter):
    def __init__(self, life: _Life, meta: SnapshotMeta) -> None:
        self._life: _Life | None = life
        self._encoder = SnapshotEncoder(meta)
        self._blocks: list[bytes | bytearray] = [self._encoder.header()]

    def write(self, state: bytes) -> None:
        _check(self._life)
        self._blocks += self._encoder.add(state)

    def finish(self) -> StoredSnapshot:
        life, encoder = _check(self._life), self._encoder
        self._blocks += encoder.end()
        snapshot = StoredSnapshot(encoder.meta, encoder.size, encoder.digest, _name(encoder.meta.point))
        life.keep(snapshot, b"".join(self._blocks))
        self.abort()
        return snapshot

    def abort(self) -> None:
        self._life = None
        self._blocks.clear()


class _Receiver(SnapshotReceiver):
    def __init__(self, life: _Life, *, size: int, digest: str) -> None:
        self._life: _Life | None = life
        self._size = size
        self._digest = digest
        self._data = bytearray()

    @property
    def received(self) -> int:
        return len(self._data)

    def write(self, data: bytes) -> None:
        _check(self._life)
        self._data += data

    def finish(self) -> StoredSnapshot:
        life, parser, data = _check(self._life), SnapshotParser(), bytes(self._data)
        with snapshot_errors(_NOWHERE):
            parser.feed(data)
            found = stored(parser, _NOWHERE)
        require_cluster(_NOWHERE, found.meta, life.cluster_id)
        if found.size != self._size or found.digest != self._digest:
            problem = f"{self._size} bytes of digest {self._digest} were announced, not {found.digest}"
            raise SnapshotCorrupt(_NOWHERE, offset=found.size, problem=problem)
        snapshot = attrs.evolve(found, name=_name(found.point))
        life.keep(snapshot, data)
        self.abort()
        return snapshot

    def abort(self) -> None:
        self._life = None


class _Reader(SnapshotReader):
    def __init__(self, life: _Life, kept: _Kept) -> None:
        self._life: _Life | None = life
        self._kept = kept

    def read(self, offset: int, size: int) -> bytes:
        _check(self._life)
        return self._kept.data[offset : offset + size]

    def state(self) -> Iterator[bytes]:
        _check(self._life)
        parser = SnapshotParser(keep_state=True, hashed=False)
        with snapshot_errors(_NOWHERE):
            states = parser.feed(self._kept.data)
            parser.check_end()
        yield from states

    def close(self) -> None:
        self._life = None


def _check(life: _Life | None) -> _Life:
    if life is None:
        raise trio.ClosedResourceError("this snapshot was finished, given up or closed")
    life.check()
    return life
