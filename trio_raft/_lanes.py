"""Blocking work in worker threads: ``RunBlocking`` as production uses it.

Each *lane* runs one piece of work at a time, in order of arrival, whatever the other lanes or the application's own
threads do: on Trio's shared limiter a log write queues behind them, and forty busy user threads delayed one by more
than a second.

The way to the disk and back is travelled by every batch of every node, so it is as short as it can be made: a thread of
the lane's own that waits at a queue, and a socket pair that rings when it is done.  ``trio.to_thread.run_sync`` takes
the long way round through its limiter, a copy of the context and the entry queue, which wakes a task that wakes a task.
Measured with a write and a sync, a call costs 120 µs of processor time instead of 220; Trio's bare thread cache, which
gives a thread its name anew for each piece of work, 175.  The lanes in which the application's own code runs keep
``to_thread``, for what that may expect of its thread.

House rule: cancelled, a call leaves its thread behind, since a hung disk must not hold up closing.  The lane stays
taken until that thread returns, and the thread keeps only immutable plans and counted handles, never live state (see
``_storage/wal.py``).
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

import trio

from trio_raft._environment import Environment, Lane, TrioClock, seeded_by_the_system

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

USER_CODE = frozenset({Lane.SNAPSHOT, Lane.RESTORE})
"""Lanes in which the state machine's own code runs."""


class ThreadLanes:
    """``RunBlocking`` in worker threads.  ``close`` it when its node has ended."""

    def __init__(self) -> None:
        """Raises OSError if there are no descriptors left: at the start of a node, not when it first reads."""
        self._limiters = {lane: trio.CapacityLimiter(1) for lane in USER_CODE}
        self._threads: dict[Lane, _LaneThread] = {}
        try:
            for lane in Lane:
                if lane not in USER_CODE:
                    self._threads[lane] = _LaneThread(f"trio_raft {lane.value}")
        except BaseException:
            self.close()
            raise

    async def __call__(self, lane: Lane, function: Callable[[*Ts], T], /, *args: *Ts) -> T:
        if lane in USER_CODE:
            return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=self._limiters[lane])
        return await self._threads[lane].run(partial(function, *args))

    def close(self) -> None:
        """Nobody will call any more; what a thread still needs is closed by that thread.  Twice is fine."""
        for thread in self._threads.values():
            thread.close()


class _LaneThread:
    """One piece of work at a time, in a thread that starts with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turns = trio.Lock()
        self._thread: threading.Thread | None = None
        self._work = SimpleQueue[Callable[[], Any] | None]()
        """At most one piece, and at the end None."""
        self._working = False
        """Is the thread at work, for a caller that waits or for one that was cancelled?  The thread itself ends it."""
        self._result: Any = None
        self._error: BaseException | None = None
        self._bell, self._rope = socket.socketpair()
        for end in (self._bell, self._rope):
            end.setblocking(False)
        self._closed = False
        self._ending = threading.Lock()
        """Held while the thread says that it is done, and while the pair is closed: else it might ring with a
        descriptor that is somebody else's by then."""

    # Protected: Ctrl-C between the note that the thread works and its start would leave a lane that waits for ever.
    @trio.lowlevel.enable_ki_protection
    async def run(self, function: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._turns.acquire_nowait()
        except trio.WouldBlock:
            await self._turns.acquire()
        try:
            await self._wait_until_free()
            self._start(function)
            await self._wait_until_free()
            result: T = self._result
            error, self._result, self._error = self._error, None, None
        finally:
            self._turns.release()
        if error is not None:
            try:
                raise error
            finally:
                del error  # It leads to this frame, which would lead to it.
        return result

    def _start(self, function: Callable[[], T]) -> None:
        if self._thread is None:
            # May raise, where the system gives no further thread: then nothing has changed.
            thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._working = True
        self._work.put(function)

    def _serve(self) -> None:
        """The thread: one piece of work after the other, until ``close``."""
        take = self._work.get
        while (function := take()) is not None:
            result = error = None
            try:
                result = function()
            except BaseException as problem:  # Whatever it is, it is the caller's: this thread goes on.
                error = problem
            # What a piece of work holds must not outlive it: a plan to read pins files.
            del function
            self._deliver(result, error)
            del result, error

    def _deliver(self, result: Any, error: BaseException | None) -> None:
        with self._ending:
            self._result, self._error = result, error
            self._working = False
            if self._closed:
                self._close_pair()
            else:
                with suppress(BlockingIOError):  # So full of rings that one more would tell nothing.
                    self._rope.send(b"\0")

    def close(self) -> None:
        """Nobody will call any more."""
        with self._ending:
            self._closed = True
            self._work.put(None)
            if not self._working:
                self._close_pair()

    def _close_pair(self) -> None:
        self._bell.close()
        self._rope.close()

    async def _wait_until_free(self) -> None:
        while self._working:
            await trio.lowlevel.wait_readable(self._bell)
            # It may be the ringing of an earlier call, whose end was seen before it was heard.
            with suppress(BlockingIOError):
                self._bell.recv(64)


def real_environment(lanes: ThreadLanes) -> Environment:
    """Trio's clock, a generator seeded by the system, worker threads."""
    return Environment(clock=TrioClock(), random=seeded_by_the_system(), run_blocking=lanes)
