"""Snapshots as files: their names, one that is open, one that grows until it is published, and one that is verified.

A finished snapshot is ``snapshot-<term>-<index>.snapshot``, in the data directory itself.  While it is written its name
is another, unique to the life that writes it, and ends in ``.partial``.  Between the two stand a sync of the file,
the renaming, and a sync of the directory, in this order (S7): no power cut leaves a part under the finished name.

House rules: each open file has a custody of its own, so that a thread which was abandoned inside a call closes when it
returns, and nobody before; a file on which a write or sync failed is never written again.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from trio_raft._errors import DirectoryMismatch, IncompatibleVersion, SnapshotCorrupt, StorageError
from trio_raft._records import LogIndex, Term
from trio_raft._storage.custody import Custody
from trio_raft._storage.files import CAN_START_WRITING, Files, OsFiles, storage_errors
from trio_raft._storage.snapshot_format import SNAPSHOT_VERSION, BadSnapshot, NewerSnapshot
from trio_raft._storage.snapshot_parsing import SnapshotParser
from trio_raft.abc import SnapshotMeta, SnapshotPoint, StoredSnapshot

BLOCK_BYTES = 1 << 20
"""Read at a time."""

START_BYTES = 4 << 20
"""Written before the disk is asked to begin with them: it works beside whoever brings the next ones."""

SYNC_BYTES = 16 << 20 if CAN_START_WRITING else 8 << 20
"""Written between two syncs.  To be asked to begin does not make a slow disk keep up, and nobody waits for it: so this
much may be queued before a sync of the log (K1), and less where the disk cannot be asked.  Nor more often: each sync
waits for the file system's own journal as well, in which the log's syncs take part."""

PARTIAL = ".partial"

Progress = Callable[[int, int], None]
"""Called with the bytes that are done, and those that there are."""

_NAME = re.compile(r"snapshot-([0-9]{16,20})-([0-9]{16,20})\.snapshot")
_PARTIAL_NAME = re.compile(r"snapshot-.*\.partial")


# ---------------------------------------------------------------------------------------------- names


def snapshot_path(directory: Path, point: SnapshotPoint) -> Path:
    """Where the finished snapshot of this point is."""
    return directory / f"snapshot-{point.term:016d}-{point.index:016d}.snapshot"


def point_of(name: str) -> SnapshotPoint | None:
    """The point of a finished snapshot's file; None for a name that is none of ours."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    point = SnapshotPoint(LogIndex(int(match[2])), Term(int(match[1])))
    return point if snapshot_path(Path(), point).name == name else None


def is_partial(name: str) -> bool:
    """Is this a snapshot that was never finished?"""
    return _PARTIAL_NAME.fullmatch(name) is not None


def newest_first(names: list[str]) -> list[SnapshotPoint]:
    """The points of the finished snapshots among these files, by (term, index) as numbers."""
    points = [point for point in map(point_of, names) if point]
    return sorted(points, key=lambda point: (point.term, point.index), reverse=True)


# ---------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def snapshot_errors(path: Path) -> Iterator[None]:
    """Translate what a parser says about the bytes of this file."""
    try:
        yield
    except BadSnapshot as error:
        raise SnapshotCorrupt(path, offset=error.offset, problem=error.problem) from error
    except NewerSnapshot as error:
        raise IncompatibleVersion(str(path), found=error.version, supported=SNAPSHOT_VERSION) from error


def require_cluster(path: Path, meta: SnapshotMeta, cluster_id: str) -> None:
    """Raises DirectoryMismatch if the snapshot is another cluster's."""
    if meta.cluster_id != cluster_id:
        raise DirectoryMismatch(path, "cluster_id", found=meta.cluster_id, expected=cluster_id)


# ---------------------------------------------------------------------------------------------- open files


class SnapshotFile:
    """An open file.  ``on_close`` is called once, when it is given up."""

    def __init__(self, files: Files, path: Path, *, create: bool = False, within: Custody | None = None) -> None:
        self.path = path
        self.on_close: Callable[[SnapshotFile], None] | None = None
        self._files = files
        self._custody = Custody(files, path, what="the snapshot", within=within)
        with self._custody:
            with storage_errors(path, "opening", needed=0 if create else None):
                descriptor = files.create(path) if create else files.open(path, write=False)
            self._descriptor = self._custody.take(descriptor)

    def __enter__(self) -> "SnapshotFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self) -> int:
        """Bytes of the file."""
        with self._custody, storage_errors(self.path, "reading"):
            return self._files.size(self._descriptor)

    def read(self, *, size: int, offset: int) -> bytes:
        """So many bytes from there; fewer only where the file ends."""
        with self._custody, storage_errors(self.path, "reading"):
            return self._files.read(self._descriptor, size=size, offset=offset)

    def sync(self) -> None:
        """Make durable what is read from it."""
        with self._custody, storage_errors(self.path, "syncing"):
            self._files.sync(self._descriptor)

    def blocks(self) -> Iterator[bytes]:
        """All of it, from the beginning."""
        offset = 0
        while block := self.read(size=BLOCK_BYTES, offset=offset):
            yield block
            offset += len(block)

    def close(self) -> None:
        """Give it up; whoever is inside a call closes it when that returns.  Idempotent."""
        self._custody.close()
        on_close, self.on_close = self.on_close, None
        if on_close:
            on_close(self)


