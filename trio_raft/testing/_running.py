"""``running_cluster``: a simulated cluster for the length of a block, and the judgement at its end.

House rule: nothing that went wrong inside can be lost.  Whatever was recorded first leaves the block, even if the block
swallowed its cancellation or raised something of its own.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Never, Protocol, TypeVar

import attrs
import trio

from trio_raft.abc import StateMachine
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._healing import heal_and_prove
from trio_raft.testing._settings import ClusterSettings, refuse_unknown
from trio_raft.testing._trace import Trace

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")

LAST_LINES = 20
"""Of the trace, in the notes of an error."""


class StartCluster(Protocol):
    """What the pytest fixture ``raft_cluster`` is: ``running_cluster`` with the test's seed."""

    def __call__(
        self,
        machine: Callable[[], StateMachine[CommandT, ResultT]],
        settings: ClusterSettings | None = None,
        *,
        size: int | None = None,
    ) -> AbstractAsyncContextManager[Cluster[CommandT, ResultT]]:
        """A cluster for the length of a block."""
        ...


@asynccontextmanager
async def running_cluster(
    machine: Callable[[], StateMachine[CommandT, ResultT]],
    settings: ClusterSettings = ClusterSettings(),  # noqa: B008  # frozen
    *,
    size: int | None = None,
    seed: int | str | None = None,
    trace: Trace | None = None,
    **unknown: Never,
) -> AsyncIterator["Cluster[CommandT, ResultT]"]:
    """Run members n1, n2 … for the length of a block, each with a ``machine()`` of its own, and judge them at its end.

    More machines are made to compare states with, if the class defines ``snapshot``.

    Belongs on virtual time: ``trio_raft.testing.run``, or the fixture ``raft_cluster``.  ``size`` and ``seed`` are
    short for changed ``settings``; ``trace`` is yours to read afterwards.

    Raises ``SimulationFailed``: InvariantViolation, NodeFailed, or TooSlow for a wait (the block's own included,
    ``settings.time_limit``) or a cluster that does not recover.  An exception of the block leaves as it is, with the
    seed in a note.
    """
    refuse_unknown("running_cluster", unknown)
    settings = attrs.evolve(
        settings, size=settings.size if size is None else size, seed=settings.seed if seed is None else seed
    )
    cluster: Cluster[CommandT, ResultT] | None = None
    try:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, machine, settings, trace=trace)
            nursery.start_soon(cluster.judge.sweep)
            with cluster.scope:
                await cluster.start()
                yield cluster
                if settings.heals:
                    await heal_and_prove(cluster)
                    cluster.invariants.finish()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The group is the nursery's affair: only the block, or what follows it here, can have raised; but if the whole
        # cluster was cancelled from outside, every task of it says so.
        error = group.exceptions[0] if len(group.exceptions) == 1 else group
        if cluster is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            _raise_failure(cluster)
        if cluster is not None and isinstance(error, Exception):
            _add_notes(error, cluster)
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context
    _raise_failure(cluster)
    if cluster.scope.cancelled_caught:
        late = cluster.too_slow(f"the block did not end within {settings.time_limit:g} virtual seconds (time_limit)")
        _add_notes(late, cluster)
        raise late


def _raise_failure(cluster: Cluster[Any, Any]) -> None:
    """Raises what was recorded first, if anything was."""
    if cluster.judge.failure is not None:
        _add_notes(cluster.judge.failure, cluster)
        raise cluster.judge.failure


def _add_notes(error: BaseException, cluster: Cluster[Any, Any]) -> None:
    """The seed, how to repeat the run, and what happened last."""
    last = "\n".join(f"  {line}" for line in cluster.trace.lines(last=LAST_LINES))
    error.add_note(f"simulated cluster, seed {cluster.seed}; what happened last:\n{last}")
    if cluster.settings.repeat:
        error.add_note(cluster.settings.repeat)
