"""Copies of a snapshot for an operator: as it is, or for another cluster.

Both check the source from beginning to end while they copy, and end as the store's own snapshots do: the copy becomes
visible whole and durable, or not at all (S7).  ``snapshot_path`` says how a copy in a data directory must be called.

House rule: the source is never changed, and nothing that exists is replaced.
"""

from collections.abc import Iterator
from pathlib import Path

import attrs

from trio_raft._errors import StorageError
from trio_raft._storage.files import Files, OsFiles
from trio_raft._storage.snapshot_files import (
    PARTIAL,
    GrowingFile,
    Progress,
    SnapshotFile,
    is_gone,
    snapshot_errors,
    stored,
)
from trio_raft._storage.snapshot_format import SnapshotEncoder
from trio_raft._storage.snapshot_parsing import SnapshotParser
from trio_raft.abc import SnapshotConfiguration, SnapshotMeta, StoredSnapshot


def copy_snapshot(
    source: Path, target: Path, *, progress: Progress | None = None, files: Files | None = None
) -> StoredSnapshot:
    """Copy it byte for byte.

    Raises SnapshotCorrupt, IncompatibleVersion, StorageFull, StorageError, also if ``target`` exists.
    """
    files = files or OsFiles()
    _require_free(files, target)
    parser = SnapshotParser()
    with SnapshotFile(files, source) as reading:
        writing = GrowingFile(files, _partial(target))
        try:
            for block in _checked_blocks(reading, parser, progress):
                writing.put(block)
            with snapshot_errors(source):
                copied = stored(parser, target)
            writing.publish(target)
        finally:
            writing.discard()
    return copied


def rewrite_snapshot(
    source: Path,
    target: Path,
    *,
    cluster_id: str,
    configuration: SnapshotConfiguration,
    progress: Progress | None = None,
    files: Files | None = None,
) -> StoredSnapshot:
    """Copy the state under a header with another cluster and configuration; index, term and version stay.

    Raises SnapshotCorrupt, IncompatibleVersion, StorageFull, StorageError, also if ``target`` exists.
    """
    files = files or OsFiles()
    _require_free(files, target)
    with SnapshotFile(files, source) as reading:
        writing = GrowingFile(files, _partial(target))
        try:
            encoder = _rewrite(reading, writing, cluster_id, configuration, progress)
            writing.publish(target)
        finally:
            writing.discard()
    return StoredSnapshot(encoder.meta, encoder.size, encoder.digest, str(target))


def _rewrite(
    reading: SnapshotFile,
    writing: GrowingFile,
    cluster_id: str,
    configuration: SnapshotConfiguration,
    progress: Progress | None,
) -> SnapshotEncoder:
    parser = SnapshotParser(keep_state=True)
    encoder: SnapshotEncoder | None = None
    offset, total = 0, reading.size()
    for block in reading.blocks():
        with snapshot_errors(reading.path):
            states = parser.feed(block)
        if encoder is None and parser.meta:
            encoder = SnapshotEncoder(_changed(parser.meta, cluster_id, configuration))
            writing.put(encoder.header())
        for state in states:
            _put_all(writing, encoder, state)
        offset += len(block)
        if progress:
            progress(offset, total)
    with snapshot_errors(reading.path):
        parser.check_end()
    if encoder is None:
        raise AssertionError("a whole snapshot without a header")
    for last in encoder.end():
        writing.put(last)
    return encoder


def _changed(meta: SnapshotMeta, cluster_id: str, configuration: SnapshotConfiguration) -> SnapshotMeta:
    return attrs.evolve(meta, cluster_id=cluster_id, configuration=configuration)


def _put_all(writing: GrowingFile, encoder: SnapshotEncoder | None, state: bytes) -> None:
    if encoder is None:
        raise AssertionError("state before the header")
    for block in encoder.add(state):
        writing.put(block)


def _checked_blocks(reading: SnapshotFile, parser: SnapshotParser, progress: Progress | None) -> Iterator[bytes]:
    total = reading.size()
    for block in reading.blocks():
        with snapshot_errors(reading.path):
            parser.feed(block)
        yield block
        if progress:
            progress(parser.size, total)


def _partial(target: Path) -> Path:
    return target.with_name(target.name + PARTIAL)


def _require_free(files: Files, target: Path) -> None:
    try:
        SnapshotFile(files, target).close()
    except StorageError as error:
        if not is_gone(error):
            raise
    else:
        raise StorageError(target, "creating", "a file of that name exists")
