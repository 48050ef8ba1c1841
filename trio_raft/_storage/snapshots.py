"""The snapshot store on disk: one file for each snapshot, beside the log.

``begin`` and ``receive`` give a writer and a receiver, each with a file of its own that nobody sees until ``finish``;
``read`` gives a reader, which keeps its file however long it is needed.  Bytes on disk are those on the wire, so a
receiver stores what it gets and checks it in passing, and ``finish`` has nothing to read again.

What stands under a finished name is complete, always.  What is *durable* beyond doubt is what ``finish`` returned, and
what ``open`` found once ``tidy`` has synced it: a process may die between renaming and the sync of the directory, and
an operator may have copied a file here.

House rules: the store's state changes under its mutex, and nothing blocks while that is held; ``retain`` counts only
what is known to be whole and durable, so that a damaged file never takes the place of a good one.  Whatever changes a
file or a name stays in the custody of the log beside it, if there is one: a thread that outlives the node keeps the
directory locked until it returns (S10).
"""

import contextlib
import errno
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from trio_raft._errors import RaftError, SnapshotCorrupt, StorageError
from trio_raft._storage.files import Files, OsFiles, directory_errors, storage_errors
from trio_raft._storage.snapshot_files import (
    PARTIAL,
    GrowingFile,
    SnapshotFile,
    is_gone,
    is_partial,
    newest_first,
    require_cluster,
    snapshot_errors,
    snapshot_path,
    staying,
    stored,
    verify_snapshot,
)
from trio_raft._storage.snapshot_format import SnapshotEncoder
from trio_raft._storage.snapshot_parsing import SnapshotParser
from trio_raft._storage.wal import FileLogStore
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

Publish = Callable[[GrowingFile, StoredSnapshot], None]


class FileSnapshotStore(SnapshotStore):
    """One server's snapshots in its data directory.

    ``log_store``: the one in the same directory, whose lock a thread that makes, receives or removes a snapshot holds
    until it returns; one that reads does not.
    A store is opened once; to open the directory again, make another.  After ``close`` everything that it gave out
    raises ``trio.ClosedResourceError``.  Beyond its contract ``open`` raises ConfigurationError for a directory that
    cannot be read.
    """

    def __init__(
        self, directory: Path | str, *, files: Files | None = None, log_store: FileLogStore | None = None
    ) -> None:
        self._directory = Path(directory).absolute()
        self._within = log_store.custody if log_store is not None else None
        self._files: Files = files or OsFiles()
        self._mutex = threading.Lock()
        self._closed = False
        self._identity: StoreIdentity | None = None
        self._found: Path | None = None
        """What ``open`` found, and ``tidy`` makes durable beyond doubt."""
        self._numbers = itertools.count(1)
        self._in_use: set[SnapshotFile] = set()
        self._digests: dict[SnapshotPoint, str] = {}
        """Of those that are known to be whole and durable.  A snapshot may be replaced by another of its point."""
        self._doubtful: set[SnapshotPoint] = set()
        """Damaged, or not surely durable: no reason to remove an older one."""

    def open(self, identity: StoreIdentity) -> SnapshotsFound:
        self._refuse_if_closed()
        self._identity = identity
        names = self._names()
        newest: StoredSnapshot | None = None
        damaged: list[SnapshotCorrupt] = []
        for point in newest_first(names):
            try:
                newest = self._verify(point, identity.cluster_id)
                break
            except SnapshotCorrupt as error:
                damaged.append(error)
                self._doubtful.add(point)
            except StorageError as error:
                if not is_gone(error):
                    raise
        if newest:
            self._found = Path(newest.name)
            self._digests[newest.point] = newest.digest
        unfinished = sorted(name for name in names if is_partial(name))
        return SnapshotsFound(newest, tuple(damaged), tuple(unfinished))

    def tidy(self) -> None:
        with staying(self._within):
            self._tidy()

    def _tidy(self) -> None:
        self._refuse_if_closed()
        with self._mutex:
            in_use = {file.path for file in self._in_use}
        if self._found:
            with SnapshotFile(self._files, self._found) as file:
                file.sync()
        with storage_errors(self._directory, "removing unfinished snapshots"):
            for name in self._files.list_directory(self._directory):
                if is_partial(name) and self._directory / name not in in_use:
                    self._remove(self._directory / name)
            self._files.sync_directory(self._directory)

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        return _Writer(self._create(), meta, self._publish)

    def receive(self, *, size: int, digest: str) -> SnapshotReceiver:
        cluster_id = self._opened.cluster_id
        return _Receiver(self._create(), self._publish, size=size, digest=digest, cluster_id=cluster_id)

    def read(self, snapshot: StoredSnapshot) -> SnapshotReader:
        self._refuse_if_closed()
        path = Path(snapshot.name)
        file = SnapshotFile(self._files, path)
        self._keep(file)
        with self._mutex:
            replaced = self._digests.get(snapshot.point, snapshot.digest) != snapshot.digest
        if replaced:
            file.close()
            raise StorageError(path, "opening", "another snapshot of the same point has taken its place")
        return _Reader(file)

    def retain(self, keep: int) -> None:
        with staying(self._within):
            self._retain(keep)

    def _retain(self, keep: int) -> None:
        self._refuse_if_closed()
        if keep < 1:
            raise AssertionError("a store that has snapshots keeps at least one")
        with storage_errors(self._directory, "removing old snapshots"):
            points = newest_first(self._files.list_directory(self._directory))
            with self._mutex:
                counted = [point for point in points if point not in self._doubtful]
            if len(counted) <= keep:
                return
            old = points[points.index(counted[keep - 1]) + 1 :]
            for point in reversed(old):
                self._remove(snapshot_path(self._directory, point))
                with self._mutex:
                    self._digests.pop(point, None)
                    self._doubtful.discard(point)
            self._files.sync_directory(self._directory)

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            in_use = list(self._in_use)
        for file in in_use:
            file.close()

    # ------------------------------------------------------------------------- inside

    @property
    def _opened(self) -> StoreIdentity:
        if self._identity is None:
            raise AssertionError("the store was not opened")
        return self._identity

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"the snapshot store in {self._directory} is closed")

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.remove(path)

    def _names(self) -> list[str]:
        with directory_errors(self._directory, needed=0):
            try:
                return self._files.list_directory(self._directory)
            except OSError as error:
                # No directory yet, and so no snapshot; whether one can be made is for the log to say.
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    return []
                raise

    def _verify(self, point: SnapshotPoint, cluster_id: str) -> StoredSnapshot:
        path = snapshot_path(self._directory, point)
        found = verify_snapshot(path, cluster_id=cluster_id, files=self._files)
        if found.point != point:
            says = f"its header says index {found.point.index}, term {found.point.term}, unlike its name"
            raise SnapshotCorrupt(path, offset=0, problem=says)
        return found

    def _create(self) -> GrowingFile:
        self._refuse_if_closed()
        name = f"snapshot-{self._opened.new_incarnation}-{next(self._numbers)}{PARTIAL}"
        file = GrowingFile(self._files, self._directory / name, within=self._within)
        self._keep(file)
        return file

    def _keep(self, file: SnapshotFile) -> None:
        """From now on closing the store closes this file; it may have been closed while this one was being opened."""
        with self._mutex:
            closed = self._closed
            if not closed:
                file.on_close = self._forget
                self._in_use.add(file)
        if closed:
            file.discard() if isinstance(file, GrowingFile) else file.close()
            self._refuse_if_closed()

    def _forget(self, file: SnapshotFile) -> None:
        with self._mutex:
            self._in_use.discard(file)

    def _publish(self, file: GrowingFile, snapshot: StoredSnapshot) -> None:
        with self._mutex:
            self._doubtful.add(snapshot.point)
        file.publish(Path(snapshot.name))
        with self._mutex:
            self._doubtful.discard(snapshot.point)
            self._digests[snapshot.point] = snapshot.digest


