"""One run of the swarm, from its seed to its report.

A plan is drawn; the cluster runs under it with clients at work and the nemesis loose; then everything is repaired, and
it has to converge, to serve, and to hold on every disk what a client was told; every key is read once more, and the
whole history has to be linearizable.

House rule: a report says ``ok`` only at the end of all that.  Whatever else happens, an error of the kit included, is
a failed run.
"""

import itertools
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import attrs
import trio

from trio_raft._errors import error_text
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._counting import Counter
from trio_raft.testing._determinism import divide, run
from trio_raft.testing._disk import PowerCut
from trio_raft.testing._disk_faults import DISK_FAULTS
from trio_raft.testing._failures import SimulationFailed
from trio_raft.testing._healing import heal_and_prove, obliged
from trio_raft.testing._linearizability import check_linearizable
from trio_raft.testing._link_faults import LINK_FAULTS
from trio_raft.testing._mutants import MUTANTS
from trio_raft.testing._nemesis import Nemesis
from trio_raft.testing._node_faults import NODE_FAULTS
from trio_raft.testing._running import running_cluster
from trio_raft.testing._snapshot_faults import SNAPSHOT_FAULTS
from trio_raft.testing._swarm import Plan, Wishes, draw_plan
from trio_raft.testing._trace import Trace
from trio_raft.testing._workload import LocalReader, Shelf, Worker, work

STRIKES = NODE_FAULTS | LINK_FAULTS | DISK_FAULTS | SNAPSHOT_FAULTS
"""Every kind of fault, by its name."""

SEARCH_STEPS = 300_000
"""Of the check of the history; a count, not a time, so that every machine comes to the same verdict."""

LINEARIZABLE = "What clients saw is linearizable (Q1, Q3, Q4)"

FINAL_READ_SECONDS = 30.0
"""Virtual seconds for each read of the healed cluster."""

LINES_OF_A_FAILURE = 40
"""Of the trace, in the report of a failed run."""


@attrs.frozen(kw_only=True)
class SeedReport:
    """How one run went."""

    seed: int
    ok: bool
    violation: str
    """What went wrong, in the words of the error; empty if nothing did."""
    judged: bool
    """Was there a judgement of the cluster?  Not if it failed by an error of the kit, which says nothing of it."""
    trace_hash: str
    """The same for each run of the seed."""
    virtual_seconds: float
    counts: Mapping[str, int]
    """Faults by kind (``fault: …``), and what came of them."""
    check: str = ""
    """Which check found that; empty if none did."""
    trace: tuple[str, ...] = ()
    """The last lines of a failed run; all lines if they were asked for."""


def run_seed(
    seed: int,
    *,
    wishes: Wishes = Wishes(),  # noqa: B008  # frozen
    mutant: str | None = None,
    trace: bool = False,
) -> SeedReport:
    """Run one seed, in this process.  ``mutant``: with that deliberate fault; ``trace``: keep every line.

    ValueError: an unknown mutant, or wishes that cannot be met.  Everything that goes wrong inside is reported.
    """
    if mutant is not None and mutant not in MUTANTS:
        raise ValueError(f"there is no mutant {mutant!r}. Known: {', '.join(MUTANTS)}")
    plan = draw_plan(seed, wishes)
    watched = _Run(plan, Trace(keep=None) if trace else Trace())
    failure: BaseException | None = None
    with MUTANTS[mutant].applied() if mutant is not None else nullcontext():
        try:
            with watched.counter.listening():
                run(watched.simulate, seed=seed)
        except (Exception, PowerCut) as error:
            failure = error
    ok = failure is None and watched.proved
    lines = watched.trace.lines() if trace else watched.trace.lines(last=LINES_OF_A_FAILURE)
    return SeedReport(
        seed=seed,
        ok=ok,
        violation="" if ok else _describe(seed, failure),
        judged=ok or (isinstance(failure, SimulationFailed) and failure.judged),
        trace_hash=watched.trace.digest(),
        virtual_seconds=watched.virtual_seconds,
        counts=dict(sorted(watched.counter.counts.items())),
        check=failure.check if isinstance(failure, SimulationFailed) else "",
        trace=tuple(lines) if trace or not ok else (),
    )


