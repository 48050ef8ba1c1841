"""Everything that runs inside a node, and how it ends.

One shielded scope holds two groups: the *work* (the role loop, the apply task, the connections of peers, the disk's
watchdog and upkeep), and the *journal*, which ends last, so that a write in hand is finished when it can be.  Closing
waits ``close_timeout`` for that, and for reads and upkeep that threads have in hand: after an orderly close the
directory can be opened at once.  Then the threads are abandoned, and the last one keeps the directory's lock until it
returns.

House rule: the role loop starts no role before the last one's nursery has ended, and then does what the state says.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from trio_raft._bootstrap import settle_first_configuration
from trio_raft._election import campaign, follow
from trio_raft._environment import Lane
from trio_raft._errors import (
    IncompatibleVersion,
    LogCorrupt,
    RaftError,
    RaftInternalError,
    SnapshotCorrupt,
    StateMachineError,
    StorageError,
    error_text,
    leaves,
    twin_of,
)
from trio_raft._events import NodeStopped
from trio_raft._leader_loss import LeaderLoss
from trio_raft._leadership import lead
from trio_raft._peers import PeerService
from trio_raft._receiving import SnapshotService
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._startup import Stores

_OWN_ERRORS = (StorageError, LogCorrupt, SnapshotCorrupt, IncompatibleVersion, StateMachineError)
"""Failures of a node that leave its block as themselves."""

LAST_CLEAN_UP = 0.5
"""Seconds; what it takes a thread to finish its piece, and to remove a file, many times over."""

_ROLES = {Role.FOLLOWER: follow, Role.CANDIDATE: campaign, Role.LEADER: lead}


class Services:
    """The tasks of one node."""

    def __init__(
        self,
        server: Server,
        stores: Stores,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        apply: Callable[[], Awaitable[None]],
        take_snapshots: Callable[[], Awaitable[None]],
    ) -> None:
        self._server = server
        self._stores = stores
        self._listeners = list(listeners)
        self._apply = apply
        self._take_snapshots = take_snapshots
        self._scope = trio.CancelScope(shield=True)
        self._work_scope = trio.CancelScope()
        self._journal_scope = trio.CancelScope()
        self.ended = trio.Event()
        """Set when every task has ended."""

    async def aclose(self) -> None:
        """Close in order, within ``close_timeout``.  Cancelled, or interrupted: everything is ended at once."""
        self._server.close(None)
        self._work_scope.cancel()
        try:
            await self.ended.wait()
        except BaseException:
            self._scope.cancel()
            raise

    async def end(self) -> BaseException | None:
        """``aclose``, and wait until every task has ended whatever comes: returns the cancel or Ctrl-C that came."""
        interruption: BaseException | None = None
        while not self.ended.is_set():
            try:
                # Once interrupted nothing is left that could take long.
                with trio.CancelScope(shield=interruption is not None):
                    await self.aclose()
            except BaseException as error:
                interruption = error
        return interruption

    @trio.lowlevel.enable_ki_protection
    async def run(self, body_scope: trio.CancelScope) -> None:
        """Run until ``aclose``, or until something fails: then the body is cancelled.

        Never raises: what went wrong is in ``server.crash``.  Protected, since Ctrl-C in the middle of the way out
        would leave whoever waits for the end waiting for ever.
        """
        server = self._server
        failures: list[BaseException] = []
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_journal, name="journal")
                    await self._run_work(failures)
        except BaseException as error:
            failures.append(error)
        try:
            await self._last_clean_up()
            self._close_stores(failures)
            if failures:
                crash = what_leaves(failures)
                if isinstance(crash, RaftError):
                    server.events.publish(NodeStopped(crash))
                server.crash = crash
                body_scope.cancel()
            server.close(server.crash)
            server.events.close()
        finally:
            self.ended.set()

    async def _last_clean_up(self) -> None:
        """After an end at once: a snapshot that was never finished goes, unless a disk hangs; then the next start
        removes it."""
        work, patience = self._server.snapshots.work, self._server.config.timeouts.close_timeout
        if work.has_leftovers and not self._journal_scope.cancelled_caught:
            with self._server.environment.clock.move_on_after(min(patience, LAST_CLEAN_UP)) as scope:
                scope.shield = True
                await work.clean_up()

    def _close_stores(self, failures: list[BaseException]) -> None:
        """A store may be the user's: what it raises ends the node like any failure, and holds up nobody."""
        try:
            self._stores.close()
        except Exception as error:
            failures.append(error)

    async def _run_work(self, failures: list[BaseException]) -> None:
        """Everything but the journal.  Its failure is noted, so that the journal can still end in order."""
        server = self._server
        receiving = SnapshotService(server)
        service = PeerService(server, receiving.answer, LeaderLoss(server).look)
        try:
            with self._work_scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._apply, name="apply")
                    nursery.start_soon(self._take_snapshots, name="snapshots")
                    nursery.start_soon(receiving.run, name="snapshot installer")
                    nursery.start_soon(server.journal.upkeep, name="upkeep")
                    nursery.start_soon(server.journal.watch, name="disk watch")
                    nursery.start_soon(trio.serve_listeners, service.serve, self._listeners, name="peers")
                    await self._run_roles()
        except* trio.Cancelled:
            raise
        except* BaseException as group:
            failures.append(group)
        receiving.give_up()
        server.close(what_leaves(failures) if failures else None)
        server.journal.close()
        clock = server.environment.clock
        clock.set_deadline(self._journal_scope, clock.now() + server.config.timeouts.close_timeout)

    async def _run_journal(self) -> None:
        with self._journal_scope:
            await self._server.journal.run()
            await self._server.snapshots.work.clean_up()
            # The work has ended, but a thread that it abandoned keeps its lane, and the directory, until it returns.
            for lane in (Lane.PREPARE, Lane.READ, Lane.SNAPSHOT, Lane.TRANSFER):
                await self._server.environment.run_blocking(lane, _nothing)

    async def _run_roles(self) -> None:
        """Run whatever the state says, one at a time: a role ends when a transition cancels its scope."""
        server = self._server
        await settle_first_configuration(server)
        while True:
            with trio.CancelScope() as server.role_scope:
                await _ROLES[server.state.role](server)
            await trio.lowlevel.checkpoint()


def _nothing() -> None:
    """Work whose turn comes once all work before it is done."""


def what_leaves(failures: Sequence[BaseException]) -> BaseException:
    """The one exception that leaves an ``open_node`` block, for everything that went wrong inside the node.

    KeyboardInterrupt and SystemExit bare.  A failure with an error of its own leaves as that error, on a fresh object
    ``from`` the group: so the traceback still shows where the first one was raised, and what caused it.
    """
    group = BaseExceptionGroup("the node failed", list(failures))
    found = leaves(group)
    for leaf in found:
        if isinstance(leaf, KeyboardInterrupt | SystemExit):
            return leaf
    for leaf in found:
        if isinstance(leaf, _OWN_ERRORS):
            fresh = twin_of(leaf)
            fresh.__cause__ = group
            return fresh
    error = RaftInternalError("; ".join(error_text(leaf) for leaf in found))
    error.__cause__ = group
    return error