class _Writer(SnapshotWriter):
    def __init__(self, file: GrowingFile, meta: SnapshotMeta, publish: Publish) -> None:
        self._file = file
        self._encoder = SnapshotEncoder(meta)
        self._publish = publish
        try:
            file.put(self._encoder.header())
        except BaseException:
            file.discard()
            raise

    def write(self, state: bytes) -> None:
        for block in self._encoder.add(state):
            self._file.put(block)

    def finish(self) -> StoredSnapshot:
        encoder = self._encoder
        for block in encoder.end():
            self._file.put(block)
        path = snapshot_path(self._file.path.parent, encoder.meta.point)
        snapshot = StoredSnapshot(encoder.meta, encoder.size, encoder.digest, str(path))
        self._publish(self._file, snapshot)
        return snapshot

    def abort(self) -> None:
        self._file.discard()


class _Receiver(SnapshotReceiver):
    """What is wrong with the bytes is remembered until ``finish``, and nothing more is written."""

    def __init__(self, file: GrowingFile, publish: Publish, *, size: int, digest: str, cluster_id: str) -> None:
        self._file = file
        self._publish = publish
        self._size = size
        self._digest = digest
        self._cluster_id = cluster_id
        self._parser = SnapshotParser()
        self._received = 0
        self._problem: RaftError | None = None

    @property
    def received(self) -> int:
        return self._received

    def write(self, data: bytes) -> None:
        if self._problem is None:
            try:
                self._check(data)
            except RaftError as error:
                self._problem = error
            else:
                self._file.put(data, needed=self._size - self._received)
        self._received += len(data)

    def finish(self) -> StoredSnapshot:
        if self._problem:
            raise self._problem
        partial = self._file.path
        with snapshot_errors(partial):
            snapshot = stored(self._parser, partial)
        if self._received != self._size or snapshot.digest != self._digest:
            problem = f"{self._size} bytes of digest {self._digest} were announced, not {snapshot.digest}"
            raise SnapshotCorrupt(partial, offset=self._received, problem=problem)
        path = snapshot_path(partial.parent, snapshot.point)
        snapshot = StoredSnapshot(snapshot.meta, snapshot.size, snapshot.digest, str(path))
        self._publish(self._file, snapshot)
        return snapshot

    def abort(self) -> None:
        self._file.discard()

    def _check(self, data: bytes) -> None:
        if self._received + len(data) > self._size:
            problem = f"more came than the {self._size} bytes that were announced"
            raise SnapshotCorrupt(self._file.path, offset=self._size, problem=problem)
        with snapshot_errors(self._file.path):
            self._parser.feed(data)
        if self._parser.meta:
            require_cluster(self._file.path, self._parser.meta, self._cluster_id)


class _Reader(SnapshotReader):
    def __init__(self, file: SnapshotFile) -> None:
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        return self._file.read(size=size, offset=offset)

    def state(self) -> Iterator[bytes]:
        # The digest was checked when the snapshot was stored or found; each piece has a checksum of its own.
        parser = SnapshotParser(keep_state=True, hashed=False)
        for block in self._file.blocks():
            with snapshot_errors(self._file.path):
                states = parser.feed(block)
            yield from states
        with snapshot_errors(self._file.path):
            parser.check_end()

    def close(self) -> None:
        self._file.close()