class _Run:
    """What is gathered while a seed runs; there is a report even of a run that fails."""

    def __init__(self, plan: Plan, trace: Trace) -> None:
        self.plan = plan
        self.trace = trace
        self.counter = Counter()
        self.virtual_seconds = 0.0
        self.proved = False

    async def simulate(self) -> None:
        """The whole run.  Raises whatever went wrong."""
        self.trace.note("plan", str(self.plan))
        async with running_cluster(Shelf, self.plan.settings, trace=self.trace) as cluster:
            self.counter.watch(cluster)
            try:
                await self._trouble_and_proof(cluster)
                cluster.check()
                self.proved = True
            finally:
                self.virtual_seconds = cluster.clock.now()
                self.counter.take_stock(cluster)

    async def _trouble_and_proof(self, cluster: Cluster[Any, Any]) -> None:
        plan = self.plan
        numbers = itertools.count(1)
        bell = trio.lowlevel.ParkingLot()

        def make_worker(name: str) -> Worker:
            draws = divide(plan.seed, "worker", name)
            return Worker(
                cluster.client(name),
                plan.workload,
                clock=cluster.clock,
                random=draws,
                numbers=numbers,
                bell=bell,
                count=self.counter.add,
            )

        workers = [make_worker(f"c{number}") for number in range(1, plan.workload.clients + 1)]
        locals_ = [self._make_local_reader(cluster, member) for member in cluster.ids if plan.workload.local]
        nemesis = Nemesis(cluster, plan, STRIKES, note=lambda what: self.trace.note("kit", what), rush=bell.unpark_all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nemesis.run)
            with cluster.clock.move_on_after(plan.seconds):
                await work([*workers, *locals_])
            nemesis.end()
        for fault, times in nemesis.injected.items():
            self.counter.add(f"fault: {fault}", times)
        self.trace.note("kit", "the time of trouble is over")
        nemesis.calm()
        await heal_and_prove(cluster)
        cluster.invariants.finish()
        self._compare_states(cluster)
        reader = make_worker("reader")
        for key in plan.workload.names:
            await reader.read(key, within=FINAL_READ_SECONDS)
        self._check_history(cluster)

    def _make_local_reader(self, cluster: Cluster[Any, Any], member: str) -> LocalReader:
        return LocalReader(
            cluster.members[member],
            self.plan.workload,
            clock=cluster.clock,
            random=divide(self.plan.seed, "local reader", member),
            history=cluster.history,
            count=self.counter.add,
        )

    def _compare_states(self, cluster: Cluster[Any, Any]) -> None:
        """The same commands, and snapshots of their effect, have led to the same state everywhere."""
        shelves = {node_id: cluster.machines[node_id] for node_id in obliged(cluster)}
        first_id, first = next(iter(shelves.items()))
        for node_id, shelf in shelves.items():
            if shelf != first:
                problem = f"{first_id} and {node_id} have applied the same entries, but their states differ"
                raise SimulationFailed(
                    self.plan.seed, problem, check="All members come to the same state (State Machine Safety, S8)"
                )

    def _check_history(self, cluster: Cluster[Any, Any]) -> None:
        self.trace.note("kit", "the clients' history:\n" + cluster.history.describe())
        verdict = check_linearizable(
            cluster.history, self.plan.workload.model, seconds=math.inf, max_steps=SEARCH_STEPS
        )
        self.counter.add("operations judged", len(cluster.history))
        if not verdict:
            problem = f"the history is {verdict.outcome}: {verdict.explanation}"
            failure = SimulationFailed(self.plan.seed, problem, check=LINEARIZABLE)
            failure.judged = verdict.outcome != "unknown"
            raise failure


def _describe(seed: int, failure: BaseException | None) -> str:
    text = "the run ended before its end" if failure is None else str(failure)
    if not isinstance(failure, SimulationFailed):
        text = f"seed {seed}: {text if failure is None else error_text(failure)}"
    return "\n".join([text, *getattr(failure, "__notes__", ())])
