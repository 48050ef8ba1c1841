"""False elections: terms that begin while every node runs, all cores are busy and the callers never pause.

Beside the cluster under load, one process for each core spins. Nothing fails, so the first term should be the last.
"""

import sys
from contextlib import AsyncExitStack

from .children import BenchmarkFailed, run_child
from .interleaving import Plan, Results, Visit, each_visit, warm_up
from .machine import PROCESSORS, Meter
from .tables import Row

SLICE_SECONDS = 10.0
SPIN = "while True: pass"

COLUMNS = {
    "callers": "{:d}",
    "system": "{}",
    "elections": "{:d}",
    "minutes": "{:.1f}",
    "writes_per_second": "{:,.0f}",
    "worst_ms": "{:,.0f}",
    "spinning": "{:d}",
    "round": "{:d}",
}


async def measure(plan: Plan, results: Results) -> None:
    """One row for each round, system and number of callers."""

    async def visit_all(visit: Visit) -> None:
        await warm_up(visit.cluster, visit.leader, plan.command_bytes)
        async with AsyncExitStack() as spinners:
            for number in range(PROCESSORS):
                log = plan.directory / f"spin{number}.log"
                await spinners.enter_async_context(run_child(f"spin{number}", [sys.executable, "-c", SPIN], log))
            for callers in plan.callers:
                figures = await _watch(visit, callers, plan.minutes * 60, plan.command_bytes)
                visit.note(figures, callers=callers, spinning=PROCESSORS)
                visit.say(f"{callers} callers, {figures['elections']} elections in {figures['minutes']:.1f} minutes")

    await each_visit(plan, results, visit_all)


async def _watch(visit: Visit, callers: int, seconds: float, command_bytes: int) -> Row:
    """Load in slices, each on whoever leads by then; a slice that an election cut short is counted by its term."""
    leader, term = visit.leader, (await visit.cluster.usage(visit.leader))["term"]
    first_term, writes, worst = term, 0, 0.0
    meter = Meter(visit.cluster.processes().values())
    while (elapsed := meter.read().seconds) < seconds:
        try:
            done = await visit.cluster.load(
                leader, callers=callers, seconds=min(SLICE_SECONDS, seconds - elapsed), command_bytes=command_bytes
            )
        except BenchmarkFailed as failure:
            visit.say(f"{failure}")
        else:
            writes, worst = writes + done["writes"], max(worst, done["max_ms"])
        leader = await visit.cluster.leader()
        term = (await visit.cluster.usage(leader))["term"]
    elapsed = meter.read().seconds
    return {
        "elections": term - first_term,
        "minutes": round(elapsed / 60, 2),
        "writes_per_second": round(writes / elapsed, 1),
        "worst_ms": round(worst, 1),
    }
