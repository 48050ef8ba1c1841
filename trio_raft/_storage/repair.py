"""Opening a directory: locking it, beginning a new log, or making good what a crash left.

``recovery`` has judged everything before a byte is changed here.  Each step leaves the directory such that opening it
again comes to the same result, so a crash in the middle is no different from one before.

House rule: whatever was found to be there is durable when this module is done.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from trio_raft._errors import DirectoryInUse, StorageFull
from trio_raft._storage.custody import Custody, is_lingering
from trio_raft._storage.files import Files, LockHeld, directory_errors, storage_errors
from trio_raft._storage.format import Description, encode_description
from trio_raft._storage.found import Found
from trio_raft._storage.segments import (
    Preparation,
    Segment,
    as_segment,
    discard_segments,
    next_slice,
    run_slice,
    segment_path,
    write_zeros,
)

LOCK_NAME = "lock"
"""Of the file in a data directory that a node locks."""


def lock_directory(files: Files, custody: Custody, directory: Path, *, needed: int) -> None:
    """Create the directory if need be, and make it ours.  ``needed``: bytes that a new log will take.

    Raises DirectoryInUse, ConfigurationError, StorageError, StorageFull.
    """
    try:
        with directory_errors(directory, needed=needed):
            files.make_directory(directory)
            custody.take(files.lock(directory / LOCK_NAME))
    except LockHeld as error:
        lingering = "a write of the previous node has not returned"
        raise DirectoryInUse(directory, lingering if is_lingering(directory) else error.holder) from None
    except StorageFull as error:
        raise StorageFull(directory, needed, starting=True) from error.__cause__


def repair(
    files: Files, custody: Custody, directory: Path, found: Found, *, behind_gap: Sequence[int] = ()
) -> Segment | None:
    """Discard what was never used, cut what was torn, and go on in the active segment, if there is one.

    ``behind_gap``: numbers of older segments, ascending, that nothing connects with the log.  Raises StorageError.
    """
    with storage_errors(directory, "discarding unused segments"):
        if behind_gap:
            # On account of a snapshot, whose name the directory may not hold durably yet (S7).
            files.sync_directory(directory)
        discard_segments(files, directory, [*sorted(found.unused, reverse=True), *behind_gap])
    if found.active is None:
        return None
    number, length = found.active.segment_number, found.active.segment_bytes
    path = segment_path(directory, number)
    with storage_errors(path, "repairing"):
        descriptor = custody.take(files.open(path, write=True))
        if found.torn and found.torn.number == number:
            write_zeros(files, descriptor, start=found.end, end=length)
        # What was read may not be on disk: the process may have died before its sync, or the sync may have failed,
        # after which the system believes the pages clean.  Only writing them again makes the next sync count.
        files.write(descriptor, found.last_batch, offset=found.end - len(found.last_batch))
        files.sync(descriptor)
    return Segment(number, path, descriptor, length)


def begin(
    files: Files, custody: Custody, directory: Path, description: Description, *, needed: int
) -> tuple[Segment, int]:
    """A new log: its first segment, active, and where its first batch goes.

    ``needed``: bytes of this segment and of those that are prepared next.  On a disk that is too small for them the
    node would start, and then never lead.  Raises StorageFull, after which nothing is left behind, and StorageError.
    """
    free = _free_bytes(files, directory)
    if free is not None and free < needed:
        raise StorageFull(directory, needed, starting=True)
    number, length = description.segment_number, description.segment_bytes
    path = segment_path(directory, number)
    step: Preparation | None
    step = done = Preparation(path, number, length, descriptor=None)
    try:
        while step is not None:
            run_slice(step, files, custody)
            done, step = step, next_slice(step)
    except StorageFull as error:
        with contextlib.suppress(OSError):
            files.remove(path)
        raise StorageFull(directory, needed, starting=True) from error.__cause__
    segment = as_segment(done)
    batch = encode_description(description, number=1)
    with storage_errors(path, "beginning"):
        files.write(segment.descriptor, batch, offset=0)
        files.sync(segment.descriptor)
    return segment, len(batch)


def _free_bytes(files: Files, directory: Path) -> int | None:
    """None where the file system does not say; then writing finds it out."""
    with contextlib.suppress(OSError):
        return files.free_bytes(directory)
    return None
