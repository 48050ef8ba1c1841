"""Rounds: every system once in each, in an order that moves on, so that the machine's slow drifts hit all alike.

One cluster lives for one visit. A system that fails in one round is said, and has no row there; the others go on.
"""

import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import attrs

from .children import BenchmarkFailed, progress
from .systems import Cluster, System
from .tables import Row

WARM_UP_CALLERS, WARM_UP_SECONDS = 16, 0.5


@attrs.frozen(kw_only=True)
class Plan:
    """What the command line asks for."""

    systems: Sequence[System]
    callers: Sequence[int]
    rounds: int
    seconds: float
    minutes: float
    rate: int
    command_bytes: int
    directory: Path


@attrs.define
class Results:
    """What was measured so far; an interruption leaves it whole."""

    rows: list[Row] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)
    """What went wrong; nothing of it is in the rows."""


@attrs.frozen(kw_only=True)
class Visit:
    """One cluster in one round."""

    system: System
    round: int
    cluster: Cluster
    leader: str
    results: Results

    def note(self, figures: Row, **labels: int | str) -> None:
        """Keep one row."""
        self.results.rows.append({"system": self.system.name, **labels, **figures, "round": self.round})

    def say(self, text: str) -> None:
        """One line for whoever waits."""
        progress(f"round {self.round}, {self.system.name}: {text}")


async def each_visit(
    plan: Plan, results: Results, measure: Callable[[Visit], Awaitable[None]], *, size: int = 3
) -> None:
    """Measure every system in every round, on a new cluster each time."""
    for number in range(plan.rounds):
        first = number % len(plan.systems)
        for system in [*plan.systems[first:], *plan.systems[:first]]:
            directory = plan.directory / f"{number}-{system.name}-{size}"
            directory.mkdir()
            try:
                async with system.start(directory, size) as cluster:
                    leader = await cluster.leader()
                    visit = Visit(system=system, round=number + 1, cluster=cluster, leader=leader, results=results)
                    await measure(visit)
            except BenchmarkFailed as failure:
                results.failures.append(f"round {number + 1}, {system.name}: {failure}")
                progress(results.failures[-1])
            finally:
                shutil.rmtree(directory)


async def warm_up(cluster: Cluster, leader: str, command_bytes: int) -> None:
    """Connections, caches and the system's own batching have seen load."""
    await cluster.load(leader, callers=WARM_UP_CALLERS, seconds=WARM_UP_SECONDS, command_bytes=command_bytes)