class GrowingFile(SnapshotFile):
    """A new file that is written from beginning to end, and then published under its finished name, or discarded."""

    def __init__(self, files: Files, path: Path, *, within: Custody | None = None) -> None:
        super().__init__(files, path, create=True, within=within)
        self._within = within
        self._written = 0
        self._started = 0
        """Up to where the disk has been asked to begin."""
        self._unsynced = 0
        self._failed = False
        self._is_partial = True

    def put(self, block: bytes | bytearray, *, needed: int = 0) -> None:
        """Write these bytes behind the others; ``needed``: how many are to come, where that is known.

        Raises StorageFull, StorageError, and after one of them AssertionError.
        """
        with self._work("writing", needed=max(needed, len(block))):
            self._files.write(self._descriptor, block, offset=self._written)
            self._written += len(block)
            self._unsynced += len(block)
            if self._unsynced >= SYNC_BYTES:
                self._sync()
            elif self._written - self._started >= START_BYTES:
                self._start_writing()

    def publish(self, target: Path) -> None:
        """Make it durable, then visible under this name, durably; then close it.

        Raises StorageFull and StorageError: there is nothing under that name then, unless it was the last step that
        failed, the sync of the directory.  What is there then is complete, but a power cut may take it.
        """
        with self._work("publishing", needed=0):
            self._sync()
            self._files.rename(self.path, target)
            self._is_partial = False
            self._files.sync_directory(target.parent)
        self.close()

    def discard(self) -> None:
        """Close, and remove it unless it was published.  Never raises."""
        self.close()
        if self._is_partial:
            self._is_partial = False
            with contextlib.suppress(OSError), staying(self._within):
                self._files.remove(self.path)

    def _start_writing(self) -> None:
        self._files.start_writing(self._descriptor, size=self._written - self._started, offset=self._started)
        self._started = self._written

    def _sync(self) -> None:
        if self._unsynced:
            self._files.sync(self._descriptor)
            self._started, self._unsynced = self._written, 0

    @contextlib.contextmanager
    def _work(self, operation: str, *, needed: int) -> Iterator[None]:
        with self._custody:
            if self._failed:
                raise AssertionError(f"a write to {self.path} has failed: nobody knows what the disk holds")
            try:
                with storage_errors(self.path, operation, needed=needed):
                    yield
            except BaseException:
                self._failed = True
                raise


def staying(custody: Custody | None) -> contextlib.AbstractContextManager[None]:
    """``Custody.staying``, if there is one."""
    return contextlib.nullcontext() if custody is None else custody.staying()


# ---------------------------------------------------------------------------------------------- verifying


def verify_snapshot(
    path: Path,
    *,
    cluster_id: str | None = None,
    progress: Progress | None = None,
    files: Files | None = None,
) -> StoredSnapshot:
    """Read a snapshot from beginning to end and check all of it, wherever it is; nothing is changed.

    With ``cluster_id``, another cluster's is refused, as soon as its header was read.  Raises SnapshotCorrupt,
    IncompatibleVersion, DirectoryMismatch, StorageError (its ``__cause__`` is FileNotFoundError if there is none).
    """
    parser = SnapshotParser()
    with SnapshotFile(files or OsFiles(), path) as file, snapshot_errors(path):
        total = file.size()
        for block in file.blocks():
            parser.feed(block)
            if cluster_id is not None and parser.meta:
                require_cluster(path, parser.meta, cluster_id)
            if progress:
                progress(parser.size, total)
        return stored(parser, path)


def stored(parser: SnapshotParser, path: Path) -> StoredSnapshot:
    """What a parser has read, if it was a whole snapshot.  Raises BadSnapshot if not."""
    parser.check_end()
    if parser.meta is None:
        raise AssertionError("the parser has come to the end without a header")
    return StoredSnapshot(parser.meta, parser.size, parser.digest, str(path))


def is_gone(error: StorageError) -> bool:
    """Is it only that there is no such file?"""
    return isinstance(error.__cause__, FileNotFoundError)
