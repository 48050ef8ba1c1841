"""Who closes the files: the last user, whoever that is.

A write on a hung disk outlives the node that asked for it: the node abandons the thread and closes.  If closing
took the descriptor away, its number would be reused, and the thread's next write would land in some other file; if
it gave up the directory's lock, the next node would write beside a write that may still happen.  So descriptors and
lock belong to a ``Custody``, threads enter it while they work, and ``close`` only ends the owner's own share.

House rule: descriptors of the store are closed here and nowhere else.
"""

import threading
from pathlib import Path
from types import TracebackType

import trio

from trio_raft._storage.files import Files

_lingering: set["Custody"] = set()
_lingering_mutex = threading.Lock()


def is_lingering(directory: Path) -> bool:
    """Does a write of a store that was closed in this process still hold the directory?"""
    with _lingering_mutex:
        return any(custody.directory == directory for custody in _lingering)


class Custody:
    """Counts the users of one store's descriptors.  ``with custody:`` makes the caller one, in whichever thread.

    ``what`` it is of, in words, with ``directory``; a snapshot has a custody of its own, and its file in place of that.
    """

    def __init__(self, files: Files, directory: Path, *, what: str = "the log in") -> None:
        self._files = files
        self.directory = directory
        self._what = what
        self._mutex = threading.Lock()
        self._users = 0
        self._closed = False
        self._descriptors: set[int] = set()

    def take(self, descriptor: int) -> int:
        """Own this descriptor from now on.  Only for users."""
        with self._mutex:
            self._descriptors.add(descriptor)
        return descriptor

    def give_up(self, descriptor: int) -> None:
        """Close one descriptor that nobody uses any more."""
        with self._mutex:
            self._descriptors.remove(descriptor)
        self._files.close(descriptor)

    def close(self) -> None:
        """End the owner's share; never waits.  The last user closes everything, perhaps right here.  Idempotent."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._users:
                with _lingering_mutex:
                    _lingering.add(self)
                return
        self._close_all()

    def __enter__(self) -> None:
        with self._mutex:
            if self._closed:
                raise trio.ClosedResourceError(f"{self._what} {self.directory} is closed")
            self._users += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._mutex:
            self._users -= 1
            if self._users or not self._closed:
                return
        self._close_all()
        with _lingering_mutex:
            _lingering.discard(self)

    def _close_all(self) -> None:
        while self._descriptors:
            self._files.close(self._descriptors.pop())
