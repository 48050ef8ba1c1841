"""The few file operations that storage needs, and the one module that performs them.

Everything above takes a ``Files``, so that a simulated disk can stand in for the real one and lose exactly what
a power cut may lose.  House rules: an operation does one thing, raises ``OSError`` and nothing else, and is never
repeated here after a failure.  Descriptors are plain numbers that somebody else owns (``custody``).

Syncing a file says nothing about its name: whoever creates or removes a file syncs its directory as well.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from trio_raft._errors import ConfigurationError, StorageError, StorageFull

CAN_START_WRITING = hasattr(os, "posix_fadvise")
"""Does ``start_writing`` do anything here?"""
CAN_ALLOCATE = hasattr(os, "posix_fallocate")
"""Does the system allocate without writing?"""

_NO_ALLOCATION = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_NO_DIRECTORY = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS),
        *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    }
)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class LockHeld(Exception):
    """Somebody else has the lock; ``holder`` says who, as far as that is known."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Files(Protocol):
    """What a disk can do.  Sizes and offsets in bytes."""

    def make_directory(self, path: Path) -> bool:
        """Create it, durably, unless it is there; its parent must exist.  Was it created?"""
        ...

    def list_directory(self, path: Path) -> list[str]:
        """The names in it, in no particular order."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the creation, renaming and removal of its files durable."""
        ...

    def lock(self, path: Path) -> int:
        """Take an exclusive lock on this file, creating it if need be; closing the descriptor gives it up.

        Raises LockHeld at once if another descriptor has it, in whichever process.
        """
        ...

    def create(self, path: Path) -> int:
        """Open a new file for reading and writing; one that exists already is an error."""
        ...

    def open(self, path: Path, *, write: bool) -> int:
        """Open a file that exists."""
        ...

    def close(self, descriptor: int) -> None:
        """Close; errors on the way are of no interest, since whatever mattered was synced."""
        ...

    def size(self, descriptor: int) -> int: ...

    def free_bytes(self, directory: Path) -> int | None:
        """What its file system has left for this user, or None where that is not known.

        A hint: others use it up meanwhile, and quotas are not counted.
        """
        ...

    def read(self, descriptor: int, *, size: int, offset: int) -> bytes:
        """So many bytes from there; fewer only where the file ends."""
        ...

    def write(self, descriptor: int, data: bytes | bytearray, *, offset: int) -> None:
        """All of ``data`` to there.  An error leaves open how much was written."""
        ...

    def allocate(self, descriptor: int, *, size: int, offset: int) -> bool:
        """Make the file at least so long, with room for this range, which reads as zeros where nothing was written.

        False, and nothing done, where that is not possible.  An error leaves open how much of it was done.
        """
        ...

    def start_writing(self, descriptor: int, *, size: int, offset: int) -> None:
        """Let the disk begin with what was written there, and do not wait for it: a hint, which promises nothing."""
        ...

    def sync(self, descriptor: int) -> None:
        """Make the file's data and length durable."""
        ...

    def rename(self, path: Path, target: Path) -> None:
        """Give the file another name in the same directory, in one step; a file of that name is replaced."""
        ...

    def remove(self, path: Path) -> None:
        """Remove the name; who has the file open may go on reading it."""
        ...


class OfflineFiles(Files, Protocol):
    """What the tools ask for besides, for directories that no node is open on."""

    def hold(self, path: Path) -> int:
        """Share the lock on this file, which must exist, without writing to it; closing the descriptor gives it up.

        Others may hold it too, but nobody can ``lock`` it meanwhile.  Raises LockHeld at once if somebody has.
        """
        ...

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        ...


class OsFiles:
    """The operating system's files."""

    def make_directory(self, path: Path) -> bool:
        created = not path.is_dir()
        if created:
            os.mkdir(path, 0o700)
            self.sync_directory(path.parent)
        # Better to know now than when the first log file is full.
        elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not readable and writable for this user", str(path))
        return created

    def list_directory(self, path: Path) -> list[str]:
        return os.listdir(path)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # flock belongs to the descriptor, not to the process: it holds between two nodes of one process too.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _lock_held(descriptor) from None
        except BaseException:
            os.close(descriptor)
            raise
        # Only for the message above, at night: the lock itself is what counts.
        os.pwrite(descriptor, f"{os.getpid():<31}\n".encode("ascii"), 0)
        return descriptor

    def hold(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _lock_held(descriptor) from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path, *, write: bool) -> int:
        return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def free_bytes(self, directory: Path) -> int | None:
        found = os.statvfs(directory)
        # Some file systems know neither their size nor what is left of it.
        return found.f_bavail * found.f_frsize if found.f_blocks else None

    def read(self, descriptor: int, *, size: int, offset: int) -> bytes:
        data = os.pread(descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        while data and (size := size - len(data)):
            offset += len(data)
            data = os.pread(descriptor, size, offset)
            parts.append(data)
        return b"".join(parts)

    def write(self, descriptor: int, data: bytes | bytearray, *, offset: int) -> None:
        written = os.pwrite(descriptor, data, offset)
        # The kernel may take a part: that is no failure, the rest follows.
        while written < len(data):
            written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)

    def allocate(self, descriptor: int, *, size: int, offset: int) -> bool:
        if not CAN_ALLOCATE:
            return False
        try:
            os.posix_fallocate(descriptor, offset, size)
        except OSError as error:
            if error.errno in _NO_ALLOCATION:
                return False
            raise
        return True

    def start_writing(self, descriptor: int, *, size: int, offset: int) -> None:
        # On Linux this queues the dirty pages of the range for the disk and drops those that are clean, which pages
        # that were just written are not.  Elsewhere the system begins when it likes, and the next sync has more to do.
        if CAN_START_WRITING:
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def rename(self, path: Path, target: Path) -> None:
        os.rename(path, target)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def remove_directory(self, path: Path) -> None:
        os.rmdir(path)


def _lock_held(descriptor: int) -> LockHeld:
    """Who has it, as far as the file says; gives the descriptor up."""
    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    os.close(descriptor)
    return LockHeld(f"process {holder or 'unknown'} has locked it")


@contextlib.contextmanager
def storage_errors(path: Path, operation: str, *, needed: int | None = None) -> Iterator[None]:
    """Translate an ``OSError`` inside, once: into StorageFull if ``needed`` bytes did not fit, else StorageError.

    Without ``needed`` a full disk is a failure like any other.
    """
    try:
        yield
    except OSError as error:
        if needed is not None and error.errno in _NO_ROOM:
            raise StorageFull(path, needed) from error
        raise StorageError(path, operation, error.strerror or str(error)) from error


@contextlib.contextmanager
def directory_errors(path: Path, *, needed: int) -> Iterator[None]:
    """Translate what goes wrong with the data directory itself, once.

    A path that cannot be a data directory is a ConfigurationError; the rest is as in ``storage_errors``.
    """
    with storage_errors(path, "opening", needed=needed):
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_DIRECTORY:
                raise
            raise ConfigurationError("data_directory", _unusable(path, error)) from error


def _unusable(path: Path, error: OSError) -> str:
    """What to do about it, as far as the operating system's number says."""
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return f"{path} cannot be used: its parent {path.parent} does not exist; create it"
    if error.errno == errno.ENOTDIR:
        return f"{path} cannot be used: its parent {path.parent} is not a directory"
    if error.errno == errno.EEXIST:
        return f"{path} cannot be used: it is a file, not a directory"
    return f"{path} cannot be used: {(error.strerror or str(error)).lower()}; choose a directory that can be written to"
