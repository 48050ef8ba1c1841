"""What a server asks of its snapshot store, in threads; and what becomes of it when nobody waits for the thread.

A task that is cancelled while a thread works for it learns nothing of what the thread makes: a file, say, that is open
and only partly written.  It must go all the same.  So whatever was begun and not finished is a *leftover*, removed by
another turn in the same lane, which comes when the first thread has returned.  While a disk hangs leftovers wait, and
so does whoever cleans up; closing bounds that.

House rule: a store may be the user's.  What it raises beside errors of this package is a StorageError with its name.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import attrs
import trio

from trio_raft._environment import Lane, RunBlocking
from trio_raft._errors import RaftError, StorageError, StorageFull, error_text, leaves
from trio_raft.abc import (
    SnapshotMeta,
    SnapshotReader,
    SnapshotReceiver,
    SnapshotStore,
    SnapshotWriter,
    StoredSnapshot,
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
UnfinishedT = TypeVar("UnfinishedT", SnapshotWriter, SnapshotReceiver)


class SnapshotWork:
    """The blocking work on one server's snapshots."""

    def __init__(self, store: SnapshotStore, run_blocking: RunBlocking) -> None:
        self.store = store
        self._run_blocking = run_blocking
        self._leftovers: deque[Callable[[], None]] = deque()

    async def run(self, lane: Lane, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """Call the function in that lane.  Raises errors of this package only, AssertionError for its own bugs."""
        try:
            return await self._run_blocking(lane, function, *args)
        except (RaftError, AssertionError, trio.ClosedResourceError):
            raise
        except Exception as error:
            raise StorageError(Path(type(self.store).__name__), "work", error_text(error)) from error

    async def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """``SnapshotStore.begin``.  Cancelled: what it made is a leftover."""
        return await self._make(partial(self.store.begin, meta))

    async def receive(self, *, size: int, digest: str) -> SnapshotReceiver:
        """``SnapshotStore.receive``.  Cancelled: what it made is a leftover."""
        return await self._make(partial(self.store.receive, size=size, digest=digest))

    async def _make(self, make: Callable[[], UnfinishedT]) -> UnfinishedT:
        made: list[UnfinishedT] = []

        def make_it() -> None:
            made.append(make())

        def remove_it() -> None:
            for unfinished in made:
                unfinished.abort()

        try:
            await self.run(Lane.SNAPSHOT, make_it)
        except Exception:
            raise
        except BaseException:
            # The thread may be at it still: the removal looks at what there is when its turn has come.
            self._leftovers.append(remove_it)
            raise
        return made[0]

    async def read(self, snapshot: StoredSnapshot) -> SnapshotReader:
        """``SnapshotStore.read``.  Cancelled: a file that is opened all the same is closed at once."""
        opening = _Opening(self.store, snapshot)
        try:
            return await self.run(Lane.TRANSFER, opening.open)
        except BaseException:
            opening.give_up()
            raise

    # ------------------------------------------------------------------------------------ removing

    def give_up(self, unfinished: SnapshotWriter | SnapshotReceiver) -> None:
        """It will not be finished: ``clean_up`` removes it."""
        self._leftovers.append(unfinished.abort)

    async def clean_up(self) -> None:
        """Remove what was given up, once the threads at work on it have returned.  Cancelled: try again later."""
        while self._leftovers:
            leftover = self._leftovers[0]
            await self.run(Lane.SNAPSHOT, leftover)
            # Somebody else may have cleaned up meanwhile; to remove a thing twice does nothing.
            if self._leftovers and self._leftovers[0] is leftover:
                self._leftovers.popleft()

    @property
    def has_leftovers(self) -> bool:
        """Is there something to clean up?"""
        return bool(self._leftovers)


@attrs.define(eq=False)
class _Opening:
    """A file that a thread opens for a task, which may have gone when it is open."""

    _store: SnapshotStore
    _snapshot: StoredSnapshot
    _mutex: threading.Lock = attrs.field(init=False, factory=threading.Lock)
    _reader: SnapshotReader | None = attrs.field(init=False, default=None)
    _given_up: bool = attrs.field(init=False, default=False)

    def open(self) -> SnapshotReader:
        """In the thread."""
        reader = self._store.read(self._snapshot)
        with self._mutex:
            self._reader = reader
            unwanted = self._given_up
        if unwanted:
            reader.close()
        return reader

    def give_up(self) -> None:
        """On the loop: nobody waits for it any more."""
        with self._mutex:
            self._given_up = True
            reader = self._reader
        if reader is not None:
            reader.close()


def why_it_failed(error: BaseException) -> str:
    """One line for an event.  The texts of storage errors speak of the log and of a node that stopped; this had no
    such consequence."""
    return "; ".join(dict.fromkeys(_reason(leaf) for leaf in leaves(error)))


def _reason(error: BaseException) -> str:
    if isinstance(error, StorageFull):
        return f"the file system of {error.path} has no room for another {error.needed} bytes"
    if isinstance(error, StorageError):
        return f"{error.operation} of {error.path} failed: {error.problem}"
    return error_text(error)
