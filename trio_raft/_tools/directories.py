"""A data directory that is looked into: what is in it, whose it is, and that no node starts on it meanwhile.

A node locks its directory exclusively; who only looks shares that lock.  Sharing it needs a lock file: a directory
without one was never opened by a node here (a copy, say), so it is looked for again before anything is made of it.

House rule: nothing here writes.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from trio_raft._errors import ConfigurationError, DirectoryInUse, IncompatibleVersion
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import BadRecord
from trio_raft._storage.files import Files, LockHeld, OfflineFiles, storage_errors
from trio_raft._storage.format import (
    FORMAT_VERSION,
    MAX_DESCRIPTION_BYTES,
    Description,
    NewerFormat,
    decode_description,
    decode_description_header,
    is_whole,
)
from trio_raft._storage.locations import MAX_SEGMENT_BYTES
from trio_raft._storage.repair import LOCK_NAME
from trio_raft._storage.segments import segment_numbers, segment_path
from trio_raft._storage.snapshot_files import is_partial, point_of
from trio_raft.abc import StoreIdentity

Progress = Callable[[str, int, int], None]
"""Told now and then of long work: what it is, how much of it is done, how much there is."""

NOBODY = StoreIdentity("", ServerId(""), Incarnation(""))
"""Whose a log is in which nothing was ever written."""


def no_progress(_what: str, _done: int, _whole: int) -> None:
    """Nobody wants to know."""


def absolute(path: Path | str) -> Path:
    """From the root on, without ``..``, so that its parent and its name mean what they say."""
    return Path(os.path.abspath(path))


def names_in(files: Files, directory: Path) -> list[str]:
    """What the directory holds.  Raises ConfigurationError if there is no such directory, or it cannot be read."""
    try:
        return files.list_directory(directory)
    except FileNotFoundError as error:
        raise ConfigurationError("", f"{directory} does not exist") from error
    except NotADirectoryError as error:
        raise ConfigurationError("", f"{directory} is not a directory") from error
    except OSError as error:
        raise ConfigurationError("", f"{directory} cannot be read: {error.strerror}") from error


def names_of_node(files: Files, directory: Path) -> list[str]:
    """What a node's data directory holds.

    Raises ConfigurationError if there is no such directory, it cannot be read, or it holds neither a log nor a
    snapshot, finished or not: then it is not a node's, and to find nothing wrong in it would be no answer.
    """
    names = names_in(files, directory)
    if not (segment_numbers(files, directory) or any(map(point_of, names)) or any(map(is_partial, names))):
        raise ConfigurationError("", f"{directory} is no node's data directory: it holds neither a log nor a snapshot")
    return names


def is_there(files: Files, directory: Path) -> bool:
    """Is there anything of that name?"""
    try:
        files.list_directory(directory)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def is_directory(files: Files, path: Path) -> bool:
    """Or is it a file?  Raises ConfigurationError if it is neither, or cannot be read."""
    try:
        files.list_directory(path)
    except NotADirectoryError:
        return False
    except OSError:
        names_in(files, path)
    return True


@contextlib.contextmanager
def held(files: OfflineFiles, directory: Path) -> Iterator[Callable[[], None]]:
    """Keep nodes from starting on the directory; what it yields raises DirectoryInUse if one has all the same.

    Raises DirectoryInUse, ConfigurationError, StorageError.
    """
    names = names_in(files, directory)
    descriptor: int | None = None
    if LOCK_NAME in names:
        with storage_errors(directory / LOCK_NAME, "locking"):
            try:
                descriptor = files.hold(directory / LOCK_NAME)
            except LockHeld as error:
                raise DirectoryInUse(directory, error.holder) from None

    def check() -> None:
        if descriptor is None and LOCK_NAME in names_in(files, directory):
            raise DirectoryInUse(directory, "a node was started on it while it was read")

    try:
        yield check
    finally:
        if descriptor is not None:
            files.close(descriptor)


def is_in_use(files: OfflineFiles, directory: Path) -> bool:
    """Is a node open on it right now?  Raises ConfigurationError, StorageError."""
    try:
        with held(files, directory):
            return False
    except DirectoryInUse:
        return True


def segments_in(files: Files, directory: Path) -> list[int]:
    """The numbers of the log's files, ascending.  Raises ConfigurationError if there are none."""
    names_in(files, directory)
    numbers = segment_numbers(files, directory)
    if not numbers:
        raise ConfigurationError("", f"{directory} holds no log: there is no file log-NUMBER.segment in it")
    return numbers


def descriptions_in(files: Files, directory: Path, numbers: list[int]) -> list[Description]:
    """What the log's files say of themselves, as far as it can be read; a scan judges the rest.

    Raises IncompatibleVersion, StorageError.
    """
    found: list[Description] = []
    for number in numbers:
        path = segment_path(directory, number)
        data = read_file(files, path, most=MAX_DESCRIPTION_BYTES)
        header = decode_description_header(data, segment_number=number)
        if header and is_whole(header, data, 0):
            try:
                found.append(decode_description(data, header))
            except NewerFormat as error:
                raise IncompatibleVersion(str(path), found=error.version, supported=FORMAT_VERSION) from error
            except BadRecord:
                continue
    return found


def identity_of(descriptions: list[Description]) -> StoreIdentity:
    """Whose log this is."""
    if not descriptions:
        return NOBODY
    first = descriptions[0]
    return StoreIdentity(first.cluster_id, first.node_id, first.incarnation)


def read_file(files: Files, path: Path, *, most: int = MAX_SEGMENT_BYTES) -> bytes:
    """The file from its beginning.  Raises StorageError."""
    with storage_errors(path, "reading"):
        descriptor = files.open(path, write=False)
        try:
            return files.read(descriptor, size=min(files.size(descriptor), most), offset=0)
        finally:
            files.close(descriptor)
