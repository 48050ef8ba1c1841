"""Segments as files: their names, how one is made ready before anybody needs it, and how it goes.

A segment is prepared off the writer's path: created, its name made durable, then filled with zeros in slices, each
synced before the next.  Blocks that were written before make a later sync cheap, since only data changes, never the
file's length or layout; and a full disk is noticed here, where it is no failure yet.  Slices are small, so that the
writer's sync never queues behind a large one.

Where batches are large the zeros would be half of all that the disk has to write, and the writer would wait for them.
Then the room is only *allocated*, in one slice: it reads as zeros too, and what a sync has to write besides is little
beside the batch.  Measured with batches of a mebibyte, that doubles the throughput; with those of a quarter of that and
less, the syncs are slower.

The oldest segment goes first, and its name is durably gone before the next one is removed: no crash leaves a gap.

House rule: one segment is prepared completely before the next is created.  So only the newest file of all may be
short, and recovery can tell a shortened one.
"""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

import attrs

from trio_raft._storage.custody import Custody
from trio_raft._storage.files import Files, storage_errors

SLICE_BYTES = 1 << 20
"""Zeros written and synced at a time."""

FEW_BATCHES = 32
"""Where a segment takes fewer batches, they are large: it is allocated instead of filled."""

SEGMENTS_READY = 2
"""Prepared segments that upkeep keeps ahead of the writer."""

_ZEROS = bytes(SLICE_BYTES)
_NAME = re.compile(r"log-([0-9]{16})\.segment")


def segment_path(directory: Path, number: int) -> Path:
    """The file of a segment; sorted by name they are sorted by number."""
    return directory / f"log-{number:016d}.segment"


def segment_numbers(files: Files, directory: Path) -> list[int]:
    """The segments in a directory, ascending; files with other names are none of our business."""
    matches = map(_NAME.fullmatch, files.list_directory(directory))
    return sorted(int(match[1]) for match in matches if match)


@attrs.frozen
class Segment:
    """A segment that is full of zeros, or that is being written."""

    number: int
    path: Path
    descriptor: int
    length: int
    """Bytes of the file."""


@attrs.define
class Preparation:
    """One slice of the work on a segment that will be needed."""

    path: Path
    number: int
    length: int
    descriptor: int | None
    """None: the slice is to create the file, and puts its descriptor here."""
    offset: int = 0
    size: int = 0
    """Bytes to fill at ``offset``."""
    allocate: bool = False
    """Only allocate them, and write no zeros."""


@attrs.define
class Removal:
    """The slice that removes a segment: a name, whatever its length."""

    path: Path
    number: int
    removed: bool = False
    """By an attempt whose sync then found no room: only that is left to do."""


Upkeep = Preparation | Removal
"""One slice of work ahead of the writer, or behind the oldest entry."""


def run_slice(upkeep: Upkeep, files: Files, custody: Custody) -> None:
    """Do one slice.  Raises StorageFull, after which the same slice may be done again, or StorageError."""
    match upkeep:
        case Preparation():
            with storage_errors(upkeep.path, "preparing", needed=upkeep.length - upkeep.offset):
                if upkeep.descriptor is None:
                    upkeep.descriptor = _create(upkeep.path, files, custody)
                else:
                    _fill(upkeep.descriptor, upkeep, files)
        case Removal():
            # Some file systems need room even for that.
            with storage_errors(upkeep.path, "removing", needed=0):
                if not upkeep.removed:
                    files.remove(upkeep.path)
                    upkeep.removed = True
                files.sync_directory(upkeep.path.parent)


def _fill(descriptor: int, upkeep: Preparation, files: Files) -> None:
    if upkeep.allocate and files.allocate(descriptor, size=upkeep.size, offset=upkeep.offset):
        files.sync(descriptor)
        return
    end = upkeep.offset + upkeep.size
    for offset in range(upkeep.offset, end, SLICE_BYTES):
        files.write(descriptor, _ZEROS[: end - offset], offset=offset)
        files.sync(descriptor)


def next_slice(done: Preparation, *, batch_bytes: float = 0) -> Preparation | None:
    """The slice after this one, or None: the segment is ready.  ``batch_bytes`` is what a batch comes to at present."""
    offset = done.offset + done.size
    rest = done.length - offset
    if not rest:
        return None
    allocate = batch_bytes * FEW_BATCHES > done.length
    return attrs.evolve(done, offset=offset, size=rest if allocate else min(SLICE_BYTES, rest), allocate=allocate)


def as_segment(done: Preparation) -> Segment:
    """The segment whose last slice this was."""
    if done.descriptor is None or done.offset + done.size != done.length:
        raise AssertionError(f"{done.path} is not prepared completely")
    return Segment(done.number, done.path, done.descriptor, done.length)


def _create(path: Path, files: Files, custody: Custody) -> int:
    descriptor = custody.take(files.create(path))
    try:
        files.sync_directory(path.parent)
    except OSError:
        custody.give_up(descriptor)
        with contextlib.suppress(OSError):
            files.remove(path)
        raise
    return descriptor


def write_zeros(files: Files, descriptor: int, *, start: int, end: int) -> None:
    """Overwrite a range; the caller syncs."""
    for offset in range(start, end, SLICE_BYTES):
        files.write(descriptor, _ZEROS[: end - offset], offset=offset)


def discard_segments(files: Files, directory: Path, numbers: Iterable[int]) -> None:
    """Remove segments in this order, each durably before the next.

    What holds nothing goes from the newest to the oldest, what is covered by a snapshot from the oldest to the newest:
    then no crash leaves a gap in the numbers.
    """
    for number in numbers:
        files.remove(segment_path(directory, number))
        files.sync_directory(directory)
