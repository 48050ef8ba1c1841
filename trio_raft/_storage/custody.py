"""Who closes the files: the last user, whoever that is.

A write on a hung disk outlives the node that asked for it: the node abandons the thread and closes.  If closing
took the descriptor away, its number would be reused, and the thread's next write would land in some other file; if
it gave up the directory's lock, the next node would write beside a write that may still happen.  So descriptors and
lock belong to a ``Custody``, threads enter it while they work, and ``close`` only ends the owner's own share.

A snapshot's file has a custody of its own, *within* that of the log beside it while it is written: the thread that
does is a user of both, so that the directory stays locked until it has returned, too.

House rule: descriptors of the store are closed here and nowhere else.
"""

import contextlib
import threading
from collections.abc import Iterator
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

    ``what`` it is of, in words, with ``directory``; a snapshot has a custody of its own, and its file in place of that,
    and while it is written is ``within`` that of the data directory.
    """

    def __init__(
        self, files: Files, directory: Path, *, what: str = "the log in", within: "Custody | None" = None
    ) -> None:
        self._files = files
        self.directory = directory
        self._what = what
        self._within = within
        self._mutex = threading.Lock()
        self._users = 0
        self._stays = 0
        """Of the users: those that are users of the surrounding custody, too."""
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

    @contextlib.contextmanager
    def staying(self) -> Iterator[None]:
        """Work beside the owner's in the same directory: what is in custody stays as it is until that has ended.

        Unlike entering this may begin after ``close``.  With nobody left inside there is nothing that could stay.
        """
        stays = self.stay()
        try:
            yield
        finally:
            if stays:
                self.leave()

    def __enter__(self) -> None:
        stays = self._within is not None and self._within.stay()
        try:
            with self._mutex:
                if self._closed:
                    raise trio.ClosedResourceError(f"{self._what} {self.directory} is closed")
                self._users += 1
                self._stays += stays
        except BaseException:
            if stays and self._within is not None:
                self._within.leave()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.leave()
        finally:
            with self._mutex:
                stayed = self._stays > 0
                self._stays -= stayed
            if stayed and self._within is not None:
                self._within.leave()

    def stay(self) -> bool:
        """Become a user as long as there is something in custody; False if there is not."""
        with self._mutex:
            there = self._users > 0 or not self._closed
            self._users += there
        return there

    def leave(self) -> None:
        """End that; the last user of something that was closed closes it."""
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
